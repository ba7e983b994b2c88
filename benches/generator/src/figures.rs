//! The figures of a load test: measured values, and ratios of them.
//!
//! A figure that cannot be measured is `None`, not zero. For example, the processor time is `None`
//! if the server's process is unknown.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::probe::{ProbeResults, Times};
use super::server::{Memory, Usage};
use super::stream_parser::Kind;
use super::tally::{Faults, Gaps, Tally};

/// The figures of connecting all clients.
#[derive(Clone, Debug)]
pub struct ConnectFigures {
    /// The number of connections that were opened.
    pub conns: usize,
    /// The number of connections of each kind.
    pub kinds: Vec<(Kind, usize)>,
    /// The time from the first connection attempt to the last subscription.
    pub took: Duration,
    /// The processor time that was used in this period.
    pub usage: Usage,
    /// The memory before the first connection.
    pub before: Memory,
    /// The memory while all connections are open and idle.
    pub with: Memory,
}

/// The figures of idle connections.
#[derive(Clone, Debug)]
pub struct IdleFigures {
    /// The number of idle connections.
    pub conns: usize,
    /// The period for which the connections were idle.
    pub took: Duration,
    /// The processor time that was used in this period.
    pub usage: Usage,
}

/// The figures of one connect storm, in which all clients connect and disconnect.
#[derive(Clone, Debug)]
pub struct StormFigures {
    /// The figures of connecting.
    pub connected: ConnectFigures,
    /// The memory after all connections have ended.
    pub after: Memory,
}

/// The figures of publishing.
#[derive(Clone, Debug)]
pub struct PublishFigures {
    /// The number of publications in each burst, which are sent together.
    pub burst: u32,
    /// The total number of publications.
    pub publications: u64,
    /// The number of deliveries that the readers should have received.
    pub expected: u64,
    /// Whether all connections reached the last publication.
    pub is_complete: bool,
    /// The time from the first publication to the last delivery.
    pub took: Duration,
    /// The processor time that was used in this period.
    pub usage: Usage,
    /// The memory after the last delivery.
    pub memory: Memory,
    /// The number of subscribers in each acknowledgement, added up over all publications.
    pub subscribers: Option<u64>,
    /// The response times of requests on new connections in this period, if they were measured.
    pub probe: Option<ProbeResults>,
    /// The counts of deliveries, gaps and faults.
    pub tally: Tally,
}

impl ConnectFigures {
    /// Returns the number of connections per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        count(self.conns as u64) / self.took.as_secs_f64().max(1e-9)
    }

    /// Returns the server's processor time per connection, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> Option<f64> {
        let conns = count(self.conns as u64);
        self.usage.cpu.map(|cpu| micros(cpu) / conns)
    }

    /// Returns the server's memory per idle connection, in bytes.
    #[must_use]
    pub fn user_bytes(&self) -> Option<f64> {
        let (with, before) = (self.with.pss?, self.before.pss?);
        Some(bytes(with - before) / count(self.conns as u64))
    }

    /// Returns the slab memory per connection in bytes. The figure includes both ends of a
    /// connection if both are on this machine.
    #[must_use]
    pub fn slab_bytes(&self) -> f64 {
        bytes(self.with.slab - self.before.slab) / count(self.conns as u64)
    }

    /// Returns the figures as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let kinds: Map<String, Value> = self
            .kinds
            .iter()
            .map(|(kind, count)| (kind.plural().to_lowercase().replace(' ', "_"), json!(count)))
            .collect();
        json!({
            "conns": self.conns,
            "kinds": kinds,
            "seconds": self.took.as_secs_f64(),
            "per_second": self.per_second(),
            "server_cpu_us_per_conn": self.cpu_us(),
            "generator_cpu_us_per_conn": micros(self.usage.own_cpu) / count(self.conns as u64),
            "user_bytes_per_conn": self.user_bytes(),
            "slab_bytes_per_conn_both_ends": self.slab_bytes(),
            "server_pss_mb_before": self.before.pss.map(megabytes),
            "server_pss_mb": self.with.pss.map(megabytes),
        })
    }
}

impl IdleFigures {
    /// Returns the server's processor time per connection and second, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> Option<f64> {
        let conn_seconds = count(self.conns as u64) * self.took.as_secs_f64();
        self.usage.cpu.map(|cpu| micros(cpu) / conn_seconds)
    }

    /// Returns the figures as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "conns": self.conns,
            "seconds": self.took.as_secs_f64(),
            "server_cpu_us_per_conn_second": self.cpu_us(),
        })
    }
}

