//! PURE: what compressed messages say (RFC 7692), each inflated once for all connections.
//!
//! A server that compresses a publication once sends the same frame to everybody, so a thread of
//! clients meets the same bytes thousands of times. What they say is looked up by all of them: a
//! frame with a single bit that differs is inflated for itself. Holds no more than a few megabytes,
//! and forgets all of it when there is no more room. Called by [`super::stream`].

use hashbrown::HashMap;

use super::stream::Heard;
use crate::deflate::Inflater;

/// The longest message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The most that is held of frames.
const FRAMES_BYTES_MAX: usize = 4 << 20;
/// What a frame takes beside its bytes, at least.
const ENTRY_BYTES: usize = 64;

/// What compressed messages have said.
#[derive(Debug, Default)]
pub struct Inflations {
    inflater: Inflater,
    known: HashMap<Box<[u8]>, Option<Heard>>,
    known_bytes: usize,
    messages: u64,
    inflated: u64,
}

impl Inflations {
    /// What a compressed message says, which `read` tells of its text.
    pub fn hear(
        &mut self,
        compressed: &[u8],
        read: impl FnOnce(&[u8]) -> Option<Heard>,
    ) -> Option<Heard> {
        self.messages += 1;
        if let Some(heard) = self.known.get(compressed) {
            return *heard;
        }
        self.inflated += 1;
        let heard = match self.inflater.inflate(compressed, MESSAGE_BYTES_MAX) {
            Ok(message) => {
                let heard = read(&message);
                self.inflater.recycle(message);
                heard
            }
            Err(_broken) => Some(Heard::End),
        };
        let bytes = compressed.len() + ENTRY_BYTES;
        if self.known_bytes + bytes > FRAMES_BYTES_MAX {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += bytes;
        self.known.insert(Box::from(compressed), heard);
        heard
    }

    /// Compressed messages since the last call.
    pub fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Messages that had to be inflated since the last call.
    pub fn take_inflated(&mut self) -> u64 {
        std::mem::take(&mut self.inflated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::Deflater;

    fn compressed(text: &str) -> Vec<u8> {
        let text = text.repeat(100);
        Deflater::default().deflate(text.as_bytes()).unwrap().into()
    }

    #[test]
    fn same_bytes_are_inflated_once_and_others_for_themselves() {
        let mut inflations = Inflations::default();
        let refused = |status| Some(Heard::Refused { status });
        let (one, two) = (compressed("one"), compressed("two"));
        for _ in 0..3 {
            let heard = inflations.hear(&one, |text| {
                assert!(text.starts_with(b"oneone"));
                refused(1)
            });
            assert_eq!(heard, refused(1));
            assert_eq!(inflations.hear(&two, |_| refused(2)), refused(2));
        }
        assert_eq!(inflations.take_messages(), 6);
        assert_eq!(inflations.take_inflated(), 2);
        let mut broken = one.clone();
        broken[0] ^= 0x06;
        assert_eq!(inflations.hear(&broken, |_| None), Some(Heard::End));
    }

    #[test]
    fn memory_has_a_bound_however_many_messages_differ() {
        let mut inflations = Inflations::default();
        let mut most = 0;
        for number in 0..20_000 {
            let text = format!("{number}{}", "some words that come again");
            let _heard = inflations.hear(&compressed(&text), |_| None);
            most = most.max(inflations.known_bytes);
        }
        assert!(
            most > FRAMES_BYTES_MAX / 2 && most <= FRAMES_BYTES_MAX,
            "{most}"
        );
    }
}
