//! Counters and gauges, and their names in the exposition for Prometheus.
//!
//! Each worker writes its own [`WorkerMetrics`]. The admin thread reads the metrics of all workers
//! and shows one number for each metric. Most of these numbers are sums; [`Across`] describes the
//! exception. The feed has [`FeedMetrics`], and the main thread has [`ReloadMetrics`]. Counting is a
//! relaxed load and store, which takes half a nanosecond and needs no locked instruction.
//!
//! The three tables below contain the names of all metrics that threads count. Figures that are read
//! at the time of a request are in `admin::figures`, for example the memory in use.

pub mod exposition;
pub mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::effect::CloseReason;
use histogram::{Histogram, HistogramMetric};

/// One number with a single writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds an amount to the number.
    pub fn add(&self, amount: u64) {
        // Only one thread writes, so no write happens between the load and the store.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// Subtracts one. Used only for gauges.
    pub fn decrement(&self) {
        let number = self.0.load(Ordering::Relaxed);
        debug_assert!(number > 0, "more was subtracted than added");
        self.0.store(number.saturating_sub(1), Ordering::Relaxed);
    }

    /// Replaces the number. Used only for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The kind of a metric in the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that can grow and shrink.
    Gauge,
    /// The numbers of values in ranges, and their sum. See [`histogram`].
    Histogram,
}

/// The way in which the numbers of all workers are combined into one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// The numbers are added.
    Sum,
    /// The largest number is shown, for example the longest time of any worker.
    Most,
}

macro_rules! across {
    () => {
        Across::Sum
    };
    ($across:ident) => {
        Across::$across
    };
}

/// One line of a table: a number and its format in the exposition.
#[derive(Debug)]
pub struct Metric<T> {
    /// The name in the exposition.
    pub name: &'static str,
    /// The labels in the exposition, without braces. Empty if there are no labels.
    pub labels: &'static str,
    /// Whether the number is a counter or a gauge.
    pub kind: Kind,
    /// The way in which the numbers of all workers are combined into one number.
    pub across: Across,
    /// The divisor that converts the stored unit to the shown unit. It is 1, or 1,000,000 to
    /// convert microseconds to seconds.
    pub per_unit: u32,
    /// The meaning of the number, in one sentence.
    pub help: &'static str,
    /// The function that reads the number.
    pub read: fn(&T) -> u64,
}

