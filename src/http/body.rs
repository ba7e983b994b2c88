//! Reads the body of one HTTP request, with Content-Length or chunked (RFC 9112, 6 and 7.1). The
//! body may arrive in any number of parts.
//!
//! Bytes are consumed as they arrive, so chunk sizes and extensions are never stored. At most
//! `bytes_max` bytes of content are stored. The content of a skipped body is not stored.

use super::chunked::{ChunkError, Chunks, Step};
use crate::certain;

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    bytes: Vec<u8>,
    bytes_max: usize,
    /// The number of bytes of content that have been received, whether they are stored or not.
    length: usize,
    keeping: Keeping,
}

/// Whether the content of a body is kept or skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Kept,
    Skipped,
}

#[derive(Debug)]
enum Framing {
    Chunked(Chunks),
    Counted { left: usize },
}

/// The outcome of [`Body::take`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Progress {
    /// The body ended after this many bytes.
    Complete(usize),
    /// This many bytes were consumed, and more bytes are needed.
    More(usize),
}

/// The reason for which a body cannot be read. The connection must be closed, because the end of
/// the body is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the chunks of the body are malformed")]
    Malformed,
    #[error("the body is too large")]
    TooLarge,
}

impl Body {
    pub(crate) fn counted(length: usize, keeping: Keeping) -> Self {
        Self::new(Framing::Counted { left: length }, length, keeping)
    }

    pub(crate) fn chunked(bytes_max: usize, keeping: Keeping) -> Self {
        Self::new(Framing::Chunked(Chunks::new(bytes_max)), bytes_max, keeping)
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

    /// Returns the content that has been received so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Consumes bytes of `input`, but none after the end of the body.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<Progress, BodyError> {
        let mut used = 0;
        loop {
            let rest = certain::skip(input, used);
            let before = used;
            match &mut self.framing {
                Framing::Counted { left } => {
                    let taken = rest.len().min(*left);
                    *left -= taken;
                    let is_complete = *left == 0;
                    self.keep(certain::take(rest, taken))?;
                    used += taken;
                    if is_complete {
                        return Ok(Progress::Complete(used));
                    }
                }
                Framing::Chunked(chunks) => match chunks.next(rest)? {
                    Step::Content(taken) => {
                        self.keep(certain::take(rest, taken))?;
                        used += taken;
                    }
                    Step::Line(line) => used += line,
                    Step::End(line) => return Ok(Progress::Complete(used + line)),
                    Step::Partial => return Ok(Progress::More(used)),
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

impl From<ChunkError> for BodyError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::ChunkTooLarge => Self::TooLarge,
            ChunkError::ContentEnd
            | ChunkError::LineTooLong
            | ChunkError::Size
            | ChunkError::Trailer => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunked::{LINE_BYTES_MAX, TRAILER_BYTES_MAX};
    use super::*;

    /// Reads a chunked body that consists of the last chunk and these trailer lines.
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
