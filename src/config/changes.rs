//! PURE: this module lists the keys of a configuration, the keys in which two configurations
//! differ, and the keys that a running server can change.
//!
//! The lists are derived from the serialised [`Config`]. Only the constants of this module name
//! keys.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Config;
use super::validate::Invalid;

/// The keys that a running server can change. A worker reads most of them at each use, from its
/// newest configuration. Some values are stored, for example whether the peer of an open conn is a
/// trusted proxy. The worker updates them when it receives the configuration. Files of token keys
/// are read at the reload.
pub const RELOADABLE: [&str; 43] = [
    "auth.audience",
    "auth.cookie",
    "auth.deadline_ms",
    "auth.issuer",
    "auth.jwks",
    "auth.keys",
    "auth.leeway_ms",
    "auth.query",
    "browser.origins",
    "deflate.enabled",
    "drain.reconnects_per_second",
    "drain.retry_ms",
    "drain.window_ms",
    "heartbeat.interval_ms",
    "journal.bytes",
    "limits.channels",
    "limits.channels_per_conn",
    "limits.client_bytes_per_second",
    "limits.client_frames_per_second",
    "limits.client_message_bytes",
    "limits.conns",
    "limits.first_subscribe_ms",
    "limits.memory_bytes",
    "limits.poll_timeout_ms",
    "limits.request_head_ms",
    "listen",
    "log.age_ms",
    "log.bytes",
    "log.client_share",
    "log.entries",
    "log.pinned_bytes",
    "logging.level",
    "namespace",
    "page",
    "proxy.field",
    "proxy.trusted",
    "quota.behind_bytes",
    "quota.behind_publications",
    "quota.overflow",
    "quota.write_bytes_per_turn",
    "tls.certificates",
    "tls.keys",
    "tls.self_signed",
];

/// The keys that a running server can change, if it has no certificates before the change. A client
/// may have a session from before the change, and resume it without another check of its
/// certificate.
pub const RELOADABLE_WITH_FIRST_CERTIFICATES: [&str; 2] =
    ["tls.client_auth", "tls.client_authorities"];

/// The keys that a running server can change, if the limit exists before and after the change. The
/// limits per source are one limit in this respect.
pub const RELOADABLE_LIMITS: [&str; 3] = [
    "limits.connects_per_second_per_source",
    "limits.conns_per_source",
    "limits.pending_conns",
];

/// The result of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The configuration that the server uses from now on.
    pub config: Config,
    /// The keys whose values have changed.
    pub changed: BTreeSet<String>,
    /// The keys whose new values need a restart. The server keeps their current values.
    pub kept: BTreeSet<String>,
}

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

impl Reloaded {
    /// Keeps the addresses for clients of the configuration that is in use.
    pub(crate) fn keep_listen(&mut self, current: &Config) {
        let listen = String::from("listen");
        if self.changed.remove(&listen) {
            self.kept.insert(listen);
        }
        self.config.listen.clone_from(&current.listen);
    }
}

impl Config {
    /// Returns the keys whose values differ, as `section.key` in alphabetical order.
    ///
    /// # Errors
    /// Returns an error if a value cannot be written as TOML, because it is a number above
    /// `i64::MAX`. A value from a file, a variable or a flag is never above this number.
    pub fn changed_keys(&self, other: &Self) -> Result<BTreeSet<String>, Invalid> {
        Ok(between(&table(self)?, &table(other)?))
    }

    /// Returns this configuration with the values of `latest`, as far as a running server can
    /// change them. The result may be invalid, if a new value requires the new value of another key
    /// that the server keeps.
    ///
    /// # Errors
    /// Returns an error in the case that [`Config::changed_keys`] describes.
    pub fn reloaded(&self, latest: &Self) -> Result<Reloaded, Invalid> {
        let (mut values, new) = (table(self)?, table(latest)?);
        let (changed, kept): (BTreeSet<String>, BTreeSet<String>) = between(&values, &new)
            .into_iter()
            .partition(|key| self.can_reload(key, latest));
        for key in &changed {
            copy(key, &new, &mut values);
        }
        let config = values.try_into().map_err(|error| {
            Invalid::new("configuration", format!("cannot be read back: {error}"))
        })?;
        Ok(Reloaded {
            config,
            changed,
            kept,
        })
    }

    /// Whether a running server can use the value that `latest` has for a key. Tokens and limits
    /// that count conns from their start cannot be switched on or off.
    fn can_reload(&self, key: &str, latest: &Self) -> bool {
        if RELOADABLE_WITH_FIRST_CERTIFICATES.contains(&key) {
            return !self.tls.has_certificates();
        }
        if RELOADABLE_LIMITS.contains(&key) {
            let is_on = |config: &Self| match key {
                "limits.pending_conns" => config.limits.pending_conns > 0,
                _ => config.limits.counts_sources(),
            };
            return is_on(self) && is_on(latest);
        }
        if key.starts_with("auth.") && self.auth.is_on() != latest.auth.is_on() {
            return false;
        }
        RELOADABLE.contains(&key)
    }
}

fn table(config: &Config) -> Result<Table, Invalid> {
    Table::try_from(config).map_err(|error| {
        let message = format!("has a value that TOML cannot express: {error}");
        Invalid::new("configuration", message)
    })
}

