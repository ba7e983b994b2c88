//! Attackers that send the same bytes repeatedly, as fast as the server reads them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The duration of a flood.
pub(crate) const FLOOD: Duration = Duration::from_millis(1500);

/// Whether the attackers read the server's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The attackers read the answers, so that the server continues to read.
    Taken,
    /// The attackers leave the answers unread.
    Left,
}

/// A thread that floods many connections.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<TcpStream>>,
}

struct Attacker {
    stream: TcpStream,
    /// The offset of the next byte in the bytes that are sent repeatedly.
    at: usize,
    /// The number of bytes that the attacker may still send.
    left: usize,
    is_over: bool,
}

impl Flood {
    /// Starts the flood. All attackers together send at most `bytes_max` bytes. The total is
    /// limited because the server must still read everything that the kernel has buffered when the
    /// flood ends.
    pub(crate) fn start(
        streams: Vec<TcpStream>,
        piece: Vec<u8>,
        bytes_max: usize,
        answers: Answers,
    ) -> Self {
        let left = bytes_max / streams.len();
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let attacker = |stream: TcpStream| {
            stream.set_nonblocking(true).unwrap();
            Attacker {
                stream,
                at: 0,
                left,
                is_over: false,
            }
        };
        let mut attackers: Vec<Attacker> = streams.into_iter().map(attacker).collect();
        let thread = thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                let mut has_moved = false;
                for attacker in &mut attackers {
                    has_moved |= attacker.act(&piece, answers);
                }
                if !has_moved {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            attackers.into_iter().map(|a| a.stream).collect()
        });
        Self { stop, thread }
    }

    /// Stops the flood. Returns its connections, some of which may have ended.
    pub(crate) fn stop(self) -> Vec<TcpStream> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Attacker {
    /// Sends once, and reads once if the answers are read. Returns whether any bytes moved.
    fn act(&mut self, piece: &[u8], answers: Answers) -> bool {
        if self.is_over {
            return false;
        }
        let mut has_moved = false;
        let rest = &piece[self.at..];
        match self.stream.write(&rest[..rest.len().min(self.left)]) {
            Ok(count) => {
                self.at = (self.at + count) % piece.len();
                self.left -= count;
                has_moved = count > 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.is_over = true,
        }
        if answers == Answers::Taken {
            match self.stream.read(&mut [0; 16_384]) {
                Ok(0) => self.is_over = true,
                Ok(_) => has_moved = true,
                Err(error) => self.is_over |= error.kind() != ErrorKind::WouldBlock,
            }
        }
        has_moved
    }
}
