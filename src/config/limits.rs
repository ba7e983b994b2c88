//! Every fixed bound of the server, with its unit in its name.
//!
//! What an operator may change is in [`super::Config`]; what stands here follows from a protocol or
//! was measured, and changing it is a change of the program. The relations between bounds are
//! asserted when the crate is compiled.

/// Bytes in a kibibyte.
pub const KIB: u32 = 1024;

// -- One turn of a worker.

/// How long a worker with conns sleeps at most, in milliseconds, so that a pause of the process or
/// of its machine shows as a turn that came late.
pub const SLEEP_MS_MAX: u64 = 1_000;
/// What a turn may take beyond its sleep, in milliseconds. The rest is the server's own lag and
/// does not count against peers ([`crate::time::running`]).
pub const TURN_RUNNING_MS_MAX: u64 = 100;
/// How often a read is tried again that was interrupted.
pub const INTERRUPTED_READS_MAX: u32 = 64;
/// How many readiness reports one poll takes from the kernel.
pub const POLL_READINESS_MAX: u32 = 1024;
/// Bytes of a worker's one read buffer, hence of one read.
pub const READ_BUFFER_BYTES: u32 = 64 * KIB;
/// Bytes read from one conn in one turn before the others have theirs.
pub const READ_BYTES_PER_CONN_TURN_MAX: u32 = 128 * KIB;
/// Bytes of one read from a conn that streams. The answers to so many bytes of the shortest
/// commands stay below [`CONTROL_BYTES_MAX`], so that a client that reads is never cut off for a
/// burst.
pub const STREAM_READ_BYTES: u32 = 16 * KIB;
/// Work that the input of one conn may cause before the clock is looked at. One unit is the header
/// of a frame, some 30 ns. Work is counted because a look at the clock costs as much as a frame.
pub const WORK_AT_ONCE_MAX: u32 = 512;
/// How often one conn may cause so much work in one turn before the others have theirs. Enough for
/// a client that subscribes to 128 channels at once.
pub const WORKS_PER_CONN_TURN_MAX: u32 = 16;
/// Time that the work of one conn may take in one turn, in microseconds. It binds where commands
/// cost more than they count for.
pub const CONN_SLICE_US_MAX: u64 = 1_000;
/// Bytes of an inflated message that are one unit of work.
pub const INFLATED_BYTES_PER_WORK: usize = 32;
/// Work of a message of the subprotocol, which is parsed and answered.
pub const COMMAND_WORK: u32 = 32;
/// Work of a subscription to one channel, for which a position is looked up.
pub const JOIN_WORK: u32 = 32;
/// Conns read in one turn.
pub const READ_CONNS_PER_TURN_MAX: u32 = 1024;
/// Time that reading may take in one turn before the other phases have theirs, in microseconds.
/// Conns that all have their budget full would otherwise take a second.
pub const READ_SLICE_US_MAX: u64 = 10_000;
/// Reads in one turn of conns whose TLS handshake is under way. One costs up to a millisecond where
/// the key is RSA, and a tenth of that otherwise.
pub const HANDSHAKES_PER_TURN_MAX: u32 = 16;
/// Bytes of plaintext in a TLS record (RFC 8446, 5.1).
pub const TLS_RECORD_BYTES: usize = 16_384;
/// Origins whose pages are let in; a conn that waits remembers one by its place, in a byte.
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
/// Publications that one publication evicts from its channel while the channel is locked.
pub const TRIMS_PER_PUBLICATION_MAX: u32 = 64;
/// Conns that hold publications which are looked at in one turn while too much is pinned.
pub const HOLDERS_PER_TURN_MAX: usize = 4096;
/// After how many milliseconds a worker that has said nothing of what its conns pin may be asleep,
/// so that others no longer leave it to that one to close the oldest.
pub const PINNED_STALE_MS: u64 = 100;
/// Time that flush may take in one turn before reads and accepts have theirs, in microseconds.
pub const FLUSH_SLICE_US_MAX: u64 = 2_000;
/// Workers that walk over subscribers at once, for each processor. With one the scheduler finds
/// nobody while a place is handed on, and the last subscriber waits a tenth longer.
pub const WALKERS_PER_PROCESSOR: usize = 2;
/// Time for which a worker may walk before another has its place, in microseconds.
pub const WALK_PLACE_US: u64 = 4_000;
/// Visits between two looks at the clock during flush.
pub const FLUSH_VISITS_PER_CLOCK: usize = 16;
/// Writes of one batch, where the kernel takes batches. More cost a little less each, but the
/// clock is not looked at before all are done, which takes a millisecond or two as it is.
pub const RING_WRITES_MAX: u16 = 256;
/// Bytes of frames that a batch of writes collects before it is done, however few they are: large
/// frames take the kernel the longer.
pub const BATCH_WRITE_BYTES_MAX: usize = 256 * KIB as usize;
/// Slices given to one vectored write. The kernel takes 1024; past 64 the gain is gone.
pub const GATHER_SLICES_MAX: usize = 64;

