//! Runs the server's TLS filter against a client of the same TLS library. Each side must receive
//! everything that the other side sends, in pieces of any length. This is not checked after bytes
//! have been injected that neither side sent.
//!
//! The first byte selects whether the handshake is completed first. The rest is a list of pieces,
//! each with a kind, a length and that number of bytes. Depending on the kind, the client sends the
//! piece (whole or in small cuts), the server sends it, or it is injected unencrypted. If the bit
//! 0x40 of the kind is set, the client updates its key first.

use std::sync::{Arc, LazyLock};

use fanfare::tls::{Filter, Identity};

use super::secure::{PeerEnd, secure};

/// The maximum size of a filter's buffers: a handshake message, a record, and slack.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

static IDENTITY: LazyLock<Arc<Identity>> =
    LazyLock::new(|| secure(1).identity.current().expect("an identity"));

/// Runs the target on an input: the pieces of a conversation.
pub fn attack(bytes: &[u8]) {
    let Some((mode, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut pair = Pair::new();
    if mode & 1 == 0 {
        pair.exchange(usize::from(mode >> 1).max(1));
        assert!(!pair.filter.is_handshaking());
    }
    while let [kind, length, after @ ..] = rest {
        let (piece, others) = after.split_at(after.len().min(usize::from(*length)));
        rest = others;
        if kind & 64 != 0 {
            pair.peer.change_keys();
        }
        match kind % 4 {
            0 => pair.send(piece, usize::MAX),
            1 => pair.send(piece, usize::from(kind / 4).max(1)),
            2 => pair.seal(piece),
            _ => pair.inject(piece),
        }
    }
    pair.check();
}

struct Pair {
    filter: Filter,
    peer: PeerEnd,
    sent: Vec<u8>,
    received: Vec<u8>,
    sealed: Vec<u8>,
    opened: Vec<u8>,
    /// Whether bytes were injected that the client did not send, or the filter has failed.
    is_spoiled: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            filter: Filter::new(&IDENTITY).expect("a filter"),
            peer: PeerEnd::new(),
            sent: Vec::new(),
            received: Vec::new(),
            sealed: Vec::new(),
            opened: Vec::new(),
            is_spoiled: false,
        }
    }

    /// Exchanges the pending bytes of both sides until nothing is pending. The client's bytes are
    /// cut into pieces of this length.
    fn exchange(&mut self, cut: usize) {
        while !self.is_spoiled {
            let mut up = self.peer.sealed();
            for piece in up.chunks_mut(cut.min(1 << 16)) {
                self.receive(piece);
            }
            let down = self.filter.unsent().to_vec();
            self.filter.advance(down.len());
            if up.is_empty() && down.is_empty() {
                return;
            }
            if !self.is_spoiled {
                self.peer.open(&down, &mut self.opened);
            }
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) {
        self.is_spoiled |= self.filter.receive(bytes).is_err();
        self.received.append(&mut self.filter.take_plain());
        assert!(self.filter.buffer_bytes() <= BUFFER_BYTES_MAX);
    }

    fn send(&mut self, piece: &[u8], cut: usize) {
        self.peer.send(piece);
        self.sent.extend_from_slice(piece);
        self.exchange(cut);
    }

    fn seal(&mut self, piece: &[u8]) {
        if let Ok(count) = self.filter.seal(piece) {
            assert!(count == 0 || count == piece.len());
            self.sealed.extend_from_slice(&piece[..count]);
        }
        // Pieces of even length are sent immediately. Pieces of odd length wait for a later
        // exchange, so that both cases are tested.
        if piece.len().is_multiple_of(2) {
            self.exchange(usize::MAX);
        }
    }

    fn inject(&mut self, piece: &[u8]) {
        self.receive(&mut piece.to_vec());
        self.is_spoiled = true;
    }

    fn check(&mut self) {
        if self.is_spoiled {
            self.filter.close();
            return;
        }
        self.exchange(usize::MAX);
        assert_eq!(self.received, self.sent);
        assert_eq!(self.opened, self.sealed);
    }
}
