//! guard: decides whether a connection is accepted, and for which source the connection counts. A
//! *source* is an IPv4 address, or an IPv6 network of 64 bits.
//!
//! The decision is made before a conn has a slot. If a proxy later names the conn's client, the
//! decision is made again for that client. The table of peers is separate from the slots. It is
//! empty unless a limit per source, a trusted proxy or the PROXY protocol is configured. When a
//! conn is freed, it no longer counts for its source.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::pending::SilentLimit;
use super::sources::{Arrival, SourceLimiter};
use crate::context::{Draw, ReconnectDelay};
use crate::effect::CloseReason;
use crate::http::origin::Reader;
use crate::http::{Refusal, response};
use crate::id::ConnId;
use crate::proxy::{Source, TooMany, contains};
use crate::sys::pressure::Pressure;
use crate::worker::Worker;
use crate::worker::pinned::OldestPinned;
use crate::worker::wire::net::Net;

/// The limits that admission control checks. The default is no limits.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The limit on silent conns of all workers, or `None` if there is no limit.
    pub silent: Option<Arc<SilentLimit>>,
    /// A bit mask of the listeners whose conns begin with a header of the PROXY protocol.
    pub proxied: u64,
    /// The limits on conns and connects per source, or `None` if there are no such limits.
    pub sources: Option<Arc<SourceLimiter>>,
    /// For each worker, the oldest evicted publication that its conns keep in memory.
    pub oldest: Arc<OldestPinned>,
    /// The latest measurement of memory pressure.
    pub pressure: Arc<Pressure>,
}

/// The peers of a worker's conns, by slot.
#[derive(Debug, Default)]
pub(in crate::worker) struct PeerTable {
    by_slot: HashMap<u32, Peer, RandomState>,
}

/// The peer of one conn.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Peer {
    /// The source for which the conn is counted, or `None` if the conn is not counted.
    counted: Option<Source>,
    /// The peer's address, or the address that its PROXY header names.
    own: IpAddr,
    /// The client that the PROXY header or the newest request of a trusted proxy names, if any.
    client: Option<Source>,
    /// Whether `own` is a trusted proxy in the current configuration.
    is_trusted: bool,
    /// Whether TLS has to start after the PROXY header.
    awaits_tls: bool,
    /// Whether the conn was counted as a new connection of a source. This happens at most once for
    /// each conn.
    has_connected: bool,
}

/// The reason why a connection is refused.
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

    /// Returns the client that a proxy has named; `None` if no proxy has named one.
    pub(in crate::worker) fn client(&self, slot: u32) -> Option<Source> {
        self.by_slot.get(&slot).and_then(|peer| peer.client)
    }

    /// Frees unused capacity.
    pub(in crate::worker) fn shrink(&mut self) {
        self.by_slot.shrink_to_fit();
    }
}

impl<N: Net> Worker<N> {
    pub(in crate::worker) fn is_proxied(&self, listener: u32) -> bool {
        self.parts.is_proxied(listener)
    }

    /// Whether the source of each conn must be stored, because of a limit or a proxy.
    fn needs_peers(&self) -> bool {
        let guard = &self.parts.guard;
        guard.sources.is_some() || guard.proxied != 0 || !self.parts.config.proxy.trusted.is_empty()
    }

    /// Decides whether a connection is accepted. If this worker stores the sources of its conns,
    /// returns the [`Peer`] of the connection. The caller must then pass this peer to
    /// [`Self::note_peer`] or, if the connection gets no slot, to [`Self::release_peer`].
    pub(in crate::worker) fn check_admission(
        &self,
        address: IpAddr,
        listener: u32,
    ) -> Result<Option<Peer>, AdmissionError> {
        if self.conns.len() >= self.parts.conns_max() as usize {
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
            own: address,
            client: None,
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

    /// Counts a conn for another source, or for no source. The rate limit on new connections
    /// applies only to the conn's first source, because a proxy can reuse the conn and name another
    /// client with each request.
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
            sources.add_conn(source, arrival, self.now)?;
            peer.has_connected = true;
        }
        if let Some(before) = std::mem::replace(&mut peer.counted, source) {
            sources.remove_conn(before, self.now);
        }
        Ok(())
    }

    pub(in crate::worker) fn note_peer(&mut self, id: ConnId, peer: Peer) {
        self.peers.by_slot.insert(id.slot, peer);
    }

    /// Called when a conn was freed or was never given a slot. The conn then no longer counts for
    /// its source.
    pub(in crate::worker) fn release_peer(&self, mut peer: Peer) {
        let released = self.recount(&mut peer, None);
        debug_assert!(released.is_ok(), "the conn is not counted for a new source");
    }