// -- Accepting.

/// Descriptors of a worker's table that are not conns: poll, ring, listeners, the spare one,
/// standard streams, and some room. The wakes of all workers come on top.
pub const DESCRIPTORS_KEPT: u64 = 64;
/// Connections the kernel may hold for us to accept, per listener. `net.core.somaxconn` cuts it.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Parts of the table of sources, each with its own lock.
pub const SOURCE_TABLE_PARTS: usize = 64;
/// Seconds whose conns a source may open at once.
pub const CONNECTS_AT_ONCE_S: u64 = 5;
/// How often it is looked whether memory is short, in milliseconds.
pub const WATCH_MS: u64 = 1_000;
/// How often it is checked whether the feed's socket and the journal's files are still there, in
/// milliseconds.
pub const FILES_CHECK_MS: u64 = 500;
/// How long a FIFO that the configuration names may be silent, in milliseconds. Less than the
/// watchdog of the service allows, since a reload waits for it.
pub const INPUT_PAUSE_MS: u64 = 10_000;
/// Bytes of a configuration file, a certificate or a key.
pub const INPUT_BYTES: usize = 16 * 1024 * 1024;
/// How often a fault that lasts goes to the log, in milliseconds.
pub const FAULT_REPEATED_MS: u64 = 60_000;
/// The share of memory that is left to others where no bound is configured, in percent.
pub const MEMORY_LEFT_PERCENT: u64 = 10;
/// How long accepting pauses when no descriptor is left, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 250;

// -- Memory.

/// Conns that come and go before a worker looks for memory to give back.
pub const STORM_CONNS: u32 = 1024;
/// How long nobody must come or go before memory is given back, in milliseconds.
pub const STORM_QUIET_MS: u64 = 1_000;
/// After how long memory is given back although conns still come and go, in milliseconds.
pub const STORM_PATIENCE_MS: u64 = 10_000;

// -- Namespaces.

/// Namespaces that may be configured. All of them are looked at when a channel comes to be.
pub const NAMESPACES_MAX: usize = 256;

// -- Draining.

/// Time between two goodbyes of all workers together, in microseconds; less when
/// `drain.window_ms` is short.
pub const DRAIN_SPACING_US: u64 = 200;
/// How long the last goodbyes of a drain may take to arrive, in milliseconds.
pub const DRAIN_ARRIVAL_MS: u64 = 1_000;
/// How long after the end of a drain the first clients return, in milliseconds. Without a socket
/// unit nothing listens before the next server has started.
pub const RESTART_MS: u64 = 1_000;
/// The least time over which clients return after a drain, in milliseconds, so that not even a few
/// return at the same moment.
pub const RECONNECTS_MS_MIN: u64 = 500;
/// How long a drain waits for the request of a conn that was accepted just before, in
/// milliseconds.
pub const DRAIN_PENDING_MS: u64 = 50;
/// Time between two checks whether a goodbye has arrived, in milliseconds.
pub const DRAIN_CHECK_MS: u64 = 10;
/// Goodbyes that one such check looks at.
pub const DRAIN_CHECKS_MAX: usize = 1_024;

// -- HTTP on the client side.

