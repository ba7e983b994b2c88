//! `Cookie` fields (RFC 6265, 4.2.1 and 5.4): the value of one cookie by its name.
//!
//! A head may have several `Cookie` lines: HTTP/2 splits the field (RFC 9113, 8.2.3), and a proxy
//! may pass it on in pieces. The lines are one list, in their order. Nothing is parsed until a
//! cookie is asked for, so a request costs nothing where no cookie is configured.

/// The cookies of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cookies<'b> {
    /// All lines of a head that has been parsed: each ends in CR LF, none is continued.
    head: &'b [u8],
}

impl<'b> Cookies<'b> {
    /// Borrows the lines of a parsed head.
    pub(super) fn of(head: &'b [u8]) -> Self {
        Self { head }
    }

    /// The value of the first cookie of this name that is not empty, without the quotes that may
    /// enclose it.
    pub(super) fn value(self, name: &str) -> Option<&'b [u8]> {
        let lines = self.head.split(|byte| *byte == b'\n');
        let fields = lines.filter_map(|line| {
            let (field, value) = line.split_at_checked(b"cookie:".len())?;
            field.eq_ignore_ascii_case(b"cookie:").then_some(value)
        });
        let mut pairs = fields.flat_map(|field| field.split(|byte| *byte == b';'));
        pairs.find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
            let value = value.strip_prefix(b"=")?;
            let quoted = value.strip_prefix(b"\"");
            let quoted = quoted.and_then(|value| value.strip_suffix(b"\""));
            Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'b>(head: &'b str, name: &str) -> Option<&'b str> {
        let value = Cookies::of(head.as_bytes()).value(name);
        value.map(|value| str::from_utf8(value).unwrap())
    }

    #[test]
    fn cookie_is_found_by_its_whole_name() {
        let head = "GET / HTTP/1.1\r\nCookie: a=1; xtoken=2; token=3; token=4; b\r\n\r\n";
        assert_eq!(value(head, "token"), Some("3"));
        assert_eq!(value("cookie:token=\"3\"\r\n\r\n", "token"), Some("3"));
        for pairs in ["", "token", "token=", "token=\"\"", "tokens=3", ";;=;"] {
            assert_eq!(value(&format!("Cookie: {pairs}\r\n\r\n"), "token"), None);
        }
    }

    #[test]
    fn several_lines_are_one_list_in_order() {
        let head = "GET / HTTP/1.1\r\nCookie: a=1\r\nHost: h\r\nCOOKIE: token=2; b=3\r\n\
                    X-Cookie: c=4\r\nCookies: d=5\r\ncookie: token=6; e=7\r\n\r\n";
        for (name, expected) in [
            ("a", Some("1")),
            ("token", Some("2")),
            ("b", Some("3")),
            ("c", None),
            ("d", None),
            ("e", Some("7")),
        ] {
            assert_eq!(value(head, name), expected, "{name}");
        }
        let emptied = "Cookie: token=; a=1\r\nCookie: token=2\r\n\r\n";
        assert_eq!(value(emptied, "token"), Some("2"));
    }
}
