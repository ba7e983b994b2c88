//! Attacks by clients on the real binary: clients send too much, or do not send what is expected.
//!
//! During each attack, well-behaved clients must receive everything, in order and in time. Each
//! attack has a limit on its cost. After each attack, the server must have freed everything. With
//! `--nocapture` each attack prints its cost on one line. `FANFARE_ATTACK_SCALE=20` multiplies the
//! attackers by 20. The attacks then have 5,000 slow heads and a million channel names.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::attacked::{
    AttackedServer, CostLimit, await_closed, await_count, closed, connects, whole,
};
use super::flood::{Answers, FLOOD, Flood};
use super::on_tls::client_hello;
use super::{KIB, MS, SMALL_CONN_BYTES, scaled};
use crate::support::handmade::{
    deflate, deflating, handshake, has_ended, reset, upgrade, upgraded,
};
use crate::support::raw::{connect, connect_from, connect_small};
use crate::support::secure::{Certificate, secured, tls_addr};
use crate::support::socket::frame;
use crate::support::{Feeder, Raw, Server, Socket, within};

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sleeps between two steps of a slow attack.
fn sleep_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

// -- Requests.

#[test]
fn slow_heads_are_answered_in_time() {
    let mut attacked = AttackedServer::of("slow heads", "[limits]\nrequest_head_ms = 4000\n");
    let mut slow = connects(scaled(250), attacked.server.addr);
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nX-A: ").unwrap();
    }
    for second in 1..=5 {
        sleep_ms(1000);
        for mut stream in &slow {
            // On a busy machine some streams may have been closed already.
            let _ = stream.write(b"a");
        }
        if second == 2 {
            await_count(&attacked.server, "fanfare_conns_pending", slow.len());
        }
    }
    attacked.check_cost(CostLimit {
        held: slow.len(),
        bytes_each: SMALL_CONN_BYTES,
        acts: slow.len(),
        cpu_each: 10 * MS,
    });
    let count = slow.len();
    for mut stream in slow {
        let mut answer = Vec::new();
        // The connection may end with a reset, because the server did not read the last bytes.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    await_count(&attacked.server, &closed("head_timeout"), count);
    attacked.finish();
}

#[test]
fn requests_without_end_from_clients_that_do_not_read_are_held_back() {
    let mut attacked = AttackedServer::of("unread answers", "");
    let count = scaled(8);
    let streams = connects(count, attacked.server.addr);
    let flood = Flood::start(streams, HEAD.repeat(100), FLOOD_BYTES, Answers::Left);
    let blocked = || attacked.server.metric("fanfare_writes_blocked_total");
    within("the server is blocked", || (blocked() > 0.5).then_some(()));
    sleep_ms(1000);
    let acts = requests(&attacked.server);
    attacked.check_cost(CostLimit {
        held: count,
        bytes_each: 128 * KIB,
        acts,
        cpu_each: MS,
    });
    // The test now reads from one of the flood's connections. The server must have answered each
    // request on it.
    let mut streams = flood.stop();
    let patient = streams.pop().unwrap();
    patient.set_nonblocking(false).unwrap();
    let mut patient = BufReader::new(patient);
    for _ in 0..300 {
        assert_eq!(Raw::read(&mut patient).status, 200);
    }
    drop((patient, streams));
    attacked.finish();
}

fn requests(server: &Server) -> usize {
    whole(server.metric("fanfare_requests_total"))
}

