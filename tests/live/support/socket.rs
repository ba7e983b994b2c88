//! A WebSocket subscriber that uses the tungstenite client.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::PATIENCE;
use super::raw::connect;

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct Socket(pub(crate) WebSocket<TcpStream>);

impl Socket {
    /// Opens `/ws` with this query and the subprotocol.
    pub(crate) fn open(addr: SocketAddr, query: &str) -> Self {
        let mut request = format!("ws://{addr}/ws?{query}")
            .into_client_request()
            .unwrap();
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", "fanfare.v1".parse().unwrap());
        let (socket, response) = tungstenite::client(request, connect(addr)).unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "fanfare.v1");
        Self(socket)
    }

    /// Opens `/ws` without the subprotocol and reads the greeting. Returns `None` if the handshake
    /// fails.
    pub(crate) fn try_subscribed(addr: SocketAddr, query: &str) -> Option<Self> {
        let url = format!("ws://{addr}/ws?{query}");
        let (socket, _response) = tungstenite::client(url, connect(addr)).ok()?;
        Some(Self(socket).greeted(query))
    }

    /// Opens `/ws`, and reads the greeting and the answer for each channel of the query.
    pub(crate) fn subscribed(addr: SocketAddr, query: &str) -> Self {
        Self::open(addr, query).greeted(query)
    }

    fn greeted(mut self, query: &str) -> Self {
        assert_eq!(self.json()["type"], "welcome");
        for _ in query.matches("channel=") {
            assert_eq!(self.json()["type"], "subscribed");
        }
        self
    }

    /// Reads the next data message. The client library answers pings in between.
    pub(crate) fn message(&mut self) -> Message {
        loop {
            match self.0.read().unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// Reads the next message as JSON.
    pub(crate) fn json(&mut self) -> Value {
        match self.message() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("not a text message: {other:?}"),
        }
    }

    /// Reads the next message, which must be a publication.
    pub(crate) fn publication(&mut self) -> Value {
        let value = self.json();
        assert!(value.get("type").is_none(), "not a publication: {value}");
        value
    }

    /// Sends a command.
    pub(crate) fn send(&mut self, command: &Value) {
        self.0.send(Message::text(command.to_string())).unwrap();
    }

    /// Sends bytes unchanged, without the client library's checks.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Reads up to the close frame. Returns its code and reason.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(frame))) => {
                    return (CloseCode::into(frame.code), frame.reason.to_string());
                }
                Ok(Message::Close(None)) => return (1005, String::new()),
                Ok(_) => {}
                Err(Error::ConnectionClosed) => panic!("closed without a close frame"),
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }
}

/// Returns a client's frame with this first byte, masked with zeros, and a payload of any length.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    if payload.len() < 126 {
        bytes.push(0x80 | u8::try_from(payload.len()).unwrap());
    } else if let Ok(length) = u16::try_from(payload.len()) {
        bytes.push(0x80 | 126);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(0x80 | 127);
        bytes.extend((payload.len() as u64).to_be_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}
