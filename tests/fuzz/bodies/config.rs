//! Checks the parser of configuration files.
//!
//! The configuration of an accepted file is valid. Printed as TOML or passed in environment
//! variables, it reads back the same. Keys are reported as changed if and only if the configuration
//! differs from the default. The error for a refused file has a line for each problem.

use std::collections::BTreeSet;

use fanfare::config::file::{ConfigError, Origin, Overrides, load, parse};
use fanfare::config::{Config, Namespace};
use toml::{Table, Value};

const NAME: &str = "fanfare.toml";

/// Runs the target on an input: the text of a file.
pub fn attack(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match parse(text, NAME) {
        Ok(config) => {
            assert_eq!(config.validate(), Ok(()));
            check_printed(&config);
            let changed = Config::default().changed_keys(&config).unwrap();
            assert_eq!(changed.is_empty(), config == Config::default());
            check_variables(&config);
            check_bounds(&config);
        }
        Err(ConfigError::Invalid(problems)) => {
            assert!(!problems.is_empty(), "refused without a problem");
            let lines = text.matches('\n').count() + 1;
            // A value can contain a line break if the file has an escape or a multi-line string.
            // The error message shows such a line break unchanged.
            let is_odd = ["\\", "\"\"\"", "'''"]
                .iter()
                .any(|mark| text.contains(mark));
            for problem in problems {
                let shown = problem.to_string();
                assert!(is_odd || !shown.contains('\n'), "{shown:?}");
                if let Origin::File { name, line } = problem.origin {
                    assert_eq!(name, NAME);
                    assert!((1..=lines).contains(&line), "{shown} of {lines} lines");
                }
            }
        }
        Err(error @ ConfigError::Read { .. }) => panic!("no file is read: {error}"),
    }
}

fn check_printed(config: &Config) {
    let printed = toml::to_string(config).expect("a configuration is TOML");
    let again = parse(&printed, NAME).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(again, *config, "{printed}");
}

/// Checks that every key except those of namespaces has an environment variable.
fn check_variables(config: &Config) {
    let flat = Config {
        namespace: Vec::new(),
        ..config.clone()
    };
    let table = Table::try_from(&flat).expect("a configuration is a table");
    let mut variables = Vec::new();
    for (key, value) in &table {
        match value {
            Value::Table(section) => {
                for (name, value) in section {
                    variables.push((format!("{key}_{name}"), print(value)));
                }
            }
            value => variables.push((key.clone(), print(value))),
        }
    }
    let variables = variables.into_iter().map(|(name, value)| {
        let name = format!("FANFARE_{}", name.to_ascii_uppercase());
        (name, value)
    });
    let loaded = load(None, variables, &Overrides::default());
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config, flat);
    assert_eq!(loaded.warnings, [""; 0]);
}

fn print(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(print).collect();
            items.join(",")
        }
        other => other.to_string(),
    }
}

/// Checks the bounds on which the rest of the server relies.
fn check_bounds(config: &Config) {
    let Config {
        limits, quota, log, ..
    } = config;
    assert!(!config.listen.is_empty());
    assert!(config.feed_mode_bits().is_some());
    assert!(limits.request_head_bytes >= 256 && limits.request_head_bytes <= 65_536);
    assert!(quota.behind_bytes <= log.bytes && quota.behind_publications > 0);
    assert!(u64::from(limits.feed_line_bytes) <= log.bytes);
    let patterns: BTreeSet<&str> = config
        .namespace
        .iter()
        .map(|n| n.pattern.as_str())
        .collect();
    assert_eq!(
        patterns.len(),
        config.namespace.len(),
        "patterns are distinct"
    );
    for namespace in &config.namespace {
        check_namespace(config, namespace);
    }
}

fn check_namespace(config: &Config, namespace: &Namespace) {
    let own = config.retention_in(namespace);
    let all = config.retention();
    assert!((1..=all.entries).contains(&own.entries));
    assert!((1..=all.bytes).contains(&own.bytes));
    assert!((1..=all.age_ms).contains(&own.age_ms));
}
