//! A short poll is answered once and immediately, even if there are no publications and no gaps.
//!
//! If there are no publications or gaps, the position does not change. In this case, the entity tag
//! stays the same, and the answer can be 304 (RFC 9110, 13.1.2). The caller is the enum `Poll`.

use crate::context::Context;
use crate::effect::{CloseReason, Effect, Join};
use crate::frame::Envelope;
use crate::http::{After, Sharing, Status, Validators};
use crate::id::{Cursor, Since};
use crate::transport::poll_answer::{News, PollTerms};

/// The state of a short poll.
#[derive(Debug)]
pub struct ShortPoll {
    terms: PollTerms,
    /// Whether the client already has the empty answer, which has no publications and no gaps. If
    /// so, an empty answer is sent as 304 (Not Modified).
    has_answer: bool,
}

impl ShortPoll {
    /// Makes a short poll for an accepted request. A request without a position starts at `head`.
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
            terms: PollTerms::new(envelope, after, sharing),
            has_answer: position(since, head).is_some_and(|id| validators.matches(id)),
        }
    }

    pub(super) fn terms(&self) -> &PollTerms {
        &self.terms
    }

    pub(super) fn terms_mut(&mut self) -> &mut PollTerms {
        &mut self.terms
    }

    pub(super) fn handle_joined(join: &Join, context: &mut Context<'_>) {
        let since = position(join.since, context.head);
        // A poll without a position receives no publications.
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
    ) -> (Status, Option<CloseReason>) {
        if self.has_answer && news.is_unmoved {
            self.terms.answer_not_modified(news, out, context)
        } else {
            self.terms.answer(news, out, context)
        }
    }
}

/// Returns the position of an answer without publications and gaps. `None` stands for the log's
/// newest position when the answer is written.
fn position(since: Since, head: Cursor) -> Option<Cursor> {
    match since {
        Since::After(cursor) => Some(cursor),
        Since::First | Since::Last(_) | Since::Now => Some(head),
        Since::Unrecognised => None,
    }
}
