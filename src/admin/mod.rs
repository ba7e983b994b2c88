//! SHELL: the admin listener serves metrics, liveness and readiness.
//!
//! One thread runs one loop over non-blocking sockets. The loop polls the sockets, advances the
//! connections that are ready, ends connections whose deadline has passed, and accepts new
//! connections. It shares only short locks with the workers, for example of the table of sources.
//! At most `ADMIN_CONNS_MAX` connections are open, each for one request. To accept a new connection
//! at this limit, the oldest connection without a complete request is closed. So clients that send
//! nothing or do not read cannot block a health check. After a failed accept, the loop accepts
//! nothing for a short time.
//!
//! This module reads the counters of workers and feed, and writes no counters. The thread that
//! starts the server binds the listener, starts the loop's thread and sets its [`Readiness`]. The
//! loop's thread ends with the process.

mod connection;
mod endpoints;
mod figures;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::config::limits::{
    ACCEPT_PAUSE_MS, ADMIN_ACCEPTS_PER_TURN_MAX, ADMIN_CONNS_MAX, ADMIN_STEP_MS,
};
use crate::health::Health;
use crate::log::Log;
use crate::metrics::{Counter, FeedMetrics, ReloadMetrics, WorkerMetrics};
use crate::spans::SpanMetrics;
use crate::sys::descriptors::{self, Spare};
use crate::sys::pressure::Meter;
use crate::tls::Identity;
use crate::warnings::Warnings;
use crate::worker::admission::guard::Guard;
use crate::worker::listener_conns::ListenerConns;
use crate::worker::reloadable::Reloadable;
use connection::{AdminConn, Priority};

/// The stack size of the admin thread, in bytes. The thread's largest stack frame contains the
/// parser's table of header fields.
const STACK_BYTES: usize = 256 * 1024;

/// The stage of the server: starting, ready or draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStage {
    /// Workers and feed are being started.
    Starting,
    /// Clients and feeders are served.
    Ready,
    /// The server is shutting down: open connections are being closed.
    Draining,
}

/// The current stage of the server, and the health of its parts. The main thread sets the stage.
/// The admin thread reads both values.
#[derive(Debug)]
pub struct Readiness {
    stage: AtomicU8,
    health: Arc<Health>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            stage: AtomicU8::new(ServerStage::Starting as u8),
            health: Arc::default(),
        }
    }
}

