//! SHELL: this module is the worker, which is one thread with its own poll, slab, timer wheel and
//! hub. All workers read the same log and share some state, such as the counters and the limits per
//! client address.
//!
//! A turn runs these phases: poll (`readiness`), `survey`, `report`, `read`, `accept`, `broadcast`,
//! `expire`, `flush`, `pinned`, `reap`. Each phase whose work peers can cause has a budget, so that
//! no peer and no phase delays the others. Work beyond a budget stays on a list, and the next poll
//! then returns without waiting. Only flush writes to conns, only reap frees conns, and only
//! `apply` applies effects.
//!
//! The worker is generic over [`wire::net::Net`]: the simulation in `tests/sim` runs this code over
//! a faulty network. Readiness is edge-triggered. So each slot stores `is_readable` and
//! `is_writable`, and a flag is cleared only when the socket would block.

mod accept;
mod access_records;
pub mod admission;
mod answer_poll;
mod apply;
mod backend_orders;
mod broadcast;
mod close;
mod drain;
mod epoch;
mod expire;
mod flush;
mod hold;
mod invariants;
pub mod listener_conns;
mod listeners;
mod lists;
pub mod mail;
mod memory_trim;
#[cfg(all(test, feature = "model"))]
mod models;
pub mod pinned;
mod read;
mod readiness;
mod reap;
pub mod reloadable;
mod report;
mod round;
mod survey;
mod traced_walks;
mod warn;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hashbrown::HashSet;

use crate::access_log::AccessLog;
use crate::auth::{Access, ConnAccess, Verifier};
use crate::backend::WatchedChannels;
use crate::certain;
use crate::chunks::ChunkedSlab;
use crate::config::Config;
use crate::config::limits::{CALENDAR_REFRESH_MS, READ_BUFFER_BYTES, RULE_UPDATES_PER_TURN_MAX};
use crate::conn::Conn;
use crate::context::{Context, Draw, WorkBudget};
use crate::deflate::Inflater;
use crate::effect::{CloseReason, Effect};
use crate::frame::Compressor;
use crate::hub::{Hub, Planned};
use crate::id::{ConnId, ConnName, Cursor, RunId};
use crate::metrics::WorkerMetrics;
use crate::spans::Tracer;
use crate::sys::listener::SocketOptions;
use crate::sys::wake::Wake;
use crate::time::running::Running;
use crate::time::wheel::Wheel;
use crate::time::{Deadline, Now};
use crate::warnings::Warnings;
use crate::worker::listener_conns::{ListenerConns, ListenerNumber};
use access_records::AccessRecords;
use admission::guard::{Guard, PeerTable};
use admission::pending::Pending;
use admission::rates::Rates;
use drain::{Draining, Leaving};
use flush::Collected;
use hold::Holds;
use listeners::ListenerTable;
use lists::{List, Lists};
use mail::inbox::{Inbox, Item};
use mail::upstream::Upstream;
use memory_trim::MemoryTrim;
use pinned::Holders;
use reloadable::Reloadable;
use round::{Queue, Round};
use survey::Surveys;
use traced_walks::TracedWalks;
use wire::net::{Net, Readiness, WriteOutcome};
use wire::tls::{Filters, Secure};

/// The arguments of [`Worker::new`], apart from the network and the hub.
#[derive(Debug)]
pub struct Parts {
    /// The id of this run of the server. The names of conns contain this id.
    pub run: RunId,
    /// The worker's number, from zero.
    pub number: u16,
    /// The configuration.
    pub config: Arc<Config>,
    /// The worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// The open connections of all workers, by listener.
    pub listener_conns: Arc<ListenerConns>,
    /// The receiving end of the worker's inbox.
    pub inbox: Inbox,
    /// Wakes the feed when an acknowledgement is complete.
    pub feed: Arc<Wake>,
    /// The sending end for the worker's reports.
    pub upstream: Upstream,
    /// The number of turns so far. The health check reads this number to find out whether the loop
    /// is running.
    pub pulse: Arc<AtomicU64>,
    /// The number of conns that fit in this worker's descriptor table.
    pub conns_fitting: u32,
    /// The number of workers.
    pub workers: u32,
    /// The limits that admission control checks.
    pub guard: Guard,
    /// The listeners that speak TLS, and the certificates.
    pub secure: Secure,
    /// The access log, if it is on.
    pub access_log: Option<AccessLog>,
    /// Decides which connections have a span; `None` if tracing is off.
    pub tracer: Option<Tracer>,
    /// The limits on warnings, which all workers share.
    pub warnings: Arc<Warnings>,
    /// The verifier of tokens, if clients need tokens.
    pub keys: Option<Arc<Reloadable<Arc<Verifier>>>>,
}

