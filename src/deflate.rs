//! DEFLATE (RFC 1951) for permessage-deflate (RFC 7692, 7.2). Each message is compressed
//! independently of the others.
//!
//! A [`Deflater`] compresses messages. An [`Inflater`] inflates messages of clients and enforces
//! its limit while it inflates. Connections are negotiated without context takeover, so one
//! deflater and one inflater serve all conns of a worker. Their state is allocated at the first
//! use: some 250 KiB for a deflater, 48 KiB for an inflater. This module is pure computation with
//! zlib-rs. The callers are `frame` and the WebSocket transport; the worker owns the state.

use flate2::{
    Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status as Progress,
};

use crate::certain;
use crate::config::limits::{
    DEFLATE_BUFFER_BYTES_KEPT, DEFLATE_BYTES_MAX, DEFLATE_BYTES_MIN, DEFLATE_LEVEL,
    DEFLATE_WINDOW_BITS,
};

/// The last four bytes of flushed output, which are removed from a message (RFC 7692, 7.2.1).
const FLUSH_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// [`FLUSH_TAIL`], followed by an empty final block. The inflater reads these bytes after the
/// message. If the inflater has not reached the end of the stream after these bytes, the message is
/// truncated.
const TAIL_AND_END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// The number of bytes by which the output buffer is larger than the message. The output ends with
/// [`FLUSH_TAIL`], which is not sent. If the output fills this buffer, the payload is not shorter
/// than the message, so the message is sent uncompressed.
const SLACK_BYTES: usize = 16;

/// The size of the first allocation for an inflated message, in bytes.
const FIRST_ROOM_BYTES: usize = 512;

/// Returns the maximum deflated length of a message with any compressor: nine bits for each byte,
/// plus the headers of blocks.
#[must_use]
pub fn deflated_bytes_max(message_bytes: u32) -> u64 {
    let bytes = u64::from(message_bytes);
    bytes + bytes / 8 + bytes / 64 + 16
}

/// Compresses messages.
#[derive(Debug, Default)]
pub struct Deflater {
    engine: Option<Box<Compress>>,
    out: Vec<u8>,
}

impl Deflater {
    /// Returns the payload of a frame with RSV1 set. Returns `None` if the message should be sent
    /// uncompressed, because it is too short, too long, or does not become shorter.
    pub fn deflate(&mut self, message: &[u8]) -> Option<&[u8]> {
        if !(DEFLATE_BYTES_MIN..=DEFLATE_BYTES_MAX).contains(&message.len()) {
            return None;
        }
        let engine = self.engine.get_or_insert_with(|| {
            let level = Compression::new(DEFLATE_LEVEL);
            let engine = Compress::new_with_window_bits(level, false, DEFLATE_WINDOW_BITS);
            Box::new(engine)
        });
        engine.reset();
        let room = message.len() + SLACK_BYTES;
        if self.out.capacity() > DEFLATE_BUFFER_BYTES_KEPT.max(room) {
            self.out = Vec::new();
        }
        self.out.clear();
        self.out.reserve_exact(room);
        let compressed = engine.compress_vec(message, &mut self.out, FlushCompress::Sync);
        debug_assert!(compressed.is_ok(), "{compressed:?}");
        compressed.ok()?;
        // If the output has filled the buffer, it may be incomplete.
        let is_whole = engine.total_in() == message.len() as u64 && self.out.len() < room;
        let body = self.out.strip_suffix(&FLUSH_TAIL)?;
        (is_whole && body.len() < message.len()).then_some(body)
    }
}

/// The reason for which a compressed message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The message is not DEFLATE, or is truncated.
    #[error("a compressed message is broken")]
    Broken,
    /// The inflated message is longer than allowed. Its length is not known, because inflating
    /// stopped at the limit.
    #[error("a message is too long when inflated")]
    TooLong,
}

/// Inflates messages.
#[derive(Debug, Default)]
pub struct Inflater {
    engine: Option<Box<Decompress>>,
    /// An empty buffer for the next message.
    spare: Vec<u8>,
    /// The number of bytes inflated since the last call of [`Inflater::take_inflated_bytes`].
    inflated_bytes: u64,
}

impl Inflater {
    /// Inflates the payload of one message. Memory grows with the output and is limited by
    /// `bytes_max`. The caller should return the buffer with [`Inflater::recycle`].
    ///
    /// # Errors
    /// Returns [`InflateError::Broken`] if the payload is not a whole DEFLATE message, or
    /// [`InflateError::TooLong`] if it inflates to more than `bytes_max`.
    pub fn inflate(
        &mut self,
        compressed: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, InflateError> {
        let mut out = std::mem::take(&mut self.spare);
        // An empty message is compressed to one byte (RFC 7692, 7.2.3.6), but some clients omit
        // that byte.
        if compressed.is_empty() {
            return Ok(out);
        }
        let engine = self
            .engine
            .get_or_insert_with(|| Box::new(Decompress::new(false)));
        engine.reset(false);
        let mut result = run(engine, compressed, bytes_max, &mut out);
        if result.is_ok() {
            result = run(engine, &TAIL_AND_END, bytes_max, &mut out);
        }
        self.inflated_bytes += out.len() as u64;
        match result {
            Ok(Stop::AtEnd) => Ok(out),
            Ok(Stop::Midway) => self.fail(out, InflateError::Broken),
            Err(error) => self.fail(out, error),
        }
    }

    /// Keeps a buffer for the next message, unless it has grown beyond
    /// [`DEFLATE_BUFFER_BYTES_KEPT`].
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= DEFLATE_BUFFER_BYTES_KEPT {
            buffer.clear();
            self.spare = buffer;
        }
    }

