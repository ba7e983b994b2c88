//! A server under attack. Measures the cost of the attack, and checks what remains of it
//! afterwards.
//!
//! The memory cost is the resident memory of the process, sampled continuously so that peaks are
//! seen. Processor time is divided by the number of actions of the attackers. The limits allow for
//! a debug build on a busy machine. A server that does not free its memory, or that loops, exceeds
//! the limits by far.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::MIB;
use super::bystanders::Bystanders;
use crate::support::handmade::has_ended;
use crate::support::raw::connect;
use crate::support::{Process, Server, within};

/// Memory growth that is normal: the allocator reserves some MiB at a time for each thread, and the
/// log stores the new publications.
const GROWTH_BYTES: u64 = 8 * MIB;
/// The memory that may remain after the attackers are gone. It includes memory that the allocator
/// keeps, and tables that have grown by doubling for up to a thousand conns.
const LEFT_BYTES: u64 = 12 * MIB;
/// The maximum share of a processor for the bystanders and for reading metrics.
const BESIDE_SHARE: f64 = 0.5;
/// The maximum share of a processor that an idle server may use. A loop without a sleep uses a
/// whole processor, or half of one on a busy machine.
const REST_SHARE: f64 = 0.4;
/// The time for which the idle server is observed.
const REST: Duration = Duration::from_millis(300);
/// The maximum delay of a publication to a bystander.
const DELAY: Duration = Duration::from_secs(2);

/// The maximum cost of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CostLimit {
    /// The number of simultaneous attackers, or the number of items that the server stores for
    /// them.
    pub(crate) held: usize,
    /// The maximum memory in bytes for each of the `held` attackers or items.
    pub(crate) bytes_each: u64,
    /// The number of actions that cost the server processor time, such as requests or frames.
    pub(crate) acts: usize,
    /// The maximum processor time for each of these actions.
    pub(crate) cpu_each: Duration,
}

/// A server with its bystanders, and its use of resources before the attack.
pub(crate) struct AttackedServer {
    name: &'static str,
    bystanders: Bystanders,
    memory: Memory,
    start: Instant,
    cpu: Duration,
    resident: u64,
    descriptors: BTreeMap<u32, usize>,
    cost: Option<String>,
    /// The server. It is the last field, so that it is dropped last.
    pub(crate) server: Server,
}

impl AttackedServer {
    /// Starts a server with this configuration and one worker, so that all clients share a worker.
    pub(crate) fn of(name: &'static str, config: &str) -> Self {
        Self::with(name, Server::with(config, &["--workers", "1"]))
    }

    /// Begins an attack on a server that is already running.
    pub(crate) fn with(name: &'static str, server: Server) -> Self {
        Self::with_bystanders::<TcpStream>(name, server, Vec::new())
    }

    /// Like `with`, but with more bystanders: each of these connections is used for one more event
    /// stream.
    pub(crate) fn with_bystanders<S: Read + Write + Send + 'static>(
        name: &'static str,
        server: Server,
        connections: Vec<S>,
    ) -> Self {
        let bystanders = Bystanders::new(&server, connections);
        let process = server.process();
        await_count(&server, "fanfare_subscribers", bystanders.count());
        // Waits until the server has accepted the feeder. Otherwise the descriptor of this
        // connection could look like one that the server has not closed after the attack.
        await_count(&server, "fanfare_feeders", 1);
        Self {
            name,
            bystanders,
            memory: Memory::watch(process),
            start: Instant::now(),
            cpu: process.cpu_time(),
            resident: process.resident_bytes(),
            descriptors: process.descriptors(),
            cost: None,
            server,
        }
    }

    /// Checks the cost of the attack so far. Call this while the attackers are still connected, or
    /// after the most expensive part of the attack.
    pub(crate) fn check_cost(&mut self, limit: CostLimit) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let cpu = self.server.process().cpu_time() - self.cpu;
        let growth = self.memory.peak().saturating_sub(self.resident);
        let growth_max = GROWTH_BYTES + limit.held as u64 * limit.bytes_each;
        let acts = u32::try_from(limit.acts).unwrap();
        let cpu_max = limit.cpu_each * acts + Duration::from_secs_f64(BESIDE_SHARE * elapsed);
        self.cost = Some(format!(
            "{:>7} held {:>7} acts {:>6} of {:>6} KiB more, {:>7.2} of {:>7.2} s of CPU in {:.1} s",
            limit.held,
            limit.acts,
            growth / 1024,
            growth_max / 1024,
            cpu.as_secs_f64(),
            cpu_max.as_secs_f64(),
            elapsed,
        ));
        assert!(growth <= growth_max, "{}: {:?}", self.name, self.cost);
        assert!(cpu <= cpu_max, "{}: {:?}", self.name, self.cost);
    }

    /// Checks that nothing remains of the attackers, and that the bystanders missed nothing. Call
    /// this after the attackers have disconnected.
    pub(crate) fn finish(self) {
        let (server, process) = (&self.server, self.server.process());
        for name in ["fanfare_conns", "fanfare_subscribers"] {
            await_count(server, name, self.bystanders.count());
        }
        await_count(server, "fanfare_conns_pending", 0);
        await_count(server, "fanfare_feeders", 1);
        println!("{}: descriptors before: {:?}", self.name, self.descriptors);
        within("the descriptors are given back", || {
            let now = process.descriptors();
            // A thread that has ended has no descriptor table.
            let is_as_before = |(thread, count): (&u32, &usize)| {
                let before = self.descriptors.get(thread);
                before.is_none_or(|before| count <= before)
            };
            now.iter().all(is_as_before).then_some(())
        });
        let left = within("memory is given back", || {
            let left = process.resident_bytes().saturating_sub(self.resident);
            (left <= LEFT_BYTES).then_some(left)
        });
        let share = process.cpu_share(REST, || thread::sleep(REST));
        let cost = self.cost.expect("check_cost comes before finish");
        let delivered = self.bystanders.finish();
        println!(
            "{:<24} {cost}; {:>4} KiB left, {share:.2} at rest, {} publications in {:?}",
            self.name,
            left / 1024,
            delivered.count,
            delivered.slowest,
        );
        assert!(share < REST_SHARE, "{}: {share} of a processor", self.name);
        assert!(delivered.slowest < DELAY, "{}: {delivered:?}", self.name);
        drop(self.memory);
    }
}

/// Waits until a metric has this value.
pub(crate) fn await_count(server: &Server, name: &str, count: usize) {
    server.await_metric(name, f64::from(u32::try_from(count).unwrap()));
}

/// Returns the metric that counts the conns closed for this reason.
pub(crate) fn closed(reason: &str) -> String {
    format!("fanfare_conns_closed_total{{reason=\"{reason}\"}}")
}

/// Opens `count` connections.
pub(crate) fn connects(count: usize, addr: SocketAddr) -> Vec<TcpStream> {
    (0..count).map(|_| connect(addr)).collect()
}

/// Waits until the server has closed all these connections.
pub(crate) fn await_closed(streams: &mut [TcpStream]) {
    within("all are ended", || {
        streams.iter_mut().all(has_ended).then_some(())
    });
}

/// Returns a count from a metric.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count"
)]
pub(crate) fn whole(count: f64) -> usize {
    count as usize
}

/// Samples the peak of the process's resident memory.
struct Memory {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    fn watch(process: Process) -> Self {
        let (peak, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, is_stopped) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                AtomicU64::fetch_max(&seen, process.resident_bytes(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            peak,
            stop,
            thread: Some(thread),
        }
    }

    fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
