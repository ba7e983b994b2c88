//! Reads lines of bounded length.
//!
//! PURE: the code has no state, and the reader is an argument. A line that is too long is skipped
//! to its end and not stored, so that the next read begins with the next line. The module is used
//! for standard input and for the answers of the feed.

use std::io::{self, BufRead};

use fanfare::certain;

/// The result of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum LineRead {
    /// There are no more lines.
    End,
    /// A line was read, without its line end.
    Line,
    /// The line had more bytes than allowed and was skipped.
    TooLong,
}

/// Replaces the content of `line` with the next line of the reader.
pub(super) fn read(
    reader: &mut impl BufRead,
    bytes_max: usize,
    line: &mut Vec<u8>,
) -> io::Result<LineRead> {
    line.clear();
    let mut is_too_long = false;
    let mut is_empty = true;
    loop {
        let buffer = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            filled => filled?,
        };
        if buffer.is_empty() {
            break;
        }
        is_empty = false;
        let end = buffer.iter().position(|b| *b == b'\n');
        let taken = certain::take(buffer, end.unwrap_or(buffer.len()));
        if is_too_long || line.len() + taken.len() > bytes_max {
            is_too_long = true;
            line.clear();
        } else {
            line.extend_from_slice(taken);
        }
        let used = taken.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(match (is_empty, is_too_long) {
        (true, _) => LineRead::End,
        (false, true) => LineRead::TooLong,
        (false, false) => LineRead::Line,
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn all(text: &str, buffer: usize) -> Vec<(LineRead, String)> {
        let mut reader = BufReader::with_capacity(buffer, text.as_bytes());
        let mut line = Vec::new();
        let mut found = Vec::new();
        loop {
            let read = read(&mut reader, 4, &mut line).unwrap();
            if read == LineRead::End {
                return found;
            }
            found.push((read, String::from_utf8(line.clone()).unwrap()));
        }
    }

    #[test]
    fn lines_do_not_depend_on_the_size_of_the_buffer() {
        let expected = vec![
            (LineRead::Line, String::from("abcd")),
            (LineRead::TooLong, String::new()),
            (LineRead::Line, String::new()),
            (LineRead::Line, String::from("ab")),
            (LineRead::Line, String::from("c")),
        ];
        for buffer in 1..20 {
            assert_eq!(all("abcd\nabcdefgh\n\nab\r\nc", buffer), expected);
        }
        assert!(all("", 8).is_empty());
    }
}
