//! Every fixed bound of the server, with its unit in its name.
//!
//! An operator changes the values of [`super::Config`]. The bounds here result from a protocol or
//! from a measurement, so they can be changed only in the program. Relations between bounds are
//! asserted at the end of the file, at compile time.

/// Bytes in a kibibyte.
pub const KIB: u32 = 1024;

// -- Maximum values of the configuration.

/// The maximum number of worker threads.
pub const WORKERS_MAX: u32 = 1024;
/// The maximum length of a request head, in bytes.
pub const REQUEST_HEAD_BYTES_MAX: u32 = 64 * KIB;
/// The maximum length of a line, or of a request body, on the feed, in bytes.
pub const FEED_LINE_BYTES_MAX: u32 = 64 * 1024 * KIB;

// -- Bounds on one turn of a worker.

/// The maximum sleep of a worker that has conns, in milliseconds. A turn that takes much longer
/// shows that the process or the machine was paused.
pub const SLEEP_MS_MAX: u64 = 1_000;
/// The maximum time of one turn, without its sleep, that counts against the deadlines of peers, in
/// milliseconds. If a turn takes longer, the peers are not responsible for the rest of its time
/// ([`crate::time::running`]).
pub const TURN_RUNNING_MS_MAX: u64 = 100;
/// The maximum number of attempts to repeat an interrupted read.
pub const INTERRUPTED_READS_MAX: u32 = 64;
/// The maximum number of readiness reports that one poll reads from the kernel.
pub const POLL_READINESS_MAX: u32 = 1024;
/// The size of a worker's only read buffer, in bytes. This is also the maximum size of one read.
pub const READ_BUFFER_BYTES: u32 = 64 * KIB;
/// The maximum number of bytes that are read from one conn in one turn.
pub const READ_BYTES_PER_CONN_TURN_MAX: u32 = 128 * KIB;
/// The maximum size of one read from a conn that streams, in bytes. The answers to commands of this
/// total size fit in [`CONTROL_BYTES_MAX`]. So a client that reads its answers is never closed
/// because of a burst of commands.
pub const STREAM_READ_BYTES: u32 = 16 * KIB;
/// The maximum work that the input of one conn may cause between two reads of the clock. One unit
/// is the work for the header of a frame, about 30 ns. Work is counted in units because reading the
/// clock costs as much as a frame.
pub const WORK_AT_ONCE_MAX: u32 = 512;
/// The maximum work that one conn may cause in one turn, in multiples of [`WORK_AT_ONCE_MAX`]. This
/// is enough for a client that subscribes to 128 channels in one turn.
pub const WORKS_PER_CONN_TURN_MAX: u32 = 16;
/// The maximum time for the work of one conn in one turn, in microseconds. This limit applies if
/// commands take longer than their units of work suggest.
pub const CONN_SLICE_US_MAX: u64 = 1_000;
/// The number of bytes of an inflated message that count as one unit of work (see
/// [`WORK_AT_ONCE_MAX`]).
pub const INFLATED_BYTES_PER_WORK: usize = 32;
/// The work of parsing and answering one subprotocol message, in units of work (see
/// [`WORK_AT_ONCE_MAX`]).
pub const COMMAND_WORK: u32 = 32;
/// The work of subscribing to one channel, which includes the lookup of a position, in units of
/// work (see [`WORK_AT_ONCE_MAX`]).
pub const JOIN_WORK: u32 = 32;
/// The maximum number of conns from which a worker reads in one turn.
pub const READ_CONNS_PER_TURN_MAX: u32 = 1024;
/// The maximum time of the read phase in one turn, in microseconds. Without this limit, the phase
/// would take a second if all conns used their full budgets.
pub const READ_SLICE_US_MAX: u64 = 10_000;
/// The maximum number of reads per turn from conns that are in their TLS handshake. One such read
/// takes at most a millisecond with an RSA key, and a tenth of a millisecond with other keys.
pub const HANDSHAKES_PER_TURN_MAX: u32 = 16;
/// The maximum plaintext in a TLS record, in bytes (RFC 8446, 5.1).
pub const TLS_RECORD_BYTES: usize = 16_384;
/// The maximum number of allowed origins. A conn stores the index of its origin in a byte.
pub const BROWSER_ORIGINS_MAX: usize = 64;
/// The maximum number of addresses to listen on. A worker has one bit for each address.
pub const LISTENERS_MAX: usize = 64;
/// The maximum number of conns that are accepted in one turn.
pub const ACCEPTS_PER_TURN_MAX: u32 = 128;
/// The maximum number of publications that a worker reads from its inbox in one turn.
pub const PUBLICATIONS_PER_TURN_MAX: u32 = 1024;
/// The maximum number of timers that fire in one turn.
pub const EXPIRES_PER_TURN_MAX: u32 = 2048;
/// The maximum number of publications that are evicted from the log in one turn.
pub const EVICTIONS_PER_TURN_MAX: u32 = 4096;
/// The maximum number of publications that a new publication evicts from its channel under the
/// channel's lock.
pub const TRIMS_PER_PUBLICATION_MAX: u32 = 64;
/// The maximum number of conns that are checked for pinned publications in one turn. A publication
/// is pinned if a conn still sends it after the log has evicted it. The check runs only while too
/// many bytes are pinned.
pub const HOLDERS_PER_TURN_MAX: usize = 4096;
/// The age, in milliseconds, after which a worker's record of its oldest pinned publication is
/// ignored, because the worker may be asleep. A publication is pinned if a conn still sends it
/// after the log has evicted it. If too many bytes are pinned, the conns with the oldest
/// publication of all workers are closed first. The records show which worker has this publication.
pub const PINNED_STALE_MS: u64 = 100;
/// The maximum time of the flush phase in one turn, in microseconds.
pub const FLUSH_SLICE_US_MAX: u64 = 2_000;
/// The maximum number of workers per processor that send a publication to their subscribers at the
/// same time. Each of these workers needs a permit. With a limit of one, a processor is idle while
/// a permit passes to the next worker. The last subscriber is then reached 10 percent later.
pub const WALKERS_PER_PROCESSOR: usize = 2;
/// The time for which a worker may keep its permit to send publications to subscribers, in
/// microseconds. After this time, it passes the permit on if another worker waits for one.
pub const FANOUT_PERMIT_US: u64 = 4_000;
/// The number of subscribers visited between two reads of the clock in the flush phase.
pub const FLUSH_VISITS_PER_CLOCK: usize = 16;
/// The maximum number of writes that are submitted to `io_uring(7)` in one batch. Larger batches
/// would cost slightly less per write. But the clock is read only after a whole batch, which
/// already takes one to two milliseconds.
pub const RING_WRITES_MAX: u16 = 256;
/// The number of bytes of frames after which a batch of writes is submitted, whatever the number of
/// writes in the batch. The kernel needs longer to copy large frames.
pub const BATCH_WRITE_BYTES_MAX: usize = 256 * KIB as usize;
/// The maximum number of slices in one vectored write. The kernel accepts 1024, but more than 64
/// are not faster.
pub const GATHER_SLICES_MAX: usize = 64;

