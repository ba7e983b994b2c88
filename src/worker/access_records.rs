//! `access_records`: what the access log and the spans of connections need to know about this
//! worker's conns.
//!
//! Without an access log and without tracing, the table is empty, and each function costs one
//! check. A conn that is neither in the access log nor traced has no record.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::wire::net::Net;
use crate::access_log::Line;
use crate::effect::{AnsweredRequest, CloseReason, ReadRequest};
use crate::id::ConnId;
use crate::spans::{ConnectionSpan, SpanContext, Tracer};
use crate::time::Now;
use crate::traceparent::TraceParent;

/// The records of the conns in the sample, by slot.
#[derive(Debug, Default)]
pub(super) struct AccessRecords(HashMap<u32, Box<Record>, RandomState>);

/// Whether a conn has a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sampling {
    /// The next request or the end of the conn decides.
    Open,
    /// The newest request has no span.
    Out,
    /// The newest request has a span with these ids.
    In(SpanContext),
}

#[derive(Debug)]
struct Record {
    /// Whether the access log contains the conn.
    is_logged: bool,
    sampling: Sampling,
    /// The time at which the conn was accepted, until its first request is answered.
    accepted: Option<Now>,
    peer: Option<SocketAddr>,
    /// The time at which the conn was accepted, or at which its newest request was read or
    /// answered.
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
    /// Returns the ids of the span. A conn without a request is drawn here.
    fn context(&self, tracer: &Tracer) -> Option<SpanContext> {
        match self.sampling {
            Sampling::Open => tracer.sample(None),
            Sampling::Out => None,
            Sampling::In(context) => Some(context),
        }
    }

    /// Returns the span with the values of a line of the access log.
    fn span(&self, context: SpanContext, line: &Line<'_>, now: Now) -> ConnectionSpan {
        ConnectionSpan {
            context,
            begun: self.accepted.unwrap_or(self.begun),
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
    /// Makes a record of a new conn, if the access log contains the conn or if it may be traced.
    pub(super) fn begin_access_record(&mut self, id: ConnId) {
        let (log, tracer) = (&self.parts.access_log, &self.parts.tracer);
        if log.is_none() && tracer.is_none() {
            return;
        }
        let draw = self.net.draw();
        let is_logged = log.as_ref().is_some_and(|log| log.is_sampled(draw));
        if !is_logged && tracer.is_none() {
            return;
        }
        let slot = self.conns.get(id.slot as usize);
        let record = Record {
            is_logged,
            sampling: match tracer {
                Some(_) => Sampling::Open,
                None => Sampling::Out,
            },
            accepted: Some(self.now),
            peer: slot.and_then(|slot| self.net.peer_address(&slot.socket)),
            begun: self.now,
            request: None,
            has_requested: false,
            sub: None,
            publications: 0,
            bytes: 0,
            close_code: None,
        };
        self.access_records.0.insert(id.slot, Box::new(record));
    }

    /// Stores a request that a conn has sent.
    pub(super) fn note_request(&mut self, id: ConnId, request: Box<ReadRequest>) {
        let Some(record) = self.access_records.0.get_mut(&id.slot) else {
            return;
        };
        if let Some(tracer) = &self.parts.tracer {
            let context = tracer.sample(request.traceparent.as_ref());
            record.sampling = context.map_or(Sampling::Out, Sampling::In);
        }
        if request.stream_status.is_some() && !record.is_logged && record.sampling == Sampling::Out
        {
            // A stream has no further requests, so nothing will be written about the conn.
            self.access_records.0.remove(&id.slot);
            return;
        }
        record.begun = self.now;
        record.request = Some(request);
        record.has_requested = true;
        record.sub = None;
        (record.publications, record.bytes) = (0, 0);
    }

    /// Stores the subject of a conn's token before the token is forgotten.
    pub(super) fn note_sub(&mut self, slot: u32) {
        if let Some(record) = self.access_records.0.get_mut(&slot)
            && let Some(sub) = self.access.sub(slot)
        {
            record.sub = Some(sub);
        }
    }

    /// Writes the line of an answered request.
    pub(super) fn log_answer(&mut self, id: ConnId, answered: AnsweredRequest) {
        self.note_sub(id.slot);
        let Some(record) = self.access_records.0.get_mut(&id.slot) else {
            return;
        };
        record.publications = answered.publications;
        record.bytes = answered.bytes;
        let request = record.request.take();
        let reason = answered.reason.map(CloseReason::label);
        self.log_access(id, request.as_deref(), Some(answered.status), reason);
        if let Some(record) = self.access_records.0.get_mut(&id.slot) {
            // A later refusal may have no request. Its line must not repeat these values.
            record.begun = self.now;
            record.accepted = None;
            if self.parts.tracer.is_some() {
                record.sampling = Sampling::Open;
            }
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
            && let Some(context) = record.context(tracer)
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
