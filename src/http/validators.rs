//! Parses `If-None-Match` (RFC 9110, 13.1.2): the ids of the answers that a client already has.
//!
//! The field is a list of entity tags on one or more lines. The comparison is weak: `W/` is
//! ignored, and so is a suffix that a compressing proxy has appended (`"ID-gzip"`, `"ID;br"`). Only
//! tags that can be ids of this server are kept. A malformed entity tag ends the parsing of its
//! line. A client whose tag is not recognised receives a complete answer.

use crate::id::Cursor;

/// The length of the first part of an id, in bytes: the epoch and a hyphen. The sequence number
/// follows.
const EPOCH_BYTES: usize = 13;

/// The entity tags of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Whether the field has the value `*`, which matches any id.
    is_any: bool,
    /// The ids in the field. The limit on request heads bounds their number.
    ids: Vec<Cursor>,
}

impl Validators {
    /// Whether the client already has the answer with this id.
    #[must_use]
    pub fn matches(&self, id: Cursor) -> bool {
        self.is_any || self.ids.contains(&id)
    }

    /// Parses the value of one field line.
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

/// Returns the id at the start of an opaque tag. A proxy may have appended a suffix, which is
/// ignored. A suffix begins with a character such as `-`, `;` or `:`, never with a letter or a
/// digit.
fn id_of(tag: &[u8]) -> Option<Cursor> {
    let number = tag.get(EPOCH_BYTES..)?;
    let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
    let (id, suffix) = tag.split_at_checked(EPOCH_BYTES + digits.count())?;
    if suffix.first().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    str::from_utf8(id).ok()?.parse().ok()
}

/// Returns the next opaque tag of a list, without its quotes, and the rest of the list. A comma may
/// occur inside the quotes. Old proxies append a suffix after the quotes, which is ignored.
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

    /// Returns the sequence numbers from 1 to 9 whose ids match the field lines.
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
    fn list_is_compared_weakly_across_its_lines() {
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
    fn tag_is_recognised_with_any_suffix_of_a_proxy() {
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
    fn tag_is_found_at_any_position_of_a_long_list() {
        let others = (10..400).map(|n| format!("\"000000000001-{n}\", \"x\", "));
        let line = others.collect::<String>() + "W/\"000000000001-4-gzip\"";
        assert_eq!(matching(&[line.as_bytes()]), [4]);
        assert_eq!(matching(&[line.as_bytes(), b"\"000000000001-6\""]), [4, 6]);
    }

    #[test]
    fn malformed_tag_matches_no_id() {
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
    fn truncated_list_has_the_tags_before_the_cut() {
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
        fn any_bytes_are_parsed_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            Validators::default().note(&bytes);
        }
    }
}