// -- Accepting and admission control.

/// The number of descriptors of a worker's table that are not conns: poll, ring, listeners, the
/// spare descriptor, standard streams, and a reserve. The eventfds of all workers are not included.
pub const DESCRIPTORS_KEPT: u64 = 64;
/// The maximum number of connections of one listener that the kernel queues until they are
/// accepted. A smaller value of `net.core.somaxconn` takes precedence.
pub const LISTEN_BACKLOG: i32 = 4096;
/// The number of parts of the table that counts conns for each source (an IPv4 address or an IPv6
/// /64). Each part has its own lock.
pub const SOURCE_TABLE_PARTS: usize = 64;
/// The burst that the limit on connects allows, in seconds. In one burst, a source may open as many
/// connections as its rate allows in this time.
pub const CONNECTS_AT_ONCE_S: u64 = 5;
/// The maximum number of lines in the queue of the access log.
pub const ACCESS_LINES_MAX: usize = 8_192;
/// The maximum time for which the end of the server waits until the queued lines of the log are
/// written, and the same for the access log, in milliseconds.
pub const LINES_STOP_MS: u64 = 1_000;
/// The maximum number of bytes of a path in the access log. The rest is cut off.
pub const ACCESS_PATH_BYTES_MAX: usize = 512;
/// The maximum number of ended spans in the queue of the exporter.
pub const SPANS_QUEUED_MAX: usize = 4_096;
/// The maximum number of publications and connections in one batch of spans. A batch has up to five
/// spans for each of them, about 2 KiB.
pub const SPANS_PER_BATCH_MAX: usize = 256;
/// The maximum time from the first span of a batch until the batch is exported, in milliseconds.
pub const SPAN_BATCH_MS: u64 = 1_000;
/// The maximum number of batches that wait for the collector.
pub const SPAN_BATCHES_MAX: usize = 16;
/// The maximum time of one attempt to post a batch, with the connection, in milliseconds.
pub const SPAN_POST_MS_MAX: u64 = 10_000;
/// The pause before the first repetition of a post, in milliseconds. Each further pause is twice as
/// long, up to [`SPAN_RETRY_PAUSE_MS_MAX`].
pub const SPAN_RETRY_FIRST_MS: u64 = 250;
/// The maximum pause between two attempts to post a batch, in milliseconds.
pub const SPAN_RETRY_PAUSE_MS_MAX: u64 = 5_000;
/// The maximum pause for which a collector can ask before the next post, in milliseconds.
pub const SPAN_RETRY_AFTER_MS_MAX: u64 = 300_000;
/// The minimum time between two warnings about a collector, in milliseconds.
pub const SPAN_WARNING_MS: u64 = 60_000;
/// The time after which a batch that the collector has not accepted is dropped, in milliseconds.
pub const SPAN_RETRY_MS_MAX: u64 = 60_000;
/// The maximum time for which the end of the server waits for the export of spans, in milliseconds.
pub const SPAN_STOP_MS: u64 = 2_000;
/// The maximum number of sampled publications that a worker observes at the same time.
pub const TRACED_WALKS_MAX: usize = 256;
/// The maximum number of log lines per kind of warning and second. Further lines are counted.
pub const WARNINGS_PER_SECOND_MAX: u32 = 10;
/// The time between two measurements of memory, in milliseconds.
pub const WATCH_MS: u64 = 1_000;
/// The time between two checks whether the feed's socket and the journal's files still exist, in
/// milliseconds.
pub const FILES_CHECK_MS: u64 = 500;
/// The maximum time to wait for the configuration file, if it is a FIFO, in milliseconds. It also
/// applies to all certificates and keys together.
pub const INPUT_WAIT_MS: u64 = 10_000;
/// The maximum size of a configuration file, a certificate or a key, in bytes.
pub const INPUT_BYTES: usize = 16 * 1024 * 1024;
/// The minimum time between two log lines about the same lasting fault, in milliseconds.
pub const FAULT_REPEATED_MS: u64 = 60_000;
/// The percentage of memory that is left to other programs if no limit is configured.
pub const MEMORY_LEFT_PERCENT: u64 = 10;
/// The time for which accepting pauses if no descriptor is free, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 250;

