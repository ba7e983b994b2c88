//! PURE: this module plans the connections to open, and distributes them over threads, channels,
//! roles and addresses.
//!
//! The thread and the index of a connection determine its kind, role, channel and address. A
//! connection therefore stores only the state that the hot path needs. This file uses no socket and
//! no clock.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::position::Position;
use super::stream_parser::Kind;
use super::tally::{IdRule, Role, Start, Stride};

/// The maximum number of connections from one loopback address. It is well below the number of
/// ports.
const CONNS_PER_ADDRESS: usize = 5_000;
/// The maximum total number of unanswered requests of all threads. It is well below the listen
/// backlog.
const REQUESTS_ALL_MAX: usize = 2_048;
/// Each thread may have at least this number of unanswered requests, even if the total of all
/// threads then exceeds [`REQUESTS_ALL_MAX`].
const REQUESTS_MIN: usize = 8;
/// The time in seconds after which the server answers a poll without publications. It is the
/// server's default.
const POLL_TIMEOUT_S: u32 = 120;
/// The lifetime of a churning connection in seconds.
pub const CHURN_SECONDS: usize = 1;

/// The connections to open.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The address of the server.
    pub target: SocketAddr,
    /// The addresses to connect from. If the list is empty and the server has a loopback address,
    /// addresses of 127.0.0.0/8 with `network` as their second byte are used.
    pub sources: Vec<IpAddr>,
    /// The second byte of the loopback source addresses.
    pub network: u8,
    /// The number of connections of each kind.
    pub kinds: Vec<(Kind, usize)>,
    /// The number of client threads.
    pub threads: usize,
    /// The channel's name. If there are several channels, their names are `name:0`, `name:1` and so
    /// on.
    pub channel: String,
    /// The number of channels.
    pub channels: u16,
    /// The percentage of connections that do not read until the last publication is sent.
    pub stalled: usize,
    /// The percentage of connections that read a few bytes at intervals.
    pub slow: usize,
    /// The number of churning connections that are opened per second.
    pub churn: usize,
    /// The rule for the ids of publications.
    pub ids: IdRule,
    /// The first publication that a connection expects, unless it is a churning connection.
    pub start: Start,
}

/// The properties of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// The protocol of the connection.
    pub kind: Kind,
    /// The behavior of the connection.
    pub role: Role,
    /// The index of the connection's channel.
    pub channel: u16,
}

impl Plan {
    /// Returns the number of connections, excluding churning ones.
    #[must_use]
    pub fn conns(&self) -> usize {
        self.kinds.iter().map(|(_, count)| count).sum()
    }

    /// Returns the maximum number of unanswered requests that each thread may have.
    #[must_use]
    pub fn requests_max(&self) -> usize {
        (REQUESTS_ALL_MAX / self.threads.max(1)).max(REQUESTS_MIN)
    }

    /// Returns the connections of one thread. Their kinds alternate.
    #[must_use]
    pub fn specs(&self, thread: usize) -> Vec<ClientSpec> {
        let share =
            |count: usize| count / self.threads + usize::from(thread < count % self.threads);
        let mut left: Vec<(Kind, usize)> = self
            .kinds
            .iter()
            .map(|(kind, count)| (*kind, share(*count)))
            .collect();
        let mut specs = Vec::with_capacity(left.iter().map(|(_, count)| count).sum());
        while left.iter().any(|(_, count)| *count > 0) {
            for (kind, count) in left.iter_mut().filter(|(_, count)| *count > 0) {
                *count -= 1;
                let index = specs.len();
                specs.push(ClientSpec {
                    kind: *kind,
                    role: self.role(index),
                    channel: self.channel_of(thread, index),
                });
            }
        }
        specs
    }

