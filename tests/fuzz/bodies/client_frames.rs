//! Checks the bytes that a client sends on a WebSocket (RFC 6455), in pieces of any length.
//!
//! The first byte selects the envelope and the compression, and the client sends the rest. The
//! state machine of a WebSocket is compared with a simple model of the RFC, which uses the header
//! parser of another implementation. Without compression, both must find the same pings, the same
//! end and the same fault at the same place.

use std::io::Cursor as Reader;

use fanfare::auth::{Access, ConnAccess};
use fanfare::config::Config;
use fanfare::context::{Context, Draw, WorkBudget};
use fanfare::deflate::Inflater;
use fanfare::effect::Effect;
use fanfare::frame::Envelope;
use fanfare::id::{ConnName, Cursor, Epoch, RunId, Sequence};
use fanfare::metrics::WorkerMetrics;
use fanfare::time::Now;
use fanfare::transport::websocket::Compression;
use fanfare::transport::{Flow, Goodbye, Transport, WebSocket};
use tungstenite::protocol::frame::FrameHeader as OracleHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::head::DATE;
use super::{memory, parts, wire};

/// The limit on messages, small so that inputs exceed it.
const MESSAGE_BYTES_MAX: u32 = 300;
/// The server may leave pings unanswered if its replies have more bytes than this.
const PONG_BACKLOG_BYTES: usize = 4096;
/// The maximum number of bytes that a conn may store in addition to those of its client.
const HELD_BYTES: usize = 1024;

/// Runs the target on an input: one byte of choices, then the bytes of a client.
pub fn attack(bytes: &[u8]) {
    let Some((choices, sent)) = bytes.split_first() else {
        return;
    };
    let envelope = match choices & 1 {
        0 => Envelope::Full,
        _ => Envelope::Data,
    };
    let compression = match choices & 2 {
        0 => Compression::None,
        _ => Compression::Deflate,
    };
    let whole = run(&[sent], envelope, compression);
    for way in parts::ways_to_cut(sent) {
        assert_eq!(run(&way, envelope, compression), whole, "{way:?}");
    }
    let frames = take_frames(&whole.out);
    if compression == Compression::None {
        check_against_model(sent, &whole, &frames);
    }
}

/// The response of the state machine to a client's bytes.
#[derive(Debug, PartialEq)]
struct Outcome {
    flow: Flow,
    out: Vec<u8>,
    effects: Vec<Effect>,
}

fn run(pieces: &[&[u8]], envelope: Envelope, compression: Compression) -> Outcome {
    let mut config = Config::default();
    config.limits.client_message_bytes = MESSAGE_BYTES_MAX;
    let metrics = WorkerMetrics::default();
    let mut inflater = Inflater::default();
    let access = Access::default();
    let mut outcome = Outcome {
        flow: Flow::Open,
        out: Vec::new(),
        effects: Vec::new(),
    };
    let mut socket = Transport::WebSocket(WebSocket::new(envelope, compression));
    let mut work = WorkBudget::default();
    let mut context = Context {
        now: Now(0),
        draw: Draw(0),
        conn: ConnName {
            run: RunId(7),
            worker: 1,
            slot: 2,
            serial: 3,
        },
        head: Cursor {
            epoch: Epoch::new(4),
            sequence: Sequence(5),
        },
        date: DATE,
        is_trusted: false,
        is_observed: false,
        drain: None,
        config: &config,
        metrics: &metrics,
        work: &mut work,
        inflater: &mut inflater,
        access: ConnAccess::new(&access, 2),
        frames: &mut 0,
        effects: &mut outcome.effects,
    };
    for piece in pieces {
        let before = outcome.out.len();
        let mut piece = piece.to_vec();
        let was_over = matches!(outcome.flow, Flow::Ended(_));
        outcome.flow = socket.handle_bytes(&mut piece, &mut outcome.out, &mut context);
        while socket.has_unhandled() {
            *context.work = WorkBudget::default();
            outcome.flow = socket.handle_bytes(&mut [], &mut outcome.out, &mut context);
        }
        assert!(
            !was_over || outcome.out.len() == before,
            "output after the end"
        );
    }
    if matches!(outcome.flow, Flow::Ended(_)) {
        let before = outcome.out.len();
        socket.handle_heartbeat(true, &mut outcome.out, &mut context);
        socket.handle_drained(&mut outcome.out);
        let flow = socket.handle_goodbye(Goodbye::Shutdown, &mut outcome.out, &mut context);
        assert_eq!((flow, outcome.out.len()), (outcome.flow, before));
    }
    let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
    let held = memory::held_by(socket);
    // A buffer that grows by doubling may have twice the size of its content.
    let bound = 2 * sent.min(2 * MESSAGE_BYTES_MAX as usize) + HELD_BYTES;
    assert!(held <= bound, "{held} bytes held of {sent}");
    outcome
}

/// Splits the server's bytes into frames and checks each of them.
fn take_frames(mut out: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(frame) = wire::take_frame(out) {
        let opcode = frame.opcode;
        assert!(!frame.is_compressed, "a compressed answer");
        if opcode == 1 {
            let message: serde_json::Value =
                serde_json::from_slice(frame.payload).expect("an answer is JSON");
            assert!(message["type"].is_string(), "{message}");
        }
        frames.push((opcode, frame.payload.to_vec()));
        out = &out[frame.whole.len()..];
    }
    assert!(out.is_empty(), "half a frame");
    let last = frames.len().saturating_sub(1);
    let early_close = frames[..last].iter().any(|(opcode, _)| *opcode == 8);
    assert!(!early_close, "a frame after the close frame");
    frames
}