// -- Memory.

/// The number of conns that have been opened or closed, counted together, after which a worker
/// returns memory to the system.
pub const MEMORY_TRIM_CONNS: u32 = 1024;
/// The time without an opened or closed conn after which memory is returned, in milliseconds.
pub const MEMORY_TRIM_QUIET_MS: u64 = 1_000;
/// The time after which memory is returned even if conns are still opened and closed, in
/// milliseconds.
pub const MEMORY_TRIM_DELAY_MS_MAX: u64 = 10_000;

// -- Namespaces.

/// The maximum number of configured namespaces. When a channel is created, its name is compared
/// with all namespaces.
pub const NAMESPACES_MAX: usize = 256;

/// The maximum number of rules for channels: one for each pattern that a namespace has had since
/// the start, and one for channels outside all namespaces.
pub const RULES_MAX: usize = 1024;
const _: () = assert!(NAMESPACES_MAX < RULES_MAX);

/// The maximum number of channels whose rules a worker updates in one turn, after a reload has
/// changed the rules.
pub const RULE_UPDATES_PER_TURN_MAX: usize = 2048;

// -- Draining.

/// The time between the closes of two conns during a drain, counted over all workers, in
/// microseconds. The time is shorter if `drain.window_ms` is short.
pub const DRAIN_SPACING_US: u64 = 200;
/// The time in which the last closes of a drain can reach their clients, in milliseconds.
pub const DRAIN_ARRIVAL_MS: u64 = 1_000;
/// The time from the end of a drain until the first clients return, in milliseconds. Without a
/// socket unit, no process listens until the next server has started.
pub const RESTART_MS: u64 = 1_000;
/// The minimum time over which reconnecting clients are spread after a drain, in milliseconds. This
/// minimum applies even if there are few clients.
pub const RECONNECTS_MS_MIN: u64 = 500;
/// The maximum time for which a drain waits for the request of a conn that was just accepted, in
/// milliseconds.
pub const DRAIN_PENDING_MS: u64 = 50;
/// The time between two checks whether the peers have acknowledged the closes of their conns, in
/// milliseconds.
pub const DRAIN_CHECK_MS: u64 = 10;
/// The maximum number of conns for which one check tests whether the peer has acknowledged the
/// close.
pub const DRAIN_CHECKS_MAX: usize = 1_024;

