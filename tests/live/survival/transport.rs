//! Opens one connection of a subscriber, over any transport, and reads the connection's messages.
//!
//! A connection may break after any byte. Every message that arrives completely must be valid.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::support::PATIENCE;

/// The transport of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    EventStream,
    LongPoll,
    ShortPoll,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [
        Self::WebSocket,
        Self::EventStream,
        Self::LongPoll,
        Self::ShortPoll,
    ];
}

/// A message to a subscriber.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    /// A position. Everything before the position has been delivered.
    Position(String),
    /// A publication in its full envelope.
    Publication(Value),
    Gap(Value),
}

/// An open connection.
pub(crate) enum Conn {
    WebSocket(Box<WebSocket<TcpStream>>),
    EventStream(BufReader<Body>),
    Poll(Poll),
}

/// A chunked body (RFC 9112, 7.1), decoded.
pub(crate) struct Body {
    stream: BufReader<TcpStream>,
    left: usize,
}

/// A connection for polls.
pub(crate) struct Poll {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
    query: String,
    is_long: bool,
    since: Option<String>,
}

fn broken() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Conn {
    /// Opens a connection. If `since` has an id, the connection resumes from that id.
    pub(crate) fn open(
        transport: Transport,
        addr: SocketAddr,
        channels: &[String],
        since: Option<&str>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let query = channels.iter().map(|channel| format!("channel={channel}"));
        let query = query.collect::<Vec<_>>().join("&");
        let resume = since.map_or_else(String::new, |since| format!("&since={since}"));
        match transport {
            Transport::WebSocket => open_socket(stream, &format!("ws://{addr}/ws?{query}{resume}")),
            Transport::EventStream => open_events(stream, addr, &format!("{query}{resume}")),
            Transport::LongPoll | Transport::ShortPoll => Ok(Self::Poll(Poll {
                stream: BufReader::new(stream),
                host: addr,
                query,
                is_long: transport == Transport::LongPoll,
                since: since.map(str::to_owned),
            })),
        }
    }

    /// Waits for messages. One answer to a poll may contain several messages.
    pub(crate) fn next(&mut self) -> io::Result<Vec<Received>> {
        match self {
            Self::WebSocket(socket) => next_message(socket),
            Self::EventStream(lines) => next_event(lines),
            Self::Poll(poll) => poll.next(),
        }
    }
}

fn open_socket(stream: TcpStream, url: &str) -> io::Result<Conn> {
    match tungstenite::client(url, stream) {
        Ok((socket, _response)) => Ok(Conn::WebSocket(Box::new(socket))),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(cause(error)),
        Err(error) => panic!("{error}"),
    }
}

fn open_events(stream: TcpStream, host: SocketAddr, query: &str) -> io::Result<Conn> {
    let mut stream = BufReader::new(stream);
    let request = format!("GET /sse?{query}&envelope=full HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let head = head(&mut stream)?;
    assert!(head[0].starts_with("HTTP/1.1 200 "), "{head:?}");
    Ok(Conn::EventStream(BufReader::new(Body { stream, left: 0 })))
}

/// Returns the I/O error inside a tungstenite error. Any other error is a fault of the server.
fn cause(error: tungstenite::Error) -> io::Error {
    use tungstenite::error::{Error, ProtocolError};
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed
        | Error::Protocol(
            ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
        ) => broken(),
        error => panic!("{error}"),
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn next_message(socket: &mut WebSocket<TcpStream>) -> io::Result<Vec<Received>> {
    let text = match socket.read().map_err(cause)? {
        Message::Text(text) => text,
        Message::Ping(_) => return Ok(Vec::new()),
        other => panic!("{other:?}"),
    };
    let value = json(&text);
    let message = match value["type"].as_str() {
        None => Received::Publication(value),
        Some("gap") => Received::Gap(value),
        Some("subscribed") => Received::Position(value["id"].as_str().unwrap().to_owned()),
        Some("welcome") => return Ok(Vec::new()),
        Some(_) => panic!("{value}"),
    };
    Ok(vec![message])
}

/// Reads one event up to its empty line. An incomplete event is an error.
fn next_event(lines: &mut BufReader<Body>) -> io::Result<Vec<Received>> {
    let (mut id, mut event, mut data) = (None, None, None);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let line = line.strip_suffix('\n').ok_or_else(broken)?;
        let field = line.split_once(':');
        match field.map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("event", value)) => event = Some(value.to_owned()),
            Some(("data", value)) => data = Some(json(value)),
            Some(("retry", _)) => {}
            Some(_) => assert!(line.starts_with(':'), "{line}"),
            None if line.is_empty() => break,
            None => assert!(line.starts_with(':'), "{line}"),
        }
    }
    Ok(match (event.as_deref(), data, id) {
        (Some("fanfare.gap"), Some(gap), None) => vec![Received::Gap(gap)],
        (None, Some(publication), Some(id)) => {
            assert_eq!(publication["id"], id.as_str());
            vec![Received::Publication(publication)]
        }
        (Some("fanfare.position"), None, Some(id)) => vec![Received::Position(id)],
        (Some("fanfare.position"), None, None) => Vec::new(),
        other => panic!("{other:?}"),
    })
}

impl io::Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut size = String::new();
            self.stream.read_line(&mut size)?;
            let size = size.strip_suffix("\r\n").ok_or_else(broken)?;
            self.left = usize::from_str_radix(size, 16).expect("a chunk's size");
            assert!(self.left > 0, "the stream was ended by the server");
        }
        let most = into.len().min(self.left);
        let got = self.stream.read(&mut into[..most])?;
        if got == 0 {
            return Err(broken());
        }
        self.left -= got;
        if self.left == 0 {
            let mut end = [0; 2];
            self.stream.read_exact(&mut end)?;
            assert_eq!(&end, b"\r\n");
        }
        Ok(got)
    }
}

impl Poll {
    fn next(&mut self) -> io::Result<Vec<Received>> {
        let (host, query) = (self.host, &self.query);
        let timeout = if self.is_long { 10 } else { 0 };
        let since = self.since.as_ref();
        let resume = since.map_or_else(String::new, |since| format!("&since={since}"));
        let known = since.filter(|_| !self.is_long);
        let known = known.map_or_else(String::new, |id| format!("If-None-Match: \"{id}\"\r\n"));
        let request = format!(
            "GET /poll?{query}&timeout={timeout}{resume} HTTP/1.1\r\nHost: {host}\r\n{known}\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let head = head(&mut self.stream)?;
        if head[0].starts_with("HTTP/1.1 304 ") {
            // A client that sends short polls pauses after each answer without publications.
            std::thread::sleep(Duration::from_millis(30));
            return Ok(Vec::new());
        }
        assert!(head[0].starts_with("HTTP/1.1 200 "), "{head:?}");
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        self.stream.read_exact(&mut body)?;
        let answer = json(std::str::from_utf8(&body).unwrap());
        let id = answer["id"].as_str().unwrap().to_owned();
        assert_eq!(answer["gap"], answer.get("gaps").is_some(), "{answer}");
        let mut messages: Vec<_> = list(&answer["gaps"]).map(Received::Gap).collect();
        messages.extend(list(&answer["publications"]).map(Received::Publication));
        messages.push(Received::Position(id.clone()));
        self.since = Some(id);
        Ok(messages)
    }
}

fn list(value: &Value) -> impl Iterator<Item = Value> {
    value.as_array().into_iter().flatten().cloned()
}

/// Reads the lines of a response's head.
fn head(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n").ok_or_else(broken)? {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}
