//! Problems of a configuration, and where each value comes from.
//!
//! PURE: values made by [`super::file`] and shown by the command line, one line per problem, in the
//! form that editors understand: `fanfare.toml:12: quota.overflow: …`. A value that is not from the
//! file has its environment variable or flag in front.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::validate::Invalid;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Values are invalid; has all problems.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// As it was given.
        path: PathBuf,
        /// From the system call.
        error: io::Error,
    },
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key, as `section.key`; empty if the document has a syntax error.
    pub key: String,
    /// The value, and what is allowed.
    pub message: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No file, variable or flag has it.
    Default,
    /// An environment variable.
    Environment(String),
    /// A line of the file, counted from 1.
    File {
        /// The file's name as it was given.
        name: String,
        /// Its number.
        line: usize,
    },
    /// A flag, with its hyphens.
    Flag(&'static str),
}

/// Where each value comes from, by `section.key`. Missing keys have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// Adds its origin to each problem. Of several keys, the first that a user has set is the one
    /// to change.
    #[must_use]
    pub fn locate(&self, found: Vec<Invalid>) -> ConfigError {
        let located = found.into_iter().map(|invalid| {
            debug_assert!(!invalid.keys.is_empty(), "{}", invalid.message);
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
