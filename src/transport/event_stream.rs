//! Server-sent events (WHATWG HTML, 9.2) as a response body that does not end.
//!
//! This transport writes the response head, the reconnection time, the position, gaps, heartbeats
//! and the end of the body. For HTTP/1.1 clients, the body is chunked (RFC 9112, 7.1). Publications
//! are not written here, because `frame` encodes them. Bytes that the client sends after its
//! request are ignored. The caller is the enum `Transport`.

use crate::backend::{BackendMessage, CloseInfo};
use crate::context::Context;
use crate::effect::{CloseReason, Join};
use crate::frame::envelope::{push_base64, push_display, push_json_string, push_payload_field};
use crate::frame::event_stream::{push_chunk, push_data_lines};
use crate::frame::{Envelope, FrameKind, Payload};
use crate::http::Sharing;
use crate::http::response::{StreamBody, push_event_stream_head};
use crate::hub::{Gap, JoinOutcome};
use crate::id::{ChannelName, Cursor};
use crate::transport::{Flow, Goodbye, StreamEvent, push_gap_fields};

/// The code for an expired token, equal to the close code on a WebSocket.
const TOKEN_EXPIRED: u16 = 4002;

/// The last chunk of a chunked body (RFC 9112, 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The state of an event stream.
#[derive(Debug)]
pub struct EventStream {
    envelope: Envelope,
    body: StreamBody,
    sharing: Sharing,
    state: State,
}

/// The state of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The head is not written yet, because one of its fields must report whether there is a gap.
    Opening,
    /// The head is written, and events can be written.
    Streaming,
    /// The end of the body is written.
    Ended(CloseReason),
}

impl EventStream {
    /// Makes an event stream for an accepted request.
    #[must_use]
    pub fn new(envelope: Envelope, body: StreamBody, sharing: Sharing) -> Self {
        Self {
            envelope,
            body,
            sharing,
            state: State::Opening,
        }
    }

