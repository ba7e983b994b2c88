//! `If-None-Match` (RFC 9110, 13.1.2): which of our ids a client says it has.
//!
//! A list of entity tags, on one line or several, compared weakly: `W/` makes no difference, nor
//! does what a proxy that compresses has appended to a tag of ours (`"ID-gzip"`, `"ID;br"`). Only
//! tags that could be ids of ours are kept. What is no entity tag ends its line, which costs a
//! client nothing but a whole answer.

use crate::id::Cursor;

/// Bytes of an id before the digits of its sequence number.
const EPOCH_BYTES: usize = 13;

/// What a client has already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `*`: whatever there is.
    is_any: bool,
    /// As many as fit into a head.
    ids: Vec<Cursor>,
}

impl Validators {
    /// Whether the client has what has this id.
    #[must_use]
    pub fn matches(&self, id: Cursor) -> bool {
        self.is_any || self.ids.contains(&id)
    }

    /// Takes one field line's value.
    pub(super) fn note(&mut self, value: &[u8]) {
        if value == b"*" {
            self.is_any = true;
            return;
        }
        let mut rest = value;
        while let Some((tag, after)) = take_tag(rest) {
            self.ids.extend(id_of(tag));
            rest = after;
        }
    }
}

/// The id that an opaque tag is, or begins with where a proxy has appended something. That begins
/// with `-`, `;`, `:` or the like, and never goes on with the number.
fn id_of(tag: &[u8]) -> Option<Cursor> {
    let number = tag.get(EPOCH_BYTES..)?;
    let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
    let (id, suffix) = tag.split_at_checked(EPOCH_BYTES + digits.count())?;
    if suffix.first().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    str::from_utf8(id).ok()?.parse().ok()
}

/// The next opaque tag of a list, without its quotes, and what follows it. A comma may stand inside
/// the quotes. Old proxies append to a tag after its quotes, which is passed over.
fn take_tag(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
    let (_, tag) = bytes.split_at_checked(start)?;
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag).strip_prefix(b"\"")?;
    let end = tag.iter().position(|byte| *byte == b'"')?;
    let (tag, after) = tag.split_at_checked(end)?;
    let after = after.strip_prefix(b"\"")?;
    let next = after.iter().position(|byte| *byte == b',');
    Some((tag, after.get(next.unwrap_or(after.len())..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Epoch, Sequence};

    fn id(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(sequence),
        }
    }

    /// Which of the ids 1 to 9 match the field lines.
    fn matching(lines: &[&[u8]]) -> Vec<u64> {
        let mut validators = Validators::default();
        for line in lines {
            validators.note(line);
        }
        (1..=9)
            .filter(|sequence| validators.matches(id(*sequence)))
            .collect()
    }

    #[test]
    fn list_is_compared_weakly_over_all_its_lines() {
        assert_eq!(matching(&[b"\"000000000001-3\""]), [3]);
        assert_eq!(matching(&[b"W/\"000000000001-3\""]), [3]);
        assert_eq!(
            matching(&[b", \"a,b\" ,\t\"000000000001-3\",W/\"000000000001-5\""]),
            [3, 5]
        );
        assert_eq!(
            matching(&[b"\"000000000001-3\"", b"\"x\", \"000000000001-7\""]),
            [3, 7]
        );
        assert_eq!(matching(&[b"*"]).len(), 9);
        assert_eq!(matching(&[]), [0; 0]);
    }

    #[test]
    fn tag_is_known_whatever_a_proxy_has_appended_to_it() {
        for suffix in [
            "-gzip", "--gzip", "-br", "-zstd", "-df", ";br", ";gzip", ":gzip", "/br", "+x", "-5",
            "\u{e4}",
        ] {
            for prefix in ["", "W/"] {
                let line = format!("\"x\", {prefix}\"000000000001-3{suffix}\", \"y\"");
                assert_eq!(matching(&[line.as_bytes()]), [3], "{line}");
            }
        }
        let outside = b"\"000000000001-3\"-gzip , W/\"000000000001-5\"";
        assert_eq!(matching(&[outside]), [3, 5]);
        for other in ["0", "x", "5-gzip"] {
            let line = format!("\"000000000001-3{other}\"");
            assert_eq!(matching(&[line.as_bytes()]), [0; 0], "{line}");
        }
    }

    #[test]
    fn tag_is_found_at_any_place_of_a_long_list() {
        let others = (10..400).map(|n| format!("\"000000000001-{n}\", \"x\", "));
        let line = others.collect::<String>() + "W/\"000000000001-4-gzip\"";
        assert_eq!(matching(&[line.as_bytes()]), [4]);
        assert_eq!(matching(&[line.as_bytes(), b"\"000000000001-6\""]), [4, 6]);
    }

    #[test]
    fn what_is_no_tag_of_ours_matches_nothing() {
        for line in [
            &b""[..],
            b"000000000001-3",
            b"\"000000000001-3",
            b"w/\"000000000001-3\"",
            b"W/ \"000000000001-3\"",
            b"\"000000000001-03\"",
            b"x, \"000000000001-3\"",
            b"\"*\"",
            b"\"\xff\"",
        ] {
            assert_eq!(matching(&[line]), [0; 0], "{line:?}");
        }
    }

    #[test]
    fn list_cut_anywhere_has_the_tags_before_the_cut() {
        let list = b"\"000000000001-3\", W/\"000000000001-5\"";
        for cut in 0..=list.len() {
            let expected: &[u64] = match cut {
                0..16 => &[],
                16..36 => &[3],
                _ => &[3, 5],
            };
            assert_eq!(matching(&[&list[..cut]]), expected, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Validators::default().note(&bytes);
        }
    }
}