/// Header fields of one request head.
pub const REQUEST_HEADERS_MAX: usize = 64;
/// The longest request target that is answered, in bytes; the head's own limit binds first by
/// default.
pub const REQUEST_TARGET_BYTES_MAX: usize = 64 * KIB as usize;
/// Bytes of answers above which a client that does not take them is not read.
pub const ANSWER_BYTES_PAUSE: usize = 16 * KIB as usize;
/// How long a long poll waits whose client does not say, in milliseconds; a limit that an operator
/// has set lower goes before.
pub const POLL_TIMEOUT_MS: u64 = 30_000;
/// Plans that a poll's answer looks at for a publication that has not expired. Behind them the
/// client is told how far it has got, and asks again.
pub const POLL_PLANS_MAX: u32 = 64;
/// How long a conn that has been told goodbye may take to say its own, in milliseconds.
pub const LINGER_MS: u64 = 2_000;

// -- Tokens (RFC 7519).

/// The longest token that is verified, in bytes: as long as the longest request head that can be
/// configured, so `limits.request_head_bytes` binds first. It bounds what `auth` costs, since
/// messages may be longer. A signature over so many bytes takes about 50 us more.
pub const TOKEN_BYTES_MAX: usize = 64 * KIB as usize;
/// Patterns that a token may have to subscribe, and as many again to publish.
pub const TOKEN_PATTERNS_MAX: usize = 64;
/// Bytes of the `sub` of a token.
pub const TOKEN_SUB_BYTES_MAX: usize = 256;
/// Keys by which tokens are verified. A token is tried with every key that matches its algorithm
/// and `kid`. Without a `kid`, up to this many signatures are checked, 20 to 60 us each.
pub const TOKEN_KEYS_MAX: usize = 64;
/// How long before its end the client of a WebSocket is told, in milliseconds, or half of the time
/// it has.
pub const TOKEN_WARNING_MS: u64 = 30_000;
/// How old a worker's calendar may be, in milliseconds. While a conn has a token, the worker wakes
/// at least so often. The kernel would report a clock that was set, or a suspension, by a timer
/// descriptor for each worker only; a wake costs about 10 us.
pub const CALENDAR_MS: u64 = 500;
/// Time between two tokens that a WebSocket may show, in milliseconds. A verification costs as much
/// as a hundred other commands.
pub const TOKEN_REFRESH_MS_MIN: u64 = 1_000;

// -- WebSocket (RFC 6455).

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// The longest header of a frame, in bytes (RFC 6455, 5.2).
pub const FRAME_HEADER_BYTES_MAX: usize = 14;
/// Bytes of answers a client may leave unread while it sends more, whatever its quota. Room for the
/// answer to a request of 128 channels with a gap in each, twice over.
pub const CONTROL_BYTES_MAX: usize = 256 * KIB as usize;

/// Publications that a window may let a client leave unacknowledged. The worker holds the id of
/// each, 8 bytes, so a conn with a window on each of 128 channels comes to 1 MiB of them.
pub const WINDOW_PUBLICATIONS_MAX: u32 = 1024;

/// Earlier epochs whose positions are recognised. Epochs change with faults of an engine, and few
/// clients come back from before the last change.
pub const PREVIOUS_EPOCHS_MAX: usize = 16;

// -- Compression (RFC 7692).

/// The level at which publications are compressed. It is done once for all subscribers, so bytes
/// count for more than time: against level 1 it takes a fourth to a third off, at two to three
/// times the time; level 6 takes another percent.
pub const DEFLATE_LEVEL: u32 = 3;
/// The window in which publications are compressed, as a power of two. One for all, so that there
/// is one frame for all; who asks for less goes without. At 4 KiB those are few, and the price is
/// small: a whole 32 KiB would take 0 to 4 percent more off documents of 13 KiB and nothing off
/// short ones, while 2 KiB costs another 3 to 6 percent and a tenth of the time.
pub const DEFLATE_WINDOW_BITS: u8 = 12;
/// Messages below this many bytes are sent as they are. Below it compression saves a few dozen
/// bytes of a segment that is sent anyway, and costs every client its inflating.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// Messages above this many bytes are sent as they are: at 8 ms for each MiB they would hold up
/// everybody else of the worker. The longest publication is shorter by default.
pub const DEFLATE_BYTES_MAX: usize = 2048 * KIB as usize;
/// Bytes inflated for clients in one turn, after which the read phase is over. A client gets a
/// thousand bytes out for each one it sends, so the bytes read say nothing about the work.
pub const INFLATED_BYTES_PER_TURN_MAX: u64 = 4096 * KIB as u64;
/// Bytes of a buffer that are kept from one compressed message to the next.
pub const DEFLATE_BUFFER_BYTES_KEPT: usize = 64 * KIB as usize;

