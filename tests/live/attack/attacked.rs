//! A server under attack: what the attack costs it, and what is left of it afterwards.
//!
//! Memory is what the process has written to, looked at all the time, so that a peak is seen.
//! Processor time is divided by what the attackers did. Every bound is for a build without
//! optimization on a busy machine; a server that keeps what it should not, or turns in circles, is
//! beyond it by far.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::MIB;
use super::bystanders::Beside;
use crate::support::handmade::has_ended;
use crate::support::raw::connect;
use crate::support::{Process, Server, within};

/// The allocator takes memory from the kernel in pieces of some MiB for each thread, and the log
/// has what was published meanwhile, so there is nothing to see below that.
const GROWTH_BYTES: u64 = 8 * MIB;
/// What may be left when the attackers are gone: the same pieces, and tables that have doubled,
/// until a thousand conns have come or gone.
const LEFT_BYTES: u64 = 12 * MIB;
/// The share of a processor for whoever behaves well, and for looking at metrics.
const BESIDE_SHARE: f64 = 0.5;
/// A loop that turns in circles has a processor for itself, or half of one where many want it.
const REST_SHARE: f64 = 0.4;
/// How long it is seen whether the server rests.
const REST: Duration = Duration::from_millis(300);
/// The longest that anybody beside an attack waits for a publication.
const DELAY: Duration = Duration::from_secs(2);

/// What an attack may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    /// Attackers at once, or what they hold.
    pub(crate) held: usize,
    /// Bytes of memory for each of them.
    pub(crate) bytes_each: u64,
    /// What they did.
    pub(crate) acts: usize,
    /// Processor time for each.
    pub(crate) cpu_each: Duration,
}

/// A server, who is beside the attack, and what there was before.
pub(crate) struct Siege {
    name: &'static str,
    beside: Beside,
    memory: Memory,
    start: Instant,
    cpu: Duration,
    resident: u64,
    descriptors: BTreeMap<u32, usize>,
    weighed: Option<String>,
    /// The server. Last, so that it is there until nobody looks at it any more.
    pub(crate) server: Server,
}

impl Siege {
    /// A server with this configuration and one worker, so that everybody meets everybody.
    pub(crate) fn of(name: &'static str, config: &str) -> Self {
        Self::with(name, Server::with(config, &["--workers", "1"]))
    }

    /// A server that is there already.
    pub(crate) fn with(name: &'static str, server: Server) -> Self {
        Self::beside::<TcpStream>(name, server, Vec::new())
    }

    /// The same with event streams on these connections too.
    pub(crate) fn beside<S: Read + Write + Send + 'static>(
        name: &'static str,
        server: Server,
        connections: Vec<S>,
    ) -> Self {
        let beside = Beside::new(&server, connections);
        let process = server.process();
        await_count(&server, "fanfare_subscribers", beside.count());
        // A feeder that is accepted later would look like a descriptor that is not given back.
        await_count(&server, "fanfare_feeders", 1);
        Self {
            name,
            beside,
            memory: Memory::watch(process),
            start: Instant::now(),
            cpu: process.cpu_time(),
            resident: process.resident_bytes(),
            descriptors: process.descriptors(),
            weighed: None,
            server,
        }
    }

    /// Sees what the attack has cost so far. Its end is the worst of it, or its attackers are still
    /// there.
    pub(crate) fn weigh(&mut self, price: Price) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let cpu = self.server.process().cpu_time() - self.cpu;
        let growth = self.memory.peak().saturating_sub(self.resident);
        let growth_max = GROWTH_BYTES + price.held as u64 * price.bytes_each;
        let acts = u32::try_from(price.acts).unwrap();
        let cpu_max = price.cpu_each * acts + Duration::from_secs_f64(BESIDE_SHARE * elapsed);
        self.weighed = Some(format!(
            "{:>7} held {:>7} acts {:>6} of {:>6} KiB more, {:>7.2} of {:>7.2} s of CPU in {:.1} s",
            price.held,
            price.acts,
            growth / 1024,
            growth_max / 1024,
            cpu.as_secs_f64(),
            cpu_max.as_secs_f64(),
            elapsed,
        ));
        assert!(growth <= growth_max, "{}: {:?}", self.name, self.weighed);
        assert!(cpu <= cpu_max, "{}: {:?}", self.name, self.weighed);
    }

    /// The attackers are gone: nothing is left of them, and nobody beside them has noticed.
    pub(crate) fn end(self) {
        let (server, process) = (&self.server, self.server.process());
        for name in ["fanfare_conns", "fanfare_subscribers"] {
            await_count(server, name, self.beside.count());
        }
        await_count(server, "fanfare_conns_pending", 0);
        await_count(server, "fanfare_feeders", 1);
        println!("{}: descriptors before: {:?}", self.name, self.descriptors);
        within("the descriptors are given back", || {
            let now = process.descriptors();
            // The table of a thread that has ended is gone with it.
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
        let weighed = self.weighed.expect("weigh comes before end");
        let delivered = self.beside.end();
        println!(
            "{:<24} {weighed}; {:>4} KiB left, {share:.2} at rest, {} publications in {:?}",
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

/// The metric of conns closed for this reason.
pub(crate) fn closed(reason: &str) -> String {
    format!("fanfare_conns_closed_total{{reason=\"{reason}\"}}")
}

/// So many connections.
pub(crate) fn connects(count: usize, addr: SocketAddr) -> Vec<TcpStream> {
    (0..count).map(|_| connect(addr)).collect()
}

/// Waits until the server has ended all of them.
pub(crate) fn await_ends(streams: &mut [TcpStream]) {
    within("all are ended", || {
        streams.iter_mut().all(has_ended).then_some(())
    });
}

/// A count that stands in a metric.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count"
)]
pub(crate) fn whole(count: f64) -> usize {
    count as usize
}

/// The process's memory, looked at all the time.
struct Memory {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    fn watch(process: Process) -> Self {
        let (peak, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, told) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
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