macro_rules! metrics {
    ($(#[$doc:meta])* $owner:ident { $($field:ident: $kind:ident $($across:ident)? $name:literal $(/ $per_unit:literal)? $({$labels:literal})? $help:literal,)* }
        histograms { $($times:ident: $times_name:literal $times_help:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $owner {
            $(#[doc = $help] pub $field: Counter,)*
            $(#[doc = $times_help] pub $times: Histogram,)*
        }

        impl $owner {
            /// All metrics; lines with the same name are adjacent.
            pub const TABLE: &'static [Metric<Self>] = &[
                $(Metric {
                    name: $name,
                    labels: concat!("", $($labels)?),
                    kind: Kind::$kind,
                    across: across!($($across)?),
                    per_unit: 1 $(* $per_unit)?,
                    help: $help,
                    read: |metrics| metrics.$field.value(),
                },)*
            ];

            /// All histograms.
            pub const HISTOGRAMS: &'static [HistogramMetric<Self>] = &[
                $(HistogramMetric {
                    name: $times_name,
                    help: $times_help,
                    histogram: |metrics| &metrics.$times,
                },)*
            ];
        }
    };
}

metrics! {
    /// The metrics of one worker.
    WorkerMetrics {
        conns_open: Gauge "fanfare_conns" "Connections of clients that are open.",
        conns_pending: Gauge "fanfare_conns_pending" "Open connections whose first request head has not arrived.",
        websocket_open: Gauge "fanfare_streams" {"transport=\"websocket\""} "Open streams and waiting long polls, by transport.",
        event_stream_open: Gauge "fanfare_streams" {"transport=\"event_stream\""} "Open streams and waiting long polls, by transport.",
        long_poll_open: Gauge "fanfare_streams" {"transport=\"long_poll\""} "Open streams and waiting long polls, by transport.",
        tls_conns_open: Gauge "fanfare_tls_conns" "Connections of clients that are open and use TLS.",
        subscribers: Gauge "fanfare_subscribers" "Subscriptions of connections to channels.",
        conns_accepted: Counter "fanfare_conns_accepted_total" "Connections accepted.",
        handshakes: Counter "fanfare_tls_handshakes_total" "TLS handshakes completed.",
        handshakes_resumed: Counter "fanfare_tls_handshakes_resumed_total" "TLS handshakes completed that resumed a session.",
        accept_errors: Counter "fanfare_accept_errors_total" "Accepts that failed because of the peer or the network.",
        descriptors_exhausted: Counter "fanfare_descriptors_exhausted_total" "Times that accepting paused because no descriptor was left.",
        accept_blocked: Gauge "fanfare_accept_blocked" "Workers that have no connection and no descriptor for one.",
        conns_refused: Counter "fanfare_conns_refused_total" {"limit=\"conns\""} "Connections refused, by the limit that was reached.",
        conns_refused_memory: Counter "fanfare_conns_refused_total" {"limit=\"memory\""} "Connections refused, by the limit that was reached.",
        conns_refused_proxy: Counter "fanfare_conns_refused_total" {"limit=\"proxy\""} "Connections refused, by the limit that was reached.",
        conns_refused_source_conns: Counter "fanfare_conns_refused_total" {"limit=\"source_conns\""} "Connections refused, by the limit that was reached.",
        conns_refused_source_rate: Counter "fanfare_conns_refused_total" {"limit=\"source_rate\""} "Connections refused, by the limit that was reached.",
        closed_done: Counter "fanfare_conns_closed_total" {"reason=\"done\""} "Connections closed, by reason.",
        closed_peer_gone: Counter "fanfare_conns_closed_total" {"reason=\"peer_gone\""} "Connections closed, by reason.",
        closed_bad_proxy_header: Counter "fanfare_conns_closed_total" {"reason=\"bad_proxy_header\""} "Connections closed, by reason.",
        closed_bad_request: Counter "fanfare_conns_closed_total" {"reason=\"bad_request\""} "Connections closed, by reason.",
        closed_head_timeout: Counter "fanfare_conns_closed_total" {"reason=\"head_timeout\""} "Connections closed, by reason.",
        closed_idle: Counter "fanfare_conns_closed_total" {"reason=\"idle\""} "Connections closed, by reason.",
        closed_invalid_deflate: Counter "fanfare_conns_closed_total" {"reason=\"invalid_deflate\""} "Connections closed, by reason.",
        closed_invalid_text: Counter "fanfare_conns_closed_total" {"reason=\"invalid_text\""} "Connections closed, by reason.",
        closed_message_too_big: Counter "fanfare_conns_closed_total" {"reason=\"message_too_big\""} "Connections closed, by reason.",
        closed_no_subscription: Counter "fanfare_conns_closed_total" {"reason=\"no_subscription\""} "Connections closed, by reason.",
        closed_not_allowed: Counter "fanfare_conns_closed_total" {"reason=\"not_allowed\""} "Connections closed, by reason.",
        closed_protocol_error: Counter "fanfare_conns_closed_total" {"reason=\"protocol_error\""} "Connections closed, by reason.",
        closed_tls_error: Counter "fanfare_conns_closed_total" {"reason=\"tls_error\""} "Connections closed, by reason.",
        closed_token_expired: Counter "fanfare_conns_closed_total" {"reason=\"token_expired\""} "Connections closed, by reason.",
        closed_unauthorized: Counter "fanfare_conns_closed_total" {"reason=\"unauthorized\""} "Connections closed, by reason.",
        closed_overflow: Counter "fanfare_conns_closed_total" {"reason=\"overflow\""} "Connections closed, by reason.",
        closed_crowded_out: Counter "fanfare_conns_closed_total" {"reason=\"crowded_out\""} "Connections closed, by reason.",
        closed_refused: Counter "fanfare_conns_closed_total" {"reason=\"refused\""} "Connections closed, by reason.",
        closed_disconnected: Counter "fanfare_conns_closed_total" {"reason=\"disconnected\""} "Connections closed, by reason.",
        closed_shutdown: Counter "fanfare_conns_closed_total" {"reason=\"shutdown\""} "Connections closed, by reason.",
        requests: Counter "fanfare_requests_total" "Requests read, including those refused for their head.",
        requests_refused: Counter "fanfare_requests_refused_total" "Requests answered with a 4xx or 5xx status.",
        origins_refused: Counter "fanfare_origins_refused_total" "Requests refused because of their origin.",
        tokens_accepted: Counter "fanfare_tokens_total" {"outcome=\"accepted\""} "Tokens that clients have sent, by outcome.",
        tokens_refused: Counter "fanfare_tokens_total" {"outcome=\"refused\""} "Tokens that clients have sent, by outcome.",
        upgrades: Counter "fanfare_upgrades_total" "WebSocket handshakes completed.",
        polls_with_news: Counter "fanfare_poll_answers_total" {"outcome=\"news\""} "Polls answered: with publications or a gap, with neither, or with 304.",
        polls_without_news: Counter "fanfare_poll_answers_total" {"outcome=\"empty\""} "Polls answered: with publications or a gap, with neither, or with 304.",
        polls_not_modified: Counter "fanfare_poll_answers_total" {"outcome=\"not_modified\""} "Polls answered: with publications or a gap, with neither, or with 304.",
        client_frames: Counter "fanfare_client_frames_total" "Frames received from WebSocket clients.",
        client_messages_inflated: Counter "fanfare_client_messages_inflated_total" "Compressed messages received from WebSocket clients.",
        client_commands_refused: Counter "fanfare_client_commands_refused_total" "Commands of WebSocket clients answered with an error.",
        client_reads_paused: Counter "fanfare_client_reads_paused_total" "Times that a WebSocket client was not read for a while because it sent too much.",
        client_reads_held: Counter "fanfare_client_reads_held_total" "Times that a client was not read for a while because consumers had not taken its notices.",
        subscriptions_refused: Counter "fanfare_subscriptions_refused_total" "Subscriptions refused because of limits.channels.",
        acknowledgements: Counter "fanfare_client_acknowledgements_total" "Acknowledgements of WebSocket clients for a window.",
        client_publications: Counter "fanfare_client_publications_total" "Publications of clients handed to the feed.",
        direct: Counter "fanfare_direct_total" "Messages of backends queued for their connection.",
        direct_refused: Counter "fanfare_direct_refused_total" "Messages of backends not queued: the connection is gone, or too much waits for it.",
        received_bytes: Counter "fanfare_received_bytes_total" "Bytes read from clients' sockets.",
        sent_bytes: Counter "fanfare_sent_bytes_total" "Bytes written to clients' sockets.",
        deliveries: Counter "fanfare_deliveries_total" "Publications written completely to a subscriber.",
        writes: Counter "fanfare_writes_total" "Writes to clients' sockets.",
        writes_blocked: Counter "fanfare_writes_blocked_total" "Writes that the kernel took only in part or not at all.",
        skipped: Counter "fanfare_publications_skipped_total" "Publications that a subscriber did not receive because it was over its quota.",
        conflated: Counter "fanfare_publications_conflated_total" "Publications that a subscriber did not receive because later ones with the same key superseded them.",
        gaps: Counter "fanfare_gaps_total" "Gap notifications to subscribers.",
        heartbeats: Counter "fanfare_heartbeats_total" "Heartbeats sent.",
        publications: Counter "fanfare_worker_publications_total" "Publications taken in by workers with subscribers of their channel, once for each worker.",
        frames_deflated: Counter "fanfare_frames_deflated_total" "Frames compressed, each once for all subscribers and workers.",
        deflated_from_bytes: Counter "fanfare_deflate_bytes_total" {"side=\"before\""} "Bytes of the messages that were compressed, before and after.",
        deflated_to_bytes: Counter "fanfare_deflate_bytes_total" {"side=\"after\""} "Bytes of the messages that were compressed, before and after.",
        walks: Counter "fanfare_walks_total" "Walks of a worker over its subscribers of a channel that reached the last one.",
        walk_last_us: Gauge Most "fanfare_walk_seconds" / 1_000_000 "Time that the newest finished walk took, in the worker where it was longest.",
        stale_readiness: Counter "fanfare_stale_readiness_total" "Readiness reports for connections that were already closed.",
        read_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"read\""} "Turns in which a phase used up its budget.",
        handshake_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"handshake\""} "Turns in which a phase used up its budget.",
        accept_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"accept\""} "Turns in which a phase used up its budget.",
        broadcast_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"broadcast\""} "Turns in which a phase used up its budget.",
        expire_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"expire\""} "Turns in which a phase used up its budget.",
        flush_budget_exhausted: Counter "fanfare_budget_exhausted_total" {"phase=\"flush\""} "Turns in which a phase used up its budget.",
        mails: Counter "fanfare_mails_total" "Mails that workers took from their inboxes; a batch of publications is one mail to each worker with subscribers of their channels.",
        wakes: Counter "fanfare_wakes_total" "System calls by which other threads woke workers.",
        turns: Counter "fanfare_turns_total" "Turns of the workers' loops.",
        turns_late: Counter "fanfare_turns_late_total" "Turns that took over 100 ms longer than the worker asked to sleep: the process was stopped, had no processor or had too much to do.",
    }
    histograms {
        fanout_us: "fanfare_fanout_seconds" "Time from the acceptance of a publication until a worker had visited the last subscriber of its channel.",
        lag_us: "fanfare_delivery_lag_seconds" "Age of the oldest publication in a write or a poll's answer that delivered publications to a subscriber.",
        turn_us: "fanfare_turn_seconds" "Time that a worker worked in one turn of its loop, without waiting for events.",
        wait_us: "fanfare_turn_wait_seconds" "Time that a worker waited for events between two turns, without turns that left work.",
        flush_us: "fanfare_flush_seconds" "Time of the flush phase of turns with something to write.",
        handshake_us: "fanfare_tls_handshake_seconds" "Time from the start of the turn that accepted a connection until its TLS handshake was complete, without handshakes that failed.",
    }
}

