//! The echo: a baseline server for the path from a feeder to one subscriber.
//!
//! A line passes through the same stages as in fanfare. A first thread, which waits in epoll, reads
//! the line from a Unix socket. It wakes a second thread with an eventfd, and the second thread
//! sends the line over TCP. The echo has no parser, no sequence numbers and no log. It sends each
//! line unchanged in one WebSocket frame. The echo runs as a child process of the latency
//! comparison.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Result, ensure};
use fanfare::sys::wake::Wake;
use rustix::event::epoll;

/// The maximum length of a line. It is the longest length that fits into two bytes of a frame
/// header.
const LINE_BYTES_MAX: usize = 65_535;
/// The values in the epoll entries of the second thread: one for the listener, and one for the
/// eventfd that wakes the thread.
const LISTENER: u64 = 0;
const WAKE: u64 = 1;

/// Runs the echo until the feeder disconnects.
pub(crate) fn serve(feed: &Path) -> Result<()> {
    let feed_listener = UnixListener::bind(feed)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let wake = Arc::new(Wake::new()?);
    let (sender, receiver) = channel();
    let own_wake = Arc::clone(&wake);
    thread::spawn(move || send(&listener, &own_wake, &receiver));
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "echo ready: http://{address} feed={}",
        feed.display()
    )?;
    stdout.flush()?;
    take_feed(&feed_listener, &sender, &wake)
}

fn waiting_for(sources: &[(&dyn AsFd, u64)]) -> Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (source, data) in sources {
        let data = epoll::EventData::new_u64(*data);
        epoll::add(&epoll, source, data, epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}

fn wait(epoll: &OwnedFd) -> Result<Vec<u64>> {
    let mut events = Vec::with_capacity(8);
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(events.iter().map(|event| event.data.u64()).collect())
}

/// Runs the first thread, which reads lines from the feeder and passes them to the second thread.
/// The feeder of this benchmark writes only whole lines, so each read ends with a line end.
fn take_feed(listener: &UnixListener, mailbox: &Sender<Vec<u8>>, wake: &Wake) -> Result<()> {
    let (mut feeder, _address): (UnixStream, _) = listener.accept()?;
    let epoll = waiting_for(&[(&feeder, 0)])?;
    let mut buffer = vec![0; LINE_BYTES_MAX];
    loop {
        if wait(&epoll)?.is_empty() {
            continue;
        }
        let count = feeder.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        ensure!(buffer[count - 1] == b'\n', "half a line");
        mailbox.send(buffer[..count].to_vec())?;
        wake.wake();
    }
}

/// Runs the second thread, which sends each line as a frame to all subscribers.
fn send(listener: &TcpListener, wake: &Wake, mail: &Receiver<Vec<u8>>) -> Result<()> {
    let epoll = waiting_for(&[(listener, LISTENER), (wake, WAKE)])?;
    let mut sockets: Vec<TcpStream> = Vec::new();
    loop {
        for data in wait(&epoll)? {
            if data == LISTENER {
                let (socket, _address) = listener.accept()?;
                socket.set_nodelay(true)?;
                sockets.push(socket);
                continue;
            }
            wake.acknowledge();
            while let Ok(line) = mail.try_recv() {
                let mut frame = vec![0x81, 126];
                frame.extend(u16::try_from(line.len())?.to_be_bytes());
                frame.extend(line);
                for socket in &mut sockets {
                    socket.write_all(&frame)?;
                }
            }
        }
    }
}
