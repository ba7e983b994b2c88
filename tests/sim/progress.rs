//! The progress of a tracked client over all its connections and transports.
//!
//! The client keeps its channels and always resumes at its last id. So each publication must be
//! delivered once and in order, or be in a gap. The transport and the end of the previous
//! connection do not matter. [`crate::model::ExpectedDeliveries`] has the rules for one connection.

use std::collections::BTreeMap;

use crate::model::{Facts, Observation};

/// The progress of one client.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The progress per channel. A value is `None` until the channel is served for the first time.
    channels: BTreeMap<usize, Option<ChannelProgress>>,
}

/// The progress of the client in one channel.
#[derive(Clone, Debug, Default)]
struct ChannelProgress {
    /// The newest delivered publication, or the start of the first subscription.
    delivered: u64,
    /// The end of the newest gap. If the client resumes at an earlier position, the server may
    /// deliver publications of that gap.
    gap_end: u64,
    /// Publications up to this serial may be delivered again, because the client resumes at the
    /// lowest position that it has acknowledged in any channel.
    redelivered_until: u64,
    /// The gaps as pairs of serials. A gap begins after the first serial and includes the second
    /// serial. A publication in a gap was not delivered and is not in another gap.
    missing: Vec<(u64, u64)>,
}

impl ChannelProgress {
    fn from(delivered: u64) -> Self {
        Self {
            delivered,
            ..Self::default()
        }
    }

    fn last(&self) -> u64 {
        self.delivered.max(self.gap_end)
    }
}

impl Progress {
    pub(crate) fn new(channels: Vec<usize>) -> Self {
        let channels = channels.into_iter().map(|channel| (channel, None));
        Self {
            channels: channels.collect(),
        }
    }

    pub(crate) fn channels(&self) -> Vec<usize> {
        self.channels.keys().copied().collect()
    }

    /// Discards the deliveries that the client had not acknowledged. Each of them must be delivered
    /// again, or be in a gap.
    pub(crate) fn forget_unacknowledged(&mut self, acknowledged: &[(usize, u64)]) {
        for (channel, id) in acknowledged {
            *self.of(*channel) = Some(ChannelProgress {
                redelivered_until: *id,
                ..ChannelProgress::from(*id)
            });
        }
    }

    /// Records that the client resumes at `position`. Gaps after `position` are removed, because
    /// their publications may still be delivered.
    pub(crate) fn resume_from(&mut self, position: u64) {
        for reached in self.channels.values_mut().flatten() {
            for (_, until) in &mut reached.missing {
                *until = position.min(*until);
            }
            reached.missing.retain(|(since, until)| since < until);
        }
    }

    /// Checks that no publication in a gap was delivered or is in another gap.
    fn check_gap(&self, channel: usize, since: u64, until: u64, facts: &Facts) {
        let Some(reached) = &self.channels[&channel] else {
            return;
        };
        let (delivered, redelivered_until) =
            (reached.delivered.min(until), reached.redelivered_until);
        let came = facts.between(channel, since.max(redelivered_until), delivered);
        assert!(came.is_empty(), "{came:?} were delivered and are in a gap");
        for (from, to) in &reached.missing {
            let twice = facts.between(channel, since.max(*from), until.min(*to));
            assert!(twice.is_empty(), "{twice:?} are in two gaps");
        }
    }

    /// Checks and records a message that changes the client's position.
    pub(crate) fn observe(&mut self, observation: Observation, facts: &Facts) {
        match observation {
            Observation::Gap {
                channel,
                since,
                until,
            } => {
                let since = since.expect("a tracked client asks with a position of a known epoch");
                self.check_gap(channel, since, until, facts);
                let reached = self.of(channel).get_or_insert_default();
                reached.gap_end = reached.gap_end.max(until);
                reached.missing.push((since, until));
            }
            Observation::Position(position) => self.check_complete(position, facts),
            Observation::Publication(sequence) => {
                let channel = facts.channel(facts.publication(sequence).channel.as_str());
                let reached = self.of(channel).as_mut().expect("a channel that is served");
                let delivered = reached.delivered;
                if sequence <= reached.redelivered_until {
                    return;
                }
                assert!(
                    sequence > delivered,
                    "{sequence} was delivered after {delivered}"
                );
                let missing = reached.missing.iter();
                let gap = missing
                    .clone()
                    .find(|(since, until)| (since + 1..=*until).contains(&sequence));
                assert_eq!(gap, None, "{sequence} was delivered and is in a gap");
                let lost = facts.first_owed(channel, reached.last(), sequence - 1);
                assert_eq!(lost, None, "lost between {reached:?} and {sequence}");
                reached.delivered = sequence;
            }
            Observation::Start { channel, position } => {
                self.of(channel)
                    .get_or_insert(ChannelProgress::from(position));
            }
        }
    }

    /// Whether each publication up to `position` was delivered, is in a gap or has expired.
    pub(crate) fn is_complete(&self, position: u64, facts: &Facts) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|(channel, reached)| {
            let last = reached.as_ref().map(ChannelProgress::last);
            let lost = last.and_then(|last| facts.first_owed(*channel, last, position));
            lost.is_none()
        })
    }

    /// Checks that each publication up to `position` was delivered, is in a gap or has expired.
    pub(crate) fn check_complete(&self, position: u64, facts: &Facts) {
        for (channel, reached) in &self.channels {
            let last = reached.as_ref().map(ChannelProgress::last);
            let lost = last.and_then(|last| facts.first_owed(*channel, last, position));
            assert_eq!(lost, None, "{channel} at {reached:?} and not {position}");
        }
    }

    fn of(&mut self, channel: usize) -> &mut Option<ChannelProgress> {
        self.channels
            .get_mut(&channel)
            .expect("one of its channels")
    }
}
