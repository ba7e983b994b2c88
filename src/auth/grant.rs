//! The permissions of a verified token.
//!
//! Data only. [`super::claims`] creates it, and [`super::Access`] holds it while the conn is
//! served. It is small: each conn with a token owns one.

use std::sync::Arc;
use std::time::Duration;

use crate::id::ChannelName;
use crate::pattern::Pattern;

/// The permissions of a token, and its expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's subject. Reports to backends contain it, and a backend may close all its conns.
    pub sub: Option<Arc<str>>,
    /// The channels that may be subscribed to.
    pub subscribe: Box<[Pattern]>,
    /// The channels that may be published to, if the namespace allows clients to publish.
    pub publish: Box<[Pattern]>,
    /// The expiry in seconds since 1970, leeway included.
    pub ends_s: u64,
}

const _: () = assert!(size_of::<Grant>() <= 56);

impl Grant {
    /// The expiry since 1970.
    #[must_use]
    pub fn ends(&self) -> Duration {
        Duration::from_secs(self.ends_s)
    }

    /// Whether it allows subscribing to a channel.
    #[must_use]
    pub fn may_subscribe(&self, channel: &ChannelName) -> bool {
        covers(&self.subscribe, channel)
    }

    /// Whether it allows publishing to a channel.
    #[must_use]
    pub fn may_publish(&self, channel: &ChannelName) -> bool {
        covers(&self.publish, channel)
    }
}

fn covers(patterns: &[Pattern], channel: &ChannelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(channel))
}
