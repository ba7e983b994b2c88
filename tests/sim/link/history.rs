//! Subscriptions that begin with history, and the initial marks of publications.
//!
//! [`History`] decides which publications are allowed. This file parses the marks that a client can
//! see.

use fanfare::frame::{Compressor, FrameKind};

use super::Link;
use crate::feed::traceparent;
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
        check_traceparent(sequence, kind, whole, facts);
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

/// Checks that the trace context is the last key of the full envelope if the publication has one,
/// and that it occurs nowhere else.
fn check_traceparent(sequence: u64, kind: FrameKind, whole: &[u8], facts: &Facts) {
    let end = match facts.publication(sequence).traceparent() {
        Some(_) => format!(",\"traceparent\":\"{}\"}}", traceparent(sequence)),
        None => String::from("}"),
    };
    let has_key = whole.windows(13).any(|bytes| bytes == b"\"traceparent\"");
    let is_full = kind != kind.initial();
    assert_eq!(has_key, is_full && end.len() > 1, "publication {sequence}");
    assert!(
        !is_full || whole.trim_ascii_end().ends_with(end.as_bytes()),
        "publication {sequence} does not end with {end}"
    );
}

/// Returns the bytes of a publication in one kind of frame.
pub(super) fn frame_of(sequence: u64, kind: FrameKind, facts: &Facts) -> Vec<u8> {
    let publication = facts.publication(sequence);
    let frames = publication.frames();
    let frame = frames.encode(publication, kind, &mut Compressor::default());
    frame.expect("a frame").wire(kind).to_vec()
}
