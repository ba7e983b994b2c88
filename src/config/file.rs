//! SHELL: flags, environment and file become one checked [`Config`].
//!
//! A value comes from the first of these that names it: flag, environment, file, default. The list
//! of keys is read off the default [`Config`] itself, so each key of the struct has its place in
//! the file and its `FANFARE_*` name without a second list. Reads the one file it is told to read
//! and nothing else; without one, no file is read at all. Every error says where the value stands:
//! file and line, variable, or flag. The command line is the only caller.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::IntoDeserializer as _;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

pub use super::problem::{ConfigError, Origin, Problem};
use super::{Config, Namespace};

/// How the names of environment variables begin.
const PREFIX: &str = "FANFARE_";
/// Beginnings of variables that belong to others than [`Config`]: the flag `--config` and the
/// simulation tests.
const PREFIXES_OF_OTHERS: [&str; 2] = ["FANFARE_CONFIG", "FANFARE_SIM_"];

/// The list of tables, which is the one key without a variable of its own.
const NAMESPACE: &str = "namespace";
/// The key that each of them has.
const MATCH: &str = "match";
const NOT_TABLES: &str = "is a list of tables, each of which begins with [[namespace]]";

/// What flags choose; absent and empty members choose nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, as often as given.
    pub listen: Vec<SocketAddr>,
    /// `--feed`.
    pub feed: Option<PathBuf>,
    /// `--admin`; an empty text switches the admin listener off.
    pub admin: Option<String>,
    /// `--journal`.
    pub journal: Option<PathBuf>,
    /// `--workers`.
    pub workers: Option<u32>,
    /// `--log`.
    pub log: Option<String>,
}

/// A checked configuration and what was odd on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the server runs with.
    pub config: Config,
    /// What an operator should look at, such as a misspelt variable.
    pub warnings: Vec<String>,
}

/// Reads the file if one is named, then the environment, then the flags.
///
/// # Errors
/// When the file cannot be read or any value is wrong.
pub fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Overrides,
) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::new();
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        draft.take_file(&text, &path.display().to_string());
    }
    let warnings = draft.take_environment(environment);
    draft.take_flags(flags);
    let config = draft.finish()?;
    Ok(Loaded { config, warnings })
}

/// Reads the text of a file over the defaults; `name` is what errors call it.
///
/// # Errors
/// When any value is wrong.
pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
    let mut draft = Draft::new();
    draft.take_file(text, name);
    draft.finish()
}

/// The variables of this process that concern fanfare. A value that is not UTF-8 comes with
/// replacement characters, which no key accepts silently.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_ours = name.starts_with(PREFIX);
        is_ours.then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// Where the feed listens when nobody says: in the directory that the service manager made for us,
/// else in the user's own runtime directory, else in a directory of the user's under `/tmp`.
#[must_use]
pub fn default_feed_path() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let user_directory = PathBuf::from(format!("/run/user/{uid}"));
    let is_writable = rustix::fs::access(&user_directory, rustix::fs::Access::WRITE_OK).is_ok();
    feed_path(
        std::env::var_os("RUNTIME_DIRECTORY").as_deref(),
        is_writable.then_some(user_directory.as_path()),
        uid,
    )
}

fn feed_path(runtime: Option<&OsStr>, user_directory: Option<&Path>, uid: u32) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    // The service manager lists several directories with colons; ours is the first.
    let runtime = runtime.and_then(|list| list.as_bytes().split(|b| *b == b':').next());
    match (runtime, user_directory) {
        (Some(first), _) if !first.is_empty() => {
            Path::new(OsStr::from_bytes(first)).join("feed.sock")
        }
        (_, Some(directory)) => directory.join("fanfare/feed.sock"),
        (_, None) => PathBuf::from(format!("/tmp/fanfare-{uid}/feed.sock")),
    }
}

