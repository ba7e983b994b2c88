//! guard: who comes in, for whom a conn is counted, and who is told to come back.
//!
//! Asked before a conn has a slot, and again when a proxy has named the client that it speaks for.
//! What is known of where a conn comes from is in a table beside the slots that is empty unless
//! something asks for it: limits per source, trusted proxies, or the PROXY protocol. A conn that is
//! counted is forgotten in reap, once.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::pending::SilentLimit;
use super::sources::{Arrival, Sources};
use crate::effect::{CloseReason, Draw, ReconnectDelay};
use crate::http::origin::Reader;
use crate::http::{Refusal, response};
use crate::id::ConnId;
use crate::proxy::{Source, TooMany, contains};
use crate::sys::pressure::Pressure;
use crate::worker::Worker;
use crate::worker::pinned::Oldest;
use crate::worker::wire::net::Net;

/// By what conns are kept away. The default keeps nobody away.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// How many silent conns there may be on the node, if that is limited.
    pub silent: Option<Arc<SilentLimit>>,
    /// Listeners whose conns begin with a header of the PROXY protocol, a bit each.
    pub proxied: u64,
    /// How many conns each source has, if that is limited.
    pub sources: Option<Arc<Sources>>,
    /// Whose conns keep the oldest publication in memory.
    pub oldest: Arc<Oldest>,
    /// Whether memory is short.
    pub pressure: Arc<Pressure>,
}

/// Where conns come from.
#[derive(Debug, Default)]
pub(in crate::worker) struct Visitors {
    by_slot: HashMap<u32, Visitor, RandomState>,
}

/// Where one conn comes from.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Visitor {
    /// For whom it is counted, if it is.
    counted: Option<Source>,
    /// Who has connected, or whoever a PROXY header has named.
    own: Source,
    /// Whether that is a proxy whose word counts.
    is_trusted: bool,
    /// Whether TLS begins behind the PROXY header.
    awaits_tls: bool,
    /// It has been counted as a connect of one source, which happens once.
    has_connected: bool,
}

/// Why somebody does not come in.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) enum Refused {
    Full,
    Memory,
    Source(TooMany),
    Untrusted,
}

impl Visitors {
    pub(in crate::worker) fn is_trusted(&self, slot: u32) -> bool {
        let is_trusted = |visitor: &Visitor| visitor.is_trusted;
        !self.by_slot.is_empty() && self.by_slot.get(&slot).is_some_and(is_trusted)
    }

    /// Lets go of the room for those who have left.
    pub(in crate::worker) fn shrink(&mut self) {
        self.by_slot.shrink_to_fit();
    }
}

impl<N: Net> Worker<N> {
    pub(in crate::worker) fn is_proxied(&self, listener: u32) -> bool {
        self.parts.guard.proxied & (1 << (listener % 64)) != 0
    }

    /// Whether it matters where conns come from.
    fn knows_visitors(&self) -> bool {
        let guard = &self.parts.guard;
        guard.sources.is_some() || guard.proxied != 0 || !self.parts.config.proxy.trusted.is_empty()
    }

    /// Whether somebody comes in, and as whom, if that matters. A conn that is let in and counted
    /// has to be noted or forgotten.
    pub(in crate::worker) fn screen(
        &self,
        address: IpAddr,
        listener: u32,
    ) -> Result<Option<Visitor>, Refused> {
        if self.conns.len() >= self.parts.conns_max as usize {
            return Err(Refused::Full);
        }
        if self.parts.guard.pressure.is_short() {
            return Err(Refused::Memory);
        }
        if !self.knows_visitors() {
            return Ok(None);
        }
        let trusted = &self.parts.config.proxy.trusted;
        let is_trusted = contains(trusted, address);
        let is_proxied = self.is_proxied(listener);
        if is_proxied && !is_trusted && !trusted.is_empty() {
            return Err(Refused::Untrusted);
        }
        let mut visitor = Visitor {
            counted: None,
            own: Source::from(address),
            is_trusted,
            awaits_tls: is_proxied && self.is_secure(listener),
            has_connected: false,
        };
        if !is_proxied && !is_trusted {
            self.recount(&mut visitor, Some(Source::from(address)))
                .map_err(Refused::Source)?;
        }
        Ok(Some(visitor))
    }

    /// Moves a conn to another source's account, or to none. Only the first source has connected: a
    /// proxy that keeps a conn may change its client with each request, and a client for which the
    /// proxy connects each time is always the first.
    fn recount(&self, visitor: &mut Visitor, source: Option<Source>) -> Result<(), TooMany> {
        let Some(sources) = &self.parts.guard.sources else {
            return Ok(());
        };
        if visitor.counted == source {
            return Ok(());
        }
        if let Some(source) = source {
            let arrival = match visitor.has_connected {
                true => Arrival::Reuse,
                false => Arrival::Connect,
            };
            sources.enter(source, arrival, self.now)?;
            visitor.has_connected = true;
        }
        if let Some(before) = std::mem::replace(&mut visitor.counted, source) {
            sources.leave(before, self.now);
        }
        Ok(())
    }

