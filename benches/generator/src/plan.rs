//! PURE: what to open: how connections are dealt over threads, channels, roles and addresses.
//!
//! Everything follows from a connection's place in its thread, so nothing of it is stored per
//! connection but what the hot path needs. Knows no socket and no clock.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::position::Position;
use super::stream_parser::Kind;
use super::tally::{Ids, Lane, Role, Start};

/// Connections of one source address when there are addresses in plenty. Well below the number of
/// ports.
const CONNS_PER_ADDRESS: usize = 5_000;
/// Requests of all threads together that wait for their answer. Well below the listen backlog.
const ASKING_ALL_MAX: usize = 2_048;
/// The fewest that one thread may have under way.
const ASKING_MIN: usize = 8;
/// Seconds that a poll without news may be held: as long as the server does by itself.
const POLL_TIMEOUT_S: u32 = 120;
/// Seconds that a connection stays that comes and goes.
pub const PASSING_SECONDS: usize = 1;

/// What to open.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Addresses to connect from; empty for those that follow from `network`.
    pub sources: Vec<IpAddr>,
    /// Second byte of the source addresses, where the target is on 127.0.0.0/8.
    pub network: u8,
    /// How many of each kind.
    pub kinds: Vec<(Kind, usize)>,
    /// Threads to spread them over.
    pub threads: usize,
    /// The channel's name; `name:0` and so on when there are several.
    pub channel: String,
    /// How many channels.
    pub channels: u16,
    /// Per cent of the connections that do not read until they are told to.
    pub stalled: usize,
    /// Per cent of the connections that read a little at intervals.
    pub slow: usize,
    /// Connections per second that come and go while others stay.
    pub churn: usize,
    /// What ids have to be.
    pub ids: Ids,
    /// Which number those that stay have first.
    pub start: Start,
}

/// One connection's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// How it is served.
    pub kind: Kind,
    /// How it behaves.
    pub role: Role,
    /// Its channel, counted from zero.
    pub channel: u16,
}

impl Plan {
    /// How many connections stay.
    #[must_use]
    pub fn conns(&self) -> usize {
        self.kinds.iter().map(|(_, count)| count).sum()
    }

    /// Requests that one thread may have under way.
    #[must_use]
    pub fn asking_max(&self) -> usize {
        (ASKING_ALL_MAX / self.threads.max(1)).max(ASKING_MIN)
    }

    /// The connections of one thread: kinds in turn, so that they mix.
    #[must_use]
    pub fn seats(&self, thread: usize) -> Vec<Seat> {
        let share =
            |count: usize| count / self.threads + usize::from(thread < count % self.threads);
        let mut left: Vec<(Kind, usize)> = self
            .kinds
            .iter()
            .map(|(kind, count)| (*kind, share(*count)))
            .collect();
        let mut seats = Vec::with_capacity(left.iter().map(|(_, count)| count).sum());
        while left.iter().any(|(_, count)| *count > 0) {
            for (kind, count) in left.iter_mut().filter(|(_, count)| *count > 0) {
                *count -= 1;
                let place = seats.len();
                seats.push(Seat {
                    kind: *kind,
                    role: self.role(place),
                    channel: self.channel_of(thread, place),
                });
            }
        }
        seats
    }

    /// One of the connections that come and go, counted per thread.
    #[must_use]
    pub fn passing_seat(&self, thread: usize, count: usize) -> Seat {
        let kinds: Vec<Kind> = self
            .kinds
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, _)| *kind)
            .collect();
        let kind = kinds.get(count % kinds.len().max(1)).copied();
        Seat {
            kind: kind.unwrap_or(Kind::WebSocket),
            role: Role::Passing,
            channel: self.channel_of(thread, count),
        }
    }

    /// Which number those that come and go have first.
    #[must_use]
    pub fn passing_start(&self) -> Start {
        match self.ids {
            Ids::Numbers => Start::Position,
            Ids::Rising => Start::Anywhere,
        }
    }

    fn role(&self, place: usize) -> Role {
        // 37 has no factor in common with 100, so every kind gets its part.
        match place * 37 % 100 {
            draw if draw < self.stalled => Role::Stalled,
            draw if draw < self.stalled + self.slow => Role::Slow,
            _ => Role::Reader,
        }
    }

    fn channel_of(&self, thread: usize, place: usize) -> u16 {
        let conn = place * self.threads + thread;
        u16::try_from(conn % usize::from(self.channels.max(1))).unwrap_or(0)
    }

    /// The numbers of a channel.
    #[must_use]
    pub fn lane(&self, channel: u16) -> Lane {
        Lane::new(u64::from(channel), u64::from(self.channels))
    }

    /// The name of a channel.
    #[must_use]
    pub fn channel_name(&self, channel: u16) -> String {
        channel_name(&self.channel, self.channels, channel)
    }

    /// The address that a thread's connection comes from.
    #[must_use]
    pub fn source(&self, thread: usize, place: usize) -> Option<IpAddr> {
        if !self.sources.is_empty() {
            let index = (place * self.threads + thread) % self.sources.len();
            return self.sources.get(index).copied();
        }
        let IpAddr::V4(target) = self.target.ip() else {
            return None;
        };
        if !target.is_loopback() {
            return None;
        }
        let per_thread = self.conns().div_ceil(self.threads.max(1)) / CONNS_PER_ADDRESS + 1;
        let address = 1 + thread * per_thread + place / CONNS_PER_ADDRESS % per_thread;
        let [high, low] = u16::try_from(address).unwrap_or(1).to_be_bytes();
        Some(IpAddr::V4(Ipv4Addr::new(127, self.network, high, low)))
    }

    /// The request for a connection (RFC 9112, 3; RFC 6455, 4.1).
    #[must_use]
    pub fn request(&self, seat: Seat) -> Vec<u8> {
        let mut request = Vec::new();
        self.push_request(seat.kind, seat.channel, None, &mut request);
        request
    }

    /// Appends a request, which for a poll may go on from a position.
    pub fn push_request(
        &self,
        kind: Kind,
        channel: u16,
        since: Option<Position>,
        out: &mut Vec<u8>,
    ) {
        let (path, fields) = match kind {
            Kind::BareEvents | Kind::EventStream => (
                "sse",
                "Accept: text/event-stream\r\nCache-Control: no-cache\r\n",
            ),
            Kind::Poll => ("poll", "Accept: application/json\r\n"),
            Kind::Deflated => (
                "ws",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                 client_max_window_bits\r\n",
            ),
            Kind::Bare | Kind::WebSocket => (
                "ws",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
            ),
        };
        let name = self.channel_name(channel);
        let name = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        push(out, format_args!("GET /{path}?channel={name}"));
        if kind == Kind::Poll {
            push(out, format_args!("&timeout={POLL_TIMEOUT_S}"));
        }
        if let Some(since) = since {
            push(out, format_args!("&since={since}"));
        }
        let target = self.target;
        push(out, format_args!(" HTTP/1.1\r\nHost: {target}\r\n"));
        push(
            out,
            format_args!("User-Agent: fanfare-bench\r\n{fields}\r\n"),
        );
    }
}

