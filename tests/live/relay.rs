//! A relay between a client and the server that cuts every connection when told to, as networks do.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Relays bytes until it is told to cut.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where clients connect.
    pub(crate) addr: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// A relay to this server.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else {
                    return;
                };
                pump(client.try_clone().unwrap(), upstream.try_clone().unwrap());
                pump(upstream.try_clone().unwrap(), client.try_clone().unwrap());
                kept.lock().unwrap().extend([client, upstream]);
            }
        });
        Self { addr, open }
    }

    /// Ends every connection that is open now.
    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
