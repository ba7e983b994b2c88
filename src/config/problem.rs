//! What is wrong with a configuration, and where it stands.
//!
//! PURE: values made by [`super::file`] and shown by the command line, one line per problem, in the
//! form that editors jump to: `fanfare.toml:12: quota.overflow: …`. Where no file has the value,
//! the environment variable or the flag stands in front.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::validate::Invalid;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The values are wrong; all that is wrong with them.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// One thing that is wrong and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key, as `section.key`; empty where the document itself is broken.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody named it.
    Default,
    /// An environment variable.
    Environment(String),
    /// A line of the file, counted from 1.
    File {
        /// The file's name as it was given.
        name: String,
        /// The line.
        line: usize,
    },
    /// A flag, with its hyphens.
    Flag(&'static str),
}

/// Where each value comes from, by `section.key`. Keys that are missing have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// Adds to each fault where the value stands. The key that was chosen is the one to mend, also
    /// where it is the second named.
    #[must_use]
    pub fn locate(&self, found: Vec<Invalid>) -> ConfigError {
        let located = found.into_iter().map(|invalid| {
            let origin = invalid.keys.iter().find_map(|key| self.0.get(key));
            Problem {
                origin: origin.cloned().unwrap_or(Origin::Default),
                key: invalid.keys.into_iter().next().unwrap_or_default(),
                message: invalid.message,
            }
        });
        ConfigError::Invalid(located.collect())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment(name) => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Shows one problem per line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}
