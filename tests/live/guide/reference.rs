//! Compares the references of the guide with the code: the pages `protocol`, `configuration` and
//! `metrics` list each name that the code has, and no other name.
//!
//! Names that are not in a list of the program are found in the source files. A new name that is
//! written in the same way is found too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use fanfare::config::Config;
use fanfare::config::Namespace;
use fanfare::config::changes::{RELOADABLE, RELOADABLE_LIMITS, RELOADABLE_WITH_FIRST_CERTIFICATES};
use fanfare::guide::page;
use fanfare::warnings::WarningKind;
use toml::{Table, Value};

use crate::support::{Raw, Server};

type Names = BTreeSet<String>;

/// The close codes that the server does not send itself. Ranges have a common meaning for clients.
const CODES_OF_BACKENDS: [&str; 7] = [
    "1011",
    "1013",
    "3000-3999",
    "4000-4099",
    "4100-4199",
    "4200-4299",
    "4300-4999",
];

/// The variables that are not read by their literal name.
const OTHER_VARIABLES: [&str; 6] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NO_COLOR",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Returns the lines of a section, without the sections after it.
fn section(page_name: &str, heading: &str) -> String {
    let text = page(page_name).unwrap().text;
    let heading = format!("\n## {heading}\n");
    let (_, rest) = text
        .split_once(&heading)
        .unwrap_or_else(|| panic!("{page_name} has no section{heading}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// Returns the cells of each row of the tables in a text. The first cell must be in code font.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| {
        let row = row.trim().trim_matches('|').replace("\\|", "\u{0}");
        let cells = row.split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
        cells.collect::<Vec<_>>()
    });
    cells.collect()
}

/// Returns the names in the first column of the tables of a section.
fn listed(page_name: &str, heading: &str) -> Names {
    let mut names = Names::new();
    for row in rows(&section(page_name, heading)) {
        let name = row[0].trim_matches('`').to_owned();
        assert!(names.insert(name), "{heading}: {} is listed twice", row[0]);
    }
    names
}

/// Returns the production code of the source files below a folder of `src`, by path.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    read_sources(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(folder),
        &mut found,
    );
    found
}

fn read_sources(path: &Path, found: &mut BTreeMap<String, String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let is_other = ["tests", "models", "build.rs"]
                .iter()
                .any(|name| path.ends_with(name));
            if !is_other {
                read_sources(&path, found);
            }
        }
    } else if path.extension().is_some_and(|found| found == "rs") && !path.ends_with("tests.rs") {
        let text = fs::read_to_string(path).unwrap();
        found.insert(path.display().to_string(), without_test_modules(&text));
    }
}

/// Removes the modules with the attribute `#[cfg(test)]` from a formatted file. Other items with
/// this attribute stay, and so does the code after them.
fn without_test_modules(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_module = |next: &&str| {
            let words: Vec<&str> = next.split(' ').collect();
            words.first() == Some(&"mod") || words.get(1) == Some(&"mod")
        };
        if line == "#[cfg(test)]"
            && let Some(module) = lines.next_if(is_module)
        {
            if module.ends_with('{') {
                // In a formatted file, the module ends at the first brace without indentation.
                lines.by_ref().find(|line| *line == "}");
            }
            continue;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

#[test]
fn only_test_modules_are_removed_from_the_code() {
    let text = "a\n#[cfg(test)]\nuse b;\n#[cfg(test)]\npub(super) mod c;\nd\n\
        #[cfg(test)]\nmod tests {\n    fn e() {\n    }\n}\nf\n";
    let code = "a\n#[cfg(test)]\nuse b;\nd\nf\n";
    assert_eq!(without_test_modules(text), code);
}

fn all_code(folder: &str) -> String {
    sources(folder).into_values().collect()
}

/// Returns the string literals in a piece of code that are names: lower case, with digits, `_` and
/// `.`.
fn literals(code: &str) -> Names {
    let mut parts = code.split('"');
    let mut found = Names::new();
    parts.next();
    while let Some(literal) = parts.next() {
        let is_name = !literal.is_empty()
            && literal
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b));
        if is_name {
            found.insert(literal.to_owned());
        }
        parts.next();
    }
    found
}

/// Returns the first literal after each occurrence of a mark, if it is in the same statement.
fn literals_after(code: &str, mark: &str) -> Names {
    let rests = code.split(mark).skip(1);
    let statements = rests.map(|rest| rest.split([';', '{', '}']).next().unwrap_or_default());
    let texts = statements.filter_map(|statement| statement.split('"').nth(1));
    texts
        .flat_map(|text| literals(&format!("\"{text}\"")))
        .collect()
}

