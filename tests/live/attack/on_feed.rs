//! Attacks by feeders that send too much, or that stop in the middle of a message.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::attacked::{AttackedServer, CostLimit, await_count, whole};
use super::{KIB, MIB, MS, scaled};
use crate::support::{Feeder, within};

/// Connects this many feeders. Each feeder sends these bytes and nothing more.
fn feeders(count: usize, attacked: &AttackedServer, sent: &[u8]) -> Vec<UnixStream> {
    let feeder = |_| {
        let mut stream = UnixStream::connect(&attacked.server.feed).unwrap();
        stream.write_all(sent).unwrap();
        stream
    };
    (0..count).map(feeder).collect()
}

#[test]
fn feeders_that_stop_in_mid_line_delay_no_other_feeder() {
    let mut attacked = AttackedServer::of("feeders in mid-line", "");
    let each = scaled(20).min(400);
    let post = b"POST /publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc";
    let silent = [&br#"{"channel":"a","da"#[..], b"", &post[..30], post]
        .map(|sent| feeders(each / 2, &attacked, sent));
    await_count(&attacked.server, "fanfare_feeders", 1 + 2 * each);
    let mut feeder = Feeder::connect(&attacked.server.feed);
    for number in 0..100 {
        feeder.publish("b", number);
    }
    attacked.check_cost(CostLimit {
        held: 2 * each,
        bytes_each: 16 * KIB,
        acts: 2 * each,
        cpu_each: 10 * MS,
    });
    drop((silent, feeder));
    attacked.finish();
}

#[test]
fn feeders_beyond_the_limit_are_refused() {
    const FEEDERS: usize = 1023;
    let mut attacked = AttackedServer::of("too many feeders", "");
    let mut kept = feeders(FEEDERS, &attacked, b"");
    await_count(&attacked.server, "fanfare_feeders", 1 + FEEDERS);
    for number in 1..=scaled(50) {
        let mut stream = UnixStream::connect(&attacked.server.feed).unwrap();
        let mut sent = Vec::new();
        let _ = stream.read_to_end(&mut sent);
        await_count(&attacked.server, "fanfare_feeders_refused_total", number);
    }
    attacked.check_cost(CostLimit {
        held: FEEDERS,
        bytes_each: 16 * KIB,
        acts: FEEDERS + scaled(50),
        cpu_each: 5 * MS,
    });
    // A feeder that was connected before the attack is still served.
    kept[500].write_all(b"{}\n").unwrap();
    let mut answer = [0; 13];
    kept[500].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"{\"ok\":false,\"");
    drop(kept);
    attacked.finish();
}

#[test]
fn lines_without_end_are_refused() {
    let mut attacked = AttackedServer::of("lines without end", "");
    let feed = attacked.server.feed.clone();
    let count = scaled(8);
    let piece = vec![b'x'; 65_536];
    for number in 0..count {
        let mut giant = UnixStream::connect(&feed).unwrap();
        giant.write_all(b"{\"channel\":\"a\",\"text\":\"").unwrap();
        let mut taken = 0;
        // After its answer the server still reads for a while, because an immediate close could
        // lose the answer. Then the server closes the connection.
        while taken < 64 * MIB {
            let Ok(count) = giant.write(&piece) else {
                break;
            };
            taken += count as u64;
        }
        let mut answer = String::new();
        let _ = giant.shutdown(Shutdown::Write);
        giant.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"ok\":false,\"line\":1,"), "{answer}");
        await_count(&attacked.server, "fanfare_feed_errors_total", number + 1);
    }
    attacked.check_cost(CostLimit {
        held: 1,
        // The buffer for a line of 1 MiB grows by doubling. The allocator keeps some memory of each
        // size.
        bytes_each: 12 * MIB,
        acts: count,
        cpu_each: 1000 * MS,
    });
    attacked.finish();
}

#[test]
fn unfinished_lines_of_the_longest_length_cost_their_bytes() {
    let mut attacked = AttackedServer::of("lines that just fit", "");
    let mut line = b"{\"channel\":\"a\",\"text\":\"".to_vec();
    line.resize(1 << 20, b'x');
    let held = feeders(scaled(8), &attacked, &line);
    within("all is read", || {
        let read = whole(attacked.server.metric("fanfare_feed_received_bytes_total"));
        (read >= held.len() * line.len()).then_some(())
    });
    // Buffers grow by doubling. While a buffer grows, the old one and the new one both exist.
    attacked.check_cost(CostLimit {
        held: held.len(),
        bytes_each: 3 * MIB,
        acts: held.len(),
        cpu_each: 200 * MS,
    });
    drop(held);
    attacked.finish();
}