// -- HTTP on the client side.

/// The maximum number of header fields in a request head.
pub const REQUEST_HEADERS_MAX: usize = 64;
/// The maximum length of a request target, in bytes. With default settings, the limit on the
/// request head is lower.
pub const REQUEST_TARGET_BYTES_MAX: usize = 64 * KIB as usize;
/// The number of unsent response bytes at which the server stops reading from a client.
pub const ANSWER_BYTES_PAUSE: usize = 16 * KIB as usize;
/// The duration of a long poll if the client requests no duration, in milliseconds. A lower
/// `limits.poll_timeout_ms` takes precedence.
pub const POLL_TIMEOUT_MS: u64 = 30_000;
/// The maximum number of attempts to find publications for the response to one poll. An attempt
/// fails if all publications that it finds have expired. If all attempts fail, the response
/// contains the position reached so far, and the client polls again.
pub const POLL_PLANS_MAX: u32 = 64;
/// The maximum time for which a closed conn waits for the peer's close, in milliseconds.
pub const LINGER_MS: u64 = 2_000;

// -- Tokens (RFC 7519).

/// The maximum length of a token that is verified, in bytes. It equals the maximum configurable
/// request head, so a token in a request head reaches `limits.request_head_bytes` first. But a
/// message with an `auth` command may be longer than this. A signature over this many bytes takes
/// about 50 us more.
pub const TOKEN_BYTES_MAX: usize = REQUEST_HEAD_BYTES_MAX as usize;
/// The maximum number of channel patterns in a token that allow subscriptions. The same maximum
/// applies to the patterns that allow publications.
pub const TOKEN_PATTERNS_MAX: usize = 64;
/// The maximum length of a token's `sub`, in bytes.
pub const TOKEN_SUB_BYTES_MAX: usize = 256;
/// The maximum number of keys that verify tokens. A token is checked with every key that matches
/// its algorithm and `kid`. Without a `kid`, the token's signature is checked with at most this
/// number of keys. Each check takes 20 to 60 us.
pub const TOKEN_KEYS_MAX: usize = 64;
/// The time between the warning to a WebSocket client and the expiry of its token, in milliseconds.
/// If the remaining lifetime is short, the warning is sent after half of that lifetime.
pub const TOKEN_WARNING_MS: u64 = 30_000;
/// The minimum time between two reads of the wall clock for the same purpose (the `Date` field, or
/// the expiry of tokens), in milliseconds. While a conn has a token, the worker wakes at this
/// interval. A timer descriptor for each worker could report clock steps and suspensions instead,
/// but a wake costs only about 10 us.
pub const CALENDAR_REFRESH_MS: u64 = 500;
/// The minimum time between two tokens of one WebSocket, in milliseconds. The verification of a
/// token costs as much as a hundred other commands.
pub const TOKEN_REFRESH_MS_MIN: u64 = 1_000;

