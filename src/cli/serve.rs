//! `fanfare serve`: runs the server until a signal.
//!
//! The command loads the configuration, starts the server, prints a line when the server is ready,
//! and waits for a signal. The first signal starts a drain; the second signal ends the process
//! immediately. The files of a reload are read in a thread of their own, because they may be FIFOs.
//! Meanwhile the main thread waits for signals and checks the workers.

use std::io::StdoutLock;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGVTALRM,
};
use signal_hook::iterator::Signals;

use super::Failure;
use super::args::ServeArgs;
use fanfare::config::changes::Reloaded;
use fanfare::config::file;
use fanfare::demo;
use fanfare::logs;
use fanfare::operator::MainOrder;
use fanfare::operator::answer::ReloadAnswer;
use fanfare::server::reload::{ReadReload, ReloadReader};
use fanfare::server::service::{self, ServiceManager};
use fanfare::server::{Server, StartError, certificates};
use fanfare::sys::{activation, memory, signals, standard_output};

/// The interval between checks of the workers if the service manager sets no watchdog.
const WORKER_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The maximum time for which the start waits until earlier log lines are written. Then it prints
/// the line with `ready`.
const START_LINES_WAIT: Duration = Duration::from_secs(1);
/// The maximum time for which the start waits until the reader of standard output has made room for
/// the line with `ready`.
const READY_LINE_WAIT: Duration = Duration::from_secs(1);
/// The interval between checks whether a drain has ended.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The answer to operators that have asked for a reload.
const STOPS: &str = "the server stops";

/// Signals that would end the process by default and have no meaning for the server. Scripts that
/// rotate logs send SIGUSR1 to daemons.
const UNUSED_SIGNALS: [i32; 7] = [
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    libc::SIGPWR,
];
/// Signals that are ignored. The terminal's SIGTTIN and SIGTTOU would stop the process. With
/// SIGXFSZ ignored, a write above the limit on file sizes returns an error.
const SILENT_SIGNALS: [i32; 3] = [SIGTTIN, SIGTTOU, libc::SIGXFSZ];

/// Runs the server until a signal ends it.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let inherited = activation::inherited().context("cannot use the inherited sockets")?;
    let file::Loaded {
        config,
        warnings,
        origins,
        file,
    } = load(args)?;
    let (logs, log) = logs::start(&config.logging).context("cannot start the thread of the log")?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    if !memory::refuse_huge_pages() {
        tracing::debug!("cannot turn off huge pages; the process uses more memory");
    }
    let signals = catch_signals().context("cannot handle signals")?;
    // The access log uses standard output, too. While the lock is held, its lines wait. So the line
    // with `ready` is the first line.
    let stdout = std::io::stdout().lock();
    let server = Server::start(config, inherited, log);
    let mut server = server.map_err(|error| match error {
        StartError::Configuration(found) => Failure::Config(origins.locate(found)),
        other => Failure::Running(other.into()),
    })?;
    let served = server.serve_operators(&origins);
    served.map_err(|error| Failure::Running(error.into()))?;
    let demo = args
        .demo
        .then(|| Demo::start(server.feed_path()))
        .transpose()?;
    let mut manager = ServiceManager::from_environment();
    // The warnings of the start are written to the log before the line with `ready` is printed. So
    // a program that waits for this line finds them in the log.
    logs.wait_until_written(START_LINES_WAIT);
    announce(&server, &mut manager, &stdout);
    drop(stdout);
    let reloads = Reloads {
        args: Arc::new(args.clone()),
        file,
        current: None,
    };
    serve(server, reloads, manager, &signals, demo);
    Ok(())
}

/// Loads the configuration from file, environment and flags. Called at the start and at each
/// reload.
fn load(args: &ServeArgs) -> Result<file::Loaded, file::ConfigError> {
    let loaded = file::load(
        args.config.as_deref(),
        file::process_environment(),
        &args.overrides(),
    );
    loaded.map(file::Loaded::with_feed_path)
}

/// The thread of `--demo`, which publishes figures of this machine.
struct Demo {
    thread: thread::JoinHandle<()>,
    stop: Sender<()>,
}

impl Demo {
    fn start(feed_path: &Path) -> Result<Self, Failure> {
        let (stop, stopped) = crossbeam_channel::unbounded();
        let thread = demo::spawn(feed_path.to_path_buf(), stopped)
            .context("cannot start the demo's thread")?;
        Ok(Self { thread, stop })
    }

    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the demo thread panicked");
        }
    }
}

