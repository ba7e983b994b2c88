//! permessage-deflate: negotiation, one frame shared by all subscribers, malformed data, and
//! decompression bombs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};

use crate::support::handmade::{deflate, deflating};
use crate::support::raw::connect;
use crate::support::socket::frame;
use crate::support::{Feeder, Server, Socket};

const ENABLED: &str = "[deflate]\nenabled = true\n";

/// Reads the next frame. Returns its first byte and its payload.
fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut start = [0; 2];
    stream.read_exact(&mut start).unwrap();
    let length = match start[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    (start[0], payload)
}

/// Skips frames up to the close frame. Returns its code.
fn closed(stream: &mut TcpStream) -> u16 {
    loop {
        let (first, payload) = read_frame(stream);
        if first == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

fn inflate(compressed: &[u8]) -> Vec<u8> {
    let whole = [compressed, &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(1 << 20);
    let flushed = Decompress::new(false).decompress_vec(&whole, &mut out, FlushDecompress::Sync);
    assert!(flushed.is_ok());
    out
}

#[test]
fn publication_is_compressed_once_and_reaches_clients_with_and_without_it() {
    let server = Server::with(ENABLED, &[]);
    let mut deflated: Vec<TcpStream> = (0..8)
        .map(|_| deflating(server.addr, "channel=a"))
        .collect();
    let mut plain = Socket::subscribed(server.addr, "channel=a");
    server.await_metric("fanfare_subscribers", 9.0);
    let mut feeder = Feeder::connect(&server.feed);
    let data = json!({"rows": vec!["a row like any other"; 200]});
    let id = feeder.publish("a", data.clone());
    let short = feeder.publish("a", 1);
    assert_eq!(plain.publication()["data"], data);
    let mut frames = Vec::new();
    for stream in &mut deflated {
        // Messages for one connection are not compressed.
        for kind in ["welcome", "subscribed"] {
            let (first, payload) = read_frame(stream);
            let value: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!((first, &value["type"]), (0x81, &json!(kind)));
        }
        let (first, compressed) = read_frame(stream);
        assert_eq!(first, 0xc1);
        let value: Value = serde_json::from_slice(&inflate(&compressed)).unwrap();
        assert_eq!(value["id"], id.as_str());
        assert_eq!(value["data"], data);
        frames.push(compressed);
        let (first, payload) = read_frame(stream);
        let value: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((first, &value["id"]), (0x81, &json!(short)));
    }
    assert!(frames[0].len() * 10 < data.to_string().len());
    assert!(frames.iter().all(|frame| *frame == frames[0]));
    server.await_metric("fanfare_frames_deflated_total", 1.0);
}

#[test]
fn compression_is_off_by_default() {
    let server = Server::start();
    let mut stream = connect(server.addr);
    stream
        .write_all(
            b"GET /ws?channel=a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
            Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        )
        .unwrap();
    let mut head = vec![0; 400];
    let count = stream.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..count]).to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    stream.write_all(&frame(0xc1, &deflate(b"{}"))).unwrap();
    server.await_metric("fanfare_conns_closed_total{reason=\"protocol_error\"}", 1.0);
}

#[test]
fn broken_messages_and_bombs_are_refused_with_their_codes() {
    let server = Server::with(ENABLED, &["--workers", "1"]);
    let bomb = deflate(&vec![0; 32 << 20]);
    assert!(bomb.len() < 33_000, "a thousand to one");
    let bomb_in_text = deflate(&b"x".repeat(32 << 20));
    let mut stream = deflating(server.addr, "channel=a");
    stream.write_all(&frame(0xc1, b"\xff\xff")).unwrap();
    assert_eq!(closed(&mut stream), 1007);
    for query in ["channel=a", "channel=a&envelope=data"] {
        for _ in 0..3 {
            let mut stream = deflating(server.addr, query);
            stream.write_all(&frame(0xc2, &bomb)).unwrap();
            assert_eq!(closed(&mut stream), 1009);
            let mut stream = deflating(server.addr, query);
            let (start, end) = bomb_in_text.split_at(10_000);
            stream.write_all(&frame(0x41, start)).unwrap();
            stream.write_all(&frame(0x80, end)).unwrap();
            assert_eq!(closed(&mut stream), 1009);
        }
    }
    drop(stream);
    let closed = |reason| format!("fanfare_conns_closed_total{{reason=\"{reason}\"}}");
    server.await_metric(&closed("message_too_big"), 12.0);
    server.await_metric(&closed("invalid_deflate"), 1.0);
}