    /// Returns the origins whose pages may read the stream.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub(super) fn frame_kind(&self) -> FrameKind {
        match self.body {
            StreamBody::Chunked => FrameKind::EventStream(self.envelope),
            StreamBody::UntilClose => FrameKind::EventStreamUntilClose(self.envelope),
        }
    }

    pub(super) fn handle_bytes(&self) -> Flow {
        self.flow()
    }

    /// Writes the head and everything else that precedes the first publication.
    pub(super) fn handle_joined(
        &mut self,
        join: &Join,
        outcomes: &[JoinOutcome],
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Flow {
        if self.state != State::Opening {
            return self.flow();
        }
        let gap = |outcome: &JoinOutcome| outcome.joined().and_then(|joined| joined.gap);
        let has_gap = outcomes.iter().any(|outcome| gap(outcome).is_some());
        self.push_head(has_gap, out, context);
        self.state = State::Streaming;
        let position = JoinOutcome::position(outcomes).unwrap_or(context.head);
        let retry_ms = context.reconnect_ms();
        let mut events = Vec::with_capacity(64);
        // This line needs no empty line after it: it belongs to the block of the next gap or
        // position.
        push_display(&format_args!("retry: {retry_ms}\n"), &mut events);
        // The position is written after all gaps. A client that loses the connection in between
        // resumes from its old position and receives the gaps again.
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if let Some(gap) = gap(outcome) {
                push_gap_event(channel, &gap, &mut events);
                context.metrics.gaps.increment();
            }
        }
        push_position_event(Some(position), &mut events);
        self.push_body(&events, out);
        self.flow()
    }

    /// Handles an event: writes a gap, or the position after all gaps.
    ///
    /// A gap does not change the client's position, because publications of other channels before
    /// the gap's end may still be pending. If the client resumed from its old position, it would
    /// receive the gap again. So the new position is written after all gaps, even if no publication
    /// follows for a long time.
    pub(super) fn handle_event(
        &self,
        event: StreamEvent<'_>,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if self.state != State::Streaming {
            return;
        }
        let mut block = Vec::new();
        match event {
            StreamEvent::Gap(channel, gap) => {
                block.reserve(256);
                push_gap_event(channel, gap, &mut block);
                context.metrics.gaps.increment();
            }
            StreamEvent::GapsSent(reached) => push_position_event(Some(reached), &mut block),
            // The client of an event stream sends no commands, so no answer is needed.
            StreamEvent::Acknowledged(..) | StreamEvent::Left(..) => return,
        }
        self.push_body(&block, out);
    }

    /// Writes a heartbeat. If the client is up to date, the heartbeat contains the client's
    /// position. So the client does not resume from an old position after a long time without
    /// publications. If the client is behind, the heartbeat is a comment line. No empty line is
    /// written after the comment, because some clients dispatch an event at every empty line.
    pub(super) fn handle_heartbeat(
        &self,
        is_caught_up: bool,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if self.state != State::Streaming {
            return;
        }
        let mut block = Vec::with_capacity(64);
        if is_caught_up {
            push_position_event(Some(context.head), &mut block);
        } else {
            block.extend_from_slice(b":\n");
        }
        self.push_body(&block, out);
        context.metrics.heartbeats.increment();
    }

    /// Writes a backend's message. The event has no id, so the client's position does not change.
    pub(super) fn handle_backend_message(
        &self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
    ) -> Flow {
        // Other messages answer commands, and the client of an event stream sends no commands.
        if let (State::Streaming, BackendMessage::Payload(payload)) = (self.state, message) {
            let mut event = Vec::with_capacity(payload.len() + 64);
            event.extend_from_slice(b"event: fanfare.direct\n");
            push_payload_lines(self.envelope, payload, &mut event);
            event.push(b'\n');
            self.push_body(&event, out);
        }
        self.flow()
    }

    /// Ends the body. The client then reconnects by itself. When the server stops, the last block
    /// contains the reconnection delay.
    pub(super) fn handle_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Flow {
        match self.state {
            State::Opening => self.push_head(false, out, context),
            State::Streaming => {}
            State::Ended(_) => return self.flow(),
        }
        match goodbye {
            Goodbye::Disconnect(close_info) => {
                let mut event = Vec::with_capacity(128);
                push_disconnect_event(close_info, &mut event);
                self.push_body(&event, out);
            }
            Goodbye::Idle | Goodbye::NoSubscription | Goodbye::Overflow | Goodbye::PeerDone => {}
            Goodbye::TokenExpired | Goodbye::TokenMissing => {
                let mut event = Vec::with_capacity(128);
                push_disconnect_event(&token_expired(), &mut event);
                self.push_body(&event, out);
            }
            Goodbye::Shutdown => {
                let retry_ms = context.reconnect_ms();
                let mut block = Vec::with_capacity(64);
                push_display(&format_args!("retry: {retry_ms}\n"), &mut block);
                push_position_event(None, &mut block);
                self.push_body(&block, out);
            }
        }
        match self.body {
            StreamBody::Chunked => out.extend_from_slice(LAST_CHUNK),
            StreamBody::UntilClose => {}
        }
        self.state = State::Ended(goodbye.close_reason());
        self.flow()
    }

    fn flow(&self) -> Flow {
        match self.state {
            State::Opening | State::Streaming => Flow::Open,
            State::Ended(reason) => Flow::Ended(reason),
        }
    }

    fn push_head(&self, has_gap: bool, out: &mut Vec<u8>, context: &Context<'_>) {
        let reader = self.sharing.reader(&context.config.browser);
        push_event_stream_head(self.body, has_gap, reader, context.date, out);
    }

    fn push_body(&self, content: &[u8], out: &mut Vec<u8>) {
        match self.body {
            StreamBody::Chunked => {
                push_chunk(content, out);
            }
            StreamBody::UntilClose => out.extend_from_slice(content),
        }
    }
}

