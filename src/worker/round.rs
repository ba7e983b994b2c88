//! round: delays a decision about a peer until everything that the peer has sent has been read.
//!
//! A deadline or a limit measures the peer, never the server's own lag. When a conn is new or its
//! timer fires, the kernel may have bytes of the conn that the worker has not read. Possible causes
//! are an interrupted wait, a full list of readiness reports, or a read budget that was spent. So
//! every decision waits for a *round* that begins afterwards. A round has three steps:
//!
//! 1. A poll that reports all sockets that are ready.
//! 2. One read from each conn that was in the read queue after that poll.
//! 3. One step of each handshake that was in the handshake queue after those reads.
//!
//! At the end of a round, `expire` decides about fired timers of conns and about
//! [`super::admission::pending`]. These decisions are made nowhere else.

use std::collections::VecDeque;

use super::wire::net::Polled;
use crate::certain;
use crate::config::limits::ACCEPTS_PER_TURN_MAX;
use crate::id::ConnId;

/// A queue of conns. It counts the conns that were removed, so that a position in the queue stays
/// valid.
#[derive(Debug, Default)]
pub(super) struct Queue {
    conns: VecDeque<ConnId>,
    taken: u64,
}

/// A position in a [`Queue`]. A step of a round can wait until all conns before such a position
/// were removed from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Queue {
    pub(super) fn push(&mut self, id: ConnId) {
        self.conns.push_back(id);
    }

    pub(super) fn pop(&mut self) -> Option<ConnId> {
        let id = self.conns.pop_front()?;
        self.taken += 1;
        Some(id)
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    pub(super) fn contains(&self, id: ConnId) -> bool {
        self.conns.contains(&id)
    }

    pub(super) fn shrink(&mut self) {
        self.conns.shrink_to_fit();
    }

    /// Returns the position after the last conn of the queue.
    fn end(&self) -> Mark {
        Mark(self.taken + self.conns.len() as u64)
    }

    /// Whether all conns before a position were removed from the queue.
    fn has_passed(&self, mark: Mark) -> bool {
        self.taken >= mark.0 || self.conns.is_empty()
    }
}

/// The step that the current round has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// No round is in progress. The next poll begins one.
    #[default]
    Ended,
    /// The round waits for a poll that reports all ready sockets. The polls of this round have
    /// returned this number of reports so far.
    Polling { reports: usize },
    /// The round waits until the conns before this position of the read queue were read.
    Reading(Mark),
    /// The round waits until each conn before this position of the handshake queue has continued
    /// its handshake.
    Handshaking(Mark),
}

/// The current round, and the conns that wait for the end of a round: new conns and conns whose
/// timers have fired.
#[derive(Debug, Default)]
pub(super) struct Round {
    progress: Progress,
    /// Conns that are handled at the end of the current round.
    current: Decisions,
    /// Conns that were added after the current round had begun. They are handled at the end of the
    /// next round.
    next: Decisions,
}

/// Conns that wait for the end of a round.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// Conns whose timers have fired, for example because the peer was silent for too long.
    pub(super) fired: Vec<ConnId>,
    /// New conns. A request of such a conn may not have been read yet.
    pub(super) arrived: Vec<ConnId>,
}

impl Round {
    pub(super) fn note_fired(&mut self, id: ConnId) {
        self.next.fired.push(id);
    }

    pub(super) fn note_arrived(&mut self, id: ConnId) {
        self.next.arrived.push(id);
    }

    /// Returns the number of new conns that wait for the end of a round.
    pub(super) fn arrived(&self) -> u32 {
        let arrived = self.current.arrived.len() + self.next.arrived.len();
        certain::to_u32(arrived)
    }

    /// Whether any conn waits for the end of a round because its timer has fired. If so, the next
    /// poll must not sleep.
    pub(super) fn is_awaited(&self) -> bool {
        !self.next.fired.is_empty() || !self.current.fired.is_empty()
    }

    /// Whether the timer of this conn has fired and the conn waits for the end of a round.
    pub(super) fn has_fired(&self, id: ConnId) -> bool {
        self.next.fired.contains(&id) || self.current.fired.contains(&id)
    }

    /// Begins a round unless one is in progress. Called before each poll.
    pub(super) fn begin(&mut self) {
        if self.progress == Progress::Ended {
            std::mem::swap(&mut self.current, &mut self.next);
            self.progress = Progress::Polling { reports: 0 };
        }
    }