    /// Returns the number of bytes inflated since the last call, as a measure of work.
    pub fn take_inflated_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.inflated_bytes)
    }

    fn fail(&mut self, out: Vec<u8>, error: InflateError) -> Result<Vec<u8>, InflateError> {
        self.recycle(out);
        Err(error)
    }
}

/// The place in the DEFLATE stream where the input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The input ended directly after a final block (RFC 1951, 3.2.3).
    AtEnd,
    /// The input ended inside a block, or after a block that is not the final one.
    Midway,
}

/// Inflates all of `input`. A message may have several final blocks (RFC 7692, 7.2.3.4).
fn run(
    engine: &mut Decompress,
    mut input: &[u8],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<Stop, InflateError> {
    loop {
        if out.len() == out.capacity() {
            // The capacity is doubled, but it never exceeds the limit by more than one byte.
            let room_max = bytes_max.saturating_sub(out.len()).saturating_add(1);
            out.reserve_exact(out.len().max(FIRST_ROOM_BYTES).min(room_max));
        }
        let (taken_before, made_before) = (engine.total_in(), out.len());
        let progress = engine
            .decompress_vec(input, out, FlushDecompress::Sync)
            .map_err(|_why| InflateError::Broken)?;
        let taken = certain::to_usize(engine.total_in() - taken_before);
        input = certain::skip(input, taken);
        if out.len() > bytes_max {
            return Err(InflateError::TooLong);
        }
        let has_room = out.len() < out.capacity();
        if progress == Progress::StreamEnd {
            engine.reset(false);
            if input.is_empty() {
                return Ok(Stop::AtEnd);
            }
        } else if input.is_empty() && has_room {
            return Ok(Stop::Midway);
        } else if taken == 0 && out.len() == made_before && has_room {
            return Err(InflateError::Broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns compressible records, like those of a feed.
    fn records(bytes: usize) -> Vec<u8> {
        let record = |n: usize| format!("{{\"symbol\":\"S{}\",\"bid\":{}}},", n % 7, n * n % 9973);
        let text: String = (0..=bytes / 20).map(record).collect();
        text.into_bytes().into_iter().take(bytes).collect()
    }

    fn inflate(compressed: &[u8]) -> Result<Vec<u8>, InflateError> {
        Inflater::default().inflate(compressed, 1 << 20)
    }

    /// Compresses each piece with a separate call, as another implementation of DEFLATE may do.
    fn compress(pieces: &[(&[u8], FlushCompress)], window_bits: u8) -> Vec<u8> {
        let mut engine = Compress::new_with_window_bits(Compression::best(), false, window_bits);
        let mut out = Vec::new();
        for (piece, flush) in pieces {
            out.reserve(piece.len() + 64);
            engine.compress_vec(piece, &mut out, *flush).unwrap();
        }
        out
    }

    fn without_tail(mut flushed: Vec<u8>) -> Vec<u8> {
        assert!(flushed.ends_with(&FLUSH_TAIL));
        flushed.truncate(flushed.len() - FLUSH_TAIL.len());
        flushed
    }

    #[test]
    fn examples_of_the_standard_are_inflated() {
        // The examples of RFC 7692, 7.2.3.1 to 7.2.3.6.
        for (compressed, message) in [
            (
                &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
                &b"Hello"[..],
            ),
            (
                &[
                    0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
                ],
                b"Hello",
            ),
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
            (
                &[
                    0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
                ],
                b"Hello",
            ),
            (&[0x00], b""),
            (&[], b""),
        ] {
            assert_eq!(
                inflate(compressed).as_deref(),
                Ok(message),
                "{compressed:x?}"
            );
        }
        // The second message of RFC 7692, 7.2.3.2 refers to bytes of the first message. Without
        // context takeover, this is an error.
        assert_eq!(
            inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00]),
            Err(InflateError::Broken)
        );
    }

    #[test]
    fn truncated_message_is_broken_at_every_cut() {
        let mut deflater = Deflater::default();
        let whole = deflater.deflate(&records(700)).unwrap().to_vec();
        assert_eq!(inflate(&whole).as_deref(), Ok(&records(700)[..]));
        for cut in 1..whole.len() {
            assert_eq!(inflate(&whole[..cut]), Err(InflateError::Broken), "{cut}");
        }
    }

    #[test]
    fn inflating_a_bomb_stops_one_byte_above_the_limit() {
        let zeros = vec![0; 1 << 20];
        let bomb = without_tail(compress(&[(&zeros, FlushCompress::Sync)], 15));
        assert!(bomb.len() < 1100, "{}", bomb.len());
        for limit in [1, 125, 511, 512, 65_536, (1 << 20) - 1] {
            let mut inflater = Inflater::default();
            assert_eq!(inflater.inflate(&bomb, limit), Err(InflateError::TooLong));
            assert_eq!(inflater.take_inflated_bytes(), limit as u64 + 1);
            assert!(inflater.spare.capacity() <= DEFLATE_BUFFER_BYTES_KEPT);
            assert_eq!(inflater.take_inflated_bytes(), 0);
        }
        assert_eq!(inflate(&bomb), Ok(zeros));
    }

    #[test]
    fn limit_is_enforced_also_in_a_buffer_with_more_room() {
        let long = without_tail(compress(&[(&[7; 2000], FlushCompress::Sync)], 15));
        let short = without_tail(compress(&[(&[7; 200], FlushCompress::Sync)], 15));
        let mut inflater = Inflater::default();
        let buffer = inflater.inflate(&long, 2000).unwrap();
        inflater.recycle(buffer);
        assert_eq!(inflater.inflate(&short, 199), Err(InflateError::TooLong));
        assert_eq!(inflater.inflate(&short, 200), Ok(vec![7; 200]));
    }

    #[test]
    fn inflater_works_after_a_broken_message() {
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&[0xff; 9], 100), Err(InflateError::Broken));
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.inflate(&hello, 5), Ok(b"Hello".to_vec()));
        assert_eq!(inflater.inflate(&hello, 4), Err(InflateError::TooLong));
    }

    #[test]
    fn short_long_and_incompressible_messages_are_not_deflated() {
        let mut deflater = Deflater::default();
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..5000).map(|_| random.u8(..)).collect();
        assert_eq!(deflater.deflate(&noise), None);
        assert_eq!(deflater.deflate(b""), None);
        assert_eq!(deflater.deflate(&records(DEFLATE_BYTES_MIN - 1)), None);
        assert_eq!(deflater.deflate(&vec![b'x'; DEFLATE_BYTES_MAX + 1]), None);
        assert!(deflater.deflate(&records(DEFLATE_BYTES_MIN)).is_some());
        assert!(deflater.deflate(&vec![b'x'; DEFLATE_BYTES_MAX]).is_some());
        assert!(deflater.deflate(&records(DEFLATE_BYTES_MIN)).is_some());
        assert!(deflater.out.capacity() <= DEFLATE_BUFFER_BYTES_KEPT);
    }

    #[test]
    fn deflated_message_fits_the_negotiated_window() {
        let message = records(60_000);
        let mut deflater = Deflater::default();
        let compressed = [deflater.deflate(&message).unwrap(), &FLUSH_TAIL].concat();
        let mut engine = Decompress::new_with_window_bits(false, DEFLATE_WINDOW_BITS);
        let mut out = Vec::new();
        // Later pieces refer to the output of earlier pieces. So the inflater must keep this output
        // in its own window.
        for piece in compressed.chunks(100) {
            out.reserve(110_000);
            let progress = engine.decompress_vec(piece, &mut out, FlushDecompress::Sync);
            assert!(progress.is_ok());
        }
        assert_eq!(out, message);
    }

    proptest! {
        #[test]
        fn deflated_messages_inflate_to_themselves(
            messages in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..2000),
                    prop::collection::vec(97_u8..100, 0..9000),
                ],
                1..6,
            ),
        ) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            for message in messages {
                let Some(compressed) = deflater.deflate(&message) else { continue };
                prop_assert!(compressed.len() < message.len());
                let back = inflater.inflate(compressed, message.len()).unwrap();
                prop_assert!(back == message);
                inflater.recycle(back);
            }
        }

        #[test]
        fn messages_with_flushes_or_last_blocks_anywhere_are_inflated(
            message in prop::collection::vec(97_u8..120, 0..3000),
            cut in 0_usize..3000,
            window_bits in 9_u8..=15,
            ends in any::<bool>(),
        ) {
            let (first, second) = message.split_at(cut.min(message.len()));
            let flushed = compress(
                &[(first, FlushCompress::Full), (second, FlushCompress::Sync)],
                window_bits,
            );
            // The outputs of two compressors, one after the other. The first output ends with a
            // final block.
            let ended = [
                compress(&[(first, FlushCompress::Finish)], window_bits),
                compress(&[(second, FlushCompress::Sync)], window_bits),
            ];
            let compressed = without_tail(if ends { ended.concat() } else { flushed });
            prop_assert_eq!(inflate(&compressed), Ok(message));
        }

        #[test]
        fn garbage_never_inflates_above_the_limit(
            garbage in prop::collection::vec(any::<u8>(), 0..300),
            bytes_max in 125_usize..2000,
        ) {
            if let Ok(out) = Inflater::default().inflate(&garbage, bytes_max) {
                prop_assert!(out.len() <= bytes_max);
            }
        }
    }
}
