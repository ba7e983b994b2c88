//! SHELL: this module is the whole server. It binds the sockets, starts the threads and stops them
//! in order.
//!
//! [`Server::start`] returns when clients and feeders can connect. If the start fails, it returns
//! the reason. Then the caller must end the process, because workers that were started before the
//! failure still run. The users are `fanfare serve` and programs that embed a server.
//!
//! The server starts one thread per worker, `fanfare-feed`, `fanfare-watch`, and others that depend
//! on the configuration. These are `fanfare-admin` (key `admin`), `fanfare-operator`
//! (`admin_socket`), `fanfare-access` (`logging.access`), the store's thread (`journal.path`) and
//! `fanfare-journal` (with `journal.sync = "batch"`). The command adds `fanfare-log` and
//! `fanfare-signal`, `fanfare-reload` during a reload, and `fanfare-join` at the end.

pub mod certificates;
mod credentials;
mod files;
mod memory_watch;
mod operators;
mod outputs;
mod prepare;
pub mod reload;
pub mod service;
mod start_error;
mod threads;
mod token_keys;

pub use prepare::check;
pub use start_error::StartError;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crossbeam_channel::Receiver;

use crate::access_log::AccessLog;
use crate::admin::{self, FigureSources, Readiness, ServerStage};
use crate::certain;
use crate::config::limits::{DEDUPE_WINDOW_MS, DESCRIPTORS_KEPT, WALKERS_PER_PROCESSOR};
use crate::config::problem::Origins;
use crate::config::{Config, Listen};
use crate::feed::{self, Feed, FeedHandle, FeedParts};
use crate::hub::Hub;
use crate::id::{Epoch, RunId, Sequence};
use crate::journal::backup::Backups;
use crate::journal::replay::{self, OpenContext, RecoveredFeed};
use crate::log::{Log, Writer};
use crate::logs::LogHandle;
use crate::metrics::{Counter, FeedMetrics, ReloadMetrics, WorkerMetrics};
use crate::operator::MainOrder;
use crate::spans::SpanMetrics;
use crate::sys::activation::Inherited;
use crate::sys::clock::Clock;
use crate::sys::cpu;
use crate::sys::descriptors::{self, RaisedLimit};
use crate::sys::listener::SocketOptions;
use crate::sys::usage;
use crate::sys::wake::Wake;
use crate::time::Now;
use crate::tls::Identity;
use crate::warnings::Warnings;
use crate::worker::Parts;
use crate::worker::admission::guard::Guard;
use crate::worker::admission::pending::SilentLimit;
use crate::worker::admission::sources::SourceLimiter;
use crate::worker::listener_conns::ListenerConns;
use crate::worker::mail::inbox::{DrainOrder, Mailbox, inbox};
use crate::worker::mail::upstream::{Bounds, Reports, Upstream, upstream};
use crate::worker::reloadable::Reloadable;
use crate::worker::wire::fanout_limiter::{FanoutLimiter, Permit};
use crate::worker::wire::kernel::MioNet;
use credentials::Credentials;
use memory_watch::MemoryWatch;
use operators::Operators;
use outputs::{OutputThreads, Outputs};
use prepare::prepare;
use threads::{Listeners, Listening, Preparation};

/// A running server.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    clock: Clock,
    listening: Listening,
    credentials: Credentials,
    admin: Option<SocketAddr>,
    feed_path: PathBuf,
    workers: Vec<RunningWorker>,
    feed: FeedHandle,
    readiness: Arc<Readiness>,
    warnings: Arc<Warnings>,
    /// Writes the queued lines of the access log and the queued spans when it is dropped.
    _output_threads: OutputThreads,
    operators: Operators,
    /// The handle of the thread that measures memory. The thread ends when this field is dropped.
    memory_watch: MemoryWatch,
    figures: Arc<FigureSources>,
}

#[derive(Debug)]
struct RunningWorker {
    thread: JoinHandle<()>,
    mailbox: Mailbox,
    wake: Arc<Wake>,
    pulse: Arc<AtomicU64>,
    pulse_seen: u64,
}

