//! Surveys: questions of an operator to a worker.
//!
//! A survey has its own bounded queue, so an operator never waits for the feed's mail and never
//! delays it. A worker answers a survey over several turns. The answer is a message, and a worker
//! never waits for the operator to read it.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::backend::CloseInfo;
use crate::effect::{ConnSort, ConnTransport};
use crate::hub::Amount;
use crate::id::{ChannelName, ConnName};
use crate::pattern::Pattern;
use crate::proxy::{Network, Source};

/// A question to one worker.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The question.
    pub question: Question,
    /// Where the worker sends its number and the answer.
    pub answers: Sender<(u16, SurveyAnswer)>,
}

/// What an operator asks of a worker.
#[derive(Clone, Debug)]
pub enum Question {
    /// Return the numbers of subscribers of these channels, in their order.
    Count(Arc<[ChannelName]>),
    /// Close the conns that match.
    Kick {
        /// The conns to close.
        filter: Arc<ConnFilter>,
        /// The close code and reason for `WebSocket`s.
        close_info: Arc<CloseInfo>,
    },
    /// Return the channels with the most subscribers on this worker, among those that match.
    Largest {
        /// The names to return. `None` is every name.
        pattern: Option<Pattern>,
        /// The maximum number of channels.
        limit: usize,
    },
    /// Return the first conns in an order, among those that match.
    List {
        /// The conns to list.
        filter: Arc<ConnFilter>,
        /// The order.
        sort: ConnSort,
        /// The maximum number of conns.
        limit: usize,
    },
    /// Return an answer immediately.
    Ping,
}

/// The properties that a conn must have. Absent properties are not checked.
#[derive(Clone, Debug, Default)]
pub struct ConnFilter {
    /// The name.
    pub name: Option<ConnName>,
    /// The network of the peer, or of the client that a proxy has named.
    pub network: Option<Network>,
    /// A channel to which the conn is subscribed.
    pub channel: Option<ChannelName>,
    /// The subject of the conn's token.
    pub sub: Option<Box<str>>,
    /// The transport.
    pub transport: Option<ConnTransport>,
    /// The minimum number of publications that wait for the conn.
    pub behind: u64,
    /// The minimum number of bytes in the conn's outbox.
    pub unsent: u64,
}

/// A worker's answer to a [`Survey`].
#[derive(Clone, Debug)]
pub enum SurveyAnswer {
    /// The numbers of subscribers, in the order of the question.
    Counts(Vec<u32>),
    /// Channels with their numbers of subscribers, in no order, and the number of matching
    /// channels.
    Channels(Vec<(ChannelName, u32)>),
    /// Conns in no order.
    Conns {
        /// The first conns in the order of the question.
        conns: Vec<SurveyedConn>,
        /// The number of matching conns.
        matched: u64,
        /// The number of conns of the worker.
        open: u64,
    },
    /// The number of conns that are being closed.
    Kicked(u64),
    /// The answer to [`Question::Ping`].
    Pong,
}

/// A conn, as an operator sees it.
#[derive(Clone, Debug)]
pub struct SurveyedConn {
    /// The value by which the conns are ordered, largest first.
    pub rank: u64,
    /// The name.
    pub name: ConnName,
    /// The address of the peer, unless the kernel no longer knows it.
    pub peer: Option<SocketAddr>,
    /// The source for which the conn counts, if it is not the peer's address.
    pub client: Option<Source>,
    /// What the conn is used for.
    pub transport: ConnTransport,
    /// Whether the conn uses TLS.
    pub is_secure: bool,
    /// Whether the conn is ending.
    pub is_ending: bool,
    /// The subject of the conn's token.
    pub sub: Option<Arc<str>>,
    /// The number of channels.
    pub channels: u64,
    /// The names of some of the channels.
    pub first_channels: Vec<ChannelName>,
    /// The publications that wait for the conn.
    pub behind: Amount,
    /// The number of bytes that the socket has not accepted.
    pub unsent_bytes: u64,
    /// The number of bytes that the socket has accepted and the peer has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// The time since the last sign of life, in milliseconds.
    pub silent_ms: u64,
}
