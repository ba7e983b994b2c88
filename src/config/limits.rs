//! Every fixed bound of the server, with its unit in its name.
//!
//! An operator changes [`super::Config`]. The bounds here follow from a protocol or from a
//! measurement; a change of them is a change of the program. Relations between bounds are asserted
//! at the end of the file, at compile time.

/// Bytes in a kibibyte.
pub const KIB: u32 = 1024;

// -- What the configuration may choose.

/// Worker threads.
pub const WORKERS_MAX: u32 = 1024;
/// Bytes of a request head.
pub const REQUEST_HEAD_BYTES_MAX: u32 = 64 * KIB;
/// Bytes of one line, or of one request body, on the feed.
pub const FEED_LINE_BYTES_MAX: u32 = 64 * 1024 * KIB;

// -- One turn of a worker.

/// The longest sleep of a worker with conns, in milliseconds: a pause of the process or of its
/// machine is noticed as a late turn.
pub const SLEEP_MS_MAX: u64 = 1_000;
/// Running time of a turn beyond its sleep, in milliseconds. More is the server's own lag and does
/// not count against peers ([`crate::time::running`]).
pub const TURN_RUNNING_MS_MAX: u64 = 100;
/// Attempts to repeat an interrupted read.
pub const INTERRUPTED_READS_MAX: u32 = 64;
/// Readiness reports that one poll takes from the kernel.
pub const POLL_READINESS_MAX: u32 = 1024;
/// Bytes of a worker's one read buffer, hence of one read.
pub const READ_BUFFER_BYTES: u32 = 64 * KIB;
/// Bytes read from one conn in one turn.
pub const READ_BYTES_PER_CONN_TURN_MAX: u32 = 128 * KIB;
/// Bytes of one read from a conn that streams. The answers to commands of so many bytes fit in
/// [`CONTROL_BYTES_MAX`], so that a client that reads its answers is never closed for a burst.
pub const STREAM_READ_BYTES: u32 = 16 * KIB;
/// Work that the input of one conn may cause between two reads of the clock. One unit is the header
/// of a frame, some 30 ns. Work is counted because reading the clock costs as much as a frame.
pub const WORK_AT_ONCE_MAX: u32 = 512;
/// How many times [`WORK_AT_ONCE_MAX`] one conn may cause in one turn. Enough for a client that
/// subscribes to 128 channels at once.
pub const WORKS_PER_CONN_TURN_MAX: u32 = 16;
/// Time that the work of one conn may take in one turn, in microseconds. It binds if commands take
/// longer than their units of work suggest.
pub const CONN_SLICE_US_MAX: u64 = 1_000;
/// Bytes of an inflated message that are one unit of work.
pub const INFLATED_BYTES_PER_WORK: usize = 32;
/// Work of a message of the subprotocol, which is parsed and answered.
pub const COMMAND_WORK: u32 = 32;
/// Work of a subscription to one channel, which looks up a position.
pub const JOIN_WORK: u32 = 32;
/// Conns read in one turn.
pub const READ_CONNS_PER_TURN_MAX: u32 = 1024;
/// Time that the read phase may take in one turn, in microseconds. If all conns used their whole
/// budget, it would take a second otherwise.
pub const READ_SLICE_US_MAX: u64 = 10_000;
/// Reads in one turn from conns in their TLS handshake. One takes up to a millisecond with an RSA
/// key, and a tenth of that otherwise.
pub const HANDSHAKES_PER_TURN_MAX: u32 = 16;
/// Bytes of plaintext in a TLS record (RFC 8446, 5.1).
pub const TLS_RECORD_BYTES: usize = 16_384;
/// Allowed origins. A conn stores the index of its origin in a byte.
pub const BROWSER_ORIGINS_MAX: usize = 64;
/// Addresses to listen on; a worker has a bit for each.
pub const LISTENERS_MAX: usize = 64;
/// Conns accepted in one turn.
pub const ACCEPTS_PER_TURN_MAX: u32 = 128;
/// Publications that a worker takes from its inbox in one turn.
pub const PUBLICATIONS_PER_TURN_MAX: u32 = 1024;
/// Timers that fire in one turn.
pub const EXPIRES_PER_TURN_MAX: u32 = 2048;
/// Publications evicted from the log in one turn.
pub const EVICTIONS_PER_TURN_MAX: u32 = 4096;
/// Publications that one publication may evict from its channel while it holds the channel's lock.
pub const TRIMS_PER_PUBLICATION_MAX: u32 = 64;
/// Conns that are checked for pinned publications in one turn while too much is pinned.
pub const HOLDERS_PER_TURN_MAX: usize = 4096;
/// Age of a worker's report on what its conns pin, in milliseconds, after which the worker counts
/// as asleep. Other workers then close their own oldest holders.
pub const PINNED_STALE_MS: u64 = 100;
/// Time that the flush phase may take in one turn, in microseconds.
pub const FLUSH_SLICE_US_MAX: u64 = 2_000;
/// Workers that may walk over their subscribers at the same time, for each processor. With one, a
/// processor idles while a permit passes to the next worker, and the last subscriber is reached a
/// tenth later.
pub const WALKERS_PER_PROCESSOR: usize = 2;
/// Time for which a worker keeps a permit to walk while others wait, in microseconds.
pub const FANOUT_PERMIT_US: u64 = 4_000;
/// Subscribers visited between two reads of the clock during flush.
pub const FLUSH_VISITS_PER_CLOCK: usize = 16;
/// Writes of one batch of the ring. More would cost a little less each, but the clock is not read
/// before all are done, which takes a millisecond or two as it is.
pub const RING_WRITES_MAX: u16 = 256;
/// Bytes of frames after which a batch of writes is submitted, whatever its number of writes: the
/// kernel copies large frames for longer.
pub const BATCH_WRITE_BYTES_MAX: usize = 256 * KIB as usize;
/// Slices given to one vectored write. The kernel takes 1024; past 64 the gain is gone.
pub const GATHER_SLICES_MAX: usize = 64;

