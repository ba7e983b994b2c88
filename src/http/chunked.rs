//! Finds the content of a chunked body (RFC 9112, 7.1), cut anywhere.
//!
//! Stores no bytes. Content and whole lines are consumed; the caller passes an incomplete line
//! again, with more bytes after it. Chunk extensions and trailer fields are skipped, and both are
//! bounded. [`super::body`] is the caller.

use httparse::{Status, parse_chunk_size};

/// The longest line between chunks, in bytes. An incomplete line is not consumed, so this also
/// bounds what the caller buffers.
pub const LINE_BYTES_MAX: usize = 1024;
/// The total bytes of all trailer fields.
pub const TRAILER_BYTES_MAX: usize = 8192;

/// The position in a chunked body.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    chunk_bytes_max: usize,
}

#[derive(Debug)]
enum State {
    Content { left: usize },
    ContentEnd,
    Size,
    Trailer { bytes: usize },
}

/// What the input begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// This many bytes of content.
    Content(usize),
    /// A line of this many bytes, which is not content.
    Line(usize),
    /// The last line of the body, of this many bytes.
    End(usize),
    /// Nothing that can be consumed before more bytes arrive.
    Partial,
}

/// Why the chunks cannot be read. The end of the body is unknown then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The content of a chunk is not followed by CRLF.
    #[error("a chunk does not end where its size says")]
    ContentEnd,
    /// A chunk is larger than the caller allows.
    #[error("a chunk is too large")]
    ChunkTooLarge,
    /// A line or all trailer fields exceed their bounds.
    #[error("a line between chunks is too long")]
    LineTooLong,
    /// A line does not begin with a hexadecimal size, or has a bare LF.
    #[error("a chunk's size is not a hexadecimal number")]
    Size,
    /// A trailer line ends with a bare LF.
    #[error("a trailer line does not end with CRLF")]
    Trailer,
}

impl Chunks {
    /// The start of a body whose chunks have at most this many bytes.
    #[must_use]
    pub fn new(chunk_bytes_max: usize) -> Self {
        Self {
            state: State::Size,
            chunk_bytes_max,
        }
    }

    /// Finds out what the input begins with, and moves past it. The caller removes these bytes.
    ///
    /// # Errors
    /// Returns a [`ChunkError`] if the framing is broken.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        match &mut self.state {
            State::Content { left } => {
                let taken = input.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.state = State::ContentEnd;
                }
                Ok(match taken {
                    0 => Step::Partial,
                    taken => Step::Content(taken),
                })
            }
            State::ContentEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Step::Line(2))
                }
                [] | [b'\r'] => Ok(Step::Partial),
                _ => Err(ChunkError::ContentEnd),
            },
            State::Size => self.take_size(input),
            State::Trailer { bytes } => take_trailer(bytes, input),
        }
    }

    fn take_size(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        // The parser reads a line without digits as zero, which would end the body early.
        if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(ChunkError::Size);
        }
        let parsed = parse_chunk_size(input);
        // It also accepts a bare LF among extensions, where other parsers see the end of the line.
        let line = match parsed {
            Ok(Status::Complete((line, _))) => input.get(..line.saturating_sub(1)),
            Ok(Status::Partial) => Some(input),
            Err(_) => None,
        };
        if line.is_some_and(|line| memchr::memchr(b'\n', line).is_some()) {
            return Err(ChunkError::Size);
        }
        match parsed {
            Err(httparse::InvalidChunkSize) => Err(ChunkError::Size),
            Ok(Status::Partial) => within(input.len(), LINE_BYTES_MAX).map(|()| Step::Partial),
            Ok(Status::Complete((line, size))) => {
                within(line, LINE_BYTES_MAX)?;
                let left = usize::try_from(size)
                    .ok()
                    .filter(|size| *size <= self.chunk_bytes_max)
                    .ok_or(ChunkError::ChunkTooLarge)?;
                self.state = match left {
                    0 => State::Trailer { bytes: 0 },
                    left => State::Content { left },
                };
                Ok(Step::Line(line))
            }
        }
    }
}

fn take_trailer(bytes: &mut usize, input: &[u8]) -> Result<Step, ChunkError> {
    let found = memchr::memchr(b'\n', input);
    let line = found.map_or(input.len(), |end| end + 1);
    within(line, LINE_BYTES_MAX)?;
    within(*bytes + line, TRAILER_BYTES_MAX)?;
    let Some(end) = found else {
        return Ok(Step::Partial);
    };
    *bytes += line;
    // A bare LF does not end a line here either.
    match input.get(..end) {
        Some([b'\r']) => Ok(Step::End(end + 1)),
        Some([.., b'\r']) => Ok(Step::Line(end + 1)),
        _ => Err(ChunkError::Trailer),
    }
}

fn within(bytes: usize, limit: usize) -> Result<(), ChunkError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(ChunkError::LineTooLong),
    }
}
