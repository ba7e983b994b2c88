//! A long poll is answered once: as soon as there is a publication or a gap, or after a timeout.
//!
//! While a long poll waits, its conn is a normal subscriber. The worker answers when a publication
//! or a gap is pending. A poll without a position is answered immediately, with the current
//! position. A poll that asks for history waits if the log has no history of its channels. The
//! worker's timer wheel contains the deadline. The caller is the enum `Poll`.

use crate::context::Context;
use crate::effect::{Effect, Join};
use crate::frame::Envelope;
use crate::http::{After, Sharing};
use crate::id::Since;
use crate::transport::poll_answer::PollTerms;

/// The state of a long poll.
#[derive(Debug)]
pub struct LongPoll(PollTerms);

impl LongPoll {
    /// Makes a long poll for an accepted request.
    #[must_use]
    pub fn new(envelope: Envelope, after: After, sharing: Sharing) -> Self {
        Self(PollTerms::new(envelope, after, sharing))
    }

    pub(super) fn terms(&self) -> &PollTerms {
        &self.0
    }

    pub(super) fn terms_mut(&mut self) -> &mut PollTerms {
        &mut self.0
    }

    pub(super) fn handle_joined(join: &Join, context: &mut Context<'_>) {
        match join.since {
            Since::Now => context.ask(Effect::Answer {
                since: None,
                is_up_to_date: false,
            }),
            Since::After(_) | Since::First | Since::Last(_) | Since::Unrecognised => {}
        }
    }
}