impl Parts {
    /// Returns the maximum number of conns of this worker: its share of `limits.conns`, or the
    /// number of conns that fit in its descriptor table if there is no such limit.
    fn conns_max(&self) -> u32 {
        match self.config.limits.conns {
            0 => self.conns_fitting,
            limit => limit.div_ceil(self.workers),
        }
    }

    /// Whether a listener speaks TLS.
    fn is_secure(&self, listener: u32) -> bool {
        self.secure.listeners & (1 << (listener % 64)) != 0
    }

    /// Whether the conns of a listener begin with a PROXY header.
    fn is_proxied(&self, listener: u32) -> bool {
        self.guard.proxied & (1 << (listener % 64)) != 0
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker<N: Net> {
    net: N,
    parts: Parts,
    /// The time of the process's monotonic clock after the turn's poll. Used for ages of
    /// publications, and for periods that other threads measure too.
    now: Now,
    /// A clock that stops while this thread does not run. Used for all deadlines that a peer has to
    /// meet.
    running: Running,
    conns: ChunkedSlab<Slot<N::Socket>>,
    /// The number of conns that have had a slot so far.
    accepted: u64,
    wheel: Wheel,
    hub: Hub,
    /// Conns to read from, in the order in which they became ready.
    to_read: Queue,
    /// Conns to visit in the next flush.
    to_flush: VecDeque<ConnId>,
    /// Polls that wait until this worker has processed the mail that was posted before their
    /// requests. Each element has the id up to which the mail must be processed, the conn, and the
    /// position that the client sent.
    to_answer: VecDeque<(Cursor, ConnId, Option<Cursor>)>,
    awaiting_answer: HashSet<ConnId>,
    /// Conns whose outbox holds publications of the log in memory.
    holders: Holders,
    /// Conns to free at the end of this turn.
    to_reap: Vec<(ConnId, CloseReason)>,
    /// Conns that were freed at the end of the last turn.
    reaped: Vec<(ConnId, CloseReason)>,
    /// Conns that are not read until the feed's queue has room for all reports of this worker.
    awaiting_feed: Vec<ConnId>,
    watched: Arc<WatchedChannels>,
    /// Entries that were taken from the inbox and not yet passed to the hub.
    batch: std::vec::IntoIter<Item>,
    /// Whether the hub cannot accept the next entry of the batch yet, because too many earlier
    /// publications are still to be delivered.
    is_batch_held: bool,
    /// Whether subscribers are still to be visited, but this worker has to wait for a permit
    /// ([`wire::fanout_limiter`]).
    awaits_fanout: bool,
    accepting: Accepting,
    listeners: ListenerTable,
    /// The sources for which conns are counted. The table is empty unless a limit or a proxy needs
    /// it.
    peers: PeerTable,
    /// Conns that have not sent a request head, and `WebSocket`s that have not subscribed.
    pending: Pending,
    /// New conns and fired timers. They are handled after all bytes that the peer has sent were
    /// read.
    round: Round,
    rates: Rates,
    /// The part of the budget of work that the input of the current conn has not used.
    work: WorkBudget,
    work_at_once: WorkBudget,
    /// The TLS state of conns of TLS listeners.
    filters: Filters,
    /// The permissions that tokens grant.
    access: Access,
    access_records: AccessRecords,
    traced_walks: TracedWalks,
    memory_trim: MemoryTrim,
    surveys: Surveys,
    draining: Option<Draining>,
    /// During a drain, conns that wait until the peer has received the goodbye.
    leaving: Leaving,
    /// The current value of the `Date` field.
    date: Date,
    keys_refreshed: Option<Now>,
    scratch: Scratch,
}

/// The slot of a conn: its socket, the readiness of the socket, the lists that contain the conn,
/// and the conn's state machine.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "readiness and list memberships are independent"
)]
struct Slot<S> {
    generation: u32,
    is_readable: bool,
    is_writable: bool,
    is_read_closed: bool,
    /// Whether the batch of writes that is being collected contains a write to the conn.
    has_write_collected: bool,
    is_closing: bool,
    holds: Holds,
    lists: Lists,
    /// The listener that accepted the conn.
    listener: ListenerNumber,
    socket: S,
    conn: Conn,
}

