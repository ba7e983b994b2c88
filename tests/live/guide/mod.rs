//! The guide and the README: their examples run as printed, and their references name everything
//! that the code has.

mod page;
mod reference;
mod session;

use std::fs;
use std::process::Command;

use fanfare::guide::PAGES;

use page::{Kind, blocks};
use session::Session;

use crate::support::fanfare;

/// Runs the examples of a page.
fn run(text: &str) {
    Session::new().run(&blocks(text));
}

/// Declares a test for each page, so that the pages run at the same time.
macro_rules! pages {
    ($($test:ident $name:literal)*) => {
        $(
            #[test]
            fn $test() {
                run(fanfare::guide::page($name).unwrap().text);
            }
        )*

        #[test]
        fn each_page_is_run_and_has_an_example() {
            let run = [$($name),*];
            for page in PAGES {
                assert!(run.contains(&page.name), "{} is not run", page.name);
                let mut blocks = blocks(page.text).into_iter();
                let is_for_users = !["benchmarks", "design", "metrics"].contains(&page.name);
                let has_example = blocks.any(|block| {
                    let is_checked = !matches!(block.kind, Kind::Other | Kind::Output);
                    is_checked && !block.is_only_parsed
                });
                assert!(has_example || !is_for_users, "{} has no example", page.name);
            }
        }
    };
}

pages! {
    authorization_page_is_true "authorization"
    backends_page_is_true "backends"
    benchmarks_page_is_true "benchmarks"
    browsers_page_is_true "browsers"
    capacity_page_is_true "capacity"
    configuration_page_is_true "configuration"
    delivery_page_is_true "delivery"
    design_page_is_true "design"
    getting_started_page_is_true "getting-started"
    metrics_page_is_true "metrics"
    namespaces_page_is_true "namespaces"
    operations_page_is_true "operations"
    protocol_page_is_true "protocol"
    proxies_page_is_true "proxies"
    publishing_page_is_true "publishing"
    security_page_is_true "security"
    subscribing_page_is_true "subscribing"
    tls_page_is_true "tls"
    transports_page_is_true "transports"
    troubleshooting_page_is_true "troubleshooting"
}

#[test]
fn help_prints_pages_and_help_texts_and_refuses_other_names() {
    let help = |name: &str| fanfare().args(["help", name]).output().unwrap();
    let printed = |name: &str| {
        let output = help(name);
        assert!(output.status.success(), "{name}");
        String::from_utf8(output.stdout).unwrap()
    };
    let list = printed("topics");
    for page in PAGES {
        assert!(list.contains(page.name), "{list}");
        let text = printed(page.name);
        assert!(text.starts_with(page.title()), "{text}");
        assert!(!text.contains("```") && !text.contains("|---"), "{text}");
        let flag = fanfare().args([page.name, "--help"]).output().unwrap();
        assert_eq!(flag.status.code(), Some(2), "a topic is no command");
    }
    assert!(printed("serve").contains("Usage: fanfare serve"));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    for line in [&["help", "tls"][..], &["--version"], &["--help"]] {
        let mut command = fanfare();
        let ended = command
            .args(line)
            .stdout(full.try_clone().unwrap())
            .status();
        assert_eq!(ended.unwrap().code(), Some(1), "{line:?}");
    }
    let refused = help("no-such-topic");
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("fanfare help topics"), "{message}");
}

#[test]
fn man_pages_have_no_warnings_and_completions_know_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    // An existing link is replaced, not followed.
    let other = folder.path().join("other");
    fs::create_dir_all(path.join("man/man1")).unwrap();
    fs::write(&other, "kept").unwrap();
    std::os::unix::fs::symlink(&other, path.join("man/man1/fanfare.1")).unwrap();
    let generated = fanfare().arg("generate").arg(&path).output().unwrap();
    assert!(generated.status.success());
    assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    let mut names = Vec::new();
    for section in ["man1", "man5", "man7"] {
        for entry in fs::read_dir(path.join("man").join(section)).unwrap() {
            let page = entry.unwrap().path();
            let shown = Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-l"])
                .arg(&page)
                .env("MANWIDTH", "100")
                .env("LC_ALL", "C.UTF-8")
                .output()
                .unwrap_or_else(|error| panic!("man: {error}; run tests/run"));
            let warnings = String::from_utf8_lossy(&shown.stderr);
            assert!(
                shown.status.success() && warnings.is_empty(),
                "{page:?}: {warnings}"
            );
            assert!(shown.stdout.len() > 500, "{page:?}");
            // A hyphen at the end of a line would break a name.
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(!shown.contains('\u{2010}'), "{page:?}");
            names.push(page.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    for name in [
        "fanfare.1",
        "fanfare-serve.1",
        "fanfare.toml.5",
        "fanfare-protocol.7",
    ] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    for (shell, file) in [
        ("bash", "fanfare"),
        ("fish", "fanfare.fish"),
        ("zsh", "_fanfare"),
    ] {
        let path = path.join("completions").join(shell).join(file);
        let text = fs::read_to_string(&path).unwrap();
        for command in ["serve", "publish", "subscribe", "doctor", "help"] {
            assert!(text.contains(command), "{path:?}: {command}");
        }
        if shell == "bash" {
            let loaded = Command::new("bash").arg("-n").arg(&path).status().unwrap();
            assert!(loaded.success());
        }
    }
}

#[test]
fn readme_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    run(&fs::read_to_string(path).unwrap());
}
