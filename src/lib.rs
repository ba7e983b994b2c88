//! fanfare: a push server for one Linux machine, tuned for connection count.
//!
//! Local programs write publications to a Unix socket, the *feed*. The server delivers each
//! publication to every WebSocket, event stream and poll that is subscribed to the publication's
//! channel. It has one event loop per core, no async runtime and no queue per connection. This page
//! is the architecture; read it before the code.
//!
//! # Four ideas
//!
//! 1. **The log is the queue.** The node keeps one [`log`](mod@log) of recent publications. Only
//!    the sequencer writes the log; all workers read it. A subscriber owns no queue, only a
//!    *cursor*: the number of the last publication that the subscriber received. Live delivery, a
//!    slow reader, a resume and a poll are the same operation: read the channel's entries after the
//!    cursor. A quota is checked with one subtraction. Skipping moves the cursor; conflation moves
//!    the cursor past superseded entries. If the log has evicted entries after a cursor, the
//!    subscriber has a *gap*, and every gap is reported.
//! 2. **Sans-io core, thin shell.** The core receives bytes and the time as arguments and returns
//!    effects. Sockets, clocks, threads and randomness are in the shell, behind
//!    [`worker::wire::net::Net`]. So the simulation in `tests/sim` runs whole workers with a seeded
//!    network and clock.
//! 3. **An idle socket owns only its slot.** Read buffers belong to the worker. Further state of a
//!    conn (a partial head, a partial frame, unsent bytes) is boxed and exists only while needed.
//! 4. **A descriptor table per worker.** At its start, each worker thread separates from the
//!    process's table ([`sys::descriptors`]), so `RLIMIT_NOFILE` applies per worker.
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
//!   numbers. `journal/record_writer.rs` writes the batch to disk, if there is a journal.
//!   `log/writer.rs` adds it to the log. `worker/mail/inbox.rs` passes each entry to the workers
//!   that have subscribers of its channel; other workers are not woken.
//! - *Log to client.* `worker/broadcast.rs` gives the entries to the [`hub`]. `worker/flush.rs`
//!   walks over the channel's subscribers. [`frame`] encodes an entry for the first subscriber; the
//!   other subscribers share the bytes, also when they are compressed ([`deflate`]). Most
//!   subscribers are at the same position, so the hub decides only once which entries they receive
//!   ([`hub::serve`]). `worker/answer_poll.rs` decides the content of a poll's answer.
//! - *TLS* is a filter between the socket and the conn's state machine (`worker/wire/tls.rs`,
//!   [`tls`]). Frames are shared as plaintext; flush encrypts them just before the write.
//! - *Upstream.* A client's publication leaves its worker as a report (`worker/mail/upstream`). The
//!   feed passes the report to consumers or assigns it a number (`feed/backends`). While a report
//!   is pending, the worker does not read from the report's conn. Messages from a backend to one
//!   conn ([`backend`]) arrive through the worker's inbox.
//!
//! # One log, many readers
//!
//! The writer locks the shard once to add an entry and to read which workers have subscribers. A
//! worker's *head* is the number up to which the worker has received all entries that concern this
//! worker. The worker reads the log as if the log ended at this head: no later entry is delivered,
//! reported or named as a position. So one id is a position in all channels, even while messages
//! wait in the inbox. A worker keeps the entries that it is about to write ([`hub::tail`]). So the
//! writer can evict entries without asking a worker, and a live walk takes no lock. A publication
//! is acknowledged after the workers to which it was sent have received it. A short poll on any
//! worker is answered only after the worker has received everything that was posted before the
//! request.
//!
//! # The turn
//!
//! [`worker::Worker::turn`] runs the phases poll, read, accept, broadcast, expire, flush and reap.
//! Each phase has a budget in [`config::limits`]. Work beyond a budget stays on a list, and the
//! next poll then returns without blocking. Commands have a budget of work too
//! ([`context::WorkBudget`]), because a few bytes can cause much work. Flush stops in the middle of
//! a walk and resumes the walk in the next turn. With many more workers than processors, only a few
//! workers walk at the same time ([`worker::wire::fanout_limiter`]). Bytes are written only in
//! `worker/flush.rs`, conns are freed only in `worker/reap.rs`, and effects are applied only in
//! `worker/apply.rs`. The one exception is the refusal of a connection that never got a slot.
//!
//! # Admission and access
//!
//! - `worker/admission` decides which connections get a slot: by room, memory ([`sys::pressure`])
//!   and source. It decides again after a proxy has named the client ([`proxy`]). It also counts
//!   silent connections and limits the rate at which each client sends.
//! - One parser reads every request head, including those for the feed, and refuses ambiguous heads
//!   ([`http`]). `http/origin.rs` checks the origin of the page that sends a request, and
//!   `http/entry.rs` checks the request's token.
//! - [`auth`] verifies tokens. The permissions of tokens are in [`auth::Access`], a table of the
//!   worker. A conn without a token costs one lookup in an empty map.
//!
//! # Deadlines measure the peer
//!
//! A client misses a deadline only if it had the chance to meet the deadline. After a timer has
//! fired, the worker first completes a *round*: one complete poll and one read of all sockets that
//! the poll reported (`worker/round.rs`). The timer wheel runs on [`time::running`], a clock that
//! stops while the worker does not run. A conn that the server does not read is not silent.
//!
//! # Code map
//!
//! | ring | modules |
//! |---|---|
//! | words | [`id`], [`pattern`], [`time`], [`effect`], [`deflate`], [`metrics`], [`config`] |
//! | words of input | [`json`], [`proxy`], [`auth`], [`context`], [`guide`], [`traceparent`] |
//! | helpers | [`certain`], [`chunks`], [`largest`], [`whole_number`] |
//! | pure | [`http`], [`frame`], [`backend`], [`log`](mod@log), [`hub`], [`tls`], [`transport`] |
//! | pure in part | [`feed`], [`journal`] |
//! | machine | [`conn`] |
//! | shell | [`worker`], [`admin`], [`server`], [`sys`], [`demo`] |
//! | shell, for operators | [`operator`], [`warnings`], [`spans`], [`health`] |
//! | shell, logs | [`access_log`], [`line_queue`], [`logs`] |
//!
//! Dependencies point inward only. [`hub`] never imports [`conn`], and no transport imports another
//! (`tests/tidy`). mio is used only in `worker/wire/kernel.rs` and the feed's loop; unsafe code is
//! only in [`sys`]. `src/cli` belongs to the binary; the load generator is in `benches/generator`.
//!
//! # Memory of an idle conn
//!
//! For one subscription of a stream or a waiting poll, in a release build. No part is boxed.
//!
//! | what | bytes, as asserted | where |
//! |---|---|---|
//! | slab entry: descriptor, generation, readiness, lists | 16 | `worker/mod.rs`, `kernel.rs` |
//! | in it: the state machine, with its phase, transport and empty outbox | 40 | `conn/mod.rs` |
//! | subscription: cursor, channel, place | 24 | `hub/member.rs` |
//! | slot among a channel's subscribers, where there are several | 4 | `hub/subscribers.rs` |
//! | timer: bucket list and deadline | 12 | `time/wheel.rs` |
//! | **sum** | **96** | |
//!
//! The tables grow by chunks that never move ([`chunks`]). The allocator gives each worker separate
//! pages for each size of block: about 50 KB with the worker's first conns. Further channels add a
//! list of 24 bytes and 16 bytes for each channel, a window 48 bytes and 8 bytes for each
//! unacknowledged publication, a token about 100 bytes and its texts.
//!
//! # Memory of a channel
//!
//! A channel exists while it has subscribers or entries. The log stores a channel once for all
//! workers. While the channel has entries, its memory counts towards the log's limit. For one entry
//! with a payload of P bytes, a name of N bytes and no encoding:
//!
//! | what | bytes | where |
//! |---|---|---|
//! | publication | 104 + N + P | `frame/publication.rs` |
//! | channel, its place by name, its history with the entry | 144 | `log/shard.rs` |
//! | place in the order list | 24 | `log/order.rs` |
//! | with conflation: the list, the entry's place, its key's | 56, 16, 18 | `log/conflation.rs` |
//!
//! With N + P = 111 the sum is 383 bytes, so 64 MiB hold 175,000 such channels, without the
//! allocator's overhead. The first encoding adds 288 bytes and its length; labels (event type,
//! conflation key, trace context) add 40 bytes and their length. A channel without entries takes 72
//! bytes and its name. Each worker with subscribers uses 64 bytes for the channel.
//!
//! # Invariants
//!
//! - *Order.* One sequence numbers all publications of the node. A conn with several channels is
//!   served in the order of the numbers, so one id is its position in all channels. Exceptions: a
//!   channel that was subscribed with an older `since` catches up first, and a channel whose window
//!   is full waits without delaying the others.
//! - *No silent loss.* A subscriber receives every publication of its channel once and in order, or
//!   a gap that names the missing ids. Over successive polls, each publication is delivered or lies
//!   in exactly one gap.
//! - *No number twice.* With a journal, a batch is on disk before it is delivered, or is refused.
//! - *Epochs.* A position of an unknown epoch is served from the channel's oldest entry. If a new
//!   epoch began at run time, positions up to the last number of both stay valid ([`log::epoch`]).
//! - *Bounded memory.* Publications and encodings are counted from creation to drop
//!   ([`frame::ledger`]). Conns hold at most `log.pinned_bytes` of publications that the log has
//!   evicted. Beyond that, the conns with the oldest publications are closed (`worker/pinned.rs`).
//!   Encodings use at most a quarter of `log.bytes`.
//! - *Quotas.* After a flush, no conn is behind by more than its quota. Publications that were in
//!   the log at a resume do not count, nor does one of which a byte has been written. At most a
//!   window of publications is unacknowledged. A poll's answer is fixed before its first byte.
//! - *Fast readers lose nothing.* A subscriber whose socket accepts everything is never skipped. A
//!   publication beyond the walk's quota waits in the inbox; the feed then waits for room there.
//! - *Exact readiness.* A readiness bit is cleared only on `WouldBlock`. Each conn that can make
//!   progress is on the list of the phase that serves it, and each conn has a deadline.
//!
//! # Design notes
//!
//! - *permessage-deflate* is negotiated without context takeover and with the same window for all
//!   conns. So one compressor serves a worker, and compressed frames are shared.
//! - *Encrypted bytes count as written*, because TLS cannot undo the encryption. At most one
//!   write's budget is encrypted ahead of the socket.
//! - *Kernel TLS was tried and removed*: 12 KB more kernel memory per connection (both ends) and
//!   twice the CPU for a delivery of 1,400 bytes (Linux 6.1, a virtual machine without AES).
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | worker, turn | a thread with its own poll, slab, timer wheel and hub; one pass of its loop |
//! | conn, request | state of one accepted socket; the HTTP head before a transport is chosen |
//! | channel, subscriber | a named point of fan-out; a conn's membership in a channel |
//! | publication, frame | a payload with its id; its bytes for a transport and an envelope |
//! | log, cursor, gap | the node's recent publications; a position in the log; a reported loss |
//! | head, tail | the end of the log for a worker; the newest entries of a channel, in a hub |
//! | epoch | a part of the sequence in which no number stands for two publications |
//! | hub, quota | a worker's subscribers and their cursors; the bounds of one conn |
//! | walk | one pass over a channel's subscribers, to write new entries to them |
//! | feed, feeder, consumer | the Unix socket; a process that publishes; one that reads reports |
//! | report, notice | a client's publication or question; a subscription's begin or end |
//! | effect, close reason | what a conn's state machine asks the worker to do; why a conn ended |
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

// The modules are in the order in which data passes them.
pub mod server;

pub mod access_log;

pub mod admin;
pub mod demo;
pub mod feed;
pub mod journal;
pub mod line_queue;
pub mod logs;
pub mod operator;
pub mod spans;
pub mod warnings;
pub mod worker;

pub mod conn;

pub mod http;

pub mod tls;
pub mod transport;

pub mod hub;

pub mod frame;

pub mod auth;
pub mod backend;
pub mod certain;
pub mod chunks;
pub mod config;
pub mod context;
pub mod deflate;
pub mod effect;
pub mod guide;
pub mod health;
pub mod id;
pub mod json;
pub mod largest;
pub mod log;
pub mod metrics;
pub mod pattern;
pub mod proxy;
pub mod time;
pub mod traceparent;
pub mod whole_number;

pub mod sys;
