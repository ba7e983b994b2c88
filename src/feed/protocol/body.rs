//! The body of one HTTP request: by Content-Length or chunked (RFC 9112, 6 and 7.1), cut anywhere.
//!
//! Bytes are consumed as they arrive, so chunk sizes and extensions are never stored. Stores at
//! most `bytes_max`, and nothing of a skipped body.

use httparse::{Status, parse_chunk_size};

/// The longest line between chunks, in bytes. An incomplete line is not consumed, so this also
/// bounds what the caller buffers. Chunk extensions and trailer fields are ignored.
const LINE_BYTES_MAX: usize = 1024;
/// The total bytes of all trailer fields.
const TRAILER_BYTES_MAX: usize = 8192;

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Received bytes of content, kept or skipped.
    length: usize,
    keeping: Keeping,
}

/// Whether the content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    Kept,
    Skipped,
}

#[derive(Debug)]
enum Framing {
    Chunked(Chunked),
    Counted { left: usize },
}

#[derive(Debug)]
enum Chunked {
    Data { left: usize },
    DataEnd,
    Size,
    Trailer { bytes: usize },
}

/// The outcome of [`Body::take`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    /// The body ended after this many bytes.
    Complete(usize),
    /// This many bytes were consumed, and more are needed.
    More(usize),
}

/// Why a body cannot be read. The connection has to be closed, since the end of the body is
/// unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the chunks of the body are malformed")]
    Malformed,
    #[error("the body is too large")]
    TooLarge,
}

impl Body {
    pub(super) fn counted(length: usize, keeping: Keeping) -> Self {
        Self::new(Framing::Counted { left: length }, length, keeping)
    }

    pub(super) fn chunked(bytes_max: usize, keeping: Keeping) -> Self {
        Self::new(Framing::Chunked(Chunked::Size), bytes_max, keeping)
    }

    fn new(framing: Framing, bytes_max: usize, keeping: Keeping) -> Self {
        Self {
            framing,
            bytes: Vec::new(),
            bytes_max,
            length: 0,
            keeping,
        }
    }

    /// The content received so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Consumes bytes up to the end of the body.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<Progress, BodyError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let before = used;
            match &mut self.framing {
                Framing::Counted { left } => {
                    let taken = rest.len().min(*left);
                    *left -= taken;
                    let is_complete = *left == 0;
                    self.keep(rest.get(..taken).unwrap_or_default())?;
                    used += taken;
                    if is_complete {
                        return Ok(Progress::Complete(used));
                    }
                }
                Framing::Chunked(Chunked::Data { left }) => {
                    let taken = rest.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.framing = Framing::Chunked(Chunked::DataEnd);
                    }
                    self.keep(rest.get(..taken).unwrap_or_default())?;
                    used += taken;
                }
                Framing::Chunked(phase) => match phase.take_line(rest, self.bytes_max)? {
                    Line::Last(line) => return Ok(Progress::Complete(used + line)),
                    Line::Partial => return Ok(Progress::More(used)),
                    Line::Taken(line) => used += line,
                },
            }
            if used == before {
                return Ok(Progress::More(used));
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        self.length += bytes.len();
        if self.length > self.bytes_max {
            return Err(BodyError::TooLarge);
        }
        if self.keeping == Keeping::Kept {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// One line between the chunks.
enum Line {
    /// The empty line after the last chunk, with its length.
    Last(usize),
    Partial,
    Taken(usize),
}

impl Chunked {
    fn take_line(&mut self, rest: &[u8], bytes_max: usize) -> Result<Line, BodyError> {
        match self {
            // `Body::take` consumes data itself.
            Self::Data { .. } => Ok(Line::Partial),
            Self::DataEnd => match rest {
                [b'\r', b'\n', ..] => {
                    *self = Self::Size;
                    Ok(Line::Taken(2))
                }
                [] | [b'\r'] => Ok(Line::Partial),
                _ => Err(BodyError::Malformed),
            },
            Self::Size => self.take_size(rest, bytes_max),
            Self::Trailer { bytes } => {
                let found = memchr::memchr(b'\n', rest);
                let line = found.map_or(rest.len(), |end| end + 1);
                within(line, LINE_BYTES_MAX)?;
                within(*bytes + line, TRAILER_BYTES_MAX)?;
                let Some(end) = found else {
                    return Ok(Line::Partial);
                };
                *bytes += line;
                // A bare LF does not end a line here either.
                match rest.get(..end) {
                    Some([b'\r']) => Ok(Line::Last(end + 1)),
                    Some([.., b'\r']) => Ok(Line::Taken(end + 1)),
                    _ => Err(BodyError::Malformed),
                }
            }
        }
    }

    fn take_size(&mut self, rest: &[u8], bytes_max: usize) -> Result<Line, BodyError> {
        // The parser reads a line without digits as zero, which would end the body early.
        if rest.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(BodyError::Malformed);
        }
        let parsed = parse_chunk_size(rest);
        // It also accepts a bare LF among extensions, where other parsers see the end of the line.
        let line = match parsed {
            Ok(Status::Complete((line, _))) => rest.get(..line.saturating_sub(1)),
            Ok(Status::Partial) => Some(rest),
            Err(_) => None,
        };
        if line.is_some_and(|line| memchr::memchr(b'\n', line).is_some()) {
            return Err(BodyError::Malformed);
        }
        match parsed {
            Err(httparse::InvalidChunkSize) => Err(BodyError::Malformed),
            Ok(Status::Partial) => within(rest.len(), LINE_BYTES_MAX).map(|()| Line::Partial),
            Ok(Status::Complete((line, size))) => {
                within(line, LINE_BYTES_MAX)?;
                let left = usize::try_from(size)
                    .ok()
                    .filter(|size| *size <= bytes_max)
                    .ok_or(BodyError::TooLarge)?;
                *self = if left == 0 {
                    Self::Trailer { bytes: 0 }
                } else {
                    Self::Data { left }
                };
                Ok(Line::Taken(line))
            }
        }
    }
}

fn within(bytes: usize, limit: usize) -> Result<(), BodyError> {
    if bytes > limit {
        Err(BodyError::Malformed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a chunked body with only the last chunk and these trailer lines.
    fn trailer(lines: &str) -> Result<Progress, BodyError> {
        let mut body = Body::chunked(100, Keeping::Kept);
        body.take(format!("0\r\n{lines}").as_bytes())
    }

    #[test]
    fn trailer_line_is_bounded_whether_or_not_it_has_ended() {
        let longest = format!("a: {}\r\n", "x".repeat(LINE_BYTES_MAX - 5));
        assert_eq!(
            trailer(&format!("{longest}\r\n")),
            Ok(Progress::Complete(LINE_BYTES_MAX + 5))
        );
        let partial = longest.trim_end();
        assert_eq!(trailer(partial), Ok(Progress::More(3)));
        assert_eq!(
            trailer(&format!("b{longest}\r\n")),
            Err(BodyError::Malformed)
        );
        assert_eq!(trailer(&format!("bbb{partial}")), Err(BodyError::Malformed));
    }

    #[test]
    fn trailer_lines_are_bounded_together() {
        let line = format!("a: {}\r\n", "x".repeat(507));
        let within = TRAILER_BYTES_MAX / line.len() - 1;
        assert_eq!(
            trailer(&format!("{}\r\n", line.repeat(within))),
            Ok(Progress::Complete(within * line.len() + 5))
        );
        assert_eq!(trailer(&line.repeat(within + 2)), Err(BodyError::Malformed));
    }
}
