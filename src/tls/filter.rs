//! The TLS state of one conn: an incomplete record, plaintext that has not been read, and unsent
//! records.
//!
//! An idle filter has no buffers, because empty buffers are freed. Encrypted bytes cannot be
//! withdrawn, so the worker encrypts at most one write ahead of the socket.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::Identity;
use crate::certain;
use crate::config::limits::TLS_RECORD_BYTES;

/// The maximum number of bytes that a record adds to its plaintext: header, explicit nonce, content
/// type and tag (RFC 5246, 6.2.3.3; RFC 8446, 5.2).
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// The number of bytes to reserve for an alert.
const ALERT_BYTES: usize = 64;

/// A fatal error of the TLS protocol. If the peer must receive an alert about the error, the alert
/// is appended to the unsent records.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct TlsError(#[from] rustls::Error);

/// The TLS state of one conn.
pub struct Filter {
    library: UnbufferedServerConnection,
    /// Received bytes that are not processed yet: the start of a record, or of a handshake message
    /// that spans several records.
    partial: Vec<u8>,
    /// Received plaintext that the caller has not taken yet.
    plain: Vec<u8>,
    /// Encrypted records to send.
    sealed: Vec<u8>,
    /// The number of bytes of `sealed` that were sent. Always less than the length of `sealed`,
    /// unless both numbers are zero.
    sent: usize,
    /// Whether any bytes have been received.
    has_begun: bool,
    is_peer_done: bool,
    /// Whether rustls has returned a fatal error. After such an error, rustls must not be called
    /// again.
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
    /// Makes a filter whose handshake has not begun.
    ///
    /// # Errors
    /// Returns the error of rustls if it refuses the identity. This is not expected, because
    /// [`Identity::new`] has checked the identity.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self {
            library: UnbufferedServerConnection::new(Arc::clone(&identity.config))?,
            partial: Vec::new(),
            plain: Vec::new(),
            sealed: Vec::new(),
            sent: 0,
            has_begun: false,
            is_peer_done: false,
            is_broken: false,
        })
    }

    /// Whether the handshake is not complete.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.library.is_handshaking()
    }

    /// Whether the handshake resumed an earlier session with a ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.library.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Whether any bytes have been received.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the peer has closed its side with `close_notify`.
    #[must_use]
    pub fn is_peer_done(&self) -> bool {
        self.is_peer_done
    }

    /// Processes received bytes. After the call, [`Filter::take_plain`] returns the plaintext, and
    /// [`Filter::unsent`] returns the records that answer the received bytes.
    ///
    /// # Errors
    /// Returns the error of rustls if the peer violates the protocol or its certificate is refused.
    /// After an error, further bytes are ignored.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<(), TlsError> {
        self.has_begun = true;
        if self.is_broken {
            return Ok(());
        }
        if self.partial.is_empty() {
            let done = self.process(bytes)?;
            self.partial.extend_from_slice(certain::skip(bytes, done));
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

    /// Returns the received plaintext and removes it from the filter. The caller may put back
    /// plaintext that it cannot use yet.
    #[must_use]
    pub fn take_plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    /// Puts back plaintext that the caller has taken but could not use. Between the two calls, no
    /// bytes may be received.
    pub fn put_back(&mut self, plain: Vec<u8>) {
        debug_assert!(self.plain.is_empty());
        self.plain = plain;
    }

    /// Whether there is plaintext to take.
    #[must_use]
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Encrypts plaintext and appends the records to the unsent records. Returns the number of
    /// encrypted bytes. The number is zero during the handshake and after an error; otherwise all
    /// bytes are encrypted.
    ///
    /// # Errors
    /// Returns the error of rustls if the keys must not encrypt more records.
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

    /// Appends a `close_notify` to the unsent records.
    pub fn close(&mut self) {
        if self.is_broken {
            return;
        }
        let written = self.write(ALERT_BYTES, |state, room| match state {
            ConnectionState::WriteTraffic(mut traffic) => {
                traffic.queue_close_notify(room).map(Some)
            }
            _ => Ok(None),
        });
        // An error is ignored. During the handshake and after an error, no `close_notify` can be
        // written, and none is needed.
        drop(written);
    }

    /// Returns the records to send next.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        certain::skip(&self.sealed, self.sent)
    }

    /// Removes the first `bytes` bytes of the unsent records, after they were sent.
    pub fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        debug_assert!(self.sent <= self.sealed.len());
        if self.sent >= self.sealed.len() {
            self.sent = 0;
            self.sealed = Vec::new();
        }
    }

    /// Returns the number of allocated bytes of the buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.partial.capacity() + self.plain.capacity() + self.sealed.capacity()
    }

    /// Reserves `room` bytes after the unsent records, and calls `write` to fill them. Removes the
    /// bytes that `write` did not use.
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
        let space = certain::skip_mut(&mut self.sealed, begin);
        // rustls stores offsets into an incomplete message, so each call must pass the bytes of
        // this message again.
        let status = self.library.process_tls_records(&mut self.partial);
        let discard = status.discard;
        let written = match status.state {
            Ok(state) => write(state, space).map_err(|error| match error {
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

    /// Processes complete records. Returns the number of processed bytes.
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
                    self.collect_alerts(certain::skip_mut(bytes, discard));
                    return Err(TlsError(error));
                }
            }
            done += discard;
            let rest = std::mem::take(&mut bytes);
            bytes = certain::skip_mut(rest, discard);
            if is_over {
                return Ok(done);
            }
        }
    }

    /// Appends the alert that rustls sends to the peer after an error. Stops when rustls has
    /// nothing more to write, because rustls must not be called after that.
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

/// Appends the bytes that rustls encodes. The first call fails and returns the required size.
fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, into: &mut Vec<u8>) {
    let begin = into.len();
    let mut written = encode(&mut []);
    if let Err(EncodeError::InsufficientSize(size)) = &written {
        into.resize(begin + size.required_size, 0);
        written = encode(certain::skip_mut(into, begin));
    }
    debug_assert!(written.is_ok(), "the second attempt has enough room");
    into.truncate(begin + written.unwrap_or(0));
}
