//! The publish phase: the conn receives the content of a `POST /publish`, passes the publication to
//! the feed, and waits for the outcome.
//!
//! The content has the same time limit as a request head. While the feed has the publication, the
//! server causes the delay, so no limit runs. Later requests wait, within the limit on a request
//! head.

use std::sync::Arc;

use super::{Conn, Partial, Phase};
use crate::auth::TokenError;
use crate::backend::{BackendMessage, Delivery, PublishOutcome};
use crate::certain;
use crate::context::Context;
use crate::effect::{CloseReason, ConnClass, Effect, Reference};
use crate::http::body::{Body, Progress};
use crate::http::head::Method;
use crate::http::publish::{self, PublishRequest};
use crate::http::{After, Entry, EntryError, Refusal, response};

/// Returns the subject of a request's token.
fn sub(entry: &Entry) -> Option<Arc<str>> {
    match entry {
        Entry::Granted(grant) => grant.sub.clone(),
        Entry::Anonymous | Entry::Awaited => None,
    }
}

/// A publication over HTTP.
#[derive(Debug)]
pub(super) struct Publishing {
    request: PublishRequest,
    /// The content that has been received so far; `None` while the feed has the publication.
    body: Option<Body>,
}

impl Publishing {
    /// Whether the content is not complete.
    pub(super) fn is_receiving(&self) -> bool {
        self.body.is_some()
    }

    /// The conn ends after the response.
    pub(super) fn close_after(&mut self) {
        self.request.after = After::Close;
    }
}

impl Conn {
    /// Returns the subject of the token of a publication over HTTP, while the conn serves it. Such
    /// a token is not in the worker's table, because it is valid for one request only.
    #[must_use]
    pub fn publishing_sub(&self) -> Option<Arc<str>> {
        match &self.phase {
            Phase::Publish { publishing, .. } => sub(&publishing.request.entry),
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => None,
        }
    }

    /// Begins to receive the content. `rest` are the bytes after the head.
    pub(super) fn open_publish(
        &mut self,
        request: PublishRequest,
        rest: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if request.awaits_continue && rest.is_empty() {
            out.extend_from_slice(publish::CONTINUE);
        }
        if let Entry::Granted(_) = request.entry {
            context.metrics.tokens_accepted.increment();
        }
        let body = Some(request.body(context.config));
        let publishing = Box::new(Publishing { request, body });
        self.phase = Phase::Publish {
            publishing,
            partial: None,
        };
        self.set_class(ConnClass::Other, context);
        let deadline = context.now.after(context.config.limits.request_head());
        context.ask(Effect::SetTimer(deadline));
        self.handle_content(rest, out, context);
    }

    /// Handles bytes of the peer in this phase. Bytes that were kept earlier come first.
    pub(super) fn handle_content(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let Phase::Publish {
            publishing,
            partial,
        } = &mut self.phase
        else {
            return debug_assert!(false, "no content is awaited");
        };
        Partial::push(partial, bytes);
        let Some(body) = &mut publishing.body else {
            return;
        };
        let kept = partial.take();
        let input = kept.as_ref().map_or(&[][..], |kept| &kept.bytes);
        match body.take(input) {
            Ok(Progress::More(used)) => Partial::push(partial, certain::skip(input, used)),
            Ok(Progress::Complete(used)) => {
                Partial::push(partial, certain::skip(input, used));
                self.hand_over(out, context);
            }
            // The end of the content is unknown, so no further request can be read.
            Err(error) => {
                let refusal = publish::content_refusal(error, context.config);
                publishing.close_after();
                self.refuse_publication(refusal, out, context);
            }
        }
    }

    /// Passes the publication to the feed, if the content is a payload.
    fn hand_over(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let Phase::Publish { publishing, .. } = &mut self.phase else {
            return debug_assert!(false, "there is no publication");
        };
        let Some(body) = publishing.body.take() else {
            return debug_assert!(false, "the content was received twice");
        };
        // The publication counts towards the client's rate like a frame of a WebSocket, also if it
        // is refused.
        *context.frames += 1;
        let data = match publish::payload(body.bytes()) {
            Ok(data) => data,
            Err(error) => return self.refuse_publication(error.into(), out, context),
        };
        // The token may have expired while the content arrived.
        if let Entry::Granted(grant) = &publishing.request.entry
            && context.access.table().has_expired(grant, context.now)
        {
            let expired = EntryError::Token(TokenError::Expired);
            return self.refuse_publication(expired.into(), out, context);
        }
        let request = &mut publishing.request;
        context.ask(Effect::SetTimer(
            context.now.after(context.config.heartbeat.interval()),
        ));
        context.ask(Effect::Publish {
            channel: request.channel.clone(),
            data,
            dedupe: request.dedupe.take(),
            reference: Some(Reference::of_request()),
            audience: request.audience,
            traceparent: request.traceparent.take(),
            sub: sub(&request.entry),
        });
    }

    /// Sends the outcome of the publication, if the conn waits for it.
    pub(super) fn handle_publish_reply(
        &mut self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Delivery {
        let (Phase::Publish { publishing, .. }, BackendMessage::PublishReply { outcome, .. }) =
            (&self.phase, message)
        else {
            return Delivery::NoConn;
        };
        if publishing.is_receiving() {
            return Delivery::NoConn;
        }
        self.respond_to_publication(*outcome, out, context);
        self.settle(out, context);
        Delivery::Done
    }

    fn respond_to_publication(
        &mut self,
        outcome: PublishOutcome,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let Phase::Publish { publishing, .. } = &self.phase else {
            return debug_assert!(false, "there is no publication");
        };
        let reader = publishing.request.sharing.reader(&context.config.browser);
        let (after, wait_s) = (publishing.request.after, context.retry_after_s());
        let response = publish::respond(outcome, after, reader, wait_s, context.date);
        self.send_response(&response, out, context);
    }

    /// Refuses the publication because of its content.
    fn refuse_publication(
        &mut self,
        refusal: Refusal,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let Phase::Publish { publishing, .. } = &self.phase else {
            return debug_assert!(false, "there is no publication");
        };
        let reader = publishing.request.sharing.reader(&context.config.browser);
        let after = publishing.request.after;
        let response = response::refuse(&refusal, Method::Post, after, reader, context.date);
        self.send_response(&response, out, context);
    }

    /// Sends the response. Then the conn waits for the next request, or ends.
    fn send_response(
        &mut self,
        response: &response::Response,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if response.refusal.is_some() {
            context.metrics.requests_refused.increment();
        }
        out.extend_from_slice(&response.bytes);
        let rest = self.take_partial();
        self.phase = Phase::Request {
            partial: None,
            is_first: false,
        };
        let rest = rest.as_ref().map_or(&[][..], |rest| &rest.bytes);
        self.finish_response(response, rest, context);
    }

    /// Refuses a request whose content is not complete, because the server stops.
    pub(super) fn refuse_to_receive(
        &mut self,
        reason: CloseReason,
        refusal: Refusal,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let Phase::Publish { publishing, .. } = &self.phase else {
            return debug_assert!(false, "there is no publication");
        };
        let reader = publishing.request.sharing.reader(&context.config.browser);
        let wait_s = context.retry_after_s();
        let response = response::refuse_for_now(refusal, reader, wait_s, context.date);
        self.refuse(&response, reason, out, context);
    }
}
