//! A TCP relay between a client and the server. It cuts connections as networks do: all connections
//! on request, or each connection after a number of bytes.

use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Relays bytes between clients and one server.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The address to which clients connect.
    pub(crate) addr: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Starts a relay to this server.
    pub(crate) fn to(server: SocketAddr) -> Self {
        Self::start(server, || u64::MAX)
    }

    /// Starts a relay that cuts each connection after a random number of bytes from the server. The
    /// number is below `bytes_max`.
    pub(crate) fn cutting(server: SocketAddr, bytes_max: u64, mut rng: fastrand::Rng) -> Self {
        Self::start(server, move || rng.u64(..bytes_max))
    }

    fn start(server: SocketAddr, mut bytes: impl FnMut() -> u64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
        let kept = Arc::clone(&open);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else {
                    // The relay drops the client's connection, so the client finds it closed.
                    continue;
                };
                let pairs = [
                    (&client, &upstream, u64::MAX),
                    (&upstream, &client, bytes()),
                ];
                for (from, to, bytes) in pairs {
                    pump(from.try_clone().unwrap(), to.try_clone().unwrap(), bytes);
                }
                let mut kept = kept.lock().unwrap();
                kept.retain(|stream| stream.peer_addr().is_ok());
                kept.extend([client, upstream]);
            }
        });
        Self { addr, open }
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(from: TcpStream, mut to: TcpStream, bytes: u64) {
    thread::spawn(move || {
        let _ = io::copy(&mut (&from).take(bytes), &mut to);
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    });
}
