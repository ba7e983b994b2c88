//! The unacknowledged lines, which pass from the thread that reads the input to the thread that
//! sends.
//!
//! SHELL: the window uses one lock and one condition variable. The window is bounded, so that the
//! input is read no faster than the feed acknowledges its lines. A line stays in the window until
//! its answer arrives. After a reconnect, the unacknowledged lines are sent again in the same
//! order. `resend` is the only user.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fanfare::certain;
use fanfare::config::limits::DEDUPE_KEYS_MAX;

/// The maximum number of unacknowledged lines.
const LINES_MAX: usize = 4096;
// The feed remembers at least 16 times `LINES_MAX` idempotency keys. So it still knows the keys of
// all these lines, even if other processes publish too.
const _: () = assert!(LINES_MAX <= DEDUPE_KEYS_MAX / 16);
/// The maximum total size of the unacknowledged lines, in bytes. A single line may be larger.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// No further line is added to a write that has at least this many bytes.
const SEND_BYTES: usize = 64 * 1024;

/// The result of [`SendWindow::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Taken {
    /// Lines to send were appended to the buffer.
    Lines,
    /// All lines of the input have been sent.
    End,
    /// The connection has ended.
    HungUp,
}

/// The unacknowledged lines, in the order of the input.
#[derive(Debug, Default)]
pub(super) struct SendWindow {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// The unacknowledged lines, in the order of the input.
    pending: VecDeque<PendingLine>,
    /// Total size of `pending`, in bytes.
    bytes: usize,
    /// The number of lines at the front of `pending` that were sent on the current connection.
    sent: usize,
    /// Whether the input has ended.
    is_finished: bool,
    /// Whether the connection has ended.
    is_hung_up: bool,
    /// Whether the command has failed, so that no more lines will be sent.
    is_abandoned: bool,
}

#[derive(Debug)]
struct PendingLine {
    /// The number of the line in the input.
    number: u64,
    wire: Box<[u8]>,
    /// The time at which the line was first sent, on any connection.
    first_sent: Option<Instant>,
}

impl SendWindow {
    /// Adds a line. Waits while the window is full.
    ///
    /// # Errors
    /// Returns `BrokenPipe` after [`SendWindow::abandon`].
    pub(super) fn push(&self, number: u64, wire: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        while inner.is_full(wire.len()) && !inner.is_abandoned {
            inner = self.wait(inner);
        }
        if inner.is_abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        inner.bytes += wire.len();
        inner.pending.push_back(PendingLine {
            number,
            wire: Box::from(wire),
            first_sent: None,
        });
        self.changed.notify_all();
        Ok(())
    }

    /// Marks the input as ended.
    pub(super) fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_all();
    }

    /// Makes all waiting and later calls of [`SendWindow::push`] return an error, because no more
    /// lines will be sent.
    pub(super) fn abandon(&self) {
        self.lock().is_abandoned = true;
        self.changed.notify_all();
    }

    /// Waits until there are lines to send, and appends them to `out`. Appends no further line when
    /// `out` has at least [`SEND_BYTES`] bytes.
    pub(super) fn take(&self, out: &mut Vec<u8>) -> Taken {
        let mut inner = self.lock();
        while !inner.is_hung_up && !inner.is_finished && inner.sent == inner.pending.len() {
            inner = self.wait(inner);
        }
        if inner.is_hung_up {
            return Taken::HungUp;
        }
        let (sent, now) = (inner.sent, Instant::now());
        let mut taken = 0;
        for line in inner.pending.iter_mut().skip(sent) {
            out.extend_from_slice(&line.wire);
            line.first_sent.get_or_insert(now);
            taken += 1;
            if out.len() >= SEND_BYTES {
                break;
            }
        }
        inner.sent += taken;
        match taken {
            0 => Taken::End,
            _ => Taken::Lines,
        }
    }

    /// Removes the oldest line, because its answer has arrived. Returns the line's number in the
    /// input, or `None` if no line was sent on the current connection.
    pub(super) fn answered(&self) -> Option<u64> {
        let mut inner = self.lock();
        inner.sent = inner.sent.checked_sub(1)?;
        let line = certain::some(inner.pending.pop_front(), "sent lines are pending")?;
        inner.bytes -= line.wire.len();
        self.changed.notify_all();
        Some(line.number)
    }

    /// Marks the connection as ended, and wakes the sending thread.
    pub(super) fn hang_up(&self) {
        self.lock().is_hung_up = true;
        self.changed.notify_all();
    }

    /// Prepares for a new connection, on which all lines in the window are sent again.
    pub(super) fn rewind(&self) {
        let mut inner = self.lock();
        inner.sent = 0;
        inner.is_hung_up = false;
    }

    /// Whether the input has ended and every line has been answered.
    pub(super) fn is_done(&self) -> bool {
        let inner = self.lock();
        inner.is_finished && inner.pending.is_empty()
    }

    /// Returns the number of the oldest unanswered line and the time at which this line was first
    /// sent.
    pub(super) fn oldest(&self) -> Option<(u64, Option<Instant>)> {
        let inner = self.lock();
        inner
            .pending
            .front()
            .map(|line| (line.number, line.first_sent))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let woken = self.changed.wait(inner);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_full(&self, more_bytes: usize) -> bool {
        let is_over = self.bytes.saturating_add(more_bytes) > BYTES_MAX;
        self.pending.len() >= LINES_MAX || (is_over && !self.pending.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_lines_are_sent_again_in_order() {
        let window = SendWindow::default();
        for (number, wire) in [(1, "a\n"), (3, "b\n"), (4, "c\n")] {
            window.push(number, wire.as_bytes()).unwrap();
        }
        let mut wire = Vec::new();
        assert_eq!(window.take(&mut wire), Taken::Lines);
        assert_eq!(wire, b"a\nb\nc\n");
        assert_eq!(window.answered(), Some(1));
        window.hang_up();
        assert_eq!(window.take(&mut wire), Taken::HungUp);
        window.rewind();
        // No line was sent on this connection, so the answer belongs to no line.
        assert_eq!(window.answered(), None);
        wire.clear();
        assert_eq!(window.take(&mut wire), Taken::Lines);
        assert_eq!(wire, b"b\nc\n");
        assert_eq!(window.answered(), Some(3));
        assert_eq!(window.answered(), Some(4));
        assert!(!window.is_done());
        window.finish();
        assert_eq!(window.take(&mut wire), Taken::End);
        assert!(window.is_done());
    }

    #[test]
    fn full_window_waits_for_an_answer_and_holds_one_line_of_any_length() {
        let window = SendWindow::default();
        window.push(1, &vec![b'x'; BYTES_MAX + 1]).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| window.push(2, b"y"));
            let mut wire = Vec::new();
            assert_eq!(window.take(&mut wire), Taken::Lines);
            assert_eq!(wire.len(), BYTES_MAX + 1);
            assert_eq!(window.answered(), Some(1));
            second.join().unwrap().unwrap();
        });
        assert_eq!(window.oldest().unwrap().0, 2);
        window.abandon();
        window.push(3, b"z").unwrap_err();
    }
}