/// Returns the bodies of the functions whose signature begins with these words.
fn bodies(code: &str, signature: &str) -> String {
    let mut found = String::new();
    for rest in code.split(signature).skip(1) {
        let mut depth = 0;
        for part in rest.split_inclusive(['{', '}']) {
            found.push_str(part);
            depth += if part.ends_with('{') { 1 } else { -1 };
            if depth <= 0 {
                break;
            }
        }
    }
    found
}

#[track_caller]
fn assert_same(what: &str, listed: &Names, in_code: &Names) {
    let missing: Vec<_> = in_code.difference(listed).collect();
    let unknown: Vec<_> = listed.difference(in_code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{what}: not listed: {missing:?}; listed, but not in the code: {unknown:?}"
    );
}

#[test]
fn protocol_lists_each_error_code() {
    let code = all_code("");
    let mut in_code = literals(&bodies(&code, "fn code("));
    let feed = all_code("feed");
    for mark in [
        "error_line(",
        "Status::",
        "unsupported(",
        "MEDIA_TYPE: &str",
    ] {
        in_code.extend(literals_after(&feed, mark));
    }
    assert_same("error codes", &listed("protocol", "Error codes"), &in_code);
}

#[test]
fn protocol_lists_each_message_of_a_websocket() {
    let code = all_code("transport/websocket");
    let to_client = literals_after(&code, "push_message(");
    assert_same(
        "messages to the client",
        &listed("protocol", "Messages to the client"),
        &to_client,
    );
    let arms = code
        .lines()
        .filter(|line| line.trim_start().starts_with("Some(\""));
    let arms = arms.filter(|line| line.contains("=>"));
    let commands = arms.flat_map(literals).collect();
    assert_same(
        "commands",
        &listed("protocol", "Commands of the client"),
        &commands,
    );
}

#[test]
fn protocol_lists_each_close_code_and_gap_cause() {
    let code = all_code("transport/websocket");
    let constants = code.lines().filter_map(|line| {
        let (_, value) = line.split_once(": u16 = ")?;
        Some(value.trim_end_matches(';').to_owned())
    });
    let constants: Names = constants.filter(|value| value.len() == 4).collect();
    // Backends may choose further codes.
    let mut codes = constants;
    codes.extend(CODES_OF_BACKENDS.map(str::to_owned));
    assert_same("close codes", &listed("protocol", "Close codes"), &codes);
    let causes = literals(&bodies(&all_code("hub"), "fn as_str("));
    assert_same("gap causes", &listed("protocol", "Gap causes"), &causes);
}

#[test]
fn protocol_lists_what_feeders_and_consumers_send_and_receive() {
    let keys = literals(&bodies(&all_code("feed/protocol"), "fn from_name("));
    assert_same("keys", &listed("protocol", "Lines from feeders"), &keys);
    let consumer = all_code("feed/backends");
    let mut kinds = literals_after(&consumer, "push_start(");
    for literal in ["subscribed", "unsubscribed", "notices_lost"] {
        assert!(consumer.contains(literal), "{literal} is never sent");
        kinds.insert(literal.to_owned());
    }
    assert_same(
        "lines to consumers",
        &listed("protocol", "Lines to consumers"),
        &kinds,
    );
}

#[test]
fn protocol_lists_events_and_parameters() {
    let code = all_code("transport") + &all_code("frame");
    let events = code.split(|c: char| !c.is_ascii_lowercase() && c != '.');
    let events = events.filter(|word| word.starts_with("fanfare.") && word.len() > 8);
    let events: Names = events
        .filter(|word| !["fanfare.v", "fanfare.token."].contains(word))
        .map(str::to_owned)
        .collect();
    assert_same(
        "events",
        &listed("protocol", "Events of the server"),
        &events,
    );
    let target = all_code("http/target.rs");
    let parameters = target
        .lines()
        .filter(|line| line.contains("name == \"") || line.contains("POSITION_PARAMETERS: "));
    let text: String = parameters.collect();
    let mut parameters: Names = text
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    let feed = bodies(&all_code("feed/protocol/http_publish.rs"), "fn ");
    let keys = literals(&bodies(&all_code("feed/protocol"), "fn from_name("));
    let is_parameter = |key: &String| {
        let variant: String = key
            .split('_')
            .map(|word| word[..1].to_uppercase() + &word[1..])
            .collect();
        feed.contains(&format!("Key::{variant} => "))
            && !feed.contains(&format!("Key::{variant} => return Err"))
    };
    parameters.extend(keys.into_iter().filter(is_parameter));
    assert_same(
        "query parameters",
        &listed("protocol", "Query parameters"),
        &parameters,
    );
}

