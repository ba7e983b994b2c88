//! Lines that the feed has not acknowledged yet, between whoever reads them and whoever sends them.
//!
//! SHELL: one lock and one condition. Bounded, so that input is read no faster than the feed
//! acknowledges. A line stays here until its answer has come, so that everything in doubt can be
//! sent again on the next conn, in the same order. `resume` beside it is the only user.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lines that may wait for their answers. Far below the number of idempotency keys that a feed
/// remembers, so that none of ours is forgotten before it is acknowledged.
const LINES_MAX: usize = 4096;
/// Bytes that may wait; a single line may have more.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that are sent at once.
const SEND_BYTES: usize = 64 * 1024;

/// What there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Taken {
    /// Lines.
    Lines,
    /// Nothing, and nothing will come.
    End,
    /// The conn is over.
    HungUp,
}

/// The lines.
#[derive(Debug, Default)]
pub(super) struct Window {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order of the input.
    pending: VecDeque<Pending>,
    /// Bytes of `pending`.
    bytes: usize,
    /// How many of `pending` were sent on this conn. At most its length.
    sent: usize,
    /// No more lines will come.
    is_finished: bool,
    is_hung_up: bool,
    /// Nobody sends any more.
    is_abandoned: bool,
}

#[derive(Debug)]
struct Pending {
    /// The input's line.
    number: u64,
    wire: Box<[u8]>,
    /// When it was sent first, on any conn.
    first_sent: Option<Instant>,
}

impl Window {
    /// Adds a line; waits while there are too many.
    ///
    /// # Errors
    /// When nobody sends any more.
    pub(super) fn push(&self, number: u64, wire: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        while inner.is_full(wire.len()) && !inner.is_abandoned {
            inner = self.wait(inner);
        }
        if inner.is_abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        inner.bytes += wire.len();
        inner.pending.push_back(Pending {
            number,
            wire: Box::from(wire),
            first_sent: None,
        });
        self.changed.notify_all();
        Ok(())
    }

    /// Says that the input has ended.
    pub(super) fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_all();
    }

    /// Lets nobody wait for room any more.
    pub(super) fn abandon(&self) {
        self.lock().is_abandoned = true;
        self.changed.notify_all();
    }

    /// Appends what is to be sent next; waits until there is something.
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

    /// Lets go of the oldest line, whose answer has come; its number in the input. `None` if none
    /// was sent on this conn.
    pub(super) fn answered(&self) -> Option<u64> {
        let mut inner = self.lock();
        inner.sent = inner.sent.checked_sub(1)?;
        let line = inner.pending.pop_front()?;
        inner.bytes -= line.wire.len();
        self.changed.notify_all();
        Some(line.number)
    }

    /// Wakes whoever waits to send.
    pub(super) fn hang_up(&self) {
        self.lock().is_hung_up = true;
        self.changed.notify_all();
    }

    /// Everything is to be sent again, on a new conn.
    pub(super) fn rewind(&self) {
        let mut inner = self.lock();
        inner.sent = 0;
        inner.is_hung_up = false;
    }

    /// Whether every line has had its answer and no more will come.
    pub(super) fn is_done(&self) -> bool {
        let inner = self.lock();
        inner.is_finished && inner.pending.is_empty()
    }

    /// The oldest line without an answer, and when it was sent first.
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
    fn lines_without_an_answer_are_sent_again_in_their_order() {
        let window = Window::default();
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
        // An answer to a line that this conn has not carried is nobody's.
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
    fn full_window_waits_for_an_answer_and_takes_one_line_of_any_length() {
        let window = Window::default();
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