/// Appends a payload as the data of an event.
fn push_payload_lines(envelope: Envelope, payload: &Payload, event: &mut Vec<u8>) {
    match (envelope, payload) {
        (Envelope::Data, Payload::Json(text) | Payload::Text(text)) => {
            push_data_lines(text, event);
        }
        (Envelope::Data, Payload::Bytes(bytes)) => {
            event.extend_from_slice(b"data: ");
            push_base64(bytes, event);
            event.push(b'\n');
        }
        (Envelope::Full | Envelope::Initial, _) => {
            event.extend_from_slice(b"data: {");
            push_payload_field(payload, event);
            event.extend_from_slice(b"}\n");
        }
    }
}

/// Returns the close code and reason for an expired or missing token.
fn token_expired() -> CloseInfo {
    CloseInfo {
        code: TOKEN_EXPIRED,
        reason: Box::from("token_expired"),
    }
}

/// Appends the event with the reason for the end of the stream. A page needs this event to stop
/// `EventSource` from reconnecting.
fn push_disconnect_event(close_info: &CloseInfo, event: &mut Vec<u8>) {
    let code = close_info.code;
    push_display(
        &format_args!("event: fanfare.disconnect\ndata: {{\"code\":{code},\"reason\":"),
        event,
    );
    push_json_string(&close_info.reason, event);
    event.extend_from_slice(b"}\n\n");
}

/// Ends a block that has no data. If `position` is set, it becomes the client's position.
///
/// A client that follows the standard does not dispatch an event without data. Some libraries
/// dispatch such an event, so an event type distinguishes the block from publications. The line
/// with the type has no space after the colon, which is optional (WHATWG HTML, 9.2.6). The types of
/// events with data are written with the space.
fn push_position_event(position: Option<Cursor>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event:fanfare.position\n");
    if let Some(position) = position {
        push_display(&format_args!("id: {position}\n"), out);
    }
    out.push(b'\n');
}

