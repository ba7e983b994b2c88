//! SHELL: the operator's socket answers `fanfare conns`, `fanfare kick` and similar commands.
//!
//! It is a Unix socket that only root and the server's user may use. One thread accepts
//! connections, and each connection has a thread of its own (`connection.rs`), because a request
//! waits for workers. The number of connections is limited, and a further one is answered with an
//! error. [`request`] and [`answer`] are the protocol, and [`execute`] carries out a
//! request. Workers are asked through their [`survey`](crate::worker::mail::survey) queues and
//! answer when they have time. Requests that concern the whole process, such as a reload, are sent
//! to the main thread as a [`MainOrder`].
//!
//! The threads end with the process.

pub mod answer;
mod channels;
mod connection;
pub mod execute;
pub mod request;
mod surveys;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::limits::{
    ACCEPT_PAUSE_MS, FILES_CHECK_MS, OPERATOR_CONNS_MAX, OPERATOR_REFUSALS_MAX,
};
use crate::sys::socket_file::{self, SocketAccess, SocketFile, SocketFileError};
use answer::ReloadAnswer;
use execute::Operated;

/// The stack size of the threads, in bytes.
const STACK_BYTES: usize = 512 * 1024;

/// The socket after its path is bound. [`Operator::spawn`] starts the thread that serves it.
#[derive(Debug)]
pub struct Operator {
    listener: UnixListener,
    file: SharedFile,
}

/// The socket's file; `None` after it was removed for good.
type SharedFile = Arc<Mutex<Option<SocketFile>>>;

/// Removes the socket's file when it is dropped.
#[derive(Debug)]
pub struct OperatorHandle(SharedFile);

impl Drop for OperatorHandle {
    fn drop(&mut self) {
        drop(lock(&self.0).take());
    }
}

fn lock(file: &SharedFile) -> MutexGuard<'_, Option<SocketFile>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that the main thread carries out.
#[derive(Debug)]
pub enum MainOrder {
    /// Read the configuration, certificates and keys again. The result is sent to the channel: the
    /// answer, or the problems because of which nothing has changed.
    Reload(Sender<Result<ReloadAnswer, String>>),
}

/// Binds the operator's socket.
///
/// # Errors
/// Returns the reason for which the path cannot be bound.
pub fn bind(path: &Path) -> Result<Operator, SocketFileError> {
    let (listener, file) = socket_file::listen(path, SocketAccess::OWNER)?;
    let file = Arc::new(Mutex::new(Some(file)));
    Ok(Operator { listener, file })
}

/// Returns the path of the operator's socket that belongs to a feed's path: the feed's path and
/// `.admin`.
#[must_use]
pub fn default_path(feed: &Path) -> PathBuf {
    let mut path = feed.as_os_str().to_owned();
    path.push(".admin");
    PathBuf::from(path)
}

impl Operator {
    /// Serves the socket from a separate thread until the process ends. The socket's file is
    /// removed when the handle is dropped.
    ///
    /// # Errors
    /// Returns the system's error if the thread cannot be started.
    pub fn spawn(mut self, operated: Operated) -> io::Result<OperatorHandle> {
        self.listener.set_nonblocking(true)?;
        let operated = Arc::new(operated);
        let thread = thread::Builder::new().name(String::from("fanfare-operator"));
        let thread = thread.stack_size(STACK_BYTES);
        let handle = OperatorHandle(Arc::clone(&self.file));
        thread.spawn(move || self.serve(&operated))?;
        Ok(handle)
    }

    fn serve(&mut self, operated: &Arc<Operated>) -> ! {
        let threads = RequestThreads::default();
        loop {
            if let Err(error) = self.wait() {
                tracing::debug!(%error, "cannot poll the operator's socket");
                thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
            }
            self.restore();
            match self.listener.accept() {
                Ok((stream, _)) => threads.serve(stream, operated),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an operator");
                    thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
                }
            }
        }
    }

    /// Waits until a connection can be accepted or the path of the socket has to be checked.
    fn wait(&self) -> rustix::io::Result<()> {
        let mut sockets = [PollFd::from_borrowed_fd(
            self.listener.as_fd(),
            PollFlags::IN,
        )];
        let wait = Timespec::try_from(Duration::from_millis(FILES_CHECK_MS)).ok();
        match poll(&mut sockets, wait.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Creates the socket again if its file was removed.
    fn restore(&mut self) {
        let mut shared = lock(&self.file);
        let Some(file) = shared.as_mut() else {
            return;
        };
        match file.restore(|listener| listener.set_nonblocking(true)) {
            Ok(None) => {}
            Ok(Some(listener)) => {
                let path = file.path().display();
                tracing::warn!(%path, "the operator's socket was removed: it was made again");
                self.listener = listener;
            }
            Err(error) => tracing::debug!(%error, "the operator's socket cannot be made again"),
        }
    }
}

/// The threads that serve or refuse connections.
#[derive(Default)]
struct RequestThreads {
    serving: Arc<AtomicUsize>,
    refusing: Arc<AtomicUsize>,
}

/// A place for a thread. It is free again when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes one of `most` places. Returns `None` if none is free.
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestThreads {
    /// Serves a connection from a separate thread. Above the limit on connections, refuses it. A
    /// few refusals have threads, too, because a refusal waits until the operator has read it.
    fn serve(&self, stream: UnixStream, operated: &Arc<Operated>) {
        const REFUSAL: &str = "too many requests of operators at the same time";
        if let Some(place) = Place::take(&self.serving, OPERATOR_CONNS_MAX) {
            let operated = Arc::clone(operated);
            return spawn(place, move || connection::serve(&stream, &operated));
        }
        match Place::take(&self.refusing, OPERATOR_REFUSALS_MAX) {
            Some(place) => spawn(place, move || connection::refuse(&stream, REFUSAL)),
            None => connection::send_error(&stream, REFUSAL),
        }
    }
}

fn spawn(place: Place, work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name(String::from("fanfare-request"));
    let spawned = thread.stack_size(STACK_BYTES).spawn(move || {
        let _place = place;
        work();
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread for a request of an operator");
    }
}