// -- WebSocket (RFC 6455).

/// The maximum payload of a control frame, in bytes (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// The maximum length of a frame's header, in bytes (RFC 6455, 5.2).
pub const FRAME_HEADER_BYTES_MAX: usize = 14;
/// The maximum total size of unread answers to a client that still sends commands, in bytes. This
/// maximum does not depend on the client's quota. It is twice the size of the answer to a request
/// of 128 channels with a gap in each.
pub const CONTROL_BYTES_MAX: usize = 256 * KIB as usize;

/// The maximum window: the number of publications that a client may leave unacknowledged. The
/// worker stores an id of 8 bytes for each unacknowledged publication. So a conn with a window on
/// each of 128 channels uses at most 1 MiB for ids.
pub const WINDOW_PUBLICATIONS_MAX: u32 = 1024;

/// The maximum number of earlier epochs whose positions are recognised. An epoch is a period in
/// which sequence numbers are continuous. A new epoch begins only after a fault of the storage
/// engine, and few clients return with a position of an earlier epoch.
pub const PREVIOUS_EPOCHS_MAX: usize = 16;

// -- Compression (RFC 7692).

/// The level at which publications are compressed. Each publication is compressed once for all
/// subscribers, so size matters more than time. Compared with level 1, level 3 reduces the size by
/// a fourth to a third and takes two to three times as long. Level 6 saves one percent more.
pub const DEFLATE_LEVEL: u32 = 3;
/// The size of the window in which publications are compressed, as a power of two. One frame serves
/// all subscribers, so all subscribers have the same window. A client that offers a smaller window
/// receives uncompressed messages. Few clients offer less than 4 KiB. The cost of the small window
/// is low. With 32 KiB, documents of 13 KiB would be 0 to 4 percent smaller, and short documents
/// would not be smaller. With 2 KiB, the size would grow by 3 to 6 percent and the time would fall
/// by a tenth.
pub const DEFLATE_WINDOW_BITS: u8 = 12;
/// The minimum length of a message that is compressed, in bytes. Compressing a shorter message
/// would save only a few dozen bytes of a segment that is sent anyway. But every client would have
/// to inflate the message.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// The maximum length of a message that is compressed, in bytes. Compression takes 8 ms for each
/// MiB, so longer messages would delay all other conns of the worker. With default settings, no
/// publication is longer.
pub const DEFLATE_BYTES_MAX: usize = 2048 * KIB as usize;
/// The number of bytes inflated for clients in one turn after which the read phase ends. One byte
/// on the wire can inflate to a thousand bytes, so the number of bytes read does not measure the
/// work.
pub const INFLATED_BYTES_PER_TURN_MAX: u64 = 4096 * KIB as u64;
/// The maximum size of a buffer that is kept for the next compressed message, in bytes.
pub const DEFLATE_BUFFER_BYTES_KEPT: usize = 64 * KIB as usize;

// -- The feed.

