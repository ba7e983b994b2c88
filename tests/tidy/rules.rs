//! The house rules. Each rule is a function from a file to its findings.

use crate::source::{GENERATOR, Source, Token, imports, module_of, tokens};

/// The maximum width of a comment line, in columns. Other lines may be wider.
const COMMENT_COLUMNS_MAX: usize = 100;
const COLUMNS_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;
/// The maximum length of a test. Tests may be longer than other functions, because a test may be a
/// table of cases.
const TEST_LINES_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;

/// A violation: its line number, counted from 1, and a message.
pub(crate) type Finding = (usize, String);

/// The layer of a file. Code may use its own layer and the layers above it in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// Basic modules, such as ids, time and JSON. They use only each other.
    Word,
    /// Pure code, which has no I/O and reads no clock. It may use basic modules.
    Pure,
    /// State machines. They may use pure code, but not the shell.
    Machine,
    /// The shell: code that uses sockets, clocks, threads or files. It may use all other layers.
    Shell,
}

const WORDS: &[&str] = &[
    "auth",
    "certain",
    "chunks",
    "context",
    "deflate",
    "effect",
    "guide",
    "id",
    "json",
    "largest",
    "metrics",
    "pattern",
    "proxy",
    "time",
    "traceparent",
    "whole_number",
];
const PURE: &[&str] = &["backend", "frame", "http", "hub", "log", "tls", "transport"];
const SHELL: &[&str] = &[
    "access_log",
    "admin",
    "build",
    "cli",
    "demo",
    "lib",
    "line_queue",
    "logs",
    "main",
    "operator",
    "server",
    "spans",
    "sys",
    "warnings",
    "worker",
];
const TRANSPORTS: &[&str] = &["event_stream", "long_poll", "short_poll", "websocket"];

/// Returns the layer of a file, by its top module. `config`, `feed` and `journal` have both pure
/// files and shell files. The first line of a shell file names its layer.
pub(crate) fn layer(source: &Source) -> Option<Layer> {
    let module = module_of(&source.path);
    let top = module.first().map_or("lib", String::as_str);
    // Files of the load generator are in the shell layer, unless their first line begins with
    // `PURE`.
    if source.path.starts_with(GENERATOR) {
        let is_pure = source.text.starts_with("//! PURE");
        return Some(if is_pure { Layer::Pure } else { Layer::Shell });
    }
    let says_shell = source.text.starts_with("//! SHELL");
    match top {
        "conn" => Some(Layer::Machine),
        "config" if says_shell => Some(Layer::Shell),
        "config" => Some(Layer::Word),
        "feed" | "journal" if says_shell => Some(Layer::Shell),
        "feed" | "journal" => Some(Layer::Pure),
        _ if WORDS.contains(&top) => Some(Layer::Word),
        _ if PURE.contains(&top) => Some(Layer::Pure),
        _ if SHELL.contains(&top) => Some(Layer::Shell),
        _ => says_shell.then_some(Layer::Shell),
    }
}

