//! `If-None-Match` (RFC 9110, 13.1.2): which of our ids a client says it has.
//!
//! A list of entity tags, on one line or several, compared weakly: `W/` makes no difference. Only
//! tags that could be ids of ours are kept, and of those a few: a client has one. What is no entity
//! tag ends its line, which costs a client nothing but a whole answer.

use crate::id::Cursor;

/// How many ids are kept.
const IDS_MAX: usize = 4;

/// What a client has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `*`: whatever there is.
    is_any: bool,
    ids: [Option<Cursor>; IDS_MAX],
}

impl Validators {
    /// Whether the client has what has this id.
    #[must_use]
    pub fn matches(&self, id: Cursor) -> bool {
        self.is_any || self.ids.contains(&Some(id))
    }

    /// Takes one field line's value.
    pub(super) fn note(&mut self, value: &[u8]) {
        if value == b"*" {
            self.is_any = true;
            return;
        }
        let mut rest = value;
        while let Some((tag, after)) = take_tag(rest) {
            let id = str::from_utf8(tag).ok().and_then(|tag| tag.parse().ok());
            if let Some(id) = id
                && let Some(free) = self.ids.iter_mut().find(|kept| kept.is_none())
            {
                *free = Some(id);
            }
            rest = after;
        }
    }
}

/// The next opaque tag of a list, without its quotes, and what follows it. A comma may stand inside
/// the quotes.
fn take_tag(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
    let (_, tag) = bytes.split_at_checked(start)?;
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag).strip_prefix(b"\"")?;
    let end = tag.iter().position(|byte| *byte == b'"')?;
    let (tag, after) = tag.split_at_checked(end)?;
    Some((tag, after.strip_prefix(b"\"")?))
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