impl Server {
    /// Starts all threads. The admin listener and operators read `log`. Operators are answered
    /// after [`Self::serve_operators`].
    ///
    /// # Errors
    /// Returns [`StartError::Configuration`] if a file or directory that the configuration names
    /// cannot be used, including a damaged journal. Returns the other variants if an address, the
    /// feed's socket, the journal or a resource of the system is not available.
    pub fn start(config: Config, inherited: Inherited, log: LogHandle) -> Result<Self, StartError> {
        let times = StartTimes::now();
        let config = Arc::new(config);
        let material = prepare(&config, &inherited).map_err(StartError::Configuration)?;
        let descriptor_limit = descriptors::raise_limit();
        let clock = start_clock(&config);
        let (admin, admin_address) = bind_admin(&config)?;
        let (feed, feed_path) = bind_feed(&config, inherited.unix)?;
        let operator = operators::bind(&config, &feed_path)?;
        let mut listeners = Listeners::new(&config, inherited.tcp)?;
        let credentials = Credentials::new(material, &listeners);
        let feed_wake = Arc::new(Wake::new().map_err(StartError::system("create an eventfd"))?);
        let (feed_metrics, readiness) = (Arc::default(), Arc::<Readiness>::default());
        let loaded = InitialState::load(&config, clock, &feed_wake, &feed_metrics)?;
        let warnings = Arc::<Warnings>::default();
        let (outputs, output_threads) = Outputs::start(&config, clock)?;
        let (guard, watch) = guard(&config, listeners.addresses(), clock, &warnings)?;
        let spawner = WorkerSpawner {
            config: Arc::clone(&config),
            run: RunId(getrandom::u64().map_err(StartError::Random)?),
            clock,
            epoch: loaded.epoch,
            log: Arc::clone(loaded.writer.log()),
            feed_wake: Arc::clone(&feed_wake),
            credentials: credentials.clone(),
            guard,
            warnings: Arc::clone(&warnings),
            outputs: outputs.clone(),
            descriptor_limit,
        };
        let started = spawner.start(&mut listeners)?;
        let figures = started.figures(times, &readiness, &watch, &feed_metrics, &log);
        let (figures, mailboxes) = (Arc::new(figures), started.mailboxes());
        let parts = FeedParts {
            epoch: loaded.epoch,
            writer: loaded.writer,
            recovered: loaded.recovered,
            mailboxes: mailboxes.clone(),
            reports: started.reports,
            wake: feed_wake,
            metrics: feed_metrics,
            health: Arc::clone(readiness.health()),
            warnings: Arc::clone(&warnings),
            tracer: outputs.tracer,
            config: Arc::clone(&config),
            clock,
        };
        let feed = feed.spawn(parts);
        let feed = feed.map_err(StartError::system("start the feed's thread"))?;
        spawn_admin(admin, Arc::clone(&figures))?;
        let backups = loaded.backups;
        let operators = Operators::new(operator, &figures, mailboxes, backups, log, clock);
        readiness.set(ServerStage::Ready);
        Ok(Self {
            config,
            clock,
            listening: listeners.listening(),
            credentials,
            admin: admin_address,
            feed_path,
            workers: started.workers,
            feed,
            readiness,
            warnings,
            _output_threads: output_threads,
            operators,
            memory_watch: watch,
            figures,
        })
    }

    /// Starts to answer operators. They see the `origins` of the configuration in use.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started.
    pub fn serve_operators(&mut self, origins: &Origins) -> Result<(), StartError> {
        self.operators
            .set_config(&self.config, &self.config, origins);
        let served = self.operators.serve();
        served.map_err(StartError::system("start the thread for operators"))
    }

