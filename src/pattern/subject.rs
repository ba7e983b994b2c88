//! Patterns of channel names that contain the subject of a client's token.
//!
//! The parts of a pattern are separated by `:`. A part may be `*`, which matches exactly one part
//! of a name, and the last part may end in `*`, which matches any end. One part may end in
//! `{sub}`, the subject. The subject is compared byte by byte, so a subject that contains `*` or
//! `:` matches no more names than another subject. If the subject is not at the end of the pattern,
//! a subject with a `:` matches no name: the name could also belong to a shorter subject.

use super::Pattern;
use crate::id::{ChannelName, ChannelNameError};

const SUBJECT: &str = "{sub}";

/// The reason for which a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectPatternError {
    /// A brace does not belong to `{sub}`.
    #[error("the only placeholder is {{sub}}")]
    Brace,
    /// The text without its placeholders could match no channel.
    #[error("{0}")]
    Name(ChannelNameError),
    /// A `*` is neither a part nor the end of the pattern.
    #[error("`*` is a part between two `:`, or the end")]
    Star,
    /// `{sub}` occurs twice, or not at the end of a part.
    #[error("{{sub}} occurs once, at the end or before a `:`")]
    Subject,
}

/// Checks a pattern.
///
/// # Errors
/// Returns the first fault of the pattern.
pub fn check(pattern: &str) -> Result<(), SubjectPatternError> {
    let (before, after) = pattern.split_once(SUBJECT).unwrap_or((pattern, ""));
    if after.contains(SUBJECT) {
        return Err(SubjectPatternError::Subject);
    }
    if [before, after].concat().contains(['{', '}']) {
        return Err(SubjectPatternError::Brace);
    }
    // After the subject, a text that is not a further part would match the names of subjects that
    // begin with this subject.
    if !after.is_empty() && !after.starts_with(':') {
        return Err(SubjectPatternError::Subject);
    }
    let mut parts = pattern.split(':').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let rest = part
            .strip_suffix('*')
            .filter(|rest| is_last || rest.is_empty());
        if rest.unwrap_or(part).contains('*') {
            return Err(SubjectPatternError::Star);
        }
    }
    let name = pattern.replace(SUBJECT, "x").replace('*', "x");
    let is_name = Pattern::new(&name).map(|_pattern| ());
    is_name.map_err(SubjectPatternError::Name)
}

/// Whether one of the patterns of a list matches a channel for the subject of a token. `lists` are
/// all lists of the namespace; the patterns have been checked.
///
/// With different patterns, the name of a subject with a `:` can also be a further part of the name
/// of a shorter subject: `user:a:b` belongs to `a:b` because of `user:{sub}`, and to `a` because of
/// `user:{sub}:*`. So in such a namespace, a subject with a `:` matches no pattern with `{sub}`.
#[must_use]
pub fn any_matches(
    patterns: &[String],
    lists: [&[String]; 2],
    channel: &ChannelName,
    sub: Option<&str>,
) -> bool {
    let mut with_subject = lists.into_iter().flatten();
    let first = with_subject.find(|pattern| pattern.contains(SUBJECT));
    let is_only = with_subject.all(|other| !other.contains(SUBJECT) || Some(other) == first);
    let sub = sub.filter(|sub| is_only || !sub.contains(':'));
    let mut patterns = patterns.iter();
    patterns.any(|pattern| matches(pattern, channel, sub))
}

/// Whether a pattern matches a channel for the subject of a token.
fn matches(pattern: &str, channel: &ChannelName, sub: Option<&str>) -> bool {
    let (mut pattern, mut name) = (pattern, channel.as_str());
    loop {
        if pattern == "*" {
            return true;
        }
        // The text up to the next placeholder is compared literally.
        let end = pattern.find(['*', '{']).unwrap_or(pattern.len());
        let (text, rest) = pattern.split_at(end);
        let Some(after) = name.strip_prefix(text) else {
            return false;
        };
        (pattern, name) = (rest, after);
        if pattern.is_empty() {
            return name.is_empty();
        }
        if let Some(rest) = pattern.strip_prefix(SUBJECT) {
            let sub = sub.filter(|sub| !sub.is_empty() && (rest.is_empty() || !sub.contains(':')));
            let Some(after) = sub.and_then(|sub| name.strip_prefix(sub)) else {
                return false;
            };
            (pattern, name) = (rest, after);
        } else if let Some(rest) = pattern.strip_prefix('*').filter(|rest| !rest.is_empty()) {
            let part = name.find(':').unwrap_or(name.len());
            let Some(after) = name.get(part..).filter(|_| part > 0) else {
                return false;
            };
            (pattern, name) = (rest, after);
        }
    }
}