impl Readiness {
    /// Sets the current stage.
    pub fn set(&self, stage: ServerStage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Returns the health of the server's parts. While a part has failed, the server is not ready.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the current stage.
    #[must_use]
    pub fn stage(&self) -> ServerStage {
        match self.stage.load(Ordering::Relaxed) {
            0 => ServerStage::Starting,
            1 => ServerStage::Ready,
            code => {
                debug_assert_eq!(code, 2);
                ServerStage::Draining
            }
        }
    }
}

/// The sources of the metrics and of the readiness that the admin listener serves.
pub struct FigureSources {
    /// The metrics of each worker.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// The metrics of the feed.
    pub feed: Arc<FeedMetrics>,
    /// The admission control. Its number of counted client addresses is a metric.
    pub guard: Guard,
    /// The log. Its number of channels and its bytes of publications are metrics.
    pub log: Arc<Log>,
    /// The meter of the memory in use.
    pub meter: Arc<Reloadable<Meter>>,
    /// The current stage of the server, and the health of its parts.
    pub readiness: Arc<Readiness>,
    /// The configuration, for the limits.
    pub config: Arc<Reloadable<Arc<Config>>>,
    /// The number of connections that fit in the descriptor tables of all workers.
    pub conns_fitting: u64,
    /// The TLS certificates, if there are any.
    pub identity: Arc<Reloadable<Option<Arc<Identity>>>>,
    /// The counters of reloads.
    pub reloads: Arc<ReloadMetrics>,
    /// For each worker, its numbers of subscriptions in the order of the log's rules.
    pub subscribers_by_rule: Vec<Arc<[Counter]>>,
    /// The open connections by listener.
    pub listener_conns: Arc<ListenerConns>,
    /// The time at which the process started.
    pub process_started: SystemTime,
    /// The time at which the server began to start. With a journal, this is before its replay.
    pub started: SystemTime,
    /// The same time, on a clock without steps.
    pub up_since: Instant,
    /// The limits on warnings. Their number of suppressed lines is a metric.
    pub warnings: Arc<Warnings>,
    /// The access log, if it is on. Its number of dropped lines is a metric.
    pub access_log: Option<AccessLog>,
    /// The numbers of exported and dropped spans.
    pub span_metrics: Arc<SpanMetrics>,
    /// Returns the number of log lines that were dropped because the queue was full.
    pub dropped_log_lines: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl FigureSources {
    /// Returns the number of connections that all workers together accept: `limits.conns`, or the
    /// number that fits in the descriptor tables if it is lower.
    #[must_use]
    pub fn conns_max(&self) -> u64 {
        match self.config.current().limits.conns {
            0 => self.conns_fitting,
            limit => self.conns_fitting.min(limit.into()),
        }
    }
}

impl fmt::Debug for FigureSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FigureSources")
            .field("workers", &self.workers.len())
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// The admin listener after its address is bound. [`Admin::spawn`] starts the thread that serves
/// it.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    /// The maximum time to receive a request head. Sending the response has the same maximum.
    step: Duration,
    /// A spare descriptor. If no other descriptor is free, a health check is accepted with it.
    spare: Spare,
}

/// Binds the admin listener.
///
/// # Errors
/// Returns the system's error if the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<Admin> {
    // The spare descriptor is opened first, so that it has a low number. Low numbers can still be
    // used after the limit on descriptors is lowered.
    let mut spare = Spare::default();
    spare.reserve();
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(Admin {
        spare,
        listener,
        step: Duration::from_millis(ADMIN_STEP_MS),
    })
}

impl Admin {
    /// Returns the bound address. Port 0 is replaced by the port that the system chose.
    ///
    /// # Errors
    /// Returns the error of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the listener from a separate thread until the process ends.
    ///
    /// # Errors
    /// Returns the system's error if the thread cannot be started.
    pub fn spawn(self, figures: Arc<FigureSources>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(String::from("fanfare-admin"))
            .stack_size(STACK_BYTES)
            .spawn(move || self.serve(&figures))
    }

    fn serve(self, figures: &FigureSources) -> ! {
        let mut admin_loop = AdminLoop {
            listener: self.listener,
            step: self.step,
            spare: self.spare,
            figures,
            conns: Vec::new(),
            paused_until: None,
        };
        loop {
            admin_loop.turn();
        }
    }
}

/// The state of the admin thread's loop.
struct AdminLoop<'a> {
    listener: TcpListener,
    step: Duration,
    spare: Spare,
    figures: &'a FigureSources,
    /// The open connections, in the order in which they were accepted.
    conns: Vec<AdminConn>,
    /// Until this time, no connection is accepted, because accepting has failed.
    paused_until: Option<Instant>,
}

