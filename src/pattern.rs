//! Patterns of channel names: a whole name, or the beginning of names and one `*` at the end.
//!
//! `chat:*` is every channel that begins with `chat:`, and `*` alone is every channel. No name has
//! a `*`, so it stands nowhere else in a pattern. Used by consumers, tokens and namespaces; plain
//! data, no table of rules.

use crate::id::{ChannelName, ChannelNameError};

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Names that begin so.
    Beginning(Box<str>),
    /// This one.
    Name(ChannelName),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it as the name or the beginning of a name.
    pub fn new(text: &str) -> Result<Self, ChannelNameError> {
        let beginning = text.strip_suffix('*');
        if let Some(at) = beginning.unwrap_or(text).find('*') {
            return Err(ChannelNameError::Wildcard { at });
        }
        match beginning {
            Some("") => Ok(Self::Beginning(Box::default())),
            Some(beginning) => ChannelName::with_reserved(beginning)
                .map(|_name| Self::Beginning(Box::from(beginning))),
            None => ChannelName::with_reserved(text).map(Self::Name),
        }
    }

    /// Whether a channel is meant.
    #[must_use]
    pub fn matches(&self, channel: &ChannelName) -> bool {
        match self {
            Self::Beginning(beginning) => channel.as_str().starts_with(&**beginning),
            Self::Name(name) => name == channel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, channel: &str) -> bool {
        let channel = ChannelName::new(channel).unwrap();
        Pattern::new(pattern).unwrap().matches(&channel)
    }

    #[test]
    fn pattern_is_a_name_or_the_beginning_of_names() {
        assert!(matches("chat:*", "chat:42"));
        assert!(matches("chat:*", "chat:"));
        assert!(!matches("chat:*", "chat"));
        assert!(matches("*", "x"));
        assert!(matches("chat", "chat"));
        assert!(!matches("chat", "chat:42"));
    }

    #[test]
    fn text_that_can_match_no_channel_is_no_pattern() {
        let long = "x".repeat(201);
        for text in [
            "", "a b", "a b*", "\n*", &long, "*x*", "a*b", "*a", "**", "a**",
        ] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
    }
}
