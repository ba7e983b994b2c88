//! Long poll: one answer, as soon as there is news, or when time is over.
//!
//! Waits as a subscriber like any other; the worker answers when something is owed or has to be
//! told. Without a position there is nothing to wait for: the client first has to learn where it
//! is. One that asks for history waits where the log has none. Its deadline is on the worker's
//! wheel. Called by the enum over the transports.

use crate::effect::{Context, Effect, Join};
use crate::frame::Envelope;
use crate::http::{After, Sharing};
use crate::id::Since;
use crate::transport::poll_answer::Terms;

/// One long poll that waits.
#[derive(Debug)]
pub struct LongPoll(Terms);

impl LongPoll {
    /// A long poll whose request has been accepted.
    #[must_use]
    pub fn new(envelope: Envelope, after: After, sharing: Sharing) -> Self {
        Self(Terms::new(envelope, after, sharing))
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.0
    }

    pub(super) fn terms_mut(&mut self) -> &mut Terms {
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
