//! SHELL: this module connects all clients to one server and runs the measurements.
//!
//! There are two ways to publish. [`LoadTest::publish_at_rate`] does not wait for the clients.
//! [`LoadTest::publish_in_turns`] sends a burst only after every client has received the previous
//! burst, so the server never sends publications of two bursts in one write.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;

use super::client_pool::ClientPool;
use super::figures::{ConnectFigures, IdleFigures, PublishFigures, StormFigures};
use super::plan::Plan;
use super::probe::Probe;
use super::publisher::{FeedFormat, Payloads, Publisher};
use super::server::Server;
use super::sys::monotonic_ns;

/// The duration of a pause before a measurement, in which the server becomes idle.
const REST: Duration = Duration::from_millis(700);
/// The longest wait until a server has processed the end of all connections.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// The maximum time between two updates of a progress bar during a wait.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// The rate and duration of publishing, and whether new requests are timed.
#[derive(Clone, Copy, Debug)]
pub struct PublishRate {
    /// The number of publications in each burst, which are sent together.
    pub burst: u32,
    /// The time between two bursts.
    pub interval: Duration,
    /// The duration of the run.
    pub lasting: Duration,
    /// Whether the response times of requests on new connections are measured during the run.
    pub has_probe: bool,
}

/// One server with all clients connected.
#[derive(Debug)]
pub struct LoadTest {
    pool: ClientPool,
    publisher: Option<Publisher>,
    server: Server,
    connected: ConnectFigures,
}

impl LoadTest {
    /// Connects all clients. If `payloads` is set, also connects a feeder.
    ///
    /// # Errors
    /// Returns an error if a connection is refused, or if the server or its feed has ended.
    pub fn open(
        server: Server,
        plan: Plan,
        payloads: Option<(FeedFormat, Payloads)>,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let publisher = match payloads {
            None => None,
            Some((format, payloads)) => {
                let feed = server.feed.as_ref().context("there is no feed")?;
                Some(Publisher::new(feed, format, payloads)?)
            }
        };
        let (pool, connected) = connect(&server, plan, bar)?;
        Ok(Self {
            pool,
            publisher,
            server,
            connected,
        })
    }

    /// Returns the figures of connecting.
    #[must_use]
    pub fn connected(&self) -> &ConnectFigures {
        &self.connected
    }

    /// Returns the reasons why connections have failed. The text is empty if no connection has
    /// failed.
    #[must_use]
    pub fn troubles(&self) -> String {
        self.pool.troubles()
    }

    /// Waits for the duration `lasting`, and returns the cost of the idle connections in this
    /// period.
    ///
    /// # Errors
    /// Returns an error if the server has ended.
    pub fn idle(&self, lasting: Duration, bar: &ProgressBar) -> Result<IdleFigures> {
        let before = self.server.usage()?;
        let begun = Instant::now();
        wait_until(begun + lasting, bar);
        Ok(IdleFigures {
            conns: self.connected.conns,
            took: begun.elapsed(),
            usage: self.server.usage()?.since(before),
        })
    }

