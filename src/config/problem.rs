//! Problems of a configuration, and the origin of each value.
//!
//! PURE: [`super::file`] creates the values of this module, and the command line prints them, one
//! line per problem. Editors understand the format: `fanfare.toml:12: quota.overflow: …`. If a
//! value is not from the file, the line begins with the value's environment variable or flag.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::validate::Invalid;

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// At least one value is invalid. The list contains all problems.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The path as it was passed.
        path: PathBuf,
        /// The error of the system call.
        error: io::Error,
    },
}

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The origin of the value.
    pub origin: Origin,
    /// The key, as `section.key`. Empty if the document has a syntax error.
    pub key: String,
    /// The value, and the values that are allowed.
    pub message: String,
}

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default, because no file, variable or flag sets the value.
    Default,
    /// The environment variable with this name.
    Environment(String),
    /// A line of the file.
    File {
        /// The name of the file as it was passed.
        name: String,
        /// The number of the line, counted from 1.
        line: usize,
    },
    /// The flag with this name, including its hyphens.
    Flag(&'static str),
}

/// The origins of all values, by `section.key`. Keys that are missing have their default value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// Adds the origin to each problem. If a problem concerns several keys, its origin is the
    /// origin of the first key that the user has set.
    #[must_use]
    pub fn locate(&self, found: Vec<Invalid>) -> ConfigError {
        ConfigError::Invalid(self.problems(found).collect())
    }

    /// Adds the origin to each problem, as [`Self::locate`] does.
    pub(super) fn problems(&self, found: Vec<Invalid>) -> impl Iterator<Item = Problem> {
        found.into_iter().map(|invalid| {
            debug_assert!(!invalid.keys.is_empty(), "{}", invalid.message);
            let origin = invalid.keys.iter().find_map(|key| self.0.get(key));
            Problem {
                origin: origin.cloned().unwrap_or(Origin::Default),
                key: invalid.keys.into_iter().next().unwrap_or_default(),
                message: invalid.message,
            }
        })
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

/// Formats one problem per line.
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
