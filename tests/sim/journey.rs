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
#[derive(Clone, Copy, Debug)]
struct Reached {
    /// The newest publication it was given, or where it began.
    given: u64,
    /// The end of the newest gap. Who comes back from before that may be given what lies in it.
    told: u64,
    /// What it has done with up to here may come again, since it goes on from the channel where it
    /// has done least.
    again: u64,
}

impl Reached {
    fn last(self) -> u64 {
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
                given: *id,
                told: 0,
                again: *id,
            });
        }
    }

    /// The client has learnt something.
    pub(crate) fn see(&mut self, seen: Seen, facts: &Facts) {
        match seen {
            Seen::Gap { channel, until } => {
                let reached = self.of(channel).get_or_insert(Reached {
                    given: 0,
                    told: 0,
                    again: 0,
                });
                reached.told = reached.told.max(until);
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
                let lost = facts.first_owed(channel, reached.last(), sequence - 1);
                assert_eq!(lost, None, "lost between {reached:?} and {sequence}");
                reached.given = sequence;
            }
            Seen::Start { channel, position } => {
                self.of(channel).get_or_insert(Reached {
                    given: position,
                    told: 0,
                    again: 0,
                });
            }
        }
    }

    /// Nothing up to here is missing that was not told.
    pub(crate) fn check_complete(&self, position: u64, facts: &Facts) {
        for (channel, reached) in &self.channels {
            let last = reached.map(Reached::last);
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
