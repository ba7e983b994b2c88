//! WebSocket frames from server to client (RFC 6455, 5.2). They are unmasked and never fragmented.

use super::{Envelope, Frame, Payload, Publication, envelope};

/// The bit that marks the last frame of a message (RFC 6455, 5.2).
pub const FIN: u8 = 0x80;
/// The bit that marks a compressed message (RFC 7692, 6).
pub const RSV1: u8 = 0x40;

/// The type of a frame (RFC 6455, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A continuation of a fragmented message.
    Continuation = 0,
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// A frame of the closing handshake.
    Close = 8,
    /// A request for a pong.
    Ping = 9,
    /// A response to a ping, or an unsolicited heartbeat (RFC 6455, 5.5.3).
    Pong = 10,
}

impl Opcode {
    /// Returns the opcode that the four bits encode, or `None` if the value is reserved.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether this is a control frame, which may occur between fragments of a message (RFC 6455,
    /// 5.5).
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Appends a frame with its payload.
pub fn push_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    push_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends the header of a final, unmasked frame. The length is encoded in the shortest form: 1, 3
/// or 9 bytes.
pub fn push_header(opcode: Opcode, payload_bytes: usize, out: &mut Vec<u8>) {
    push_head(FIN | opcode as u8, payload_bytes, out);
}

/// Appends the frame of a compressed message (RFC 7692, 6).
pub fn push_deflated(opcode: Opcode, compressed: &[u8], out: &mut Vec<u8>) {
    push_head(FIN | RSV1 | opcode as u8, compressed.len(), out);
    out.extend_from_slice(compressed);
}

fn push_head(first: u8, payload_bytes: usize, out: &mut Vec<u8>) {
    out.push(first);
    if let Ok(short @ ..126) = u8::try_from(payload_bytes) {
        out.push(short);
    } else if let Ok(short) = u16::try_from(payload_bytes) {
        out.push(126);
        out.extend_from_slice(&short.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
    }
}

/// Encodes a publication as an uncompressed frame.
#[must_use]
pub fn encode(publication: &Publication, envelope: Envelope) -> Frame {
    let (mut out, mut body) = (Vec::new(), Vec::new());
    let (opcode, message) = message(publication, envelope, &mut body);
    push_frame(opcode, message, &mut out);
    Frame::whole(out)
}

/// Returns the message of a publication. Uses `body` as a buffer unless the message is the payload
/// itself. With the data envelope, JSON and text are text messages, and bytes are binary messages.
pub(super) fn message<'m>(
    publication: &'m Publication,
    envelope: Envelope,
    body: &'m mut Vec<u8>,
) -> (Opcode, &'m [u8]) {
    match (envelope, &publication.payload) {
        (Envelope::Data, Payload::Bytes(bytes)) => (Opcode::Binary, bytes),
        (Envelope::Data, Payload::Json(text) | Payload::Text(text)) => {
            (Opcode::Text, text.as_bytes())
        }
        (Envelope::Full | Envelope::Initial, payload) => {
            body.clear();
            body.reserve(payload.len() + publication.channel.as_str().len() + 112);
            envelope::push_full(publication, envelope == Envelope::Initial, body);
            (Opcode::Text, body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_the_shortest_length_at_every_boundary() {
        for (length, expected) in [
            (0usize, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            push_header(Opcode::Text, length, &mut out);
            assert_eq!(out, expected, "{length}");
        }
    }

    #[test]
    fn opcode_is_parsed_from_its_own_bits() {
        for bits in 0..16 {
            if let Some(opcode) = Opcode::from_bits(bits) {
                assert_eq!(opcode as u8, bits);
            }
        }
        assert_eq!(Opcode::from_bits(3), None);
        assert_eq!(Opcode::from_bits(11), None);
    }
}