/// Copies the value of a key, or removes the key if the new table has none.
fn copy(key: &str, from: &Table, to: &mut Table) {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let new = match section {
        "" => from.get(name),
        _ => from.get(section).and_then(|section| section.get(name)),
    };
    let target = match section {
        "" => Some(to),
        _ => to.get_mut(section).and_then(Value::as_table_mut),
    };
    let Some(target) = target else {
        debug_assert!(false, "{key} has no section");
        return;
    };
    match new {
        Some(value) => drop(target.insert(name.to_owned(), value.clone())),
        None => drop(target.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientAuth;
    use crate::config::auth::KeyFile;

    /// Sample values. Each key with a text or a list of texts accepts at least two of these values.
    const TEXTS: [&str; 15] = [
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
        "http://127.0.0.1:4318",
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
            let found = default.changed_keys(&changed).unwrap();
            assert_eq!(found, BTreeSet::from([key]));
        }
    }

    #[test]
    fn change_of_a_namespace_is_found_although_the_default_has_none() {
        let default = Config::default();
        let mut changed = default.clone();
        changed.namespace.push(crate::config::Namespace::default());
        let names = BTreeSet::from([String::from("namespace")]);
        assert_eq!(default.changed_keys(&changed).unwrap(), names);
        assert_eq!(changed.changed_keys(&default).unwrap(), names);
        assert!(changed.changed_keys(&changed).unwrap().is_empty());
    }

    #[test]
    fn reload_takes_what_a_running_server_can_change_and_keeps_the_rest() {
        let mut names: BTreeSet<String> = keys(&Table::try_from(Config::default()).unwrap())
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        // The default configuration has no namespace.
        names.insert(String::from("namespace"));
        for key in RELOADABLE
            .iter()
            .chain(&RELOADABLE_WITH_FIRST_CERTIFICATES)
            .chain(&RELOADABLE_LIMITS)
        {
            assert!(names.contains(*key), "{key}");
        }
        let running = Config::default();
        let mut latest = running.clone();
        latest.heartbeat.interval_ms = 5000;
        latest.browser.origins = vec![String::from("https://a.example")];
        latest.page = false;
        latest.log.bytes *= 2;
        latest.namespace.push(crate::config::Namespace::default());
        latest.workers = 3;
        latest.limits.request_head_bytes += 1;
        let reloaded = running.reloaded(&latest).unwrap();
        let set = |names: &[&str]| names.iter().map(|name| String::from(*name)).collect();
        let changed: BTreeSet<String> = set(&[
            "browser.origins",
            "heartbeat.interval_ms",
            "log.bytes",
            "namespace",
            "page",
        ]);
        assert_eq!(reloaded.changed, changed);
        let kept: BTreeSet<String> = set(&["limits.request_head_bytes", "workers"]);
        assert_eq!(reloaded.kept, kept);
        let mut expected = latest;
        expected.limits.request_head_bytes = running.limits.request_head_bytes;
        expected.workers = running.workers;
        assert_eq!(reloaded.config, expected);
        assert_eq!(running.reloaded(&running).unwrap().config, running);
    }

    #[test]
    fn addresses_change_unless_they_are_inherited() {
        let running = Config::default();
        let mut latest = running.clone();
        latest.listen.push("127.0.0.1:9000".parse().unwrap());
        let mut reloaded = running.reloaded(&latest).unwrap();
        assert_eq!(reloaded.config, latest);
        reloaded.keep_listen(&running);
        assert_eq!(
            (reloaded.config, reloaded.changed.len()),
            (running.clone(), 0)
        );
        assert_eq!(reloaded.kept, BTreeSet::from([String::from("listen")]));
    }

    #[test]
    fn value_that_toml_cannot_express_is_an_error() {
        let running = Config::default();
        let mut latest = running.clone();
        latest.page = !running.page;
        latest.log.bytes = u64::MAX;
        for (old, new) in [(&running, &latest), (&latest, &running)] {
            assert!(old.changed_keys(new).is_err());
            assert!(old.reloaded(new).is_err());
        }
    }

    #[test]
    fn tokens_are_neither_switched_on_nor_off_by_a_reload() {
        let with_keys = |names: &[&str]| {
            let mut config = Config::default();
            config.auth.keys = names
                .iter()
                .map(|name| KeyFile::try_from(format!("HS256 {name}")).unwrap())
                .collect();
            config
        };
        let (none, one, other) = (with_keys(&[]), with_keys(&["a"]), with_keys(&["b"]));
        let is_changed = |old: &Config, new: &Config| old.reloaded(new).unwrap().kept.is_empty();
        assert!(is_changed(&one, &other));
        assert!(!is_changed(&none, &one));
        assert!(!is_changed(&one, &none));
    }

    #[test]
    fn clients_must_have_a_certificate_from_the_first_handshake_on_or_after_a_restart() {
        let mut plain = Config::default();
        let mut trial = plain.clone();
        trial.tls.self_signed = true;
        let mut secure = plain.clone();
        secure.listen.push("127.0.0.1:9001 tls".parse().unwrap());
        secure.tls.certificates.push("a".into());
        secure.tls.keys.push("b".into());
        let mut strict = secure.clone();
        strict.tls.client_auth = ClientAuth::Required;
        strict.tls.client_authorities = "c".into();
        for latest in [&trial, &secure, &strict] {
            assert_eq!(plain.reloaded(latest).unwrap().config, *latest);
        }
        for (before, after) in [(&secure, &strict), (&strict, &secure), (&trial, &strict)] {
            let reloaded = before.reloaded(after).unwrap();
            let kept = RELOADABLE_WITH_FIRST_CERTIFICATES.map(String::from);
            assert_eq!(reloaded.kept, BTreeSet::from(kept));
        }
        assert_eq!(secure.reloaded(&plain).unwrap().config, plain);
        plain.tls.client_auth = ClientAuth::Required;
        assert_eq!(plain.reloaded(&strict).unwrap().config, strict);
    }
}
