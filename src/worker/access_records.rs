//! `access_records`: what the access log and the spans of connections need to know about this
//! worker's conns.
//!
//! Without an access log and without tracing, the table is empty, and each function costs one
//! check. A conn has a record only if the access log contains the conn, or as long as a span was
//! drawn for it. So an unsampled conn costs no memory.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::wire::net::Net;
use crate::access_log::Line;
use crate::effect::{AnsweredRequest, CloseReason, ReadRequest};
use crate::id::ConnId;
use crate::spans::{ConnectionSpan, SpanContext};
use crate::time::Now;
use crate::traceparent::TraceParent;

/// The records of the conns in the sample, by slot.
#[derive(Debug, Default)]
pub(super) struct AccessRecords(HashMap<u32, Box<Record>, RandomState>);

#[derive(Debug)]
struct Record {
    /// Whether the access log contains the conn.
    is_logged: bool,
    /// The ids of the span of the newest request. Before the first request and after an answer: the
    /// ids of the span that the conn has if it ends or is refused without a further request.
    context: Option<SpanContext>,
    peer: Option<SocketAddr>,
    /// The time at which the conn was accepted, or at which its newest request was read or
    /// answered. The line's duration and the span begin at this time.
    begun: Now,
    /// The newest request, until it is answered or its stream ends.
    request: Option<Box<ReadRequest>>,
    has_requested: bool,
    sub: Option<Arc<str>>,
    publications: u64,
    bytes: u64,
    /// The code of the close frame that the conn has sent.
    close_code: Option<u16>,
}

impl AccessRecords {
    /// Whether a conn has a record. Without an access log, this is one check.
    pub(super) fn has(&self, slot: u32) -> bool {
        !self.0.is_empty() && self.0.contains_key(&slot)
    }

    /// Whether a conn has no record, or a record from which a line or a span will be written.
    pub(super) fn has_reason(&self, slot: u32) -> bool {
        let record = self.0.get(&slot);
        record.is_none_or(|record| record.is_logged || record.context.is_some())
    }

    /// Frees unused capacity.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Stores the code of the close frame that a conn sends.
    pub(super) fn note_close(&mut self, slot: u32, code: u16) {
        if let Some(record) = self.0.get_mut(&slot) {
            record.close_code = Some(code);
        }
    }

    /// Counts what was written to a conn.
    pub(super) fn note_sent(&mut self, slot: u32, publications: u64, bytes: u64) {
        if self.0.is_empty() {
            return;
        }
        if let Some(record) = self.0.get_mut(&slot) {
            record.publications += publications;
            record.bytes += bytes;
        }
    }
}

impl Record {
    /// Returns the span with the values of a line of the access log.
    fn span(&self, context: SpanContext, line: &Line<'_>, now: Now) -> ConnectionSpan {
        ConnectionSpan {
            context,
            begun: self.begun,
            ended: now,
            peer: line.peer,
            client: line.client,
            connection: line.connection,
            transport: line.transport,
            path: line.path.map(Box::from),
            status: line.status,
            close_code: line.close_code,
            reason: line.reason,
            publications: line.publications,
            bytes: line.bytes,
            // A span has no more about a person than the access log.
            sub: line.sub.filter(|_| self.is_logged).map(Box::from),
        }
    }
}

impl<N: Net> Worker<N> {
    /// Whether a conn must pass its requests to the access log or to the spans.
    pub(super) fn is_observed(&self, slot: u32) -> bool {
        self.parts.tracer.is_some() || self.access_records.has(slot)
    }

    /// Makes a record of a new conn, if the access log contains the conn, or if a span is drawn for
    /// the case that the conn sends no request.
    pub(super) fn begin_access_record(&mut self, id: ConnId) {
        let log = self.parts.access_log.as_ref();
        let is_logged = log.is_some_and(|log| log.is_sampled(self.net.draw()));
        let context = self.draw_span(None);
        if is_logged || context.is_some() {
            let record = self.new_record(id, is_logged);
            let record = Record { context, ..record };
            self.access_records.0.insert(id.slot, Box::new(record));
        }
    }

    /// Decides whether a request, or what happens without a request, has a span.
    fn draw_span(&self, parent: Option<&TraceParent>) -> Option<SpanContext> {
        let tracer = self.parts.tracer.as_ref()?;
        tracer.sample_for_client(parent, self.now)
    }