    pub(in crate::worker) fn note_visitor(&mut self, id: ConnId, visitor: Visitor) {
        self.visitors.by_slot.insert(id.slot, visitor);
    }

    /// The conn that was let in has gone, or never had a slot.
    pub(in crate::worker) fn forget_visitor(&self, mut visitor: Visitor) {
        // Nobody is refused as nobody.
        let _uncounted = self.recount(&mut visitor, None);
    }

    /// A conn is freed.
    pub(in crate::worker) fn take_visitor(&mut self, slot: u32) -> Option<Visitor> {
        if self.visitors.by_slot.is_empty() {
            return None;
        }
        self.visitors.by_slot.remove(&slot)
    }

    /// Turns away a connection that has no slot: in words, where they can be understood.
    pub(in crate::worker) fn turn_away(
        &mut self,
        socket: N::Socket,
        listener: u32,
        refused: Refused,
    ) {
        let counter = self.counter(refused);
        counter.increment();
        self.look_at_the_calendar();
        let refusal = match refused {
            Refused::Full => Refusal::ServerFullOfConns,
            Refused::Memory => Refusal::MemoryShort,
            Refused::Source(too_many) => Refusal::TooMany(too_many),
            Refused::Untrusted => return self.net.refuse(socket, &[]),
        };
        let delay = ReconnectDelay::after_refusal(&self.parts.config.drain);
        let wait_s = delay.draw_s(Draw(self.net.draw()));
        let response = response::put_off(refusal, Reader::SameOrigin, wait_s, &self.date.text);
        // There is no telling it before the handshake.
        let told: &[u8] = if self.is_secure(listener) {
            &[]
        } else {
            &response.bytes
        };
        self.net.refuse(socket, told);
    }

    fn counter(&self, refused: Refused) -> &crate::metrics::Counter {
        let metrics = &self.parts.metrics;
        match refused {
            Refused::Full => &metrics.conns_refused,
            Refused::Memory => &metrics.conns_refused_memory,
            Refused::Source(TooMany::Connects) => &metrics.conns_refused_source_rate,
            Refused::Source(TooMany::Conns) => &metrics.conns_refused_source_conns,
            Refused::Untrusted => &metrics.conns_refused_proxy,
        }
    }

    /// A PROXY header has named the client, or nobody. TLS begins behind it where that is spoken.
    pub(in crate::worker) fn name_by_header(&mut self, id: ConnId, client: Option<IpAddr>) {
        let Some(mut visitor) = self.visitors.by_slot.get(&id.slot).copied() else {
            return;
        };
        if let Some(client) = client {
            visitor.own = Source::from(client);
            visitor.is_trusted = contains(&self.parts.config.proxy.trusted, client);
        }
        let source = (!visitor.is_trusted).then_some(visitor.own);
        let admitted = self.count_for(id, visitor, source);
        if visitor.awaits_tls && (admitted.is_err() || !self.secure(id)) {
            return self.close(id, CloseReason::Refused);
        }
        self.call(id, |conn, out, context| {
            conn.handle_proxy_client(admitted, out, context);
        });
    }

    /// A trusted HTTP proxy has named the client of a request, or nobody.
    pub(in crate::worker) fn name_by_field(&mut self, id: ConnId, client: Option<IpAddr>) {
        let Some(visitor) = self.visitors.by_slot.get(&id.slot).copied() else {
            return;
        };
        let trusted = &self.parts.config.proxy.trusted;
        let client = client.filter(|client| !contains(trusted, *client));
        let admitted = self.count_for(id, visitor, client.map(Source::from));
        self.call(id, |conn, out, context| {
            conn.handle_forwarded_client(admitted, out, context);
        });
    }

    fn count_for(
        &mut self,
        id: ConnId,
        mut visitor: Visitor,
        source: Option<Source>,
    ) -> Result<(), TooMany> {
        let admitted = self.recount(&mut visitor, source);
        if let Err(too_many) = admitted {
            self.counter(Refused::Source(too_many)).increment();
        }
        if let Some(source) = source {
            tracing::debug!(
                worker = self.parts.number,
                slot = id.slot,
                %source,
                is_admitted = admitted.is_ok(),
                "named by a proxy"
            );
        }
        self.note_visitor(id, visitor);
        admitted
    }
}
