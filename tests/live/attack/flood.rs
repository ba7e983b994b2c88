//! Attackers that send the same bytes again and again, as fast as the server takes them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a flood lasts.
pub(crate) const FLOOD: Duration = Duration::from_millis(1500);

/// What attackers do with the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// They read them, so that the server goes on reading.
    Taken,
    /// They leave them unread.
    Left,
}

/// A thread that floods on many connections.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<TcpStream>>,
}

struct Attacker {
    stream: TcpStream,
    /// The offset of the next byte in the piece.
    at: usize,
    /// Bytes that it may still send.
    left: usize,
    is_over: bool,
}

impl Flood {
    /// Starts. All attackers together send at most `bytes_max`: the server still has to read what
    /// the kernel holds when they stop, and that must end, too.
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

    /// Stops, and returns the connections in their present state.
    pub(crate) fn stop(self) -> Vec<TcpStream> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Attacker {
    /// Sends and reads once. Returns whether any bytes moved.
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
