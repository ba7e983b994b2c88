//! SHELL: one thread with its own poll, slab, timer wheel and hub. What it shares is the log, which
//! it only reads, and a few tables and counts that hold for the node.
//!
//! A turn has seven verbs, one file each: `poll`, `read`, `accept`, `broadcast`,
//! `expire`, `flush`, `reap`. Each has a budget, so that no peer and no phase keeps the
//! others waiting; what a budget cuts off stays on a list, and the next poll does not wait. Nothing
//! is written outside flush, nothing freed outside reap, no effect applied outside `apply`.
//!
//! Generic over [`net::Net`]: the simulation in `tests/sim` runs this very code over a network that
//! lies. Mio is edge-triggered, so a conn keeps `is_readable` and `is_writable` itself and loses
//! them only when the socket says that it would block.

mod accept;
pub mod admission;
mod answer_poll;
mod apply;
mod broadcast;
mod close;
mod deliver;
mod drain;
mod epoch;
mod expire;
mod flush;
mod hold;
mod invariants;
pub mod mail;
mod memory_trim;
pub mod pinned;

mod read;
mod readiness;
mod reap;
pub mod reloadable;
mod report;
mod round;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hashbrown::HashSet;

use crate::auth::{Access, ConnAccess, Verifier};
use crate::backend::WatchedChannels;
use crate::chunks::ChunkedSlab;
use crate::config::Config;
use crate::config::limits::{CALENDAR_MS, READ_BUFFER_BYTES};
use crate::conn::Conn;
use crate::deflate::Inflater;
use crate::effect::{CloseReason, Context, Draw, Effect, WorkBudget};
use crate::frame::Encoder;
use crate::hub::{Hub, Planned};
use crate::id::{ConnId, ConnName, Cursor, RunId};
use crate::metrics::WorkerMetrics;
use crate::sys::wake::Wake;
use crate::time::running::Running;
use crate::time::wheel::Wheel;
use crate::time::{Deadline, Now};
use admission::guard::{Guard, Visitors};
use admission::pending::Pending;
use admission::rates::Rates;
use drain::{Draining, Leaving};
use flush::Collected;
use hold::Holds;
use mail::inbox::{Inbox, Item};
use mail::upstream::Upstream;
use memory_trim::Storm;
use pinned::Holders;
use reloadable::Reloadable;
use round::{Queue, Round};
use wire::net::{Net, Readiness, WriteOutcome};
use wire::tls::{Filters, Secure};

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// This start of the server, which is part of its conns' names.
    pub run: RunId,
    /// Which worker it is, from zero.
    pub number: u16,
    /// What the operator chose.
    pub config: Arc<Config>,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where its mail comes from.
    pub inbox: Inbox,
    /// Wakes the feed when an acknowledgement is complete.
    pub feed: Arc<Wake>,
    /// Where its reports go.
    pub upstream: Upstream,
    /// Counts turns, so that somebody can see that the loop is alive.
    pub pulse: Arc<AtomicU64>,
    /// Conns that this worker may have at once.
    pub conns_max: u32,
    /// By what conns are kept away.
    pub guard: Guard,
    /// TLS, if a listener speaks it.
    pub secure: Option<Secure>,
    /// What verifies tokens, if clients need them.
    pub keys: Option<Arc<Reloadable<Arc<Verifier>>>>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker<N: Net> {
    net: N,
    parts: Parts,
    /// The monotonic clock of the whole process: ages, and windows that are promised to others.
    now: Now,
    /// The clock of the wheel and of every deadline that measures a peer.
    running: Running,
    conns: ChunkedSlab<Slot<N::Socket>>,
    /// How many conns have had a slot so far.
    accepted: u64,
    wheel: Wheel,
    hub: Hub,
    /// Conns that may be read, in the order of their readiness.
    to_read: Queue,
    /// Conns that have something to write and may be written.
    to_flush: VecDeque<ConnId>,
    /// Polls that cannot wait, each with the id up to which it needs everything.
    to_answer: VecDeque<(Cursor, ConnId, Option<Cursor>)>,
    /// The same, to be found.
    awaiting_answer: HashSet<ConnId>,
    /// Conns whose outbox holds publications.
    holders: Holders,
    /// Conns to be freed at the end of this turn.
    to_reap: Vec<(ConnId, CloseReason)>,
    /// Conns that were freed at the end of the last turn.
    reaped: Vec<(ConnId, CloseReason)>,
    /// Conns that are not read until the feed has taken the reports that wait.
    held: Vec<ConnId>,
    /// Whose comings and goings are reported.
    watch: Arc<WatchedChannels>,
    /// The rest of the batch that is being taken in.
    batch: std::vec::IntoIter<Item>,
    /// The next publication cannot be taken in before the walk over its channel has gone on.
    is_batch_held: bool,
    /// There is somebody to visit, and the network says when that may go on.
    awaits_walk: bool,
    accepting: Accepting,
    /// Where conns come from, if that matters.
    visitors: Visitors,
    /// Silent connections, and those that do not subscribe.
    pending: Pending,
    /// Decisions that wait until everything that was sent has been read.
    round: Round,
    /// How fast clients send, if that is limited.
    rates: Rates,
    /// What the conn that is read may still cause at once.
    work: WorkBudget,
    work_at_once: WorkBudget,
    /// TLS, for those who came to a listener that speaks it.
    filters: Filters,
    /// What tokens allow.
    access: Access,
    storm: Storm,
    draining: Option<Draining>,
    /// While it drains.
    leaving: Leaving,
    /// The calendar's time as the `Date` field has it.
    date: Date,
    scratch: Scratch,
}

