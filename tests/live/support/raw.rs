//! HTTP/1.1 in hand-written bytes, for requests that no client library sends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Type};

use super::PATIENCE;

/// One response.
#[derive(Debug)]
pub(crate) struct Raw {
    /// The status code.
    pub(crate) status: u16,
    /// The field lines as received, without line ends.
    pub(crate) fields: Vec<String>,
    /// The body. Its length is the `Content-Length` of the response.
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// Sends one GET on a new connection and reads the response.
    pub(crate) fn get(addr: SocketAddr, target: &str) -> Self {
        let mut stream = connect(addr);
        let request = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self::read(&mut BufReader::new(stream))
    }

    /// Reads exactly one response.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let length = stream.read_line(&mut line).unwrap();
            assert!(length > 0, "connection ended within a head: {lines:?}");
            let Some(line) = line.strip_suffix("\r\n").filter(|line| !line.is_empty()) else {
                break;
            };
            lines.push(line.to_owned());
        }
        let status_line = lines.remove(0);
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Self {
            status,
            fields: lines,
            body: Vec::new(),
        };
        let length = response
            .field("content-length")
            .map_or(0, |text| text.parse().unwrap());
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body).unwrap();
        response
    }

    /// Returns a field's value by its lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .filter_map(|field| field.split_once(':'))
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// Returns the body as text.
    pub(crate) fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Checks that this is a problem document (RFC 9457) with this status.
    pub(crate) fn assert_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string(), "{document}");
    }
}

/// Opens a connection whose reads time out after [`PATIENCE`].
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Opens a connection from the loopback address `127.0.0.octet`.
pub(crate) fn connect_from(octet: u8, addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, octet), 0));
    socket.bind(&from.into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Opens a connection with a small receive buffer.
pub(crate) fn connect_small(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // The size is set before connecting, because the window scale is negotiated in the handshake.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Sends bytes on a new connection and reads one response.
pub(crate) fn exchange(addr: SocketAddr, request: &[u8]) -> Raw {
    let mut stream = connect(addr);
    stream.write_all(request).unwrap();
    Raw::read(&mut BufReader::new(stream))
}
