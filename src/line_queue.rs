//! SHELL: a bounded queue of lines, and the thread that writes them.
//!
//! The log and the access log use it. When the queue is full, lines are dropped and counted, so a
//! slow reader never delays the thread that has a line. The end of the server waits a bounded time
//! for the reader. No function writes to standard output or to standard error itself, because
//! either of them may be the pipe that nothing reads.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// The sending end of the queue. Clones share the queue.
#[derive(Clone, Debug)]
pub struct LineQueue {
    messages: Sender<Message>,
    counts: Arc<Counts>,
}

/// A handle of the thread that writes.
#[derive(Debug)]
pub struct LineThread {
    messages: Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// The thread disconnects the channel when it has written all lines before this message.
    Written(Sender<()>),
    /// Ends the thread.
    Stop,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines for which the queue had no room, or that could not be written.
    dropped: AtomicU64,
    /// Lines in the queue, and the line that is being written.
    unwritten: AtomicU64,
    /// Whether the thread must not write the lines that are still in the queue.
    is_abandoned: AtomicBool,
}

impl LineQueue {
    /// Starts a thread that writes lines to `writer`. At most `lines_max` lines wait.
    ///
    /// # Errors
    /// Returns the error of the system if the thread cannot be started.
    pub fn start(
        name: &str,
        lines_max: usize,
        writer: impl Write + Send + 'static,
    ) -> io::Result<(Self, LineThread)> {
        let (messages, received) = bounded(lines_max);
        let counts = Arc::<Counts>::default();
        let own = Arc::clone(&counts);
        let thread = thread::Builder::new().name(name.to_owned());
        // The thread is not joined, because a write may never return.
        thread.spawn(move || write_all(&received, writer, &own))?;
        let queue = Self {
            messages: messages.clone(),
            counts: Arc::clone(&counts),
        };
        Ok((queue, LineThread { messages, counts }))
    }

