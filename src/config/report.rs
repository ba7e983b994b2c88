//! PURE: the effective configuration, key by key, with the origin of each value.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Config;
use super::changes::keys;
use super::problem::{Origin, Origins};

/// A key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveKey {
    /// The key, as `section.key`.
    pub key: String,
    /// The value in use, in the syntax of the file.
    pub value: String,
    /// The origin of the configured value.
    pub source: Origin,
    /// The configured value, if it differs from the value in use because it needs a restart.
    pub after_restart: Option<String>,
}

/// Lists all keys in alphabetical order. `running` is the configuration in use, and `configured` is
/// the one that was read last, with its `origins`.
///
/// # Errors
/// Returns the error if a configuration cannot be written as TOML, for example because of a number
/// above 2^63.
pub fn effective(
    running: &Config,
    configured: &Config,
    origins: &Origins,
) -> Result<Vec<EffectiveKey>, toml::ser::Error> {
    let configured = Table::try_from(configured)?;
    let configured: BTreeMap<String, Value> = keys(&configured).into_iter().collect();
    let mut all: BTreeMap<String, Value> = keys(&Table::try_from(running)?).into_iter().collect();
    // A list that is empty in the running configuration may have no key.
    for (key, value) in &configured {
        if let Value::Array(_) = value {
            all.entry(key.clone())
                .or_insert_with(|| Value::Array(Vec::new()));
        }
    }
    let listed = all.into_iter().map(|(key, value)| {
        let source = origins.0.get(&key).cloned().unwrap_or(Origin::Default);
        let after_restart = match configured.get(&key) {
            Some(other) if *other != value => Some(other.to_string()),
            None if value != Value::Array(Vec::new()) => Some(String::from("[]")),
            Some(_) | None => None,
        };
        EffectiveKey {
            value: value.to_string(),
            key,
            source,
            after_restart,
        }
    });
    Ok(listed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    fn row(rows: &[EffectiveKey], key: &str) -> EffectiveKey {
        rows.iter().find(|row| row.key == key).unwrap().clone()
    }

    #[test]
    fn each_key_has_its_value_and_origin() {
        let running = Config {
            workers: 3,
            ..Config::default()
        };
        let origins = Origins(BTreeMap::from([(
            String::from("workers"),
            Origin::Flag("--workers"),
        )]));
        let rows = effective(&running, &running, &origins).unwrap();
        let workers = row(&rows, "workers");
        assert_eq!((workers.value.as_str(), workers.after_restart), ("3", None));
        assert_eq!(workers.source, Origin::Flag("--workers"));
        let level = row(&rows, "logging.level");
        assert_eq!(level.value, "\"info\"");
        assert_eq!(level.source, Origin::Default);
        assert!(rows.is_sorted_by_key(|row| row.key.clone()));
    }

    #[test]
    fn value_that_needs_a_restart_is_shown_beside_the_value_in_use() {
        let running = Config::default();
        let mut configured = running.clone();
        configured.log.bytes = 1 << 20;
        configured.namespace.push(Namespace::default());
        let rows = effective(&running, &configured, &Origins::default()).unwrap();
        let bytes = row(&rows, "log.bytes");
        assert_eq!(bytes.after_restart.as_deref(), Some("1048576"));
        assert_eq!(row(&rows, "namespace").value, "[]");
        assert!(row(&rows, "namespace").after_restart.is_some());
        let rows = effective(&configured, &running, &Origins::default()).unwrap();
        assert_eq!(row(&rows, "namespace").after_restart.as_deref(), Some("[]"));
    }
}