    /// Returns the addresses for clients. Port 0 is replaced by the port that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[Listen] {
        &self.listening.addresses
    }

    /// Whether the server uses certificates or token keys, which a reload reads again.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        self.config.tls.has_certificates() || self.credentials.keys.is_some()
    }

    /// Returns the requests of operators that the caller has to carry out.
    #[must_use]
    pub fn orders(&self) -> &Receiver<MainOrder> {
        self.operators.orders()
    }

    /// Returns the address for metrics and health checks, or `None` if the configuration turns them
    /// off.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the path of the feed's socket.
    #[must_use]
    pub fn feed_path(&self) -> &Path {
        &self.feed_path
    }

    /// Returns the number of worker threads.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Whether every worker has completed at least one pass of its event loop since the previous
    /// call of this function. Also wakes all workers, so that even an idle worker completes a pass
    /// before the next call.
    pub fn is_alive(&mut self) -> bool {
        let mut is_alive = true;
        for worker in &mut self.workers {
            let pulse = worker.pulse.load(Ordering::Relaxed);
            is_alive &= pulse != worker.pulse_seen;
            worker.pulse_seen = pulse;
            worker.wake.wake();
        }
        is_alive
    }

    /// Stops accepting connections and starts to close the open connections. Returns without
    /// waiting.
    pub fn drain(&self) {
        self.readiness.set(ServerStage::Draining);
        self.operators.refuse_backups();
        let conns = self
            .figures
            .workers
            .iter()
            .map(|metrics| metrics.conns_open.value());
        let order = DrainOrder {
            conns: conns.sum(),
            given: self.clock.now(),
        };
        for worker in &self.workers {
            worker.mailbox.order_drain(order);
        }
    }

    /// Whether every worker has closed its connections and ended.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.workers
            .iter()
            .all(|worker| worker.thread.is_finished())
    }

    /// Stops the feed and waits until all threads have ended. Call it after the drain has ended.
    pub fn join(self) {
        self.operators.stop_backup();
        self.feed.stop();
        self.feed.join();
        self.operators.wait_for_backup();
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        self.warnings.report_suppressed(Now(u64::MAX));
    }
}

/// The times at which the process started and at which the server began to start.
#[derive(Clone, Copy)]
struct StartTimes {
    process: SystemTime,
    server: SystemTime,
    /// The same time as `server`, which steps of the system's clock do not change.
    monotonic: Instant,
}

impl StartTimes {
    /// Returns the current time for the server. If the start of the process is unknown, the result
    /// has the current time for the process, too.
    fn now() -> Self {
        let server = SystemTime::now();
        let process = usage::age().and_then(|age| server.checked_sub(age));
        Self {
            process: process.unwrap_or(server),
            server,
            monotonic: Instant::now(),
        }
    }
}

/// Creates the state for admission control, and starts the thread that measures memory for
/// admission control.
fn guard(
    config: &Config,
    listen: &[Listen],
    clock: Clock,
    warnings: &Arc<Warnings>,
) -> Result<(Guard, MemoryWatch), StartError> {
    let guard = Guard {
        proxied: certificates::proxied_listeners(listen),
        sources: SourceLimiter::new(&config.limits).map(Arc::new),
        ..Guard::default()
    };
    let (pressure, sources) = (Arc::clone(&guard.pressure), guard.sources.clone());
    let warnings = Arc::clone(warnings);
    let watch = MemoryWatch::start(
        config.limits.memory_bytes,
        pressure,
        sources,
        warnings,
        clock,
    )
    .map_err(StartError::system("start the thread that watches memory"))?;
    Ok((guard, watch))
}

/// The values that all workers share. They are used to start the workers.
struct WorkerSpawner {
    config: Arc<Config>,
    run: RunId,
    clock: Clock,
    epoch: Epoch,
    log: Arc<Log>,
    feed_wake: Arc<Wake>,
    credentials: Credentials,
    guard: Guard,
    warnings: Arc<Warnings>,
    outputs: Outputs,
    descriptor_limit: RaisedLimit,
}

/// The values that belong to one worker only.
struct WorkerSpec {
    number: u16,
    wake: Arc<Wake>,
    upstream: Upstream,
    guard: Guard,
    metrics: Arc<WorkerMetrics>,
    listener_conns: Arc<ListenerConns>,
    pin: Option<usize>,
    permit: Option<Permit>,
}