/// Whether a pattern could match a channel of the namespace with this pattern.
#[must_use]
pub fn is_in(pattern: &str, namespace: &str) -> bool {
    let fixed = |text: &str| text.find(['*', '{']).unwrap_or(text.len());
    let (pattern, namespace) = (
        pattern.get(..fixed(pattern)),
        namespace.get(..fixed(namespace)),
    );
    let both = pattern.zip(namespace);
    both.is_some_and(|(one, other)| one.starts_with(other) || other.starts_with(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, channel: &str, sub: &str) -> bool {
        assert_eq!(check(pattern), Ok(()), "{pattern}");
        let channel = ChannelName::new(channel).unwrap();
        matches(pattern, &channel, Some(sub))
    }

    #[test]
    fn subject_matches_its_own_bytes_only() {
        assert!(is_match("user:{sub}", "user:alice", "alice"));
        assert!(is_match("user:{sub}", "user:a:b", "a:b"));
        assert!(is_match("user:{sub}", "user:ü", "ü"));
        for sub in ["*", "a*", "", "alic", "alice2", "ALICE", "{sub}", "alice:"] {
            assert!(!is_match("user:{sub}", "user:alice", sub), "{sub}");
        }
        let channel = ChannelName::new("user:").unwrap();
        assert!(!matches("user:{sub}", &channel, None));
        assert!(!matches("user:{sub}", &channel, Some("")));
    }

    #[test]
    fn star_between_parts_is_one_part_and_never_a_part_of_the_subject() {
        assert!(is_match("chat:*:{sub}", "chat:42:alice", "alice"));
        assert!(is_match("chat:*:{sub}", "chat:42:a:b", "a:b"));
        // The names of `a:b` are not names of `b`.
        assert!(!is_match("chat:*:{sub}", "chat:42:a:b", "b"));
        assert!(!is_match("chat:*:{sub}", "chat::alice", "alice"));
        assert!(!is_match("chat:*:{sub}", "chat:alice", "alice"));
        assert!(!is_match("chat:*:{sub}", "chat:42:alice:x", "alice"));
        assert!(is_match("*:{sub}", "x:alice", "alice"));
    }

    #[test]
    fn subject_before_a_further_part_has_no_colon() {
        assert!(is_match("user:{sub}:*", "user:alice:inbox:1", "alice"));
        assert!(is_match("user:{sub}:in", "user:alice:in", "alice"));
        // The channel is one of the subject `a`.
        assert!(!is_match("user:{sub}:*", "user:a:b:inbox", "a:b"));
        assert!(!is_match("user:{sub}:*", "user:alice", "alice"));
    }

    #[test]
    fn subject_with_a_colon_has_no_names_among_those_of_a_shorter_subject() {
        let list = |patterns: &[&str]| -> Vec<String> {
            patterns.iter().map(|one| String::from(*one)).collect()
        };
        let is_match = |read: &[&str], write: &[&str], channel: &str, sub: &str| {
            let (read, write) = (list(read), list(write));
            let channel = ChannelName::new(channel).unwrap();
            any_matches(&read, [&read, &write], &channel, Some(sub))
        };
        let both = ["user:{sub}", "user:{sub}:*"];
        assert!(is_match(&both, &[], "user:alice:inbox", "alice"));
        assert!(is_match(&both, &[], "user:alice", "alice"));
        assert!(!is_match(&both, &[], "user:alice:inbox", "alice:inbox"));
        let (short, long) = (["chat:{sub}"], ["chat:*:{sub}"]);
        assert!(is_match(&short, &long, "chat:alice", "alice"));
        assert!(!is_match(&short, &long, "chat:42:alice", "42:alice"));
        assert!(is_match(&short, &short, "chat:42:alice", "42:alice"));
        assert!(is_match(&["chat:*"], &both, "chat:1", "a:b"));
    }

    #[test]
    fn pattern_without_a_subject_is_as_elsewhere() {
        assert!(is_match("news:*", "news:a:b", "x"));
        assert!(is_match("news*", "newsroom", "x"));
        assert!(is_match("*", "a", "x"));
        assert!(is_match("news", "news", "x") && !is_match("news", "news:1", "x"));
    }

    #[test]
    fn pattern_that_could_widen_a_subject_or_match_nothing_is_refused() {
        use SubjectPatternError as Error;
        for (pattern, error) in [
            ("user:{sub}*", Error::Subject),
            ("user:{sub}-x", Error::Subject),
            ("{sub}:{sub}", Error::Subject),
            ("user:*{sub}", Error::Star),
            ("a*b", Error::Star),
            ("a*:b", Error::Star),
            ("**", Error::Star),
            ("user:{name}", Error::Brace),
            ("user:{sub}:}", Error::Brace),
            ("", Error::Name(ChannelNameError::Empty)),
        ] {
            assert_eq!(check(pattern), Err(error), "{pattern}");
        }
        assert!(matches!(check("a b:{sub}"), Err(Error::Name(_))));
        assert_eq!(check("{sub}"), Ok(()));
        assert_eq!(check("user-{sub}:*:x*"), Ok(()));
    }

    #[test]
    fn pattern_outside_of_its_namespace_is_recognised() {
        assert!(is_in("chat:*:{sub}", "chat:*") && is_in("{sub}", "chat:*"));
        assert!(is_in("chat:{sub}", "chat:42") && is_in("chat:42:{sub}", "chat:*"));
        assert!(!is_in("user:{sub}", "chat:*") && !is_in("news", "chat:42"));
    }
}
