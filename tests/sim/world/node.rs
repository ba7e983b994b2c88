//! The workers of one server, and the parts that they share.
//!
//! As in the real server, the workers share one log, one table of sources and one queue of reports.
//! [`crate::world`] runs one turn of one worker at a time.

use std::sync::Arc;

use fanfare::config::Config;
use fanfare::hub::Hub;
use fanfare::id::{Epoch, RunId};
use fanfare::log::Log;
use fanfare::metrics::{Kind, WorkerMetrics};
use fanfare::sys::wake::Wake;
use fanfare::time::Now;
use fanfare::worker::admission::guard::Guard;
use fanfare::worker::admission::pending::SilentLimit;
use fanfare::worker::admission::sources::SourceLimiter;
use fanfare::worker::listener_conns::ListenerConns;
use fanfare::worker::mail::inbox::inbox;
use fanfare::worker::mail::upstream::upstream;
use fanfare::worker::{Parts, Worker};

use crate::access::Access;
use crate::backend::{Backend, draw_bounds};
use crate::check::{Checker, LagStats};
use crate::feed::Mailboxes;
use crate::net::FakeNet;
use crate::secure::secure;
use crate::spans::WorkerTracer;
use crate::tokens;

/// The limit on conns in a crowded run, too low for all clients. `CROWDED_SILENT` is the limit on
/// conns that have not sent a request.
const CROWDED_CONNS: u32 = 3;
const CROWDED_SILENT: u32 = 2;

/// One worker, and the state that the simulation keeps for that worker.
pub(crate) struct NodeWorker {
    pub(crate) worker: Worker<FakeNet>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) checker: Checker,
    /// The worker's access log, if it is on.
    pub(crate) access: Option<Access>,
    /// The worker's tracer, if it traces connections.
    pub(crate) tracer: Option<WorkerTracer>,
    pub(crate) has_ended: bool,
    /// The time until which the worker gets no turn.
    pub(crate) starved_until_us: u64,
}

/// The workers of one server.
pub(crate) struct Node {
    pub(crate) workers: Vec<NodeWorker>,
    pub(crate) backend: Backend,
    /// The limit on conns per source, if the configuration has one.
    sources: Option<Arc<SourceLimiter>>,
}

/// Draws the maximum amount of work that one call may do for a conn's input, and the maximum work
/// for operators in one turn. Both are powers of two. `random` is a clone, so that the run's other
/// random numbers do not depend on them.
fn draw_budgets(worker: &mut Worker<FakeNet>, mut random: fastrand::Rng) {
    let exponent = random.u32(0..10);
    worker.set_work_at_once(1 << exponent);
    worker.set_survey_work(1 << (exponent / 2));
}

/// Creates the wakes of the workers, and the wake of the feed.
fn wakes(workers: usize) -> (Vec<Arc<Wake>>, Arc<Wake>) {
    let wake = || Arc::new(Wake::new().expect("a descriptor"));
    ((0..workers).map(|_| wake()).collect(), wake())
}

/// Draws the spans and the access log of a worker.
fn draw_outputs(mut random: fastrand::Rng) -> (Option<WorkerTracer>, Option<Access>) {
    (WorkerTracer::draw(&mut random), Access::draw(random))
}

impl Node {
    /// Whether the channels of all workers have the newest rules of the log.
    pub(super) fn has_new_rules(&self) -> bool {
        let mut running = self.workers.iter().filter(|one| !one.has_ended);
        running.all(|one| !one.worker.hub().has_old_rules())
    }