/// The running workers, with the values that the feed and the admin listener need.
struct StartedWorkers {
    workers: Vec<RunningWorker>,
    reports: Reports,
    metrics: Vec<Arc<WorkerMetrics>>,
    guard: Guard,
    warnings: Arc<Warnings>,
    access_log: Option<AccessLog>,
    span_metrics: Arc<SpanMetrics>,
    log: Arc<Log>,
    config: Arc<Config>,
    identity: Arc<Reloadable<Option<Arc<Identity>>>>,
    reloads: Arc<ReloadMetrics>,
    /// The number of connections that fit in the descriptor tables of all workers.
    conns_fitting: u64,
    /// For each worker, its numbers of subscriptions in the order of the log's rules.
    subscribers_by_rule: Vec<Arc<[Counter]>>,
    listener_conns: Arc<ListenerConns>,
}

impl StartedWorkers {
    /// Returns the sources of the metrics of these workers and of the other parts.
    fn figures(
        &self,
        times: StartTimes,
        readiness: &Arc<Readiness>,
        memory_watch: &MemoryWatch,
        feed: &Arc<FeedMetrics>,
        logs: &LogHandle,
    ) -> FigureSources {
        let logs = logs.clone();
        FigureSources {
            workers: self.metrics.clone(),
            feed: Arc::clone(feed),
            guard: self.guard.clone(),
            log: Arc::clone(&self.log),
            meter: Arc::clone(memory_watch.meter()),
            readiness: Arc::clone(readiness),
            process_started: times.process,
            started: times.server,
            up_since: times.monotonic,
            warnings: Arc::clone(&self.warnings),
            access_log: self.access_log.clone(),
            span_metrics: Arc::clone(&self.span_metrics),
            config: Arc::new(Reloadable::new(Arc::clone(&self.config))),
            conns_fitting: self.conns_fitting,
            identity: Arc::clone(&self.identity),
            reloads: Arc::clone(&self.reloads),
            subscribers_by_rule: self.subscribers_by_rule.clone(),
            listener_conns: Arc::clone(&self.listener_conns),
            dropped_log_lines: Arc::new(move || logs.dropped_lines()),
        }
    }

    fn mailboxes(&self) -> Vec<Mailbox> {
        let workers = self.workers.iter();
        workers.map(|worker| worker.mailbox.clone()).collect()
    }
}

