//! Namespaces: groups of channels that have their own rules.
//!
//! A namespace matches channels by a pattern: a name, or a prefix followed by one `*`. The
//! namespace with the exact name takes precedence, then the namespace with the longest prefix. Keys
//! that the namespace does not set have their global value. This file contains only data, which
//! [`super::validate`] checks. The hub looks up a channel's namespace once, when the channel is
//! created.

use serde::{Deserialize, Serialize};

use super::{Config, Overflow};
use crate::id::ChannelName;
use crate::pattern::subject;

/// The rules for the channels that a pattern matches. An absent key has its global value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// A channel's name, or a prefix followed by one `*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// The maximum number of stored publications of each channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_entries: Option<u64>,
    /// The maximum total payload stored for each channel, in bytes. The newest publication is
    /// always stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// The time for which a publication is stored, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_age_ms: Option<u64>,
    /// The policy for a subscriber that is further behind than its quota allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// The destination of publications from clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_publish: Option<ClientPublish>,
    /// Whether clients may request the number of a channel's subscribers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_presence: Option<bool>,
    /// Whether clients may subscribe without a token. If absent, clients without a token may
    /// subscribe only if no keys are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_subscribe: Option<bool>,
    /// The patterns of the channels to which the holder of any token may subscribe. A pattern may
    /// contain `{sub}`, the token's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
    /// The patterns of the channels to which the holder of any token may publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
}

/// The destination of publications from clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientPublish {
    /// Publications are sent to the channel's subscribers.
    Broadcast,
    /// Publications are sent to the backends that consume the channel.
    Consume,
    /// Publications of clients are refused.
    #[default]
    Off,
}

/// The actions that clients may take in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRules {
    /// The destination of publications from clients.
    pub publish: ClientPublish,
    /// Whether clients may request the number of subscribers.
    pub presence: bool,
    /// Whether clients may subscribe without a token although keys are configured.
    pub anonymous_subscribe: bool,
}

/// The rules for publications of one channel. Absent keys have their global value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The maximum number of stored publications.
    pub entries: u64,
    /// The maximum total payload that is stored, in bytes.
    pub bytes: u64,
    /// The time for which a publication is stored, in milliseconds.
    pub age_ms: u64,
    /// The policy for a subscriber that is further behind than its quota allows.
    pub overflow: Overflow,
}

impl Namespace {
    /// The keys of a `[[namespace]]` table, in the order of the documentation.
    pub const KEYS: [&'static str; 10] = [
        "match",
        "log_entries",
        "log_bytes",
        "log_age_ms",
        "overflow",
        "client_publish",
        "client_presence",
        "anonymous_subscribe",
        "subscribe",
        "publish",
    ];

    /// Returns the pattern's prefix, or `None` if the pattern is a whole name.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        self.pattern.strip_suffix('*')
    }
}

