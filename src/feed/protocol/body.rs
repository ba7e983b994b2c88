//! The body of one HTTP request: counted or chunked (RFC 9112, 6 and 7.1), cut anywhere.
//!
//! Consumes as it goes, so that chunk extensions and sizes are never stored. Holds at most its
//! limit; a body that is only skipped holds nothing.

use httparse::{Status, parse_chunk_size};

/// The longest line between the chunks, in bytes. An unfinished line is not consumed, so this is
/// also what the caller keeps of it. Chunk extensions and trailer fields are ignored.
const LINE_BYTES_MAX: usize = 1024;
/// Bytes of all trailer fields together.
const TRAILER_BYTES_MAX: usize = 8192;

/// A body on its way in.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Bytes that came, kept or not.
    length: usize,
    keeping: Keeping,
}

/// Whether a body's bytes are of use.
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

/// How a body goes on.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    /// It has ended behind this many bytes.
    Complete(usize),
    /// So many bytes were taken, and more are needed.
    More(usize),
}

/// Why a body cannot be read. The connection is lost with it, since its end is not known.
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

    /// What has come so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes bytes up to the end of the body.
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
    /// The empty line behind the last chunk, with its length.
    Last(usize),
    Partial,
    Taken(usize),
}

impl Chunked {
    fn take_line(&mut self, rest: &[u8], bytes_max: usize) -> Result<Line, BodyError> {
        match self {
            // The caller takes data.
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
                // A bare LF ends no line here either.
                match rest.get(..end) {
                    Some([b'\r']) => Ok(Line::Last(end + 1)),
                    Some([.., b'\r']) => Ok(Line::Taken(end + 1)),
                    _ => Err(BodyError::Malformed),
                }
            }
        }
    }

    fn take_size(&mut self, rest: &[u8], bytes_max: usize) -> Result<Line, BodyError> {
        // The parser takes a line without any digit for zero, which would end the body early.
        if rest.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(BodyError::Malformed);
        }
        let parsed = parse_chunk_size(rest);
        // Nor does it mind a bare LF among extensions, where others see the line's end.
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

    /// Reads a whole chunked body, after `0` and the line end that end its chunks.
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