/// A model that interprets a client's bytes according to the RFC.
#[derive(Debug, Default)]
struct RfcModel {
    pings: Vec<Vec<u8>>,
    /// The message whose last frame has not arrived yet: `Some(Some(bytes))` if it is text,
    /// `Some(None)` if it is binary, `None` if there is none.
    message: Option<Option<Vec<u8>>>,
    message_bytes: u64,
    end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client has sent a close frame. The value is the payload of the server's close frame.
    Closed(Vec<u8>),
    /// The client has broken a rule. The value is the code of the server's close frame.
    Failed(u16),
    /// The bytes end inside a frame header, so the RFC requires no reaction yet.
    InHeader,
}

fn check_against_model(sent: &[u8], outcome: &Outcome, frames: &[(u8, Vec<u8>)]) {
    let mut model = RfcModel::default();
    let mut rest = sent;
    while !rest.is_empty() && model.end.is_none() {
        rest = model.take(rest);
    }
    if outcome.out.len() < PONG_BACKLOG_BYTES {
        let pongs = frames.iter().filter(|(opcode, _)| *opcode == 10);
        let pongs: Vec<_> = pongs.map(|(_, payload)| payload.clone()).collect();
        assert_eq!(pongs, model.pings);
    }
    let close = frames.iter().find(|(opcode, _)| *opcode == 8);
    let close = close.map(|(_, body)| body.as_slice());
    match model.end {
        None => assert_eq!(outcome.flow, Flow::Open),
        Some(End::Closed(body)) => assert_eq!(close, Some(&*body)),
        Some(End::Failed(code)) => {
            let got = close.and_then(|body| body.first_chunk());
            assert_eq!(got.map(|code| u16::from_be_bytes(*code)), Some(code));
        }
        Some(End::InHeader) => {
            let got = close.and_then(|body| body.first_chunk());
            assert!(matches!(got, None | Some([0x03, 0xea])), "{got:?}");
        }
    }
}

impl RfcModel {
    /// Reads one frame, or the part of a frame that exists. Returns the remaining bytes.
    fn take<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut reader = Reader::new(bytes);
        let parsed = OracleHeader::parse(&mut reader);
        let (header, length) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return self.end(End::InHeader),
            Err(_) => return self.end(End::Failed(1002)),
        };
        let taken = reader.position() as usize;
        let (Some(key), false) = (header.mask, Self::is_broken(&header, length, bytes)) else {
            return self.end(End::Failed(1002));
        };
        let (_, rest) = bytes.split_at(taken);
        if let Err(code) = self.check_fits(&header, length) {
            return self.end(End::Failed(code));
        }
        let there = rest.len().min(usize::try_from(length).unwrap());
        let (masked, rest) = rest.split_at(there);
        let masks = key.iter().cycle();
        let payload: Vec<u8> = masked.iter().zip(masks).map(|(b, k)| b ^ k).collect();
        let is_whole = there as u64 == length;
        match header.opcode {
            OpCode::Control(control) if is_whole => self.take_control(control, payload),
            OpCode::Control(_) => {}
            OpCode::Data(_) => self.take_data(&payload, is_whole && header.is_final),
        }
        rest
    }

    fn end(&mut self, end: End) -> &'static [u8] {
        self.end = Some(end);
        &[]
    }

    /// Whether a frame breaks a rule that the header parser does not check (RFC 6455, 5.2 and 5.5).
    fn is_broken(header: &OracleHeader, length: u64, bytes: &[u8]) -> bool {
        let shortest = match bytes[1] & 0x7f {
            126 => length > 125,
            127 => length > 65_535 && length < 1 << 63,
            _ => true,
        };
        let is_control = matches!(header.opcode, OpCode::Control(_));
        header.rsv1
            || header.rsv2
            || header.rsv3
            || !shortest
            || is_control && (!header.is_final || length > 125)
    }

    fn check_fits(&mut self, header: &OracleHeader, length: u64) -> Result<(), u16> {
        match (header.opcode, &self.message) {
            (OpCode::Control(_), _) => return Ok(()),
            (OpCode::Data(Data::Continue), None)
            | (OpCode::Data(Data::Text | Data::Binary), Some(_)) => return Err(1002),
            (OpCode::Data(Data::Text), None) => self.message = Some(Some(Vec::new())),
            (OpCode::Data(_), _) => {
                self.message.get_or_insert(None);
            }
        }
        self.message_bytes += length;
        match self.message_bytes > u64::from(MESSAGE_BYTES_MAX) {
            true => Err(1009),
            false => Ok(()),
        }
    }

    fn take_control(&mut self, control: Control, payload: Vec<u8>) {
        match (control, payload.as_slice()) {
            (Control::Ping, _) => self.pings.push(payload),
            (Control::Close, []) => self.end = Some(End::Closed(payload)),
            (Control::Close, [high, low, reason @ ..]) => {
                let code = u16::from_be_bytes([*high, *low]);
                // tungstenite does not allow close code 1014 (bad gateway), which was registered
                // later than the others.
                let is_allowed = CloseCode::from(code).is_allowed() || code == 1014;
                self.end = Some(match (is_allowed, str::from_utf8(reason)) {
                    (false, _) => End::Failed(1002),
                    (true, Err(_)) => End::Failed(1007),
                    (true, Ok(_)) => End::Closed(vec![*high, *low]),
                });
            }
            (Control::Close, _) => self.end = Some(End::Failed(1002)),
            (Control::Pong | Control::Reserved(_), _) => {}
        }
    }

    fn take_data(&mut self, payload: &[u8], is_end: bool) {
        if let Some(Some(text)) = &mut self.message {
            text.extend_from_slice(payload);
            let fault = str::from_utf8(text).err();
            if fault.is_some_and(|fault| is_end || fault.error_len().is_some()) {
                self.end = Some(End::Failed(1007));
            }
        }
        if is_end {
            self.message = None;
            self.message_bytes = 0;
        }
    }
}
