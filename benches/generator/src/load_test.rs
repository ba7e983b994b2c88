//! SHELL: one server with everybody connected, and the runs on it.
//!
//! Publishing at a rate goes on whether anybody keeps up or not. Publishing in turns sends the next
//! burst when everybody has the last one, so that nothing is merged that did not arrive together.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;

use super::client_pool::Crowd;
use super::figures::{Idled, Measured, Opened, Storm};
use super::plan::Plan;
use super::probe::Probe;
use super::publisher::{Form, Payloads, Publisher};
use super::server::Server;
use super::sys::monotonic_ns;

/// Time for a server to come to rest before its memory or processor time is read.
const REST: Duration = Duration::from_millis(700);
/// How long it is waited for a server to have noticed that everybody has gone.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often a progress bar moves while something is waited for.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// At which rate to publish, and what else to do meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Publications that arrive together.
    pub burst: u32,
    /// Time between two bursts.
    pub interval: Duration,
    /// For how long.
    pub lasting: Duration,
    /// Whether new requests are asked meanwhile.
    pub has_probe: bool,
}

/// One server with everybody connected.
#[derive(Debug)]
pub struct Stage {
    crowd: Crowd,
    publisher: Option<Publisher>,
    server: Server,
    opened: Opened,
}

impl Stage {
    /// Connects everybody, and a feeder if something is to be published.
    ///
    /// # Errors
    /// When somebody is not let in, or the server is gone.
    pub fn open(
        server: Server,
        plan: Plan,
        payloads: Option<(Form, Payloads)>,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let publisher = match payloads {
            None => None,
            Some((form, payloads)) => {
                let feed = server.feed.as_ref().context("there is no feed")?;
                Some(Publisher::new(feed, form, payloads)?)
            }
        };
        let (crowd, opened) = connect(&server, plan, bar)?;
        Ok(Self {
            crowd,
            publisher,
            server,
            opened,
        })
    }

    /// What connecting has cost.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Why connections have failed; empty if none has.
    #[must_use]
    pub fn troubles(&self) -> String {
        self.crowd.troubles()
    }

    /// Does nothing for a while and tells what the connections have cost.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn idle(&self, lasting: Duration, bar: &ProgressBar) -> Result<Idled> {
        let before = self.server.usage()?;
        let begun = Instant::now();
        wait_until(begun + lasting, bar);
        Ok(Idled {
            conns: self.opened.conns,
            took: begun.elapsed(),
            usage: self.server.usage()?.since(before),
        })
    }

    /// Publishes at a rate, then waits for everybody.
    ///
    /// # Errors
    /// When the server or its feed is gone.
    pub fn publish_at_rate(&mut self, pace: &Pace, bar: &ProgressBar) -> Result<Measured> {
        let probe = pace
            .has_probe
            .then(|| Probe::start(self.server.address, self.crowd.is_delivering()))
            .transpose()?;
        let before = self.server.usage()?;
        let begun = Instant::now();
        let end = begun + pace.lasting;
        self.crowd.churn(true);
        match &mut self.publisher {
            None => wait_until(end, bar),
            Some(publisher) => {
                let mut due = begun;
                while due < end {
                    wait_until(due, bar);
                    let late_ns = u64::try_from(due.elapsed().as_nanos())?;
                    publisher.publish(pace.burst, monotonic_ns().saturating_sub(late_ns))?;
                    self.crowd.note_sent(publisher.published());
                    bar.inc(u64::from(pace.burst));
                    due += pace.interval.min(pace.lasting);
                }
                publisher.finish()?;
            }
        }
        self.crowd.churn(false);
        bar.set_message("waiting for everybody");
        let published = self.publisher.as_ref().map_or(0, Publisher::published);
        let is_complete = self.crowd.wait_for(published);
        let took = begun.elapsed();
        let usage = self.server.usage()?.since(before);
        let probe = probe.map(Probe::finish);
        let memory = self.server.memory()?;
        // With nothing of ours published there is nothing to come to.
        let is_complete = (published == 0 || self.crowd.resume(published)) && is_complete;
        // What comes after the last publication would be too much.
        thread::sleep(BAR_INTERVAL);
        Ok(Measured {
            burst: pace.burst,
            publications: published,
            expected: self.crowd.deliveries(published),
            is_complete,
            took,
            usage,
            memory,
            subscribers: self.publisher.as_ref().map(Publisher::subscribers),
            probe,
            tally: self.crowd.take_tally(),
        })
    }

    /// Publishes bursts, each when everybody has the one before.
    ///
    /// # Errors
    /// When there is no feed, or the server is gone.
    pub fn publish_in_turns(&mut self, burst: u32, bursts: u32) -> Result<Measured> {
        let publisher = self.publisher.as_mut().context("there is no feed")?;
        let already = publisher.published();
        let before = self.server.usage()?;
        let begun = Instant::now();
        let mut is_complete = true;
        for _ in 0..bursts {
            publisher.publish(burst, monotonic_ns())?;
            is_complete = self.crowd.wait_for(publisher.published());
            // Those who miss one would be waited for in vain each time.
            if !is_complete {
                break;
            }
        }
        let took = begun.elapsed();
        let published = publisher.published();
        Ok(Measured {
            burst,
            publications: published - already,
            expected: self.crowd.deliveries(published) - self.crowd.deliveries(already),
            is_complete,
            took,
            usage: self.server.usage()?.since(before),
            memory: self.server.memory()?,
            subscribers: None,
            probe: None,
            tally: self.crowd.take_tally(),
        })
    }
}

/// Connects everybody and drops them again.
///
/// # Errors
/// When somebody is not let in, or the server is gone.
pub fn storm(server: &Server, plan: Plan, bar: &ProgressBar) -> Result<Storm> {
    let (crowd, opened) = connect(server, plan, bar)?;
    drop(crowd);
    settle(server)?;
    Ok(Storm {
        opened,
        after: server.memory()?,
    })
}

fn connect(server: &Server, plan: Plan, bar: &ProgressBar) -> Result<(Crowd, Opened)> {
    thread::sleep(REST);
    let (conns, kinds) = (plan.conns(), plan.kinds.clone());
    let before = server.memory()?;
    let used = server.usage()?;
    let begun = Instant::now();
    let crowd = Crowd::open(plan, |ready| bar.set_position(ready))?;
    let took = begun.elapsed();
    let usage = server.usage()?.since(used);
    thread::sleep(REST);
    let opened = Opened {
        conns,
        kinds,
        took,
        usage,
        before,
        with: server.memory()?,
    };
    Ok((crowd, opened))
}

/// Waits until the server has nothing more to do with those who have gone.
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
