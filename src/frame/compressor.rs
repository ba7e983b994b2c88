//! A worker's compressor and its scratch memory.
//!
//! Each worker owns one compressor and uses it to create the compressed frames of publications. So
//! neither conns nor publications need a compressor of their own. The compressor counts the
//! compressed frames and their bytes. The deflater decides whether compression makes a message
//! shorter. The frames are stored in the publication's [`super::Frames`].

use super::websocket::{self, push_deflated};
use super::{Envelope, Frame, Publication};
use crate::config::limits::{DEFLATE_BUFFER_BYTES_KEPT, FRAME_HEADER_BYTES_MAX};
use crate::deflate::Deflater;

/// A worker's compressor. It allocates nothing before the first compression.
#[derive(Debug, Default)]
pub struct Compressor {
    deflater: Deflater,
    /// A buffer for the message to compress. It is unused if the message is the payload itself.
    body: Vec<u8>,
    deflated: Deflated,
}

/// Counters of compressed messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflated {
    /// The number of compressed frames.
    pub frames: u64,
    /// The total size of the messages in these frames before compression, in bytes.
    pub plain_bytes: u64,
    /// The total size of the messages in these frames after compression, in bytes.
    pub deflated_bytes: u64,
}

impl Compressor {
    /// Returns the counters.
    #[must_use]
    pub fn deflated(&self) -> Deflated {
        self.deflated
    }

    /// Returns the frame of a publication's compressed message, or `None` if compression does not
    /// shorten the message.
    pub(super) fn deflate(
        &mut self,
        publication: &Publication,
        envelope: Envelope,
    ) -> Option<Frame> {
        let (opcode, message) = websocket::message(publication, envelope, &mut self.body);
        let plain_bytes = message.len() as u64;
        let frame = self.deflater.deflate(message).map(|compressed| {
            let mut out = Vec::with_capacity(compressed.len() + FRAME_HEADER_BYTES_MAX);
            push_deflated(opcode, compressed, &mut out);
            self.deflated.frames += 1;
            self.deflated.plain_bytes += plain_bytes;
            self.deflated.deflated_bytes += compressed.len() as u64;
            Frame::whole(out)
        });
        if self.body.capacity() > DEFLATE_BUFFER_BYTES_KEPT {
            self.body = Vec::new();
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::deflate::Inflater;
    use crate::frame::{FrameKind, Payload};
    use crate::id::{ChannelName, Cursor, Epoch, Sequence};
    use crate::time::Now;

    const PLAIN: FrameKind = FrameKind::WebSocket(Envelope::Full);
    const DEFLATED: FrameKind = FrameKind::WebSocketDeflated(Envelope::Full);

    fn publication(payload: Payload) -> Publication {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(1),
        };
        let channel = ChannelName::new("c").unwrap();
        Publication::new(id, channel, payload, Now(0), &Arc::default())
    }

    /// Returns the first byte of an unmasked frame, and the frame's payload.
    fn payload_of(frame: &[u8]) -> (u8, &[u8]) {
        let header = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        (frame[0], &frame[header..])
    }

    #[test]
    fn deflated_frame_inflates_to_the_plain_message_in_each_envelope() {
        for (payload, first) in [
            (Payload::Json("[1,2,3,4,5],".repeat(100).into()), 0xc1),
            (Payload::Text("ünï ".repeat(100).into()), 0xc1),
            (Payload::Bytes(vec![7; 70_000].into()), 0xc2),
        ] {
            for envelope in [Envelope::Data, Envelope::Full, Envelope::Initial] {
                let publication = publication(payload.clone());
                let mut compressor = Compressor::default();
                let frames = publication.frames();
                let wire = |kind, compressor: &mut Compressor| {
                    let frame = frames.encode(&publication, kind, compressor).unwrap();
                    frame.wire(kind).to_vec()
                };
                let plain = wire(FrameKind::WebSocket(envelope), &mut compressor);
                let deflated = wire(FrameKind::WebSocketDeflated(envelope), &mut compressor);
                let (_, message) = payload_of(&plain);
                let (bits, compressed) = payload_of(&deflated);
                let expected = match envelope {
                    Envelope::Data => first,
                    Envelope::Full | Envelope::Initial => 0xc1,
                };
                assert_eq!(bits, expected);
                let back = Inflater::default().inflate(compressed, 1 << 20).unwrap();
                assert!(back == message);
                let counted = Deflated {
                    frames: 1,
                    plain_bytes: message.len() as u64,
                    deflated_bytes: compressed.len() as u64,
                };
                assert_eq!(compressor.deflated(), counted);
                assert!(compressor.body.capacity() <= DEFLATE_BUFFER_BYTES_KEPT);
            }
        }
    }

    #[test]
    fn publication_is_compressed_once_for_all_workers() {
        let publication = publication(Payload::Text("tick ".repeat(100).into()));
        let (mut first, mut second) = (Compressor::default(), Compressor::default());
        let bytes = |compressor| {
            let frames = publication.frames();
            let frame = frames.encode(&publication, DEFLATED, compressor).unwrap();
            frame.wire(DEFLATED).as_ptr()
        };
        assert_eq!(bytes(&mut first), bytes(&mut second));
        assert_eq!(first.deflated().frames, 1);
        assert_eq!(second.deflated().frames, 0);
        let frames = publication.frames();
        assert_eq!(frames.holder(DEFLATED), Some(DEFLATED.cell()));
        assert_eq!(frames.encoded(PLAIN.cell()), None);
    }

    #[test]
    fn incompressible_payload_shares_the_plain_frame() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..600).map(|_| random.u8(..)).collect();
        for payload in [Payload::Text("short".into()), Payload::Bytes(noise.into())] {
            let publication = publication(payload);
            let kind = FrameKind::WebSocketDeflated(Envelope::Data);
            let plain = FrameKind::WebSocket(Envelope::Data);
            let frames = publication.frames();
            assert_eq!(frames.holder(kind), None);
            let mut compressor = Compressor::default();
            let deflated = frames.encode(&publication, kind, &mut compressor).unwrap();
            assert!(std::ptr::eq(deflated, frames.get(plain).unwrap()));
            assert!(std::ptr::eq(deflated, frames.get(kind).unwrap()));
            assert_eq!(frames.holder(kind), Some(plain.cell()));
            assert_eq!(frames.encoded(kind.cell()), None);
            assert_eq!(compressor.deflated(), Deflated::default());
        }
    }
}