fn push(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok());
}

/// The name of one of several channels.
#[must_use]
pub fn channel_name(base: &str, channels: u16, channel: u16) -> String {
    if channels > 1 {
        format!("{base}:{channel}")
    } else {
        base.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn plan() -> Plan {
        Plan {
            target: "127.0.0.1:8080".parse().unwrap(),
            sources: Vec::new(),
            network: 16,
            kinds: vec![(Kind::WebSocket, 30_001), (Kind::EventStream, 10_000)],
            threads: 3,
            channel: "bench".to_owned(),
            channels: 4,
            stalled: 10,
            slow: 5,
            churn: 0,
            ids: Ids::Numbers,
            start: Start::First,
        }
    }

    #[test]
    fn every_conn_is_dealt_once_and_roles_have_their_part() {
        let plan = plan();
        let seats: Vec<Seat> = (0..3).flat_map(|thread| plan.seats(thread)).collect();
        let count = |part: &dyn Fn(&Seat) -> bool| seats.iter().filter(|seat| part(seat)).count();
        assert_eq!(seats.len(), 40_001);
        assert_eq!(count(&|seat| seat.kind == Kind::EventStream), 10_000);
        assert!(count(&|seat| seat.role == Role::Stalled).abs_diff(4_000) < 10);
        assert!(count(&|seat| seat.role == Role::Slow).abs_diff(2_000) < 10);
        for channel in 0..4 {
            assert!(count(&|seat| seat.channel == channel).abs_diff(10_000) < 4);
        }
    }

    #[test]
    fn source_addresses_are_loopback_and_hold_no_more_than_their_ports() {
        let plan = plan();
        let mut conns: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, BTreeSet<usize>> = BTreeMap::new();
        for thread in 0..plan.threads {
            for place in 0..plan.seats(thread).len() {
                let source = plan.source(thread, place).unwrap();
                *conns.entry(source).or_default() += 1;
                owners.entry(source).or_default().insert(thread);
            }
        }
        assert!(conns.keys().all(IpAddr::is_loopback));
        assert!(conns.values().all(|count| *count <= CONNS_PER_ADDRESS));
        assert!(owners.values().all(|threads| threads.len() == 1));
    }

    #[test]
    fn given_addresses_are_used_in_turn_and_far_targets_choose_none() {
        let mut plan = plan();
        plan.target = "192.0.2.1:80".parse().unwrap();
        assert_eq!(plan.source(0, 0), None);
        plan.sources = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        assert_eq!(plan.source(1, 0), plan.sources.get(1).copied());
        assert_eq!(plan.source(1, 1), plan.sources.first().copied());
    }

    #[test]
    fn request_names_the_channel_and_its_transport() {
        let mut plan = plan();
        plan.channel = "a b".to_owned();
        let seat = Seat {
            kind: Kind::EventStream,
            role: Role::Reader,
            channel: 2,
        };
        let text = String::from_utf8(plan.request(seat)).unwrap();
        assert!(
            text.starts_with("GET /sse?channel=a%20b%3A2 HTTP/1.1\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"));
        for (since, expected) in [
            (None, "GET /poll?channel=a%20b%3A2&timeout=120 HTTP/1.1\r\n"),
            (
                Some("00000000000a-7".parse().unwrap()),
                "GET /poll?channel=a%20b%3A2&timeout=120&since=00000000000a-7 HTTP/1.1\r\n",
            ),
        ] {
            let mut request = Vec::new();
            plan.push_request(Kind::Poll, 2, since, &mut request);
            let text = String::from_utf8(request).unwrap();
            assert!(text.starts_with(expected), "{text}");
            assert!(text.ends_with("\r\n\r\n"));
        }
    }
}
