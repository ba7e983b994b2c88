//! The response to an HTTP/2 connection preface (RFC 9113, 3.4).
//!
//! An HTTP/2 client would parse an HTTP/1.1 response as broken frames and would not show the
//! response; curl, for example, prints "Empty reply from server". But clients report a GOAWAY frame
//! with the error code for this case. The debug data of the frame is the problem document.
//! [`super::response`] is the caller.

use crate::certain;

/// An empty SETTINGS frame, which must be the first frame (RFC 9113, 3.4).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The type of a GOAWAY frame (RFC 9113, 6.8).
const GOAWAY: u8 = 7;
/// The number of bytes of a GOAWAY frame's payload before the debug data.
const FIXED_BYTES: usize = 8;
/// The error code `HTTP_1_1_REQUIRED` (RFC 9113, 7).
const HTTP_1_1_REQUIRED: u32 = 0x0d;

/// Appends a SETTINGS frame and a GOAWAY frame with the debug data `debug`. They end an HTTP/2
/// connection before its first stream.
pub(super) fn push_goaway(debug: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&SETTINGS);
    let length = certain::to_u32(FIXED_BYTES + debug.len());
    let [high, length @ ..] = length.to_be_bytes();
    debug_assert_eq!(high, 0, "the length has 24 bits");
    out.extend_from_slice(&length);
    out.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    let last_stream = 0_u32;
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&HTTP_1_1_REQUIRED.to_be_bytes());
    out.extend_from_slice(debug);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_standard() {
        let mut out = Vec::new();
        push_goaway(b"why", &mut out);
        let expected = b"\0\0\0\x04\0\0\0\0\0\0\0\x0b\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0dwhy";
        assert_eq!(out, expected);
    }
}
