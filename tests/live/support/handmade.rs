//! WebSocket clients that write their own bytes, for data that no library sends: handshakes that
//! are followed by nothing, arbitrary compressed messages, and ends without a close frame.

use std::io::{BufReader, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use socket2::SockRef;

use super::raw::{Raw, connect};

/// Returns the request head that opens a WebSocket.
pub(crate) fn handshake(query: &str) -> Vec<u8> {
    handshake_with(query, "")
}

fn handshake_with(query: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         {fields}\r\n"
    )
    .into_bytes()
}

/// Sends a WebSocket handshake and reads nothing.
pub(crate) fn upgrade(addr: SocketAddr, query: &str) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(&handshake(query)).unwrap();
    stream
}

/// Opens a WebSocket. Frames that arrive together with the response's head may be lost.
pub(crate) fn upgraded(addr: SocketAddr, query: &str) -> TcpStream {
    let mut stream = BufReader::new(upgrade(addr, query));
    assert_eq!(Raw::read(&mut stream).status, 101);
    stream.into_inner()
}

/// Opens a WebSocket with permessage-deflate, and reads up to the end of the response's head.
pub(crate) fn deflating(addr: SocketAddr, query: &str) -> TcpStream {
    deflating_over(connect(addr), query)
}

/// Opens a WebSocket with permessage-deflate over an open connection.
pub(crate) fn deflating_over(mut stream: TcpStream, query: &str) -> TcpStream {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    stream.write_all(&handshake_with(query, offer)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains(
        "\r\nSec-WebSocket-Extensions: permessage-deflate; \
         server_no_context_takeover; client_no_context_takeover\r\n"
    ));
    stream
}

/// Compresses a message as permessage-deflate requires (RFC 7692, 7.2.1).
pub(crate) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut engine = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() + 64);
    let flushed = engine.compress_vec(message, &mut out, FlushCompress::Sync);
    assert!(flushed.is_ok());
    out.truncate(out.len() - 4);
    out
}

/// Closes a connection with RST instead of FIN.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// Whether the server has closed a connection. Reads and discards received bytes.
pub(crate) fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Reads to the end of the stream, and checks that the server sent nothing.
pub(crate) fn assert_ends_silently(mut stream: impl Read) {
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(received.is_empty(), "{}", received.escape_ascii());
}
