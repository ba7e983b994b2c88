//! Readers that stop in the middle of a publication, or near its end. The server must keep such a
//! publication in memory, even when it has left the log. On every transport, `pinned_bytes` limits
//! this memory.

use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::support::handmade::{deflating_over, handshake};
use crate::support::raw::connect_small;
use crate::support::secure::{Certificate, secured_over, tls_addr};
use crate::support::{Feeder, Server, Socket, within};

const READERS: u32 = 24;
const PUBLICATION: usize = 300_000;
const LOG: f64 = 1_048_576.0;
const PINNED: f64 = 700_000.0;
const CONFIG: &str = "[log]\nbytes = 1048576\npinned_bytes = 700000\n[deflate]\nenabled = true\n";

type Reader = Box<dyn Read>;

/// Returns text that hardly compresses.
fn noise(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.alphanumeric())
        .take(PUBLICATION)
        .collect()
}

/// Opens the readers. Each publication is read in part by one reader, which then stops reading.
fn stall(server: &Server, open: impl Fn(&str) -> Reader) -> Vec<Reader> {
    let channels = (0..READERS).map(|number| format!("c{number}"));
    let readers: Vec<Reader> = channels.map(|channel| open(&channel)).collect();
    let mut healthy = Socket::subscribed(server.addr, "channel=healthy");
    server.await_metric("fanfare_subscribers", f64::from(READERS) + 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..READERS {
        feeder.publish(&format!("c{number}"), noise(number.into()));
    }
    assert_bounded(server);
    let id = feeder.publish("healthy", 1);
    assert_eq!(healthy.publication()["id"], id.as_str());
    readers
}

/// Checks that most readers are closed. For the other readers, the server may keep publications
/// that have left the log. They must take no more memory than `pinned_bytes`.
fn assert_bounded(server: &Server) {
    let closed = "fanfare_conns_closed_total{reason=\"overflow\"}";
    within("conns are closed", || {
        (server.metric(closed) >= f64::from(READERS - 8)).then_some(())
    });
    within("what is pinned is within its bound", || {
        (server.metric("fanfare_publication_pinned_bytes") <= PINNED).then_some(())
    });
    let held = server.metric("fanfare_publication_bytes");
    // The log first evicts old publications, then appends a new one, then encodes it. Therefore the
    // limit allows for one more publication.
    let most = LOG + PINNED + 2.5 * f64::from(u32::try_from(PUBLICATION).unwrap());
    assert!(held <= most, "{held} bytes of publications");
    let log = fs::read_to_string(server.feed.parent().unwrap().join("stderr.txt")).unwrap();
    assert!(
        log.contains("evicted publications in memory (log.pinned_bytes)"),
        "{log}"
    );
    let open = server.metric("fanfare_conns");
    assert!(open >= 2.0, "{open}: some readers have room");
}

#[test]
fn websockets_stopped_in_mid_frame_pin_no_more_than_the_bound() {
    let server = Server::with(CONFIG, &[]);
    stall(&server, |channel| {
        let mut stream = connect_small(server.addr);
        let query = format!("channel={channel}");
        stream.write_all(&handshake(&query)).unwrap();
        Box::new(stream)
    });
}

#[test]
fn compressed_frames_are_bounded_like_plain_ones() {
    let server = Server::with(CONFIG, &[]);
    stall(&server, |channel| {
        let query = format!("channel={channel}");
        Box::new(deflating_over(connect_small(server.addr), &query))
    });
}

#[test]
fn event_streams_stopped_in_mid_frame_pin_no_more_than_the_bound() {
    let server = Server::with(CONFIG, &[]);
    stall(&server, |channel| {
        let mut stream = connect_small(server.addr);
        let request = format!("GET /sse?channel={channel} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Box::new(stream)
    });
}

#[test]
fn tls_streams_stopped_in_mid_frame_pin_no_more_than_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!("{CONFIG}{}", certificate.config());
    let tls = ["--listen", "127.0.0.1:0 tls"];
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &tls).unwrap();
    stall(&server, |channel| {
        let stream = connect_small(tls_addr(&server));
        let mut stream = secured_over(stream, &certificate.trusting());
        let request = format!("GET /sse?channel={channel} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        Box::new(stream)
    });
}

#[test]
fn polls_with_unread_answers_pin_no_more_than_the_bound() {
    let server = Server::with(CONFIG, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut since = feeder.publish("c", 0);
    let mut readers: Vec<TcpStream> = Vec::new();
    for number in 0..READERS {
        let id = feeder.publish("c", noise(number.into()));
        let mut stream = connect_small(server.addr);
        let request = format!("GET /poll?channel=c&since={since} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        // Reads a part of the answer, because the server fixes the answer's content when it sends
        // the first byte.
        stream.read_exact(&mut [0; 12]).unwrap();
        readers.push(stream);
        since = id;
    }
    assert_bounded(&server);
}

#[test]
fn reader_of_a_few_bytes_at_a_time_is_bounded_too() {
    let server = Server::with(CONFIG, &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut readers: Vec<TcpStream> = Vec::new();
    for number in 0..READERS {
        let mut stream = connect_small(server.addr);
        let request = format!("GET /sse?channel=c{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        readers.push(stream);
        let publication = json!({
            "channel": format!("c{number}"), "text": noise(number.into()), "ack": true,
        });
        feeder.send(&publication);
        assert_eq!(feeder.answer()["subscribers"], 1);
        for reader in &mut readers {
            // The server has already closed the oldest readers.
            let _ = reader.read(&mut [0; 64]);
        }
    }
    assert_bounded(&server);
}
