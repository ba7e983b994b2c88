//! The deterministic simulation: one to four real workers run over simulated networks. The seed
//! determines every random choice of a run.
//!
//! `cargo test --test sim` runs 300 seeds. `FANFARE_SIM_SEEDS=20000 cargo test --release --test
//! sim` runs 20,000 seeds. `FANFARE_SIM_SEED=7` runs only seed 7 and prints its trace. The message
//! of a failure names the seed that failed.
//!
//! # Glossary
//!
//! - *Run*: the simulation of one seed. It has a *fault phase* (the network, the disk, the peers
//!   and the schedule misbehave), then a *quiet phase* (no faults; every client must be served
//!   completely), then a drain. Some runs drain in the fault phase. [`world`] controls the run.
//! - *Start*: the lifetime of one server process; `RunId` is its number. A run with a journal may
//!   have several starts: the server is killed and started again, at times from an older copy of
//!   the journal.
//! - *Peer*: a simulated client ([`peer`]). *Link*: one connection of a peer ([`link`]). *Pipe*:
//!   the kernel buffers of that connection ([`net`]).
//! - *Facts*: the record of all publications and of the progress of each worker ([`facts`]).
//! - *Serial*: the number of a publication over all epochs ([`epochs`]). An epoch change makes the
//!   publications and positions that it discards *void*.
//! - *Owed* publication: a publication after a subscription's position that is not void, has not
//!   expired and is in no gap. The client must still receive it, or a gap that includes it.
//! - *Expected deliveries*: the position of each subscription of one connection, and the
//!   publications that the connection must still receive ([`model::ExpectedDeliveries`]).
//!   *Progress*: the same record for one client, over all its connections ([`progress`]).
//! - *Reported gap*: a gap as the client read it ([`gap`]). *History*: the earlier publications at
//!   the start of a subscription, if the client requested them ([`history`]).
//! - *Tracked client*: a client that keeps its channels and always resumes at its last id. Its
//!   progress is checked over all its connections.
//!
//! The other modules: [`feed`] simulates the sequencer, and [`backend`] simulates the rest of the
//! feed. [`disk`] simulates the storage that survives the server. [`operator`] asks the workers
//! questions. [`wire`] parses the bytes that clients read. [`access`], [`check`] and [`pinned`]
//! check the workers. [`drain`] simulates a drain that is ordered while an inbox is full.
//! [`tokens`], [`calendar`] and [`secure`] provide tokens, the time of day and TLS.
#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::struct_excessive_bools,
    clippy::unwrap_used,
    reason = "a test may panic and print, runs where usize has 64 bits, and keeps flags as flags"
)]

mod access;
mod backend;
mod calendar;
mod check;
mod disk;
mod drain;
mod epochs;
mod facts;
mod feed;
mod gap;
mod history;
mod link;
mod model;
mod net;
mod operator;
mod peer;
mod pinned;
mod progress;
mod rules;
mod secure;
mod spans;
mod tokens;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fanfare::metrics::{Kind, WorkerMetrics};

use net::Sabotage;
use world::{Outcome, World};

/// The number of seeds in a test run without `FANFARE_SIM_SEEDS`.
const SEEDS: u64 = 300;
/// The number of failures after which a test run stops.
const FAILURES_MAX: usize = 3;

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed. Returns the outcome, or a description of the state at which the run failed.
fn run_seed(seed: u64, sabotage: Option<Sabotage>, is_shown: bool) -> Result<Outcome, String> {
    let mut world = World::new(seed, sabotage, is_shown);
    catch_unwind(AssertUnwindSafe(|| world.run())).map_err(|_panic| world.describe())
}

fn add_outcome(total: &mut Outcome, outcome: &Outcome) {
    total.counts.resize(outcome.counts.len(), 0);
    for (sum, count) in total.counts.iter_mut().zip(&outcome.counts) {
        *sum += count;
    }
    total.turns += outcome.turns;
    total.publications += outcome.publications;
    total.deliveries += outcome.deliveries;
    total.gaps += outcome.gaps;
    total.windows_filled += outcome.windows_filled;
    total.ahead += outcome.ahead;
    total.restarts += outcome.restarts;
    total.epochs += outcome.epochs;
    total.rule_changes += outcome.rule_changes;
    total.lag.merge(&outcome.lag);
}