    /// Removes and returns the peer of a conn that is freed.
    pub(in crate::worker) fn take_peer(&mut self, slot: u32) -> Option<Peer> {
        if self.peers.by_slot.is_empty() {
            return None;
        }
        self.peers.by_slot.remove(&slot)
    }

    /// Refuses a connection that has no slot. No response is sent to TLS clients or to untrusted
    /// proxies.
    pub(in crate::worker) fn refuse_conn(
        &mut self,
        socket: N::Socket,
        listener: u32,
        refused: AdmissionError,
    ) {
        self.counter(refused).increment();
        self.warn_of_refused(&socket, refused);
        let refusal = match refused {
            AdmissionError::Full => Refusal::ServerFullOfConns,
            AdmissionError::Memory => Refusal::MemoryShort,
            AdmissionError::Source(too_many) => Refusal::TooMany(too_many),
            AdmissionError::Untrusted => return self.net.refuse(socket, &[]),
        };
        let delay = ReconnectDelay::after_refusal(&self.parts.config.drain);
        let wait_s = delay.draw_s(Draw(self.net.draw()));
        let response =
            response::refuse_for_now(refusal, Reader::SameOrigin, wait_s, &self.date.text);
        // A TLS client cannot read a plaintext response before the handshake.
        let bytes: &[u8] = if self.is_secure(listener) {
            &[]
        } else {
            &response.bytes
        };
        self.net.refuse(socket, bytes);
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

    /// Counts a conn for the client that its PROXY header names. If the header names no client,
    /// counts the conn for its own address. Then starts TLS, if the listener uses TLS.
    pub(in crate::worker) fn identify_by_proxy_header(
        &mut self,
        id: ConnId,
        client: Option<IpAddr>,
    ) {
        let Some(mut peer) = self.peers.by_slot.get(&id.slot).copied() else {
            return debug_assert!(false, "{id:?} sent a PROXY header and has no peer");
        };
        if let Some(client) = client {
            peer.own = client;
            peer.is_trusted = contains(&self.parts.config.proxy.trusted, client);
            // A trusted address is a further proxy. Its requests name the client.
            peer.client = (!peer.is_trusted).then_some(Source::from(client));
        }
        let source = (!peer.is_trusted).then_some(Source::from(peer.own));
        let admitted = self.recount_as(id, peer, source);
        if peer.awaits_tls && (admitted.is_err() || !self.secure(id)) {
            return self.close(id, CloseReason::Refused);
        }
        self.call(id, |conn, out, context| {
            conn.handle_proxy_client(admitted, out, context);
        });
    }

    /// Counts a conn for the client that a trusted HTTP proxy names. If the proxy names no client,
    /// counts the conn for no source.
    pub(in crate::worker) fn identify_by_forwarded_header(
        &mut self,
        id: ConnId,
        client: Option<IpAddr>,
    ) {
        let Some(mut peer) = self.peers.by_slot.get(&id.slot).copied() else {
            return debug_assert!(false, "{id:?} is trusted and has no peer");
        };
        let trusted = &self.parts.config.proxy.trusted;
        let client = client.filter(|client| !contains(trusted, *client));
        let source = client.map(Source::from);
        peer.client = source;
        let admitted = self.recount_as(id, peer, source);
        self.call(id, |conn, out, context| {
            conn.handle_forwarded_client(admitted, out, context);
        });
    }

    /// Called after a reload. The requests of proxies that are no longer trusted name no clients
    /// from now on, and their conns count for the proxies themselves. A conn that exceeds a limit
    /// of its proxy stays open and counts as before. An open stream keeps its client.
    pub(in crate::worker) fn distrust_removed_proxies(&mut self) {
        let mut peers = std::mem::take(&mut self.peers.by_slot);
        let trusted = &self.parts.config.proxy.trusted;
        let removed = peers
            .iter_mut()
            .filter(|(_, peer)| peer.is_trusted && !contains(trusted, peer.own));
        for (slot, peer) in removed {
            peer.is_trusted = false;
            let slot = self.conns.get(*slot as usize);
            if slot.is_some_and(|slot| !slot.conn.is_stream() && !slot.conn.is_proxied()) {
                peer.client = None;
                let _counted = self.recount(peer, Some(Source::from(peer.own)));
            }
        }
        self.peers.by_slot = peers;
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
                "source named by a proxy"
            );
        }
        self.note_peer(id, peer);
        if let Err(too_many) = admitted {
            self.warn_of_too_many(id, too_many);
        }
        admitted
    }
}
