//! Measures TLS: handshakes, the memory of an idle conn, and the encryption of payloads.
//!
//! The TLS filter of the worker is compared with plain rustls. Criterion times the server's part of
//! full and of resumed handshakes, with the filter and with `rustls::ServerConnection`. Criterion
//! also times how the filter encrypts payloads. The program first prints the memory of an idle
//! conn.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench may panic and print"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use fanfare::tls::{Filter, Identity, Material, self_signed};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// The number of idle conns whose memory is measured.
const IDLE: usize = 10_000;

/// The keys and settings of server and client.
struct Setting {
    identity: Identity,
    library: Arc<ServerConfig>,
    roots: RootCertStore,
}

impl Setting {
    fn new() -> Self {
        let made = self_signed(vec![String::from("a.test")]).unwrap();
        let (certificate, key) = (made.certificate.into_bytes(), made.key.into_bytes());
        let own = CertificateDer::from_pem_slice(&certificate).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut library = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own], PrivateKeyDer::from_pem_slice(&key).unwrap())
            .unwrap();
        library.alpn_protocols = vec![b"http/1.1".to_vec()];
        library.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        library.send_tls13_tickets = 1;
        let material = Material {
            pairs: vec![(certificate, key)],
            ..Material::default()
        };
        Self {
            identity: Identity::new(&material, None).unwrap(),
            library: Arc::new(library),
            roots,
        }
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config.with_root_certificates(self.roots.clone());
        Arc::new(config.with_no_client_auth())
    }
}

/// The server's end of a TLS connection. There are two implementations: the worker's TLS filter,
/// and plain rustls.
trait Server {
    fn receive(&mut self, bytes: &mut [u8]);
    /// Appends the bytes that must be sent to the client.
    fn send(&mut self, into: &mut Vec<u8>);
    fn is_done(&self) -> bool;
}

impl Server for Box<Filter> {
    fn receive(&mut self, bytes: &mut [u8]) {
        Filter::receive(self, bytes).unwrap();
        drop(self.take_plain());
    }

    fn send(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(self.unsent());
        self.advance(self.unsent().len());
    }

    fn is_done(&self) -> bool {
        !self.is_handshaking()
    }
}

impl Server for Box<ServerConnection> {
    fn receive(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let mut rest = &*bytes;
            let count = self.read_tls(&mut rest).unwrap();
            self.process_new_packets().unwrap();
            bytes = bytes.get_mut(count..).unwrap();
        }
    }

    fn send(&mut self, into: &mut Vec<u8>) {
        while self.wants_write() {
            self.write_tls(into).unwrap();
        }
    }

    fn is_done(&self) -> bool {
        !self.is_handshaking()
    }
}

/// Runs a handshake and returns the time that the server's part took.
fn handshake(server: &mut impl Server, client: &mut ClientConnection) -> Duration {
    let mut took = Duration::ZERO;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    loop {
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        let begun = Instant::now();
        if !up.is_empty() {
            server.receive(&mut up);
        }
        server.send(&mut down);
        took += begun.elapsed();
        if up.is_empty() && down.is_empty() {
            assert!(server.is_done() && !client.is_handshaking());
            return took;
        }
        up.clear();
        let mut rest = down.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        down.clear();
    }
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from("a.test").unwrap()).unwrap()
}

/// Returns a bench function that times the server's part of handshakes.
fn timed<S: Server>(
    setting: &Setting,
    is_resumed: bool,
    make: impl Fn() -> S,
) -> impl FnMut(u64) -> Duration {
    let known = setting.client_config();
    handshake(&mut make(), &mut client(&known));
    let configs = move |setting: &Setting| match is_resumed {
        true => Arc::clone(&known),
        false => setting.client_config(),
    };
    move |rounds| {
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            took += handshake(&mut make(), &mut client(&configs(setting)));
        }
        took
    }
}

fn handshakes(criterion: &mut Criterion) {
    let setting = Setting::new();
    let filter = || Box::new(Filter::new(&setting.identity).unwrap());
    let library = || Box::new(ServerConnection::new(Arc::clone(&setting.library)).unwrap());
    for (name, is_resumed) in [("full", false), ("resumed", true)] {
        let mut group = criterion.benchmark_group(format!("tls handshake, {name}"));
        group.bench_function("filter", |bencher| {
            bencher.iter_custom(timed(&setting, is_resumed, filter));
        });
        group.bench_function("rustls", |bencher| {
            bencher.iter_custom(timed(&setting, is_resumed, library));
        });
        group.finish();
    }
}

fn records(criterion: &mut Criterion) {
    let setting = Setting::new();
    let mut filter = Box::new(Filter::new(&setting.identity).unwrap());
    handshake(&mut filter, &mut client(&setting.client_config()));
    let mut group = criterion.benchmark_group("tls seal");
    for bytes in [60, 200, 1400, 16_384, 65_536] {
        let payload = vec![b'x'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} B"), |bencher| {
            bencher.iter(|| {
                filter.seal(black_box(&payload)).unwrap();
                filter.advance(filter.unsent().len());
            });
        });
    }
    group.finish();
}

/// Returns the resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

/// Returns the memory per idle conn in bytes, including the conn's box. The memory of clients is
/// not included, because each client is dropped after its handshake.
fn idle<S: Server>(setting: &Setting, make: impl Fn() -> S) -> usize {
    let config = setting.client_config();
    let conn = || {
        let mut server = make();
        handshake(&mut server, &mut client(&config));
        server
    };
    // The first connections allocate memory that all later connections share. Opening them before
    // the measurement excludes this memory.
    drop((0..IDLE / 10).map(|_| conn()).collect::<Vec<_>>());
    let before = resident_bytes();
    let kept: Vec<_> = (0..IDLE).map(|_| conn()).collect();
    let grown = resident_bytes().saturating_sub(before);
    black_box(&kept);
    grown / IDLE
}

fn memory() {
    let setting = Setting::new();
    let filter = idle(&setting, || {
        Box::new(Filter::new(&setting.identity).unwrap())
    });
    let library = idle(&setting, || {
        Box::new(ServerConnection::new(Arc::clone(&setting.library)).unwrap())
    });
    println!("bytes of an idle conn (TLS 1.3): filter {filter}, rustls {library}");
}

criterion_group!(benches, handshakes, records);

fn main() {
    memory();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
