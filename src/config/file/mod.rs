//! SHELL: this module combines flags, environment and file into one checked [`Config`].
//!
//! The first source that has a value decides, in this order: flag, environment, file, default. The
//! list of keys is derived from the default [`Config`]. So each field of the struct has a key in
//! the file and a `FANFARE_*` variable without a second list. The module reads only the file that
//! is named. Every error names the origin of the value: file and line, variable, or flag. The
//! command line is the only caller.

mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::de::IntoDeserializer as _;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::changes::{self, keys};
pub use super::problem::{ConfigError, Origin, Origins, Problem};
use super::validate::{Invalid, range_of};
use super::{Config, Listen, Namespace};
use crate::config::input;

/// The prefix of the server's environment variables.
const PREFIX: &str = "FANFARE_";
/// The prefixes of variables that set no key of [`Config`]: the variable of `--config`, and the
/// variables of the simulation tests.
const PREFIXES_OF_OTHERS: [&str; 2] = ["FANFARE_CONFIG", "FANFARE_SIM_"];

/// The key of the list of namespaces (`[[namespace]]`). It is the only key that no environment
/// variable can set.
const NAMESPACE: &str = "namespace";
/// The key that every `[[namespace]]` table must have.
const MATCH: &str = "match";
const NOT_TABLES: &str = "must be a list of tables, each of which begins with [[namespace]]";

/// The address that `--tls-self-signed` adds if no address has TLS.
const TRIAL_LISTEN: &str = "127.0.0.1:8443 tls";

/// The values of the flags. Absent and empty fields set nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The value of `--listen`, which can be repeated.
    pub listen: Vec<Listen>,
    /// The value of `--feed`.
    pub feed: Option<PathBuf>,
    /// The value of `--admin`. An empty text turns the admin listener off.
    pub admin: Option<String>,
    /// The value of `--journal`.
    pub journal: Option<PathBuf>,
    /// The value of `--workers`.
    pub workers: Option<u32>,
    /// The value of `--log`.
    pub log: Option<String>,
    /// Whether `--tls-self-signed` is set.
    pub tls_self_signed: bool,
}

/// A checked configuration, with warnings and the origins of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration itself.
    pub config: Config,
    /// Messages for the operator, for example about a misspelt variable.
    pub warnings: Vec<String>,
    /// The origin of each value.
    pub origins: Origins,
    /// The values of the file; keys that the file does not set have their default.
    pub file: Table,
}

impl Loaded {
    /// Sets the feed's path to [`default_feed_path`] if it is empty.
    #[must_use]
    pub fn with_feed_path(mut self) -> Self {
        if self.config.feed.as_os_str().is_empty() {
            self.config.feed = default_feed_path();
        }
        self
    }

    /// Returns the keys whose values in the file have changed without effect, because a flag or a
    /// variable sets these keys. `earlier` is the previous file. Each text has the form `workers
    /// (--workers)`.
    #[must_use]
    pub fn overridden_since(&self, earlier: &Table) -> Vec<String> {
        let changed = changes::between(earlier, &self.file).into_iter();
        let overridden = changed.filter_map(|key| {
            let origin = self.origins.0.get(&key)?;
            matches!(origin, Origin::Environment(_) | Origin::Flag(_))
                .then(|| format!("{key} ({origin})"))
        });
        overridden.collect()
    }
}

/// Reads the sources: first the file, if `path` names one, then the environment, then the flags.
///
/// # Errors
/// Returns [`ConfigError::Read`] if the file cannot be read. Returns [`ConfigError::Invalid`] with
/// all problems if the configuration is invalid.
pub fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Overrides,
) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::new();
    if let Some(path) = path {
        let text = input::read_text(path).map_err(|error| ConfigError::Read {
            path: path.to_path_buf(),
            error,
        })?;
        draft.take_file(&text, &path.display().to_string());
    }
    let file = draft.values.clone();
    let warnings = draft.take_environment(environment);
    draft.take_flags(flags);
    let (config, origins) = draft.finish()?;
    Ok(Loaded {
        config,
        warnings,
        origins,
        file,
    })
}

/// Parses the text of a file. `name` is the name of the file in errors.
///
/// # Errors
/// Returns [`ConfigError::Invalid`] with all problems of the text.
pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
    let mut draft = Draft::new();
    draft.take_file(text, name);
    draft.finish().map(|(config, _origins)| config)
}