/// The size of one read from a feeder, in bytes. A batch has about this size, too.
pub const FEED_READ_BYTES: usize = 64 * KIB as usize;
/// The number of publications after which a batch is posted, even if more publications were read.
/// The limit is needed because one line may name a thousand channels.
pub const BATCH_PUBLICATIONS_MAX: usize = 1024;
/// The number of bytes of publications after which a batch is posted. Together with
/// [`INBOX_BATCHES_MAX`], it limits the bytes queued between the feed and a worker.
pub const BATCH_BYTES_MAX: u64 = 1024 * KIB as u64;
/// The maximum number of batches in a worker's inbox. The feed does not read while an inbox is
/// full.
pub const INBOX_BATCHES_MAX: usize = 64;
/// The time for which the feed waits while the inbox of a worker is full, in milliseconds. After
/// this time, the feed removes publications that exceed the limits of the log, and waits again.
pub const INBOX_WAIT_MS: u64 = 10;
/// The time after which a poll that is ready to be answered is checked again, in milliseconds. Such
/// a poll waits until its worker has processed all publications that the answer must include.
pub const ANSWER_WAIT_MS: u64 = 1_000;
/// The maximum sleep of a worker while the log contains publications that the worker must not
/// deliver yet, in milliseconds. A worker delivers a publication only after the feed has posted all
/// earlier publications to the workers.
pub const LATE_ENTRIES_WAIT_MS: u64 = 1;
/// The maximum number of feeders that are connected at the same time.
pub const FEEDERS_MAX: usize = 1024;
/// The number of bytes of unread answers above which the feed stops reading from a feeder.
pub const FEED_ANSWER_BYTES_MAX: usize = 256 * KIB as usize;
/// The number of pending acknowledgements above which the feed stops reading from a feeder.
pub const FEED_ACKS_MAX: usize = 65_536;
/// The maximum number of patterns of one consumer.
pub const CONSUME_PATTERNS_MAX: usize = 256;
/// The maximum length of a close frame's reason, in bytes: the payload of a control frame without
/// the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;
/// The number of a conn's unsent control bytes above which a backend cannot send to the conn. The
/// same number is the maximum length of a message from a backend to one conn. It is below
/// [`CONTROL_BYTES_MAX`], so that no backend can cause the close of a client.
pub const DIRECT_BYTES_MAX: usize = 128 * KIB as usize;
/// The maximum number of reports that workers have sent and the feed has not read yet. Together
/// with `limits.client_message_bytes`, it limits the total size of client publications that no
/// consumer has received yet.
pub const REPORTS_MAX: usize = 256;
/// The maximum number of reports that the feed reads before it serves its feeders again.
pub const REPORTS_PER_ROUND_MAX: u32 = 256;
/// The maximum total size of client publications that one worker stores while the feed cannot
/// accept them, in bytes. Further publications are refused.
pub const UPSTREAM_BYTES_MAX: usize = 4096 * KIB as usize;
/// The maximum number of notices that wait until backends can receive them, counted over all
/// workers. A notice says that a client has subscribed or unsubscribed. Further notices are
/// dropped and counted as lost.
pub const NOTICES_MAX: usize = 65_536;
/// The number of waiting notices about one conn at which the worker stops reading from this conn.
/// The worker reads again when only half of this number wait.
pub const NOTICES_PER_CONN_MAX: usize = 32;
/// The maximum number of notices that are skipped because a backend reads too slowly. When this
/// number is reached, all later notices wait, even if they are for other backends.
pub const NOTICES_PASSED_MAX: usize = 4_096;
/// The maximum number of bytes of notices in the write buffer of one consumer.
pub const NOTICE_BYTES_AT_ONCE: usize = 4 * KIB as usize;
/// The number of bytes that a backend has not read, as the kernel accounts them, above which the
/// backend receives no more notices. So if the backend reads slowly, only few notices are sent
/// before the next publication.
pub const NOTICE_UNREAD_BYTES_MAX: u32 = 8 * KIB;
/// If a backend has more unread bytes than [`NOTICE_UNREAD_BYTES_MAX`], it receives the next notice
/// after this many bytes of publications and answers. So a steady flow of publications does not
/// starve notices.
pub const NOTICE_INTERVAL_BYTES: u64 = 64 * KIB as u64;
/// The maximum time for which a backend that delays clients or other backends may read less than
/// [`CONSUMER_READ_BYTES_MIN`], in milliseconds of running time. After this time, the backend's
/// connection is closed.
pub const CONSUMER_STALL_MS: u64 = 10_000;
/// The minimum amount that a backend must read within [`CONSUMER_STALL_MS`] if it delays clients or
/// other backends, in bytes as the kernel accounts them.
pub const CONSUMER_READ_BYTES_MIN: u64 = 2 * KIB as u64;
/// The maximum size of one write to a backend, in bytes. The kernel counts a write as unread until
/// its last byte is read, so the writes are small. Together with the kernel's own data, a write of
/// this size occupies 2 KiB.
pub const CONSUMER_PIECE_BYTES: usize = 1_728;
/// The maximum number of idempotency keys that are remembered.
pub const DEDUPE_KEYS_MAX: usize = 65_536;
/// The time for which an idempotency key is remembered, in milliseconds.
pub const DEDUPE_WINDOW_MS: u64 = 120_000;
/// The maximum length of each idempotency key, conflation key and event type, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// The maximum number of patterns in each list of a namespace.
pub const SUBJECT_PATTERNS_MAX: usize = 16;
/// The maximum length of an idempotency key in the server's tables. The key of a client is stored
/// with the subject of the client's token, the subject's length and a colon.
pub const DEDUPE_BYTES_MAX: usize = LABEL_BYTES_MAX + TOKEN_SUB_BYTES_MAX + 4;
/// The maximum depth of arrays and objects in a JSON payload from a feeder or a client.
pub const JSON_LEVELS_MAX: usize = 128;
/// The maximum number of digits of a number in a JSON payload, including its fraction and exponent.
pub const JSON_DIGITS_MAX: usize = 1000;
/// The maximum number of channels of one publication.
pub const CHANNELS_PER_PUBLICATION_MAX: usize = 1024;