// -- Accepting.

/// Descriptors of a worker's table that are not conns: poll, ring, listeners, the spare one,
/// standard streams, and some room. The eventfds of all workers come on top.
pub const DESCRIPTORS_KEPT: u64 = 64;
/// Connections of one listener that the kernel queues until they are accepted.
/// `net.core.somaxconn` caps it.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Parts of the table of sources, each with its own lock.
pub const SOURCE_TABLE_PARTS: usize = 64;
/// Burst of the limit on connects: a source may open the connections of this many seconds at once.
pub const CONNECTS_AT_ONCE_S: u64 = 5;
/// Time between two measurements of memory, in milliseconds.
pub const WATCH_MS: u64 = 1_000;
/// Time between two checks that the feed's socket and the journal's files still exist, in
/// milliseconds.
pub const FILES_CHECK_MS: u64 = 500;
/// How long a FIFO that the configuration names may be silent, in milliseconds. Less than the
/// watchdog of the service allows, since a reload waits for it.
pub const INPUT_PAUSE_MS: u64 = 10_000;
/// Bytes of a configuration file, a certificate or a key.
pub const INPUT_BYTES: usize = 16 * 1024 * 1024;
/// Time between two log lines about the same lasting fault, in milliseconds.
pub const FAULT_REPEATED_MS: u64 = 60_000;
/// The part of memory that is left to other programs if no limit is configured, in percent.
pub const MEMORY_LEFT_PERCENT: u64 = 10;
/// How long accepting pauses if no descriptor is free, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 250;

// -- Memory.

/// Conns that a worker must have opened and closed before it returns memory to the system.
pub const MEMORY_TRIM_CONNS: u32 = 1024;
/// Time without an opened or closed conn after which memory is returned, in milliseconds.
pub const MEMORY_TRIM_QUIET_MS: u64 = 1_000;
/// Time after which memory is returned although conns are still opened and closed, in milliseconds.
pub const MEMORY_TRIM_DELAY_MS_MAX: u64 = 10_000;

// -- Namespaces.

/// Namespaces that may be configured. All of them are compared when a channel is created.
pub const NAMESPACES_MAX: usize = 256;