    fn new_record(&self, id: ConnId, is_logged: bool) -> Record {
        let slot = self.conns.get(id.slot as usize);
        Record {
            is_logged,
            context: None,
            peer: slot.and_then(|slot| self.net.peer_address(&slot.socket)),
            begun: self.now,
            request: None,
            has_requested: false,
            sub: None,
            publications: 0,
            bytes: 0,
            close_code: None,
        }
    }

    /// Stores a request that a conn has sent. A request without a span needs a record only for the
    /// access log.
    pub(super) fn note_request(&mut self, id: ConnId, request: Box<ReadRequest>) {
        let context = self.draw_span(request.traceparent.as_ref());
        self.set_context(id, context);
        let Some(record) = self.access_records.0.get_mut(&id.slot) else {
            return;
        };
        record.begun = self.now;
        record.request = Some(request);
        record.has_requested = true;
        record.sub = None;
        (record.publications, record.bytes) = (0, 0);
    }

    /// Stores the ids of a conn's next span. Makes the record, or removes the record if nothing
    /// will be written about the conn.
    fn set_context(&mut self, id: ConnId, context: Option<SpanContext>) {
        match self.access_records.0.get_mut(&id.slot) {
            Some(record) if record.is_logged || context.is_some() => record.context = context,
            Some(_) => {
                self.access_records.0.remove(&id.slot);
            }
            None if context.is_some() => {
                let record = self.new_record(id, false);
                let record = Record { context, ..record };
                self.access_records.0.insert(id.slot, Box::new(record));
            }
            None => {}
        }
    }

    /// Stores the subject of a conn's token before the token is forgotten.
    pub(super) fn note_sub(&mut self, slot: u32) {
        if let Some(record) = self.access_records.0.get_mut(&slot)
            && let Some(sub) = self.access.sub(slot)
        {
            record.sub = Some(sub);
        }
    }

    /// Writes the line and the span of an answered request.
    pub(super) fn log_answer(&mut self, id: ConnId, answered: AnsweredRequest) {
        self.note_sub(id.slot);
        if let Some(record) = self.access_records.0.get_mut(&id.slot) {
            record.publications = answered.publications;
            record.bytes = answered.bytes;
            let request = record.request.take();
            let reason = answered.reason.map(CloseReason::label);
            self.log_access(id, request.as_deref(), Some(answered.status), reason);
        }
        // A later refusal may have no request.
        let context = answered
            .reason
            .map_or_else(|| self.draw_span(None), |_ends| None);
        self.set_context(id, context);
        if let Some(record) = self.access_records.0.get_mut(&id.slot) {
            // Its line must not repeat these values.
            record.begun = self.now;
            record.sub = None;
            // A refusal without a request has its line, too.
            record.has_requested = true;
        }
    }

    /// Writes the line of a stream, or of a conn that has sent no request. Removes the record.
    pub(super) fn end_access_record(&mut self, id: ConnId, reason: CloseReason) {
        let record = self.access_records.0.get_mut(&id.slot);
        let Some((request, has_requested)) =
            record.map(|record| (record.request.take(), record.has_requested))
        else {
            return;
        };
        if request.is_some() || !has_requested {
            let status = request.as_ref().and_then(|request| request.stream_status);
            self.log_access(id, request.as_deref(), status, Some(reason.label()));
        }
        self.access_records.0.remove(&id.slot);
    }

    fn log_access(
        &mut self,
        id: ConnId,
        request: Option<&ReadRequest>,
        status: Option<u16>,
        reason: Option<&'static str>,
    ) {
        let connection = self.name(id);
        let client = self.peers.client(id.slot);
        let Some(record) = self.access_records.0.get(&id.slot) else {
            return;
        };
        let line = Line {
            peer: record.peer,
            client,
            connection,
            transport: request
                .map(|request| request.transport)
                .or_else(|| status.map(|_| "http")),
            path: request.map(|request| &*request.path),
            trace_id: request
                .and_then(|request| request.traceparent)
                .map(TraceParent::trace),
            status,
            close_code: record.close_code,
            reason,
            duration: self.now.since(record.begun),
            publications: record.publications,
            bytes: record.bytes,
            sub: record.sub.as_deref(),
        };
        if let Some(tracer) = &self.parts.tracer
            && let Some(context) = record.context
        {
            tracer.end_connection(Box::new(record.span(context, &line, self.now)));
        }
        if let Some(log) = &mut self.parts.access_log
            && record.is_logged
        {
            log.write(&line);
        }
    }
}