impl StormFigures {
    /// Returns the figures as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "connect": self.connected.json(),
            "server_pss_mb_after": self.after.pss.map(megabytes),
            "slab_mb_after": megabytes(self.after.slab),
        })
    }
}

impl PublishFigures {
    /// Returns the server's processor time per delivery, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> Option<f64> {
        let deliveries = self.tally.delivered;
        let cpu = self.usage.cpu.filter(|_| deliveries > 0);
        cpu.map(|cpu| micros(cpu) / count(deliveries))
    }

    /// Returns the generator's processor time per delivery, in microseconds.
    #[must_use]
    pub fn own_cpu_us(&self) -> Option<f64> {
        let deliveries = self.tally.delivered;
        (deliveries > 0).then(|| micros(self.usage.own_cpu) / count(deliveries))
    }

    /// Whether every publication is accounted for and there are no faults. If `is_strict` is set, a
    /// gap on a reader's connection also counts as a fault.
    #[must_use]
    pub fn is_clean(&self, is_strict: bool) -> bool {
        let has_gap = is_strict && self.tally.gaps.readers > 0;
        self.is_complete && self.tally.faults.is_clean() && !has_gap
    }

    /// Returns the names of some quantiles, each with its latency in milliseconds. The result is
    /// empty if no delivery was timed.
    #[must_use]
    pub fn latencies_ms(&self) -> Vec<(&'static str, f64)> {
        if self.tally.timed() == 0 {
            return Vec::new();
        }
        [
            ("p50", 0.5),
            ("p90", 0.9),
            ("p99", 0.99),
            ("p99.9", 0.999),
            ("max", 1.0),
        ]
        .map(|(name, quantile)| (name, count(self.tally.latency_us(quantile)) / 1e3))
        .into()
    }

    /// Returns the median and the maximum of the publications' times to their last subscriber, in
    /// milliseconds.
    #[must_use]
    pub fn last_ms(&self) -> Option<(f64, f64)> {
        let last = self.tally.last_us();
        let (median, max) = (last.get(last.len() / 2)?, last.last()?);
        Some((f64::from(*median) / 1e3, f64::from(*max) / 1e3))
    }

    /// Returns the figures as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let Faults {
            lost,
            duplicates,
            reordered,
            wrong_ids,
            ended,
            refused,
        } = self.tally.faults;
        let Gaps {
            readers,
            impaired,
            skipped,
            cut,
        } = self.tally.gaps;
        let latency: Map<String, Value> = self
            .latencies_ms()
            .into_iter()
            .map(|(name, ms)| (name.to_owned(), json!(ms)))
            .collect();
        let last = self.last_ms();
        json!({
            "burst": self.burst,
            "publications": self.publications,
            "deliveries": self.tally.delivered,
            "deliveries_due": self.expected,
            "poll_answers": self.tally.answers,
            "compressed": self.tally.deflated,
            "inflated": self.tally.inflated,
            "foreign": self.tally.foreign,
            "complete": self.is_complete,
            "seconds": self.took.as_secs_f64(),
            "server_cpu_us_per_delivery": self.cpu_us(),
            "generator_cpu_us_per_delivery": self.own_cpu_us(),
            "server_pss_mb": self.memory.pss.map(megabytes),
            "subscribers_told": self.subscribers,
            "latency_ms": latency,
            "last_subscriber_ms": last.map(|(median, max)| json!({ "p50": median, "max": max })),
            "faults": {
                "lost": lost, "duplicates": duplicates, "reordered": reordered,
                "wrong_ids": wrong_ids, "ended": ended, "refused": refused,
            },
            "gaps_told": { "readers": readers, "stalled_or_slow": impaired },
            "skipped_and_told": skipped,
            "stalled_or_slow_cut": cut,
            "came_and_went": self.tally.churned,
            "probe_ms": self.probe.as_ref().map(|probe| json!({
                "failed": probe.failed,
                "all": times_json(&probe.all),
                "during_broadcast": times_json(&probe.during_broadcast),
            })),
        })
    }
}

fn times_json(times: &Times) -> Value {
    json!({
        "answers": times.count(),
        "p50": millis(times.quantile(0.5)),
        "p99": millis(times.quantile(0.99)),
        "max": millis(times.quantile(1.0)),
    })
}

/// Converts a time to microseconds.
#[must_use]
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Converts a time to milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Converts bytes to megabytes.
#[must_use]
pub fn megabytes(number: i64) -> f64 {
    bytes(number) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "far below 2 to the 53rd")]
fn count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "far below 2 to the 53rd")]
fn bytes(number: i64) -> f64 {
    number as f64
}
