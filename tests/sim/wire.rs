//! Parsers for everything that the worker writes: HTTP heads, chunks, event blocks, and WebSocket
//! frames, with or without compression.
//!
//! The parsers were written for this test only and are stricter than a client, so that they agree
//! with the server only if both are right. Invalid bytes cause a panic. The parsers do not
//! interpret the contents of messages.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The head of an HTTP response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) length: usize,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(n, _)| n == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        first
    }
}

/// Parses the head at the start of `bytes`. Returns `None` until the head is complete.
pub(crate) fn take_head(bytes: &[u8]) -> Option<Head> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = str::from_utf8(&bytes[..end]).expect("a head is text");
    let mut lines = text.split("\r\n");
    let status_line = lines.next().expect("a status line");
    let rest = status_line.strip_prefix("HTTP/1.1 ").expect("a version");
    let status = rest[..3].parse().expect("a status");
    let fields = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a field");
            (name.to_ascii_lowercase(), value.to_owned())
        })
        .collect();
    Some(Head {
        status,
        fields,
        length: end + 4,
    })
}

/// Returns the content of the chunk at the start of `bytes`, and the length of the chunk with its
/// framing.
pub(crate) fn take_chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let line_end = bytes.windows(2).position(|window| window == b"\r\n");
    let Some(line_end) = line_end else {
        assert!(bytes.len() < 20, "a chunk without a size: {bytes:?}");
        return None;
    };
    let line = str::from_utf8(&bytes[..line_end]).expect("a chunk's size");
    let size = usize::from_str_radix(line, 16)
        .unwrap_or_else(|error| panic!("{error}: a chunk's size is {line:?}"));
    let start = line_end + 2;
    let whole = bytes.get(start..start + size + 2)?;
    assert_eq!(&whole[size..], b"\r\n", "the end of a chunk");
    Some((&whole[..size], start + size + 2))
}

/// Returns the event block at the start of `bytes`, with the empty line that ends the block.
pub(crate) fn take_block(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|window| window == b"\n\n")?;
    bytes.get(..end + 2)
}

/// Skips comment lines. A stream that lags receives them as heartbeats.
pub(crate) fn after_comments(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b":\n") {
        bytes = rest;
    }
    bytes
}

/// Returns the value of a field in an event block, without the one space that may precede it.
pub(crate) fn block_field<'b>(block: &'b str, name: &str) -> Option<&'b str> {
    let mut lines = block.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

/// A WebSocket frame from the server.
#[derive(Debug)]
pub(crate) struct Frame<'b> {
    pub(crate) opcode: u8,
    pub(crate) is_compressed: bool,
    pub(crate) payload: &'b [u8],
    /// The whole frame, with its header.
    pub(crate) whole: &'b [u8],
}

/// Parses the frame at the start of `bytes`. Returns `None` until the frame is complete.
pub(crate) fn take_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let first = *bytes.first()?;
    assert_eq!(first & 0xb0, 0x80, "a final frame without reserved bits");
    let opcode = first & 0x0f;
    let is_compressed = first & 0x40 != 0;
    assert!(!is_compressed || opcode < 8, "a compressed control frame");
    assert!(
        matches!(opcode, 1 | 2 | 8 | 9 | 10),
        "opcode {opcode} from a server"
    );
    let second = *bytes.get(1)?;
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let (length, header) = match second {
        126 => {
            let length = usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()));
            assert!(length > 125, "the shortest length");
            (length, 4)
        }
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize;
            assert!(length > 65_535, "the shortest length");
            assert!(length < 1 << 24, "a frame of {length} bytes");
            (length, 10)
        }
        short => (usize::from(short), 2),
    };
    assert!(opcode < 8 || length <= 125, "a long control frame");
    let whole = bytes.get(..header + length)?;
    Some(Frame {
        opcode,
        is_compressed,
        payload: &whole[header..],
        whole,
    })
}

/// Inflates a message. The message must not refer to earlier messages or need a window above 4 KiB.
pub(crate) fn inflate(compressed: &[u8]) -> Vec<u8> {
    let whole = [compressed, &[0, 0, 0xff, 0xff]].concat();
    let mut engine = Decompress::new_with_window_bits(false, 12);
    let mut message = Vec::with_capacity(1 << 16);
    engine
        .decompress_vec(&whole, &mut message, FlushDecompress::Sync)
        .expect("DEFLATE");
    assert_eq!(engine.total_in(), whole.len() as u64, "all of it is used");
    assert!(compressed.len() < message.len(), "made longer");
    message
}

/// Compresses a message as a client does.
pub(crate) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut engine = Compress::new(Compression::fast(), false);
    let mut compressed = Vec::with_capacity(message.len() + 64);
    engine
        .compress_vec(message, &mut compressed, FlushCompress::Sync)
        .expect("DEFLATE");
    compressed.truncate(compressed.len() - 4);
    compressed
}

/// Returns a frame as the server would send it without compression.
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..65_536 => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// Returns a masked frame, as a client sends it. `first` is the first byte: the opcode and the bits
/// before it.
pub(crate) fn client_frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    let masked = payload.iter().zip(key.iter().cycle());
    frame.extend(masked.map(|(byte, key)| byte ^ key));
    frame
}