/// Starts to receive signals as messages, so that the wait for a signal can have a timeout.
fn catch_signals() -> std::io::Result<Receiver<i32>> {
    signals::ignore(&SILENT_SIGNALS)?;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM].iter().chain(&UNUSED_SIGNALS))?;
    let (sender, receiver) = crossbeam_channel::unbounded();
    thread::Builder::new()
        .name(String::from("fanfare-signal"))
        .spawn(move || {
            for signal in &mut signals {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// Notifies the service manager and prints the line with `ready`. The server runs even if the line
/// cannot be printed, because it needs no output to serve clients.
fn announce(server: &Server, manager: &mut ServiceManager, stdout: &StdoutLock<'_>) {
    let clients: String = server
        .addresses()
        .iter()
        .map(|listen| format!(" {}", certificates::url(listen)))
        .collect();
    let admin = server
        .admin_address()
        .map(|address| format!(" admin=http://{address}"))
        .unwrap_or_default();
    let line = format!(
        "fanfare {} ready:{clients} feed={}{admin} workers={}",
        env!("CARGO_PKG_VERSION"),
        server.feed_path().display(),
        server.worker_count()
    );
    manager.notify_ready(&line);
    if let Err(error) = standard_output::write_line(stdout, &line, READY_LINE_WAIT) {
        tracing::warn!(
            %error,
            "cannot print the line with `ready` to standard output; the server runs"
        );
    }
}

/// The sources of the configuration, and the reload that is under way.
struct Reloads {
    args: Arc<ServeArgs>,
    /// The values in the configuration file at the start of the server.
    file: toml::Table,
    current: Option<Reload>,
}

/// A reload whose files are being read.
struct Reload {
    /// Receives the result of the thread.
    read: Receiver<Result<ReadFiles, file::ConfigError>>,
    /// The operator that has asked for the reload.
    asker: Option<Sender<Result<ReloadAnswer, String>>>,
}

/// The configuration, with the content of the files that it names.
struct ReadFiles {
    loaded: file::Loaded,
    read: ReadReload,
}

impl Reloads {
    /// Starts to read the configuration, certificates and keys again. `asker` receives the result.
    fn begin(
        &mut self,
        asker: Option<Sender<Result<ReloadAnswer, String>>>,
        server: &Server,
        manager: &mut ServiceManager,
    ) {
        manager.notify_reloading();
        let (sender, read) = crossbeam_channel::bounded(1);
        let (args, reader) = (Arc::clone(&self.args), server.reload_reader());
        let thread = thread::Builder::new().name(String::from("fanfare-reload"));
        let spawned = thread.spawn(move || {
            // The main thread may have ended the reload.
            let _sent = sender.send(read_files(&args, &reader));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start the thread of the reload");
        }
        self.current = Some(Reload { read, asker });
    }

    /// Uses what the thread has read, and logs the result. If there is a problem with any file, the
    /// server keeps its current values.
    fn end(
        &mut self,
        read: Result<ReadFiles, String>,
        server: &mut Server,
        manager: &mut ServiceManager,
    ) {
        let reloaded = match read {
            Ok(read) => Ok(self.apply(read, server)),
            Err(problems) => {
                server.note_failed_reload();
                for problem in problems.lines() {
                    tracing::error!("not reloaded, nothing has changed: {problem}");
                }
                Err(problems)
            }
        };
        manager.notify_reloaded();
        self.answer(reloaded);
    }

    fn apply(&self, read: ReadFiles, server: &mut Server) -> ReloadAnswer {
        let ReadFiles { loaded, read } = read;
        let overridden = loaded.overridden_since(&self.file);
        let Reloaded { changed, kept, .. } = server.apply_reload(read, &loaded.origins);
        let answer = ReloadAnswer {
            changed: changed.into_iter().collect(),
            kept: kept.into_iter().collect(),
            overridden,
            warnings: loaded.warnings,
        };
        log_reloaded(&answer, server.has_credentials());
        answer
    }

    /// Sends the result of the current reload to the operator that has asked for it.
    fn answer(&mut self, reloaded: Result<ReloadAnswer, String>) {
        let reload = self.current.take();
        if let Some(asker) = reload.and_then(|reload| reload.asker) {
            // The operator may have stopped to wait.
            let _sent = asker.try_send(reloaded);
        }
    }
}

fn read_files(args: &ServeArgs, reader: &ReloadReader) -> Result<ReadFiles, file::ConfigError> {
    let loaded = load(args)?;
    let read = reader.read(loaded.config.clone());
    let read = read.map_err(|found| loaded.origins.locate(found))?;
    Ok(ReadFiles { loaded, read })
}

fn log_reloaded(answer: &ReloadAnswer, has_credentials: bool) {
    match has_credentials {
        true => tracing::info!("configuration, certificates and keys were read again"),
        false => tracing::info!("the configuration was read again"),
    }
    if !answer.changed.is_empty() {
        let keys = answer.changed.join(", ");
        tracing::info!("changed, and in use from now on: {keys}");
    }
    for warning in &answer.warnings {
        tracing::warn!("{warning}");
    }
    if !answer.kept.is_empty() {
        let keys = answer.kept.join(", ");
        tracing::warn!("changed in the configuration, but needs a restart: {keys}");
    }
    if !answer.overridden.is_empty() {
        let keys = answer.overridden.join(", ");
        tracing::warn!("changed in the file, but a flag or a variable sets it: {keys}");
    }
}

/// The next thing that the main thread has to do.
enum Event {
    /// Check whether the workers are alive.
    Check,
    Order(MainOrder),
    /// The files of a reload were read, or there is a problem with them.
    Read(Result<Box<ReadFiles>, String>),
    Signal(i32),
}

/// Waits for a signal, for the order of an operator or for the files of a reload, at most until the
/// next check. During a reload, orders wait.
fn next_event(
    signals: &Receiver<i32>,
    orders: &Receiver<MainOrder>,
    reload: Option<&Reload>,
    check_due: Instant,
) -> Event {
    let (never_orders, never_read) = (crossbeam_channel::never(), crossbeam_channel::never());
    let (orders, read) = match reload {
        Some(reload) => (&never_orders, &reload.read),
        None => (orders, &never_read),
    };
    let wait = check_due.saturating_duration_since(Instant::now());
    crossbeam_channel::select! {
        recv(signals) -> signal => Event::Signal(signal.unwrap_or(SIGTERM)),
        recv(read) -> read => Event::Read(match read {
            Ok(Ok(read)) => Ok(Box::new(read)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_closed) => Err(String::from("the files could not be read")),
        }),
        recv(orders) -> order => match order {
            Ok(order) => Event::Order(order),
            // The server keeps a sender.
            Err(_closed) => {
                debug_assert!(false, "the channel of orders is closed");
                Event::Signal(SIGTERM)
            }
        },
        default(wait) => Event::Check,
    }
}

/// Checks regularly whether the workers are alive, until a signal arrives. Then drains the server.
fn serve(
    mut server: Server,
    mut reloads: Reloads,
    mut manager: ServiceManager,
    signals: &Receiver<i32>,
    demo: Option<Demo>,
) {
    let watchdog = service::watchdog_interval();
    let interval = watchdog.map_or(WORKER_CHECK_INTERVAL, |interval| interval / 3);
    let mut is_alive = true;
    let mut check_due = Instant::now() + interval;
    // Whether a SIGHUP has arrived during a reload. The files may have changed after they were
    // read, so they are read again.
    let mut reloads_again = false;
    let signal = loop {
        // A signal or an order that waits must not postpone the check: it is returned even after
        // the deadline.
        if Instant::now() >= check_due {
            let was_alive = std::mem::replace(&mut is_alive, server.is_alive());
            if is_alive && watchdog.is_some() {
                manager.notify_alive();
            } else if was_alive && !is_alive {
                tracing::warn!("a worker has not finished a turn for {interval:?}");
            }
            check_due = Instant::now() + interval;
        }
        match next_event(
            signals,
            server.orders(),
            reloads.current.as_ref(),
            check_due,
        ) {
            Event::Check => {}
            Event::Order(MainOrder::Reload(asker)) => {
                reloads.begin(Some(asker), &server, &mut manager);
            }
            Event::Signal(SIGHUP) if reloads.current.is_some() => reloads_again = true,
            Event::Signal(SIGHUP) => reloads.begin(None, &server, &mut manager),
            Event::Read(read) => {
                reloads.end(read.map(|read| *read), &mut server, &mut manager);
                if std::mem::take(&mut reloads_again) {
                    reloads.begin(None, &server, &mut manager);
                }
            }
            Event::Signal(signal) if UNUSED_SIGNALS.contains(&signal) => {
                tracing::info!(signal, "signal ignored: it has no meaning here");
            }
            Event::Signal(signal) => break signal,
        }
    };
    tracing::info!(signal, "draining");
    manager.notify_stopping();
    reloads.answer(Err(String::from(STOPS)));
    drain(server, signals, demo);
}

/// Closes the connections and ends the server. A further signal ends it without waiting.
fn drain(server: Server, signals: &Receiver<i32>, demo: Option<Demo>) {
    server.drain();
    let begun = Instant::now();
    while !server.is_drained() {
        while let Ok(MainOrder::Reload(asker)) = server.orders().try_recv() {
            let _sent = asker.try_send(Err(String::from(STOPS)));
        }
        let signal = signals.recv_timeout(DRAIN_CHECK_INTERVAL);
        if signal.is_ok_and(|signal| [SIGINT, SIGTERM].contains(&signal)) {
            tracing::warn!("second signal: ending without waiting for the remaining connections");
            return;
        }
    }
    if let Some(demo) = demo {
        demo.stop();
    }
    match join(server, signals) {
        true => tracing::info!(elapsed = ?begun.elapsed(), "drained"),
        false => tracing::warn!("second signal: ending without waiting for the feed's thread"),
    }
}

/// Waits until all threads of the server have ended. A thread can wait for the disk for a long
/// time. Returns false if a signal has ended the wait.
fn join(server: Server, signals: &Receiver<i32>) -> bool {
    let (joined_in, joined) = crossbeam_channel::bounded::<()>(0);
    let thread = thread::Builder::new().name(String::from("fanfare-join"));
    let spawned = thread.spawn(move || {
        server.join();
        drop(joined_in);
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the thread that waits for the others");
        return false;
    }
    loop {
        crossbeam_channel::select! {
            recv(joined) -> _closed => return true,
            recv(signals) -> signal => {
                if signal.is_ok_and(|signal| [SIGINT, SIGTERM].contains(&signal)) {
                    return false;
                }
            }
        }
    }
}
