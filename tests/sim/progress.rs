//! What a client has seen on its way over many connections and all transports.
//!
//! It keeps to its channels, comes back to its last id, and so must see every publication once and
//! in order, or be told that it lies in a gap, whichever transport it is on and however the last
//! one ended. What one connection owes is the [`crate::model::Ledger`]'s; this is what it comes to.

use std::collections::BTreeMap;

use crate::model::{Facts, Seen};

/// One client's way.
#[derive(Debug)]
pub(crate) struct Journey {
    /// By channel; nothing before it was first served.
    channels: BTreeMap<usize, Option<Reached>>,
}

/// How far it has got in a channel.
#[derive(Clone, Debug, Default)]
struct Reached {
    /// The newest publication it was given, or where it began.
    given: u64,
    /// The end of the newest gap. Who comes back from before that may be given what lies in it.
    told: u64,
    /// What it has done with up to here may come again, since it goes on from the channel where it
    /// has done least.
    again: u64,
    /// The gaps that were told, from after the first number up to the second. What lies in one of
    /// them does not come and is not told again.
    missing: Vec<(u64, u64)>,
}

impl Reached {
    fn from(given: u64) -> Self {
        Self {
            given,
            ..Self::default()
        }
    }

    fn last(&self) -> u64 {
        self.given.max(self.told)
    }
}

impl Journey {
    pub(crate) fn new(channels: Vec<usize>) -> Self {
        let channels = channels.into_iter().map(|channel| (channel, None));
        Self {
            channels: channels.collect(),
        }
    }

    pub(crate) fn channels(&self) -> Vec<usize> {
        self.channels.keys().copied().collect()
    }

    /// The client died and has lost what it had not acknowledged: all of that has to come again,
    /// or be told again.
    pub(crate) fn forget(&mut self, acknowledged: &[(usize, u64)]) {
        for (channel, id) in acknowledged {
            *self.of(*channel) = Some(Reached {
                again: *id,
                ..Reached::from(*id)
            });
        }
    }

    /// The client resumes from here. What a gap beyond it covered may still come, or the gap again.
    pub(crate) fn go_on_from(&mut self, position: u64) {
        for reached in self.channels.values_mut().flatten() {
            for (_, until) in &mut reached.missing {
                *until = position.min(*until);
            }
            reached.missing.retain(|(since, until)| since < until);
        }
    }

    /// Each publication comes or lies in one gap.
    fn check_gap(&self, channel: usize, since: u64, until: u64, facts: &Facts) {
        let Some(reached) = &self.channels[&channel] else {
            return;
        };
        let (given, again) = (reached.given.min(until), reached.again);
        let came = facts.between(channel, since.max(again), given);
        assert!(came.is_empty(), "{came:?} came, and a gap covers them");
        for (from, to) in &reached.missing {
            let twice = facts.between(channel, since.max(*from), until.min(*to));
            assert!(twice.is_empty(), "{twice:?} are missing twice");
        }
    }

    /// The client has learnt something.
    pub(crate) fn see(&mut self, seen: Seen, facts: &Facts) {
        match seen {
            Seen::Gap {
                channel,
                since,
                until,
            } => {
                let since = since.expect("it comes from a position of this epoch");
                self.check_gap(channel, since, until, facts);
                let reached = self.of(channel).get_or_insert_default();
                reached.told = reached.told.max(until);
                reached.missing.push((since, until));
            }
            Seen::Position(position) => self.check_complete(position, facts),
            Seen::Publication(sequence) => {
                let channel = facts.channel(facts.publication(sequence).channel.as_str());
                let reached = self.of(channel).as_mut().expect("it is served");
                let given = reached.given;
                if sequence <= reached.again {
                    return;
                }
                assert!(sequence > given, "{sequence} came again after {given}");
                let told = reached.missing.iter();
                let gap = told
                    .clone()
                    .find(|(since, until)| (since + 1..=*until).contains(&sequence));
                assert_eq!(gap, None, "{sequence} came, which a gap covers");
                let lost = facts.first_owed(channel, reached.last(), sequence - 1);
                assert_eq!(lost, None, "lost between {reached:?} and {sequence}");
                reached.given = sequence;
            }
            Seen::Start { channel, position } => {
                self.of(channel).get_or_insert(Reached::from(position));
            }
        }
    }

    /// Whether nothing up to here is missing that was not told.
    pub(crate) fn is_complete(&self, position: u64, facts: &Facts) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|(channel, reached)| {
            let last = reached.as_ref().map(Reached::last);
            let lost = last.and_then(|last| facts.first_owed(*channel, last, position));
            lost.is_none()
        })
    }

    /// Nothing up to here is missing that was not told.
    pub(crate) fn check_complete(&self, position: u64, facts: &Facts) {
        for (channel, reached) in &self.channels {
            let last = reached.as_ref().map(Reached::last);
            let lost = last.and_then(|last| facts.first_owed(*channel, last, position));
            assert_eq!(lost, None, "{channel} at {reached:?} and not {position}");
        }
    }

    fn of(&mut self, channel: usize) -> &mut Option<Reached> {
        self.channels
            .get_mut(&channel)
            .expect("one of its channels")
    }
}
