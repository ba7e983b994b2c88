//! `access_records`: what the access log needs to know about this worker's conns.
//!
//! Without an access log, the table is empty, and each function costs one check. A conn that is not
//! in the sample has no record.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::wire::net::Net;
use crate::access_log::Line;
use crate::effect::{AnsweredRequest, CloseReason, ReadRequest};
use crate::id::ConnId;
use crate::time::Now;
use crate::traceparent::TraceParent;

/// The records of the conns in the sample, by slot.
#[derive(Debug, Default)]
pub(super) struct AccessRecords(HashMap<u32, Box<Record>, RandomState>);

#[derive(Debug)]
struct Record {
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

impl<N: Net> Worker<N> {
    /// Makes a record of a new conn, if the conn is in the sample.
    pub(super) fn begin_access_record(&mut self, id: ConnId) {
        let Some(log) = &self.parts.access_log else {
            return;
        };
        if !log.is_sampled(self.net.draw()) {
            return;
        }
        let slot = self.conns.get(id.slot as usize);
        let record = Record {
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
        if let Some(record) = self.access_records.0.get_mut(&id.slot) {
            record.begun = self.now;
            record.request = Some(request);
            record.has_requested = true;
            record.sub = None;
            (record.publications, record.bytes) = (0, 0);
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
        let (Some(record), Some(log)) = (
            self.access_records.0.get(&id.slot),
            &mut self.parts.access_log,
        ) else {
            return;
        };
        log.write(&Line {
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
        });
    }
}