// -- Draining.

/// Time between two closes of all workers together, in microseconds; less if `drain.window_ms` is
/// short.
pub const DRAIN_SPACING_US: u64 = 200;
/// Time for the last closes of a drain to arrive, in milliseconds.
pub const DRAIN_ARRIVAL_MS: u64 = 1_000;
/// Time from the end of a drain to the return of the first clients, in milliseconds. Without a
/// socket unit, nothing listens before the next server has started.
pub const RESTART_MS: u64 = 1_000;
/// The shortest time over which clients return after a drain, in milliseconds. It spreads even a
/// few clients.
pub const RECONNECTS_MS_MIN: u64 = 500;
/// How long a drain waits for the request of a conn that was just accepted, in milliseconds.
pub const DRAIN_PENDING_MS: u64 = 50;
/// Time between two checks whether the peers have acknowledged their closes, in milliseconds.
pub const DRAIN_CHECK_MS: u64 = 10;
/// Conns of one such check.
pub const DRAIN_CHECKS_MAX: usize = 1_024;

// -- HTTP on the client side.

/// Header fields of one request head.
pub const REQUEST_HEADERS_MAX: usize = 64;
/// The longest request target, in bytes. By default the limit on the head binds first.
pub const REQUEST_TARGET_BYTES_MAX: usize = 64 * KIB as usize;
/// Bytes of unsent responses above which a client is not read.
pub const ANSWER_BYTES_PAUSE: usize = 16 * KIB as usize;
/// How long a long poll waits if its client names no time, in milliseconds. A lower
/// `limits.poll_timeout_ms` binds first.
pub const POLL_TIMEOUT_MS: u64 = 30_000;
/// Plans that one poll makes in search of a publication that has not expired. After that the
/// response has the position that was reached, and the client polls again.
pub const POLL_PLANS_MAX: u32 = 64;
/// How long a closed conn waits for the peer's close, in milliseconds.
pub const LINGER_MS: u64 = 2_000;

// -- Tokens (RFC 7519).

/// The longest token that is verified, in bytes: the longest request head that can be configured,
/// so `limits.request_head_bytes` binds first. It bounds the cost of the `auth` command, since
/// messages may be longer. A signature over so many bytes takes about 50 us more.
pub const TOKEN_BYTES_MAX: usize = REQUEST_HEAD_BYTES_MAX as usize;
/// Patterns of a token to subscribe, and as many again to publish.
pub const TOKEN_PATTERNS_MAX: usize = 64;
/// Bytes of the `sub` of a token.
pub const TOKEN_SUB_BYTES_MAX: usize = 256;
/// Keys that verify tokens. A token is checked with every key that matches its algorithm and `kid`.
/// Without a `kid`, up to this many signatures are checked, 20 to 60 us each.
pub const TOKEN_KEYS_MAX: usize = 64;
/// Time from the warning to a WebSocket client to the expiry of its token, in milliseconds; half of
/// the token's remaining time if that is less.
pub const TOKEN_WARNING_MS: u64 = 30_000;
/// The oldest a worker's date may be, in milliseconds. While a conn has a token, the worker wakes
/// at least this often. The kernel reports a clock step or a suspension only through a timer
/// descriptor for each worker; a wake costs about 10 us.
pub const CALENDAR_REFRESH_MS: u64 = 500;
/// Time between two tokens of one WebSocket, in milliseconds. A verification costs as much as a
/// hundred other commands.
pub const TOKEN_REFRESH_MS_MIN: u64 = 1_000;

// -- WebSocket (RFC 6455).

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// The longest header of a frame, in bytes (RFC 6455, 5.2).
pub const FRAME_HEADER_BYTES_MAX: usize = 14;
/// Bytes of answers that a client may leave unread while it sends more, whatever its quota. Twice
/// the answer to a request of 128 channels with a gap in each.
pub const CONTROL_BYTES_MAX: usize = 256 * KIB as usize;

