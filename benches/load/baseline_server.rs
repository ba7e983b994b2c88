//! The floor: a baseline server that does the minimum of work per delivery.
//!
//! The server accepts connections, answers every request with a fixed head, then writes once to
//! each socket for each publication. It has no parser, queue, channel or quota. Bytes that a full
//! socket does not accept are lost. The server has as many workers as the server with which it is
//! compared. Each worker has its own descriptor table and listener, and its own processor if there
//! are enough. The socket options are the same, so the kernel does the same work for both servers.
//! The server runs as a child process of the comparison. Its feeder sends frames, each preceded by
//! its length.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::Result;
use fanfare::config::Config;
use fanfare::sys::cpu;
use fanfare::sys::descriptors::unshare_table;
use fanfare::sys::listener::{SocketOptions, bind};
use fanfare::sys::wake::Wake;
use rustix::event::epoll;

/// The fixed response to every request.
const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// The values in the epoll entries of the listener and of the eventfd that wakes the thread. The
/// value of a client's socket is its index.
const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// Runs the server until the feeder disconnects.
pub(crate) fn serve(feed: &Path, workers: u32) -> Result<()> {
    let feed_listener = UnixListener::bind(feed)?;
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let cpus = cpu::allowed()?;
    let mut parts = Vec::new();
    for number in 0..workers {
        let listener = bind(address, SocketOptions::new(&Config::default()))?;
        address = listener.local_addr()?;
        let wake = Arc::new(Wake::new()?);
        let (sender, receiver) = channel();
        let is_pinned = cpus.len() == usize::try_from(workers)? && workers > 1;
        let pin = is_pinned.then(|| cpus[number as usize]);
        parts.push((listener, wake, sender, receiver, pin));
    }
    let mut mailboxes = Vec::new();
    for (listener, wake, sender, receiver, pin) in parts {
        mailboxes.push((sender, Arc::clone(&wake)));
        thread::spawn(move || Worker::new(listener, wake, receiver, pin)?.run());
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "floor ready: http://{address} feed={}",
        feed.display()
    )?;
    stdout.flush()?;
    take_feed(&feed_listener, &mailboxes)
}

type Mailboxes = [(Sender<Arc<[u8]>>, Arc<Wake>)];

fn take_feed(listener: &UnixListener, mailboxes: &Mailboxes) -> Result<()> {
    let (mut feeder, _address) = listener.accept()?;
    let mut held = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = feeder.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..count]);
        let mut done = 0;
        while let Some(length) = held.get(done..done + 4) {
            let length = u32::from_be_bytes(length.try_into()?) as usize;
            let Some(frame) = held.get(done + 4..done + 4 + length) else {
                break;
            };
            for (mailbox, _) in mailboxes {
                mailbox.send(Arc::from(frame))?;
            }
            done += 4 + length;
        }
        held.drain(..done);
        for (_, wake) in mailboxes {
            wake.wake();
        }
    }
}

struct Worker {
    listener: TcpListener,
    wake: Arc<Wake>,
    mail: Receiver<Arc<[u8]>>,
    epoll: OwnedFd,
    sockets: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(
        listener: TcpListener,
        wake: Arc<Wake>,
        mail: Receiver<Arc<[u8]>>,
        pin: Option<usize>,
    ) -> Result<Self> {
        unshare_table()?.keep_only(&[listener.as_raw_fd(), wake.as_raw_fd()]);
        if let Some(cpu) = pin {
            cpu::pin(cpu)?;
        }
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(
            &epoll,
            &listener,
            epoll::EventData::new_u64(LISTENER),
            flags,
        )?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), flags)?;
        Ok(Self {
            listener,
            wake,
            mail,
            epoll,
            sockets: Vec::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(1024);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    WAKE => self.send()?,
                    index => self.answer(usize::try_from(index)?)?,
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => TcpStream::from(socket),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let data = epoll::EventData::new_u64(self.sockets.len() as u64);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &socket, data, flags)?;
            self.sockets.push(socket);
        }
    }

    /// Sends the response to a request. On loopback, each read returns a whole request.
    fn answer(&mut self, index: usize) -> Result<()> {
        let socket = &mut self.sockets[index];
        match socket.read(&mut self.buffer) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Ok(socket.write_all(HEAD)?),
        }
    }

    fn send(&mut self) -> Result<()> {
        self.wake.acknowledge();
        while let Ok(frame) = self.mail.try_recv() {
            for socket in &mut self.sockets {
                match socket.write(&frame) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
