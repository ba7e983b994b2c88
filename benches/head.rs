//! Measures the cost of parsing a request, from the bytes of its head to the parsed request.
//!
//! The requests are those that browsers send. Each connection sends at least one request, so when a
//! hundred thousand clients reconnect, this cost occurs a hundred thousand times. The bench calls
//! `http::read_request`, the only entry point of the module. The figure therefore includes routing,
//! parsing channel names, and checking upgrades.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench may panic"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use fanfare::config::Config;
use fanfare::http::{RequestRead, read_request};
use fanfare::metrics::WorkerMetrics;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

const EVENT_STREAM: &str = "GET /sse?channel=prices&channel=news HTTP/1.1\r\n\
    Host: push.example.org\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/130.0.0.0 Safari/537.36\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\
    sec-ch-ua-platform: \"Linux\"\r\nOrigin: https://example.org\r\nSec-Fetch-Site: same-site\r\n\
    Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://example.org/\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: id=0b9f7c1e5d2a4f63a8b1c0d9e8f7a6b5; theme=dark\r\n\
    Last-Event-ID: 0123456789ab-123456\r\n\r\n";

const UPGRADE: &str = "GET /ws?channel=prices HTTP/1.1\r\nHost: push.example.org\r\n\
    Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/130.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://example.org\r\n\
    Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const SHORT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// The number of requests in one read from a pipelining client.
const PIPELINED: usize = 16;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    heads(&mut criterion);
    criterion.final_summary();
}

fn heads(criterion: &mut Criterion) {
    let config = Config::default();
    let metrics = WorkerMetrics::default();
    let mut group = criterion.benchmark_group("head");
    for (name, text) in [
        ("browser_event_stream", EVENT_STREAM),
        ("browser_upgrade", UPGRADE),
        ("short", SHORT),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| read_request(black_box(text.as_bytes()), &config, DATE, &metrics));
        });
    }
    let cut = &EVENT_STREAM.as_bytes()[..EVENT_STREAM.len() - 2];
    group.bench_function("incomplete", |bencher| {
        bencher.iter(|| read_request(black_box(cut), &config, DATE, &metrics));
    });
    let pipelined = SHORT.repeat(PIPELINED);
    group.throughput(Throughput::Elements(PIPELINED as u64));
    group.bench_function("pipelined_16", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(pipelined.as_bytes());
            while let RequestRead::Request { length, .. } =
                read_request(rest, &config, DATE, &metrics)
            {
                rest = rest.get(length..).expect("within what was read");
                if rest.is_empty() {
                    break;
                }
            }
        });
    });
    group.finish();
}
