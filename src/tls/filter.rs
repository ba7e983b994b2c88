//! One conn's TLS state: what has come and is no whole record yet, plaintext that nobody has taken,
//! and records on their way out.
//!
//! An idle filter holds none of them: its buffers are given back when they are empty. What is
//! sealed cannot be taken back, so the worker seals at most one write ahead of the socket.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::Identity;
use crate::config::limits::TLS_RECORD_BYTES;

/// Bytes that a record adds at most: header, explicit nonce, content type and tag (RFC 5246,
/// 6.2.3.3; RFC 8446, 5.2).
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Room for an alert.
const ALERT_BYTES: usize = 64;

/// Why a filter cannot go on. The alert that tells the peer, if there is one, is on its way out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct TlsError(#[from] rustls::Error);

/// One conn's TLS state.
pub struct Filter {
    library: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message in several.
    partial: Vec<u8>,
    /// Plaintext that has not been taken.
    plain: Vec<u8>,
    /// Records on their way out.
    sealed: Vec<u8>,
    /// How much of `sealed` is gone. Below its length, or both are zero.
    sent: usize,
    /// Something has been received.
    has_begun: bool,
    is_peer_done: bool,
    /// The library has given up and is not asked any more.
    is_broken: bool,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("is_handshaking", &self.is_handshaking())
            .field("partial", &self.partial.len())
            .field("plain", &self.plain.len())
            .field("unsent", &self.unsent().len())
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// A filter whose client has said nothing yet.
    ///
    /// # Errors
    /// When the library refuses the identity, which it does not.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self {
            library: UnbufferedServerConnection::new(Arc::clone(&identity.0))?,
            partial: Vec::new(),
            plain: Vec::new(),
            sealed: Vec::new(),
            sent: 0,
            has_begun: false,
            is_peer_done: false,
            is_broken: false,
        })
    }

    /// Whether the handshake is under way.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.library.is_handshaking()
    }

    /// Whether the handshake was spared most of its work by a ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.library.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Whether anything has been received.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the peer has said that it sends no more (`close_notify`).
    #[must_use]
    pub fn is_peer_done(&self) -> bool {
        self.is_peer_done
    }

    /// Takes what was read. Plaintext is to be had from [`Filter::take_plain`] afterwards, and
    /// what has to be answered is on its way out.
    ///
    /// # Errors
    /// When the peer breaks the protocol or may not come in. Nothing can be received after that.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<(), TlsError> {
        self.has_begun = true;
        if self.is_broken {
            return Ok(());
        }
        if self.partial.is_empty() {
            let done = self.process(bytes)?;
            self.partial
                .extend_from_slice(bytes.get(done..).unwrap_or_default());
            return Ok(());
        }
        self.partial.extend_from_slice(bytes);
        self.process_partial()
    }

    fn process_partial(&mut self) -> Result<(), TlsError> {
        let mut partial = std::mem::take(&mut self.partial);
        let done = self.process(&mut partial)?;
        if done < partial.len() {
            partial.drain(..done);
            self.partial = partial;
        }
        Ok(())
    }

    /// Gives the plaintext that has come; the caller may put back what it cannot use yet.
    #[must_use]
    pub fn take_plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    /// Puts plaintext back that was taken. Nothing may have been received since.
    pub fn put_back(&mut self, plain: Vec<u8>) {
        debug_assert!(self.plain.is_empty());
        self.plain = plain;
    }

    /// Whether there is plaintext to take.
    #[must_use]
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Seals plaintext behind what is on its way out. Before the handshake is done nothing is
    /// sealed; says how many bytes were, which is all or none.
    ///
    /// # Errors
    /// When so much has been sealed with these keys that they may not be used any more.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<usize, TlsError> {
        if plaintext.is_empty() || self.is_broken || self.is_handshaking() {
            return Ok(0);
        }
        self.process_partial()?;
        let records = plaintext.len().div_ceil(TLS_RECORD_BYTES);
        let room = plaintext.len() + records * RECORD_OVERHEAD + ALERT_BYTES;
        let written = self.write(room, |state, room| match state {
            ConnectionState::WriteTraffic(mut traffic) => {
                traffic.encrypt(plaintext, room).map(Some)
            }
            _ => Ok(None),
        })?;
        Ok(written.map_or(0, |_bytes| plaintext.len()))
    }

    /// Says that nothing more will be sent (`close_notify`).
    pub fn close(&mut self) {
        if self.is_broken {
            return;
        }
        let told = self.write(ALERT_BYTES, |state, room| match state {
            ConnectionState::WriteTraffic(mut traffic) => {
                traffic.queue_close_notify(room).map(Some)
            }
            _ => Ok(None),
        });
        // A filter that is broken or has not begun has nothing to say goodbye to.
        drop(told);
    }

    /// What is to be sent next.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.sealed.get(self.sent..).unwrap_or_default()
    }

    /// Notes that so many bytes were sent.
    pub fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        debug_assert!(self.sent <= self.sealed.len());
        if self.sent >= self.sealed.len() {
            self.sent = 0;
            self.sealed = Vec::new();
        }
    }

    /// Bytes that its own buffers hold, used or not.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.partial.capacity() + self.plain.capacity() + self.sealed.capacity()
    }

    /// Has the library write into room behind what is sealed.
    fn write(
        &mut self,
        room: usize,
        write: impl FnOnce(
            ConnectionState<'_, '_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<Option<usize>, EncryptError>,
    ) -> Result<Option<usize>, TlsError> {
        let begin = self.sealed.len();
        self.sealed.resize(begin + room, 0);
        let behind = self.sealed.get_mut(begin..).unwrap_or_default();
        // The library remembers where in the bytes before it a message began, so it always has to
        // be shown the same.
        let status = self.library.process_tls_records(&mut self.partial);
        let discard = status.discard;
        let written = match status.state {
            Ok(state) => write(state, behind).map_err(|error| match error {
                EncryptError::EncryptExhausted => rustls::Error::EncryptError,
                EncryptError::InsufficientSize(size) => {
                    rustls::Error::General(format!("needs {} bytes", size.required_size))
                }
            }),
            Err(error) => Err(error),
        };
        self.partial.drain(..discard);
        self.is_broken = written.is_err();
        let kept = written.as_ref().ok().copied().flatten().unwrap_or(0);
        self.sealed.truncate(begin + kept);
        if self.sealed.is_empty() {
            self.sealed = Vec::new();
        }
        Ok(written?)
    }

    /// Goes through records, and says how many bytes are done with.
    fn process(&mut self, mut bytes: &mut [u8]) -> Result<usize, TlsError> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.library.process_tls_records(bytes);
            let mut is_over = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(|room| data.encode(room), &mut self.sealed);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_peer_done = true,
                Ok(_) => is_over = true,
                Err(error) => {
                    self.is_broken = true;
                    self.collect_alerts(bytes.get_mut(discard..).unwrap_or_default());
                    return Err(TlsError(error));
                }
            }
            done += discard;
            let rest = std::mem::take(&mut bytes);
            bytes = rest.get_mut(discard..).unwrap_or_default();
            if is_over {
                return Ok(done);
            }
        }
    }

    /// After an error the library still says what the peer is to be told. It must not be asked
    /// once more than there is something.
    fn collect_alerts(&mut self, bytes: &mut [u8]) {
        while self.library.wants_write() {
            let state = self.library.process_tls_records(bytes).state;
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else {
                return;
            };
            encode(|room| data.encode(room), &mut self.sealed);
        }
    }
}

/// Appends what the library has encoded, in as much room as it asks for.
fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, into: &mut Vec<u8>) {
    let begin = into.len();
    let mut written = encode(&mut []);
    if let Err(EncodeError::InsufficientSize(size)) = &written {
        into.resize(begin + size.required_size, 0);
        written = encode(into.get_mut(begin..).unwrap_or_default());
    }
    into.truncate(begin + written.unwrap_or(0));
}
