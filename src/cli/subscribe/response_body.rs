//! The body of a response (RFC 9112, 6): in chunks, with a length, or ended by the close of the
//! connection.
//!
//! PURE: the decoder does no I/O. It accepts the bytes in pieces of any size. The content does not
//! depend on how the bytes are split. Chunk extensions and trailers are skipped; both are bounded.

use fanfare::certain;

/// The maximum length of a line that is not content: a chunk size with extensions, or a trailer
/// field.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The way in which the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The body consists of chunks (RFC 9112, 7.1).
    Chunked,
    /// The body has this number of bytes.
    Length(u64),
    /// The body ends when the connection closes.
    UntilClose,
}

/// The framing of the body is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    #[error("a chunk's size is not a hexadecimal number")]
    ChunkSize,
    #[error("a line between chunks has more than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The decoder is inside content. The value is the number of bytes that are left.
    Content(u64),
    /// The decoder is before the line end that follows the content of a chunk.
    ChunkEnd,
    Done,
    Size,
    Trailer,
}

/// The state of the decoder between two calls.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    state: State,
    line: Vec<u8>,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Chunked => State::Size,
            Framing::Length(0) => State::Done,
            Framing::Length(bytes) => State::Content(bytes),
            Framing::UntilClose => State::Content(u64::MAX),
        };
        Self {
            framing,
            state,
            line: Vec::new(),
        }
    }

    /// Whether the body is complete.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the body is valid if the connection closes now.
    pub(super) fn may_end(&self) -> bool {
        self.is_done() || self.framing == Framing::UntilClose
    }

    /// Decodes the next piece and appends the content to `content`. Bytes after the body are
    /// ignored.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Content(left) => self.take_content(left, bytes, content),
                State::Done => return Ok(()),
                State::ChunkEnd | State::Size | State::Trailer => self.take_line(bytes)?,
            };
        }
        Ok(())
    }

    fn take_content<'a>(&mut self, left: u64, bytes: &'a [u8], content: &mut Vec<u8>) -> &'a [u8] {
        let wanted = certain::to_usize(left).min(bytes.len());
        let (taken, rest) = bytes.split_at(wanted);
        content.extend_from_slice(taken);
        let left = left - taken.len() as u64;
        self.state = match (self.framing, left) {
            (Framing::UntilClose, _) => State::Content(u64::MAX),
            (Framing::Chunked, 0) => State::ChunkEnd,
            (Framing::Length(_), 0) => State::Done,
            (Framing::Chunked | Framing::Length(_), left) => State::Content(left),
        };
        rest
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], BodyError> {
        let end = bytes.iter().position(|b| *b == b'\n');
        let (taken, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.line.len() + taken.len() > LINE_BYTES_MAX {
            return Err(BodyError::LineTooLong);
        }
        self.line.extend_from_slice(taken);
        let Some((_line_feed, rest)) = rest.split_first() else {
            return Ok(rest);
        };
        let line = std::mem::take(&mut self.line);
        self.state = self.after_line(line.strip_suffix(b"\r").unwrap_or(&line))?;
        Ok(rest)
    }

    fn after_line(&self, line: &[u8]) -> Result<State, BodyError> {
        match (self.state, line.is_empty()) {
            (State::ChunkEnd, true) => Ok(State::Size),
            (State::ChunkEnd, false) => Err(BodyError::ChunkEnd),
            (State::Size, _) => chunk_size(line).map(|bytes| match bytes {
                0 => State::Trailer,
                bytes => State::Content(bytes),
            }),
            (State::Trailer, false) => Ok(State::Trailer),
            (State::Trailer | State::Content(_) | State::Done, _) => Ok(State::Done),
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).map_err(|_not_text| BodyError::ChunkSize)?;
    let digits = digits.trim_end_matches([' ', '\t']);
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(BodyError::ChunkSize);
    }
    u64::from_str_radix(digits, 16).map_err(|_empty_or_too_large| BodyError::ChunkSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Decoded {
        let mut body = Body::new(framing);
        let mut content = Vec::new();
        for piece in pieces {
            body.push(piece, &mut content)?;
        }
        Ok((content, body.is_done()))
    }

    type Decoded = Result<(Vec<u8>, bool), BodyError>;

    fn assert_at_every_cut(framing: Framing, wire: &[u8], expected: &Decoded) {
        assert_eq!(&decode(framing, &[wire]), expected);
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(&decode(framing, &bytes), expected);
        for cut in 0..=wire.len() {
            let (left, right) = wire.split_at(cut);
            assert_eq!(&decode(framing, &[left, right]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn chunks_are_joined_and_extensions_and_trailers_skipped() {
        let wire = b"3\r\nabc\r\n0A ;x=\"y\"\r\n0123\r\n6789\r\n0\r\nX: y\r\n\r\nrest";
        assert_at_every_cut(
            Framing::Chunked,
            wire,
            &Ok((b"abc0123\r\n6789".to_vec(), true)),
        );
    }

    #[test]
    fn invalid_chunks_are_errors() {
        for (wire, error) in [
            (&b"x\r\n"[..], BodyError::ChunkSize),
            (b"\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"11111111111111111\r\n", BodyError::ChunkSize),
            (b"1\r\nab\r\n", BodyError::ChunkEnd),
        ] {
            assert_at_every_cut(Framing::Chunked, wire, &Err(error));
        }
        let long = vec![b'0'; LINE_BYTES_MAX + 1];
        assert_eq!(
            decode(Framing::Chunked, &[&long]),
            Err(BodyError::LineTooLong)
        );
    }

    #[test]
    fn body_ends_with_its_length_or_with_the_connection() {
        assert_at_every_cut(Framing::Length(3), b"abcdef", &Ok((b"abc".to_vec(), true)));
        assert_at_every_cut(Framing::UntilClose, b"abc", &Ok((b"abc".to_vec(), false)));
        assert!(Body::new(Framing::UntilClose).may_end());
        assert!(!Body::new(Framing::Chunked).may_end());
        assert!(Body::new(Framing::Length(0)).is_done());
    }
}
