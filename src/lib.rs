//! fanfare: a push server for one Linux machine, tuned for connection count.
//!
//! Local programs write publications to a Unix socket, the *feed*. The server delivers each one to
//! every WebSocket, event stream and poll that is subscribed to its channel. It has one event loop
//! per core, no async runtime and no queue per connection. This page is the architecture; read it
//! before the code.
//!
//! # Four ideas
//!
//! 1. **The log is the queue.** The node keeps one [`log`](mod@log) of recent publications. The
//!    sequencer alone writes it; all workers read it. A subscriber owns no queue. It owns a
//!    *cursor*: the number of the last publication that it received. Live delivery, a slow reader,
//!    a resume and a poll are the same operation: read the channel's entries after the cursor. A
//!    quota is a subtraction. Skipping moves the cursor; conflation moves it over superseded
//!    entries. A cursor that has fallen off the log is a *gap*, and a gap is always reported.
//! 2. **Sans-io core, thin shell.** Bytes and the time are arguments; effects are return values.
//!    Sockets, clocks, threads and randomness are in the shell, behind [`worker::wire::net::Net`].
//!    So the simulation in `tests/sim` runs whole workers with a seeded network and clock.
//! 3. **An idle socket owns only its slot.** Read buffers belong to the worker. What a conn needs
//!    beyond its slot (a partial head, a partial frame, unsent bytes) is boxed while it exists.
//! 4. **A descriptor table per worker.** Each worker thread leaves the process's table at start
//!    ([`sys::descriptors`]), so `RLIMIT_NOFILE` applies per worker.
//!
//! # Data path
//!
//! ```text
//!  feeder --> feed (decode, number) --> journal --> LOG (one per node)
//!                                                    |         |
//!                      entries, to the inboxes of workers   entries after a cursor, to conns
//!                      with subscribers of the channel      that are behind the live walk
//!                                                    v         v
//!  client <-- worker/flush (TLS) <-- frame (encoded once) <-- hub (cursors, walks, quotas)
//!                                                              ^
//!  client --> worker/read (TLS) --> conn (http, transport) ----+  subscribe at a cursor
//! ```
//!
//! - *Client to hub.* `worker/accept.rs` accepts the socket and `worker/read.rs` reads into the
//!   worker's buffer. `http/head.rs` parses the request, `http/route.rs` selects the transport, and
//!   [`transport`] answers. `worker/apply.rs` subscribes the conn.
//! - *Feeder to log.* `feed/feeder.rs` reads, `feed/protocol` decodes, `feed/sequencer` assigns
//!   numbers. [`journal`], where configured, writes the batch to disk. `log/writer.rs` adds it to
//!   the log. `worker/mail/inbox.rs` carries it to the workers that have subscribers of its
//!   channel; other workers are not woken.
//! - *Log to client.* `worker/broadcast.rs` gives the entries to the [`hub`]. `worker/flush.rs`
//!   walks over the channel's subscribers. [`frame`] encodes for the first of them; the others
//!   share the bytes. Compressed frames are shared too, since no WebSocket has a compressor of its
//!   own ([`deflate`]). Most subscribers stand at the same position, so the hub plans what they get
//!   once ([`hub::serve`]). `worker/answer_poll.rs` settles the answer of a poll.
//! - *TLS* is a filter between the socket and the machine (`worker/wire/tls.rs`, [`tls`]). Frames
//!   stay shared as plaintext; flush seals them just before the write.
//! - *Upstream.* A client's publication leaves its worker as a report (`worker/mail/upstream`). The
//!   feed gives it to consumers or sequences it (`feed/backends`). A conn is not read while its
//!   report waits. What a backend sends to one conn ([`backend`]) comes through the worker's inbox.
//!
//! # One log, many readers
//!
//! The writer adds an entry and reads which workers have subscribers in one hold of the shard's
//! lock. A worker's *head* is the number up to which it has taken in everything that concerns it.
//! The worker reads the log as if it ended at its head: nothing above is delivered, reported or
//! named as a position. So one id is a position in all channels, also while mail waits. A worker
//! holds the entries that it is about to write ([`hub::tail`]), so the writer evicts without asking
//! a worker, and a live walk takes no lock. An acknowledgement waits for the workers that were sent
//! the publication; a short poll, on any worker, waits for what was posted before its request.
//!
//! # The turn
//!
//! [`worker::Worker::turn`] runs the phases poll, read, accept, broadcast, expire, flush and reap.
//! Each has a budget in [`config::limits`]. What a budget cuts off stays on a list, and the next
//! poll does not wait. Commands have a budget of work too ([`context::WorkBudget`]), since a few
//! bytes may cost much. Flush stops in the middle of a walk and resumes it in the next turn. With
//! many more workers than processors, few walk at once ([`worker::wire::fanout_limiter`]).
//! Nothing is written outside `worker/flush.rs`, freed outside `worker/reap.rs`, or applied outside
//! `worker/apply.rs`. The one exception is the refusal of a connection that never got a slot.
//!
//! # Admission and access
//!
//! - `worker/admission` decides which connections get a slot: by room, memory ([`sys::pressure`])
//!   and source. It decides again when a proxy has named the client ([`proxy`]). It also counts
//!   silent connections and limits how fast a client may send.
//! - One parser reads every request head, the feed's too, and refuses what is ambiguous
//!   ([`http`]). `http/origin.rs` checks the page that sends a request, `http/entry.rs` its token.
//! - [`auth`] verifies tokens. What a token allows is in [`auth::Access`], a table of the worker: a
//!   conn without a token costs one lookup in an empty map.
//!
//! # Deadlines measure the peer
//!
//! A deadline counts against a client only what the client had the chance to do. A timer that fires
//! waits for a *round*: one complete poll and one read of everything that it reported
//! (`worker/round.rs`). The timer wheel runs on [`time::running`], a clock that stops while the
//! worker does not run (SIGSTOP, a paused machine, no processor). A conn that the server chose not
//! to read is not judged by its silence.
//!
//! # Code map
//!
//! Dependencies point inward only (`tests/tidy` checks it).
//!
//! | ring | modules |
//! |---|---|
//! | words | [`id`], [`pattern`], [`time`], [`effect`], [`deflate`], [`metrics`], [`config`] |
//! | words of input and access | [`json`], [`proxy`], [`auth`], [`context`] |
//! | pure | [`http`], [`frame`], [`backend`], [`log`](mod@log), [`hub`], [`tls`], [`transport`] |
//! | pure in part | [`feed`], [`journal`] |
//! | machine | [`conn`] |
//! | shell | [`worker`], [`admin`], [`server`], [`sys`], [`demo`] |
//!
//! [`hub`] never imports [`conn`], and no transport imports another. mio is named in
//! `worker/wire/kernel.rs` and the feed's loop only; unsafe code is in [`sys`] only. The command
//! line (`src/cli`) belongs to the binary; the load generator is a crate in `benches/generator`.
//!
//! # Memory of an idle conn
//!
//! One subscription, any streaming transport or a waiting poll, release build. The sizes are
//! asserted where the types are. None of it is a heap block of its own.
//!
//! | what | bytes | where |
//! |---|---|---|
//! | slab entry: descriptor, generation, readiness, lists | 16 | `worker/mod.rs`, `kernel.rs` |
//! | in it: the machine, with its phase, transport and empty outbox | 40 | `conn/mod.rs` |
//! | subscription: cursor, channel, place | 24 | `hub/member.rs` |
//! | slot among a channel's subscribers, where there are several | 4 | `hub/subscribers.rs` |
//! | timer: bucket list and deadline | 12 | `time/wheel.rs` |
//! | **sum** | **96** | |
//!
//! The tables grow by chunks that never move ([`chunks`]). The allocator gives each worker pages of
//! its own for each size of block: about 50 KB with its first conns. A second channel adds a list
//! of 24 bytes and 16 for each; a window adds 48 bytes and 8 for each unacknowledged publication; a
//! token adds about 100 bytes and its texts.
//!
//! # Memory of a channel
//!
//! A channel exists while it has subscribers or entries. The log holds it once for all workers, and
//! its bound counts it while it has entries. One entry, payload of P bytes, name of N, no encoding:
//!
//! | what | bytes | where |
//! |---|---|---|
//! | publication | 104 + N + P | `frame/publication.rs` |
//! | channel, its place by name, its history with the entry | 144 | `log/shard.rs` |
//! | place in the order list | 24 | `log/order.rs` |
//! | if it conflates: the list, the entry's place, its key's | 56, 16, 18 | `log/conflation.rs` |
//!
//! With N + P = 111 that is 383 bytes, so 64 MiB hold 175,000 of them. The allocator's share comes
//! on top (`cargo bench --bench log` measures a million). The first encoding adds 288 bytes and its
//! length; an event type or a conflation key adds 32 bytes and its length. A channel without
//! entries takes 72 bytes and its name. Each worker with subscribers of it has 64 bytes for it.
//!
//! # Invariants
//!
//! - *Order.* One sequence numbers all publications of the node. A conn on several channels is
//!   served in that order, so one id is its position in all of them. Exceptions: a channel that was
//!   subscribed with an older `since` catches up first, and one whose window is full waits alone.
//! - *No silent loss.* A subscriber receives every publication of its channel once and in order, or
//!   a gap that names the missing ids. Over successive polls, each publication is delivered or lies
//!   in exactly one gap.
//! - *No number twice.* With a journal, a batch is on disk before it is delivered, or it is refused
//!   and its numbers are free again.
//! - *Epochs.* A position of an unknown epoch is served from the channel's oldest entry. Where one
//!   epoch followed another while the server ran, positions up to their common number stay good
//!   ([`log::epoch`]).
//! - *Bounded memory.* Publications and encodings are counted from creation to drop
//!   ([`frame::ledger`]). Conns hold at most `log.pinned_bytes` of what has left the log; beyond
//!   that, those with the oldest publications are closed (`worker/pinned.rs`). Encodings have at
//!   most a quarter of `log.bytes`.
//! - *Quotas.* What a conn is behind never stays above its quota after a flush. Neither what was in
//!   the log at a resume nor a publication whose first byte is written counts. A window is never
//!   overfilled. A poll's answer is fixed before its first byte is written.
//! - *Fast readers lose nothing.* A subscriber whose socket takes everything is never skipped: a
//!   publication beyond the walk's quota waits in the inbox, and then the feed waits.
//! - *Exact readiness.* A readiness bit is cleared only on `WouldBlock`. A conn that can make
//!   progress is on the list of the phase that serves it, and each conn has a deadline.
//!
//! # Design notes
//!
//! - *permessage-deflate* is negotiated without context takeover and with one window for all, so
//!   that one compressor serves a worker and compressed frames are shared.
//! - *A poll is subscribed only while it waits.* Its channel may be dropped between two polls, so a
//!   poll whose time is over moves to the worker's head.
//! - *A drain waits for kernels, not for clients.* A conn is closed when its peer's kernel has
//!   acknowledged the close frame (`worker/drain.rs`).
//! - *Sealed bytes count as written*, since TLS cannot take them back. At most one write's budget
//!   is sealed ahead of the socket. TLS is not part of the machine: only flush has the frames.
//! - *Kernel TLS was tried and removed*: 12 KB more kernel memory per connection (both ends) and
//!   twice the CPU for a delivery of 1,400 bytes (Linux 6.1, a virtual machine without AES).
//! - *Heartbeats of event streams* carry the position when the stream has everything. Their event
//!   type is `fanfare.position`, since some clients dispatch a message at each empty line.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | worker, turn | a thread with its own poll, slab, timer wheel and hub; one pass of its loop |
//! | conn, request | state of one accepted socket; the HTTP head before a transport is chosen |
//! | channel, subscriber | a named point of fan-out; a conn's membership in it |
//! | publication, frame | one payload with its id; its wire bytes for a transport and envelope |
//! | log, cursor, gap | the node's recent publications; a position in it; a reported loss |
//! | head, tail | the end of the log for a worker; newest entries of a channel that it holds |
//! | epoch | a part of the sequence in which no number stands for two publications |
//! | hub, quota | a worker's subscribers, cursors and walks; the bounds of one conn |
//! | feed, feeder, consumer | the Unix socket; a process that publishes; one that reads reports |
//! | report, notice | a client's publication or question; a subscription that began or ended |
//! | effect, close reason | what a machine asks the worker to do; why a conn ended |
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::format_push_string,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test may panic"
    )
)]

// In the order in which data passes them.
pub mod server;

pub mod admin;
pub mod demo;
pub mod feed;
pub mod journal;
pub mod worker;

pub mod conn;

pub mod http;

pub mod tls;
pub mod transport;

pub mod hub;

pub mod frame;

pub mod auth;
pub mod backend;
pub mod chunks;
pub mod config;
pub mod context;
pub mod deflate;
pub mod effect;
pub mod health;
pub mod id;
pub mod json;
pub mod log;
pub mod metrics;
pub mod pattern;
pub mod proxy;
pub mod time;

pub mod sys;