impl WorkerSpawner {
    /// Starts the workers one by one. All eventfds are created before the first worker leaves the
    /// common descriptor table. So each eventfd has the same number in every table.
    fn start(self, listeners: &mut Listeners) -> Result<StartedWorkers, StartError> {
        let cpus = cpu::allowed().unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "the processors are not known: without the key `workers`, only one worker starts"
            );
            vec![0]
        });
        let count = match self.config.workers {
            0 => cpus.len(),
            some => some as usize,
        };
        let wakes: Vec<Arc<Wake>> = (0..count)
            .map(|_| Wake::new().map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(StartError::system("create the workers' eventfds"))?;
        self.report_limit(count);
        // Workers are pinned only if each worker has its own processor. A pinned worker that shares
        // its processor could not move to an idle processor.
        let pins = (count == cpus.len() && count > 1).then_some(&cpus);
        let permits = cpus.len() * WALKERS_PER_PROCESSOR;
        let limiter =
            (count > permits).then(|| Arc::new(FanoutLimiter::new(permits, wakes.clone())));
        let mut workers = Vec::with_capacity(count);
        let mut metrics = Vec::with_capacity(count);
        let mut subscribers_by_rule = Vec::with_capacity(count);
        let listener_conns = Arc::new(ListenerConns::new(count));
        let (ends, reports) = upstream(&wakes, &self.feed_wake, Bounds::default());
        let guard = self.guard(count);
        for (number, (wake, upstream)) in (0_u16..).zip(wakes.into_iter().zip(ends)) {
            let spec = WorkerSpec {
                number,
                wake,
                upstream,
                metrics: Arc::new(WorkerMetrics::default()),
                listener_conns: Arc::clone(&listener_conns),
                guard: guard.clone(),
                pin: pins.and_then(|cpus| cpus.get(usize::from(number)).copied()),
                permit: limiter
                    .as_ref()
                    .map(|limiter| Permit::new(Arc::clone(limiter), number.into())),
            };
            metrics.push(Arc::clone(&spec.metrics));
            let (worker, subscribers) = self.start_one(spec, count, listeners)?;
            workers.push(worker);
            subscribers_by_rule.push(subscribers);
        }
        let conns_fitting = u64::from(self.conns_fitting(count)) * count as u64;
        Ok(StartedWorkers {
            workers,
            reports,
            metrics,
            guard,
            warnings: self.warnings,
            access_log: self.outputs.access_log,
            span_metrics: self
                .outputs
                .tracer
                .map_or_else(Arc::default, |one| Arc::clone(one.metrics())),
            conns_fitting,
            subscribers_by_rule,
            listener_conns,
            identity: Arc::clone(&self.credentials.secure.identity),
            config: self.config,
            reloads: Arc::default(),
            log: self.log,
        })
    }

    fn start_one(
        &self,
        spec: WorkerSpec,
        count: usize,
        listeners: &mut Listeners,
    ) -> Result<(RunningWorker, Arc<[Counter]>), StartError> {
        let (mailbox, inbox) = inbox(Arc::clone(&spec.wake));
        let mut net = MioNet::new(Arc::clone(&spec.wake), self.clock)
            .map_err(StartError::system("create a worker's epoll"))?;
        if let Some(permit) = spec.permit {
            net.use_fanout_permit(permit);
        }
        let pulse = Arc::new(AtomicU64::new(0));
        let parts = Parts {
            run: self.run,
            number: spec.number,
            config: Arc::clone(&self.config),
            metrics: spec.metrics,
            listener_conns: spec.listener_conns,
            inbox,
            feed: Arc::clone(&self.feed_wake),
            upstream: spec.upstream,
            pulse: Arc::clone(&pulse),
            conns_fitting: self.conns_fitting(count),
            workers: certain::to_u32(count),
            secure: self.credentials.secure.clone(),
            keys: self.credentials.keys.clone(),
            warnings: Arc::clone(&self.warnings),
            access_log: self.outputs.access_log.clone(),
            tracer: self.outputs.tracer.clone(),
            guard: spec.guard,
        };
        let (log, head) = (Arc::clone(&self.log), self.log.posted());
        let hub = Hub::new(log, parts.number, self.epoch, head, &self.config);
        let subscribers = Arc::clone(hub.subscribers_by_rule());
        let preparation = Preparation {
            net,
            hub,
            parts,
            pin: spec.pin,
            options: SocketOptions::new(&self.config),
        };
        let thread = threads::start_worker(preparation, listeners)?;
        let worker = RunningWorker {
            thread,
            mailbox,
            wake: spec.wake,
            pulse,
            pulse_seen: u64::MAX,
        };
        Ok((worker, subscribers))
    }

    /// Creates the state for admission control in workers. Clones of this state share the counts
    /// that limit all workers together.
    fn guard(&self, workers: usize) -> Guard {
        let workers = certain::to_u32(workers);
        let limits = &self.config.limits;
        Guard {
            silent: SilentLimit::new(limits.pending_conns, workers).map(Arc::new),
            ..self.guard.clone()
        }
    }

    /// Logs a warning if the limit on descriptors could not be raised.
    fn report_limit(&self, workers: usize) {
        let RaisedLimit { in_force, refused } = &self.descriptor_limit;
        let Some(error) = refused else { return };
        // A worker's descriptor table starts as a copy of this thread's table, so both tables have
        // the same number of free descriptors.
        let free = in_force.saturating_sub(descriptors::open_count());
        let each = match self.config.limits.conns {
            0 => self.conns_fitting(workers),
            limit => limit.div_ceil(certain::to_u32(workers)),
        };
        let each = u64::from(each).min(free);
        let connections = each.saturating_mul(workers as u64);
        tracing::warn!(
            "cannot raise the limit on descriptors (RLIMIT_NOFILE): {error}. It stays at \
             {in_force} for each of {workers} workers, which is enough for about {connections} \
             connections. Raise it with LimitNOFILE= in the unit or with ulimit -n"
        );
    }

    /// Returns the number of conns that fit in a worker's descriptor table.
    fn conns_fitting(&self, workers: usize) -> u32 {
        conns_in_table(self.descriptor_limit.in_force, certain::to_u32(workers))
    }
}

