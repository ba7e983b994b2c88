//! Finds the content of a chunked body (RFC 9112, 7.1), which may arrive in any number of parts.
//!
//! The parser stores no bytes. It consumes content and complete lines; the caller passes an
//! incomplete line again together with the bytes after it. Chunk extensions and trailer fields are
//! skipped, and their length is limited. [`super::body`] is the caller.

use httparse::{Status, parse_chunk_size};

use super::framing::is_token_byte;

/// The maximum length of a line between chunks, in bytes. An incomplete line is not consumed, so
/// this limit also bounds the caller's buffer.
pub(super) const LINE_BYTES_MAX: usize = 1024;
/// The maximum total length of all trailer fields, in bytes.
pub(super) const TRAILER_BYTES_MAX: usize = 8192;

/// The state of the parser: a position in a chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
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

/// The part of a chunked body with which the input begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Step {
    /// The input begins with this many bytes of content.
    Content(usize),
    /// The input begins with a line that is not content. The value is its length in bytes.
    Line(usize),
    /// The input begins with the last line of the body. The value is its length in bytes.
    End(usize),
    /// More bytes must arrive before any bytes can be consumed.
    Partial,
}

/// The reason for which the chunks cannot be read. In this case, the end of the body is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkError {
    /// There is no CR LF after the content of a chunk.
    #[error("a chunk does not end where its size says")]
    ContentEnd,
    /// A chunk is larger than the caller allows.
    #[error("a chunk is too large")]
    ChunkTooLarge,
    /// A line, or the sum of all trailer fields, exceeds its limit.
    #[error("a line between chunks is too long")]
    LineTooLong,
    /// The line before a chunk does not begin with a hexadecimal size, or contains a bare LF.
    #[error("a chunk's size is not a hexadecimal number")]
    Size,
    /// A trailer line ends with a bare LF.
    #[error("a trailer line is not a field line that ends with CRLF")]
    Trailer,
}

impl Chunks {
    /// Starts a body whose chunks have at most this many bytes.
    #[must_use]
    pub(super) fn new(chunk_bytes_max: usize) -> Self {
        Self {
            state: State::Size,
            chunk_bytes_max,
        }
    }

    /// Returns the part of the body at the start of `input`, and moves past this part. The caller
    /// must remove the bytes of this part from the input.
    ///
    /// # Errors
    /// Returns a [`ChunkError`] if the framing is broken.
    pub(super) fn next(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
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
        // `parse_chunk_size` reads a line without digits as zero, which would end the body too
        // early.
        if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(ChunkError::Size);
        }
        let parsed = parse_chunk_size(input);
        // `parse_chunk_size` also accepts a bare LF in chunk extensions. Other parsers would see
        // the end of the line there.
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
                let extension = input.get(..line.saturating_sub(2));
                if !extension.is_some_and(has_no_control) {
                    return Err(ChunkError::Size);
                }
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
    // As in a head, a line that ends in a bare LF is refused.
    match input.get(..end) {
        Some([b'\r']) => Ok(Step::End(end + 1)),
        Some([field @ .., b'\r']) if is_field_line(field) => Ok(Step::Line(end + 1)),
        _ => Err(ChunkError::Trailer),
    }
}

/// Whether a line is a field line (RFC 9112, 5). Trailer fields are ignored, but a proxy that reads
/// such a line differently would disagree about the end of the request.
fn is_field_line(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else {
        return false;
    };
    let (name, value) = line.split_at(colon);
    !name.is_empty() && name.iter().copied().all(is_token_byte) && has_no_control(value)
}

fn has_no_control(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

fn within(bytes: usize, limit: usize) -> Result<(), ChunkError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(ChunkError::LineTooLong),
    }
}
