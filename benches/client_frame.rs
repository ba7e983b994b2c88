//! Measures the cost of reading a client's frames: header, unmasking, UTF-8 validation, command.
//!
//! The inputs are a command of 100 bytes, a compressed command of 400 bytes, a message of 4096
//! bytes, and a read buffer full of the smallest frames. A hostile client can keep a worker busy
//! with such small frames. Unmasking changes the input, so each round uses a new copy. Making the
//! copy is not measured.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use criterion::{BatchSize, Criterion, Throughput};
use fanfare::auth::{Access, ConnAccess};
use fanfare::config::Config;
use fanfare::context::{Context, Draw, WorkBudget};
use fanfare::deflate::Inflater;
use fanfare::frame::Envelope;
use fanfare::frame::websocket::RSV1;
use fanfare::id::{ConnName, Cursor, Epoch, RunId, Sequence};
use fanfare::metrics::WorkerMetrics;
use fanfare::time::Now;
use fanfare::transport::websocket::Compression;
use fanfare::transport::{Flow, Transport, WebSocket};
use flate2::{Compress, Compression as Level, FlushCompress};

const MASKING_KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
const TEXT: u8 = 0x81;
const PONG: u8 = 0x8a;
/// The number of small frames in one read.
const SMALL_FRAMES: usize = 4096;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    criterion.final_summary();
}

/// Encodes a masked frame (RFC 6455, 5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(MASKING_KEY);
    let masked = payload.iter().zip(MASKING_KEY.iter().cycle());
    bytes.extend(masked.map(|(byte, key)| byte ^ key));
    bytes
}

/// Returns a ping command of this length. The member `note` is padding, which the server ignores.
fn ping_command(bytes: usize) -> Vec<u8> {
    let start = "{\"type\":\"ping\",\"note\":\"";
    let pad = "z".repeat(bytes - start.len() - 2);
    format!("{start}{pad}\"}}").into_bytes()
}

/// The state that all conns of a worker share.
#[derive(Default)]
struct Lent {
    config: Config,
    metrics: WorkerMetrics,
    inflater: Inflater,
    access: Access,
}

/// Compresses a message in the way that a client does.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut engine = Compress::new(Level::default(), false);
    let mut out = Vec::with_capacity(message.len() + 64);
    engine
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .unwrap();
    out.truncate(out.len() - 4);
    out
}

fn handle(mut bytes: Vec<u8>, envelope: Envelope, compression: Compression, lent: &mut Lent) {
    let id = Cursor {
        epoch: Epoch::new(1),
        sequence: Sequence(1),
    };
    let mut effects = Vec::new();
    let mut work = WorkBudget::default();
    let mut context = Context {
        now: Now(1),
        draw: Draw(1),
        conn: ConnName {
            run: RunId(1),
            worker: 0,
            slot: 1,
            serial: 1,
        },
        head: id,
        date: "",
        is_trusted: false,
        is_observed: false,
        drain: None,
        config: &lent.config,
        metrics: &lent.metrics,
        work: &mut work,
        inflater: &mut lent.inflater,
        access: ConnAccess::new(&lent.access, 1),
        frames: &mut 0,
        effects: &mut effects,
    };
    let mut out = Vec::new();
    let mut socket = Transport::WebSocket(WebSocket::new(envelope, compression));
    let flow = socket.handle_bytes(&mut bytes, &mut out, &mut context);
    assert_eq!(flow, Flow::Open);
}

fn frames(criterion: &mut Criterion) {
    let mut lent = Lent::default();
    let mut group = criterion.benchmark_group("client_frame");
    for (name, bytes, envelope, frames) in [
        (
            "command_100",
            frame(TEXT, &ping_command(100)),
            Envelope::Full,
            1,
        ),
        (
            "deflated_command_400",
            frame(TEXT | RSV1, &deflated(&ping_command(400))),
            Envelope::Full,
            1,
        ),
        (
            "message_4096",
            frame(TEXT, &[b'm'; 4096]),
            Envelope::Data,
            1,
        ),
        (
            "pongs_4096",
            frame(PONG, b"").repeat(SMALL_FRAMES),
            Envelope::Full,
            SMALL_FRAMES,
        ),
        (
            "texts_of_one_byte_4096",
            frame(TEXT, b"a").repeat(SMALL_FRAMES),
            Envelope::Data,
            SMALL_FRAMES,
        ),
    ] {
        let compression = match bytes.first() {
            Some(first) if first & RSV1 != 0 => Compression::Deflate,
            _ => Compression::None,
        };
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || bytes.clone(),
                |bytes| handle(bytes, envelope, compression, &mut lent),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