// -- The feed.

/// Bytes read from one feeder at a time, hence about the size of a batch.
pub const FEED_READ_BYTES: usize = 64 * KIB as usize;
/// Publications after which a batch is handed over although more were read: one line may name a
/// thousand channels.
pub const BATCH_PUBLICATIONS_MAX: usize = 1024;
/// Bytes of publications after which a batch is handed over. With [`INBOX_BATCHES_MAX`] this bounds
/// what waits between the feed and a worker.
pub const BATCH_BYTES_MAX: u64 = 1024 * KIB as u64;
/// Batches that may wait in a worker's inbox. A full inbox stops the feed from reading.
pub const INBOX_BATCHES_MAX: usize = 64;
/// How long the feed waits for a full inbox before it looks after the log's bounds, in
/// milliseconds.
pub const INBOX_WAIT_MS: u64 = 10;
/// After how many milliseconds a poll is looked at again that has to be answered and waits for
/// publications that its worker has not taken in.
pub const ANSWER_WAIT_MS: u64 = 1_000;
/// How long a worker sleeps that has entries which are not due before others are posted, in
/// milliseconds.
pub const LATE_ENTRIES_WAIT_MS: u64 = 1;
/// Feeders connected at once.
pub const FEEDERS_MAX: usize = 1024;
/// Answers that one feeder may leave unread before it is no longer read, in bytes.
pub const FEED_ANSWER_BYTES_MAX: usize = 256 * KIB as usize;
/// Acknowledgements that one feeder may be waiting for before it is no longer read.
pub const FEED_ACKS_MAX: usize = 65_536;
/// Patterns one consumer may have.
pub const CONSUME_PATTERNS_MAX: usize = 256;
/// Longest reason of a close frame, in bytes: a control frame's payload without the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;
/// Bytes of its own that a conn may have on its way out for a backend to send it more, and the
/// longest thing that it is sent alone. Below [`CONTROL_BYTES_MAX`], so that no backend can have a
/// client cut off.
pub const DIRECT_BYTES_MAX: usize = 128 * KIB as usize;
/// Reports of workers that may wait for the feed. With `limits.client_message_bytes` this bounds
/// what clients have published and no consumer has taken.
pub const REPORTS_MAX: usize = 256;
/// Reports that the feed takes before it turns to its feeders again.
pub const REPORTS_PER_ROUND_MAX: u32 = 256;
/// Bytes of what clients have published that one worker keeps until the feed has room; more is
/// refused.
pub const UPSTREAM_BYTES_MAX: usize = 4096 * KIB as usize;
/// Notices that may wait for consumers, of all workers together; more are counted as lost.
pub const NOTICES_MAX: usize = 65_536;
/// Notices of one conn that may wait before it is no longer read. Half as many let it be read
/// again.
pub const NOTICES_PER_CONN_MAX: usize = 32;
/// Notices that are passed over because their consumers have no room. Those that come after so many
/// wait too, whatever consumers they are for.
pub const NOTICES_PASSED_MAX: usize = 4_096;
/// Bytes of notices that wait to be written to one consumer.
pub const NOTICE_BYTES_AT_ONCE: usize = 4 * KIB as usize;
/// Bytes of the kernel's memory with what a consumer has not read, up to which it gets more
/// notices. A publication has little in front of it, however slowly the consumer reads.
pub const NOTICE_UNREAD_BYTES_MAX: u32 = 8 * KIB;
/// After so many bytes of publications and answers a consumer gets notices although it has more
/// unread, so that steady publications leave them a share.
pub const NOTICE_INTERVAL_BYTES: u64 = 64 * KIB as u64;
/// How long a consumer may make others wait and read next to nothing before it is cut off, in
/// milliseconds of running time.
pub const CONSUMER_STALL_MS: u64 = 10_000;
/// What a consumer has to read in that time, in bytes of the kernel's memory; less is next to
/// nothing.
pub const CONSUMER_READ_BYTES_MIN: u64 = 2 * KIB as u64;
/// Bytes written to a consumer at once. The kernel counts a piece as unread until its last byte has
/// been read, and with its own data this one fills 2 KiB.
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
/// Channels one publication may name.
pub const CHANNELS_PER_PUBLICATION_MAX: usize = 1024;

