//! What long and short polls have in common: the one answer.
//!
//! An answer is settled when it is written: its head tells its length and its entity tag, so
//! nothing is added to it later and nothing taken away. Here everything is written up to the
//! publications, which go out behind it from the conn's outbox, shared with everybody else. Called
//! by the two transports and, where they do not differ, by the enum over them.

use crate::effect::{CloseReason, Context};
use crate::frame::envelope::push_display;
use crate::frame::json_element::SEPARATOR_BYTES;
use crate::frame::{Encoded, Envelope, FrameKind};
use crate::http::response::{PollHead, push_not_modified, push_poll_head};
use crate::http::{After, Sharing};
use crate::hub::Gap;
use crate::id::{ChannelName, Cursor};
use crate::transport::push_gap_fields;

/// What ends an answer, behind its publications.
pub const TAIL: &[u8] = b"]}";

/// What a poll is answered with.
#[derive(Debug)]
pub struct News {
    /// What the client will not be given.
    pub gaps: Vec<(ChannelName, Gap)>,
    /// What it is given, in order.
    pub publications: Vec<Encoded>,
    /// From where it goes on.
    pub position: Cursor,
    /// It is given nothing, is told of nothing and stays where it was.
    pub is_unmoved: bool,
}

impl News {
    /// Whether there is nothing to give and nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.publications.is_empty()
    }
}

/// How a poll is to be answered.
#[derive(Debug)]
pub(super) struct Terms {
    envelope: Envelope,
    /// Why the conn ends behind the answer, if it does.
    end: Option<CloseReason>,
    sharing: Sharing,
}

impl Terms {
    pub(super) fn new(envelope: Envelope, after: After, sharing: Sharing) -> Self {
        Self {
            envelope,
            end: match after {
                After::Close => Some(CloseReason::Done),
                After::KeepAlive => None,
            },
            sharing,
        }
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub(super) fn frame_kind(&self) -> FrameKind {
        FrameKind::Poll(self.envelope)
    }

    pub(super) fn end_with(&mut self, reason: Option<CloseReason>) {
        self.end = reason.or(self.end);
    }

    /// Writes everything that comes before the publications; where there are none, everything.
    pub(super) fn answer(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Option<CloseReason> {
        let mut opening = Vec::with_capacity(96);
        push_opening(news, &mut opening);
        let frames = news.publications.iter().map(|frame| frame.wire().len());
        // The first of them is sent without what separates it from the one before.
        let frames = frames.sum::<usize>().saturating_sub(SEPARATOR_BYTES);
        push_poll_head(
            self.head(news, context),
            opening.len() + frames + TAIL.len(),
            out,
        );
        out.extend_from_slice(&opening);
        if news.publications.is_empty() {
            out.extend_from_slice(TAIL);
        }
        context.metrics.gaps.add(news.gaps.len() as u64);
        match news.is_empty() {
            true => context.metrics.polls_without_news.increment(),
            false => context.metrics.polls_with_news.increment(),
        }
        self.end
    }

    /// Tells that the client has everything.
    pub(super) fn answer_not_modified(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Option<CloseReason> {
        push_not_modified(self.head(news, context), out);
        context.metrics.polls_not_modified.increment();
        self.end
    }

    fn head<'a>(&self, news: &News, context: &Context<'a>) -> PollHead<'a> {
        PollHead {
            id: news.position,
            has_gap: !news.gaps.is_empty(),
            then: match self.end {
                Some(_) => After::Close,
                None => After::KeepAlive,
            },
            retry_after_s: match self.end {
                Some(CloseReason::Shutdown) => Some(context.retry_after_s()),
                Some(_) | None => None,
            },
            reader: self.sharing.reader(&context.config.browser),
            date: context.date,
        }
    }
}

/// Appends the content up to the first publication.
fn push_opening(news: &News, out: &mut Vec<u8>) {
    let has_gap = !news.gaps.is_empty();
    push_display(
        &format_args!("{{\"id\":\"{}\",\"gap\":{has_gap}", news.position),
        out,
    );
    for (index, (channel, gap)) in news.gaps.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"gaps\":[{" } else { b",{" });
        push_gap_fields(channel, gap, out);
        out.push(b'}');
    }
    if has_gap {
        out.push(b']');
    }
    out.extend_from_slice(b",\"publications\":[");
}