/// What a conn's slot holds: the socket, what readiness it has, and the machine.
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
    is_listed_to_read: bool,
    is_listed_to_flush: bool,
    /// Whether it has a write in the batch that is being collected or done.
    has_write_collected: bool,
    is_closing: bool,
    /// Why it is not read.
    holds: Holds,
    socket: S,
    conn: Conn,
}

impl<S> Slot<S> {
    /// Whether the machine takes what the socket has, or has kept something itself.
    fn has_input(&self, head_bytes: u32) -> bool {
        self.conn.has_unhandled() || self.is_readable && self.conn.read_bytes_max(head_bytes) > 0
    }
}

#[derive(Debug, Default)]
struct Accepting {
    /// Listeners with connections waiting, a bit each.
    ready: u64,
    /// No descriptor was left; until then nobody is accepted.
    paused_until: Option<Deadline>,
}

#[derive(Debug, Default)]
struct Date {
    text: String,
    second: u64,
    looked: Option<Now>,
}

/// Buffers and engines that every turn uses again.
#[derive(Debug)]
struct Scratch {
    read_buffer: Box<[u8]>,
    readiness: Vec<Readiness>,
    effects: Vec<Effect>,
    out: Vec<u8>,
    planned: Vec<Planned>,
    encoder: Encoder,
    inflater: Inflater,
    collected: Collected,
    /// For the next batch while the one before is noted.
    collected_next: Collected,
    outcomes: Vec<WriteOutcome>,
    fired: Vec<u32>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Drained, and nobody is left.
    Ended,
    /// There is a next turn.
    GoesOn,
}