impl<S> Slot<S> {
    /// Whether the conn has input that can be handled now. The input was read earlier or is in the
    /// socket.
    fn has_input(&self, head_bytes: u32) -> bool {
        self.conn.has_unhandled() || self.is_readable && self.conn.read_bytes_max(head_bytes) > 0
    }
}

#[derive(Debug, Default)]
struct Accepting {
    /// A bit mask of the listeners with connections to accept.
    ready: u64,
    /// The end of the current pause. Connections are not accepted for a moment when no descriptor
    /// is left.
    paused_until: Option<Deadline>,
}

#[derive(Debug, Default)]
struct Date {
    text: String,
    second: u64,
    refreshed: Option<Now>,
}

/// Buffers and codecs that every turn reuses.
#[derive(Debug)]
struct Scratch {
    read_buffer: Box<[u8]>,
    readiness: Vec<Readiness>,
    effects: Vec<Effect>,
    /// The number of WebSocket frames that began in the input that was handed over last
    /// ([`Context::frames`]).
    frames: u32,
    out: Vec<u8>,
    planned: Vec<Planned>,
    compressor: Compressor,
    inflater: Inflater,
    collected: Collected,
    /// The next batch of writes. It is collected while the results of the current batch are
    /// processed.
    collected_next: Collected,
    outcomes: Vec<WriteOutcome>,
    fired: Vec<u32>,
}

/// The result of [`Worker::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// The worker was ordered to drain, and no conn is left.
    Ended,
    /// [`Worker::turn`] has to be called again.
    Continues,
}

impl<N: Net> Worker<N> {
    /// Creates a worker without conns, from a hub without subscribers.
    #[must_use]
    pub fn new(net: N, hub: Hub, parts: Parts) -> Self {
        let now = net.now();
        let listeners = ListenerTable::new(&net, &parts);
        Self {
            net,
            now,
            running: Running::new(now),
            conns: ChunkedSlab::default(),
            accepted: 0,
            wheel: Wheel::new(now),
            hub,
            to_read: Queue::default(),
            to_flush: VecDeque::new(),
            to_answer: VecDeque::new(),
            awaiting_answer: HashSet::new(),
            holders: Holders::default(),
            to_reap: Vec::new(),
            reaped: Vec::new(),
            awaiting_feed: Vec::new(),
            watched: Arc::default(),
            batch: Vec::new().into_iter(),
            is_batch_held: false,
            awaits_fanout: false,
            accepting: Accepting::default(),
            listeners,
            peers: PeerTable::default(),
            pending: Pending::default(),
            round: Round::default(),
            rates: Rates::new(&parts.config.limits),
            work: WorkBudget::default(),
            work_at_once: WorkBudget::default(),
            parts,
            filters: Filters::default(),
            access: Access::default(),
            access_records: AccessRecords::default(),
            traced_walks: TracedWalks::default(),
            memory_trim: MemoryTrim::default(),
            surveys: Surveys::default(),
            draining: None,
            leaving: Leaving::default(),
            date: Date::default(),
            keys_refreshed: None,
            scratch: Scratch {
                read_buffer: vec![0; READ_BUFFER_BYTES as usize].into_boxed_slice(),
                readiness: Vec::new(),
                effects: Vec::new(),
                frames: 0,
                out: Vec::new(),
                planned: Vec::new(),
                compressor: Compressor::default(),
                inflater: Inflater::default(),
                collected: Collected::default(),
                collected_next: Collected::default(),
                outcomes: Vec::new(),
                fired: Vec::new(),
            },
        }
    }

    /// Runs turns until the worker has drained.
    pub fn run(&mut self) {
        while self.turn() == Turn::Continues {}
        self.confirm_remaining();
    }