// -- The journal.

/// Bytes of records that the journal's store collects in memory before it writes a table.
pub const JOURNAL_MEMTABLE_BYTES: u64 = 16 * 1024 * KIB as u64;
/// Bytes of records in a chunk, which goes as a whole. No fewer than the store collects, so that a
/// full chunk is in tables soon and not only in the store's write-ahead log.
pub const JOURNAL_CHUNK_BYTES: u64 = JOURNAL_MEMTABLE_BYTES;
/// Chunks of which `journal.bytes` consists, unless they would be too small.
pub const JOURNAL_CHUNKS_MAX: u64 = 64;
/// Full chunks that are not in tables; with so many a new one waits up to a second.
pub const JOURNAL_CHUNKS_UNFLUSHED_MAX: usize = 3;
/// Bytes of blocks that the store remembers. Records are read once, at a start.
pub const JOURNAL_CACHE_BYTES: u64 = 1024 * KIB as u64;
/// Files that the store holds open.
pub const JOURNAL_FILES_MAX: usize = 64;
/// Bytes of full write-ahead logs at which the store writes what holds the oldest, which is as few
/// as it allows.
pub const JOURNAL_LOG_BYTES: u64 = 64 * 1024 * KIB as u64;
/// Milliseconds that a store which has failed is left alone before it is opened again.
pub const JOURNAL_PAUSE_MS: u64 = 1_000;
/// Milliseconds without a batch after which a store that has failed is opened again without one.
pub const JOURNAL_QUIET_MS: u64 = 5_000;
/// The longest record, in bytes: the longest line or body of the feed and some room.
pub const JOURNAL_RECORD_BYTES_MAX: u64 = 65 * 1024 * KIB as u64;
/// Numbers that may be given out before the next are put aside. After a start that cannot know
/// which were given out, so many are left out.
pub const JOURNAL_NUMBERS_ASIDE: u64 = 1 << 32;
/// Appends that may wait to be synced before the feed waits for the disk.
pub const JOURNAL_SYNCS_WAITING_MAX: usize = 1024;

// -- The admin listener.

/// Connections of the admin listener; beyond them the oldest silent one makes room for a new one.
/// At 50 a second a silent one has more than [`ADMIN_STEP_MS`].
pub const ADMIN_CONNS_MAX: usize = 128;
/// Connections of the admin listener accepted before those that are held are looked at again.
pub const ADMIN_ACCEPTS_PER_TURN_MAX: usize = 16;
/// Bytes of a request head on the admin listener.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 * KIB as usize;
/// Time for a whole head to arrive on the admin listener, and again for its answer to leave, in
/// milliseconds.
pub const ADMIN_STEP_MS: u64 = 2_000;

const _: () = assert!(READ_BUFFER_BYTES <= READ_BYTES_PER_CONN_TURN_MAX);
const _: () = assert!(STREAM_READ_BYTES <= READ_BUFFER_BYTES);
const _: () = assert!(CONTROL_PAYLOAD_BYTES_MAX <= 125);
const _: () = assert!(GATHER_SLICES_MAX <= 1024);
const _: () = assert!(DEFLATE_WINDOW_BITS >= 9 && DEFLATE_WINDOW_BITS <= 15);
const _: () = assert!(DEFLATE_BYTES_MIN < DEFLATE_BYTES_MAX);