// -- The journal.

/// The total size of records that the journal's store keeps in memory before it writes a table, in
/// bytes.
pub const JOURNAL_MEMTABLE_BYTES: u64 = 16 * 1024 * KIB as u64;
/// The minimum size of a full chunk of the journal, in bytes of records. The journal deletes old
/// records one chunk at a time. A full chunk is not smaller than [`JOURNAL_MEMTABLE_BYTES`], so the
/// store soon writes its records from memory to tables.
pub const JOURNAL_CHUNK_BYTES: u64 = JOURNAL_MEMTABLE_BYTES;
/// The maximum number of chunks into which `journal.bytes` is divided. If `journal.bytes` is small,
/// there are fewer chunks, because the minimum size of a chunk is [`JOURNAL_CHUNK_BYTES`].
pub const JOURNAL_CHUNKS_MAX: u64 = 64;
/// If this many full chunks are not in tables on disk yet, a new chunk must wait for at most a
/// second.
pub const JOURNAL_CHUNKS_UNFLUSHED_MAX: usize = 3;
/// The size of the store's block cache, in bytes. It can be small, because records are read only
/// once, at a start.
pub const JOURNAL_CACHE_BYTES: u64 = 1024 * KIB as u64;
/// The maximum number of files that the store keeps open.
pub const JOURNAL_FILES_MAX: usize = 64;
/// The total size of filled write-ahead logs above which the store flushes the data of the oldest
/// log, in bytes. This value is the minimum that the store allows.
pub const JOURNAL_LOG_BYTES: u64 = 64 * 1024 * KIB as u64;
/// The time between a failure of the store and the attempt to open it again, in milliseconds.
pub const JOURNAL_PAUSE_MS: u64 = 1_000;
/// A failed store is opened again when a feeder sends the next batch. If no batch arrives for this
/// time, in milliseconds, the store is opened again without a batch.
pub const JOURNAL_QUIET_MS: u64 = 5_000;
/// The maximum length of a record, in bytes: the maximum line or body of the feed, with a reserve.
pub const JOURNAL_RECORD_BYTES_MAX: u64 = 65 * 1024 * KIB as u64;
/// The number of sequence numbers that are reserved at a time. If a start cannot find out which of
/// these numbers were used, it skips all of them.
pub const JOURNAL_IDS_RESERVED: u64 = 1 << 32;
/// A backup of the journal reads records until they have this many bytes, and then writes them.
pub const JOURNAL_BACKUP_PART_BYTES: u64 = 1024 * KIB as u64;
/// The maximum number of records that a backup of the journal reads before it writes them. Short
/// records need more memory in the store than their bytes.
pub const JOURNAL_BACKUP_PART_RECORDS: u64 = 4096;
/// The time for which the stop of the server waits until a backup of the journal has ended, in
/// milliseconds. The backup ends at once, unless a disk does not respond.
pub const JOURNAL_BACKUP_STOP_MS: u64 = 5_000;
/// The maximum number of appends that wait for a sync before the feed waits for the disk.
pub const JOURNAL_SYNCS_WAITING_MAX: usize = 1024;

