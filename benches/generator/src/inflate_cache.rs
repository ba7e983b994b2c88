//! PURE: this module inflates each compressed message (RFC 7692) once for all connections of a
//! thread.
//!
//! A server that compresses a publication once sends the same frame to every client, so a client
//! thread receives the same bytes thousands of times. The key of a cache entry consists of all
//! bytes of the message, so a message that differs in one bit is inflated separately. The cache
//! contains at most a few megabytes and is cleared when it is full. [`super::stream_parser`] calls
//! this module.

use flate2::{Decompress, FlushDecompress, Status};
use hashbrown::HashMap;

use super::stream_parser::ClientEvent;

/// The maximum length of an inflated message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The maximum size of the cache in bytes: compressed messages, plus [`ENTRY_BYTES`] for each
/// entry.
const FRAMES_BYTES_MAX: usize = 4 << 20;
/// The minimum size of a cache entry in bytes, excluding the compressed message.
const ENTRY_BYTES: usize = 64;

/// The bytes that a sender omits at the end of a message (RFC 7692, 7.2.1), followed by an empty
/// final block. A message is complete if the inflater reaches the end of this final block.
const TAIL_AND_END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// The initial capacity of the buffer for an inflated message, in bytes.
const FIRST_ROOM_BYTES: usize = 512;

/// A cache that contains the event of each compressed message, by the bytes of the message.
#[derive(Debug)]
pub struct InflateCache {
    inflater: Decompress,
    message: Vec<u8>,
    known: HashMap<Box<[u8]>, Option<ClientEvent>>,
    known_bytes: usize,
    messages: u64,
    inflated: u64,
}

impl Default for InflateCache {
    fn default() -> Self {
        Self {
            inflater: Decompress::new(false),
            message: Vec::new(),
            known: HashMap::default(),
            known_bytes: 0,
            messages: 0,
            inflated: 0,
        }
    }
}

impl InflateCache {
    /// Returns the event of a compressed message. If the message is not in the cache, `read`
    /// extracts the event from the inflated message.
    pub fn event_of(
        &mut self,
        compressed: &[u8],
        read: impl FnOnce(&[u8]) -> Option<ClientEvent>,
    ) -> Option<ClientEvent> {
        self.messages += 1;
        if let Some(event) = self.known.get(compressed) {
            return *event;
        }
        self.inflated += 1;
        let event = match self.inflate(compressed) {
            Some(()) => read(&self.message),
            None => Some(ClientEvent::Ended),
        };
        let bytes = compressed.len() + ENTRY_BYTES;
        if self.known_bytes + bytes > FRAMES_BYTES_MAX {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += bytes;
        self.known.insert(Box::from(compressed), event);
        event
    }

    /// Inflates one message into the buffer. Returns `None` if the message is invalid, incomplete
    /// or too long.
    fn inflate(&mut self, compressed: &[u8]) -> Option<()> {
        self.message.clear();
        // An empty message is sent as one byte (RFC 7692, 7.2.3.6), but some senders omit this
        // byte.
        if compressed.is_empty() {
            return Some(());
        }
        self.inflater.reset(false);
        self.inflate_part(compressed)?;
        let is_at_end = self.inflate_part(&TAIL_AND_END)?;
        is_at_end.then_some(())
    }

    /// Inflates all of `input`. Returns whether its last block is marked as final, or `None` if the
    /// input is invalid or the message too long. A message may contain several blocks that are
    /// marked as final (RFC 7692, 7.2.3.4).
    fn inflate_part(&mut self, mut input: &[u8]) -> Option<bool> {
        let out = &mut self.message;
        loop {
            if out.len() == out.capacity() {
                out.reserve(out.len().max(FIRST_ROOM_BYTES));
            }
            let (taken_before, made_before) = (self.inflater.total_in(), out.len());
            let status = self
                .inflater
                .decompress_vec(input, out, FlushDecompress::Sync)
                .ok()?;
            let taken = usize::try_from(self.inflater.total_in() - taken_before).ok()?;
            input = input.get(taken..)?;
            if out.len() > MESSAGE_BYTES_MAX {
                return None;
            }
            let has_room = out.len() < out.capacity();
            if status == Status::StreamEnd {
                self.inflater.reset(false);
                if input.is_empty() {
                    return Some(true);
                }
            } else if input.is_empty() && has_room {
                return Some(false);
            } else if taken == 0 && out.len() == made_before && has_room {
                return None;
            }
        }
    }

    /// Returns the number of compressed messages, and resets the number to zero.
    pub fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Returns the number of messages that had to be inflated, and resets the number to zero.
    pub fn take_inflated(&mut self) -> u64 {
        std::mem::take(&mut self.inflated)
    }
}

/// Compresses a message in the way that fanfare does (RFC 7692, 7.2.1).
#[cfg(test)]
pub(super) fn deflate(message: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::new(3);
    let mut deflater = flate2::Compress::new_with_window_bits(level, false, 12);
    let mut out = Vec::with_capacity(message.len() + 64);
    deflater
        .compress_vec(message, &mut out, flate2::FlushCompress::Sync)
        .unwrap();
    assert_eq!(deflater.total_in(), message.len() as u64);
    out.truncate(out.len() - 4);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(text: &str) -> Vec<u8> {
        deflate(text.repeat(100).as_bytes())
    }

    #[test]
    fn equal_frames_are_inflated_once_and_different_ones_separately() {
        let mut cache = InflateCache::default();
        let refused = |status| Some(ClientEvent::Refused { status });
        let (one, two) = (compressed("one"), compressed("two"));
        for _ in 0..3 {
            let event = cache.event_of(&one, |text| {
                assert!(text.starts_with(b"oneone"));
                refused(1)
            });
            assert_eq!(event, refused(1));
            assert_eq!(cache.event_of(&two, |_| refused(2)), refused(2));
        }
        assert_eq!(cache.take_messages(), 6);
        assert_eq!(cache.take_inflated(), 2);
        let mut broken = one.clone();
        broken[0] ^= 0x06;
        assert_eq!(cache.event_of(&broken, |_| None), Some(ClientEvent::Ended));
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_different_messages() {
        let mut cache = InflateCache::default();
        let mut most = 0;
        for number in 0..20_000 {
            let text = format!("{number}{}", "some words that are repeated");
            let _event = cache.event_of(&compressed(&text), |_| None);
            most = most.max(cache.known_bytes);
        }
        assert!(
            most > FRAMES_BYTES_MAX / 2 && most <= FRAMES_BYTES_MAX,
            "{most}"
        );
    }
}