    /// Publishes at a rate, then waits until all clients have received all publications.
    ///
    /// # Errors
    /// Returns an error if the server or its feed has ended.
    pub fn publish_at_rate(
        &mut self,
        rate: &PublishRate,
        bar: &ProgressBar,
    ) -> Result<PublishFigures> {
        let probe = rate
            .has_probe
            .then(|| Probe::start(self.server.address, self.pool.is_delivering()))
            .transpose()?;
        let before = self.server.usage()?;
        let begun = Instant::now();
        let end = begun + rate.lasting;
        self.pool.set_churning(true);
        match &mut self.publisher {
            None => wait_until(end, bar),
            Some(publisher) => {
                let mut due = begun;
                while due < end {
                    wait_until(due, bar);
                    let late_ns = u64::try_from(due.elapsed().as_nanos())?;
                    publisher.publish(rate.burst, monotonic_ns().saturating_sub(late_ns))?;
                    self.pool.note_sent(publisher.published());
                    bar.inc(u64::from(rate.burst));
                    due += rate.interval.min(rate.lasting);
                }
                publisher.finish()?;
            }
        }
        self.pool.set_churning(false);
        bar.set_message("waiting for all clients");
        let published = self.publisher.as_ref().map_or(0, Publisher::published);
        let is_complete = self.pool.wait_for(published);
        let took = begun.elapsed();
        let usage = self.server.usage()?.since(before);
        let probe = probe.map(Probe::finish);
        let memory = self.server.memory()?;
        // If the generator has published nothing, the connections need not reach a last
        // publication.
        let is_complete = (published == 0 || self.pool.resume(published)) && is_complete;
        // In this pause, clients receive publications that arrive after the last expected one and
        // count them as faults.
        thread::sleep(BAR_INTERVAL);
        Ok(PublishFigures {
            burst: rate.burst,
            publications: published,
            expected: self.pool.deliveries(published),
            is_complete,
            took,
            usage,
            memory,
            subscribers: self.publisher.as_ref().map(Publisher::subscribers),
            probe,
            tally: self.pool.take_tally(),
        })
    }

    /// Publishes bursts. Each burst is sent after all clients have received the previous burst.
    ///
    /// # Errors
    /// Returns an error if there is no feed, or if the server has ended.
    pub fn publish_in_turns(&mut self, burst: u32, bursts: u32) -> Result<PublishFigures> {
        let publisher = self.publisher.as_mut().context("there is no feed")?;
        let already = publisher.published();
        let before = self.server.usage()?;
        let begun = Instant::now();
        let mut is_complete = true;
        for _ in 0..bursts {
            publisher.publish(burst, monotonic_ns())?;
            is_complete = self.pool.wait_for(publisher.published());
            // If a client has missed a publication, the waits for all remaining bursts would time
            // out.
            if !is_complete {
                break;
            }
        }
        let took = begun.elapsed();
        let published = publisher.published();
        Ok(PublishFigures {
            burst,
            publications: published - already,
            expected: self.pool.deliveries(published) - self.pool.deliveries(already),
            is_complete,
            took,
            usage: self.server.usage()?.since(before),
            memory: self.server.memory()?,
            subscribers: None,
            probe: None,
            tally: self.pool.take_tally(),
        })
    }
}

/// Connects all clients, then closes the connections.
///
/// # Errors
/// Returns an error if a connection is refused, or if the server has ended.
pub fn storm(server: &Server, plan: Plan, bar: &ProgressBar) -> Result<StormFigures> {
    let (pool, connected) = connect(server, plan, bar)?;
    drop(pool);
    settle(server)?;
    Ok(StormFigures {
        connected,
        after: server.memory()?,
    })
}

fn connect(server: &Server, plan: Plan, bar: &ProgressBar) -> Result<(ClientPool, ConnectFigures)> {
    thread::sleep(REST);
    let (conns, kinds) = (plan.conns(), plan.kinds.clone());
    let before = server.memory()?;
    let used = server.usage()?;
    let begun = Instant::now();
    let pool = ClientPool::open(plan, |ready| bar.set_position(ready))?;
    let took = begun.elapsed();
    let usage = server.usage()?.since(used);
    thread::sleep(REST);
    let connected = ConnectFigures {
        conns,
        kinds,
        took,
        usage,
        before,
        with: server.memory()?,
    };
    Ok((pool, connected))
}

/// Waits until the server has processed the end of all connections, as shown by its low processor
/// time.
fn settle(server: &Server) -> Result<()> {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let before = server.usage()?;
        thread::sleep(REST);
        let used = server.usage()?.since(before).cpu.unwrap_or_default();
        if used < REST / 50 || Instant::now() > end {
            return Ok(());
        }
    }
}

fn wait_until(due: Instant, bar: &ProgressBar) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(BAR_INTERVAL));
        bar.tick();
    }
}