/// A configuration in the making: the values so far, where each comes from, and what is wrong.
struct Draft {
    /// The defaults as a table: the list of all keys, with the type of each.
    defaults: Table,
    values: Table,
    /// By `section.key`.
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Draft {
    fn new() -> Self {
        // The defaults are numbers, texts and lists: there is nothing in them that TOML lacks.
        let defaults = Table::try_from(Config::default()).unwrap_or_default();
        Self {
            values: defaults.clone(),
            defaults,
            origins: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn take_file(&mut self, text: &str, name: &str) {
        let (document, spans) = match (text.parse::<Table>(), DeTable::parse(text)) {
            (Ok(document), Ok(spans)) => (document, spans),
            (Err(error), _) | (_, Err(error)) => {
                let at = error.span().map_or(0, |span| span.start);
                let origin = file_origin(text, name, at);
                return self.problem(origin, "", error.message().replace('\n', ", "));
            }
        };
        for (key, spanned) in spans.get_ref() {
            let origin = file_origin(text, name, key.span().start);
            let Some(value) = document.get(key.get_ref().as_ref()) else {
                continue;
            };
            match (spanned.get_ref().as_table(), value) {
                _ if key.get_ref() == NAMESPACE => {
                    self.take_namespaces(value, spanned.get_ref(), (text, name), origin);
                }
                (Some(section_spans), Value::Table(section)) => {
                    self.take_section(key.get_ref(), section, section_spans, (text, name), &origin);
                }
                _ => self.take_value(key.get_ref(), value.clone(), origin),
            }
        }
    }

    fn take_section(
        &mut self,
        section_name: &str,
        section: &Table,
        spans: &DeTable<'_>,
        (text, name): (&str, &str),
        origin: &Origin,
    ) {
        if !matches!(self.defaults.get(section_name), Some(Value::Table(_))) {
            let message = format!("unknown section; there are {}", self.sections());
            return self.problem(origin.clone(), section_name, message);
        }
        for key in spans.keys() {
            let Some(value) = section.get(key.get_ref().as_ref()) else {
                continue;
            };
            let origin = file_origin(text, name, key.span().start);
            let dotted = format!("{section_name}.{}", key.get_ref());
            self.take_value(&dotted, value.clone(), origin);
        }
    }

    /// Takes the tables of `[[namespace]]`, each key with its line.
    fn take_namespaces(
        &mut self,
        value: &Value,
        spans: &DeValue<'_>,
        (text, name): (&str, &str),
        origin: Origin,
    ) {
        let (Value::Array(tables), Some(spans)) = (value, spans.as_array()) else {
            return self.problem(origin, NAMESPACE, NOT_TABLES);
        };
        self.origins.insert(String::from(NAMESPACE), origin);
        for (index, (table, spans)) in tables.iter().zip(spans).enumerate() {
            let at = file_origin(text, name, spans.span().start);
            let (Value::Table(table), Some(spans)) = (table, spans.get_ref().as_table()) else {
                self.problem(at, NAMESPACE, NOT_TABLES);
                continue;
            };
            if !table.contains_key(MATCH) {
                let key = format!("{NAMESPACE}[{index}]");
                self.problem(at, &key, "has no `match`, so it is for no channel");
                continue;
            }
            let lines = spans.keys().map(|key| {
                let origin = file_origin(text, name, key.span().start);
                (key.get_ref().to_string(), origin)
            });
            self.take_namespace(index, table, lines.collect());
        }
    }

    fn take_namespace(&mut self, index: usize, table: &Table, lines: Vec<(String, Origin)>) {
        let mut right = Table::new();
        for (key, origin) in lines {
            let Some(value) = table.get(&key) else {
                continue;
            };
            let indexed = format!("{NAMESPACE}[{index}].{key}");
            if !Namespace::KEYS.contains(&key.as_str()) {
                let names = Namespace::KEYS.join(", ");
                let message = format!("unknown key; [[{NAMESPACE}]] has {names}");
                self.problem(origin, &indexed, message);
                continue;
            }
            // Alone but for the pattern, which none can be without.
            let alone = Table::from_iter([
                (String::from(MATCH), Value::String(String::new())),
                (key.clone(), value.clone()),
            ]);
            let alone: Result<Namespace, toml::de::Error> = alone.try_into();
            if let Err(error) = alone {
                let message = error.message().trim().replace('\n', ", ");
                self.problem(origin, &indexed, message);
                continue;
            }
            self.origins.insert(indexed, origin);
            right.insert(key, value.clone());
        }
        let all = self.values.entry(NAMESPACE);
        if let Value::Array(all) = all.or_insert_with(|| Value::Array(Vec::new())) {
            all.push(Value::Table(right));
        }
    }

    /// Returns a warning for each variable that has no key.
    fn take_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Vec<String> {
        let ours: BTreeMap<String, String> = environment
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        let mut known = BTreeSet::new();
        for (key, default) in keys(&self.defaults) {
            let variable = environment_name(&key);
            if let Some(text) = ours.get(&variable) {
                self.take_text(&key, text, &default, Origin::Environment(variable.clone()));
            }
            known.insert(variable);
        }
        ours.keys()
            .filter(|name| !known.contains(*name))
            .filter(|name| !PREFIXES_OF_OTHERS.iter().any(|p| name.starts_with(p)))
            .map(|name| format!("{name}: no key has this name; the variable is ignored"))
            .collect()
    }

    /// Takes a text as the type that the key's default has.
    fn take_text(&mut self, key: &str, text: &str, default: &Value, origin: Origin) {
        let value = match default {
            Value::Integer(_) => text.trim().parse().map(Value::Integer).ok(),
            Value::Boolean(_) => text.trim().parse().map(Value::Boolean).ok(),
            Value::Array(_) => Some(Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(String::from(item)))
                    .collect(),
            )),
            Value::String(_) | Value::Float(_) | Value::Datetime(_) | Value::Table(_) => {
                Some(Value::String(String::from(text)))
            }
        };
        match value {
            Some(value) => self.take_value(key, value, origin),
            None => {
                let message = format!("`{text}` is not of type {}", default.type_str());
                self.problem(origin, key, message);
            }
        }
    }

    fn take_flags(&mut self, flags: &Overrides) {
        if !flags.listen.is_empty() {
            let addresses = flags.listen.iter().map(|a| Value::String(a.to_string()));
            let value = Value::Array(addresses.collect());
            self.take_value("listen", value, Origin::Flag("--listen"));
        }
        self.take_path("feed", flags.feed.as_deref(), "--feed");
        self.take_path("journal.path", flags.journal.as_deref(), "--journal");
        if let Some(text) = &flags.admin {
            let value = Value::String(text.clone());
            self.take_value("admin", value, Origin::Flag("--admin"));
        }
        if let Some(count) = flags.workers {
            let value = Value::Integer(count.into());
            self.take_value("workers", value, Origin::Flag("--workers"));
        }
        if let Some(level) = &flags.log {
            let value = Value::String(level.clone());
            self.take_value("logging.level", value, Origin::Flag("--log"));
        }
    }

    fn take_path(&mut self, key: &str, path: Option<&Path>, flag: &'static str) {
        match path.map(Path::to_str) {
            Some(Some(text)) => {
                let value = Value::String(String::from(text));
                self.take_value(key, value, Origin::Flag(flag));
            }
            Some(None) => self.problem(Origin::Flag(flag), key, "the path is not UTF-8"),
            None => {}
        }
    }

    /// Checks the type of one value by building a configuration of it alone, so that an error is
    /// about this key and no other, and puts it over what was there.
    fn take_value(&mut self, key: &str, value: Value, origin: Origin) {
        let (section, name) = match key.split_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, key),
        };
        let known = match section {
            Some(section) => self.defaults.get(section).and_then(Value::as_table),
            None => Some(&self.defaults),
        };
        let Some(default) = known.and_then(|table| table.get(name)) else {
            let message = self.unknown_key(section);
            return self.problem(origin, key, message);
        };
        if default.is_table() {
            return self.problem(origin, key, "is a section, not a value");
        }
        let mut alone = Table::from_iter([(String::from(name), value.clone())]);
        if let Some(section) = section {
            alone = Table::from_iter([(String::from(section), Value::Table(alone))]);
        }
        if let Err(error) = deserialize(alone) {
            return self.problem(origin, key, error.message().trim().replace('\n', ", "));
        }
        let target = match section {
            Some(section) => self.values.get_mut(section).and_then(Value::as_table_mut),
            None => Some(&mut self.values),
        };
        if let Some(target) = target {
            target.insert(String::from(name), value);
            self.origins.insert(String::from(key), origin);
        }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        // A value that did not parse left its default behind; checking relations against that would
        // accuse keys that nobody touched.
        if !self.problems.is_empty() {
            return Err(ConfigError::Invalid(self.problems));
        }
        let values = std::mem::take(&mut self.values);
        let config = match deserialize(values) {
            Ok(config) => config,
            Err(error) => {
                self.problem(Origin::Default, "", error.message());
                return Err(ConfigError::Invalid(self.problems));
            }
        };
        let Err(found) = config.validate() else {
            return Ok(config);
        };
        for invalid in found {
            // The key that somebody chose is the one to mend, also where it is the second named.
            let origin = invalid.keys.iter().find_map(|key| self.origins.get(key));
            let origin = origin.cloned().unwrap_or(Origin::Default);
            let key = invalid.keys.into_iter().next().unwrap_or_default();
            self.problem(origin, &key, invalid.message);
        }
        Err(ConfigError::Invalid(self.problems))
    }

    fn problem(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            origin,
            key: String::from(key),
            message: message.into(),
        });
    }

    fn unknown_key(&self, section: Option<&str>) -> String {
        let table = match section {
            Some(section) => self.defaults.get(section).and_then(Value::as_table),
            None => Some(&self.defaults),
        };
        let Some(table) = table else {
            return format!("unknown section; there are {}", self.sections());
        };
        let names = table.iter().filter(|(_, value)| !value.is_table());
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        match section {
            Some(section) => format!("unknown key; [{section}] has {}", names.join(", ")),
            None => format!(
                "unknown key; outside sections there are {}",
                names.join(", ")
            ),
        }
    }

    fn sections(&self) -> String {
        let sections = self.defaults.iter().filter(|(_, value)| value.is_table());
        let names: Vec<String> = sections.map(|(name, _)| format!("[{name}]")).collect();
        names.join(", ")
    }
}

