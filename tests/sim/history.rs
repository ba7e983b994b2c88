//! What a subscription that asked for history may begin with, and what has to be marked as initial.
//!
//! When the worker took the request is not known: not before the client asked, and not after it
//! read the answer. So the worker's head then lies between two numbers, and what is owed follows
//! from both: at the most what the newest head allows, and nothing older than the oldest one does.

use fanfare::config::Overflow;

use crate::model::{Ask, Facts, Told};

/// One subscription's history.
#[derive(Debug)]
pub(crate) struct History {
    /// The worker that serves it.
    worker: usize,
    channel: usize,
    /// So many of the newest.
    count: usize,
    /// The worker's head when the client asked and when it read that it is served.
    asked_at: u64,
    read_at: u64,
    /// Nothing of it has been given yet, nor a gap in it.
    is_unbegun: bool,
    /// A publication without the mark has come.
    is_over: bool,
}

impl History {
    /// What an ask has as its history, if it asks for one.
    pub(crate) fn new(
        worker: usize,
        ask: Ask,
        asked_at: u64,
        channel: usize,
        facts: &Facts,
    ) -> Option<Self> {
        let count = match ask {
            Ask::First => usize::MAX,
            Ask::Last(count) => count as usize,
            Ask::After(_) | Ask::Foreign | Ask::Nonsense | Ask::Now => return None,
        };
        Some(Self {
            worker,
            channel,
            count,
            asked_at,
            read_at: facts.logs[worker].head,
            is_unbegun: true,
            is_over: false,
        })
    }

    /// Whether nothing has come of it yet.
    pub(crate) fn is_unbegun(&self) -> bool {
        self.is_unbegun
    }

    /// Up to here nothing is owed: it is older than what was asked for, or has left the log before
    /// any was given.
    pub(crate) fn excused(&self, facts: &Facts) -> u64 {
        // What it began with may be void.
        if facts.epochs.has_one_after(self.asked_at) {
            return self.read_at;
        }
        if !self.is_unbegun {
            return 0;
        }
        let kept = facts.between(self.channel, 0, self.read_at);
        let too_old = kept.iter().rev().nth(self.count).copied();
        let evicted = facts.logs[self.worker].evicted[self.channel].min(self.read_at);
        evicted.max(too_old.unwrap_or_default())
    }

    /// The subscription begins here: nothing that was asked for lies before it.
    pub(crate) fn check_start(&self, position: u64, facts: &Facts) {
        let before = facts.between(self.channel, 0, position).last().copied();
        let excused = self.excused(facts);
        assert!(
            before.unwrap_or_default() <= excused,
            "{self:?} begins after {before:?} although the log has what follows {excused}"
        );
    }

    /// A publication came, with the mark or without it.
    pub(crate) fn deliver(&mut self, sequence: u64, mark: Option<bool>, facts: &Facts) {
        let newer = facts.between(self.channel, sequence, self.asked_at).len();
        assert!(
            sequence > self.asked_at || newer < self.count,
            "{sequence} is none of the newest: {self:?}"
        );
        self.is_unbegun = false;
        let Some(mark) = mark else {
            return;
        };
        assert!(
            mark || sequence > self.asked_at,
            "{sequence} was in the log and has no mark: {self:?}"
        );
        assert!(
            !mark || (sequence <= self.read_at && !self.is_over),
            "{sequence} was not in the log and has the mark: {self:?}"
        );
        self.is_over |= !mark;
    }

    /// A gap came. What was in the log is no loss before any of it is given; but it may have been
    /// stepped over as superseded, or skipped with what followed it, and a loss after that decides
    /// about the cause of both.
    pub(crate) fn gap(&mut self, told: &Told, facts: &Facts) {
        let newest = facts.between(self.channel, 0, self.asked_at).last();
        let conflates = facts.rules[self.channel].overflow == Overflow::Conflate;
        let is_of_history = newest.is_some_and(|newest| told.until < *newest);
        assert!(
            !self.is_unbegun || conflates || told.cause != "expired" || !is_of_history,
            "{told:?} before its history: {self:?}"
        );
        self.is_unbegun = false;
    }
}