    /// Runs one turn of the loop.
    pub fn turn(&mut self) -> Turn {
        self.poll();
        self.refresh_config();
        self.update_rules();
        self.refresh_date();
        self.refresh_keys();
        self.survey();
        self.report();
        self.read();
        self.accept();
        self.broadcast();
        self.expire();
        self.flush();
        self.bound_pinned();
        self.reap();
        self.parts.metrics.turns.increment();
        self.parts.pulse.fetch_add(1, Ordering::Relaxed);
        if self.draining.is_some() && self.conns.is_empty() {
            Turn::Ended
        } else {
            Turn::Continues
        }
    }

    /// Returns a mutable reference to the network, for the simulation.
    pub fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    /// Sets the maximum amount of work that a conn's input may cause in one call of the conn's
    /// state machine. For the simulation.
    #[doc(hidden)]
    pub fn set_work_at_once(&mut self, work: u32) {
        self.work_at_once = WorkBudget::new(work);
    }

    /// Sets the maximum work for operators in one turn. For the simulation, which has few conns.
    #[doc(hidden)]
    pub fn set_survey_work(&mut self, units: u32) {
        self.surveys.work_per_turn = units;
    }

    /// Returns a shared reference to the network.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// Returns a shared reference to the hub.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns the number of conns.
    pub fn conn_count(&self) -> usize {
        self.conns.len()
    }

    /// Returns the slot of a conn, unless the conn is closing or was freed.
    fn slot(&mut self, id: ConnId) -> Option<&mut Slot<N::Socket>> {
        let slot = self.conns.get_mut(id.slot as usize)?;
        (slot.generation == id.generation && !slot.is_closing).then_some(slot)
    }

    /// Returns the name by which a conn is known outside this worker.
    fn name(&self, id: ConnId) -> ConnName {
        ConnName {
            run: self.parts.run,
            worker: self.parts.number,
            slot: id.slot,
            serial: id.serial(self.accepted),
        }
    }

    /// Returns the conn with a name, if the conn still exists.
    fn find(&self, name: ConnName) -> Option<ConnId> {
        let id = self.id_in(name.slot)?;
        (self.name(id) == name).then_some(id)
    }

