//! SHELL: the admin listener, with metrics, liveness and readiness.
//!
//! Blocking sockets on threads of their own: a scrape every few seconds needs no event loop, and
//! nothing here may wait on a worker or make one wait. One thread accepts; each conn has a thread
//! for the one request it may send, at most `ADMIN_CONNS_MAX` of them, each step under a deadline.
//! Reads the counters that workers and feed write; writes none. The main thread binds it, spawns it
//! and tells its [`Readiness`]. It ends with the process.

mod answer;
mod exchange;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crate::config::limits::{ACCEPT_PAUSE_MS, ADMIN_CONNS_MAX, ADMIN_STEP_MS};
use crate::metrics::{FeedMetrics, WorkerMetrics};
use crate::worker::guard::Guard;

/// Stack of a conn's thread. Its largest frame is the parser's table of header fields.
const STACK_BYTES: usize = 256 * 1024;

/// How far the server is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not all workers and the feed are up yet.
    Starting,
    /// Serving.
    Ready,
    /// Saying goodbye.
    Draining,
}

/// The server's stage: set by the main thread, read by the admin threads.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Default for Readiness {
    fn default() -> Self {
        Self(AtomicU8::new(Stage::Starting as u8))
    }
}

impl Readiness {
    /// Replaces the stage.
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// The stage as it is now.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }
}

/// Where the figures come from.
pub struct Sources {
    /// One table for each worker.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// The feed's table.
    pub feed: Arc<FeedMetrics>,
    /// Memory, and where conns come from.
    pub guard: Guard,
    /// The server's stage.
    pub readiness: Arc<Readiness>,
    /// When the server started.
    pub started: SystemTime,
    /// Says how many log lines were dropped rather than waited for.
    pub dropped_log_lines: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("workers", &self.workers.len())
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// The admin listener, bound and not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    /// Time for a head to arrive, and again for the answer to leave.
    step: Duration,
}

/// Binds the admin listener.
///
/// # Errors
/// When the address cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<Admin> {
    Ok(Admin {
        listener: TcpListener::bind(address)?,
        step: Duration::from_millis(ADMIN_STEP_MS),
    })
}

impl Admin {
    /// The address in use, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves from a thread of its own until the process ends.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn spawn(self, sources: Sources) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(String::from("fanfare-admin"))
            .stack_size(STACK_BYTES)
            .spawn(move || self.accept(&Arc::new(sources)))
    }

    fn accept(&self, sources: &Arc<Sources>) {
        for accepted in self.listener.incoming() {
            if let Err(error) = accepted.and_then(|stream| self.serve(stream, sources)) {
                tracing::debug!(%error, "admin conn not served");
                // Without a descriptor or a thread to spare the next accept fails at once too.
                thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
            }
        }
    }

    fn serve(&self, stream: TcpStream, sources: &Arc<Sources>) -> io::Result<()> {
        // Each conn holds one reference beside the accepting thread's own, and only that thread
        // hands them out: the count can fall meanwhile, never rise.
        if Arc::strong_count(sources) > ADMIN_CONNS_MAX {
            exchange::turn_away(&stream);
            return Ok(());
        }
        let sources = Arc::clone(sources);
        let step = self.step;
        thread::Builder::new()
            .name(String::from("fanfare-admin-conn"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if let Err(error) = exchange::run(&stream, &sources, step) {
                    tracing::debug!(%error, "admin conn ended early");
                }
            })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

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
            admin
                .spawn(Sources {
                    workers: vec![worker, Arc::default()],
                    feed: Arc::default(),
                    guard: Guard::default(),
                    readiness: Arc::clone(&readiness),
                    started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                    dropped_log_lines: Arc::new(|| 3),
                })
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

        fn ask(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            answer_on(&mut stream)
        }

        fn get(&self, path: &str) -> String {
            self.ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
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
            (Stage::Starting, "503", "starting\n"),
            (Stage::Ready, "200", "ready\n"),
            (Stage::Draining, "503", "draining\n"),
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
    fn metrics_add_up_the_workers_and_tell_of_the_process() {
        let answer = patient().get("/metrics");
        assert!(answer.contains("Content-Type: text/plain; version=0.0.4"));
        for line in [
            "fanfare_conns_accepted_total 7",
            "fanfare_feed_publications_total 0",
            "fanfare_workers 2",
            "fanfare_start_time_seconds 1700000000",
            "fanfare_log_lines_dropped_total 3",
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
    fn refused_requests_get_their_status_and_no_origin_may_read() {
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
            let answer = server.ask(request);
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
        let answer = patient().ask("HEAD /healthz HTTP/1.0\r\n\r\n");
        assert!(answer.contains("Content-Length: 3\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn head_may_come_in_single_bytes() {
        let mut stream = patient().connect();
        stream.set_nodelay(true).unwrap();
        for byte in b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
        }
        assert!(answer_on(&mut stream).ends_with("ok\n"));
    }

    #[test]
    fn stalled_peers_block_nobody_until_all_places_are_taken() {
        let server = patient();
        let mut stalled: Vec<_> = (1..ADMIN_CONNS_MAX)
            .map(|_| {
                let mut stream = server.connect();
                stream.write_all(b"GET /heal").unwrap();
                stream
            })
            .collect();
        assert!(server.get("/healthz").ends_with("ok\n"));
        // The conn just served may hold its place for an instant more.
        let turned_away = loop {
            let mut stream = server.connect();
            stream.set_nonblocking(true).unwrap();
            thread::sleep(Duration::from_millis(50));
            let mut first = [0u8; 12];
            match stream.read(&mut first) {
                Ok(_) => break first,
                Err(_still_waiting) => stalled.push(stream),
            }
            assert!(stalled.len() < ADMIN_CONNS_MAX + 2);
        };
        assert_eq!(&turned_away, b"HTTP/1.1 503");
        stalled.clear();
    }

    #[test]
    fn peer_that_drips_too_slowly_is_told_so_in_time() {
        let server = Server::start(Duration::from_millis(200));
        let mut stream = server.connect();
        let mut dripping = stream.try_clone().unwrap();
        let drips = thread::spawn(move || {
            // Each byte comes in time, the head as a whole does not. Ends when the peer has gone.
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
    fn peer_that_hangs_up_leaves_its_place() {
        let server = patient();
        for _ in 0..ADMIN_CONNS_MAX * 4 {
            drop(server.connect());
            thread::sleep(Duration::from_millis(2));
        }
        let mut answer = server.get("/healthz");
        for _ in 0..100 {
            if answer.ends_with("ok\n") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
            answer = server.get("/healthz");
        }
        panic!("{answer}");
    }
}
