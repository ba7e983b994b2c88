//! A connection to the server, with or without TLS, and the token that it presents.
//!
//! The token file is read for each connection, so that a reconnect uses a renewed token. A token is
//! never part of a message.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, StreamOwned};

use super::target::Target;
use crate::cli::socket::Socket;

/// A connection to the server.
pub(super) enum Connection {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Connection {
    /// Connects, and completes the TLS handshake if there is a configuration for TLS.
    pub(super) fn open(
        target: &Target,
        tls: Option<&Arc<ClientConfig>>,
        deadline: Instant,
    ) -> io::Result<Self> {
        let mut socket = Socket::connect(&target.host, target.port, deadline)?;
        let Some(config) = tls else {
            return Ok(Self::Plain(socket));
        };
        let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(tls, socket))))
    }

    /// Replaces the deadline of reads and writes. `None` removes the deadline.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        match self {
            Self::Plain(socket) => socket.set_deadline(deadline),
            Self::Tls(stream) => stream.sock.set_deadline(deadline),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Returns the message for an error of TLS, or `None` for an error of the socket.
pub(super) fn tls_failure(authority: &str, error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        // The signature is wrong if a trusted authority has the same name as the unknown one.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => format!(
            "the certificate of {authority} is from an unknown authority; name the certificate \
             of the authority with --cacert FILE"
        ),
        Error::InvalidCertificate(cause) => {
            format!("the certificate of {authority} is not valid: {cause}")
        }
        Error::InvalidMessage(_) => format!(
            "{authority} does not speak TLS; use its TLS port, or a URL with ws:// or http://"
        ),
        other => format!("TLS with {authority} has failed: {other}"),
    })
}

/// Reads a token from a file. An error is a message for the user.
pub(super) fn read_token(path: &Path) -> Result<String, String> {
    let failed = |reason: &str| format!("--token-file {}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
    let token = text.trim();
    check_token(token).map_err(failed)?;
    Ok(String::from(token))
}

/// Checks that a token can be the value of a header field. The reason does not repeat the token.
pub(super) fn check_token(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        return Err("the token is empty");
    }
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("a token has no spaces, control characters or characters beyond ASCII"),
    }
}
