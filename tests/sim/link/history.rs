//! Subscriptions that begin with history, and the initial marks of publications.
//!
//! [`History`] decides which publications are allowed. This file parses the marks that a client can
//! see.

use fanfare::frame::{Compressor, FrameKind};

use super::Link;
use crate::history::History;
use crate::model::{Facts, Observation, Requested};

impl Link {
    /// Checks that `whole` is the publication in the expected form, with or without the mark
    /// `initial`. Returns whether it has the mark, or `None` if this kind of frame never has the
    /// mark.
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

    /// Begins a subscription at a position. If history was requested, the history comes after the
    /// position.
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

/// Returns the bytes of a publication in one kind of frame.
pub(super) fn frame_of(sequence: u64, kind: FrameKind, facts: &Facts) -> Vec<u8> {
    let publication = facts.publication(sequence);
    let frames = publication.frames();
    let frame = frames.encode(publication, kind, &mut Compressor::default());
    frame.expect("a frame").wire(kind).to_vec()
}