/// Checks that a file uses only its own layer and more basic ones. The layers from the most basic
/// one on are: basic modules, pure code, state machines, shell.
pub(crate) fn dependencies(source: &Source, all: &[Source]) -> Vec<Finding> {
    let Some(own) = layer(source) else {
        let what = "belongs to no layer: list its module in tests/tidy/rules.rs, or start it with `//! SHELL`";
        return vec![(1, what.to_owned())];
    };
    if own == Layer::Shell {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (line, path) in imports(&source.path, &source.product) {
        let named = path.join("::");
        match target_layer(&path, all) {
            Some(target) if target > own => findings.push((
                line,
                format!("{own:?} code may not use {target:?} code: `{named}`"),
            )),
            _ => {}
        }
    }
    findings
}

/// Returns the layer of the file that a module path leads to; `None` for items of the crate's root.
fn target_layer(path: &[String], all: &[Source]) -> Option<Layer> {
    (1..=path.len().min(3))
        .rev()
        .find_map(|depth| {
            all.iter()
                .find(|file| module_of(&file.path) == path[..depth])
        })
        .and_then(layer)
}

/// Checks that no transport uses another transport, so that each can be deleted alone.
pub(crate) fn transports(source: &Source) -> Vec<Finding> {
    let module = module_of(&source.path);
    let Some(own) = module.get(1).filter(|name| {
        module.first().is_some_and(|top| top == "transport") && TRANSPORTS.contains(&name.as_str())
    }) else {
        return Vec::new();
    };
    imports(&source.path, &source.product)
        .into_iter()
        .filter(|(_, path)| path.first().is_some_and(|top| top == "transport"))
        .filter_map(|(line, path)| path.get(1).map(|name| (line, name.clone())))
        .filter(|(_, name)| name != own && TRANSPORTS.contains(&name.as_str()))
        .map(|(line, name)| (line, format!("transport `{own}` uses transport `{name}`")))
        .collect()
}

/// Files of pure code whose data several threads use. In these files, a lock is held only while a
/// reference is copied or replaced.
const WITH_LOCKS: &[&str] = &[
    "src/frame/publication.rs",
    "src/log/epoch.rs",
    "src/log/shard.rs",
    "src/log/sync.rs",
];

/// Identifiers that only files of the shell layer may use.
const SHELL_WORDS: &[&str] = &[
    "Condvar",
    "Instant",
    "Mutex",
    "RwLock",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "crossbeam_channel",
    "fastrand",
    "getrandom",
    "libc",
    "rustix",
    "socket2",
    "tracing",
];
const SHELL_STD: &[&str] = &["env", "fs", "process", "thread"];

/// Checks that only the shell uses sockets, clocks, threads, files, randomness, locks and logs.
pub(crate) fn shell_only(source: &Source) -> Vec<Finding> {
    if layer(source).is_none_or(|own| own == Layer::Shell) {
        return Vec::new();
    }
    let has_lock = WITH_LOCKS.contains(&source.path.as_str());
    let tokens = tokens(&source.product);
    let mut findings: Vec<Finding> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| SHELL_WORDS.contains(&token.text))
        .filter(|(_, token)| !(has_lock && ["Mutex", "RwLock"].contains(&token.text)))
        // The configuration has a section with the name of the crate.
        .filter(|(at, token)| token.text != "tracing" || begins_path(&tokens, *at))
        .map(|(_, token)| (token.line, format!("`{}` outside the shell", token.text)))
        .collect();
    for (at, token) in tokens.iter().enumerate() {
        // A time may be passed as data, but only the shell may read the clock.
        if token.text == "SystemTime" && second_segments(&tokens[at..]) == ["now"] {
            findings.push((token.line, "`SystemTime::now` outside the shell".to_owned()));
        }
        if token.text == "std"
            && let Some(name) = second_segments(&tokens[at..])
                .into_iter()
                .find(|name| SHELL_STD.contains(name))
        {
            findings.push((token.line, format!("`std::{name}` outside the shell")));
        }
    }
    findings
}

/// Whether a path begins with this token.
fn begins_path(tokens: &[Token<'_>], at: usize) -> bool {
    let is_first = at == 0 || tokens[at - 1].text != ":";
    is_first && !second_segments(&tokens[at..]).is_empty()
}

/// Checks that only one file of `doctor`, `tree.rs`, reads the host. It reads below a folder that
/// is passed to it. `doctor` asks the system nothing else, so a folder with the recorded files of a
/// host gives the same result as that host.
pub(crate) fn doctor_files(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/cli/doctor/") || source.path.ends_with("/tree.rs") {
        return Vec::new();
    }
    let tokens = tokens(&source.product);
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_system = ["libc", "rustix"].contains(&token.text);
        let is_std = token.text == "std"
            && second_segments(&tokens[at..])
                .iter()
                .any(|name| SHELL_STD.contains(name));
        if is_system || is_std {
            findings.push((token.line, "asks the system past doctor's tree".to_owned()));
        }
    }
    findings
}

/// Returns the second segments of an import: `a` of `std::a::b`; `a` and `c` of `std::{a::b, c}`.
fn second_segments<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    if text(1) != ":" || text(2) != ":" {
        return Vec::new();
    }
    if text(3) != "{" {
        return vec![text(3)];
    }
    let mut depth = 0;
    let mut names = Vec::new();
    for at in 3..tokens.len() {
        match text(at) {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            name if depth == 1 && matches!(text(at - 1), "{" | ",") => names.push(name),
            _ => {}
        }
    }
    names
}

/// Checks that mio, an implementation detail, is used only by one file of the worker and by the
/// feed's shell.
pub(crate) fn mio_contained(source: &Source) -> Vec<Finding> {
    let is_feed_shell = source.path.starts_with("src/feed/") && layer(source) == Some(Layer::Shell);
    if source.path == "src/worker/wire/kernel.rs" || is_feed_shell {
        return Vec::new();
    }
    words_of(
        &source.code,
        &["mio"],
        "outside worker/wire/kernel.rs and the feed's shell",
    )
}