#[test]
fn bad_tokens_cost_their_signatures_and_do_not_delay_bystanders() {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens");
    let config = format!(
        "[auth]\nkeys = [\"ES256 {}\"]\n\
         [[namespace]]\nmatch = \"bystanders\"\nanonymous_subscribe = true\n",
        keys.join("es256.pem").display()
    );
    let mut attacked = AttackedServer::of("bad tokens", &config);
    let mut token = fs::read(keys.join("es256.jwt")).unwrap();
    token.truncate(token.trim_ascii_end().len());
    // Changes a character in the middle of the signature, so that the token is well-formed but the
    // signature is wrong.
    let at = token.len() - 40;
    token[at] = if token[at] == b'A' { b'B' } else { b'A' };
    let token = String::from_utf8(token).unwrap();
    let request =
        format!("GET /poll?channel=a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    let command = json!({"type": "auth", "token": token}).to_string();
    let (addr, count, rounds) = (attacked.server.addr, scaled(100), 5);
    for _ in 0..rounds {
        // A conn can send only one wrong token, so each token has a new conn. All tokens are sent
        // at the same time.
        let mut requests = connects(count, addr);
        let mut commands: Vec<_> = (0..count).map(|_| upgraded(addr, "")).collect();
        for stream in &mut requests {
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in &mut commands {
            stream.write_all(&frame(0x81, command.as_bytes())).unwrap();
        }
        await_closed(&mut requests);
        await_closed(&mut commands);
    }
    let refused = "fanfare_tokens_total{outcome=\"refused\"}";
    await_count(&attacked.server, refused, 2 * rounds * count);
    attacked.check_cost(CostLimit {
        held: 2 * count,
        bytes_each: SMALL_CONN_BYTES,
        acts: 2 * rounds * count,
        cpu_each: 10 * MS,
    });
    attacked.finish();
}

// -- Conns.

#[test]
fn short_conns_leave_nothing() {
    let mut attacked = AttackedServer::of("connect flood", "");
    let count = scaled(2000);
    let addr = attacked.server.addr;
    let flood = |octet: u8| {
        thread::spawn(move || {
            for number in 0..count / 2 {
                // The connections come from many addresses, because one address has too few ports.
                let source = octet + u8::try_from(number % 100).unwrap();
                let mut stream = connect_from(source, addr);
                match number % 4 {
                    0 => drop(stream),
                    1 => reset(stream),
                    2 => stream.write_all(b"GET / HT").unwrap(),
                    _ => stream.write_all(HEAD).unwrap(),
                }
            }
        })
    };
    for thread in [flood(2), flood(102)] {
        thread.join().unwrap();
    }
    await_count(&attacked.server, "fanfare_conns", 2);
    attacked.check_cost(CostLimit {
        held: count,
        bytes_each: SMALL_CONN_BYTES,
        acts: count,
        cpu_each: 5 * MS,
    });
    attacked.finish();
}

#[test]
fn silent_conns_beyond_the_limit_make_room_for_requests() {
    let most = scaled(100);
    let config = format!("[limits]\npending_conns = {most}\n");
    let mut attacked = AttackedServer::of("silent conns", &config);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.extend(connects(most / 2, attacked.server.addr));
        assert_eq!(Raw::get(attacked.server.addr, "/").status, 200);
        assert!(whole(attacked.server.metric("fanfare_conns_pending")) <= most);
    }
    within("conns beyond the limit are closed", || {
        let gone = whole(attacked.server.metric(&closed("crowded_out")));
        (gone >= silent.len() - most).then_some(())
    });
    attacked.check_cost(CostLimit {
        held: most,
        bytes_each: SMALL_CONN_BYTES,
        acts: silent.len(),
        cpu_each: 10 * MS,
    });
    drop(silent);
    attacked.finish();
}

#[test]
fn conns_of_vanished_peers_are_closed() {
    let config = "[heartbeat]\ninterval_ms = 1000\n[log]\nbytes = 4194304\n";
    let mut attacked = AttackedServer::of("half-open conns", config);
    let addr = attacked.server.addr;
    let each = scaled(60);
    let mut gone = Vec::new();
    for _ in 0..each {
        gone.push(upgrade(addr, "channel=quiet"));
        // The server has data for these clients, but the clients do not read it.
        let mut stream = connect_small(addr);
        stream
            .write_all(b"GET /sse?channel=busy HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        gone.push(stream);
    }
    await_count(&attacked.server, "fanfare_subscribers", 2 + gone.len());
    let mut feeder = Feeder::connect(&attacked.server.feed);
    let name = closed("idle");
    within("all are closed", || {
        feeder.publish("busy", "x".repeat(8000));
        (whole(attacked.server.metric(&name)) == gone.len()).then_some(())
    });
    attacked.check_cost(CostLimit {
        held: gone.len(),
        bytes_each: SMALL_CONN_BYTES,
        acts: gone.len(),
        cpu_each: 40 * MS,
    });
    await_count(&attacked.server, "fanfare_conns", 2);
    drop((gone, feeder));
    attacked.finish();
}

#[test]
fn readers_of_single_bytes_do_not_delay_bystanders() {
    let config = "[log]\nbytes = 4194304\n[quota]\nsend_buffer_bytes = 16384\n";
    let mut attacked = AttackedServer::of("readers of single bytes", config);
    let addr = attacked.server.addr;
    let mut slow = Vec::new();
    for number in 0..scaled(40) {
        let mut stream = connect_small(addr);
        let head = match number % 2 {
            0 => handshake("channel=busy"),
            _ => b"GET /sse?channel=busy HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        };
        stream.write_all(&head).unwrap();
        stream.set_nonblocking(true).unwrap();
        slow.push(stream);
    }
    await_count(&attacked.server, "fanfare_subscribers", 2 + slow.len());
    let mut feeder = Feeder::connect(&attacked.server.feed);
    let (start, mut published) = (Instant::now(), 0);
    while start.elapsed() < 2 * FLOOD {
        feeder.publish("busy", "x".repeat(4000));
        published += 1;
        for stream in &mut slow {
            let _ = stream.read(&mut [0]);
        }
    }
    assert!(attacked.server.metric("fanfare_publications_skipped_total") > 0.0);
    // The limit allows for a full log that stores a frame of each kind for each publication.
    attacked.check_cost(CostLimit {
        held: slow.len(),
        bytes_each: 8 * KIB,
        acts: published * slow.len(),
        cpu_each: MS / 5,
    });
    drop((slow, feeder));
    attacked.finish();
}

#[test]
fn resets_at_every_stage_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let server = Server::with(&certificate.config(), &["--listen", "127.0.0.1:0 tls"]);
    let (addr, secure) = (server.addr, tls_addr(&server));
    let mut attacked = AttackedServer::with("resets", server);
    let mut feeder = Feeder::connect(&attacked.server.feed);
    let hello = client_hello(&certificate);
    let rounds = scaled(50);
    for _ in 0..rounds {
        let send = |to: SocketAddr, bytes: &[u8]| {
            let mut stream = connect(to);
            stream.write_all(bytes).unwrap();
            reset(stream);
        };
        reset(connect(addr));
        send(addr, b"GET /ws?chan");
        send(addr, b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n");
        reset(upgrade(addr, "channel=a"));
        let mut in_frame = upgraded(addr, "channel=a");
        in_frame
            .write_all(&frame(0x81, b"half of it")[..9])
            .unwrap();
        let while_published = upgraded(addr, "channel=a");
        feeder.send(&json!({"channel": "a", "text": "x".repeat(3000)}));
        reset(while_published);
        reset(in_frame);
        reset(connect(secure));
        send(secure, &hello[..hello.len() / 2]);
        send(secure, &hello);
        let mut connected = secured(secure, &certificate.trusting());
        connected.conn.complete_io(&mut connected.sock).unwrap();
        reset(connected.sock);
    }
    await_count(&attacked.server, "fanfare_conns", 2);
    attacked.check_cost(CostLimit {
        held: 0,
        bytes_each: 0,
        acts: 10 * rounds,
        cpu_each: 10 * MS,
    });
    drop(feeder);
    attacked.finish();
}

fn descriptors_run_out(name: &'static str, workers: &str) {
    let server = Server::with("[limits]\nconns = 100000\n", &["--workers", workers]);
    let mut attacked = AttackedServer::with(name, server);
    let (addr, process) = (attacked.server.addr, attacked.server.process());
    let limit = process.descriptors_max() + 12;
    process.limit_descriptors(limit);
    // The number is bounded, because the kernel drops connections for which the backlog has no
    // room.
    let mut excess = connects(scaled(150).min(3000), addr);
    within("a conn is turned away", || {
        excess.iter_mut().any(has_ended).then_some(())
    });
    let share = process.cpu_share(Duration::from_secs(1), || sleep_ms(20));
    assert!(share < 0.6, "{share} of a processor");
    assert!(process.descriptors_max() <= limit);
    attacked.check_cost(CostLimit {
        held: excess.len(),
        bytes_each: SMALL_CONN_BYTES,
        acts: excess.len(),
        cpu_each: 5 * MS,
    });
    drop(excess);
    let start = Instant::now();
    // As long as older connections are in the backlog, the server also refuses new conns.
    let fresh = within("a new conn is served", || {
        Socket::try_subscribed(addr, "channel=a")
    });
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    drop(fresh);
    assert!(
        attacked
            .server
            .metric("fanfare_descriptors_exhausted_total")
            >= 2.0
    );
    attacked.finish();
}

#[test]
fn descriptors_of_one_worker_run_out_without_harm() {
    descriptors_run_out("no descriptors, 1 worker", "1");
}

#[test]
fn descriptors_of_two_workers_run_out_without_harm() {
    descriptors_run_out("no descriptors, 2 workers", "2");
}

// -- Frames.

/// The number of bytes that the clients of a flood send.
const FLOOD_BYTES: usize = 16 << 20;

/// The settings of a flood of frames.
struct Frames<'a> {
    config: &'a str,
    open: Open,
    frames: &'a [u8],
    bytes_max: usize,
    cpu_each: Duration,
}

impl Default for Frames<'_> {
    fn default() -> Self {
        Self {
            config: "",
            open: upgraded,
            frames: b"",
            bytes_max: FLOOD_BYTES,
            cpu_each: MS / 5,
        }
    }
}

/// Runs a flood of frames. Half of the clients read nothing.
fn flood_of_frames(name: &'static str, what: &Frames<'_>) {
    let mut attacked = AttackedServer::of(name, what.config);
    let count = scaled(8);
    let open = |query| {
        let streams = (0..count).map(|_| (what.open)(attacked.server.addr, query));
        streams.collect::<Vec<_>>()
    };
    let (reading, not_reading) = (open("channel=a"), open("channel=b"));
    let flood =
        |streams, answers| Flood::start(streams, what.frames.to_vec(), what.bytes_max, answers);
    let floods = [
        flood(reading, Answers::Taken),
        flood(not_reading, Answers::Left),
    ];
    let acts = || whole(attacked.server.metric("fanfare_client_frames_total"));
    let start = Instant::now();
    within("a flood", || {
        (start.elapsed() > FLOOD && acts() > 1000).then_some(())
    });
    let acts = acts();
    // For each client, the server stores at most 256 KiB that the client has not read, and a
    // message of 64 KiB. Buffers grow by doubling.
    attacked.check_cost(CostLimit {
        held: 2 * count,
        bytes_each: 512 * KIB,
        acts,
        cpu_each: what.cpu_each,
    });
    drop(floods.map(Flood::stop));
    attacked.finish();
}

type Open = fn(SocketAddr, &str) -> TcpStream;

#[test]
fn flood_of_pings_is_held_back() {
    let pings = frame(0x89, &[b'p'; 125]).repeat(50);
    flood_of_frames(
        "pings",
        &Frames {
            frames: &pings,
            ..Frames::default()
        },
    );
}

#[test]
fn flood_of_subscriptions_to_new_names_is_held_back() {
    let mut frames = Vec::new();
    for number in 0..2000 {
        for kind in ["subscribe", "unsubscribe"] {
            let command = json!({"type": kind, "channel": format!("c{number}"), "since": "x"});
            frames.extend(frame(0x81, command.to_string().as_bytes()));
        }
    }
    flood_of_frames(
        "subscribe, unsubscribe",
        &Frames {
            frames: &frames,
            ..Frames::default()
        },
    );
}

#[test]
fn flood_of_refused_commands_is_held_back() {
    let frames = frame(0x81, br#"{"type":"x"}"#).repeat(50);
    flood_of_frames(
        "refused commands",
        &Frames {
            frames: &frames,
            ..Frames::default()
        },
    );
}

#[test]
fn flood_of_empty_frames_is_held_back() {
    let mut frames = Vec::new();
    for first in [0x81, 0x82, 0x89, 0x8a] {
        frames.extend(frame(first, b""));
    }
    flood_of_frames(
        "empty frames",
        &Frames {
            frames: &frames.repeat(100),
            ..Frames::default()
        },
    );
}

#[test]
fn flood_of_pongs_is_held_back() {
    // The server does not answer pongs. So only the limit on the bytes that it reads per turn slows
    // the clients.
    flood_of_frames(
        "pongs",
        &Frames {
            frames: &frame(0x8a, b"").repeat(1000),
            ..Frames::default()
        },
    );
}

#[test]
fn flood_of_fragments_is_held_back() {
    let mut frames = frame(0x01, b"");
    frames.extend(frame(0x00, b"").repeat(10_000));
    frames.extend(frame(0x00, b" ").repeat(10_000));
    frames.extend(frame(0x80, br#"{"type":"ping"}"#));
    flood_of_frames(
        "fragments",
        &Frames {
            frames: &frames,
            ..Frames::default()
        },
    );
}

const DEFLATE: &str = "[deflate]\nenabled = true\n";

#[test]
fn flood_of_messages_that_inflate_to_the_limit_is_held_back() {
    // Each message inflates from about 80 bytes to 64 KiB, which is within the limit.
    let frames = frame(0xc2, &deflate(&vec![0; 65_536])).repeat(100);
    let open: Open = |addr, query| deflating(addr, &format!("{query}&envelope=data"));
    flood_of_frames(
        "inflated messages",
        &Frames {
            config: DEFLATE,
            open,
            frames: &frames,
            bytes_max: 250_000,
            cpu_each: 5 * MS,
        },
    );
}

#[test]
fn bombs_and_wrong_compression_bits_end_their_conns() {
    let mut attacked = AttackedServer::of("bombs and wrong bits", DEFLATE);
    let addr = attacked.server.addr;
    let bomb = deflate(&vec![0; 32 << 20]);
    let bomb_in_text = deflate(&b"x".repeat(32 << 20));
    let small = deflate(b"{}");
    let rounds = scaled(20);
    for _ in 0..rounds {
        // RSV1 is invalid without an agreed extension, and in frames where it must not be set (RFC
        // 7692, 6.1).
        let mut unagreed = upgraded(addr, "channel=a");
        unagreed.write_all(&frame(0xc1, &small)).unwrap();
        let mut streams = vec![unagreed];
        let mut send = |frames: &[&[u8]]| {
            let mut stream = deflating(addr, "channel=a");
            for frame in frames {
                // The server may have closed the connection before the last frame.
                let _ = stream.write_all(frame);
            }
            streams.push(stream);
        };
        send(&[&frame(0x41, &small), &frame(0xc0, &small)]);
        send(&[&frame(0xc9, &small)]);
        send(&[&frame(0xc8, &[0x03, 0xe8])]);
        send(&[&frame(0xa1, &small)]);
        send(&[&frame(0xd2, &small)]);
        send(&[&frame(0xc2, &bomb)]);
        let (start, end) = bomb_in_text.split_at(10_000);
        send(&[&frame(0x41, start), &frame(0x80, end)]);
        await_closed(&mut streams);
    }
    await_count(&attacked.server, &closed("protocol_error"), 6 * rounds);
    await_count(&attacked.server, &closed("message_too_big"), 2 * rounds);
    // The inflater stops at the limit, whatever the size of the complete message.
    attacked.check_cost(CostLimit {
        held: 8,
        bytes_each: 128 * KIB,
        acts: 8 * rounds,
        cpu_each: 20 * MS,
    });
    attacked.finish();
}

// -- Channels.

#[test]
fn names_of_channels_are_bounded() {
    const EACH: usize = 125;
    let most = scaled(50_000);
    let config = format!("[limits]\nchannels = {most}\n");
    let mut attacked = AttackedServer::of("names of channels", &config);
    let mut conns = Vec::new();
    let mut open = |number: usize| {
        let names: Vec<String> = (0..EACH).map(|n| format!("channel={number}:{n}")).collect();
        let mut stream = BufReader::new(upgrade(attacked.server.addr, &names.join("&")));
        let status = Raw::read(&mut stream).status;
        conns.push(stream);
        status
    };
    // The loop opens one client fewer than the limit allows, because the bystanders' channel counts
    // towards the limit, too.
    for number in 0..most / EACH - 1 {
        assert_eq!(open(number), 101);
    }
    for number in 0..20 {
        open(most + number);
    }
    let channels = whole(attacked.server.metric("fanfare_channels"));
    assert_eq!(channels, most);
    assert!(
        attacked
            .server
            .metric("fanfare_subscriptions_refused_total")
            > 0.0
    );
    // The memory limit per channel covers one subscriber, the channel's name in two places, and
    // tables whose capacity has just doubled.
    attacked.check_cost(CostLimit {
        held: most,
        bytes_each: 768,
        acts: most,
        cpu_each: MS,
    });
    drop(conns);
    await_count(&attacked.server, "fanfare_conns", 2);
    await_count(&attacked.server, "fanfare_channels", 1);
    attacked.finish();
}
