//! fanfare: a push server for one Linux machine, tuned for connection count.
//!
//! Local programs write publications to a Unix socket, the *feed*; every WebSocket, every
//! server-sent event stream and every poll that subscribes to the channel has them. One event loop
//! per core, no runtime, no queue per connection. This page is the architecture; read it before the
//! code.
//!
//! # Four ideas
//!
//! 1. **The log is the queue.** The node keeps one [`log`](mod@log) of recent publications. The
//!    feed's sequencer alone writes it, and all workers read it. Each channel has a deque of its
//!    own entries. A subscriber owns no queue but a *cursor*: the number of the last publication
//!    it was given. Live delivery, a slow reader, a resume and a poll are the same act, reading a
//!    channel's entries after a cursor. A quota is a subtraction; skipping is moving the cursor;
//!    conflating is moving it over what later entries supersede; a cursor that has fallen off the
//!    log is a *gap*, and a gap is always reported.
//! 2. **Sans-io core, thin shell.** Bytes and the time go in as arguments, effects come out as
//!    values. Sockets, clocks, threads and chance live in the shell, behind
//!    [`worker::wire::net::Net`], so the simulation in `tests/sim` runs whole workers over
//!    networks that lie and a clock it winds.
//! 3. **An idle socket owns only its slot.** One read buffer per worker; what a conn needs beyond
//!    its slot (a partial head, a partial frame, bytes on their way out) is boxed while it exists.
//! 4. **A descriptor table per worker.** Each worker leaves the process's table at start
//!    ([`sys::descriptors`]), so the limit on descriptors binds per worker.
//!
//! # The way of a byte
//!
//! ```text
//!  client --> worker/read (tls) --> conn (http --> transport) --> hub   (subscribe at a cursor)
//!  feeder --> feed --> log --> inboxes of workers with subscribers --> worker/broadcast --> hub
//!  hub (entries after a cursor) --> frame (encoded once) --> worker/flush (writev) --> client
//! ```
//!
//! A client's first byte is accepted by `worker/accept.rs`, read by `worker/read.rs` into the
//! worker's buffer, and parsed by `http/head.rs`; `http/route.rs` decides what it gets;
//! `transport/websocket` or `transport/event_stream.rs` answers; `worker/apply.rs` subscribes it. A
//! poll is subscribed before it is answered: `worker/answer_poll.rs` gathers what it is owed, and
//! `conn/outbox.rs` sends the shared frames. A feeder's byte is read by `feed/feeder.rs`, decoded
//! by `feed/protocol/decode.rs`, numbered by `feed/sequencer`, written to disk by `journal` if
//! there is one, added to the log by `log/writer.rs`, posted through `worker/mail/inbox.rs` to the
//! workers that have subscribers of its channel, and taken in by `worker/broadcast.rs`;
//! `worker/flush.rs` walks the channel's subscribers, `frame` encodes for the first of them and all
//! others share the bytes, the compressed ones too: no WebSocket has a compressor or a window of
//! its own, each worker has one of either ([`deflate`]).
//!
//! A conn that came to a TLS listener has a filter between its socket and its machine
//! (`worker/wire/tls.rs`, [`tls`]): bytes are opened after they are read, and what flush has
//! gathered is sealed before it is sent. Nothing further in knows of it, and plaintext frames stay
//! shared.
//!
//! The other way round goes what has no place in a log. A client's publication leaves its worker as
//! a report (`worker/mail/upstream`) for the feed, which hands it to consumers or sequences it
//! (`feed/backends/reports.rs`); a conn whose report has to wait is not read. Notices of
//! subscriptions wait in a table of their own (`worker/mail/upstream/notices.rs`), so that they
//! delay no publication. Pairs cancel out there, and a conn with too many notices is not read. What
//! a backend says to one conn comes in the inbox, behind what was published before, and
//! `worker/deliver.rs` gives it to the conn's machine. The words of it are in [`backend`].
//! Reports and notices carry the subject of the conn's token.
//!
//! Outside its worker a conn is known by its [`id::ConnName`]: a random value of this start of the
//! server, the worker, the slot, and how many conns the worker accepted before. The slot finds the
//! conn and the rest confirms it, so a name that a backend remembers never reaches another client.
//! A slot stores 32 bits of that count; the worker's own count of 64 bits completes them.
//!
//! # One log, many readers
//!
//! The writer adds an entry and reads which workers have subscribers of its channel in one hold of
//! a lock ([`log`](mod@log)); only they are sent the entry and woken. A worker's *head* is the
//! number up to which everything was posted to it and taken in: it moves with each entry, and with
//! an empty inbox to what the feed has posted. A worker reads the shared log as if it ended at its
//! head. So one id stands for all channels, also while mail waits, and nothing is named that has
//! not been given. What a channel's first subscriber finds in the log above the head was not
//! posted; it is taken in when the head passes it.
//!
//! A worker holds what it is about to write: a walk's entries in the channel's tail
//! ([`hub::tail`]), those of a conn that catches up until its writes are noted. So the writer
//! evicts without asking, a live walk takes no lock, and a subscriber that takes everything is not
//! skipped. One that catches up from the end of what its channel keeps may lose the race, and a gap
//! says so.
//!
//! Most subscribers of a channel stand at the same position. So the hub plans the one publication
//! that they are owed once, and gives that plan to each of them ([`hub::serve`]).
//!
//! An acknowledgement waits for the workers that were sent the publication. A short poll is
//! answered when its worker has taken in what had been posted at its request
//! (`worker/answer_poll.rs`): a client that asks after the acknowledgement, on any worker, gets
//! the publication.
//!
//! # Who may do what
//!
//! Every request is read by the one reader of heads, the feed's too, which refuses what is doubtful
//! ([`http`] has a table). `http/origin.rs` asks whose page a request is from: a foreign one opens
//! no WebSocket, and its browser is not told that it may read anything else.
//!
//! Where there are keys, `http/entry.rs` asks each request for a token and `auth` verifies it.
//! What it allows is held in [`auth::Access`], a table of the worker beside its conns, so that a
//! conn without a token owns nothing of it and one look at an empty table is all it costs. Commands
//! are held to it by the transport, in the order in which they come. The end of a token, the
//! warning before it and the wait for one share the conn's one timer: `worker/apply.rs` arms
//! whichever is first. A token ends by the calendar. While there is one, the worker looks at the
//! calendar every half second, and brings timers forward when it was set ahead or the machine was
//! suspended. A conn with a token owns a box of about 100 bytes, a place in a tree, and
//! the texts of its `sub` and patterns, until it is served no more.
//!
//! # Who gets in
//!
//! `worker/admission/guard.rs` decides before a conn has a slot, by room, memory
//! ([`sys::pressure`]) and source, and again when a proxy has named its client: the machine reads
//! the header of the PROXY protocol or the request ([`proxy`]) and asks to be counted for whoever
//! that is. How many conns a source has is in [`worker::admission::sources`], the one table that
//! all workers share, and there only where it is limited. A conn that a proxy reuses counts for
//! the client of its latest request, and as a connect only for the first.
//! `worker/admission/pending.rs` counts silent conns, `worker/admission/rates.rs` knows which send
//! too fast and are not read for a while. None of it is in a slot.
//!
//! # Deadlines measure the peer
//!
//! A deadline or a limit counts against a client only what the client had the chance to do. Two
//! mechanisms of the worker ensure that.
//!
//! - *Rounds* (`worker/round.rs`). A timer that fires, and a new conn, wait for a complete poll
//!   that began afterwards and for one read of everything that it reported. Only then a conn is
//!   closed as late, as idle or as one silent conn too many.
//! - *Running time* ([`time::running`]). The wheel is on a clock that stands still while the worker
//!   does not run: after SIGSTOP, on a paused machine, or without a processor. A WebSocket is idle
//!   when the kernel has had a ping for a full heartbeat of that time. A late timer sends the ping.
//!
//! A conn that the server itself does not read, for its rate or for a slow consumer, is not judged
//! by its silence. Goodbyes of a drain are on running time, too. Ages of publications and the end
//! of a drain are on the monotonic clock: what has no goodbye by then gets it at once.
//!
//! # Code map
//!
//! Dependencies point inward only, and `tests/tidy` fails when one does not.
//!
//! | ring | modules |
//! |---|---|
//! | words | [`id`], [`pattern`], [`time`], [`effect`], [`deflate`], [`metrics`], [`config`] |
//! | words of input and access | [`json`], [`proxy`], [`auth`] |
//! | pure | [`http`], [`frame`], [`backend`], [`log`](mod@log), [`hub`], [`tls`], [`transport`] |
//! | pure in part | [`feed`] |
//! | machine | [`conn`] |
//! | shell | [`worker`], the rest of [`feed`], [`admin`], [`server`], [`sys`], [`demo`] |
//!
//! - [`hub`] knows conns by their slot and never imports [`conn`].
//! - [`log`] takes its locks and atomics from `log/sync.rs`, so that the models in `log/models`
//!   run it under loom.
//! - No transport imports another: deleting its file deletes the feature.
//! - mio is named in `worker/wire/kernel.rs` and in the feed's loop only; unsafe code is in [`sys`]
//!   only.
//! - `cli/doctor` reads a host's limits and does the sums; only its `tree.rs` touches a file, so
//!   that recorded hosts are examined like live ones.
//! - Nothing is written to a client outside `worker/flush.rs`, nothing freed outside
//!   `worker/reap.rs`, no effect applied outside `worker/apply.rs`. The exception is the refusal of
//!   a connection that never got a slot ([`worker::wire::net::Net::refuse`]).
//!
//! # A turn
//!
//! [`worker::Worker::turn`] is seven verbs: poll, read, accept, broadcast, expire, flush, reap.
//! Each has a budget in [`config::limits`]; what it cuts off stays on a list, and the next poll
//! does not wait. The input of one conn has a budget of work too, counted by its machine: a
//! command of few bytes may cost much. What is beyond it waits there ([`effect::WorkBudget`]).
//! Flush rests in the middle of a walk over a channel's subscribers and goes on in the next turn,
//! so half a million sends do not hold up one request. Where there are many more workers than
//! processors, for the sake of their descriptor tables, only a few of them walk at once
//! ([`worker::wire::fanout_limiter`]), and a request finds its worker asleep instead of in a queue.
//!
//! # Where each byte of an idle conn is
//!
//! A conn with one subscription, WebSocket, event stream or waiting poll, in a release build. Each
//! size is asserted where the type is; none of it is a heap block of its own.
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
//! These tables grow by chunks of 1,024, which never move ([`chunks`]); room that was never touched
//! takes no memory. What connecting leaves behind is given back when the storm is over
//! (`worker/memory_trim.rs`). The allocator gives each worker pages of its own for each size of
//! block: about 50 KB with its first conns.
//!
//! A second channel adds a list of 24 bytes and 16 for each; a half-read head or frame and bytes on
//! their way out live in boxes that go when they are empty. A subscription with a window has 48
//! bytes in `hub/window.rs` and 8 for each publication that its client has not acknowledged. One
//! that asked for history has a mark in `hub/initial.rs` until it has been given all of it.
//!
//! # What a channel costs
//!
//! A channel exists while it has subscribers or entries. With one entry that nobody was given, of a
//! payload of P bytes and a name of N, the log holds this once for all workers, and its bound
//! counts it:
//!
//! | what | bytes | where |
//! |---|---|---|
//! | publication | 104 + N + P | `frame/publication.rs` |
//! | entry in the channel's deque | 40 | `log/entry.rs` |
//! | place in the order list | 24 | `log/order.rs` |
//! | channel, its place by name, its history | 136 | `log/shard.rs` |
//! | where it conflates: the list, the entry's place, its key's | 56, 16, 18 | `log/conflation.rs`
//! |
//!
//! With N + P = 111 that is 415 bytes, so the default `log.bytes` of 64 MiB holds 161,000 of them.
//! The allocator's share, and lists that have just doubled, come on top (`cargo bench --bench log`
//! has the figures for a million). The first encoding adds 288 bytes and its own length. An event
//! type or a conflation key adds 32 bytes and its length. Entries that left the middle of the order
//! list may cost another place for each that is in it.
//!
//! The bound counts a channel only while it has entries. One in which nothing was published takes
//! 72 bytes there, and its name. Each worker with subscribers of a channel has 64 bytes for it
//! (`hub/channel.rs`); where there are several subscribers, a list of them. Where that is more than
//! one worker, the log has a list of them, 24 bytes and 8 for each. How many channels have
//! subscribers is one number, which changes with the channel's shard locked: so `limits.channels`
//! is exact.
//!
//! # Invariants
//!
//! - Every publication has the next number of one sequence for the whole node. A conn on several
//!   channels is served in that order, so one id is its position in all of them. The exception: a
//!   WebSocket that subscribes to a further channel with an older `since` catches that channel up
//!   first, since every subscription has a cursor of its own. One whose window is full waits
//!   alone, so an acknowledgement names its channel where there are several.
//! - A subscriber is given every publication of its channel once and in order, or is told which ids
//!   lie in a gap. Nothing is lost in silence.
//! - With a journal ([`journal`]) a batch is on disk before anybody sees it, or it is refused
//!   and its numbers are free again. No number is given out twice, whatever is lost with the power.
//! - Twice a second the feed compares its socket and the journal's files with what was opened. A
//!   socket that is gone is made again, except where another user could replace it; publications
//!   are refused while a file of the journal is gone. [`health`] has the reasons, which `/readyz`
//!   shows.
//! - What has left the log is held by conns that have begun to write it, and all of them together
//!   hold at most `log.pinned_bytes`. Publications and encodings count in one ledger from creation
//!   to drop ([`frame::ledger`]). Beyond the bound a conn copies a rest that is small beside what
//!   it keeps in memory; then the conns with the oldest publications are closed
//!   (`worker/pinned.rs`). Besides, inboxes hold it, which are bounded, and the walks of a worker,
//!   which hold at most a sixteenth of `log.bytes` or one publication before the rest waits in the
//!   inbox ([`hub::tail`]).
//! - Encodings have at most a quarter of `log.bytes`. Beyond that the oldest entries lose theirs
//!   first; they are made again for a subscriber that comes late.
//! - A poll's answer is settled before its first byte is written: no publication in it can be
//!   skipped or evicted any more, and its id stands for all that it gave and reported. A gap that
//!   ends after the id is cut there, and the next poll finds the rest: over successive polls each
//!   publication is given or lies in one gap.
//! - A position of another epoch is served from the channel's oldest entry on. The order of two
//!   epochs is not known, so every other one counts as an earlier one. It is known where one
//!   followed the other while the server ran: both have the same publications up to a number, and
//!   positions up to there are good in both.
//! - The epoch may change while the server runs ([`log::epoch`]), where an engine's stream is made
//!   again or goes back. Numbers may come again then. A subscriber that has been given something
//!   void, or stood after it, receives a gap before anything of the new epoch; any other one is
//!   given what is valid, and what follows, without a gap. No engine is built in yet: only the
//!   simulation and tests change the epoch.
//! - What a conn is behind never stays above its quota: flush writes what the socket takes, and
//!   what is left is held to the quota at once. A publication whose first byte is written counts no
//!   more.
//! - A window is never overfilled: beyond what its client has acknowledged it is given at most so
//!   many publications. What is held back is behind its cursor like anything else, for the quota
//!   too, and a gap in it is told when the window opens.
//! - A subscriber whose socket takes everything, and that acknowledges what it has a window for, is
//!   never skipped: a publication that would put the walk over its channel more than a quota
//!   behind waits in the inbox, and behind it the feed.
//! - A channel's own bounds take nothing from a subscriber whose socket takes everything: what is
//!   beyond them goes when the walk over the channel is done and nobody is left to be flushed. Ages
//!   do not wait, nor do the bounds for all channels together.
//! - What was in the log when a conn resumed does not count for its quota. It costs nothing but the
//!   cursor.
//! - A first visit with `since=first` or `last` is a resume from before the history that it asks
//!   for (`hub/initial.rs`). Its publications have frames of their own, with a mark, which are
//!   shared like all others. What leaves the log before the first of them is given is no gap.
//! - Who conflates steps over an entry only if a later one of the same channel and key is in the
//!   log behind it, and is told of it before it is given what follows. That begins when a conn is
//!   further behind than its quota, also by coming back, and ends when it has caught up.
//! - A client that has sent FIN is answered: a stream is given what the log has for it, and then
//!   ends. It is not kept for later publications, since FIN may mean that the client has gone.
//! - Each conn has an armed deadline, or its timer has fired and waits for a round to end.
//! - A bit of readiness is cleared only when the socket would block. A conn that may be read and is
//!   readable is on the list for read; one that has something to send that no window holds back,
//!   and is writable, is on the list for flush or in a walk.
//!
//! # Where the code is not what one would expect
//!
//! - *Position of a worker behind the feed.* Workers append at their own pace. A client that comes
//!   from a faster worker may name an id that this one has not reached. The feed therefore shows
//!   the newest number it gave out; an id up to that is no gap, and what comes below it is not
//!   repeated.
//! - *What was published before a channel came to be.* A channel that nobody subscribes to and that
//!   has no entry left is dropped. The hub keeps the newest eviction of all dropped channels of a
//!   namespace, and a resume from before that is told of a gap, perhaps without need, never the
//!   other way round.
//! - *The log's bytes* count a publication, the encodings that workers have used, the room in the
//!   channels' lists, the list of all entries in order, and the channels that have an entry.
//! - *The newest publication of a channel* stays, whatever its namespace says of bytes: a client
//!   that comes late has something.
//! - *permessage-deflate* is agreed to without context takeover on either side and in one window
//!   for everybody. A client's fragmented message is kept compressed and inflated at its end, so
//!   that its UTF-8 is checked then and no client can hold an inflater; a message that is not made
//!   shorter shares the plain frame.
//! - *A poll is subscribed only while it waits.* Between two polls nobody may be subscribed to its
//!   channel, which may be dropped meanwhile and take its past with it. So a poll that waited goes
//!   to the log's head when its time is over, and a short poll that has long been at the same
//!   position is moved on before the log moves past it.
//! - *No id before the gaps it lies behind*. Streams open with their gaps and then the position,
//!   that of the channel furthest back; a client that is cut off between resumes from where it was.
//!   A gap in mid-stream is not cut as in a poll's answer, since the connection may end after any
//!   publication: it is reported whole, then the position up to which nothing is owed. A client
//!   that resumes from before the gap's end is given what the log has, or receives a gap again.
//! - *A drain waits for kernels, not for clients.* A conn is closed when its peer's kernel has
//!   acknowledged the goodbye, so a client that never closes holds nothing up.
//!   The kernel reports no readiness for that: `worker/drain.rs` looks every few milliseconds.
//!   The order to drain overtakes the inbox, and names when it was given: the windows of all
//!   workers end at one time, after which clients are asked to return.
//! - *What is sealed counts as written*, since it cannot be taken back: cursor and outbox have
//!   moved on. Nothing is sealed on top of what the socket has not taken, so that is one write's
//!   budget at most, and a conn's FIN, its end and the answer to its next request wait for it.
//! - *Kernel TLS was tried and removed*: 12 KB more kernel memory per connection and twice the CPU
//!   where it could be measured. Linux sealed and opened the records after the handshake. An idle
//!   conn had 0.3 instead of 3.8 KB in the process; the 12 KB are of both ends together. The CPU is
//!   that of a delivery of 1,400 bytes, on Linux 6.1 in a virtual machine without AES instructions.
//! - *TLS beside the machine, not in it.* The design had it inside `conn`. Sealing needs the frames
//!   of the log, which only flush has in its hands, and a table of the worker costs conns of plain
//!   listeners no byte.
//! - *Heartbeats of event streams* carry the position when the stream has everything, so that a
//!   client of a quiet channel does not resume from an hour ago. A block without data has the
//!   reserved type `fanfare.position`, since some clients dispatch a message at every empty line.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | worker | one thread with its own poll, slab, timer wheel and hub |
//! | turn | one iteration of a worker's loop |
//! | readiness | what the kernel reports about a socket |
//! | conn | one accepted socket's state; [`id::ConnId`] names it |
//! | request | the one HTTP head parsed before a transport is chosen |
//! | transport | how a subscriber is served: WebSocket, event stream, long poll, short poll |
//! | channel | a named point of fan-out |
//! | subscriber | membership of a conn in a channel |
//! | publication | one payload addressed to a channel, with its id |
//! | log | the node's recent publications, within bounds; written by the sequencer alone |
//! | head | everything up to here was posted to a worker and taken in by it |
//! | tail | the newest entries of a channel, held by a worker that brings them to subscribers |
//! | namespace | channels that a pattern matches, with rules of their own |
//! | epoch | a stretch of the one sequence in which no number stands for two publications |
//! | cursor | a position in the log; on the wire an opaque id |
//! | frame | immutable wire bytes of a publication for one transport and envelope |
//! | hub | a worker's subscribers, their cursors, and the walks over them |
//! | quota | the bounds of one conn, and what happens when it exceeds them |
//! | feed, feeder | the Unix socket by which publications arrive, and who writes to it |
//! | consumer | a feeder that is told what clients publish, and who comes and goes |
//! | report | what a worker gives to the feed: a publication or a question of a client |
//! | notice | says that a stream has subscribed or unsubscribed; for consumers that ask for it |
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
