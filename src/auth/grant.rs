//! What a token allows, when nothing else of it matters any more.
//!
//! Data; made of claims by [`super::claims`], held for as long as its conn is served. Small: a conn
//! with a token owns one of these, and a conn without none.

use std::sync::Arc;
use std::time::Duration;

use crate::id::ChannelName;
use crate::pattern::Pattern;

/// What whoever showed a token may do, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's subject. Reports to backends carry it, and a backend may end all of its conns.
    pub sub: Option<Arc<str>>,
    /// The channels that may be subscribed to.
    pub subscribe: Box<[Pattern]>,
    /// The channels that may be published to, where the namespace lets clients publish.
    pub publish: Box<[Pattern]>,
    /// When it is over, in seconds of the calendar, leeway included.
    pub ends_s: u64,
}

const _: () = assert!(size_of::<Grant>() <= 56);

impl Grant {
    /// When it is over, since 1970.
    #[must_use]
    pub fn ends(&self) -> Duration {
        Duration::from_secs(self.ends_s)
    }

    /// Whether a channel may be subscribed to.
    #[must_use]
    pub fn may_subscribe(&self, channel: &ChannelName) -> bool {
        covers(&self.subscribe, channel)
    }

    /// Whether a channel may be published to.
    #[must_use]
    pub fn may_publish(&self, channel: &ChannelName) -> bool {
        covers(&self.publish, channel)
    }
}

fn covers(patterns: &[Pattern], channel: &ChannelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(channel))
}
