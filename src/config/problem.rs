//! What is wrong with a configuration, and where it stands.
//!
//! PURE: values made by [`super::file`] and shown by the command line, one line per problem, in the
//! form that editors jump to: `fanfare.toml:12: quota.overflow: …`. Where no file has the value,
//! the environment variable or the flag stands in front.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The values are wrong; all that is wrong with them.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str("default: ")?,
            Origin::Environment(name) => write!(f, "{name}: ")?,
            Origin::File { name, line } => write!(f, "{name}:{line}: ")?,
            Origin::Flag(flag) => write!(f, "{flag}: ")?,
        }
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