impl<N: Net> Worker<N> {
    /// A worker without conns. The hub has no subscribers.
    #[must_use]
    pub fn new(net: N, hub: Hub, parts: Parts) -> Self {
        let now = net.now();
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
            held: Vec::new(),
            watch: Arc::default(),
            batch: Vec::new().into_iter(),
            is_batch_held: false,
            awaits_walk: false,
            accepting: Accepting::default(),
            visitors: Visitors::default(),
            pending: Pending::default(),
            round: Round::default(),
            rates: Rates::new(&parts.config.limits),
            work: WorkBudget::default(),
            work_at_once: WorkBudget::default(),
            parts,
            filters: Filters::default(),
            access: Access::default(),
            storm: Storm::default(),
            draining: None,
            leaving: Leaving::default(),
            date: Date::default(),
            scratch: Scratch {
                read_buffer: vec![0; READ_BUFFER_BYTES as usize].into_boxed_slice(),
                readiness: Vec::new(),
                effects: Vec::new(),
                out: Vec::new(),
                planned: Vec::new(),
                encoder: Encoder::default(),
                inflater: Inflater::default(),
                collected: Collected::default(),
                collected_next: Collected::default(),
                outcomes: Vec::new(),
                fired: Vec::new(),
            },
        }
    }

    /// Turns until drained.
    pub fn run(&mut self) {
        while self.turn() == Turn::GoesOn {}
        self.confirm_the_rest();
    }

    /// One iteration of the loop.
    pub fn turn(&mut self) -> Turn {
        self.poll();
        self.look_at_the_calendar();
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
            Turn::GoesOn
        }
    }

    /// The network, for the simulation that made it.
    pub fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    /// Cuts off the input of a conn after so much work, for the simulation.
    #[doc(hidden)]
    pub fn set_work_at_once(&mut self, work: u32) {
        self.work_at_once = WorkBudget::new(work);
    }

    /// The network, for looking.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// The hub, for looking.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// How many conns there are.
    pub fn conn_count(&self) -> usize {
        self.conns.len()
    }

    /// The conn in a slot, if it is still the one that is meant.
    fn slot(&mut self, id: ConnId) -> Option<&mut Slot<N::Socket>> {
        let slot = self.conns.get_mut(id.slot as usize)?;
        (slot.generation == id.generation && !slot.is_closing).then_some(slot)
    }

    /// The name of a conn outside this worker.
    fn name(&self, id: ConnId) -> ConnName {
        ConnName {
            run: self.parts.run,
            worker: self.parts.number,
            slot: id.slot,
            serial: id.serial(self.accepted),
        }
    }

    /// The conn with a name, if it still exists.
    fn find(&self, name: ConnName) -> Option<ConnId> {
        let id = self.id_in(name.slot)?;
        (self.name(id) == name).then_some(id)
    }

    fn id_in(&self, slot: u32) -> Option<ConnId> {
        let generation = self.conns.get(slot as usize)?.generation;
        Some(ConnId { slot, generation })
    }

    /// Calls into a conn's machine, then makes what it asks for real. The one way to a machine.
    fn call<R>(
        &mut self,
        id: ConnId,
        act: impl FnOnce(&mut Conn, &mut Vec<u8>, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let conn = self.name(id);
        let slot = self.conns.get_mut(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing {
            return None;
        }
        let is_trusted = slot.conn.takes_requests() && self.visitors.is_trusted(id.slot);
        let mut context = Context {
            is_trusted,
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
            access: ConnAccess::new(&mut self.access, id.slot),
            frames: 0,
            effects: &mut self.scratch.effects,
        };
        let result = act(&mut slot.conn, &mut self.scratch.out, &mut context);
        debug_assert!(self.scratch.out.is_empty());
        self.apply(id);
        self.list_to_flush(id);
        Some(result)
    }

    /// Puts a conn that has something of its own to write on the list for flush, if its socket
    /// takes it.
    fn list_to_flush(&mut self, id: ConnId) {
        let is_owed = self.filters.has_unsent(id.slot);
        let Some(slot) = self.slot(id) else { return };
        let has_own = is_owed || !slot.conn.outbox().is_empty();
        if slot.is_writable && !slot.is_listed_to_flush && has_own {
            slot.is_listed_to_flush = true;
            self.to_flush.push_back(id);
        }
    }

    /// Puts a conn on the list for flush, whatever it has to write.
    fn list_to_serve(&mut self, id: ConnId) {
        if self.slot(id).is_some_and(|slot| slot.is_writable) {
            self.list_to_enforce(id);
        }
    }

    /// Puts a conn on the list for flush, which holds it to its quota if its socket is full.
    fn list_to_enforce(&mut self, id: ConnId) {
        let Some(slot) = self.slot(id) else { return };
        if !slot.is_listed_to_flush {
            slot.is_listed_to_flush = true;
            self.to_flush.push_back(id);
        }
    }

    /// Puts a conn that has input, and whose answers are not piling up, on the list for read.
    fn list_to_read(&mut self, id: ConnId) {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let Some(slot) = self.slot(id) else { return };
        let may_be_read = !slot.is_listed_to_read && slot.holds.is_empty();
        if may_be_read && slot.has_input(head_bytes) {
            slot.is_listed_to_read = true;
            self.to_read.push(id);
        }
    }

    /// Keeps the date, and the keys for tokens, not more than half a second old. Where the calendar
    /// has gone ahead, timers of tokens are brought forward.
    fn look_at_the_calendar(&mut self) {
        let is_fresh = self.date.looked.is_some_and(|looked| {
            let due = looked.after(Duration::from_millis(CALENDAR_MS));
            !self.now.has_reached(due)
        });
        self.access.set_now(self.running.now());
        if is_fresh {
            return;
        }
        self.date.looked = Some(self.now);
        let time = self.net.unix_time();
        let keys = self.parts.keys.as_ref().map(|keys| keys.current());
        if self.access.renew(keys, time, self.running.now()) {
            for (slot, due) in self.access.dues() {
                self.wheel.bring_forward(slot, due);
            }
        }
        let second = time.as_secs();
        if second != self.date.second || self.date.text.is_empty() {
            self.date.second = second;
            self.date.text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + time);
        }
    }

    /// When the calendar is to be looked at although nothing else happens: only tokens end by it.
    fn calendar_due(&self) -> Option<Deadline> {
        let looked = self.date.looked.filter(|_| !self.access.is_empty())?;
        Some(looked.after(Duration::from_millis(CALENDAR_MS)))
    }
}