fn deserialize(table: Table) -> Result<Config, toml::de::Error> {
    serde::Deserialize::deserialize(table.into_deserializer())
}

/// Every key as `section.key` with its default.
fn keys(defaults: &Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in defaults {
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

fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

fn file_origin(text: &str, name: &str, at: usize) -> Origin {
    let before = text.as_bytes().iter().take(at);
    Origin::File {
        name: String::from(name),
        line: before.filter(|b| **b == b'\n').count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogFormat, Overflow};

    const EXAMPLE: &str = include_str!("../../systemd/fanfare.toml");

    fn problems(text: &str) -> Vec<String> {
        match parse(text, "fanfare.toml") {
            Ok(_) => Vec::new(),
            Err(error) => error.to_string().lines().map(String::from).collect(),
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs
            .iter()
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn load_environment(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load(None, environment(pairs), &Overrides::default())
    }

    #[test]
    fn empty_file_is_the_default() {
        assert_eq!(parse("", "x").unwrap(), Config::default());
    }

    #[test]
    fn example_file_is_the_default_and_names_every_key() {
        let config = parse(EXAMPLE, "fanfare.toml").unwrap();
        let expected = Config {
            feed: PathBuf::from("/run/fanfare/feed.sock"),
            ..Config::default()
        };
        assert_eq!(config, expected);
        let named: Table = EXAMPLE.parse().unwrap();
        let defaults = Table::try_from(Config::default()).unwrap();
        let names = |table: &Table| -> Vec<String> {
            keys(table).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(names(&named), names(&defaults));
    }

    #[test]
    fn example_file_tells_the_environment_name_of_a_key() {
        assert!(EXAMPLE.contains(&environment_name("heartbeat.interval_ms")));
    }

    #[test]
    fn unknown_keys_are_errors_with_line_and_key() {
        assert_eq!(
            problems("workers = 1\n\n[drain]\nwindow = 3\n"),
            ["fanfare.toml:4: drain.window: unknown key; [drain] has retry_ms, window_ms"]
        );
        assert!(problems("colour = 1\n")[0].starts_with("fanfare.toml:1: colour: unknown key;"));
        assert!(
            problems("\n[colour]\nred = 1\n")[0].starts_with(
                "fanfare.toml:2: colour: unknown section; there are [deflate], [drain]"
            )
        );
        assert!(
            problems("drain.window = 3")[0].starts_with("fanfare.toml:1: drain.window: unknown")
        );
    }

    #[test]
    fn wrong_types_are_errors_with_line_and_key() {
        let found = problems("workers = \"two\"\n[heartbeat]\ninterval_ms = -1\n");
        assert!(
            found
                .iter()
                .any(|p| p.starts_with("fanfare.toml:1: workers: invalid type")),
            "{found:?}"
        );
        assert!(
            found
                .iter()
                .any(|p| p.starts_with("fanfare.toml:3: heartbeat.interval_ms: invalid value")),
            "{found:?}"
        );
        assert_eq!(
            problems("heartbeat = 3"),
            ["fanfare.toml:1: heartbeat: is a section, not a value"]
        );
        assert!(problems("[workers]\nx = 1")[0].starts_with("fanfare.toml:1: workers: "));
        assert!(problems("[[drain]]\nwindow_ms = 1")[0].starts_with("fanfare.toml:1: drain: "));
    }

    #[test]
    fn values_out_of_range_are_errors_with_line_and_key() {
        assert_eq!(
            problems("[log]\nbytes = 5\n[quota]\nbehind_bytes = 3\n"),
            [
                "fanfare.toml:2: log.bytes: is 5, but has to be at least 1048576",
                "fanfare.toml:2: log.bytes: is 5, but has to hold the longest publication: \
                 limits.feed_line_bytes is 1048576"
            ]
        );
    }

    #[test]
    fn relation_is_reported_at_the_key_that_was_chosen() {
        let found = problems("[limits]\nfeed_line_bytes = 60000000\n[log]\nage_ms = 5\n");
        assert!(found.is_empty(), "{found:?}");
        let found = problems("\n\n[quota]\nsend_buffer_bytes = 8192\n");
        assert_eq!(
            found,
            [
                "fanfare.toml:4: quota.notsent_lowat_bytes: is 16384, but has to be at most \
              quota.send_buffer_bytes, which is 8192"
            ]
        );
    }

    #[test]
    fn namespaces_are_read_in_their_order() {
        let text = "[[namespace]]\nmatch = \"prices:*\"\nlog_entries = 1\n\
                    [[namespace]]\nmatch = \"chat\"\noverflow = \"close\"\n";
        let config = parse(text, "x").unwrap();
        let [prices, chat] = config.namespace.as_slice() else {
            panic!("{:?}", config.namespace)
        };
        assert_eq!(prices.pattern, "prices:*");
        assert_eq!((prices.log_entries, prices.overflow), (Some(1), None));
        assert_eq!(chat.overflow, Some(Overflow::Close));
        assert_eq!(parse("namespace = []", "x").unwrap(), Config::default());
    }

    #[test]
    fn faults_of_a_namespace_have_their_line_and_key() {
        let text = "[[namespace]]\nmatch = \"a*\"\ncolour = 1\n\
                    [[namespace]]\nlog_entries = 3\n\
                    [[namespace]]\nmatch = \"b*\"\nlog_entries = \"many\"\n";
        let found = problems(text);
        assert_eq!(
            found[..2],
            [
                "fanfare.toml:3: namespace[0].colour: unknown key; [[namespace]] has match, \
                 log_entries, log_bytes, log_age_ms, overflow, client_publish, client_presence",
                "fanfare.toml:4: namespace[1]: has no `match`, so it is for no channel",
            ]
        );
        assert!(found[2].starts_with("fanfare.toml:8: namespace[2].log_entries: invalid type"));
        let text =
            "[[namespace]]\nmatch = \"a*\"\n\n[[namespace]]\nlog_age_ms = 0\nmatch = \"a*\"\n";
        assert_eq!(
            problems(text),
            [
                "fanfare.toml:6: namespace[1].match: names `a*` twice",
                "fanfare.toml:5: namespace[1].log_age_ms: is 0, but has to be at least 1"
            ]
        );
        for text in [
            "namespace = 3",
            "namespace = [3]",
            "[namespace]\nmatch = \"a\"",
        ] {
            let found = problems(text);
            assert!(
                found[0].starts_with("fanfare.toml:1: namespace: is a list"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn broken_document_is_an_error_with_its_line() {
        let found = problems("workers = 1\nlisten = [\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("fanfare.toml:"), "{found:?}");
        assert!(problems("a = 1\na = 2\n")[0].starts_with("fanfare.toml:2: "));
    }

    #[test]
    fn policy_that_is_none_is_an_error_that_names_those_there_are() {
        assert_eq!(
            problems("[quota]\noverflow = \"drop\"\n"),
            [
                "fanfare.toml:2: quota.overflow: `drop` is not a policy; choose `skip`, `conflate` \
                 or `close`"
            ]
        );
        let config = parse("[quota]\noverflow = \"conflate\"\n", "x").unwrap();
        assert_eq!(config.quota.overflow, Overflow::Conflate);
    }

    #[test]
    fn environment_reaches_every_type_of_key() {
        let loaded = load_environment(&[
            ("FANFARE_LISTEN", "127.0.0.1:1, [::1]:2"),
            ("FANFARE_FEED", "/tmp/f.sock"),
            ("FANFARE_ADMIN", ""),
            ("FANFARE_PAGE", "false"),
            ("FANFARE_HEARTBEAT_INTERVAL_MS", "1500"),
            ("FANFARE_QUOTA_OVERFLOW", "close"),
            ("FANFARE_LOGGING_FORMAT", "json"),
            ("HOME", "/"),
        ])
        .unwrap();
        let config = loaded.config;
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.feed, PathBuf::from("/tmp/f.sock"));
        assert_eq!(config.admin, None);
        assert!(!config.page);
        assert_eq!(config.heartbeat.interval_ms, 1500);
        assert_eq!(config.quota.overflow, Overflow::Close);
        assert_eq!(config.logging.format, LogFormat::Json);
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn environment_error_names_the_variable() {
        let error = load_environment(&[("FANFARE_WORKERS", "many")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "FANFARE_WORKERS: workers: `many` is not of type integer"
        );
        let error = load_environment(&[("FANFARE_LOG_AGE_MS", "0")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("FANFARE_LOG_AGE_MS: log.age_ms: is 0")
        );
    }

    #[test]
    fn misspelt_variables_are_warnings_and_those_of_others_are_not() {
        let loaded = load_environment(&[
            ("FANFARE_HEARTBEAT_INTERVALL_MS", "1"),
            ("FANFARE_CONFIG", "x"),
            ("FANFARE_SIM_SEED", "1"),
        ])
        .unwrap();
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].starts_with("FANFARE_HEARTBEAT_INTERVALL_MS: "));
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn environment_names_are_one_to_one_with_keys() {
        let defaults = Table::try_from(Config::default()).unwrap();
        let all = keys(&defaults);
        let names: BTreeSet<String> = all.iter().map(|(key, _)| environment_name(key)).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fanfare.toml");
        std::fs::write(
            &path,
            "workers = 2\nfeed_mode = \"0600\"\n[drain]\nretry_ms = 5\n",
        )
        .unwrap();
        let flags = Overrides {
            workers: Some(4),
            admin: Some(String::new()),
            log: Some(String::from("debug")),
            ..Overrides::default()
        };
        let variables = environment(&[("FANFARE_WORKERS", "3"), ("FANFARE_FEED_MODE", "0640")]);
        let config = load(Some(&path), variables, &flags).unwrap().config;
        assert_eq!(config.workers, 4);
        assert_eq!(config.feed_mode, "0640");
        assert_eq!(config.drain.retry_ms, 5);
        assert_eq!(config.drain.window_ms, 10_000);
        assert_eq!(config.admin, None);
        assert_eq!(config.logging.level, "debug");
    }

    #[test]
    fn flag_error_names_the_flag() {
        let flags = Overrides {
            log: Some(String::from("loud")),
            admin: Some(String::from("here")),
            ..Overrides::default()
        };
        let error = load(None, environment(&[]), &flags)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--admin: admin: `here` is not an address"),
            "{error}"
        );
    }

    #[test]
    fn missing_file_is_an_error_that_names_it() {
        let error = load(
            Some(Path::new("/nonexistent/fanfare.toml")),
            environment(&[]),
            &Overrides::default(),
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/fanfare.toml: "));
    }

    #[test]
    fn feed_path_follows_the_service_manager_then_the_user_then_tmp() {
        let user = Path::new("/run/user/7");
        let list = OsStr::new("/run/fanfare:/run/other");
        assert_eq!(
            feed_path(Some(list), Some(user), 7),
            Path::new("/run/fanfare/feed.sock")
        );
        assert_eq!(
            feed_path(Some(OsStr::new("")), Some(user), 7),
            Path::new("/run/user/7/fanfare/feed.sock")
        );
        assert_eq!(
            feed_path(None, None, 7),
            Path::new("/tmp/fanfare-7/feed.sock")
        );
    }
}