/// The largest window: publications that a client may leave unacknowledged. The worker holds the id
/// of each, 8 bytes, so a conn with a window on each of 128 channels holds up to 1 MiB.
pub const WINDOW_PUBLICATIONS_MAX: u32 = 1024;

/// Earlier epochs whose positions are recognised. Epochs change with faults of an engine, and few
/// clients return with a position from before the last change.
pub const PREVIOUS_EPOCHS_MAX: usize = 16;

// -- Compression (RFC 7692).

/// The level at which publications are compressed. This is done once for all subscribers, so size
/// matters more than time: level 3 saves a fourth to a third against level 1 at two to three times
/// the time; level 6 saves one percent more.
pub const DEFLATE_LEVEL: u32 = 3;
/// The window in which publications are compressed, as a power of two. It is the same for all, so
/// that one frame serves all; a client that offers a smaller window is served uncompressed. Few
/// clients offer less than 4 KiB, and the price is small: 32 KiB would save 0 to 4 percent of
/// documents of 13 KiB and nothing of short ones, while 2 KiB costs 3 to 6 percent and saves a
/// tenth of the time.
pub const DEFLATE_WINDOW_BITS: u8 = 12;
/// Shorter messages are not compressed. It would save a few dozen bytes of a segment that is sent
/// anyway, and every client would have to inflate them.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// Longer messages are not compressed: at 8 ms for each MiB they would delay all other conns of the
/// worker. By default the longest publication is shorter.
pub const DEFLATE_BYTES_MAX: usize = 2048 * KIB as usize;
/// Bytes inflated for clients in one turn, after which the read phase ends. One byte on the wire
/// may become a thousand, so the bytes read do not measure the work.
pub const INFLATED_BYTES_PER_TURN_MAX: u64 = 4096 * KIB as u64;
/// Largest buffer that is kept from one compressed message to the next, in bytes.
pub const DEFLATE_BUFFER_BYTES_KEPT: usize = 64 * KIB as usize;

// -- The feed.