/// Returns the number of conns that fit in the descriptor table of one of `workers` workers. A
/// table may have `limit` descriptors.
fn conns_in_table(limit: u64, workers: u32) -> u32 {
    // At most half of a small table is reserved, so that a few conns fit even with a low limit.
    let kept = (DESCRIPTORS_KEPT + u64::from(workers)).min(limit / 2);
    u32::try_from(limit - kept).unwrap_or(u32::MAX)
}

/// Starts the clock. With a journal, the clock starts above zero. The journal's publications are
/// older than the start of the server, and their times must not be negative.
fn start_clock(config: &Config) -> Clock {
    if config.journal.path.as_os_str().is_empty() {
        return Clock::start();
    }
    let oldest_ms = config.log.age_ms.max(DEDUPE_WINDOW_MS);
    Clock::start_at(Now(oldest_ms.saturating_mul(2000)))
}

/// The log and the epoch with which a server starts.
struct InitialState {
    epoch: Epoch,
    writer: Writer,
    recovered: Option<RecoveredFeed>,
    backups: Option<Backups>,
}

impl InitialState {
    /// Opens the journal. If no journal is configured, starts a new epoch.
    fn load(
        config: &Config,
        clock: Clock,
        wake: &Arc<Wake>,
        metrics: &Arc<FeedMetrics>,
    ) -> Result<Self, StartError> {
        let fresh = Epoch::new(getrandom::u64().map_err(StartError::Random)?);
        let path = &config.journal.path;
        if path.as_os_str().is_empty() {
            return Ok(Self {
                epoch: fresh,
                writer: Writer::new(config, Sequence::ZERO),
                recovered: None,
                backups: None,
            });
        }
        let context = OpenContext {
            fresh,
            dedupe_seed: fastrand::u64(..),
            now: clock.now(),
            config,
        };
        let opened = replay::open(path, context, Arc::clone(wake), Arc::clone(metrics))?;
        Ok(Self {
            epoch: opened.feed.journal.head().epoch,
            writer: opened.writer,
            recovered: Some(opened.feed),
            backups: Some(opened.backups),
        })
    }
}

/// Returns the inherited socket of the feed, or else binds the configured socket. Also returns the
/// socket's path.
fn bind_feed(config: &Config, inherited: Vec<UnixListener>) -> Result<(Feed, PathBuf), StartError> {
    let count = inherited.len();
    let feed = match inherited.into_iter().next() {
        Some(listener) => {
            let feed = Feed::from_listener(listener);
            let (own, configured) = (feed.path().display(), config.feed.display());
            if feed.path() != config.feed {
                tracing::warn!(
                    "the feed listens on {own}, from a socket unit, and not on {configured}"
                );
            }
            if count > 1 {
                tracing::warn!("socket units name {count} Unix sockets; only {own} is used");
            }
            feed
        }
        None => feed::bind(config).map_err(StartError::Feed)?,
    };
    let path = feed.path().to_path_buf();
    Ok((feed, path))
}

fn spawn_admin(admin: Option<admin::Admin>, figures: Arc<FigureSources>) -> Result<(), StartError> {
    let Some(admin) = admin else { return Ok(()) };
    let spawned = admin.spawn(figures);
    spawned.map_err(StartError::system("start the admin thread"))?;
    Ok(())
}

fn bind_admin(config: &Config) -> Result<(Option<admin::Admin>, Option<SocketAddr>), StartError> {
    let Some(address) = config.admin else {
        return Ok((None, None));
    };
    let admin = admin::bind(address).map_err(|error| StartError::Admin { address, error })?;
    let bound = admin
        .local_address()
        .map_err(|error| StartError::Admin { address, error })?;
    Ok((Some(admin), Some(bound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_descriptor_table_is_reserved_and_at_most_half() {
        let fitting = u64::from(conns_in_table(1024, 2)) * 2;
        assert!((1024..2048).contains(&fitting), "{fitting}");
        assert_eq!(conns_in_table(10, 2), 5);
    }
}
