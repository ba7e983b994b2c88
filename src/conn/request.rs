//! The request phase: one response at a time, until a request opens a stream.
//!
//! A client may send requests ahead; what has to wait for a response to go out is kept as it came,
//! within the limit on a request head, and the socket is not read meanwhile. When the response is
//! out, the worker reads what was kept instead of the socket, so a turn answers one request.

use std::time::Duration;

use super::{Conn, Partial, Phase, Stage};
use crate::auth::Warning;
use crate::effect::{CloseReason, ConnClass, Context, Effect, Join, Origin, Window};
use crate::frame::Envelope;
use crate::http::{self, After, Answer, Entry, Read, Refusal, Sharing};
use crate::id::{ChannelName, Since};
use crate::time::Deadline;
use crate::transport::websocket::Compression;
use crate::transport::{EventStream, Transport, WebSocket};

impl Conn {
    /// Answers the requests in `bytes`, once it is known whom they come from.
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
        self.answer_requests(bytes, out, context);
    }

    /// Answers the requests in `bytes`, one response at a time; what has to wait is kept.
    pub(super) fn answer_requests(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let read = http::read_guarded_request(
            bytes,
            context.access.verifying(),
            context.config,
            context.date,
            context.metrics,
        );
        let Read::Request { length, answer } = read else {
            return self.keep(bytes, false);
        };
        let rest = bytes.get_mut(length..).unwrap_or_default();
        match answer {
            Answer::Respond(response) => {
                out.extend_from_slice(&response.bytes);
                match response.then {
                    After::Close if response.status.code() < 400 => {
                        self.end(CloseReason::Done, context);
                    }
                    After::Close => self.end(CloseReason::BadRequest, context),
                    After::KeepAlive => {
                        let deadline = context.now.after(context.config.limits.request_head());
                        context.ask(Effect::SetTimer(deadline));
                        self.keep(rest, true);
                        self.set_class(ConnClass::Other, context);
                    }
                }
            }
            Answer::EventStream(request) => {
                let stream = EventStream::new(request.envelope, request.body, request.sharing);
                let stream = Transport::EventStream(stream);
                let join = joining(request.channels, request.since, None);
                let join = enter(request.entry, join, Warning::None, context);
                self.open_stream(stream, join, context);
            }
            Answer::Poll(request) => self.open_poll(request, rest, context),
            Answer::WebSocket(request) => {
                http::response::push_switching_protocols(&request, context.date, out);
                context.metrics.upgrades.increment();
                let compression = match request.deflate {
                    Some(_) => Compression::Deflate,
                    None => Compression::None,
                };
                let socket = Transport::WebSocket(WebSocket::new(request.envelope, compression));
                let join = joining(request.channels, request.since, request.window);
                let warning = match request.envelope {
                    Envelope::Full | Envelope::Initial => Warning::Ahead,
                    Envelope::Data => Warning::None,
                };
                let join = enter(request.entry, join, warning, context);
                self.open_stream(socket, join, context);
                self.handle_early_bytes(rest, out, context);
            }
        }
    }

    /// Bytes that came in one piece with the handshake are the stream's first.
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

    /// Answers HTTP that came without TLS to a port that speaks it. Nothing is sealed on this conn.
    pub fn handle_plaintext(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let response = http::response::turn_away(Refusal::PlainOnTls, context.date);
        out.extend_from_slice(&response.bytes);
        context.metrics.requests_refused.increment();
        self.end(CloseReason::BadRequest, context);
        self.settle(out, context);
    }

    /// Answers a request for channels that the server has no room for.
    pub(super) fn refuse_joining(
        &mut self,
        sharing: Sharing,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let refusal = Refusal::ServerFullOfChannels;
        let reader = sharing.reader(&context.config.browser);
        let wait_s = context.retry_after_s();
        let response = http::response::put_off(refusal, reader, wait_s, context.date);
        out.extend_from_slice(&response.bytes);
        context.metrics.requests_refused.increment();
        self.end(CloseReason::Refused, context);
    }

    fn keep(&mut self, bytes: &[u8], served: bool) {
        if let Phase::Request { partial, stage } = &mut self.phase {
            Partial::push(partial, bytes);
            if let Some(partial) = partial {
                partial.is_unhandled = served;
            }
            if served {
                *stage = Stage::Served;
            }
        }
    }

    fn open_stream(&mut self, transport: Transport, join: Option<Join>, context: &mut Context<'_>) {
        let phase = Phase::Stream {
            transport,
            closing: None,
        };
        // Conns that came in one storm must not be sent their heartbeats in one storm.
        let interval = context.config.heartbeat.interval_ms;
        let first = interval / 2 + context.draw.below(interval / 2);
        let first = context.now.after(Duration::from_millis(first));
        self.open(phase, join, first, context);
    }

    /// `first` is when the worker calls if nothing happens. It is armed before joining, since a
    /// poll may have its answer by joining. Without a `join` a token is awaited first.
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
            Phase::Request { .. }
            | Phase::Poll { .. }
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

/// Notes how a request comes in, and hands on what it may have now.
pub(super) fn enter(
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

/// What a request asks for.
pub(super) fn joining(channels: Vec<ChannelName>, since: Since, window: Option<Window>) -> Join {
    Join {
        channels,
        since,
        window,
        origin: Origin::Request,
    }
}