/// Appends a gap event. The event has no id, so the client's position does not change.
fn push_gap_event(channel: &ChannelName, gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: fanfare.gap\ndata: {");
    // JSON without insignificant white space is one line, so one data field is enough.
    push_gap_fields(channel, gap, out);
    out.extend_from_slice(b"}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Origin;
    use crate::hub::{GapCause, Joined};
    use crate::id::Since;
    use crate::transport::test_context::{World, cursor};

    fn channel(name: &str) -> ChannelName {
        ChannelName::new(name).unwrap()
    }

    fn gap(until: u64) -> Gap {
        Gap {
            since: Some(cursor(1)),
            until: cursor(until),
            missed: Some(4),
            cause: GapCause::Expired,
        }
    }

    fn joined_at(sequence: u64, gap: Option<Gap>) -> JoinOutcome {
        JoinOutcome::Joined(Joined {
            position: cursor(sequence),
            is_recovered: gap.is_none(),
            gap,
        })
    }

    fn open(
        body: StreamBody,
        outcomes: &[JoinOutcome],
        world: &mut World,
    ) -> (EventStream, String) {
        let mut stream = EventStream::new(Envelope::Data, body, Sharing::default());
        let names = ["a", "b", "c"];
        let join = Join {
            channels: names
                .iter()
                .take(outcomes.len())
                .map(|n| channel(n))
                .collect(),
            since: Since::Now,
            window: None,
            origin: Origin::Request,
        };
        let mut out = Vec::new();
        let flow = stream.handle_joined(&join, outcomes, &mut out, &world.context());
        assert_eq!(flow, Flow::Open);
        (stream, String::from_utf8(out).unwrap())
    }

    /// Decodes a chunked body.
    fn unchunk(mut body: &str) -> String {
        let mut content = String::new();
        while let Some((size, rest)) = body.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            content.push_str(&rest[..size]);
            body = rest[size..].strip_prefix("\r\n").unwrap();
        }
        assert_eq!(body, "");
        content
    }

    fn body(response: &str) -> &str {
        response.split_once("\r\n\r\n").unwrap().1
    }

    #[test]
    fn stream_begins_with_retry_and_the_position() {
        let (stream, response) = open(
            StreamBody::UntilClose,
            &[joined_at(17, None)],
            &mut World::default(),
        );
        assert!(!response.contains("Fanfare-Gap: "));
        let expected = "retry: 1000\nevent:fanfare.position\nid: 000000000abc-17\n\n";
        assert_eq!(body(&response), expected);
        assert_eq!(
            stream.frame_kind(),
            FrameKind::EventStreamUntilClose(Envelope::Data)
        );
    }

    #[test]
    fn retry_is_drawn_within_its_bounds() {
        for (draw, expected) in [(0, "retry: 1000\n"), (u64::MAX, "retry: 5000\n")] {
            let mut world = World {
                draw,
                ..World::default()
            };
            let (_, response) = open(StreamBody::UntilClose, &[joined_at(1, None)], &mut world);
            assert!(body(&response).starts_with(expected), "{response}");
        }
    }

    #[test]
    fn gap_precedes_the_position_of_the_channel_furthest_back() {
        let outcomes = [joined_at(60, Some(gap(60))), joined_at(20, None)];
        let mut world = World::default();
        let (_, response) = open(StreamBody::Chunked, &outcomes, &mut world);
        assert!(response.contains("Fanfare-Gap: 1\r\n"));
        let expected = concat!(
            "retry: 1000\n",
            "event: fanfare.gap\n",
            "data: {\"channel\":\"a\",\"since\":\"000000000abc-1\",\"until\":\"000000000abc-60\",",
            "\"missed\":4,\"cause\":\"expired\"}\n\n",
            "event:fanfare.position\nid: 000000000abc-20\n\n"
        );
        assert_eq!(unchunk(body(&response)), expected);
        assert_eq!(world.metrics.gaps.value(), 1);
    }

    #[test]
    fn stream_without_channels_has_the_position_of_the_head() {
        let outcomes = [JoinOutcome::TooManyChannels];
        let (_, response) = open(StreamBody::UntilClose, &outcomes, &mut World::default());
        assert!(body(&response).contains("id: 000000000abc-900\n"));
    }

    #[test]
    fn position_follows_gaps_in_mid_stream() {
        let mut world = World::default();
        let (stream, _) = open(StreamBody::UntilClose, &[joined_at(1, None)], &mut world);
        let mut out = Vec::new();
        let (name, gap) = (channel("a"), gap(60));
        let event = StreamEvent::Gap(&name, &gap);
        stream.handle_event(event, &mut out, &world.context());
        let event = StreamEvent::GapsSent(cursor(64));
        stream.handle_event(event, &mut out, &world.context());
        let out = String::from_utf8(out).unwrap();
        let (gap, position) = out.split_once("\n\n").unwrap();
        assert!(gap.starts_with("event: fanfare.gap\ndata: ") && !gap.contains("\nid: "));
        assert_eq!(position, "event:fanfare.position\nid: 000000000abc-64\n\n");
    }

    #[test]
    fn gap_event_has_no_position() {
        let mut world = World::default();
        let (stream, _) = open(StreamBody::Chunked, &[joined_at(1, None)], &mut world);
        let unknown = Gap {
            since: None,
            missed: None,
            cause: GapCause::Slow,
            ..gap(70)
        };
        let mut out = Vec::new();
        let name = channel("a\"b");
        let event = StreamEvent::Gap(&name, &unknown);
        stream.handle_event(event, &mut out, &world.context());
        let expected = concat!(
            "event: fanfare.gap\n",
            "data: {\"channel\":\"a\\\"b\",\"since\":null,\"until\":\"000000000abc-70\",",
            "\"missed\":null,\"cause\":\"slow\"}\n\n"
        );
        assert_eq!(unchunk(std::str::from_utf8(&out).unwrap()), expected);
    }

    #[test]
    fn heartbeat_is_a_position_when_caught_up_and_otherwise_a_comment_line() {
        let mut world = World::default();
        let position = "event:fanfare.position\nid: 000000000abc-900\n\n";
        for (is_caught_up, expected) in [(false, ":\n"), (true, position)] {
            let (stream, _) = open(StreamBody::Chunked, &[joined_at(1, None)], &mut world);
            let mut out = Vec::new();
            stream.handle_heartbeat(is_caught_up, &mut out, &world.context());
            assert_eq!(unchunk(std::str::from_utf8(&out).unwrap()), expected);
        }
        assert_eq!(world.metrics.heartbeats.value(), 2);
    }

    #[test]
    fn shutdown_writes_a_drawn_retry_and_ends_the_body() {
        let mut world = World {
            draw: u64::MAX,
            ..World::default()
        };
        let block = "retry: 5000\nevent:fanfare.position\n\n";
        let chunked = format!("{:x}\r\n{block}\r\n0\r\n\r\n", block.len());
        for (stream_body, expected) in [
            (StreamBody::Chunked, chunked.as_str()),
            (StreamBody::UntilClose, block),
        ] {
            let (mut stream, _) = open(stream_body, &[joined_at(1, None)], &mut world);
            let mut out = Vec::new();
            let flow = stream.handle_goodbye(Goodbye::Shutdown, &mut out, &world.context());
            assert_eq!(flow, Flow::Ended(CloseReason::Shutdown));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn every_block_without_data_has_a_reserved_type() {
        let mut world = World::default();
        for outcome in [joined_at(1, None), joined_at(1, Some(gap(60)))] {
            let (mut stream, response) = open(StreamBody::UntilClose, &[outcome], &mut world);
            let mut out = body(&response).as_bytes().to_vec();
            stream.handle_heartbeat(true, &mut out, &world.context());
            stream.handle_heartbeat(false, &mut out, &world.context());
            let (name, gap) = (channel("a"), gap(9));
            stream.handle_event(StreamEvent::Gap(&name, &gap), &mut out, &world.context());
            let _ended = stream.handle_goodbye(Goodbye::Shutdown, &mut out, &world.context());
            let text = String::from_utf8(out).unwrap();
            let blocks: Vec<_> = text.split_terminator("\n\n").collect();
            assert!(blocks.len() >= 4, "{text:?}");
            for block in blocks {
                let types = block.lines().filter_map(|line| line.strip_prefix("event:"));
                let mut types = types.map(str::trim_start);
                assert!(types.any(|kind| kind.starts_with("fanfare.")), "{block:?}");
            }
        }
    }

    #[test]
    fn ended_stream_writes_nothing_more() {
        for (goodbye, reason) in [
            (Goodbye::Idle, CloseReason::Idle),
            (Goodbye::Overflow, CloseReason::Overflow),
        ] {
            let mut world = World::default();
            let (mut stream, _) = open(StreamBody::Chunked, &[joined_at(1, None)], &mut world);
            let mut out = Vec::new();
            let flow = stream.handle_goodbye(goodbye, &mut out, &world.context());
            assert_eq!(flow, Flow::Ended(reason));
            assert_eq!(out, LAST_CHUNK);
            out.clear();
            stream.handle_heartbeat(true, &mut out, &world.context());
            let (name, gap) = (channel("a"), gap(9));
            stream.handle_event(StreamEvent::Gap(&name, &gap), &mut out, &world.context());
            let again = stream.handle_goodbye(Goodbye::Shutdown, &mut out, &world.context());
            assert_eq!(again, flow);
            assert_eq!(stream.handle_bytes(), flow);
            assert_eq!(out, b"");
        }
    }

    #[test]
    fn goodbye_before_the_join_still_answers_the_request() {
        let mut world = World::default();
        let mut stream = EventStream::new(Envelope::Full, StreamBody::Chunked, Sharing::default());
        let mut out = Vec::new();
        let flow = stream.handle_goodbye(Goodbye::Shutdown, &mut out, &world.context());
        assert_eq!(flow, Flow::Ended(CloseReason::Shutdown));
        assert!(out.starts_with(b"HTTP/1.1 200 "));
        assert!(out.ends_with(LAST_CHUNK));
    }
}
