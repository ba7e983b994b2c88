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
use super::sources::{Arrival, SourceLimiter};
use crate::effect::{CloseReason, Draw, ReconnectDelay};
use crate::http::origin::Reader;
use crate::http::{Refusal, response};
use crate::id::ConnId;
use crate::proxy::{Source, TooMany, contains};
use crate::sys::pressure::Pressure;
use crate::worker::Worker;
use crate::worker::pinned::OldestPinned;
use crate::worker::wire::net::Net;

/// By what conns are kept away. The default keeps nobody away.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// How many silent conns there may be on the node, if that is limited.
    pub silent: Option<Arc<SilentLimit>>,
    /// Listeners whose conns begin with a header of the PROXY protocol, a bit each.
    pub proxied: u64,
    /// How many conns each source has, if that is limited.
    pub sources: Option<Arc<SourceLimiter>>,
    /// Whose conns keep the oldest publication in memory.
    pub oldest: Arc<OldestPinned>,
    /// Whether memory is short.
    pub pressure: Arc<Pressure>,
}

/// Where conns come from.
#[derive(Debug, Default)]
pub(in crate::worker) struct PeerTable {
    by_slot: HashMap<u32, Peer, RandomState>,
}

/// Where one conn comes from.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Peer {
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
pub(in crate::worker) enum AdmissionError {
    Full,
    Memory,
    Source(TooMany),
    Untrusted,
}

impl PeerTable {
    pub(in crate::worker) fn is_trusted(&self, slot: u32) -> bool {
        let is_trusted = |peer: &Peer| peer.is_trusted;
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
    fn needs_peers(&self) -> bool {
        let guard = &self.parts.guard;
        guard.sources.is_some() || guard.proxied != 0 || !self.parts.config.proxy.trusted.is_empty()
    }

    /// Whether somebody comes in, and as whom, if that matters. A conn that is let in and counted
    /// has to be noted or forgotten.
    pub(in crate::worker) fn check_admission(
        &self,
        address: IpAddr,
        listener: u32,
    ) -> Result<Option<Peer>, AdmissionError> {
        if self.conns.len() >= self.parts.conns_max as usize {
            return Err(AdmissionError::Full);
        }
        if self.parts.guard.pressure.is_short() {
            return Err(AdmissionError::Memory);
        }
        if !self.needs_peers() {
            return Ok(None);
        }
        let trusted = &self.parts.config.proxy.trusted;
        let is_trusted = contains(trusted, address);
        let is_proxied = self.is_proxied(listener);
        if is_proxied && !is_trusted && !trusted.is_empty() {
            return Err(AdmissionError::Untrusted);
        }
        let mut peer = Peer {
            counted: None,
            own: Source::from(address),
            is_trusted,
            awaits_tls: is_proxied && self.is_secure(listener),
            has_connected: false,
        };
        if !is_proxied && !is_trusted {
            self.recount(&mut peer, Some(Source::from(address)))
                .map_err(AdmissionError::Source)?;
        }
        Ok(Some(peer))
    }

    /// Moves a conn to another source's account, or to none. Only the first source has connected: a
    /// proxy that keeps a conn may change its client with each request, and a client for which the
    /// proxy connects each time is always the first.
    fn recount(&self, peer: &mut Peer, source: Option<Source>) -> Result<(), TooMany> {
        let Some(sources) = &self.parts.guard.sources else {
            return Ok(());
        };
        if peer.counted == source {
            return Ok(());
        }
        if let Some(source) = source {
            let arrival = match peer.has_connected {
                true => Arrival::Reuse,
                false => Arrival::Connect,
            };
            sources.enter(source, arrival, self.now)?;
            peer.has_connected = true;
        }
        if let Some(before) = std::mem::replace(&mut peer.counted, source) {
            sources.leave(before, self.now);
        }
        Ok(())
    }

    pub(in crate::worker) fn note_peer(&mut self, id: ConnId, peer: Peer) {
        self.peers.by_slot.insert(id.slot, peer);
    }

    /// The conn that was let in has gone, or never had a slot.
    pub(in crate::worker) fn release_peer(&self, mut peer: Peer) {
        // Nobody is refused as nobody.
        let _uncounted = self.recount(&mut peer, None);
    }

    /// A conn is freed.
    pub(in crate::worker) fn take_peer(&mut self, slot: u32) -> Option<Peer> {
        if self.peers.by_slot.is_empty() {
            return None;
        }
        self.peers.by_slot.remove(&slot)
    }

    /// Turns away a connection that has no slot: in words, where they can be understood.
    pub(in crate::worker) fn refuse_conn(
        &mut self,
        socket: N::Socket,
        listener: u32,
        refused: AdmissionError,
    ) {
        let counter = self.counter(refused);
        counter.increment();
        self.refresh_date();
        let refusal = match refused {
            AdmissionError::Full => Refusal::ServerFullOfConns,
            AdmissionError::Memory => Refusal::MemoryShort,
            AdmissionError::Source(too_many) => Refusal::TooMany(too_many),
            AdmissionError::Untrusted => return self.net.refuse(socket, &[]),
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

    fn counter(&self, refused: AdmissionError) -> &crate::metrics::Counter {
        let metrics = &self.parts.metrics;
        match refused {
            AdmissionError::Full => &metrics.conns_refused,
            AdmissionError::Memory => &metrics.conns_refused_memory,
            AdmissionError::Source(TooMany::Connects) => &metrics.conns_refused_source_rate,
            AdmissionError::Source(TooMany::Conns) => &metrics.conns_refused_source_conns,
            AdmissionError::Untrusted => &metrics.conns_refused_proxy,
        }
    }

    /// A PROXY header has named the client, or nobody. TLS begins behind it where that is spoken.
    pub(in crate::worker) fn identify_by_proxy_header(
        &mut self,
        id: ConnId,
        client: Option<IpAddr>,
    ) {
        let Some(mut peer) = self.peers.by_slot.get(&id.slot).copied() else {
            return;
        };
        if let Some(client) = client {
            peer.own = Source::from(client);
            peer.is_trusted = contains(&self.parts.config.proxy.trusted, client);
        }
        let source = (!peer.is_trusted).then_some(peer.own);
        let admitted = self.recount_as(id, peer, source);
        if peer.awaits_tls && (admitted.is_err() || !self.secure(id)) {
            return self.close(id, CloseReason::Refused);
        }
        self.call(id, |conn, out, context| {
            conn.handle_proxy_client(admitted, out, context);
        });
    }

    /// A trusted HTTP proxy has named the client of a request, or nobody.
    pub(in crate::worker) fn identify_by_forwarded_header(
        &mut self,
        id: ConnId,
        client: Option<IpAddr>,
    ) {
        let Some(peer) = self.peers.by_slot.get(&id.slot).copied() else {
            return;
        };
        let trusted = &self.parts.config.proxy.trusted;
        let client = client.filter(|client| !contains(trusted, *client));
        let admitted = self.recount_as(id, peer, client.map(Source::from));
        self.call(id, |conn, out, context| {
            conn.handle_forwarded_client(admitted, out, context);
        });
    }

    fn recount_as(
        &mut self,
        id: ConnId,
        mut peer: Peer,
        source: Option<Source>,
    ) -> Result<(), TooMany> {
        let admitted = self.recount(&mut peer, source);
        if let Err(too_many) = admitted {
            self.counter(AdmissionError::Source(too_many)).increment();
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
        self.note_peer(id, peer);
        admitted
    }
}
