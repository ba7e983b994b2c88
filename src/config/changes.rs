//! PURE: this module lists the keys of a configuration, and the keys in which two configurations
//! differ.
//!
//! Both lists are derived from the serialised [`Config`], so the keys are not written down a second
//! time.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Config;

/// Lists every key as `section.key`, with its value. All `[[namespace]]` tables together are one
/// value.
pub(super) fn keys(table: &Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => found.extend(
                section
                    .iter()
                    .map(|(key, value)| (format!("{name}.{key}"), value.clone())),
            ),
            single => found.push((name.clone(), single.clone())),
        }
    }
    found
}

/// Returns the keys whose values differ between two tables, as `section.key` in alphabetical order.
pub(super) fn between(old: &Table, new: &Table) -> BTreeSet<String> {
    let values = |table| BTreeMap::from_iter(keys(table));
    let (old, new) = (values(old), values(new));
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = all.into_iter();
    let changed = changed.filter(|key| old.get(*key) != new.get(*key));
    changed.cloned().collect()
}

impl Config {
    /// Returns the keys whose values differ, as `section.key` in alphabetical order.
    #[must_use]
    pub fn changed_keys(&self, other: &Self) -> BTreeSet<String> {
        let table = |config| {
            let table = Table::try_from(config);
            debug_assert!(table.is_ok(), "a configuration can be written as TOML");
            table.unwrap_or_default()
        };
        between(&table(self), &table(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sample values. Each key with a text or a list of texts accepts at least two of these values.
    const TEXTS: [&str; 14] = [
        "always",
        "os",
        "close",
        "skip",
        "json",
        "off",
        "auto",
        "required",
        "forwarded",
        "10.0.0.0/8",
        "127.0.0.1:1",
        "HS256 /a",
        "https://example.com",
        "/a",
    ];

    fn candidates(value: &Value) -> Vec<Value> {
        let texts = TEXTS.map(|text| Value::String(text.to_owned()));
        match value {
            Value::Integer(number) => vec![Value::Integer(number + 1)],
            Value::Float(number) => vec![Value::Float(number / 2.0)],
            Value::Boolean(flag) => vec![Value::Boolean(!flag)],
            Value::Array(_) => texts.map(|text| Value::Array(vec![text])).to_vec(),
            _ => texts.to_vec(),
        }
    }

    /// Returns the default configuration with a different value of one key.
    fn with(key: &str, value: &Value) -> Option<Config> {
        let mut table = Table::try_from(Config::default()).unwrap();
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let target = match section {
            "" => &mut table,
            section => table[section].as_table_mut().unwrap(),
        };
        target.insert(name.to_owned(), value.clone());
        table.try_into().ok()
    }

    #[test]
    fn change_of_each_key_is_found_by_its_name() {
        let default = Config::default();
        let all = keys(&Table::try_from(&default).unwrap());
        assert!(all.len() > 50);
        for (key, value) in all {
            let mut changed = candidates(&value)
                .into_iter()
                .filter_map(|value| with(&key, &value))
                .filter(|changed| *changed != default);
            let changed = changed.next().unwrap_or_else(|| panic!("no other {key}"));
            let found = default.changed_keys(&changed);
            assert_eq!(found, BTreeSet::from([key]));
        }
    }

    #[test]
    fn change_of_a_namespace_is_found_although_the_default_has_none() {
        let default = Config::default();
        let mut changed = default.clone();
        changed.namespace.push(crate::config::Namespace::default());
        let names = BTreeSet::from([String::from("namespace")]);
        assert_eq!(default.changed_keys(&changed), names);
        assert_eq!(changed.changed_keys(&default), names);
        assert!(changed.changed_keys(&changed).is_empty());
    }
}
