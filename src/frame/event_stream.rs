//! Server-sent events (WHATWG HTML, 9.2) and the chunks that carry them (RFC 9112, 7.1).

use super::{Envelope, Frame, Payload, Publication, envelope};

/// Encodes a publication as one event: an `id` line, an `event` line if the publication has an
/// event type, `data` lines, and an empty line.
#[must_use]
pub fn encode(publication: &Publication, envelope: Envelope) -> Frame {
    let mut event = Vec::with_capacity(publication.payload.len() + 128);
    event.extend_from_slice(b"id: ");
    envelope::push_display(&publication.id, &mut event);
    event.push(b'\n');
    if let Some(name) = publication.event() {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(name.as_bytes());
        event.push(b'\n');
    }
    match (envelope, &publication.payload) {
        (Envelope::Data, Payload::Bytes(bytes)) => {
            event.extend_from_slice(b"data: ");
            envelope::push_base64(bytes, &mut event);
            event.push(b'\n');
        }
        (Envelope::Data, Payload::Json(text) | Payload::Text(text)) => {
            push_data_lines(text, &mut event);
        }
        (Envelope::Full | Envelope::Initial, _) => {
            event.extend_from_slice(b"data: ");
            envelope::push_full(publication, envelope == Envelope::Initial, &mut event);
            event.push(b'\n');
        }
    }
    event.push(b'\n');
    Frame::chunk(&event)
}

/// Appends one `data` line for each line of the text. A line ends at CR, LF or CRLF, as in the
/// client's parser.
pub fn push_data_lines(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let line_end = rest.find(['\r', '\n']);
        let (line, after) = match line_end.and_then(|at| rest.split_at_checked(at)) {
            Some((line, after)) => (line, after.strip_prefix("\r\n").or_else(|| after.get(1..))),
            None => (rest, None),
        };
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
        match after {
            Some(after) => rest = after,
            None => return,
        }
    }
}

/// Appends one chunk and returns the length of its size line.
pub fn push_chunk(content: &[u8], out: &mut Vec<u8>) -> usize {
    use std::io::Write as _;
    let start = out.len();
    let written = write!(out, "{:x}\r\n", content.len());
    debug_assert!(written.is_ok());
    let size_line = out.len() - start;
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
    size_line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> String {
        let mut out = Vec::new();
        push_data_lines(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn data_lines_end_at_cr_lf_and_crlf() {
        assert_eq!(
            lines("a\nb\rc\r\nd"),
            "data: a\ndata: b\ndata: c\ndata: d\n"
        );
        assert_eq!(lines(""), "data: \n");
        assert_eq!(lines("a\n"), "data: a\ndata: \n");
        assert_eq!(lines("\n\r"), "data: \ndata: \ndata: \n");
        assert_eq!(lines("  ü"), "data:   ü\n");
    }
}