    /// Called after the readiness reports of a poll were processed. `reports` is their number, and
    /// `sockets` is the number of conns and listeners.
    pub(super) fn note_polled(
        &mut self,
        polled: Polled,
        reports: usize,
        sockets: usize,
        to_read: &Queue,
    ) {
        if let Progress::Polling { reports: before } = self.progress {
            // The kernel reports sockets in the order in which they became ready. After as many
            // reports as there are sockets, every socket that was ready at the start has been
            // reported. So this step ends even if no poll could report all ready sockets at once.
            let reports = before + reports;
            self.progress = match polled {
                Polled::Partial if reports < sockets => Progress::Polling { reports },
                Polled::Partial | Polled::Complete => Progress::Reading(to_read.end()),
            };
        }
    }

    /// Called after the reads and handshakes of a turn. If the round is over, returns the conns
    /// that waited for its end.
    pub(super) fn end(&mut self, to_read: &Queue, handshakes: &Queue) -> Option<Decisions> {
        if let Progress::Reading(mark) = self.progress
            && to_read.has_passed(mark)
        {
            self.progress = Progress::Handshaking(handshakes.end());
        }
        match self.progress {
            Progress::Handshaking(mark) if handshakes.has_passed(mark) => {
                self.progress = Progress::Ended;
                Some(std::mem::take(&mut self.current))
            }
            _ => None,
        }
    }

    /// Clears the lists of a finished round and keeps them for the next one. Memory beyond the
    /// usual size is freed.
    pub(super) fn reuse(&mut self, mut decisions: Decisions) {
        for list in [&mut decisions.fired, &mut decisions.arrived] {
            list.clear();
            list.shrink_to(ACCEPTS_PER_TURN_MAX as usize);
        }
        self.current = decisions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnId {
        let generation = 0;
        ConnId { slot, generation }
    }

    fn fired(decisions: Option<Decisions>) -> Option<Vec<u32>> {
        let slots = |decisions: Decisions| decisions.fired.iter().map(|id| id.slot).collect();
        decisions.map(slots)
    }

    /// Runs one turn without handshakes. `polled` is the result of the poll, and `to_read` is the
    /// read queue.
    fn turn(round: &mut Round, polled: Polled, to_read: &Queue) -> Option<Vec<u32>> {
        round.begin();
        round.note_polled(polled, 1, 100, to_read);
        fired(round.end(to_read, &Queue::default()))
    }

    #[test]
    fn timer_waits_for_a_poll_that_begins_after_it() {
        let (mut round, empty) = (Round::default(), Queue::default());
        round.begin();
        round.note_fired(id(1));
        round.note_polled(Polled::Complete, 0, 1, &empty);
        assert_eq!(fired(round.end(&empty, &empty)), Some(vec![]));
        assert!(round.is_awaited());
        assert_eq!(turn(&mut round, Polled::Complete, &empty), Some(vec![1]));
        assert!(!round.is_awaited());
    }

    #[test]
    fn timer_waits_for_a_poll_that_is_complete() {
        let (mut round, empty) = (Round::default(), Queue::default());
        round.note_fired(id(1));
        assert_eq!(turn(&mut round, Polled::Partial, &empty), None);
        assert_eq!(turn(&mut round, Polled::Partial, &empty), None);
        assert_eq!(turn(&mut round, Polled::Complete, &empty), Some(vec![1]));
    }

    #[test]
    fn polls_that_are_never_complete_end_when_every_socket_can_have_been_reported() {
        let (mut round, empty) = (Round::default(), Queue::default());
        round.note_fired(id(1));
        for _ in 0..99 {
            assert_eq!(turn(&mut round, Polled::Partial, &empty), None);
        }
        assert_eq!(turn(&mut round, Polled::Partial, &empty), Some(vec![1]));
    }

    #[test]
    fn timer_waits_for_reads_and_then_for_handshakes_but_not_for_later_ones() {
        let mut round = Round::default();
        let (mut to_read, mut handshakes) = (Queue::default(), Queue::default());
        round.note_fired(id(1));
        to_read.push(id(2));
        to_read.push(id(3));
        round.begin();
        round.note_polled(Polled::Complete, 2, 100, &to_read);
        to_read.push(id(4));
        assert!(round.end(&to_read, &handshakes).is_none());
        to_read.pop();
        assert!(round.end(&to_read, &handshakes).is_none());
        to_read.pop();
        handshakes.push(id(3));
        handshakes.push(id(5));
        assert!(round.end(&to_read, &handshakes).is_none());
        handshakes.push(id(6));
        handshakes.pop();
        handshakes.pop();
        assert_eq!(fired(round.end(&to_read, &handshakes)), Some(vec![1]));
    }
}
