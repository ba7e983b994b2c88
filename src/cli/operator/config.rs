//! `fanfare config`: prints the configuration in use, with the source of each value.

use std::io::Write;

use super::super::Failure;
use super::args::ConfigArgs;
use super::client::Client;
use super::text::{Align, Table, join};
use super::{print, print_json};
use fanfare::config::Config;
use fanfare::config::problem::Origins;
use fanfare::config::report::{self, EffectiveKey};
use fanfare::operator::answer::{ConfigAnswer, KeyRow};
use fanfare::operator::request::{Empty, Request};

const TITLES: [(&str, Align); 3] = [
    ("KEY", Align::Left),
    ("VALUE", Align::Left),
    ("SOURCE", Align::Left),
];

/// Prints the keys.
///
/// # Errors
/// Returns an error if the server does not answer, or refuses the request.
pub(in crate::cli) fn run(args: &ConfigArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = Request::Config(Empty {});
    let mut answer = Client::new(&args.socket)?.ask::<ConfigAnswer>(&request)?;
    let keys = &mut answer.content.keys;
    let defaults = defaults()?;
    keys.retain(|key| !args.changed || is_changed(key, &defaults));
    if !args.json {
        return print(&list(&answer.content), out);
    }
    if args.changed {
        let line = serde_json::to_string(&answer.content);
        answer.line = line.map_err(|error| Failure::Running(error.into()))?;
    }
    print_json(&answer.line, out)
}

/// Whether the value in use is not the default, or will not be after a restart.
fn is_changed(key: &KeyRow, defaults: &[EffectiveKey]) -> bool {
    let mut defaults = defaults.iter();
    let is_default = defaults.any(|default| default.key == key.key && default.value == key.value);
    !is_default || key.after_restart.is_some()
}

/// Returns the defaults of this version of the program.
fn defaults() -> Result<Vec<EffectiveKey>, Failure> {
    let default = Config::default();
    let keys = report::effective(&default, &default, &Origins::default());
    keys.map_err(|error| Failure::Running(error.into()))
}

fn list(answer: &ConfigAnswer) -> String {
    if answer.keys.is_empty() {
        return String::from("all keys are at their defaults\n");
    }
    let mut table = Table::new(&TITLES);
    for key in &answer.keys {
        let KeyRow {
            key,
            value,
            source,
            after_restart,
        } = key;
        let value = match after_restart {
            Some(later) => format!("{value} (after a restart: {later})"),
            None => value.clone(),
        };
        table.push([key.clone(), value, source.clone()]);
    }
    join(&table.lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, source: &str, after_restart: Option<&str>) -> KeyRow {
        KeyRow {
            key: name.to_owned(),
            value: String::from("4"),
            source: source.to_owned(),
            after_restart: after_restart.map(str::to_owned),
        }
    }

    #[test]
    fn value_that_a_file_sets_to_the_default_is_not_changed() {
        let defaults = defaults().unwrap();
        let row = |name: &str, value: &str, after_restart| KeyRow {
            value: value.to_owned(),
            ..key(name, "fanfare.toml:3", after_restart)
        };
        assert!(!is_changed(&row("workers", "0", None), &defaults));
        assert!(is_changed(&row("workers", "4", None), &defaults));
        assert!(is_changed(&row("workers", "0", Some("4")), &defaults));
        assert!(!is_changed(
            &row("logging.level", "\"info\"", None),
            &defaults
        ));
        assert!(is_changed(&row("unknown.key", "0", None), &defaults));
    }

    #[test]
    fn list_names_value_and_source_and_what_a_restart_changes() {
        let keys = vec![
            key("limits.conns", "fanfare.toml:3", None),
            key("workers", "default", Some("8")),
        ];
        assert_eq!(
            list(&ConfigAnswer { keys }),
            "KEY           VALUE                   SOURCE\n\
             limits.conns  4                       fanfare.toml:3\n\
             workers       4 (after a restart: 8)  default\n"
        );
        let none = ConfigAnswer::default();
        assert_eq!(list(&none), "all keys are at their defaults\n");
    }
}
