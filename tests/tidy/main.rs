//! The house rules as tests: dependencies, names, and the form of files.
//!
//! `rules.rs` and `words.rs` contain the rules. The tests here apply the rules to all files of the
//! package. They also apply each rule to samples that break it, so a rule that finds nothing fails,
//! too.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod rules;
mod source;
mod words;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rules::Finding;
use source::{GENERATOR, Source, is_cfg_test, item_end, module_of, tokens};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Collects all files of this project below a folder, as paths from the root.
fn files_below(folder: &str, found: &mut Vec<String>) {
    const EXCLUDED: &[&str] = &[
        "tests/.deps",
        "tests/golden",
        "tests/corpus",
        "tests/fuzz/artifacts",
        "tests/fuzz/corpus",
        "tests/hosts",
        "benches/load/node_modules",
        "benches/load/out",
        "benches/load/venv",
    ];
    if EXCLUDED.contains(&folder) || folder.ends_with("/target") || folder.ends_with("/__pycache__")
    {
        return;
    }
    let Ok(entries) = fs::read_dir(root().join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Returns all text files of this project.
fn texts() -> Vec<(String, String)> {
    let mut paths: Vec<String> = [
        "README.md",
        "CHANGELOG.md",
        "Cargo.toml",
        "deny.toml",
        ".gitignore",
        ".ci/run",
    ]
    .map(str::to_owned)
    .into();
    for folder in ["src", "tests", "benches", "tuning", "systemd"] {
        files_below(folder, &mut paths);
    }
    paths.sort();
    paths
        .into_iter()
        .filter(|path| {
            !path.ends_with("package-lock.json") && !path.ends_with(".proptest-regressions")
        })
        .filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
        .collect()
}

/// Returns all Rust files of this project below these folders, parsed once for all rules.
fn sources(folders: &[&str]) -> Vec<Source> {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    let take_apart = || {
        let texts = texts();
        let rust = texts.iter().filter(|(path, _)| path.ends_with(".rs"));
        rust.map(|(path, text)| Source::new(path, text)).collect()
    };
    ALL.get_or_init(take_apart)
        .iter()
        .filter(|source| folders.iter().any(|top| source.path.starts_with(top)))
        .cloned()
        .collect()
}

/// Returns the files of a crate without modules that `#[cfg(test)] mod x;` declares.
fn product_sources(root: &str) -> Vec<Source> {
    let all = sources(&[root]);
    let mut test_modules = Vec::new();
    for source in &all {
        let tokens = tokens(&source.code);
        for start in (0..tokens.len()).filter(|at| is_cfg_test(&tokens[*at..])) {
            let Some(end) = item_end(&tokens, start).filter(|end| tokens[*end].text == ";") else {
                continue;
            };
            if end >= 2 && tokens[end - 2].text == "mod" {
                let mut module = module_of(&source.path);
                module.push(tokens[end - 1].text.to_owned());
                test_modules.push(module);
            }
        }
    }
    all.into_iter()
        .filter(|source| {
            !test_modules
                .iter()
                .any(|test| module_of(&source.path).starts_with(test))
        })
        .collect()
}

fn report(findings: impl IntoIterator<Item = (String, Vec<Finding>)>) {
    let mut text = String::new();
    for (path, findings) in findings {
        for (line, what) in findings {
            writeln!(text, "{path}:{line}: {what}").unwrap();
        }
    }
    assert!(text.is_empty(), "house rules are broken:\n{text}");
}

fn check(sources: &[Source], rule: impl Fn(&Source) -> Vec<Finding>) {
    assert!(!sources.is_empty(), "no file to check");
    report(
        sources
            .iter()
            .map(|source| (source.path.clone(), rule(source))),
    );
}

/// Checks that a sample breaks the rule on this line and on no other.
fn breaks(path: &str, text: &str, line: usize, rule: impl Fn(&Source) -> Vec<Finding>) {
    let found = rule(&Source::new(path, text));
    assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
    assert_eq!(found[0].0, line, "{path}: {text}: {found:?}");
}

fn keeps(path: &str, text: &str, rule: impl Fn(&Source) -> Vec<Finding>) {
    let found = rule(&Source::new(path, text));
    assert!(found.is_empty(), "{path}: {text}: {found:?}");
}

#[test]
fn dependencies_point_inward() {
    for root in ["src/", GENERATOR] {
        let all = product_sources(root);
        check(&all, |source| rules::dependencies(source, &all));
    }
    let others: Vec<Source> = [
        ("src/conn/mod.rs", ""),
        ("src/hub/mod.rs", ""),
        ("src/worker/mod.rs", ""),
        ("src/config/mod.rs", ""),
        ("src/config/file.rs", "//! SHELL: reads.\n"),
    ]
    .map(|(path, text)| Source::new(path, text))
    .into();
    let rule = |source: &Source| rules::dependencies(source, &others);
    breaks(
        "src/hub/log.rs",
        "use a;\nuse crate::conn::Conn;\n",
        2,
        rule,
    );
    breaks(
        "src/hub/log.rs",
        "use crate::{id, worker::{Inbox}};\n",
        1,
        rule,
    );
    breaks("src/id.rs", "fn a() { crate::hub::b() }\n", 1, rule);
    breaks("src/conn/phase.rs", "use super::super::worker;\n", 1, rule);
    breaks(
        "src/http/head.rs",
        "use crate::config::file::read;\n",
        1,
        rule,
    );
    breaks("src/novel.rs", "//! New.\n", 1, rule);
    keeps(
        "src/conn/phase.rs",
        "use crate::{hub::Log, config::Config};\n",
        rule,
    );
    keeps("src/worker/read.rs", "use crate::conn::Conn;\n", rule);
    keeps(
        "src/hub/log.rs",
        "#[cfg(test)]\nmod tests { use crate::conn; }\n",
        rule,
    );
    let others = [Source::new(
        "benches/generator/src/pace.rs",
        "//! SHELL: a.\n",
    )];
    breaks(
        "benches/generator/src/a.rs",
        "//! PURE: a.\nuse super::pace::Churn;\n",
        2,
        |source: &Source| rules::dependencies(source, &others),
    );
}

#[test]
fn transports_do_not_use_each_other() {
    check(&product_sources("src/"), rules::transports);
    let rule = rules::transports;
    breaks(
        "src/transport/websocket.rs",
        "use super::event_stream::X;\n",
        1,
        rule,
    );
    breaks(
        "src/transport/websocket/a.rs",
        "use crate::transport::{long_poll};\n",
        1,
        rule,
    );
    keeps(
        "src/transport/websocket/a.rs",
        "use crate::transport::websocket::b;\n",
        rule,
    );
    keeps(
        "src/transport/mod.rs",
        "use self::{event_stream, websocket};\n",
        rule,
    );
}

#[test]
fn only_the_shell_uses_the_system() {
    check(&product_sources("src/"), rules::shell_only);
    check(&product_sources(GENERATOR), rules::shell_only);
    let rule = rules::shell_only;
    breaks(
        "src/hub/a.rs",
        "use std::time::{Duration, Instant};\n",
        1,
        rule,
    );
    breaks("src/hub/a.rs", "use std::{fmt, thread::spawn};\n", 1, rule);
    breaks("src/conn/a.rs", "let x = std::env::var(y);\n", 1, rule);
    breaks(
        "src/feed/protocol/decode.rs",
        "\nuse std::sync::Mutex;\n",
        2,
        rule,
    );
    breaks("src/http/a.rs", "tracing::info!(x);\n", 1, rule);
    breaks("src/http/a.rs", "use tracing::{info};\n", 1, rule);
    keeps(
        "src/http/a.rs",
        "mod tracing;\nuse self::tracing::X;\nfn x() { config.tracing.on() }\n",
        rule,
    );
    breaks("src/http/a.rs", "let x = SystemTime::now();\n", 1, rule);
    breaks(
        "benches/generator/src/a.rs",
        "//! PURE: a.\nuse std::fs;\n",
        2,
        rule,
    );
    keeps(
        "benches/generator/src/a.rs",
        "//! SHELL: a.\nuse std::fs;\n",
        rule,
    );
    keeps("src/http/a.rs", "fn date(now: SystemTime) {}\n", rule);
    keeps("src/feed/mod.rs", "//! SHELL: a.\nuse std::fs;\n", rule);
    keeps(
        "src/hub/a.rs",
        "use std::{fmt, time::Duration}; // Mutex\n",
        rule,
    );
    keeps(
        "src/hub/a.rs",
        "#[cfg(test)]\nmod tests { use std::fs; }\n",
        rule,
    );
}

#[test]
fn doctor_reads_files_in_one_module() {
    check(&product_sources("src/"), rules::doctor_files);
    let rule = rules::doctor_files;
    breaks("src/cli/doctor/facts.rs", "use std::fs;\n", 1, rule);
    breaks(
        "src/cli/doctor/report.rs",
        "use std::{fmt, env};\n",
        1,
        rule,
    );
    breaks(
        "src/cli/doctor/a.rs",
        "rustix::process::getuid();\n",
        1,
        rule,
    );
    keeps("src/cli/doctor/tree.rs", "use std::fs;\n", rule);
    keeps("src/cli/check.rs", "use std::fs;\n", rule);
}

#[test]
fn mio_is_used_in_the_loops_only() {
    check(&sources(&["src/", GENERATOR]), rules::mio_contained);
    breaks(
        "src/worker/readiness.rs",
        "use mio::Poll;\n",
        1,
        rules::mio_contained,
    );
    keeps(
        "src/worker/wire/kernel.rs",
        "use mio::Poll;\n",
        rules::mio_contained,
    );
    keeps(
        "src/feed/mod.rs",
        "//! SHELL: a.\nuse mio::Poll;\n",
        rules::mio_contained,
    );
}

#[test]
fn errors_print_their_cause_once() {
    check(&product_sources("src/"), rules::causes_once);
    check(&product_sources(GENERATOR), rules::causes_once);
    let sample = |attribute: &str, variant: &str| format!("#[error({attribute})]\n{variant}\n}}\n");
    for (attribute, variant) in [
        ("\"a: {0}\"", "A(#[from] B),"),
        ("\"a: {0}\"", "A(#[source] B),"),
        ("\"a: {source}\"", "A { source: B },"),
    ] {
        let path = "src/feed/protocol/fields.rs";
        breaks(path, &sample(attribute, variant), 2, rules::causes_once);
    }
    for (attribute, variant) in [("transparent", "A(#[from] B),"), ("\"a: {0}\"", "A(B),")] {
        let path = "src/feed/protocol/fields.rs";
        keeps(path, &sample(attribute, variant), rules::causes_once);
    }
}

#[test]
fn unsafe_code_is_in_one_place_of_each_crate() {
    check(&sources(&["src/", GENERATOR]), rules::unsafe_contained);
    breaks(
        "src/worker/readiness.rs",
        "unsafe { a() }\n",
        1,
        rules::unsafe_contained,
    );
    keeps(
        "src/worker/readiness.rs",
        "#![deny(unsafe_code)] // unsafe\n",
        rules::unsafe_contained,
    );
    keeps("src/sys/fd.rs", "unsafe { a() }\n", rules::unsafe_contained);
    let generator = |name: &str| format!("{GENERATOR}{name}");
    let rule = rules::unsafe_contained;
    keeps(&generator("sys.rs"), "unsafe { a() }\n", rule);
    breaks(&generator("plan.rs"), "unsafe { a() }\n", 1, rule);
}

#[test]
fn server_and_generator_do_not_use_each_other() {
    check(&sources(&["src/", GENERATOR]), rules::generator_apart);
    let rule = rules::generator_apart;
    breaks(
        "src/worker/read.rs",
        "use fanfare_generator::run;\n",
        1,
        rule,
    );
    breaks("src/main.rs", "fanfare_generator::run();\n", 1, rule);
    breaks(
        "benches/generator/src/plan.rs",
        "use fanfare::id::Cursor;\n",
        1,
        rule,
    );
    keeps("src/cli/bench.rs", "use fanfare_generator::run;\n", rule);
    keeps(
        "benches/generator/src/lib.rs",
        "//! fanfare: \"fanfare\"\n",
        rule,
    );
}

#[test]
fn identifiers_use_no_synonyms() {
    check(&sources(&["src/", GENERATOR]), rules::synonyms);
    breaks("src/hub/a.rs", "struct TopicTree;\n", 1, rules::synonyms);
    breaks(
        "src/hub/a.rs",
        "let open_sessions = 1;\n",
        1,
        rules::synonyms,
    );
    keeps(
        "src/hub/a.rs",
        "let sticky = \"topic\"; // session\n",
        rules::synonyms,
    );
}

#[test]
fn modules_are_named_for_what_they_hold() {
    check(&sources(&["src/", GENERATOR]), rules::module_names);
    breaks("src/util.rs", "", 1, rules::module_names);
    breaks("src/hub/helpers/mod.rs", "", 1, rules::module_names);
}

#[test]
fn files_start_with_a_description() {
    check(&sources(&["src/", "tests/", "benches/"]), rules::file_doc);
    breaks("src/a.rs", "use b;\n", 1, rules::file_doc);
}

#[test]
fn files_functions_and_lines_fit_a_reader() {
    let all = sources(&["src/", "tests/", "benches/"]);
    check(&all, rules::file_lengths);
    check(&all, rules::function_lengths);
    check(&all, rules::line_widths);
    let body = "    a();\n".repeat(69);
    let long = format!("struct A;\nfn a(f: fn(u8) -> u8) -> [u8; 2] {{\n{body}}}\n");
    breaks("src/a.rs", &long, 2, rules::function_lengths);
    let table = format!(
        "#[expect(clippy::too_many_lines, reason = \"a table\")]\n{}",
        &long[10..]
    );
    keeps("src/a.rs", &table, rules::function_lengths);
    keeps(
        "src/a.rs",
        &long.replacen("    a();\n", "", 1),
        rules::function_lengths,
    );
    let test = |count: usize| {
        format!(
            "#[cfg(test)]\nfn a() {{\n{}}}\n",
            "    a();\n".repeat(count)
        )
    };
    keeps("src/a.rs", &test(98), rules::function_lengths);
    breaks("src/a.rs", &test(99), 2, rules::function_lengths);
    breaks("src/a.rs", &"a\n".repeat(801), 801, rules::file_lengths);
    breaks(
        "src/a.rs",
        &format!("a\n// {}\n", "x".repeat(98)),
        2,
        rules::line_widths,
    );
    breaks(
        "src/a.rs",
        &format!("let a = \"{}\";\n", "x".repeat(111)),
        1,
        rules::line_widths,
    );
    keeps(
        "src/a.rs",
        &format!("// {}\n{}\n", "x".repeat(97), "x".repeat(120)),
        rules::line_widths,
    );
}

#[test]
fn every_test_runs_and_names_a_behaviour() {
    check(&sources(&["src/", "tests/", "benches/"]), rules::tests_run);
    breaks(
        "src/a.rs",
        "#[test]\n#[ignore]\nfn a_does_b() {}\n",
        2,
        rules::tests_run,
    );
    breaks("src/a.rs", "#[test]\nfn test_a() {}\n", 2, rules::tests_run);
}

#[test]
fn text_files_are_clean_and_have_no_open_tasks() {
    report(texts().into_iter().map(|(path, text)| {
        let findings = rules::text_form(&path, &text);
        (path, findings)
    }));
    let put_off = format!("// {}: later\n", concat!("TO", "DO"));
    for bad in ["a\tb\n", "a \n", "a\r\n", "a", &put_off] {
        assert_eq!(rules::text_form("a", bad).len(), 1, "{bad:?}");
    }
}

#[test]
fn texts_have_no_forbidden_word() {
    let texts = texts();
    report(texts.into_iter().map(|(path, text)| {
        let findings = words::forbidden(&path, &text);
        (path, findings)
    }));
}

/// A Python program that parses a Python script without running it.
const PARSES_PYTHON: &str = "import ast, sys; ast.parse(open(sys.argv[1]).read())";

/// Parses a script with its interpreter, without running it. Returns the error, if any.
fn script_fault(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let (program, arguments): (&str, &[&str]) = match path.extension().and_then(|e| e.to_str()) {
        Some("bash") => ("bash", &["-n"]),
        None if text.starts_with("#!/usr/bin/env bash\n") => ("bash", &["-n"]),
        Some("js" | "mjs") => ("node", &["--check"]),
        Some("py") => ("python3", &["-c", PARSES_PYTHON]),
        None if text.starts_with("#!/usr/bin/env python3\n") => ("python3", &["-c", PARSES_PYTHON]),
        Some("xml") => (
            "python3",
            &[
                "-c",
                "import sys, xml.sax as x; x.parse(sys.argv[1], x.ContentHandler())",
            ],
        ),
        _ => return None,
    };
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: see tests/run"));
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn scripts_are_accepted_by_their_interpreters() {
    let texts = texts();
    let scripts = texts
        .iter()
        .filter(|(path, _)| path.starts_with("benches/") || path.starts_with("tests/"));
    report(scripts.filter_map(|(path, _)| {
        let fault = script_fault(&root().join(path))?;
        Some((path.clone(), vec![(1, fault)]))
    }));
    let folder = tempfile::tempdir().unwrap();
    let bash = "#!/usr/bin/env bash\nif true\n";
    for (name, text) in [
        ("a", bash),
        ("b.bash", "fi\n"),
        ("c.mjs", "}"),
        ("d.py", "if\n"),
        ("e.xml", "<a>"),
        ("f", "#!/usr/bin/env python3\nif\n"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        assert!(script_fault(&path).is_some(), "{name}");
    }
}

#[test]
fn every_recipe_is_in_their_table() {
    let readme = fs::read_to_string(root().join("benches/load/recipes/README.md")).unwrap();
    let texts = texts();
    let recipes = texts
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("benches/load/recipes/"));
    let missing: Vec<&str> = recipes
        .filter(|name| !readme.contains(name) && *name != "README.md")
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn paths_in_the_readme_and_the_guide_exist() {
    let exists =
        |path: &str| root().join(path).exists() || root().join("src/guide").join(path).exists();
    let is_page = |name: &str| name == "README.md" || name.starts_with("src/guide/");
    let pages = texts().into_iter();
    let pages = pages.filter(|(name, _)| is_page(name) && name.ends_with(".md"));
    report(pages.map(|(name, text)| {
        let paths = rules::named_paths(&text).into_iter();
        let missing = paths.filter(|(_, path)| !exists(path));
        let missing = missing.map(|(line, path)| (line, format!("`{path}` does not exist")));
        (name, missing.collect::<Vec<_>>())
    }));
    let named = rules::named_paths(
        "[a](src/x.rs#l) `tests/run -x` `target/x`\n```\n[b](c)\n```\n[d](a://b)\n",
    );
    let expected = [(1, "src/x.rs"), (1, "tests/run")];
    assert_eq!(named, expected.map(|(line, path)| (line, path.to_owned())));
}