// -- The admin listener.

/// The maximum number of connections of the admin listener. At this number, the oldest silent
/// connection is closed for a new connection. At 50 new connections a second, a silent connection
/// stays open for longer than [`ADMIN_STEP_MS`].
pub const ADMIN_CONNS_MAX: usize = 128;
/// The maximum number of connections that the admin listener accepts before it serves the open
/// connections again.
pub const ADMIN_ACCEPTS_PER_TURN_MAX: usize = 16;
/// The maximum length of a request head on the admin listener, in bytes.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 * KIB as usize;
/// The maximum time for a complete head to arrive on the admin listener, in milliseconds. The same
/// maximum applies to sending the response.
pub const ADMIN_STEP_MS: u64 = 2_000;

// -- The operator's socket.

/// The maximum number of rows of an answer on the operator's socket.
pub const OPERATOR_ROWS_MAX: u32 = 1_000;
/// The maximum number of connections of the operator's socket. Each has a thread. A further
/// connection is answered with an error.
pub const OPERATOR_CONNS_MAX: usize = 8;
/// The maximum number of threads that refuse a connection of the operator's socket. Such a thread
/// waits until the refusal is read. Further connections are closed without this wait.
pub const OPERATOR_REFUSALS_MAX: usize = 8;
/// The maximum length of a request on the operator's socket, in bytes.
pub const OPERATOR_REQUEST_BYTES_MAX: u64 = 64 * KIB as u64;
/// The maximum time for a complete request to arrive on the operator's socket, in milliseconds. The
/// same maximum applies to sending the answer.
pub const OPERATOR_STEP_MS: u64 = 5_000;
/// The maximum time for which a request on the operator's socket waits for workers, in
/// milliseconds.
pub const OPERATOR_ANSWER_MS: u64 = 1_000;
/// The maximum time for which a request for a reload waits for its result, in milliseconds. A
/// reload waits for the configuration file, and then for the files that it names.
pub const OPERATOR_RELOAD_MS: u64 = 25_000;
/// The maximum number of requests of operators that wait for the main thread.
pub const OPERATOR_ORDERS_MAX: usize = 4;
/// The maximum number of requests of operators that wait for a worker.
pub const SURVEYS_MAX: usize = 16;
/// The maximum work of a worker for operators in one turn. One unit is a visit of a connection, of
/// a subscription or of a channel, about 50 ns. A system call counts as 16 units.
pub const SURVEY_WORK_PER_TURN_MAX: u32 = 4_096;

// -- Relations between bounds.

const _: () = assert!(TURN_RUNNING_MS_MAX < SLEEP_MS_MAX);
const _: () = assert!(READ_BUFFER_BYTES <= READ_BYTES_PER_CONN_TURN_MAX);
const _: () = assert!(STREAM_READ_BYTES <= READ_BUFFER_BYTES);
const _: () = assert!(CONTROL_PAYLOAD_BYTES_MAX <= 125);
const _: () = assert!(DIRECT_BYTES_MAX < CONTROL_BYTES_MAX);
// The shortest command is an empty text frame of 6 bytes, and its answer has at most 96 bytes. A
// test of `conn` sends one read that is full of such frames.
const _: () = assert!(STREAM_READ_BYTES as usize / 6 * 96 <= CONTROL_BYTES_MAX);
const _: () = assert!(GATHER_SLICES_MAX <= 1024);
// A worker has one bit of a u64 for each listener. A conn stores the index of its origin in a byte.
const _: () = assert!(LISTENERS_MAX <= u64::BITS as usize);
const _: () = assert!(BROWSER_ORIGINS_MAX <= 1 << u8::BITS);
const _: () = assert!(OPERATOR_RELOAD_MS > 2 * INPUT_WAIT_MS);
// A worker number has 16 bits.
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
// At 50 new connections a second, a silent connection reaches its deadline before the limit closes
// it.
const _: () = assert!(ADMIN_CONNS_MAX as u64 * 1000 / 50 > ADMIN_STEP_MS);