impl Config {
    /// Returns the rules for channels that no namespace matches.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            entries: self.log.entries,
            bytes: self.log.bytes,
            age_ms: self.log.age_ms,
            overflow: self.quota.overflow,
        }
    }

    /// Returns the actions that clients may take in a channel. If no namespace matches, clients may
    /// neither publish nor request presence.
    #[must_use]
    pub fn client_rules(&self, channel: &ChannelName) -> ClientRules {
        let index = find(&self.namespace, channel.as_str());
        let namespace = index.and_then(|index| self.namespace.get(index));
        namespace.map_or_else(ClientRules::default, |namespace| ClientRules {
            publish: namespace.client_publish.unwrap_or_default(),
            presence: namespace.client_presence.unwrap_or_default(),
            anonymous_subscribe: namespace.anonymous_subscribe.unwrap_or_default(),
        })
    }

    /// Whether the namespace of a channel lets the holder of a token with this subject subscribe.
    #[must_use]
    pub fn lets_subject_subscribe(&self, channel: &ChannelName, sub: Option<&str>) -> bool {
        self.lets_subject(channel, sub, |namespace| &namespace.subscribe)
    }

    /// Whether the namespace of a channel lets the holder of a token with this subject publish.
    #[must_use]
    pub fn lets_subject_publish(&self, channel: &ChannelName, sub: Option<&str>) -> bool {
        self.lets_subject(channel, sub, |namespace| &namespace.publish)
    }

    fn lets_subject(
        &self,
        channel: &ChannelName,
        sub: Option<&str>,
        list: impl FnOnce(&Namespace) -> &Option<Vec<String>>,
    ) -> bool {
        let index = find(&self.namespace, channel.as_str());
        let Some(namespace) = index.and_then(|index| self.namespace.get(index)) else {
            return false;
        };
        let lists = [&namespace.subscribe, &namespace.publish].map(patterns);
        subject::any_matches(patterns(list(namespace)), lists, channel, sub)
    }

    /// Returns the rules for channels that a namespace matches.
    #[must_use]
    pub fn retention_in(&self, namespace: &Namespace) -> Retention {
        let all = self.retention();
        Retention {
            entries: namespace.log_entries.unwrap_or(all.entries),
            bytes: namespace.log_bytes.unwrap_or(all.bytes),
            age_ms: namespace.log_age_ms.unwrap_or(all.age_ms),
            overflow: namespace.overflow.unwrap_or(all.overflow),
        }
    }
}

fn patterns(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// Returns the index of the namespace that matches a channel.
#[must_use]
pub fn find(namespaces: &[Namespace], channel: &str) -> Option<usize> {
    let length = |namespace: &Namespace| match namespace.prefix() {
        Some(prefix) => channel.starts_with(prefix).then_some(prefix.len()),
        None => (namespace.pattern == channel).then_some(usize::MAX),
    };
    let matching = namespaces.iter().enumerate();
    let matching = matching.filter_map(|(index, n)| Some((length(n)?, index)));
    matching.max().map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(patterns: &[&str]) -> Config {
        let namespace = patterns.iter().map(|pattern| Namespace {
            pattern: (*pattern).into(),
            ..Namespace::default()
        });
        Config {
            namespace: namespace.collect(),
            ..Config::default()
        }
    }

    #[test]
    fn exact_name_wins_over_the_longest_prefix_over_shorter_ones() {
        let config = config(&["*", "prices:*", "prices:oil*", "prices:oil"]);
        let of = |channel| find(&config.namespace, channel).unwrap();
        assert_eq!(of("chat"), 0);
        assert_eq!(of("prices"), 0);
        assert_eq!(of("prices:"), 1);
        assert_eq!(of("prices:gas"), 1);
        assert_eq!(of("prices:oil:brent"), 2);
        assert_eq!(of("prices:oil"), 3);
    }

    #[test]
    fn channel_without_namespace_follows_the_global_section() {
        let config = config(&["prices:*"]);
        assert_eq!(find(&config.namespace, "price"), None);
        assert_eq!(
            config.retention_in(&config.namespace[0]),
            config.retention()
        );
    }

    #[test]
    fn keys_that_a_namespace_does_not_set_have_their_global_value() {
        let config = config(&[]);
        let namespace = Namespace {
            log_entries: Some(3),
            overflow: Some(Overflow::Close),
            ..Namespace::default()
        };
        let expected = Retention {
            entries: 3,
            overflow: Overflow::Close,
            ..config.retention()
        };
        assert_eq!(config.retention_in(&namespace), expected);
    }

    #[test]
    fn keys_are_those_of_the_table() {
        let full = Namespace {
            pattern: "a".into(),
            log_entries: Some(1),
            log_bytes: Some(1),
            log_age_ms: Some(1),
            overflow: Some(Overflow::Skip),
            client_publish: Some(ClientPublish::Off),
            client_presence: Some(false),
            anonymous_subscribe: Some(false),
            subscribe: Some(vec!["a".into()]),
            publish: Some(vec!["a".into()]),
        };
        let table = toml::Table::try_from(full).unwrap();
        let mut keys = Namespace::KEYS.to_vec();
        keys.sort_unstable();
        assert_eq!(table.keys().map(String::as_str).collect::<Vec<_>>(), keys);
    }
}
