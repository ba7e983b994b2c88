//! The answer of a long or short poll.
//!
//! An answer cannot change after its head is written, because the head contains the length and the
//! entity tag. This module writes everything that precedes the publications. The publications are
//! then sent from the conn's outbox, as frames that all conns share. The callers are the two
//! polling transports and the enum `Poll`.

use crate::context::Context;
use crate::effect::CloseReason;
use crate::frame::envelope::push_display;
use crate::frame::json_element::SEPARATOR_BYTES;
use crate::frame::{Encoded, Envelope, FrameKind};
use crate::http::response::{PollHead, push_not_modified, push_poll_head};
use crate::http::{After, Sharing, Status};
use crate::hub::Gap;
use crate::id::{ChannelName, Cursor};
use crate::transport::push_gap_fields;

/// The last bytes of an answer, after its publications.
pub const TAIL: &[u8] = b"]}";

/// The content of a poll's answer.
#[derive(Debug)]
pub struct News {
    /// The gaps to report, each with its channel.
    pub gaps: Vec<(ChannelName, Gap)>,
    /// The publications, in order.
    pub publications: Vec<Encoded>,
    /// The client's position after the answer.
    pub position: Cursor,
    /// Whether the answer has no gaps and no publications, and the position is that of the request.
    pub is_unmoved: bool,
}

impl News {
    /// Whether the answer has no gaps and no publications.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.publications.is_empty()
    }
}

/// What determines the form of a poll's answer. The content of the answer is in [`News`].
#[derive(Debug)]
pub(super) struct PollTerms {
    envelope: Envelope,
    /// The reason to close the conn after the answer; `None` if the conn stays open.
    end: Option<CloseReason>,
    sharing: Sharing,
}

impl PollTerms {
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

    /// Writes the head of the answer and the body up to the first publication. If there are no
    /// publications, writes the whole answer.
    pub(super) fn answer(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> (Status, Option<CloseReason>) {
        let mut opening = Vec::with_capacity(96);
        push_opening(news, &mut opening);
        let frames = news.publications.iter().map(|frame| frame.wire().len());
        // The separator before the first publication is not sent.
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
        (Status::Ok, self.end)
    }

    /// Writes a 304 answer (Not Modified), because the client already has the content.
    pub(super) fn answer_not_modified(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> (Status, Option<CloseReason>) {
        push_not_modified(self.head(news, context), out);
        context.metrics.polls_not_modified.increment();
        (Status::NotModified, self.end)
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

/// Appends the answer's JSON text that precedes the first publication.
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