metrics! {
    /// The metrics of the feed.
    FeedMetrics {
        feeders: Gauge "fanfare_feeders" "Feeders connected now.",
        feeders_accepted: Counter "fanfare_feeders_accepted_total" "Feeders accepted.",
        feeders_refused: Counter "fanfare_feeders_refused_total" "Feeders refused because too many were connected.",
        publications: Counter "fanfare_feed_publications_total" "Publications that received a sequence number.",
        logged: Counter "fanfare_publications_total" "Publications added to the log.",
        evicted: Counter "fanfare_log_evicted_total" "Publications removed from the log by its bounds.",
        log_entries: Gauge "fanfare_log_entries" "Publications in the log.",
        log_bytes: Gauge "fanfare_log_bytes" "Bytes that count against log.bytes.",
        consumers: Gauge "fanfare_feed_consumers" "Feeders that consume what clients publish.",
        consumers_cut_off: Counter "fanfare_feed_consumers_cut_off_total" "Consumers disconnected because they read too little while others waited for them.",
        consumed: Counter "fanfare_feed_consumed_total" "Publications of clients handed to consumers.",
        unconsumed: Counter "fanfare_feed_unconsumed_total" "Publications of clients that no consumer wanted.",
        notices: Counter "fanfare_feed_notices_total" "Subscribe and unsubscribe notices handed to consumers.",
        notices_lost: Counter "fanfare_feed_notices_lost_total" "Subscribe and unsubscribe notices that were lost; consumers got their number.",
        notices_waiting: Gauge "fanfare_feed_notices_waiting" "Subscribe and unsubscribe notices that wait for consumers.",
        notices_cancelled: Counter "fanfare_feed_notices_cancelled_total" "Subscribe and unsubscribe notices that cancelled each other before a consumer had them.",
        repeated: Counter "fanfare_feed_repeated_total" "Publications not sent again because their dedupe key was known.",
        errors: Counter "fanfare_feed_errors_total" "Lines and requests answered with an error.",
        cut_off: Counter "fanfare_feed_cut_off_total" "Lines and requests lost because their feeder disconnected within them.",
        accept_pauses: Counter "fanfare_feed_accept_pauses_total" "Times that accepting feeders paused because no descriptor was left.",
        received_bytes: Counter "fanfare_feed_received_bytes_total" "Bytes read from feeders.",
        inbox_waits: Counter "fanfare_feed_inbox_waits_total" "Times the feed waited for a worker's full inbox.",
        journal_records: Counter "fanfare_journal_records_total" "Publications written to the journal.",
        journal_bytes: Counter "fanfare_journal_bytes_total" "Bytes written to the journal.",
        journal_syncs: Counter "fanfare_journal_syncs_total" "Syncs of the journal to disk.",
        journal_synced: Counter "fanfare_journal_synced_total" "Publications in the journal that a sync has made durable.",
        journal_write_errors: Counter "fanfare_journal_errors_total" {"step=\"write\""} "Errors of the journal, by step: a batch that was not written, or a sync that failed.",
        journal_sync_errors: Counter "fanfare_journal_errors_total" {"step=\"sync\""} "Errors of the journal, by step: a batch that was not written, or a sync that failed.",
        journal_disk_bytes: Gauge "fanfare_journal_disk_bytes" "Bytes of the journal's logs and tables on disk.",
        journal_failing: Gauge "fanfare_journal_failing" "1 while publications are refused because the journal cannot be written.",
    }
    histograms {
        journal_commit_us: "fanfare_journal_commit_seconds" "Time from the start of the write of a batch to the journal until the batch was written, and synced unless journal.sync is os.",
        post_us: "fanfare_feed_post_seconds" "Time from the acceptance of a publication until it was in the log and sent to the workers.",
    }
}

