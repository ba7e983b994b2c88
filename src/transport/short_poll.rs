//! Short poll: one answer, at once, whatever there is.
//!
//! A client that is owed nothing stays where it was, so that its entity tag stays the same and the
//! answer can be 304 (RFC 9110, 13.1.2). Called by the enum over the transports.

use crate::effect::{CloseReason, Context, Effect, Join};
use crate::frame::Envelope;
use crate::http::{After, Sharing, Validators};
use crate::id::{Cursor, Since};
use crate::transport::poll_answer::{News, Terms};

/// One short poll on its way to its answer.
#[derive(Debug)]
pub struct ShortPoll {
    terms: Terms,
    /// The client has the answer that it would get without news.
    has_answer: bool,
}

impl ShortPoll {
    /// A short poll whose request has been accepted. `head` is where it stands if it names no
    /// position.
    #[must_use]
    pub fn new(
        envelope: Envelope,
        after: After,
        sharing: Sharing,
        since: Since,
        validators: &Validators,
        head: Cursor,
    ) -> Self {
        Self {
            terms: Terms::new(envelope, after, sharing),
            has_answer: position(since, head).is_some_and(|id| validators.matches(id)),
        }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(super) fn terms_mut(&mut self) -> &mut Terms {
        &mut self.terms
    }

    pub(super) fn handle_joined(join: &Join, context: &mut Context<'_>) {
        let since = position(join.since, context.head);
        // A poll from now on is owed nothing.
        let is_up_to_date = join.since != Since::Now;
        context.ask(Effect::Answer {
            since,
            is_up_to_date,
        });
    }

    pub(super) fn handle_answer(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Option<CloseReason> {
        if self.has_answer && news.is_unmoved {
            self.terms.answer_not_modified(news, out, context)
        } else {
            self.terms.answer(news, out, context)
        }
    }
}

/// Where a client stays that is owed nothing.
fn position(since: Since, head: Cursor) -> Option<Cursor> {
    match since {
        Since::After(cursor) => Some(cursor),
        Since::First | Since::Last(_) | Since::Now => Some(head),
        Since::Unrecognised => None,
    }
}
