//! accept: accepts connections from the kernel. Each connection is given a slot or is refused.
//!
//! The number of connections that are accepted in one turn is limited. When no descriptor is left,
//! the worker accepts no connections for a moment. Otherwise it would retry all the time, because
//! the listener stays ready. A metric counts these pauses. A pause ends early if a conn is freed.

use std::net::IpAddr;
use std::time::Duration;

use super::admission::guard::Peer;
use super::hold::Holds;
use super::lists::Lists;
use super::wire::net::{AcceptOutcome, Net};
use super::{Slot, Worker};
use crate::config::limits::{ACCEPT_PAUSE_MS, ACCEPTS_PER_TURN_MAX};
use crate::conn::Conn;
use crate::effect::CloseReason;
use crate::id::ConnId;
use crate::warnings::WarningKind;

impl<N: Net> Worker<N> {
    pub(super) fn accept(&mut self) {
        if self
            .accepting
            .paused_until
            .is_some_and(|until| self.now.has_reached(until))
        {
            self.accepting.paused_until = None;
        }
        if self.accepting.paused_until.is_none() {
            self.clear_accept_blocked();
        }
        let mut budget = ACCEPTS_PER_TURN_MAX;
        for listener in 0..self.net.listener_count() {
            let bit = 1 << (listener % 64);
            while self.accepting.ready & bit != 0 && self.accepting.paused_until.is_none() {
                if budget == 0 {
                    return self.parts.metrics.accept_budget_exhausted.increment();
                }
                budget -= 1;
                if !self.accept_one(listener) {
                    self.accepting.ready &= !bit;
                }
            }
        }
        self.close_listeners();
    }

    /// If a descriptor is free again, sets the metric `accept_blocked` to zero.
    fn clear_accept_blocked(&mut self) {
        let metrics = &self.parts.metrics;
        if metrics.accept_blocked.value() > 0 && self.net.has_descriptor() {
            metrics.accept_blocked.set(0);
        }
    }

    /// Accepts one connection. Returns false if the listener has no more connections.
    fn accept_one(&mut self, listener: u32) -> bool {
        match self.net.accept(listener) {
            AcceptOutcome::Accepted { socket, address } => self.add_conn(socket, address, listener),
            AcceptOutcome::Drained => return false,
            AcceptOutcome::Exhausted => {
                let metrics = &self.parts.metrics;
                metrics.descriptors_exhausted.increment();
                metrics.accept_blocked.set(self.conns.is_empty().into());
                let cause = "no descriptor is left for a connection (LimitNOFILE=)";
                self.warn_of_worker(WarningKind::ServerFull, &cause);
                let pause = Duration::from_millis(ACCEPT_PAUSE_MS);
                self.accepting.paused_until = Some(self.now.after(pause));
            }
            AcceptOutcome::Failed => self.parts.metrics.accept_errors.increment(),
        }
        true
    }

    fn add_conn(&mut self, mut socket: N::Socket, address: IpAddr, listener: u32) {
        let peer = match self.check_admission(address, listener) {
            Ok(peer) => peer,
            Err(refused) => return self.refuse_conn(socket, listener, refused),
        };
        let Ok(slot) = u32::try_from(self.conns.vacant_key()) else {
            debug_assert!(false, "the bound on conns has 32 bits");
            return self.drop_unregistered(peer);
        };
        let id = ConnId::new(slot, self.accepted);
        self.accepted += 1;
        if self.net.register(&mut socket, id).is_err() {
            return self.drop_unregistered(peer);
        }
        let is_proxied = self.is_proxied(listener);
        self.parts.metrics.conns_accepted.increment();
        self.parts.metrics.conns_open.increment();
        let number = self.listeners.number(listener);
        self.parts.listener_conns.add(self.parts.number, number);
        self.memory_trim.note(self.now);
        self.conns.insert(Slot {
            generation: id.generation,
            is_readable: false,
            is_writable: false,
            is_read_closed: false,
            has_write_collected: false,
            is_closing: false,
            holds: Holds::default(),
            lists: Lists::default(),
            listener: number,
            socket,
            conn: match is_proxied {
                true => Conn::proxied(self.running.now()),
                false => Conn::new(self.running.now()),
            },
        });
        if let Some(peer) = peer {
            self.note_peer(id, peer);
        }
        self.begin_access_record(id);
        self.round.note_arrived(id);
        self.call(id, |conn, _out, context| conn.handle_accepted(context));
        // If a listener expects PROXY headers, TLS begins only after the header.
        let is_ready = is_proxied || !self.is_secure(listener) || self.secure(id);
        if self.draining.is_some() || !is_ready {
            self.close(id, CloseReason::Refused);
        }
    }

    /// Called if an accepted socket was not given a slot. Counts an accept error, and subtracts the
    /// connection from the number of conns of its source.
    fn drop_unregistered(&self, peer: Option<Peer>) {
        if let Some(peer) = peer {
            self.release_peer(peer);
        }
        self.parts.metrics.accept_errors.increment();
    }
}