    /// Iterates over the ids of all conns.
    fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.conns.iter().map(|(key, slot)| ConnId {
            slot: certain::to_u32(key),
            generation: slot.generation,
        })
    }

    fn id_in(&self, slot: u32) -> Option<ConnId> {
        let generation = self.conns.get(slot as usize)?.generation;
        Some(ConnId { slot, generation })
    }

    /// Calls a conn's state machine, then applies the effects that the call returned. All calls
    /// that can cause effects are made here.
    fn call<R>(
        &mut self,
        id: ConnId,
        act: impl FnOnce(&mut Conn, &mut Vec<u8>, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let conn = self.name(id);
        let is_observed = self.is_observed(id.slot);
        let slot = self.conns.get_mut(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing {
            return None;
        }
        let is_trusted = slot.conn.takes_requests() && self.peers.is_trusted(id.slot);
        let mut context = Context {
            is_trusted,
            is_observed,
            now: self.running.now(),
            draw: Draw(self.net.draw()),
            conn,
            head: self.hub.head(),
            date: &self.date.text,
            drain: self.draining.map(|draining| draining.delay(self.now)),
            config: &self.parts.config,
            metrics: &self.parts.metrics,
            work: &mut self.work,
            inflater: &mut self.scratch.inflater,
            access: ConnAccess::new(&self.access, id.slot),
            frames: &mut self.scratch.frames,
            effects: &mut self.scratch.effects,
        };
        let result = act(&mut slot.conn, &mut self.scratch.out, &mut context);
        if let Some(change) = context.access.into_change() {
            self.access.store(id.slot, change);
        }
        debug_assert!(self.scratch.out.is_empty());
        self.apply(id);
        self.list_to_flush(id);
        Some(result)
    }

    /// Lists a conn for flush if it has bytes of its own to send and its socket is writable.
    fn list_to_flush(&mut self, id: ConnId) {
        let has_sealed = self.filters.has_unsent(id.slot);
        let Some(slot) = self.slot(id) else { return };
        let has_own = has_sealed || !slot.conn.outbox().is_empty();
        if slot.is_writable && has_own && slot.lists.add(List::Flush) {
            self.to_flush.push_back(id);
        }
    }

    /// Lists a conn for flush if its socket is writable.
    fn list_to_serve(&mut self, id: ConnId) {
        if self.slot(id).is_some_and(|slot| slot.is_writable) {
            self.list_to_enforce(id);
        }
    }

    /// Lists a conn for flush even if its socket is full. The conn's quota is then enforced.
    fn list_to_enforce(&mut self, id: ConnId) {
        let Some(slot) = self.slot(id) else { return };
        if slot.lists.add(List::Flush) {
            self.to_flush.push_back(id);
        }
    }

    /// Lists a conn for read if it has input and may be read.
    fn list_to_read(&mut self, id: ConnId) {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let Some(slot) = self.slot(id) else { return };
        if slot.holds.is_empty() && slot.has_input(head_bytes) && slot.lists.add(List::Read) {
            self.to_read.push(id);
        }
    }

    /// Updates the value of the `Date` field, at most twice a second.
    fn refresh_date(&mut self) {
        if !is_refresh_due(self.date.refreshed, self.now) {
            return;
        }
        self.date.refreshed = Some(self.now);
        let time = self.net.unix_time();
        let second = time.as_secs();
        if second != self.date.second || self.date.text.is_empty() {
            self.date.second = second;
            self.date.text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + time);
        }
    }

    /// Uses the configuration of a reload, if there is a new one. It also applies to open conns.
    /// Deadlines that are already set stay, and later ones have the new length. Proxies that are no
    /// longer trusted are distrusted now. Proxies that were added are trusted on new connections.
    fn refresh_config(&mut self) {
        let Some(config) = self.parts.inbox.take_config() else {
            return;
        };
        self.hub
            .set_channels_per_conn(config.limits.channels_per_conn);
        if self.hub.set_quota(&config.quota) {
            self.enforce_all();
        }
        self.rates.set_limits(&config.limits);
        self.net.set_options(SocketOptions::new(&config));
        let before = std::mem::replace(&mut self.parts.config, config);
        let listen = &self.parts.config.listen;
        let has_changed = before.listen != *listen || self.listeners.has_missing(listen);
        if has_changed && self.draining.is_none() {
            self.change_listeners();
        }
        if before.proxy.trusted != self.parts.config.proxy.trusted {
            self.distrust_removed_proxies();
        }
        // A reload has replaced the keys, too.
        self.keys_refreshed = None;
    }

    /// Updates the rules of channels after a reload has changed them. A worker may have a million
    /// channels, so this takes several turns.
    fn update_rules(&mut self) {
        if self.hub.update_rules(RULE_UPDATES_PER_TURN_MAX) {
            self.enforce_all();
        }
    }

    /// Updates the keys and the calendar time for the verification of tokens, at most twice a
    /// second. If the calendar was set forward, moves the timers for the expiry of tokens to
    /// earlier times.
    fn refresh_keys(&mut self) {
        self.access.set_now(self.running.now());
        if !is_refresh_due(self.keys_refreshed, self.now) {
            return;
        }
        self.keys_refreshed = Some(self.now);
        let keys = self.parts.keys.as_ref().map(|keys| keys.current());
        let time = self.net.unix_time();
        if self.access.renew(keys, time, self.running.now()) {
            for (slot, due) in self.access.dues() {
                self.wheel.bring_forward(slot, due);
            }
        }
    }

    /// Returns the time by which [`Self::refresh_keys`] must be called. Returns `None` if no conn
    /// has a token, because only the expiry of tokens depends on the calendar.
    fn keys_due(&self) -> Option<Deadline> {
        let refreshed = self.keys_refreshed.filter(|_| !self.access.is_empty())?;
        Some(refreshed.after(Duration::from_millis(CALENDAR_REFRESH_MS)))
    }
}

/// Whether half a second has passed since a value was refreshed. If it was never refreshed, the
/// result is true.
fn is_refresh_due(refreshed: Option<Now>, now: Now) -> bool {
    let interval = Duration::from_millis(CALENDAR_REFRESH_MS);
    refreshed.is_none_or(|refreshed| now.has_reached(refreshed.after(interval)))
}