    /// Starts a worker for each network. All workers read one log.
    pub(crate) fn start(
        nets: Vec<FakeNet>,
        log: &Arc<Log>,
        epoch: Epoch,
        run: RunId,
        config: &Arc<Config>,
        is_crowded: bool,
        random: &mut fastrand::Rng,
    ) -> (Self, Mailboxes) {
        let count = nets.len();
        let (wakes, feed_wake) = wakes(count);
        let bounds = draw_bounds(&mut random.clone());
        let (upstreams, reports) = upstream(&wakes, &feed_wake, bounds);
        let guard = guard(count as u32, config, is_crowded);
        let listener_conns = Arc::new(ListenerConns::new(count));
        let (mut mailboxes, mut workers) = (Vec::new(), Vec::new());
        for ((number, net), (wake, upstream)) in
            (0..).zip(nets).zip(wakes.into_iter().zip(upstreams))
        {
            let (mailbox, inbox) = inbox(wake);
            mailboxes.push(mailbox);
            let metrics: Arc<WorkerMetrics> = Arc::default();
            let (tracer, access) = draw_outputs(random.clone());
            let parts = Parts {
                run,
                number,
                config: Arc::clone(config),
                metrics: Arc::clone(&metrics),
                listener_conns: Arc::clone(&listener_conns),
                inbox,
                feed: Arc::clone(&feed_wake),
                upstream,
                pulse: Arc::default(),
                conns_fitting: match config.limits.connects_per_second_per_source {
                    0 if is_crowded => CROWDED_CONNS.div_ceil(count as u32),
                    _ => 1000,
                },
                workers: count as u32,
                guard: Guard {
                    proxied: net.proxied_listeners,
                    ..guard.clone()
                },
                keys: tokens::keys(config),
                warnings: Arc::default(),
                access_log: access.as_ref().map(Access::log),
                tracer: tracer.as_ref().map(WorkerTracer::tracer),
                secure: secure(net.secure_listeners),
            };
            let hub = Hub::new(Arc::clone(log), number, epoch, log.posted(), config);
            let mut worker = Worker::new(net, hub, parts);
            draw_budgets(&mut worker, random.clone());
            workers.push(NodeWorker {
                worker,
                metrics,
                checker: Checker::default(),
                access,
                tracer,
                has_ended: false,
                starved_until_us: 0,
            });
        }
        let mailboxes = Mailboxes::new(mailboxes);
        let node = Self {
            workers,
            backend: Backend::new(reports, bounds, config.auth.is_on(), &mailboxes, random),
            sources: guard.sources,
        };
        (node, mailboxes)
    }

    pub(crate) fn net(&mut self, worker: usize) -> &mut FakeNet {
        self.workers[worker].worker.net_mut()
    }

    pub(crate) fn nets(&mut self) -> impl Iterator<Item = &mut FakeNet> {
        self.workers.iter_mut().map(|one| one.worker.net_mut())
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.workers[0].worker.net().now_us()
    }

    /// Returns the networks of a server that was killed, so that the next server can use them. The
    /// workers of the killed server get other networks, which are never used.
    pub(crate) fn take_nets(&mut self, random: &mut fastrand::Rng) -> Vec<FakeNet> {
        let nets = self.nets().map(|net| {
            let idle = FakeNet::new(&net.machine, net.worker, random.fork(), 1);
            std::mem::replace(net, idle)
        });
        nets.collect()
    }

    pub(crate) fn conns(&self) -> u64 {
        let each = self
            .workers
            .iter()
            .map(|one| one.metrics.conns_open.value());
        each.sum()
    }

    pub(crate) fn deliveries(&self) -> u64 {
        let each = self
            .workers
            .iter()
            .map(|one| one.metrics.deliveries.value());
        each.sum()
    }

    pub(crate) fn lag(&self) -> LagStats {
        let mut all = LagStats::default();
        for one in &self.workers {
            all.merge(&one.checker.lag);
        }
        all
    }

    /// Adds the workers' counters to `sums`, in the order of the table of metrics.
    pub(crate) fn add_counts(&self, kind: Option<Kind>, sums: &mut [u64]) {
        for (line, sum) in WorkerMetrics::TABLE.iter().zip(sums) {
            if kind.is_none_or(|kind| line.kind == kind) {
                let each = self.workers.iter().map(|one| (line.read)(&one.metrics));
                *sum += each.sum::<u64>();
            }
        }
    }

    /// Checks the access logs of all workers. `has_ended` is false if the server was killed.
    pub(crate) fn check_access(&self, has_ended: bool) {
        for one in &self.workers {
            if let Some(access) = &one.access {
                access.check(&one.metrics, one.tracer.as_ref(), has_ended);
            }
        }
    }

    /// Checks that no source address is counted as having conns. Called after all workers have
    /// ended.
    pub(crate) fn check_sources(&self) {
        if let Some(sources) = &self.sources {
            sources.sweep(Now(u64::MAX / 2));
            assert_eq!(sources.count(), 0, "sources without conns");
        }
    }
}

/// Returns the limits on conns. All clones of the returned value use the same counts, so that a
/// limit applies to all workers together.
fn guard(workers: u32, config: &Config, is_crowded: bool) -> Guard {
    let silent = if is_crowded { CROWDED_SILENT } else { 500 };
    Guard {
        silent: SilentLimit::new(silent, workers).map(Arc::new),
        sources: SourceLimiter::new(&config.limits).map(Arc::new),
        ..Guard::default()
    }
}
