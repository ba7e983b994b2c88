//! The span of a connection, or of one answered request of a connection.
//!
//! It has the same values as the line of the access log, and no others.

use std::net::SocketAddr;

use super::SpanContext;
use crate::id::ConnName;
use crate::proxy::Source;
use crate::time::Now;

/// The data of a connection's span. Absent values are not in the span.
#[derive(Debug)]
pub struct ConnectionSpan {
    /// The ids of the span.
    pub context: SpanContext,
    /// The time at which the request was read. Without a request, the time at which the connection
    /// was accepted or its previous request was answered.
    pub begun: Now,
    /// The time at which the connection ended or the request was answered.
    pub ended: Now,
    /// The address of the connection's peer. Behind a proxy, this is the proxy.
    pub peer: Option<SocketAddr>,
    /// The client that a trusted proxy has named.
    pub client: Option<Source>,
    /// The name of the connection, as backends know it.
    pub connection: ConnName,
    /// The transport, or `http` for a response of the server itself.
    pub transport: Option<&'static str>,
    /// The path, and those parameters of the query that are not secret.
    pub path: Option<Box<str>>,
    /// The status of the response.
    pub status: Option<u16>,
    /// The code of the close frame of a WebSocket.
    pub close_code: Option<u16>,
    /// The reason for which the connection was closed, as in the metrics.
    pub reason: Option<&'static str>,
    /// The number of publications that were sent completely.
    pub publications: u64,
    /// The number of bytes that were sent.
    pub bytes: u64,
    /// The subject of the client's token, if the access log contains it, too.
    pub sub: Option<Box<str>>,
}
