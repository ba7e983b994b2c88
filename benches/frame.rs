//! Measures the cost of encoding a publication for each transport and envelope.
//!
//! The cost of encoding does not grow with the number of subscribers, because each of the six
//! encodings is made at most once per publication. Compression costs the most. The payloads have
//! typical kinds and sizes: numbers for a chart, a chat line, a document.
#![allow(
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use fanfare::frame::{
    Compressor, Envelope, Frame, FrameKind, Payload, Publication, event_stream, websocket,
};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::time::Now;

const SIZES: [usize; 3] = [100, 4096, 65_536];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    kinds(&mut criterion);
    deflated(&mut criterion);
    criterion.final_summary();
}

fn publication(payload: Payload) -> Publication {
    let id = Cursor {
        epoch: Epoch::new(0x0123_4567_89ab),
        sequence: Sequence(123_456),
    };
    let channel = ChannelName::new("prices").unwrap();
    Publication::new(id, channel, payload, Now(0), &Arc::default())
}

fn json(bytes: usize) -> Payload {
    Payload::Json(format!("\"{}\"", "x".repeat(bytes - 2)).into())
}

/// Returns lines of 60 characters with quotes, so that the text must be escaped and split.
fn text(bytes: usize) -> Payload {
    let line = format!("{}\"\n", "y".repeat(58));
    Payload::Text(line.repeat(bytes.div_ceil(60))[..bytes].into())
}

fn bytes(count: usize) -> Payload {
    Payload::Bytes(vec![0xa5; count].into())
}

fn kinds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, payload) in [
            ("json", json(size)),
            ("text", text(size)),
            ("base64", bytes(size)),
        ] {
            let publication = publication(payload);
            for (envelope_name, envelope) in [("data", Envelope::Data), ("full", Envelope::Full)] {
                let id = |transport| {
                    BenchmarkId::new(format!("{transport}/{envelope_name}/{name}"), size)
                };
                group.bench_function(id("websocket"), |bencher| {
                    bencher.iter(|| websocket::encode(black_box(&publication), envelope));
                });
                group.bench_function(id("event_stream"), |bencher| {
                    bencher.iter(|| event_stream::encode(black_box(&publication), envelope));
                });
            }
        }
    }
    group.finish();
}

/// Returns as many records of a price feed as fit into this size.
fn records(bytes: usize) -> Payload {
    let mut random = fastrand::Rng::with_seed(1);
    let mut text = String::from("[");
    while text.len() + 70 < bytes {
        let symbol = ["EURUSD", "GBPUSD", "USDJPY", "AUDNZD"][random.usize(0..4)];
        let (bid, spread) = (random.u32(9000..12_000), random.u32(1..40));
        let ask = bid + spread;
        let time = 1_700_000_000 + random.u64(0..10_000);
        text.push_str(&format!(
            "{{\"symbol\":\"{symbol}\",\"bid\":{bid},\"ask\":{ask},\"time\":{time}}},"
        ));
    }
    text.push_str("0]");
    Payload::Json(text.into())
}

fn deflated(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/records");
    let mut compressor = Compressor::default();
    for size in [400, 1024, 4096, 65_536] {
        let payload = records(size);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        for (name, kind) in [
            ("websocket", FrameKind::WebSocket(Envelope::Full)),
            ("deflated", FrameKind::WebSocketDeflated(Envelope::Full)),
        ] {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_batched_ref(
                    || publication(payload.clone()),
                    |publication| {
                        let frames = publication.frames();
                        let frame = frames.encode(publication, kind, &mut compressor);
                        frame.map(Frame::bytes_held)
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}