/// Bytes read from one feeder at a time, and so about the size of a batch.
pub const FEED_READ_BYTES: usize = 64 * KIB as usize;
/// Publications after which a batch is posted although more were read: one line may name a thousand
/// channels.
pub const BATCH_PUBLICATIONS_MAX: usize = 1024;
/// Bytes of publications after which a batch is posted. With [`INBOX_BATCHES_MAX`] this bounds what
/// waits between the feed and a worker.
pub const BATCH_BYTES_MAX: u64 = 1024 * KIB as u64;
/// Batches that may wait in a worker's inbox. The feed does not read while an inbox is full.
pub const INBOX_BATCHES_MAX: usize = 64;
/// How long the feed waits for a full inbox before it enforces the log's bounds, in milliseconds.
pub const INBOX_WAIT_MS: u64 = 10;
/// Time after which a due poll is checked again that waits for publications which its worker has
/// not taken in, in milliseconds.
pub const ANSWER_WAIT_MS: u64 = 1_000;
/// How long a worker sleeps that has entries which may be delivered only after earlier ones are
/// posted, in milliseconds.
pub const LATE_ENTRIES_WAIT_MS: u64 = 1;
/// Feeders connected at once.
pub const FEEDERS_MAX: usize = 1024;
/// Bytes of unread answers above which a feeder is not read.
pub const FEED_ANSWER_BYTES_MAX: usize = 256 * KIB as usize;
/// Pending acknowledgements above which a feeder is not read.
pub const FEED_ACKS_MAX: usize = 65_536;
/// Patterns of one consumer.
pub const CONSUME_PATTERNS_MAX: usize = 256;
/// Longest reason of a close frame, in bytes: a control frame's payload without the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;
/// Unsent control bytes of a conn above which a backend cannot send to it, and the longest message
/// of a backend to one conn. Below [`CONTROL_BYTES_MAX`], so that no backend can cause the close of
/// a client.
pub const DIRECT_BYTES_MAX: usize = 128 * KIB as usize;
/// Reports of workers that may wait for the feed. With `limits.client_message_bytes` this bounds
/// what clients have published and no consumer has received.
pub const REPORTS_MAX: usize = 256;
/// Reports that the feed takes before it serves its feeders again.
pub const REPORTS_PER_ROUND_MAX: u32 = 256;
/// Bytes of client publications that one worker holds until the feed has room; more is refused.
pub const UPSTREAM_BYTES_MAX: usize = 4096 * KIB as usize;
/// Notices that may wait for consumers, of all workers together; more are counted as lost.
pub const NOTICES_MAX: usize = 65_536;
/// Waiting notices of one conn above which it is not read. It is read again when half as many wait.
pub const NOTICES_PER_CONN_MAX: usize = 32;
/// Notices that are skipped because their consumers have no room. After so many, later ones wait
/// too, whatever consumer they are for.
pub const NOTICES_PASSED_MAX: usize = 4_096;
/// Bytes of notices in the write buffer of one consumer.
pub const NOTICE_BYTES_AT_ONCE: usize = 4 * KIB as usize;
/// Unread bytes of a consumer, as the kernel accounts them, up to which it receives more notices.
/// So a publication has few notices in front of it, however slowly the consumer reads.
pub const NOTICE_UNREAD_BYTES_MAX: u32 = 8 * KIB;
/// Bytes of publications and answers after which a consumer receives notices although it has more
/// unread. So steady publications do not starve notices.
pub const NOTICE_INTERVAL_BYTES: u64 = 64 * KIB as u64;
/// How long a consumer for which others wait may read less than [`CONSUMER_READ_BYTES_MIN`] before
/// it is closed, in milliseconds of running time.
pub const CONSUMER_STALL_MS: u64 = 10_000;
/// What such a consumer must read in that time, in bytes as the kernel accounts them.
pub const CONSUMER_READ_BYTES_MIN: u64 = 2 * KIB as u64;
/// Bytes written to a consumer at once. The kernel counts one write as unread until its last byte
/// is read; with the kernel's own data this size fills 2 KiB.
pub const CONSUMER_PIECE_BYTES: usize = 1_728;
/// Idempotency keys remembered.
pub const DEDUPE_KEYS_MAX: usize = 65_536;
/// How long an idempotency key is remembered, in milliseconds.
pub const DEDUPE_WINDOW_MS: u64 = 120_000;
/// Longest idempotency or conflation key and longest event type, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// Levels of arrays and objects in a JSON payload, of a feeder or a client.
pub const JSON_LEVELS_MAX: usize = 128;
/// Digits of a number in a JSON payload, those of its fraction and exponent included.
pub const JSON_DIGITS_MAX: usize = 1000;
/// Channels of one publication.
pub const CHANNELS_PER_PUBLICATION_MAX: usize = 1024;

// -- The journal.

/// Bytes of records that the journal's store holds in memory before it writes a table.
pub const JOURNAL_MEMTABLE_BYTES: u64 = 16 * 1024 * KIB as u64;
/// Bytes of records in a chunk, which is deleted as a whole. At least what the store holds in
/// memory, so that a full chunk is soon in tables and not only in the store's write-ahead log.
pub const JOURNAL_CHUNK_BYTES: u64 = JOURNAL_MEMTABLE_BYTES;
/// Chunks into which `journal.bytes` is divided, unless they would be too small.
pub const JOURNAL_CHUNKS_MAX: u64 = 64;
/// Full chunks that are not yet in tables; with so many, a new one waits up to a second.
pub const JOURNAL_CHUNKS_UNFLUSHED_MAX: usize = 3;
/// Bytes of the store's block cache. Records are read once, at a start.
pub const JOURNAL_CACHE_BYTES: u64 = 1024 * KIB as u64;
/// Files that the store keeps open.
pub const JOURNAL_FILES_MAX: usize = 64;
/// Bytes of full write-ahead logs above which the store flushes what the oldest log holds; the
/// least that the store allows.
pub const JOURNAL_LOG_BYTES: u64 = 64 * 1024 * KIB as u64;
/// Time from a failure of the store to the attempt to open it again, in milliseconds.
pub const JOURNAL_PAUSE_MS: u64 = 1_000;
/// Time without a batch after which a store that has failed is opened again without one, in
/// milliseconds.
pub const JOURNAL_QUIET_MS: u64 = 5_000;
/// The longest record, in bytes: the longest line or body of the feed and some room.
pub const JOURNAL_RECORD_BYTES_MAX: u64 = 65 * 1024 * KIB as u64;
/// Sequence numbers that are reserved at a time. A start that cannot know which of them were used
/// skips all of them.
pub const JOURNAL_IDS_RESERVED: u64 = 1 << 32;
/// Appends that may wait to be synced before the feed waits for the disk.
pub const JOURNAL_SYNCS_WAITING_MAX: usize = 1024;

