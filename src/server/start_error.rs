//! The reasons why the server does not start.

use std::io;
use std::net::SocketAddr;

use crate::config::validate::Invalid;
use crate::feed;
use crate::journal::replay::JournalError;
use crate::spans::ExporterError;
use crate::sys::socket_file::SocketFileError;

/// The reason why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Files or directories that the configuration names cannot be used.
    #[error("{}", joined(.0))]
    Configuration(Vec<Invalid>),
    /// The admin listener cannot be bound.
    #[error("cannot listen on {address} for metrics (key `admin`): {error}")]
    Admin {
        /// The address in the key `admin`.
        address: SocketAddr,
        /// The error of `bind(2)` or `listen(2)`.
        error: io::Error,
    },
    /// The operator's socket cannot be opened.
    #[error("cannot open the operator's socket (key `admin_socket`): {0}")]
    AdminSocket(SocketFileError),
    /// The feed's socket cannot be opened.
    #[error("cannot open the feed (key `{key}`): {0}", key = feed::key_of(.0))]
    Feed(SocketFileError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(JournalError),
    /// An address for clients cannot be bound.
    #[error("cannot listen on {address} (key `listen`): {error}")]
    Listen {
        /// An address in the key `listen`.
        address: SocketAddr,
        /// The error of `bind(2)` or `listen(2)`.
        error: io::Error,
    },
    /// Spans cannot be exported.
    #[error(transparent)]
    Spans(ExporterError),
    /// `getrandom(2)` failed.
    #[error("cannot get random bytes from the system: {0}")]
    Random(getrandom::Error),
    /// Another system call failed, for example because no descriptor or thread is left.
    #[error("cannot {what}: {error}")]
    System {
        /// The step that failed, as a verb with its object.
        what: &'static str,
        /// The error of the system call.
        error: io::Error,
    },
}

impl StartError {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

impl From<JournalError> for StartError {
    fn from(refused: JournalError) -> Self {
        if !refused.error.is_lasting() {
            return Self::Journal(refused);
        }
        let message = format!("{}: {}", refused.path.display(), refused.error);
        Self::Configuration(vec![Invalid::new("journal.path", message)])
    }
}

fn joined(found: &[Invalid]) -> String {
    let each = found.iter();
    let each = each.map(|invalid| format!("{}: {}", invalid.keys.join(", "), invalid.message));
    each.collect::<Vec<_>>().join("; ")
}