metrics! {
    /// The metrics of reloads. The main thread writes them.
    ReloadMetrics {
        succeeded: Counter "fanfare_reloads_total" {"outcome=\"success\""} "Reloads, by outcome.",
        failed: Counter "fanfare_reloads_total" {"outcome=\"failure\""} "Reloads, by outcome.",
        has_failed: Gauge "fanfare_reload_failed" "1 if the last reload failed, so that the earlier values are in use; otherwise 0.",
        ended: Gauge "fanfare_reload_timestamp_seconds" "When the last reload ended, in seconds since 1970-01-01 UTC; 0 if there was none.",
    }
    histograms {}
}

impl ReloadMetrics {
    /// Counts a reload that ended at `unix_s`, in seconds since 1970.
    pub fn note(&self, is_success: bool, unix_s: u64) {
        match is_success {
            true => self.succeeded.increment(),
            false => self.failed.increment(),
        }
        self.has_failed.set((!is_success).into());
        self.ended.set(unix_s);
    }
}

impl WorkerMetrics {
    /// Returns the counter for a close reason.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> &Counter {
        match reason {
            CloseReason::Done => &self.closed_done,
            CloseReason::PeerGone => &self.closed_peer_gone,
            CloseReason::BadProxyHeader => &self.closed_bad_proxy_header,
            CloseReason::BadRequest => &self.closed_bad_request,
            CloseReason::HeadTimeout => &self.closed_head_timeout,
            CloseReason::Idle => &self.closed_idle,
            CloseReason::InvalidDeflate => &self.closed_invalid_deflate,
            CloseReason::InvalidText => &self.closed_invalid_text,
            CloseReason::MessageTooBig => &self.closed_message_too_big,
            CloseReason::NoSubscription => &self.closed_no_subscription,
            CloseReason::NotAllowed => &self.closed_not_allowed,
            CloseReason::ProtocolError => &self.closed_protocol_error,
            CloseReason::TlsError => &self.closed_tls_error,
            CloseReason::TokenExpired => &self.closed_token_expired,
            CloseReason::Unauthorized => &self.closed_unauthorized,
            CloseReason::Overflow => &self.closed_overflow,
            CloseReason::CrowdedOut => &self.closed_crowded_out,
            CloseReason::Refused => &self.closed_refused,
            CloseReason::Disconnected => &self.closed_disconnected,
            CloseReason::Shutdown => &self.closed_shutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_reason_has_a_line() {
        for reason in CloseReason::ALL {
            let metrics = WorkerMetrics::default();
            metrics.closed(reason).increment();
            let label = format!("reason=\"{}\"", reason.label());
            let line = WorkerMetrics::TABLE
                .iter()
                .find(|line| line.labels == label)
                .unwrap();
            assert_eq!((line.read)(&metrics), 1);
        }
    }
}