// -- The admin listener.

/// Connections of the admin listener. Above that the oldest silent one is closed for a new one. At
/// 50 new ones a second, a silent one is open for longer than [`ADMIN_STEP_MS`].
pub const ADMIN_CONNS_MAX: usize = 128;
/// Connections that the admin listener accepts before it serves the open ones again.
pub const ADMIN_ACCEPTS_PER_TURN_MAX: usize = 16;
/// Bytes of a request head on the admin listener.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 * KIB as usize;
/// Time for a whole head to arrive on the admin listener, and again for its response to be sent, in
/// milliseconds.
pub const ADMIN_STEP_MS: u64 = 2_000;

// -- Relations.

const _: () = assert!(TURN_RUNNING_MS_MAX < SLEEP_MS_MAX);
const _: () = assert!(READ_BUFFER_BYTES <= READ_BYTES_PER_CONN_TURN_MAX);
const _: () = assert!(STREAM_READ_BYTES <= READ_BUFFER_BYTES);
const _: () = assert!(CONTROL_PAYLOAD_BYTES_MAX <= 125);
const _: () = assert!(DIRECT_BYTES_MAX < CONTROL_BYTES_MAX);
// The shortest command is an empty text frame of 6 bytes; its answer has at most 96 bytes. A test
// of `conn` sends a read full of them.
const _: () = assert!(STREAM_READ_BYTES as usize / 6 * 96 <= CONTROL_BYTES_MAX);
const _: () = assert!(GATHER_SLICES_MAX <= 1024);
// A worker has a bit of a u64 for each listener, and a conn a byte for its origin.
const _: () = assert!(LISTENERS_MAX <= u64::BITS as usize);
const _: () = assert!(BROWSER_ORIGINS_MAX <= 1 << u8::BITS);
// Worker numbers have 16 bits.
const _: () = assert!(WORKERS_MAX <= u16::MAX as u32);
const _: () = assert!(REQUEST_TARGET_BYTES_MAX <= REQUEST_HEAD_BYTES_MAX as usize);
const _: () = assert!(TOKEN_BYTES_MAX >= REQUEST_HEAD_BYTES_MAX as usize);
const _: () = assert!(DEFLATE_WINDOW_BITS >= 9 && DEFLATE_WINDOW_BITS <= 15);
const _: () = assert!(DEFLATE_BYTES_MIN < DEFLATE_BYTES_MAX);
const _: () = assert!(FEED_READ_BYTES as u64 <= BATCH_BYTES_MAX);
const _: () = assert!(CHANNELS_PER_PUBLICATION_MAX <= BATCH_PUBLICATIONS_MAX);
const _: () = assert!(NOTICES_PASSED_MAX < NOTICES_MAX);
const _: () = assert!((CONSUMER_PIECE_BYTES as u64) < CONSUMER_READ_BYTES_MIN);
const _: () = assert!(CONSUMER_READ_BYTES_MIN < NOTICE_UNREAD_BYTES_MAX as u64);
const _: () = assert!(JOURNAL_MEMTABLE_BYTES <= JOURNAL_CHUNK_BYTES);
const _: () = assert!(FEED_LINE_BYTES_MAX as u64 + 1024 * KIB as u64 <= JOURNAL_RECORD_BYTES_MAX);
// A silent connection is closed for a new one later than for its deadline.
const _: () = assert!(ADMIN_CONNS_MAX as u64 * 1000 / 50 > ADMIN_STEP_MS);
