//! Feeders that send too much, or stop in the middle.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::attacked::{Price, Siege, await_count, whole};
use super::{KIB, MIB, MS, scaled};
use crate::support::{Feeder, within};

/// Feeders that have sent this and send no more.
fn feeders(count: usize, siege: &Siege, said: &[u8]) -> Vec<UnixStream> {
    let feeder = |_| {
        let mut stream = UnixStream::connect(&siege.server.feed).unwrap();
        stream.write_all(said).unwrap();
        stream
    };
    (0..count).map(feeder).collect()
}

#[test]
fn feeders_that_stop_in_the_middle_hold_up_nobody() {
    let mut siege = Siege::of("feeders in mid-line", "");
    let each = scaled(20).min(400);
    let post = b"POST /publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc";
    let silent = [&br#"{"channel":"a","da"#[..], b"", &post[..30], post]
        .map(|said| feeders(each / 2, &siege, said));
    await_count(&siege.server, "fanfare_feeders", 1 + 2 * each);
    let mut feeder = Feeder::connect(&siege.server.feed);
    for number in 0..100 {
        feeder.publish("b", number);
    }
    siege.weigh(Price {
        held: 2 * each,
        bytes_each: 16 * KIB,
        acts: 2 * each,
        cpu_each: 10 * MS,
    });
    drop((silent, feeder));
    siege.end();
}

#[test]
fn feeders_beyond_their_number_are_refused() {
    const FEEDERS: usize = 1023;
    let mut siege = Siege::of("too many feeders", "");
    let mut kept = feeders(FEEDERS, &siege, b"");
    await_count(&siege.server, "fanfare_feeders", 1 + FEEDERS);
    for number in 1..=scaled(50) {
        let mut stream = UnixStream::connect(&siege.server.feed).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        await_count(&siege.server, "fanfare_feeders_refused_total", number);
    }
    siege.weigh(Price {
        held: FEEDERS,
        bytes_each: 16 * KIB,
        acts: FEEDERS + scaled(50),
        cpu_each: 5 * MS,
    });
    // One that was there is still heard.
    kept[500].write_all(b"{}\n").unwrap();
    let mut answer = [0; 13];
    kept[500].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"{\"ok\":false,\"");
    drop(kept);
    siege.end();
}

#[test]
fn lines_without_end_are_refused() {
    let mut siege = Siege::of("lines without end", "");
    let feed = siege.server.feed.clone();
    let count = scaled(8);
    let piece = vec![b'x'; 65_536];
    for number in 0..count {
        let mut giant = UnixStream::connect(&feed).unwrap();
        giant.write_all(b"{\"channel\":\"a\",\"text\":\"").unwrap();
        let mut taken = 0;
        // The server reads on for a while so that its answer is not lost, and then hangs up.
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
        await_count(&siege.server, "fanfare_feed_errors_total", number + 1);
    }
    siege.weigh(Price {
        held: 1,
        // A line of 1 MiB grows by doubling, and the allocator keeps some of each size.
        bytes_each: 12 * MIB,
        acts: count,
        cpu_each: 1000 * MS,
    });
    siege.end();
}

#[test]
fn lines_that_just_fit_and_do_not_end_cost_their_bytes() {
    let mut siege = Siege::of("lines that just fit", "");
    let mut line = b"{\"channel\":\"a\",\"text\":\"".to_vec();
    line.resize(1 << 20, b'x');
    let held = feeders(scaled(8), &siege, &line);
    within("all is read", || {
        let read = whole(siege.server.metric("fanfare_feed_received_bytes_total"));
        (read >= held.len() * line.len()).then_some(())
    });
    // What grows does so by doubling, with the old beside the new.
    siege.weigh(Price {
        held: held.len(),
        bytes_each: 3 * MIB,
        acts: held.len(),
        cpu_each: 200 * MS,
    });
    drop(held);
    siege.end();
}
