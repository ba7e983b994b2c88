//! The figures of a run as text and as one JSON object.
//!
//! Ratios are of sums over all rounds; with several rounds the smallest and the largest ratio of a
//! round stand beside them, since a figure without its spread says little on a shared machine.

use std::time::Duration;

use serde_json::{Value, json};

use super::process::Memory;
use super::tally::{Faults, Tally};

/// Which program was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The program under test.
    Fanfare,
    /// What it is compared with.
    Floor,
}

/// What connecting has cost.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// Connections opened.
    pub(crate) conns: usize,
    /// From the first connect to the last subscription.
    pub(crate) took: Duration,
    /// The server's processor time meanwhile.
    pub(crate) cpu: Duration,
    /// Memory with no connection.
    pub(crate) before: Memory,
    /// Memory with all of them, idle.
    pub(crate) with: Memory,
}

/// What publishing has cost.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Publications that arrived together.
    pub(crate) burst: u32,
    /// Publications in all.
    pub(crate) publications: u64,
    /// Whether everybody came to the last one.
    pub(crate) is_complete: bool,
    /// From the first publication to the last delivery.
    pub(crate) took: Duration,
    /// The server's processor time meanwhile.
    pub(crate) cpu: Duration,
    /// Memory at the end.
    pub(crate) with: Memory,
    /// Publications times connections that read.
    pub(crate) deliveries: u64,
    /// What was received.
    pub(crate) tally: Tally,
}

/// Both servers' figures, round by round.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// One for each server and round.
    pub(crate) opened: Vec<(Server, Opened)>,
    /// One for each server, burst and round.
    pub(crate) measured: Vec<(Server, Measured)>,
}

/// Everything there is to say.
#[derive(Debug)]
pub(crate) enum Report {
    /// The real server alone.
    Acceptance {
        /// Per cent of the connections that did not read.
        stalled: usize,
        /// Connecting.
        opened: Opened,
        /// Publishing.
        measured: Box<Measured>,
    },
    /// The real server beside the floor.
    Comparison(Comparison),
}

impl Opened {
    fn cpu_us(&self) -> f64 {
        micros(self.cpu) / count(self.conns as u64)
    }

    fn user_bytes(&self) -> f64 {
        bytes(self.with.pss - self.before.pss) / count(self.conns as u64)
    }

    fn slab_bytes(&self) -> f64 {
        bytes(self.with.slab - self.before.slab) / count(self.conns as u64)
    }

    fn json(&self) -> Value {
        json!({
            "conns": self.conns,
            "seconds": self.took.as_secs_f64(),
            "server_cpu_us_per_conn": self.cpu_us(),
            "user_bytes_per_conn": self.user_bytes(),
            "slab_bytes_per_conn_both_ends": self.slab_bytes(),
        })
    }

    fn text(&self) -> String {
        format!(
            "{} conns in {:.2} s: server {:.1} us CPU per connect, {:.0} B of its memory per idle \
             conn (PSS {:.1} -> {:.1} MB), {:.0} B of slab for both ends",
            self.conns,
            self.took.as_secs_f64(),
            self.cpu_us(),
            self.user_bytes(),
            bytes(self.before.pss) / 1e6,
            bytes(self.with.pss) / 1e6,
            self.slab_bytes(),
        )
    }
}

impl Measured {
    fn cpu_us(&self) -> f64 {
        micros(self.cpu) / count(self.deliveries)
    }

    fn is_clean(&self, may_gap: bool) -> bool {
        let Faults { gaps, .. } = self.tally.faults;
        self.is_complete && self.tally.faults.is_clean() && (may_gap || gaps == 0)
    }