#[test]
fn protocol_lists_requests_and_answers_of_operators() {
    let code = all_code("operator/request.rs") + &all_code("operator/answer.rs");
    let fields = code.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
        Some(name.to_owned())
    });
    let mut in_code: Names = fields.collect();
    let requests = bodies(&code, "pub enum Request ");
    for line in requests.lines() {
        if let Some((variant, _)) = line.trim().split_once('(') {
            let snake_case = variant.chars().fold(String::new(), |name, c| match c {
                'A'..='Z' if !name.is_empty() => format!("{name}_{}", c.to_ascii_lowercase()),
                _ => format!("{name}{}", c.to_ascii_lowercase()),
            });
            in_code.insert(snake_case);
        }
    }
    let text = section("protocol", "The operator's socket");
    let cells = rows(&text).into_iter().map(|row| row[0].clone());
    let mut listed: Names = cells.flat_map(|cell| quoted(&cell)).collect();
    // The keys of a problem are in one cell.
    let problems = rows(&text).into_iter().find(|row| row[0] == "`problems`");
    let keys = ["unix_ms", "level", "text"].map(str::to_owned);
    let shown = quoted(&problems.unwrap()[1]);
    assert!(keys.iter().all(|key| shown.contains(key)), "{shown:?}");
    listed.extend(keys);
    assert_same("requests and answers of operators", &listed, &in_code);
}

/// Returns the texts in code font.
fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

#[test]
fn protocol_lists_statuses_and_true_limits() {
    let body = bodies(&all_code("http/status.rs"), "fn code(");
    let numbers = body.split(|c: char| !c.is_ascii_digit());
    let mut statuses: Names = numbers
        .filter(|number| number.len() == 3)
        .map(str::to_owned)
        .collect();
    // The interim response is not in the table of final statuses.
    statuses.insert("100".to_owned());
    assert_same("statuses", &listed("protocol", "Status codes"), &statuses);
    let code = all_code("");
    for row in rows(&section("protocol", "Limits")) {
        let name = row[0].trim_matches('`').to_uppercase();
        let value = value_of(&code, &name);
        let value = value.unwrap_or_else(|| panic!("there is no constant {name} with a number"));
        assert_eq!(row[1].parse(), Ok(value), "{name}");
    }
}

/// Returns the value of a constant: a number, another constant, or a product or difference of them.
fn value_of(code: &str, name: &str) -> Option<u64> {
    let constant = match name {
        "REFERENCE_BYTES_MAX" => "pub const BYTES_MAX: ".to_owned(),
        _ => format!("const {name}: "),
    };
    let (_, rest) = code.split_once(&constant)?;
    let (_, value) = rest.split_once('=')?;
    let value = value.split(';').next()?.replace('_', "");
    let words = rest.split_once('=')?.1.split(';').next()?;
    if let Ok(number) = value.trim().parse() {
        return Some(number);
    }
    let operand = |text: &str| {
        let word = text.split_whitespace().next()?;
        let number = word.replace('_', "").parse().ok();
        number.or_else(|| value_of(code, word))
    };
    if let Some((left, right)) = words.split_once('*') {
        return Some(operand(left)? * operand(right)?);
    }
    if let Some((left, right)) = words.split_once('-') {
        return Some(operand(left)? - operand(right)?);
    }
    operand(words)
}

/// Returns the keys of the configuration with their defaults.
fn keys() -> BTreeMap<String, Value> {
    let table = Table::try_from(Config::default()).unwrap();
    let mut keys = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                let section = section.into_iter();
                keys.extend(section.map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            other => drop(keys.insert(name, other)),
        }
    }
    keys.remove("namespace");
    keys
}

/// Returns the keys of a namespace. The error for an unknown key names them.
fn namespace_keys() -> Names {
    let error = toml::from_str::<Namespace>("no_such_key = 1").unwrap_err();
    let message = error.message().to_owned();
    let names = message.split('`').skip(3).step_by(2);
    names.map(|name| format!("namespace.{name}")).collect()
}

#[test]
fn configuration_lists_each_key_with_its_default_and_variable() {
    let text = page("configuration").unwrap().text;
    let keys = keys();
    let mut expected: Names = keys.keys().cloned().collect();
    expected.extend(namespace_keys());
    let mut listed = Names::new();
    for entry in text.split("\n### `").skip(1) {
        let (name, rest) = entry.split_once('`').unwrap();
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
        let facts = rest.lines().find(|line| !line.trim().is_empty());
        let facts = facts.unwrap_or_default();
        assert!(facts.starts_with("Default: "), "{name}: {facts}");
        let unit = facts.split_once(" Unit: ").map(|(_, rest)| rest);
        let unit = unit.and_then(|rest| rest.split('.').next());
        assert!(unit.is_some_and(|unit| !unit.is_empty()), "{name}: {facts}");
        let Some(default) = keys.get(name) else {
            continue;
        };
        let shown = facts.split('`').nth(1).unwrap_or_default();
        let parsed: Table = toml::from_str(&format!("value = {shown}"))
            .unwrap_or_else(|error| panic!("{name}: `{shown}`: {error}"));
        assert_eq!(&parsed["value"], default, "{name}");
        let variable = format!("FANFARE_{}", name.replace('.', "_").to_uppercase());
        assert!(
            facts.contains(&format!("Variable: `{variable}`.")),
            "{name}: {facts}"
        );
    }
    assert_same("keys", &listed, &expected);
}

