//! Attacks by TLS clients and PROXY clients that stop in the middle, send garbage, or only run
//! handshakes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use super::attacked::{AttackedServer, CostLimit, await_closed, await_count, closed, connects};
use super::{KIB, MS, SMALL_CONN_BYTES, scaled};
use crate::support::Server;
use crate::support::secure::{Certificate, secured, tls_addr};

/// Returns the first bytes of a handshake.
pub(crate) fn client_hello(certificate: &Certificate) -> Vec<u8> {
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(certificate.trusting(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Starts an attacked server with a TLS listener. One of the bystanders is on that listener.
fn attacked_tls(name: &'static str, config: &str) -> (AttackedServer, SocketAddr, Certificate) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!("{}{config}", certificate.config());
    let flags = ["--listen", "127.0.0.1:0 tls", "--workers", "1"];
    let server = Server::with(&config, &flags);
    let addr = tls_addr(&server);
    let bystander = secured(addr, &certificate.trusting());
    (
        AttackedServer::with_bystanders(name, server, vec![bystander]),
        addr,
        certificate,
    )
}

#[test]
fn flood_of_handshakes_does_not_delay_bystanders() {
    let (mut attacked, addr, certificate) = attacked_tls("TLS handshakes", "");
    let each = scaled(100);
    let run_handshakes = || {
        // Session tickets are disabled, so that every handshake is a full one.
        let mut config = (*certificate.trusting()).clone();
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        thread::spawn(move || {
            for _ in 0..each {
                let mut stream = secured(addr, &config);
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
        })
    };
    for thread in [run_handshakes(), run_handshakes(), run_handshakes()] {
        thread.join().unwrap();
    }
    await_count(
        &attacked.server,
        "fanfare_tls_handshakes_total",
        1 + 3 * each,
    );
    attacked.check_cost(CostLimit {
        held: 0,
        bytes_each: 0,
        acts: 3 * each,
        cpu_each: 50 * MS,
    });
    attacked.finish();
}

#[test]
fn unfinished_handshakes_end_in_time() {
    let (mut attacked, addr, certificate) =
        attacked_tls("half handshakes", "[limits]\nrequest_head_ms = 2500\n");
    let hello = client_hello(&certificate);
    let mut streams = Vec::new();
    for sent in [0, 1, hello.len() / 2, hello.len()] {
        for mut stream in connects(scaled(60), addr) {
            stream.write_all(&hello[..sent]).unwrap();
            streams.push(stream);
        }
    }
    await_closed(&mut streams);
    // The server stores the keys of an incomplete handshake, and the flight that the client has not
    // answered.
    attacked.check_cost(CostLimit {
        held: streams.len(),
        bytes_each: 40 * KIB,
        acts: streams.len(),
        cpu_each: 50 * MS,
    });
    attacked.finish();
}

#[test]
fn garbage_in_handshakes_ends_its_conns() {
    let (mut attacked, addr, certificate) =
        attacked_tls("TLS garbage", "[limits]\nrequest_head_ms = 1500\n");
    let hello = client_hello(&certificate);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut streams = connects(scaled(200), addr);
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut bytes = hello.clone();
        match number % 4 {
            0 => rng.fill(&mut bytes),
            1 => rng.fill(&mut bytes[5..]),
            2 => bytes[number % hello.len()] ^= 1 << rng.u8(..8),
            // The record's header announces the maximum length, but the record is never complete.
            _ => bytes[3..5].copy_from_slice(&[0x40, 0x00]),
        }
        stream.write_all(&bytes).unwrap();
    }
    await_closed(&mut streams);
    attacked.check_cost(CostLimit {
        held: streams.len(),
        bytes_each: 40 * KIB,
        acts: streams.len(),
        cpu_each: 50 * MS,
    });
    attacked.finish();
}

#[test]
fn garbage_instead_of_a_proxy_header_ends_its_conns() {
    let flags = ["--listen", "127.0.0.1:0 proxy", "--workers", "1"];
    let server = Server::with("[limits]\nrequest_head_ms = 1500\n", &flags);
    let addr = server.last_addr();
    let mut attacked = AttackedServer::with("PROXY garbage", server);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut streams = connects(scaled(250), addr);
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut bytes = match number % 5 {
            0 => b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443".to_vec(),
            1 => b"PROXY ".to_vec(),
            2 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
            3 => b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec(),
            _ => Vec::new(),
        };
        let start = bytes.len();
        bytes.resize(start + rng.usize(..400), 0);
        rng.fill(&mut bytes[start..]);
        stream.write_all(&bytes).unwrap();
    }
    await_closed(&mut streams);
    await_count(&attacked.server, &closed("bad_proxy_header"), streams.len());
    attacked.check_cost(CostLimit {
        held: streams.len(),
        bytes_each: SMALL_CONN_BYTES,
        acts: streams.len(),
        cpu_each: 5 * MS,
    });
    attacked.finish();
}
