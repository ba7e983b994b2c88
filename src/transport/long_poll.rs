//! Long poll: one answer, as soon as there is news, or after a timeout.
//!
//! While it waits, the conn is a subscriber like any other. The worker answers when a publication
//! or a gap is owed. A poll without a position is answered at once, with the position. One that
//! asks for history waits if the log has none. The deadline is on the worker's wheel. Called by the
//! enum over the polls.

use crate::context::Context;
use crate::effect::{Effect, Join};
use crate::frame::Envelope;
use crate::http::{After, Sharing};
use crate::id::Since;
use crate::transport::poll_answer::PollTerms;

/// One long poll.
#[derive(Debug)]
pub struct LongPoll(PollTerms);

impl LongPoll {
    /// A long poll for an accepted request.
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