    /// Latency at quantiles, in milliseconds.
    fn latencies(&self) -> [(&'static str, f64); 5] {
        let at = |quantile| count(self.tally.latency_us.value_at_quantile(quantile)) / 1e3;
        let max = count(self.tally.latency_us.max()) / 1e3;
        [
            ("p50", at(0.5)),
            ("p90", at(0.9)),
            ("p99", at(0.99)),
            ("p99.9", at(0.999)),
            ("max", max),
        ]
    }

    /// Median and maximum time to the last subscriber, in milliseconds.
    fn last(&self) -> (f64, f64) {
        let mut last: Vec<u64> = self.tally.last_us.values().copied().collect();
        last.sort_unstable();
        let median = last.get(last.len() / 2).copied().unwrap_or(0);
        let max = last.last().copied().unwrap_or(0);
        (count(median) / 1e3, count(max) / 1e3)
    }

    fn json(&self) -> Value {
        let Faults {
            lost,
            duplicates,
            reordered,
            wrong_ids,
            ended,
            gaps,
            skipped,
        } = self.tally.faults;
        let latency: serde_json::Map<String, Value> = self
            .latencies()
            .into_iter()
            .map(|(name, ms)| (name.to_owned(), json!(ms)))
            .collect();
        let (last_median, last_max) = self.last();
        json!({
            "burst": self.burst,
            "publications": self.publications,
            "deliveries": self.deliveries,
            "received": self.tally.delivered,
            "complete": self.is_complete,
            "seconds": self.took.as_secs_f64(),
            "server_cpu_us_per_delivery": self.cpu_us(),
            "server_pss_mb": bytes(self.with.pss) / 1e6,
            "latency_ms": latency,
            "last_subscriber_ms": { "p50": last_median, "max": last_max },
            "faults": {
                "lost": lost, "duplicates": duplicates, "reordered": reordered,
                "wrong_ids": wrong_ids, "ended": ended,
            },
            "gaps_told": gaps,
            "skipped_and_told": skipped,
        })
    }

    fn text(&self) -> String {
        let (last_median, last_max) = self.last();
        let mut text = format!(
            "{} publications, {} together: {} deliveries in {:.2} s, server {:.2} us CPU per \
             delivery, PSS {:.1} MB\n  latency ms:",
            self.publications,
            self.burst,
            self.deliveries,
            self.took.as_secs_f64(),
            self.cpu_us(),
            bytes(self.with.pss) / 1e6,
        );
        for (name, ms) in self.latencies() {
            text += &format!(" {name} {ms:.1}");
        }
        text + &format!(
            "; last subscriber p50 {last_median:.1} max {last_max:.1}\n  {}{:?}\n",
            if self.is_complete { "" } else { "INCOMPLETE " },
            self.tally.faults,
        )
    }
}

impl Report {
    /// Whether nothing was lost, doubled, reordered or skipped without a word.
    pub(crate) fn is_clean(&self) -> bool {
        match self {
            Self::Acceptance {
                stalled, measured, ..
            } => measured.is_clean(*stalled > 0),
            Self::Comparison(comparison) => comparison
                .measured
                .iter()
                .all(|(_, measured)| measured.is_clean(false)),
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        let value = match self {
            Self::Acceptance {
                stalled,
                opened,
                measured,
            } => json!({
                "stalled_per_cent": stalled,
                "connect": opened.json(),
                "publish": measured.json(),
            }),
            Self::Comparison(comparison) => comparison.json(),
        };
        format!("{value:#}\n")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let verdict = match self {
            _ if !self.is_clean() => "FAILED",
            Self::Acceptance { stalled, .. } if *stalled > 0 => {
                "nothing lost, doubled or out of order, and every gap told"
            }
            Self::Acceptance { .. } | Self::Comparison(_) => "every publication once and in order",
        };
        let body = match self {
            Self::Acceptance {
                opened, measured, ..
            } => {
                format!("{}\n{}", opened.text(), measured.text())
            }
            Self::Comparison(comparison) => comparison.text(),
        };
        format!("{body}{verdict}\n")
    }
}

/// A ratio of sums, and the least and greatest of a round.
struct Ratio {
    of_sums: f64,
    least: f64,
    greatest: f64,
}

impl Ratio {
    /// From fanfare's and the floor's figures, round by round.
    fn new(fanfare: &[f64], floor: &[f64]) -> Self {
        let rounds: Vec<f64> = fanfare.iter().zip(floor).map(|(a, b)| a / b).collect();
        Self {
            of_sums: fanfare.iter().sum::<f64>() / floor.iter().sum::<f64>(),
            least: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: rounds.iter().copied().fold(0.0, f64::max),
        }
    }

    fn json(&self) -> Value {
        json!({ "of_sums": self.of_sums, "least": self.least, "greatest": self.greatest })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            of_sums,
            least,
            greatest,
        } = self;
        write!(f, "{of_sums:.3} ({least:.3}-{greatest:.3})")
    }
}

impl Comparison {
    /// Figures of connecting, as a ratio.
    fn connect_ratio(&self) -> Ratio {
        let of = |server| -> Vec<f64> {
            let own = self.opened.iter().filter(|(whose, _)| *whose == server);
            own.map(|(_, opened)| opened.cpu_us()).collect()
        };
        Ratio::new(&of(Server::Fanfare), &of(Server::Floor))
    }

    /// A figure of all bursts of one size, as a ratio.
    fn ratio(&self, burst: u32, figure: impl Fn(&Measured) -> f64) -> Ratio {
        let of = |server| -> Vec<f64> {
            let own = self.measured.iter();
            let own = own.filter(|(whose, m)| *whose == server && m.burst == burst);
            own.map(|(_, measured)| figure(measured)).collect()
        };
        Ratio::new(&of(Server::Fanfare), &of(Server::Floor))
    }

    fn bursts(&self) -> Vec<u32> {
        let mut bursts: Vec<u32> = self.measured.iter().map(|(_, m)| m.burst).collect();
        bursts.sort_unstable();
        bursts.dedup();
        bursts
    }

    fn json(&self) -> Value {
        let connect: Vec<Value> = self
            .opened
            .iter()
            .map(|(server, opened)| json!({ "server": name(*server), "connect": opened.json() }))
            .collect();
        let publish: Vec<Value> = self
            .measured
            .iter()
            .map(|(server, m)| json!({ "server": name(*server), "publish": m.json() }))
            .collect();
        let deliveries: Vec<Value> = self
            .bursts()
            .into_iter()
            .map(|burst| {
                json!({
                    "burst": burst,
                    "cpu_per_delivery": self.ratio(burst, Measured::cpu_us).json(),
                    "last_subscriber": self.ratio(burst, |m| m.last().0).json(),
                })
            })
            .collect();
        json!({
            "ratio_to_floor": {
                "cpu_per_connect": self.connect_ratio().json(),
                "deliveries": deliveries,
            },
            "connect": connect,
            "publish": publish,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (server, opened) in &self.opened {
            text += &format!("{}: {}\n", name(*server), opened.text());
        }
        for (server, measured) in &self.measured {
            text += &format!("{}: {}", name(*server), measured.text());
        }
        text += "ratios fanfare / floor, of sums (least-greatest of a round):\n";
        text += &format!("  CPU per connect {}\n", self.connect_ratio());
        for burst in self.bursts() {
            let cpu = self.ratio(burst, Measured::cpu_us);
            let last = self.ratio(burst, |m| m.last().0);
            text += &format!(
                "  {burst} together: CPU per delivery {cpu}, median time to last subscriber {last}\n"
            );
        }
        text
    }
}

fn name(server: Server) -> &'static str {
    match server {
        Server::Fanfare => "fanfare",
        Server::Floor => "floor",
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "far below 2 to the 53rd")]
fn count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "far below 2 to the 53rd")]
fn bytes(number: i64) -> f64 {
    number as f64
}