#[test]
fn configuration_lists_each_key_that_changes_at_a_reload() {
    let section = section("configuration", "How values are found");
    let listed: Names = rows(&section)
        .into_iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let mut in_code: Names = RELOADABLE.map(str::to_owned).into();
    in_code.extend(RELOADABLE_WITH_FIRST_CERTIFICATES.map(str::to_owned));
    in_code.extend(RELOADABLE_LIMITS.map(str::to_owned));
    assert_same("keys that change at a reload", &listed, &in_code);
}

#[test]
fn configuration_lists_each_variable_of_the_environment() {
    let mut code = all_code("");
    let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/generator/src");
    let mut found = BTreeMap::new();
    read_sources(&generator, &mut found);
    code.extend(found.into_values());
    let keys = keys();
    let of_keys: Names = keys
        .keys()
        .map(|key| format!("FANFARE_{}", key.replace('.', "_").to_uppercase()))
        .collect();
    let mut in_code = Names::new();
    for mark in ["env::var(", "env::var_os(", "env = "] {
        for rest in code.split(mark).skip(1) {
            let Some(name) = rest
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next())
            else {
                continue;
            };
            in_code.insert(name.to_owned());
        }
    }
    in_code.retain(|name| !of_keys.contains(name));
    in_code.extend(OTHER_VARIABLES.map(str::to_owned));
    let mut listed = listed("configuration", "Environment variables");
    // The variable of `feed` has a second use.
    listed.remove("FANFARE_FEED");
    in_code.remove("FANFARE_FEED");
    assert_same("variables", &listed, &in_code);
}

#[test]
fn metrics_page_lists_each_metric_with_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[journal]\npath = {:?}\n[deflate]\nenabled = true\n[tls]\nself_signed = true\n\
         [limits]\nconns_per_source = 100\n",
        folder.path().join("journal")
    );
    let server = Server::with(&config, &["--listen", "127.0.0.1:0 tls"]);
    let response = Raw::get(server.admin, "/metrics");
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    for line in response.body_text().lines() {
        let mut words = line.split(' ');
        if words.next() == Some("#") && words.next() == Some("TYPE") {
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            types.insert(name.to_owned(), kind.to_owned());
        }
    }
    let text = section("metrics", "Metrics");
    let mut rows = rows(&text);
    // Other tables of the section list the values of two labels.
    let shown = response.body_text();
    let values = ["{limit=\"", "{reason=\""].map(|mark| shown.split(mark).skip(1));
    let values: Names = values
        .into_iter()
        .flatten()
        .map(|rest| rest.split('"').next().unwrap_or_default().to_owned())
        .collect();
    let is_metric =
        |row: &[String]| row[0].starts_with("`fanfare_") || row[0].starts_with("`process_");
    let of_labels = rows.iter().filter(|row| !is_metric(row));
    let of_labels = of_labels.map(|row| row[0].trim_matches('`').to_owned());
    assert_same("values of labels", &of_labels.collect(), &values);
    rows.retain(|row| is_metric(row));
    let listed: Names = rows
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    assert_eq!(listed.len(), rows.len(), "a metric is listed twice");
    assert_same("metrics", &listed, &types.keys().cloned().collect());
    for row in rows {
        let name = row[0].trim_matches('`');
        assert_eq!(row[1], types[name], "{name}");
    }
}

#[test]
fn operations_page_lists_each_kind_of_warning() {
    let logs = section("operations", "Logs");
    let (_, rest) = logs.split_once("### Warnings\n").unwrap();
    let warnings = rest.split("\n### ").next().unwrap_or_default();
    let listed: Names = rows(warnings)
        .into_iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let kinds = WarningKind::ALL.map(|kind| kind.label().to_owned());
    assert_same("kinds of warnings", &listed, &kinds.into());
}

#[test]
fn protocol_lists_only_header_fields_that_the_code_has() {
    let code = all_code("").to_lowercase();
    for heading in ["Request header fields", "Response header fields"] {
        for name in listed("protocol", heading) {
            assert!(code.contains(&name.to_lowercase()), "{heading}: {name}");
        }
    }
}