/// Checks that each crate has unsafe code in only one place.
pub(crate) fn unsafe_contained(source: &Source) -> Vec<Finding> {
    let is_sys = source.path.strip_prefix(GENERATOR) == Some("sys.rs");
    if source.path.starts_with("src/sys/") || is_sys {
        return Vec::new();
    }
    words_of(
        &source.code,
        &["unsafe"],
        "outside src/sys and the generator's sys.rs",
    )
}

/// Checks that the load generator is independent of the server: the generator must not use the
/// server's library, and only the command line in the server's package may use the generator.
pub(crate) fn generator_apart(source: &Source) -> Vec<Finding> {
    if source.path.starts_with(GENERATOR) {
        return words_of(&source.code, &["fanfare"], "in the generator");
    }
    if source.path.starts_with("src/cli/") {
        return Vec::new();
    }
    words_of(&source.code, &["fanfare_generator"], "outside src/cli")
}

fn words_of(view: &str, words: &[&str], what: &str) -> Vec<Finding> {
    tokens(view)
        .into_iter()
        .filter(|token| words.contains(&token.text))
        .map(|token| (token.line, format!("`{}` {what}", token.text)))
        .collect()
}

/// Checks that an error prints its cause once. If the text contains the cause, the error must have
/// no `source`: a program that prints the chain of sources would print the cause again
/// (C-GOOD-ERR). A transparent error forwards both its text and its source.
pub(crate) fn causes_once(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_transparent = false;
    let mut is_error = false;
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[error(") {
            is_error = true;
            is_transparent = line.starts_with("#[error(transparent)]");
        } else if line == "}" {
            is_error = false;
        }
        let has_from = ["#[from]", "#[source]"]
            .iter()
            .any(|mark| line.contains(mark));
        let has_field = is_error && line.contains("source: ") && !line.starts_with("//");
        if !is_transparent && (has_from && is_error || has_field) {
            let message = "the cause is in the text and a source: name the field `error`, or be \
                           transparent";
            findings.push((index + 1, message.to_owned()));
        }
    }
    findings
}

/// Words that must not occur in identifiers, each with the word of the design that replaces it.
const SYNONYMS: &[(&str, &str)] = &[
    ("broker", "hub"),
    ("ingest", "feed"),
    ("packet", "frame"),
    ("reactor", "worker"),
    ("session", "conn"),
    ("topic", "channel"),
    ("watermark", "quota"),
];

/// Identifiers of other crates. They may contain words of `SYNONYMS`.
const NAMES_OF_OTHERS: &[&str] = &[
    "NoServerSessionStorage",
    "process_new_packets",
    "session_storage",
];

/// Checks that the code has only one word for each thing: no name may contain a synonym of that
/// word. The files of `fanfare subscribe` are exempt, because clients have other terms.
pub(crate) fn synonyms(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/cli/subscribe/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for token in tokens(&source.code) {
        if NAMES_OF_OTHERS.contains(&token.text) {
            continue;
        }
        for word in words_in(token.text) {
            let singular = word.strip_suffix('s').unwrap_or(&word);
            if let Some((_, ours)) = SYNONYMS
                .iter()
                .find(|(other, _)| *other == singular || *other == word)
            {
                let text = token.text;
                findings.push((
                    token.line,
                    format!("`{text}` says {word}; the word is {ours}"),
                ));
            }
        }
    }
    findings
}

/// Splits a snake case or camel case identifier into its words, in lower case.
fn words_in(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in identifier.chars() {
        let starts_word = c == '_'
            || (c.is_uppercase()
                && words
                    .last()
                    .is_some_and(|w| w.ends_with(char::is_lowercase)));
        if starts_word {
            words.push(String::new());
        }
        if let Some(last) = words.last_mut().filter(|_| c != '_') {
            // The case is needed to find the next word, so words are lower-cased at the end.
            last.push(c);
        }
    }
    words.into_iter().map(|word| word.to_lowercase()).collect()
}

/// Checks that folders and files are named after their content.
pub(crate) fn module_names(source: &Source) -> Vec<Finding> {
    const BANNED: &[&str] = &[
        "common", "helper", "helpers", "misc", "part2", "util", "utils",
    ];
    module_of(&source.path)
        .iter()
        .filter(|name| BANNED.contains(&name.as_str()))
        .map(|name| {
            (
                1,
                format!("a module called `{name}` says nothing of what it holds"),
            )
        })
        .collect()
}

