//! The permissions of a verified token.
//!
//! This module contains only data. [`super::claims`] creates a grant, and [`super::Access`] stores
//! the grant while its conn is served. A grant is small, because each conn with a token owns one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::id::ChannelName;
use crate::pattern::Pattern;

/// The permissions of a token, and its expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's subject. Reports to backends contain the subject, and a backend may close all
    /// conns with a given subject.
    pub sub: Option<Arc<str>>,
    /// The patterns of the channels to which the client may subscribe.
    pub subscribe: Box<[Pattern]>,
    /// The patterns of the channels to which the client may publish, if the namespace allows
    /// clients to publish.
    pub publish: Box<[Pattern]>,
    /// The expiry in seconds since 1970, including the leeway.
    pub ends_s: u64,
}

const _: () = assert!(size_of::<Grant>() <= 56);

impl Grant {
    /// Returns the expiry as the time since 1970, including the leeway.
    #[must_use]
    pub fn ends(&self) -> Duration {
        Duration::from_secs(self.ends_s)
    }

    /// Whether the client may subscribe to a channel, because of its token or because of the
    /// channel's namespace.
    #[must_use]
    pub fn may_subscribe(&self, channel: &ChannelName, config: &Config) -> bool {
        covers(&self.subscribe, channel)
            || config.lets_subject_subscribe(channel, self.sub.as_deref())
            || config.is_open(channel)
    }

    /// Whether the client may publish to a channel, because of its token or because of the
    /// channel's namespace. The namespace must also have `client_publish`.
    #[must_use]
    pub fn may_publish(&self, channel: &ChannelName, config: &Config) -> bool {
        covers(&self.publish, channel) || config.lets_subject_publish(channel, self.sub.as_deref())
    }
}

fn covers(patterns: &[Pattern], channel: &ChannelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(channel))
}