    /// Returns the properties of the churning connection that a thread opens as its number `count`.
    #[must_use]
    pub fn churn_spec(&self, thread: usize, count: usize) -> ClientSpec {
        let kinds: Vec<Kind> = self
            .kinds
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, _)| *kind)
            .collect();
        let kind = kinds.get(count % kinds.len().max(1)).copied();
        ClientSpec {
            kind: kind.unwrap_or(Kind::WebSocket),
            role: Role::Churning,
            channel: self.channel_of(thread, count),
        }
    }

    /// Returns the first publication that churning connections expect.
    #[must_use]
    pub fn churn_start(&self) -> Start {
        match self.ids {
            IdRule::Numbers => Start::Position,
            IdRule::Rising => Start::Anywhere,
        }
    }

    fn role(&self, index: usize) -> Role {
        // 37 and 100 have no common factor, so all roles have the same share in each kind of
        // connection.
        match index * 37 % 100 {
            draw if draw < self.stalled => Role::Stalled,
            draw if draw < self.stalled + self.slow => Role::Slow,
            _ => Role::Reader,
        }
    }

    fn channel_of(&self, thread: usize, index: usize) -> u16 {
        let conn = index * self.threads + thread;
        u16::try_from(conn % usize::from(self.channels.max(1))).unwrap_or(0)
    }

    /// Returns the numbers of the publications that are sent to a channel.
    #[must_use]
    pub fn stride(&self, channel: u16) -> Stride {
        Stride::new(u64::from(channel), u64::from(self.channels))
    }

    /// Returns the name of a channel.
    #[must_use]
    pub fn channel_name(&self, channel: u16) -> String {
        channel_name(&self.channel, self.channels, channel)
    }

    /// Returns the source address of a connection, or `None` if the system chooses the address.
    #[must_use]
    pub fn source(&self, thread: usize, index: usize) -> Option<IpAddr> {
        if !self.sources.is_empty() {
            let index = (index * self.threads + thread) % self.sources.len();
            return self.sources.get(index).copied();
        }
        let IpAddr::V4(target) = self.target.ip() else {
            return None;
        };
        if !target.is_loopback() {
            return None;
        }
        let per_thread = self.conns().div_ceil(self.threads.max(1)) / CONNS_PER_ADDRESS + 1;
        let address = 1 + thread * per_thread + index / CONNS_PER_ADDRESS % per_thread;
        let [high, low] = u16::try_from(address).unwrap_or(1).to_be_bytes();
        Some(IpAddr::V4(Ipv4Addr::new(127, self.network, high, low)))
    }

    /// Returns the request for a connection (RFC 9112, 3; RFC 6455, 4.1).
    #[must_use]
    pub fn request(&self, spec: ClientSpec) -> Vec<u8> {
        let mut request = Vec::new();
        self.push_request(spec.kind, spec.channel, None, &mut request);
        request
    }

    /// Appends a request to `out`. If `since` is set, a poll continues from that position.
    pub fn push_request(
        &self,
        kind: Kind,
        channel: u16,
        since: Option<Position>,
        out: &mut Vec<u8>,
    ) {
        let (path, fields) = match kind {
            Kind::RawEvents | Kind::EventStream => (
                "sse",
                "Accept: text/event-stream\r\nCache-Control: no-cache\r\n",
            ),
            Kind::Poll => ("poll", "Accept: application/json\r\n"),
            Kind::CompressedWebSocket => (
                "ws",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                 client_max_window_bits\r\n",
            ),
            Kind::RawWebSocket | Kind::WebSocket => (
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

/// Returns the name of one channel out of `channels`.
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
            ids: IdRule::Numbers,
            start: Start::First,
        }
    }

    #[test]
    fn every_connection_is_planned_once_and_each_role_has_its_share() {
        let plan = plan();
        let specs: Vec<ClientSpec> = (0..3).flat_map(|thread| plan.specs(thread)).collect();
        let count =
            |part: &dyn Fn(&ClientSpec) -> bool| specs.iter().filter(|spec| part(spec)).count();
        assert_eq!(specs.len(), 40_001);
        assert_eq!(count(&|spec| spec.kind == Kind::EventStream), 10_000);
        assert!(count(&|spec| spec.role == Role::Stalled).abs_diff(4_000) < 10);
        assert!(count(&|spec| spec.role == Role::Slow).abs_diff(2_000) < 10);
        for channel in 0..4 {
            assert!(count(&|spec| spec.channel == channel).abs_diff(10_000) < 4);
        }
    }

    #[test]
    fn source_addresses_are_loopback_and_have_enough_ports() {
        let plan = plan();
        let mut conns: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, BTreeSet<usize>> = BTreeMap::new();
        for thread in 0..plan.threads {
            for index in 0..plan.specs(thread).len() {
                let source = plan.source(thread, index).unwrap();
                *conns.entry(source).or_default() += 1;
                owners.entry(source).or_default().insert(thread);
            }
        }
        assert!(conns.keys().all(IpAddr::is_loopback));
        assert!(conns.values().all(|count| *count <= CONNS_PER_ADDRESS));
        assert!(owners.values().all(|threads| threads.len() == 1));
    }

    #[test]
    fn given_addresses_are_used_in_turn_and_remote_targets_have_no_default() {
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
        let spec = ClientSpec {
            kind: Kind::EventStream,
            role: Role::Reader,
            channel: 2,
        };
        let text = String::from_utf8(plan.request(spec)).unwrap();
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