    /// Queues a copy of a line, or drops and counts the line if the queue is full.
    pub fn push(&self, line: &[u8]) {
        self.counts.unwritten.fetch_add(1, Ordering::Relaxed);
        if self.messages.try_send(Message::Line(line.into())).is_err() {
            self.counts.unwritten.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of lines for which the queue had no room, or whose write has failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

/// Writes lines. If an error has cut a line, for example because a disk was full, the next line
/// begins a new one. So a reader loses only the cut line.
#[derive(Debug)]
pub struct WholeLines<W> {
    writer: W,
    is_cut: bool,
}

impl<W: Write> WholeLines<W> {
    /// Passes lines to `writer`, which must not keep written bytes in a buffer.
    pub fn new(writer: W) -> Self {
        let is_cut = false;
        Self { writer, is_cut }
    }

    fn write_whole(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.writer.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    self.is_cut = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Each call writes one line completely, or fails.
impl<W: Write> Write for WholeLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_cut {
            self.write_whole(b"\n")?;
        }
        self.write_whole(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl LineThread {
    /// Waits until all lines that were queued before the call are written. The wait takes at most
    /// the time `most`, because a full pipe may never be read. Returns false if some lines are not
    /// written yet. Dropped lines count as written.
    #[must_use]
    pub fn wait_until_written(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let (unsent, written) = bounded(0);
        let asked = self
            .messages
            .send_deadline(Message::Written(unsent), deadline);
        // Nothing is ever sent. The error tells the end of the channel from the deadline.
        let waited = written.recv_deadline(deadline);
        asked.is_ok() && waited.is_err_and(|error| error.is_disconnected())
    }

    /// Ends the thread when it has written the queued lines, but waits at most the time `most`. The
    /// lines that are not written by then are lost. Counts them as dropped, and returns their
    /// number. The line that is being written counts as lost, although a part of it may be written.
    pub fn stop(&self, most: Duration) -> u64 {
        let is_written = self.wait_until_written(most);
        self.counts.is_abandoned.store(true, Ordering::Release);
        // If the queue is full, the thread ends after its current line.
        let _sent = self.messages.try_send(Message::Stop);
        if is_written {
            return 0;
        }
        let lost = self.counts.unwritten.load(Ordering::Relaxed);
        self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
        lost
    }
}

/// Writes lines until the thread must end.
fn write_all(messages: &Receiver<Message>, mut writer: impl Write, counts: &Counts) {
    for message in messages {
        match message {
            Message::Line(line) => {
                if writer.write_all(&line).is_err() {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
                counts.unwritten.fetch_sub(1, Ordering::Relaxed);
            }
            Message::Written(waiting) => {
                // A writer that cannot flush reports it at the next line.
                let _flushed = writer.flush();
                drop(waiting);
            }
            Message::Stop => return,
        }
        if counts.is_abandoned.load(Ordering::Acquire) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that accepts a line only when the test allows it.
    struct Gated {
        allowed: Receiver<()>,
        lines: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.lines.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer that has room for some bytes, and is full after them.
    struct Limited {
        room: Arc<AtomicU64>,
        written: Vec<u8>,
    }

    impl Write for Limited {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = usize::try_from(self.room.load(Ordering::Relaxed)).unwrap();
            let count = room.min(bytes.len());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room.fetch_sub(count as u64, Ordering::Relaxed);
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_after_a_cut_line_begins_a_new_line() {
        let room = Arc::<AtomicU64>::default();
        let written = Vec::new();
        let mut lines = WholeLines::new(Limited {
            room: Arc::clone(&room),
            written,
        });
        for (left, line, is_written) in [
            (100, "1\n", true),
            (0, "lost\n", false),
            (100, "2\n", true),
            (3, "cut\n", false),
            (0, "lost\n", false),
            // Only the end of the cut line is written.
            (1, "lost\n", false),
            (100, "3\n", true),
        ] {
            room.store(left, Ordering::Relaxed);
            assert_eq!(
                lines.write_all(line.as_bytes()).is_ok(),
                is_written,
                "{line}"
            );
        }
        let text = String::from_utf8(lines.writer.written).unwrap();
        assert_eq!(text, "1\n2\ncut\n3\n");
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn wait_ends_when_all_lines_are_written_and_is_bounded_when_none_can_be() {
        let (allow, allowed) = bounded(1);
        let (lines, received) = bounded(2);
        let (queue, thread) = LineQueue::start("test", 8, Gated { allowed, lines }).unwrap();
        assert!(thread.wait_until_written(LONG), "nothing is queued");
        queue.push(b"a line\n");
        assert!(!thread.wait_until_written(Duration::from_millis(20)));
        assert!(received.is_empty());
        allow.send(()).unwrap();
        assert!(thread.wait_until_written(LONG));
        assert_eq!(received.try_recv().unwrap(), b"a line\n");
        // A line that cannot be written is counted, and delays nothing.
        drop(allow);
        queue.push(b"another\n");
        assert!(thread.wait_until_written(LONG));
        assert_eq!((queue.dropped(), thread.stop(LONG)), (1, 0));
    }

    #[test]
    fn stop_waits_a_bounded_time_and_counts_the_lines_that_are_lost() {
        for queued in [1, 3, 4] {
            let (allow, allowed) = bounded(1);
            let (lines, received) = bounded(8);
            let (queue, thread) = LineQueue::start("test", 3, Gated { allowed, lines }).unwrap();
            queue.push(b"taken\n");
            while !queue.messages.is_empty() {
                thread::yield_now();
            }
            for _ in 1..queued {
                queue.push(b"waits\n");
            }
            // Messages of this wait are not lines.
            assert!(!thread.wait_until_written(Duration::ZERO));
            let begun = Instant::now();
            assert_eq!(thread.stop(Duration::from_millis(20)), queued);
            assert!(begun.elapsed() < LONG);
            assert_eq!(queue.dropped(), queued);
            // The thread ends after the line that it could not finish.
            allow.send(()).unwrap();
            assert_eq!(received.recv().unwrap(), b"taken\n");
            assert!(received.recv().is_err(), "the thread has ended");
        }
    }
}
