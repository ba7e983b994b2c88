//! The request phase: one response at a time, until a request opens a stream.
//!
//! A client may pipeline requests. Requests that have to wait for an earlier response are kept
//! unparsed, within the limit on a request head. Meanwhile, the socket is not read. After the
//! response is written, the worker passes the kept bytes to the state machine instead of new bytes.
//! So one turn answers one request.

use std::time::Duration;

use super::{Conn, Partial, Phase};
use crate::auth::Warning;
use crate::certain;
use crate::context::Context;
use crate::effect::{
    AnsweredRequest, CloseReason, ConnClass, Effect, Join, Origin, ReadRequest, Window,
};
use crate::frame::Envelope;
use crate::http::response::Response;
use crate::http::{
    self, After, Answer, Entry, EntryError, EventStreamRequest, Refusal, RequestRead, Sharing,
    Status, WebSocketRequest,
};
use crate::id::{ChannelName, Since};
use crate::time::Deadline;
use crate::transport::websocket::Compression;
use crate::transport::{EventStream, Transport, WebSocket};

impl Conn {
    /// Answers the first request in `bytes`. If a trusted proxy has forwarded the request, the
    /// client is identified first.
    pub(super) fn handle_requests(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if context.is_trusted
            && let Some(client) = http::forwarded_client(bytes, context.config)
        {
            self.keep(bytes, false);
            return context.ask(Effect::IdentifyByForwardedHeader(client));
        }
        self.answer_request(bytes, out, context);
    }

    /// Answers the first request in `bytes`, if it is complete. The remaining bytes are kept.
    pub(super) fn answer_request(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let read = http::read_guarded_request(
            bytes,
            context.access.table(),
            context.config,
            context.date,
            context.metrics,
        );
        let RequestRead::Request { length, answer } = read else {
            return self.keep(bytes, false);
        };
        if context.is_observed {
            note_request(bytes, &answer, context);
        }
        let rest = certain::skip_mut(bytes, length);
        match answer {
            Answer::Respond(response) => {
                if let Some(Refusal::Entry(refused)) = &response.refusal {
                    context.ask(Effect::NoteRefusedToken(refused.code()));
                }
                out.extend_from_slice(&response.bytes);
                self.finish_response(&response, rest, context);
            }
            Answer::EventStream(request) => self.open_event_stream(request, context),
            Answer::Poll(request) => self.open_poll(request, rest, context),
            Answer::Publish(request) => self.open_publish(request, rest, out, context),
            Answer::WebSocket(request) => {
                http::response::push_switching_protocols(&request, context.date, out);
                self.open_websocket(request, context);
                self.handle_early_bytes(rest, out, context);
            }
        }
    }

    /// Ends the conn after a response, or prepares the conn for the next request.
    pub(super) fn finish_response(
        &mut self,
        response: &Response,
        rest: &[u8],
        context: &mut Context<'_>,
    ) {
        let is_token_refused =
            matches!(response.refusal, Some(Refusal::Entry(EntryError::Token(_))));
        let reason = match response.then {
            After::Close if response.status.code() < 400 => Some(CloseReason::Done),
            After::Close if is_token_refused => Some(CloseReason::Unauthorized),
            After::Close => Some(CloseReason::BadRequest),
            After::KeepAlive => None,
        };
        note_response(response, reason, context);
        match reason {
            Some(reason) => self.end(reason, context),
            None => {
                let deadline = context.now.after(context.config.limits.request_head());
                context.ask(Effect::SetTimer(deadline));
                self.keep(rest, true);
                self.set_class(ConnClass::Other, context);
            }
        }
    }

    fn open_event_stream(&mut self, request: EventStreamRequest, context: &mut Context<'_>) {
        let stream = EventStream::new(request.envelope, request.body, request.sharing);
        let join = request_join(request.channels, request.since, None);
        let join = admit(request.entry, join, Warning::None, context);
        self.open_stream(Transport::EventStream(stream), join, context);
    }

    fn open_websocket(&mut self, request: WebSocketRequest, context: &mut Context<'_>) {
        context.metrics.upgrades.increment();
        let compression = match request.deflate {
            Some(_) => Compression::Deflate,
            None => Compression::None,
        };
        let socket = WebSocket::new(request.envelope, compression);
        let join = request_join(request.channels, request.since, request.window);
        let warning = match request.envelope {
            Envelope::Full | Envelope::Initial => Warning::Ahead,
            Envelope::Data => Warning::None,
        };
        let join = admit(request.entry, join, warning, context);
        self.open_stream(Transport::WebSocket(socket), join, context);
    }

    /// Passes the bytes that were read together with the handshake to the stream.
    fn handle_early_bytes(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Phase::Stream { transport, .. } = &mut self.phase
            && !bytes.is_empty()
        {
            let flow = transport.handle_bytes(bytes, out, context);
            self.follow(flow, context);
        }
    }

    /// Answers a plaintext HTTP request on a TLS listener. The response is plaintext, too.
    pub fn handle_plaintext(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let response = http::response::refuse_connection(Refusal::PlainOnTls, context.date);
        self.refuse(&response, CloseReason::BadRequest, out, context);
        self.settle(out, context);
    }

