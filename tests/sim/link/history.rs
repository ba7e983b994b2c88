//! Subscriptions that begin with history, and which publications have the initial mark.
//!
//! [`History`] decides what may come. This file reads what a client can see of it.

use fanfare::frame::{Encoder, FrameKind};

use super::Link;
use crate::history::History;
use crate::model::{Facts, Observation, Requested};

impl Link {
    /// Whether a publication is marked as initial. `None` where clients cannot see the mark. Its
    /// bytes must be those of the plain or of the marked form.
    pub(super) fn read_mark(&mut self, sequence: u64, whole: &[u8], facts: &Facts) -> Option<bool> {
        let channel = facts.channel(facts.publication(sequence).channel.as_str());
        // The first publication shows where the history begins.
        if self.expected.has_not_begun(channel) {
            let position = sequence - 1;
            self.observations
                .push(Observation::Start { channel, position });
        }
        let kind = self.frame_kind();
        let is_of = |kind| frame_of(sequence, kind, facts) == whole;
        let is_plain = is_of(kind);
        assert!(
            is_plain || is_of(kind.initial()),
            "publication {sequence}: wrong bytes"
        );
        (kind != kind.initial()).then_some(!is_plain)
    }

    /// A subscription has begun: at a position, or with its history after that.
    pub(super) fn begin(
        &mut self,
        channel: usize,
        position: u64,
        requested: Requested,
        at: u64,
        facts: &Facts,
    ) {
        let history = History::new(self.worker, requested, at, channel, facts);
        if history.is_none() {
            self.observations
                .push(Observation::Start { channel, position });
        }
        self.expected.set_history(channel, history, facts);
    }
}

/// The bytes of a publication in one kind of frame.
pub(super) fn frame_of(sequence: u64, kind: FrameKind, facts: &Facts) -> Vec<u8> {
    let publication = facts.publication(sequence);
    let frames = publication.frames();
    let frame = frames.encode(publication, kind, &mut Encoder::default());
    frame.expect("a frame").wire(kind).to_vec()
}
