//! Access to header fields that may occur on several lines and that few requests need.
//!
//! These fields are not stored when the head is parsed. A caller that needs such a field reads all
//! of its lines from the head, in order. Together the lines are one list (RFC 9110, 5.2).

/// The field lines of one request head.
#[derive(Clone, Copy, Debug, Default)]
pub struct FieldLines<'b> {
    /// A head that the parser has checked: each line ends in CR LF, and no line is folded.
    head: &'b [u8],
}

impl<'b> FieldLines<'b> {
    pub(super) fn of(head: &'b [u8]) -> Self {
        Self { head }
    }

    /// Returns the values of all fields with this name, in order.
    pub fn named(self, name: &str) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        let lines = self.head.split(|byte| *byte == b'\n');
        lines.filter_map(move |line| {
            let (field, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            field
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| value.trim_ascii())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_full_name_and_in_order() {
        let head = b"GET / HTTP/1.1\r\nCookie: a=1\r\nHost: h\r\nCOOKIE:b=2; c=3 \r\n\
                     X-Cookie: d=4\r\nCookies: e=5\r\ncookie:\r\n\r\n";
        let lines = FieldLines::of(head);
        let values: Vec<&[u8]> = lines.named("cookie").collect();
        assert_eq!(values, [&b"a=1"[..], b"b=2; c=3", b""]);
        assert_eq!(lines.named("cookie").next_back(), Some(&b""[..]));
        assert_eq!(lines.named("forwarded").next(), None);
        assert_eq!(FieldLines::default().named("cookie").next(), None);
    }
}
