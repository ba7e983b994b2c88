//! First visits: subscriptions that begin with history, and which publications have its mark.
//!
//! What may come is the [`History`]'s; here is what a client can see of it.

use fanfare::frame::{Encoder, FrameKind};

use super::Link;
use crate::history::History;
use crate::model::{Ask, Facts, Seen};

impl Link {
    /// Whether a publication that came is marked as initial; `None` on a link without marks. Its
    /// bytes have to be those of one or the other.
    pub(super) fn read_mark(&mut self, sequence: u64, whole: &[u8], facts: &Facts) -> Option<bool> {
        let channel = facts.channel(facts.publication(sequence).channel.as_str());
        // Where its history begins is known when the first of it comes.
        if self.ledger.is_unbegun(channel) {
            let position = sequence - 1;
            self.seen.push(Seen::Start { channel, position });
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

    /// A subscription that the ledger has begins at a position, or with its history after that.
    pub(super) fn begin(
        &mut self,
        channel: usize,
        position: u64,
        ask: Ask,
        at: u64,
        facts: &Facts,
    ) {
        let history = History::new(self.worker, ask, at, channel, facts);
        if history.is_none() {
            self.seen.push(Seen::Start { channel, position });
        }
        self.ledger.set_history(channel, history, facts);
    }
}

/// The bytes of a publication in one of its encodings.
pub(super) fn frame_of(sequence: u64, kind: FrameKind, facts: &Facts) -> Vec<u8> {
    let publication = facts.publication(sequence);
    let frames = publication.frames();
    let frame = frames.encode(publication, kind, &mut Encoder::default());
    frame.expect("a frame").wire(kind).to_vec()
}