impl AdminLoop<'_> {
    fn turn(&mut self) {
        // Deadlines are compared with this time, which precedes the poll. So when a deadline has
        // passed, the poll has reported all bytes that arrived before the deadline.
        let begun = Instant::now();
        self.paused_until = self.paused_until.filter(|until| *until > begun);
        self.spare.reserve();
        let ready = match self.poll(begun) {
            Ok(ready) => ready,
            // The poll was interrupted and has reported nothing, so no deadline may be enforced.
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(error) => {
                tracing::debug!(%error, "cannot poll the admin sockets");
                return thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
            }
        };
        debug_assert_eq!(
            ready.len(),
            self.conns.len() + 1,
            "one report for each socket"
        );
        let mut ready = ready.into_iter();
        let has_client = ready.next().unwrap_or(false);
        let figures = self.figures;
        self.conns.retain_mut(|conn| {
            let is_open = !ready.next().unwrap_or(false) || conn.advance(figures);
            is_open && (conn.deadline() > begun || conn.expire())
        });
        if has_client {
            self.accept();
        }
    }

    /// Waits until a socket is ready or the next deadline has passed. Returns whether each socket
    /// is ready: first the listener, then each connection.
    fn poll(&self, begun: Instant) -> io::Result<Vec<bool>> {
        let listens = match self.paused_until {
            Some(_) => PollFlags::empty(),
            None => PollFlags::IN,
        };
        let mut sockets = vec![PollFd::new(&self.listener, listens)];
        sockets.extend(self.conns.iter().map(|conn| {
            let flags = match conn.is_writing() {
                true => PollFlags::OUT,
                false => PollFlags::IN,
            };
            PollFd::new(conn.stream(), flags)
        }));
        let deadlines = self.conns.iter().map(AdminConn::deadline);
        let next = deadlines.chain(self.paused_until).min();
        let wait = next.map(|next| next.saturating_duration_since(begun));
        // A wait that is too long for the system is endless.
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        poll(&mut sockets, wait.as_ref())?;
        let reports = sockets.iter();
        Ok(reports.map(|socket| !socket.revents().is_empty()).collect())
    }

    /// Accepts the pending connections, after the poll has reported that the listener is ready. If
    /// no descriptor is free, frees one and accepts only one connection.
    fn accept(&mut self) {
        for accepted in 0..ADMIN_ACCEPTS_PER_TURN_MAX {
            let outcome = match self.listener.accept() {
                // Linux allocates the descriptor before it checks whether a connection is pending.
                // So the error does not mean that another connection is pending.
                Err(error) if descriptors::is_exhausted(&error) && accepted > 0 => return,
                Err(error) if descriptors::is_exhausted(&error) => return self.accept_last(&error),
                outcome => outcome,
            };
            match outcome {
                Ok((stream, _)) => self.admit(AdminConn::new(stream, self.step)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    // The client has already closed the connection.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => return self.pause(&error),
                },
            }
        }
    }

    /// Accepts one connection although no descriptor is free. To free a descriptor, closes an older
    /// connection, or else the spare descriptor.
    fn accept_last(&mut self, error: &io::Error) {
        if !self.make_room() && !self.spare.release() {
            return self.pause(error);
        }
        match self.listener.accept() {
            Ok((stream, _)) => self.admit(AdminConn::new(stream, self.step)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.pause(&error),
        }
    }

    /// Accepts no connections for a short time, because the next attempt would fail in the same
    /// way.
    fn pause(&mut self, error: &io::Error) {
        tracing::debug!(%error, "admin connection not accepted");
        let pause = Duration::from_millis(ACCEPT_PAUSE_MS);
        self.paused_until = Some(Instant::now() + pause);
    }

    /// Serves a new connection. Reads from it immediately, because the request has often arrived
    /// together with the connection.
    fn admit(&mut self, conn: io::Result<AdminConn>) {
        if self.conns.len() >= ADMIN_CONNS_MAX {
            self.make_room();
        }
        match conn {
            Ok(mut conn) => {
                if conn.advance(self.figures) {
                    self.conns.push(conn);
                }
            }
            Err(error) => tracing::debug!(%error, "admin connection not served"),
        }
    }

    /// Closes one connection to make room for a new connection. Closes the oldest connection
    /// without a complete request, or else the oldest connection of the lowest [`Priority`]. A
    /// connection without a complete request is read once more first. If its request has arrived,
    /// the request is answered and another connection is closed. Returns false if no connection is
    /// open.
    fn make_room(&mut self) -> bool {
        for index in 0..self.conns.len() {
            let silent = self.conns.get_mut(index);
            if let Some(silent) = silent.filter(|conn| conn.priority() == Priority::Silent)
                && (!silent.advance(self.figures) || silent.priority() == Priority::Silent)
            {
                drop(self.conns.remove(index));
                return true;
            }
        }
        let oldest = (0..).zip(&self.conns);
        let oldest = oldest.min_by_key(|(index, conn)| (conn.priority(), *index));
        let Some((index, _)) = oldest else {
            return false;
        };
        drop(self.conns.remove(index));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;
    use crate::health::Part;
    use crate::id::Sequence;
    use crate::log::Writer;

    struct Server {
        address: SocketAddr,
        readiness: Arc<Readiness>,
    }

    impl Server {
        fn start(step: Duration) -> Self {
            let mut admin = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            admin.step = step;
            let address = admin.local_address().unwrap();
            let readiness = Arc::new(Readiness::default());
            let worker = Arc::new(WorkerMetrics::default());
            worker.conns_accepted.add(7);
            let writer = Writer::new(&Config::default(), Sequence::ZERO);
            admin
                .spawn(Arc::new(FigureSources {
                    workers: vec![worker, Arc::default()],
                    feed: Arc::default(),
                    guard: Guard::default(),
                    log: Arc::clone(writer.log()),
                    meter: Arc::new(Reloadable::new(Meter::Nothing)),
                    config: Arc::new(Reloadable::new(Arc::default())),
                    conns_fitting: 5,
                    identity: Arc::default(),
                    reloads: Arc::default(),
                    subscribers_by_rule: Vec::new(),
                    listener_conns: Arc::new(ListenerConns::new(1)),
                    readiness: Arc::clone(&readiness),
                    process_started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000),
                    started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                    up_since: Instant::now(),
                    warnings: Arc::default(),
                    access_log: None,
                    span_metrics: Arc::default(),
                    dropped_log_lines: Arc::new(|| 3),
                }))
                .unwrap();
            Self { address, readiness }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream
        }

        fn request(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            answer_on(&mut stream)
        }

        fn get(&self, path: &str) -> String {
            self.request(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
        }
    }

    fn answer_on(stream: &mut TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn patient() -> Server {
        Server::start(Duration::from_secs(20))
    }

    #[test]
    fn health_is_good_and_readiness_follows_the_stage() {
        let server = patient();
        let health = server.get("/healthz");
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
        assert!(health.contains("Connection: close\r\n"), "{health}");
        assert!(health.ends_with("\r\n\r\nok\n"), "{health}");
        for (stage, status, word) in [
            (ServerStage::Starting, "503", "starting\n"),
            (ServerStage::Ready, "200", "ready\n"),
            (ServerStage::Draining, "503", "draining\n"),
        ] {
            server.readiness.set(stage);
            let answer = server.get("/readyz?verbose");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(answer.ends_with(word), "{answer}");
            assert_eq!(answer.contains("Retry-After: "), status == "503");
        }
    }

    #[test]
    fn server_with_a_failed_part_is_not_ready_and_gives_the_reason() {
        let server = patient();
        server.readiness.set(ServerStage::Ready);
        let health = server.readiness.health();
        health.set(Part::Journal, Some("the disk is full"));
        let answer = server.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nnot ready: the disk is full\n"),
            "{answer}"
        );
        assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
        health.set(Part::Journal, None);
        assert!(server.get("/readyz").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn metrics_are_sums_over_workers_and_include_the_process() {
        let answer = patient().get("/metrics");
        assert!(answer.contains("Content-Type: text/plain; version=0.0.4"));
        for line in [
            "fanfare_conns_accepted_total 7",
            "fanfare_feed_publications_total 0",
            "fanfare_workers 2",
            "fanfare_start_time_seconds 1700000000",
            "process_start_time_seconds 1600000000",
            "fanfare_log_lines_dropped_total 3",
            "fanfare_conns_limit 5",
            concat!(
                "fanfare_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(answer.lines().any(|l| l == line), "{line} in {answer}");
        }
        let resident = answer
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .unwrap();
        assert!(resident.parse::<u64>().unwrap() > 100_000);
    }

    #[test]
    fn refused_requests_get_their_status_and_no_cors_field() {
        let server = patient();
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "404"),
            (
                "POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
                "405",
            ),
            ("OPTIONS /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "405"),
            ("GET /metrics HTTP/1.1\r\n\r\n", "400"),
            (
                "GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
                "413",
            ),
            ("GET /metrics HTTP/7.0\r\n\r\n", "505"),
            ("\u{16}\u{3}\u{1}", "400"),
            (&long, "414"),
        ] {
            let answer = server.request(request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(!answer.contains("Access-Control"), "{answer}");
            assert!(answer.contains("Content-Type: application/problem+json\r\n"));
            let (_, content) = answer.split_once("\r\n\r\n").unwrap();
            let problem: serde_json::Value = serde_json::from_str(content).unwrap();
            assert_eq!(problem["status"].to_string(), status);
            assert!(problem["code"].is_string(), "{problem}");
            assert_eq!(answer.contains("Allow: GET, HEAD\r\n"), status == "405");
        }
    }

    #[test]
    fn head_method_gets_no_content() {
        let answer = patient().request("HEAD /healthz HTTP/1.0\r\n\r\n");
        assert!(answer.contains("Content-Length: 3\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn head_may_arrive_byte_by_byte() {
        let mut stream = patient().connect();
        stream.set_nodelay(true).unwrap();
        for byte in b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
        }
        assert!(answer_on(&mut stream).ends_with("ok\n"));
    }

    #[test]
    fn silent_connections_are_closed_for_new_ones_oldest_first() {
        let server = patient();
        let mut silent: Vec<_> = (0..3 * ADMIN_CONNS_MAX)
            .map(|number| {
                let mut stream = server.connect();
                if number % 2 == 0 {
                    stream.write_all(b"GET /heal").unwrap();
                }
                stream
            })
            .collect();
        assert!(server.get("/healthz").ends_with("ok\n"));
        let mut newest = silent.pop().unwrap();
        assert_eq!(answer_on(&mut silent[0]), "");
        newest.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        assert!(answer_on(&mut newest).ends_with("ok\n"));
    }

    #[test]
    fn clients_that_pipeline_and_do_not_read_are_closed_for_new_ones() {
        let server = patient();
        let mut first = server.connect();
        first.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut held: Vec<_> = (0..2 * ADMIN_CONNS_MAX)
            .map(|_| {
                let mut stream = server.connect();
                let pipelined = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3);
                stream.write_all(pipelined.as_bytes()).unwrap();
                stream
            })
            .collect();
        assert!(server.get("/healthz").ends_with("ok\n"));
        assert!(answer_on(&mut first).starts_with("HTTP/1.1 200 OK\r\n"));
        let newest = answer_on(held.last_mut().unwrap());
        assert_eq!(newest.matches("HTTP/1.1 ").count(), 1, "{newest}");
    }

    #[test]
    fn client_that_sends_its_head_too_slowly_gets_408_in_time() {
        let server = Server::start(Duration::from_millis(200));
        let mut stream = server.connect();
        let mut dripping = stream.try_clone().unwrap();
        let drips = thread::spawn(move || {
            // The client sends a byte every 20 ms, but the head is not complete before the
            // deadline. The loop ends when the server has closed the connection.
            for byte in b"GET /healthz HTTP/1.1".iter().cycle().take(200) {
                thread::sleep(Duration::from_millis(20));
                if dripping.write_all(&[*byte]).is_err() {
                    return;
                }
            }
        });
        let mut status = [0u8; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 408");
        drop(stream);
        drips.join().unwrap();
    }

    #[test]
    fn connection_that_the_client_closes_is_freed() {
        let server = patient();
        for _ in 0..ADMIN_CONNS_MAX * 4 {
            drop(server.connect());
        }
        let begun = Instant::now();
        let mut answer = server.get("/healthz");
        while !answer.ends_with("ok\n") {
            assert!(begun.elapsed() < Duration::from_secs(5), "{answer}");
            answer = server.get("/healthz");
        }
    }
}
