//! Summaries of all channels, for operators.
//!
//! The shards are visited one after the other, so a summary is not a snapshot of one moment. While
//! a shard is visited, its lock is held for reading.

use super::shard::Channel;
use super::{Amount, Log};
use crate::id::{ChannelName, Cursor};
use crate::time::Now;

/// What the log knows about a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelSummary {
    /// The number and size of the publications in the log.
    pub kept: Amount,
    /// The number of these publications that were accepted at the time `since` or later.
    pub recent: u64,
    /// The id of the newest publication in the log, and the time at which it was accepted.
    pub newest: Option<(Cursor, Now)>,
}

impl Log {
    /// Calls `visit` for each channel. `since` is the time from which a publication is recent.
    /// `visit` runs while a shard is locked, so it must be short and must not use the log.
    pub fn summarize(&self, since: Now, mut visit: impl FnMut(&ChannelName, ChannelSummary)) {
        for (_, shard) in self.shards.each() {
            for channel in shard.channels() {
                visit(&channel.name, channel.summary(since));
            }
        }
    }
}

impl Channel {
    fn summary(&self, since: Now) -> ChannelSummary {
        let entries = self.entries();
        let (Some(first), Some(last)) = (entries.front(), entries.back()) else {
            return ChannelSummary::default();
        };
        let older = entries.partition_point(|entry| entry.publication.published < since);
        ChannelSummary {
            kept: last.total().minus(first.before),
            recent: (entries.len() - older) as u64,
            newest: Some((last.publication.id, last.publication.published)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::frame::{Payload, Publication};
    use crate::id::{Epoch, Sequence};
    use crate::log::Writer;

    #[test]
    fn summary_has_the_publications_that_are_in_the_log() {
        let config = Config::default();
        let mut writer = Writer::new(&config, Sequence::ZERO);
        for (number, (channel, text, at)) in (1..).zip([
            ("a", "one", 10),
            ("b", "two", 20),
            ("a", "three", 30),
            ("a", "four!!", 40),
        ]) {
            let id = Cursor {
                epoch: Epoch::new(7),
                sequence: Sequence(number),
            };
            let name = ChannelName::new(channel).unwrap();
            let payload = Payload::Text(text.into());
            let publication = Publication::new(id, name, payload, Now(at), writer.log().ledger());
            writer.announce(Sequence(number));
            let _removed = writer.publish(Arc::new(publication), |_, _, _| {});
        }
        let mut found = BTreeMap::new();
        writer.log().summarize(Now(30), |name, summary| {
            found.insert(String::from(name.as_str()), summary);
        });
        let [a, b] = ["a", "b"].map(|name| found[name]);
        assert_eq!(found.len(), 2);
        assert_eq!((a.kept.publications, a.kept.bytes, a.recent), (3, 14, 2));
        assert_eq!((b.kept.publications, b.kept.bytes, b.recent), (1, 3, 0));
        assert_eq!(
            a.newest.map(|(id, at)| (id.sequence.0, at)),
            Some((4, Now(40)))
        );
    }
}