/// Returns the variables of this process whose names begin with `FANFARE_`. In a value that is not
/// UTF-8, invalid bytes are replaced by a character that no key accepts.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_ours = name.starts_with(PREFIX);
        is_ours.then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// Returns the feed's path that is used if no path is configured. The first usable directory is
/// chosen: `RUNTIME_DIRECTORY`, which the service manager sets, the user's runtime directory, or a
/// directory of the user below `/tmp`.
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
    // The service manager separates multiple directories by colons. The first directory is used.
    let runtime = runtime.and_then(|list| list.as_bytes().split(|b| *b == b':').next());
    match (runtime, user_directory) {
        (Some(first), _) if !first.is_empty() => {
            Path::new(OsStr::from_bytes(first)).join("feed.sock")
        }
        (_, Some(directory)) => directory.join("fanfare/feed.sock"),
        (_, None) => PathBuf::from(format!("/tmp/fanfare-{uid}/feed.sock")),
    }
}

/// A configuration under construction, with the origins of its values and the problems found so
/// far.
struct Draft {
    /// The defaults as a table. This table is also the list of all keys and their types.
    defaults: Table,
    values: Table,
    origins: Origins,
    problems: Vec<Problem>,
}

impl Draft {
    fn new() -> Self {
        let defaults = Table::try_from(Config::default());
        debug_assert!(defaults.is_ok(), "the defaults can be written as TOML");
        let defaults = defaults.unwrap_or_default();
        Self {
            values: defaults.clone(),
            defaults,
            origins: Origins::default(),
            problems: Vec::new(),
        }
    }