/// Checks that each file starts with a description.
pub(crate) fn file_doc(source: &Source) -> Vec<Finding> {
    let first = source.text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") || first.starts_with("#!") {
        return Vec::new();
    }
    vec![(1, "a file starts with `//! ` and what it is".to_owned())]
}

/// Checks that lines fit on a screen, except in the tables of metrics.
pub(crate) fn line_widths(source: &Source) -> Vec<Finding> {
    if source.path == "src/metrics/mod.rs" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, (line, comment)) in source.text.lines().zip(source.comments.lines()).enumerate() {
        let columns = line.chars().count();
        let bound = if comment.trim().is_empty() {
            COLUMNS_MAX
        } else {
            COMMENT_COLUMNS_MAX
        };
        if columns > bound {
            findings.push((index + 1, format!("{columns} columns, at most {bound}")));
        }
    }
    findings
}

/// Checks that functions fit on one or two screens.
pub(crate) fn function_lengths(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let product: Vec<&str> = source.product.lines().collect();
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for (at, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.text == "fn")
    {
        let Some((name, last)) = function_end(&tokens, at) else {
            continue;
        };
        let is_product = product[token.line - 1].contains("fn");
        let bound = if is_product {
            FUNCTION_LINES_MAX
        } else {
            TEST_LINES_MAX
        };
        // A function that is one big table may be longer. It has an attribute for `too_many_lines`.
        let attributes = &lines[token.line.saturating_sub(8)..token.line];
        let is_table = attributes
            .iter()
            .any(|line| line.contains("clippy::too_many_lines"));
        let length = last - token.line + 1;
        if length > bound && !is_table {
            let what = format!("function `{name}` has {length} lines, at most {bound}");
            findings.push((token.line, what));
        }
    }
    findings
}

/// Returns the name and the last line of the function whose `fn` is at this index. Returns `None`
/// for a type or a declaration without a body.
fn function_end<'a>(tokens: &[Token<'a>], at: usize) -> Option<(&'a str, usize)> {
    let name = tokens.get(at + 1)?.text;
    if name == "(" {
        return None;
    }
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            ";" if depth == 0 => return None,
            "{" if depth == 0 => {
                let end = crate::source::item_end(tokens, index)?;
                return Some((name, tokens[end].line));
            }
            _ => {}
        }
    }
    None
}

/// Checks that files are short enough for one concept.
pub(crate) fn file_lengths(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![(lines, format!("{lines} lines, at most {FILE_LINES_MAX}"))]
}

/// Checks that every test runs and is named after a behaviour.
pub(crate) fn tests_run(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        if token.text == "#" && text(1) == "[" && text(2) == "ignore" {
            findings.push((token.line, "a test that does not run is no test".to_owned()));
        }
        if token.text == "fn" && text(1).starts_with("test_") {
            findings.push((
                token.line,
                format!("`{}`: name the behaviour instead", text(1)),
            ));
        }
    }
    findings
}

/// Checks a text file: no tab, no trailing space, a line end at the end, no open task.
pub(crate) fn text_form(path: &str, text: &str) -> Vec<Finding> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut findings = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if line.contains('\t') {
            findings.push((index + 1, "a tab".to_owned()));
        }
        if line.ends_with([' ', '\r']) {
            findings.push((index + 1, "a space at the end".to_owned()));
        }
        for mark in marks {
            let is_word = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == mark);
            if is_word {
                findings.push((index + 1, format!("`{mark}`: do it or say why not")));
            }
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push((
            text.lines().count(),
            format!("{path} does not end with a line end"),
        ));
    }
    findings
}

/// Returns the paths in a Markdown text: link targets, and code spans that start with a top folder.
pub(crate) fn named_paths(text: &str) -> Vec<(usize, String)> {
    const TOPS: &[&str] = &["src/", "tests/", "benches/", "tuning/", "systemd/", ".ci/"];
    let mut found = Vec::new();
    let mut is_fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced {
            continue;
        }
        let links = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        found.extend(
            links
                .filter(|target| !target.contains("://") && !target.starts_with('#'))
                .map(|target| {
                    (
                        index + 1,
                        target.split('#').next().unwrap_or(target).to_owned(),
                    )
                }),
        );
        let spans = line.split('`').skip(1).step_by(2);
        found.extend(
            spans
                .filter_map(|span| span.split_whitespace().next())
                .filter(|span| TOPS.iter().any(|top| span.starts_with(top)))
                .filter(|span| !span.contains(['*', '<', '{', '…']))
                .map(|span| (index + 1, span.to_owned())),
        );
    }
    found
}