    /// Sends a refusal that no complete request has caused, or that replaces the answer of a
    /// stream or poll. Counts the refusal, notes it for the access log, and ends the conn.
    pub(super) fn refuse(
        &mut self,
        response: &Response,
        reason: CloseReason,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        out.extend_from_slice(&response.bytes);
        context.metrics.requests_refused.increment();
        if let Phase::Request {
            partial: Some(partial),
            ..
        } = &self.phase
            && context.is_observed
            && let Some(logged) = http::logged(&partial.bytes, context.config)
        {
            context.ask(Effect::NoteRequest(Box::new(ReadRequest {
                transport: "http",
                path: logged.path,
                traceparent: logged.traceparent,
                stream_status: None,
            })));
        }
        note_response(response, Some(reason), context);
        self.end(reason, context);
    }

    /// Refuses a stream or poll because the server has too many channels.
    pub(super) fn refuse_joining(
        &mut self,
        sharing: Sharing,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let refusal = Refusal::ServerFullOfChannels;
        let reader = sharing.reader(&context.config.browser);
        let wait_s = context.retry_after_s();
        let response = http::response::refuse_for_now(refusal, reader, wait_s, context.date);
        self.refuse(&response, CloseReason::Refused, out, context);
    }

    /// Stores bytes until they can be handled. `has_answered` is true if the bytes come after a
    /// request that was answered.
    fn keep(&mut self, bytes: &[u8], has_answered: bool) {
        if let Phase::Request { partial, is_first } = &mut self.phase {
            Partial::push(partial, bytes);
            if let Some(partial) = partial {
                partial.is_unhandled = has_answered;
            }
            *is_first &= !has_answered;
        } else {
            debug_assert!(false, "no request is awaited");
        }
    }

    fn open_stream(&mut self, transport: Transport, join: Option<Join>, context: &mut Context<'_>) {
        let phase = Phase::Stream {
            transport,
            closing: None,
        };
        // The first interval is random, so that conns that were accepted together get their
        // heartbeats at different times.
        let interval = context.config.heartbeat.interval_ms;
        let first = interval / 2 + context.draw.below(interval / 2);
        let first = context.now.after(Duration::from_millis(first));
        self.open(phase, join, first, context);
    }

    /// Puts the conn into `phase`, sets the timer to `first` and requests the subscription `join`.
    /// The timer is set first, because the subscription may cause an immediate answer to a poll. If
    /// `join` is `None`, the conn waits for a token before it subscribes.
    pub(super) fn open(
        &mut self,
        phase: Phase,
        join: Option<Join>,
        first: Deadline,
        context: &mut Context<'_>,
    ) {
        let class = match &phase {
            Phase::Stream {
                transport: Transport::WebSocket(_),
                ..
            } => ConnClass::WebSocket,
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => ConnClass::Other,
        };
        self.phase = phase;
        self.set_class(class, context);
        if let Some(gauge) = self.phase.gauge(context.metrics) {
            gauge.increment();
        }
        context.ask(Effect::SetTimer(first));
        if let Some(join) = join {
            context.ask(Effect::Join(join));
        }
    }
}

/// Passes a request to the access log.
fn note_request(bytes: &[u8], answer: &Answer, context: &mut Context<'_>) {
    let (transport, stream_status) = match answer {
        Answer::Respond(_) | Answer::Publish(_) => ("http", None),
        Answer::EventStream(_) => ("event_stream", Some(Status::Ok.code())),
        Answer::Poll(poll) if poll.timeout.is_zero() => ("short_poll", None),
        Answer::Poll(_) => ("long_poll", None),
        Answer::WebSocket(_) => ("websocket", Some(Status::SwitchingProtocols.code())),
    };
    let Some(logged) = http::logged(bytes, context.config) else {
        return debug_assert!(false, "the request was read");
    };
    context.ask(Effect::NoteRequest(Box::new(ReadRequest {
        transport,
        path: logged.path,
        traceparent: logged.traceparent,
        stream_status,
    })));
}

/// Passes a response without publications to the access log.
fn note_response(response: &Response, reason: Option<CloseReason>, context: &mut Context<'_>) {
    if !context.is_observed {
        return;
    }
    context.ask(Effect::NoteAnswer(AnsweredRequest {
        status: response.status.code(),
        publications: 0,
        bytes: response.bytes.len() as u64,
        reason,
    }));
}

/// Registers the request's token. Returns the subscription `join`, or `None` if the client must
/// send a token before it can subscribe.
pub(super) fn admit(
    entry: Entry,
    join: Join,
    warning: Warning,
    context: &mut Context<'_>,
) -> Option<Join> {
    match entry {
        Entry::Anonymous => {}
        Entry::Awaited => {
            let until = context.now.after(context.config.auth.deadline());
            context.access.await_token(join, until);
            return None;
        }
        Entry::Granted(grant) => {
            context.metrics.tokens_accepted.increment();
            context.access.admit(*grant, warning, context.now);
        }
    }
    Some(join)
}

pub(super) fn request_join(
    channels: Vec<ChannelName>,
    since: Since,
    window: Option<Window>,
) -> Join {
    Join {
        channels,
        since,
        window,
        origin: Origin::Request,
    }
}