#[test]
fn every_subscriber_receives_each_publication_or_a_gap_over_it() {
    if let Some(seed) = env_number("FANFARE_SIM_SEED") {
        let outcome = run_seed(seed, None, true);
        eprintln!("{outcome:?}");
        assert!(outcome.is_ok(), "seed {seed} failed");
        return;
    }
    let seeds = env_number("FANFARE_SIM_SEEDS").unwrap_or(SEEDS);
    let first = env_number("FANFARE_SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let total = Mutex::new(Outcome::default());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failures.lock().unwrap().len() >= FAILURES_MAX {
                        return;
                    }
                    match run_seed(seed, None, false) {
                        Ok(outcome) => add_outcome(&mut total.lock().unwrap(), &outcome),
                        Err(at) => failures.lock().unwrap().push(format!("seed {seed}: {at}")),
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    show(seeds, &total);
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "replay with FANFARE_SIM_SEED:\n{}",
        failures.join("\n")
    );
    assert!(
        seeds < SEEDS || total.lag.percent_max > 90,
        "no peer came near the quota"
    );
    assert!(seeds < SEEDS || total.restarts > 0, "no server was killed");
    assert!(seeds < SEEDS || total.epochs > 0, "no epoch has changed");
    assert!(
        seeds < SEEDS || total.rule_changes > 0,
        "no rules have changed"
    );
    assert!(
        seeds < SEEDS || total.ahead > 0,
        "no connection was ahead of its worker"
    );
    assert!(
        seeds < SEEDS || total.windows_filled > 0,
        "no window was ever full"
    );
    assert!(
        seeds < SEEDS || untested_counters(&total).is_empty(),
        "never happened: {:?}",
        untested_counters(&total)
    );
}

fn show(seeds: u64, total: &Outcome) {
    for (line, count) in WorkerMetrics::TABLE.iter().zip(&total.counts) {
        eprintln!("{count:>12} {} {}", line.name, line.labels);
    }
    eprintln!(
        "{seeds} seeds: {} turns, {} publications, {} deliveries read, {} gaps read",
        total.turns, total.publications, total.deliveries, total.gaps
    );
    eprintln!(
        "{} windows filled, {} restarts, {} new epochs, {} connections ahead of their workers",
        total.windows_filled, total.restarts, total.epochs, total.ahead
    );
    let lag = &total.lag;
    eprintln!(
        "quota: {} samples of lag, at most {} % of it; over it by {} bytes, {} publications",
        lag.samples, lag.percent_max, lag.bytes_over, lag.publications_over
    );
}

/// Returns the names of the counters that no run has incremented. The events that these counters
/// count have not been tested.
fn untested_counters(total: &Outcome) -> Vec<&'static str> {
    // A counter in this list needs a condition that few or no runs have: thousands of conns or
    // publications in one turn, a limit on memory or channels, a client without a sufficient token,
    // a failed or resumed TLS session, or an invalid PROXY header.
    const OUT_OF_REACH: [&str; 14] = [
        // This counter needs many handshakes in one turn, which happens once in hundreds of runs.
        "phase=\"handshake\"",
        // This counter needs a WebSocket that never subscribes, which happens once in thousands of
        // runs.
        "reason=\"no_subscription\"",
        "limit=\"memory\"",
        "limit=\"proxy\"",
        "reason=\"bad_proxy_header\"",
        "fanfare_subscriptions_refused_total",
        "outcome=\"refused\"",
        "phase=\"accept\"",
        "phase=\"expire\"",
        "reason=\"not_allowed\"",
        "reason=\"refused\"",
        "reason=\"tls_error\"",
        "fanfare_tls_handshakes_resumed_total",
        "reason=\"unauthorized\"",
    ];
    let lines = WorkerMetrics::TABLE.iter().zip(&total.counts);
    lines
        .filter(|(line, count)| **count == 0 && line.kind == Kind::Counter)
        .map(|(line, _)| match line.labels {
            "" => line.name,
            labels => labels,
        })
        .filter(|name| !OUT_OF_REACH.contains(name))
        .collect()
}

#[test]
fn same_seed_gives_the_same_outcome() {
    for seed in 0..10 {
        assert_eq!(
            run_seed(seed, None, false),
            run_seed(seed, None, false),
            "{seed}"
        );
    }
}

#[test]
fn injected_bug_is_detected() {
    for sabotage in [
        Sabotage::DropByte,
        Sabotage::LoseReadiness,
        Sabotage::LoseRecord,
        Sabotage::RepeatByte,
    ] {
        let found = (0..20).any(|seed| run_seed(seed, Some(sabotage), false).is_err());
        assert!(found, "{sabotage:?} was not detected");
    }
}