    fn take_file(&mut self, text: &str, name: &str) {
        let (document, spans) = match (text.parse::<Table>(), DeTable::parse(text)) {
            (Ok(document), Ok(spans)) => (document, spans),
            (Err(error), _) | (_, Err(error)) => {
                let at = error.span().map_or(0, |span| span.start);
                let origin = file_origin(text, name, at);
                let key = key_around(text, at);
                return self.problem(origin, &key, error.message().replace('\n', ", "));
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

    /// Reads the tables of `[[namespace]]`, and the line number of each key.
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
        self.origins.0.insert(String::from(NAMESPACE), origin);
        for (index, (table, spans)) in tables.iter().zip(spans).enumerate() {
            let at = file_origin(text, name, spans.span().start);
            let (Value::Table(table), Some(spans)) = (table, spans.get_ref().as_table()) else {
                self.problem(at, NAMESPACE, NOT_TABLES);
                continue;
            };
            if !table.contains_key(MATCH) {
                let key = format!("{NAMESPACE}[{index}]");
                self.problem(at, &key, "has no `match`; name its channels");
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
        let mut valid = Table::new();
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
            // Parses a table that contains only this key and an empty pattern. So a parse error
            // always concerns this key.
            let alone = Table::from_iter([
                (String::from(MATCH), Value::String(String::new())),
                (key.clone(), value.clone()),
            ]);
            let alone: Result<Namespace, toml::de::Error> = alone.try_into();
            if let Err(error) = alone {
                let message = types::message(&error, value, Some(1..=u64::MAX));
                self.problem(origin, &indexed, message);
                continue;
            }
            self.origins.0.insert(indexed, origin);
            valid.insert(key, value.clone());
        }
        let all = self.values.entry(NAMESPACE);
        if let Value::Array(all) = all.or_insert_with(|| Value::Array(Vec::new())) {
            all.push(Value::Table(valid));
        }
    }

    /// Reads the variables of all keys. Returns a warning for each variable that matches no key.
    fn take_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Vec<String> {
        let ours: BTreeMap<String, String> = environment
            // An empty variable counts as unset, so that a unit or a container can clear a
            // variable.
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
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
            .map(|name| format!("{name}: there is no such key; the variable is ignored"))
            .collect()
    }

    /// Parses a text into the type of the key's default.
    fn take_text(&mut self, key: &str, text: &str, default: &Value, origin: Origin) {
        let number = text.trim();
        let (value, expected) = match default {
            Value::Integer(_) => (number.parse().map(Value::Integer).ok(), "u64"),
            Value::Boolean(_) => (number.parse().map(Value::Boolean).ok(), "a boolean"),
            Value::Float(_) => (number.parse().map(Value::Float).ok(), "f64"),
            Value::Array(_) => {
                let items = text.split(',').map(str::trim);
                let items = items.filter(|item| !item.is_empty());
                let items = items.map(|item| Value::String(String::from(item)));
                (Some(Value::Array(items.collect())), "a sequence")
            }
            Value::String(_) | Value::Datetime(_) | Value::Table(_) => {
                (Some(Value::String(String::from(text))), "a string")
            }
        };
        match value {
            Some(value) => self.take_value(key, value, origin),
            None => {
                let allowed = types::allowed(expected, range_of(key));
                self.problem(origin, key, format!("is `{text}`, but must be {allowed}"));
            }
        }
    }

    fn take_flags(&mut self, flags: &Overrides) {
        if !flags.listen.is_empty() {
            let addresses = flags.listen.iter().map(|a| Value::String(a.to_string()));
            let value = Value::Array(addresses.collect());
            self.take_value("listen", value, Origin::Flag("--listen"));
        }
        if flags.tls_self_signed {
            let origin = Origin::Flag("--tls-self-signed");
            self.take_value("tls.self_signed", Value::Boolean(true), origin.clone());
            self.listen_with_tls(origin);
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

    /// Adds an address with TLS for the self-signed certificate, unless the configuration has such
    /// an address.
    fn listen_with_tls(&mut self, origin: Origin) {
        let Some(Value::Array(mut listen)) = self.values.get("listen").cloned() else {
            return;
        };
        let parsed = listen
            .iter()
            .map(|entry| entry.clone().try_into::<Listen>());
        if !parsed.flatten().any(|listen| listen.is_tls) {
            listen.push(Value::String(String::from(TRIAL_LISTEN)));
            self.take_value("listen", Value::Array(listen), origin);
        }
    }

    fn take_path(&mut self, key: &str, path: Option<&Path>, flag: &'static str) {
        match path.map(Path::to_str) {
            Some(Some(text)) => {
                let value = Value::String(String::from(text));
                self.take_value(key, value, Origin::Flag(flag));
            }
            Some(None) => self.problem(Origin::Flag(flag), key, "is a path that is not UTF-8"),
            None => {}
        }
    }

    /// Sets one value. The type of the value is checked in a configuration that contains only this
    /// key, so that every error concerns this key.
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
            let message = types::message(&error, &value, range_of(key));
            return self.problem(origin, key, message);
        }
        let target = match section {
            Some(section) => self.values.get_mut(section).and_then(Value::as_table_mut),
            None => Some(&mut self.values),
        };
        if let Some(target) = target {
            target.insert(String::from(name), value);
            self.origins.0.insert(String::from(key), origin);
        }
    }

    fn finish(mut self) -> Result<(Config, Origins), ConfigError> {
        let values = std::mem::take(&mut self.values);
        let config = match deserialize(values) {
            Ok(config) => config,
            Err(error) => {
                self.problem(Origin::Default, "", error.message());
                return Err(ConfigError::Invalid(self.problems));
            }
        };
        let mut found = config.validate().err().unwrap_or_default();
        if !self.problems.is_empty() {
            // A value that could not be parsed has its default here. A relation between keys could
            // be wrong only because of this default, so only problems of one key are reported.
            found.retain(|invalid| self.is_about_one_parsed_key(invalid));
        }
        self.problems.extend(self.origins.problems(found));
        match self.problems.is_empty() {
            true => Ok((config, self.origins)),
            false => Err(ConfigError::Invalid(self.problems)),
        }
    }

    /// Whether a problem concerns one key, whose value was parsed. The number of a namespace is
    /// wrong if an earlier one was not parsed.
    fn is_about_one_parsed_key(&self, invalid: &Invalid) -> bool {
        let [key] = invalid.keys.as_slice() else {
            return false;
        };
        let is_namespace = |key: &str| key.starts_with(NAMESPACE);
        let mut unparsed = self.problems.iter().map(|problem| problem.key.as_str());
        !unparsed.any(|other| other == key || is_namespace(other) && is_namespace(key))
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

fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Returns the key of the line with a syntax error. The result is empty if the line has no key.
fn key_around(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let (above, line) = text.split_at(start);
    let line = line.lines().next().unwrap_or_default();
    let name = line.split_once('=').map_or("", |(name, _)| name.trim());
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.is_empty() || !name.bytes().all(is_bare) {
        return String::new();
    }
    let header = above.lines().rev().find(|line| line.starts_with('['));
    match header.map(|header| header.trim_matches(['[', ']', ' '])) {
        Some(section) => format!("{section}.{name}"),
        None => String::from(name),
    }
}

fn file_origin(text: &str, name: &str, at: usize) -> Origin {
    let before = text.as_bytes().iter().take(at);
    Origin::File {
        name: String::from(name),
        line: before.filter(|b| **b == b'\n').count() + 1,
    }
}

#[cfg(test)]
mod tests;
