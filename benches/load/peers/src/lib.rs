//! The shared code of the servers in this package: arguments, runtime, feed and ready line.
//!
//! A feeder writes publications to a Unix socket, one per line. Each line is sent to a tokio
//! broadcast channel. The programs in `bin/` receive the lines from this channel and send them to
//! the subscribers. A server ends when its feeder disconnects.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::broadcast::{self, Sender};

/// The maximum number of publications by which a subscriber can lag without a loss.
const BEHIND_MAX: usize = 1024;
/// The listen backlog. It is large enough for a connect storm, but the kernel limits it to
/// `somaxconn`.
const BACKLOG: u32 = 4096;

/// The path of the feed and the number of threads.
struct Arguments {
    feed: PathBuf,
    workers: usize,
}

impl Arguments {
    fn new(mut all: impl Iterator<Item = String>) -> io::Result<Self> {
        let (mut feed, mut workers) = (None, 1);
        while let (Some(name), Some(value)) = (all.next(), all.next()) {
            match name.as_str() {
                "--feed" => feed = Some(PathBuf::from(value)),
                "--workers" => workers = value.parse().map_err(io::Error::other)?,
                other => return Err(io::Error::other(format!("unknown flag {other}"))),
            }
        }
        let feed = feed.ok_or_else(|| io::Error::other("usage: [--workers N] --feed PATH"))?;
        Ok(Self { feed, workers })
    }
}

/// Runs a server until its feeder disconnects. `serve` accepts connections from the listener and
/// sends them the lines of the broadcast channel.
///
/// # Errors
/// Returns an error if the arguments are invalid or a socket fails.
pub fn run<T, F>(serve: impl FnOnce(TcpListener, Sender<T>) -> F) -> io::Result<()>
where
    T: From<String> + Clone + Send + 'static,
    F: Future<Output = io::Result<()>>,
{
    let arguments = Arguments::new(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.workers)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let feed = UnixListener::bind(&arguments.feed)?;
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        println!("ready: http://{}", listener.local_addr()?);
        tokio::select! {
            done = serve(listener, sender.clone()) => done,
            done = take_feed(feed, sender) => done,
        }
    })
}

async fn take_feed<T: From<String>>(feed: UnixListener, sender: Sender<T>) -> io::Result<()> {
    let (feeder, _) = feed.accept().await?;
    let mut lines = BufReader::new(feeder).lines();
    while let Some(line) = lines.next_line().await? {
        // Sending fails only if there are no subscribers.
        let _receivers = sender.send(T::from(line));
    }
    Ok(())
}
