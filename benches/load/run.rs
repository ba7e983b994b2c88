//! The two runs: acceptance at a rate, and the comparison with the floor.
//!
//! A [`Stage`] is one server with its crowd and its feeder. Acceptance publishes at a rate whether
//! anybody keeps up or not. The comparison publishes the next burst when everybody has the last
//! one, so that nothing is merged that did not arrive together, and lets the servers take turns, so
//! that whatever else the machine does falls on both.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::crowd::{Crowd, Plan};
use super::options::Options;
use super::process::Process;
use super::publisher::Publisher;
use super::report::{Comparison, Measured, Opened, Report, Server};
use super::stream::Kind;

/// Time for a server to come to rest before its memory or processor time is read.
const REST: Duration = Duration::from_millis(700);
/// The fewest bytes that a stamped payload has room in.
const PAYLOAD_BYTES_MIN: usize = 64;

/// One server with everybody connected.
struct Stage {
    process: Process,
    publisher: Publisher,
    crowd: Crowd,
    opened: Opened,
}

impl Stage {
    fn open(server: Server, options: &Options) -> Result<Self> {
        ensure!(options.conns() > 0, "no connections are asked for");
        ensure!(
            options.payload >= PAYLOAD_BYTES_MIN,
            "a payload has at least {PAYLOAD_BYTES_MIN} bytes"
        );
        let clock = Instant::now();
        let process = match server {
            Server::Fanfare => Process::fanfare(options)?,
            Server::Floor => Process::floor(options)?,
        };
        let publisher = match server {
            Server::Fanfare => Publisher::fanfare(&process.feed, clock, options.payload)?,
            Server::Floor => Publisher::floor(&process.feed, clock, options.payload)?,
        };
        thread::sleep(REST);
        let memory = process.memory()?;
        let cpu = process.cpu()?;
        let begun = Instant::now();
        let crowd = Crowd::open(&plan(server, options, process.address, clock))?;
        let took = begun.elapsed();
        let cpu = process.cpu()? - cpu;
        thread::sleep(REST);
        let opened = Opened {
            conns: options.conns(),
            took,
            cpu,
            before: memory,
            with: process.memory()?,
        };
        Ok(Self {
            process,
            publisher,
            crowd,
            opened,
        })
    }

    /// Publishes at a rate, then waits for everybody.
    fn publish_at_rate(&mut self, options: &Options) -> Result<Measured> {
        let cpu = self.process.cpu()?;
        let begun = Instant::now();
        let end = begun + Duration::from_secs(options.seconds);
        let mut due = begun;
        while due < end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.publisher.publish(options.burst(), due)?;
            due += options.interval();
        }
        let published = self.publisher.published();
        let is_complete = self.crowd.wait_for(published);
        let took = begun.elapsed();
        let cpu = self.process.cpu()? - cpu;
        let with = self.process.memory()?;
        let is_complete = self.crowd.resume(published) && is_complete;
        Ok(Measured {
            burst: options.burst(),
            publications: published,
            is_complete,
            took,
            cpu,
            with,
            deliveries: self.crowd.readers() * published,
            tally: self.crowd.take_tally(),
        })
    }

    /// Publishes bursts, each when everybody has the one before.
    fn publish_in_turns(&mut self, burst: u32, bursts: u32) -> Result<Measured> {
        // What the other server's turn has left in the queues is not this one's.
        thread::sleep(Duration::from_millis(50));
        let cpu = self.process.cpu()?;
        let begun = Instant::now();
        let mut is_complete = true;
        for _ in 0..bursts {
            self.publisher.publish(burst, Instant::now())?;
            is_complete &= self.crowd.wait_for(self.publisher.published());
        }
        let took = begun.elapsed();
        let publications = u64::from(burst) * u64::from(bursts);
        Ok(Measured {
            burst,
            publications,
            is_complete,
            took,
            cpu: self.process.cpu()? - cpu,
            with: self.process.memory()?,
            deliveries: self.crowd.readers() * publications,
            tally: self.crowd.take_tally(),
        })
    }
}

fn plan(server: Server, options: &Options, address: std::net::SocketAddr, clock: Instant) -> Plan {
    let (network, kinds) = match server {
        Server::Fanfare => (
            16,
            [
                (Kind::WebSocket, options.websockets),
                (Kind::EventStream, options.event_streams),
            ],
        ),
        Server::Floor => (17, [(Kind::Floor, options.conns()), (Kind::Floor, 0)]),
    };
    Plan {
        address,
        network,
        kinds,
        threads: options.threads(),
        stalled: options.stalled,
        clock,
    }
}

/// Publishes to the real server at a rate and checks everything.
pub(crate) fn accept(options: &Options) -> Result<Report> {
    let mut stage = Stage::open(Server::Fanfare, options)?;
    let measured = stage.publish_at_rate(options)?;
    let subscribers_min = stage.publisher.subscribers_min();
    let all = options.conns() as u64;
    ensure!(
        measured.publications == 0 || !measured.is_complete || subscribers_min == Some(all),
        "the feed told of {subscribers_min:?} subscribers, not {all}"
    );
    Ok(Report::Acceptance {
        stalled: options.stalled,
        opened: stage.opened,
        measured: Box::new(measured),
    })
}

/// Measures the real server and the floor in turns.
pub(crate) fn compare(options: &Options) -> Result<Report> {
    let mut comparison = Comparison::default();
    for round in 0..options.rounds {
        // Whoever comes first finds the kernel's caches cold, so they swap.
        let order = if round % 2 == 0 {
            [Server::Floor, Server::Fanfare]
        } else {
            [Server::Fanfare, Server::Floor]
        };
        let mut stages = Vec::new();
        for server in order {
            let stage = Stage::open(server, options)?;
            comparison.opened.push((server, stage.opened.clone()));
            stages.push((server, stage));
        }
        for burst in options.burst_sizes() {
            for (server, stage) in &mut stages {
                let measured = stage.publish_in_turns(burst, options.bursts)?;
                comparison.measured.push((*server, measured));
            }
        }
    }
    Ok(Report::Comparison(comparison))
}
