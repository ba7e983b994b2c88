//! Gaps as clients read them, and the positions at which a subscription may begin.
//!
//! These checks apply to every gap, at the start of a subscription or later. [`crate::model`]
//! checks the other rules of a connection.

use fanfare::id::Cursor;

use crate::model::{Facts, LogFacts, Observation, Requested};

/// A gap as the client read it.
#[derive(Clone, Debug)]
pub(crate) struct ReportedGap {
    pub(crate) channel: usize,
    pub(crate) since: Option<String>,
    pub(crate) until: u64,
    pub(crate) missed: Option<u64>,
    pub(crate) cause: String,
}

impl ReportedGap {
    /// Returns the serial of the position at which the gap begins. Returns `None` if that position
    /// is missing or of an unknown epoch.
    pub(crate) fn begins(&self, facts: &Facts) -> Option<u64> {
        let since: Option<Cursor> = self.since.as_ref()?.parse().ok();
        facts.epochs.position(since?)
    }

    /// Returns the serials of the publications in the gap. If the gap ends where an epoch begins,
    /// the publications that this epoch change discarded are left out.
    pub(crate) fn missing<'f>(&self, since: u64, facts: &'f Facts) -> &'f [u64] {
        let until = facts.epochs.last_before(self.until);
        facts.ever_between(self.channel, since, until)
    }

    /// Checks the cause of a gap in a run with epoch changes. The cause is `restart` if an epoch
    /// change discarded the position at which the gap begins. Such a gap ends at the beginning of
    /// the next epoch, or later. A gap in a poll's answer may end earlier, at the answer's
    /// position.
    pub(crate) fn check_void(&self, answer: Option<u64>, facts: &Facts) {
        let Some(since) = self.begins(facts) else {
            return;
        };
        let restart = facts.epochs.restart(since);
        let passes = restart.is_some_and(|restart| self.until >= restart);
        let is_cut = restart.is_some() && answer == Some(self.until);
        match self.cause.as_str() {
            // The gap may also cover an earlier loss. It then begins before the discarded
            // publications.
            "restart" => {
                let void = facts.ever_between(self.channel, since, self.until);
                let mut void = void.iter().filter(|s| facts.epochs.restart(**s).is_some());
                let is_of_nothing = !passes && !is_cut && void.next().is_none();
                assert!(!is_of_nothing, "{self:?} at a position that is not void");
            }
            _ => assert!(!passes, "{self:?} passes over a new epoch"),
        }
    }

    pub(crate) fn observation(&self, facts: &Facts) -> Observation {
        Observation::Gap {
            channel: self.channel,
            since: self.begins(facts),
            until: self.until,
        }
    }

    /// Checks the end of a gap that was reported because the requested position was invalid or of
    /// another epoch. A client from another epoch must receive all publications of this epoch that
    /// the log still has.
    pub(crate) fn check_unusable_end(&self, at: u64, log: &LogFacts, facts: &Facts) {
        match self.cause.as_str() {
            "restart" if facts.epochs.have_changed() => assert!(self.until <= log.head, "{self:?}"),
            "restart" => {
                let evicted = log.evicted[self.channel];
                let newest = facts.first_newest(log, self.channel, evicted, self.until);
                assert_eq!(newest, None, "{self:?} is in the log");
                assert!(self.until <= log.head, "{self:?}");
            }
            _ => assert!((at..=log.head).contains(&self.until), "{self:?}"),
        }
    }
}

/// Checks the position at which a subscription starts, and the gap that the server reported for the
/// subscription, if any.
pub(crate) fn check_start(
    worker: usize,
    requested: Requested,
    requested_at: u64,
    position: u64,
    gap: Option<&ReportedGap>,
    facts: &Facts,
) {
    let log = &facts.logs[worker];
    let at = (requested, position, gap);
    let Some(gap) = gap else {
        return match requested {
            Requested::After(since) => assert_eq!(position, since, "{at:?}: not where it asked"),
            Requested::OtherEpoch | Requested::Invalid => panic!("{at:?}: no gap"),
            Requested::Now => assert!((requested_at..=log.head).contains(&position), "{at:?}"),
            // The module `history` checks that the subscription skips no requested publication.
            Requested::First | Requested::Last(_) => assert!(position <= log.head, "{at:?}"),
        };
    };
    assert_eq!(
        gap.until, position,
        "{at:?}: does not start where the gap ends"
    );
    assert_eq!(
        gap.missed, None,
        "{at:?}: a count that the server cannot know"
    );
    match requested {
        Requested::After(since) => {
            gap.check_void(None, facts);
            assert_eq!(gap.since, Some(facts.id(since)), "{at:?}");
            let is_start = facts.epochs.is_beginning(position);
            let is_evicted = position <= log.evicted_of_any() || is_start;
            match gap.cause.as_str() {
                "restart" => {
                    let is_void = facts.epochs.restart(since).is_some();
                    let evicted = log.evicted[gap.channel];
                    let newest = facts.first_newest(log, gap.channel, evicted, position);
                    assert!(is_void && (is_evicted || newest.is_none()), "{at:?}");
                }
                cause => {
                    assert_eq!(cause, "expired", "{at:?}");
                    assert!(since < position && is_evicted, "{at:?}");
                }
            }
        }
        Requested::Invalid if gap.cause == "restart" => {
            // The position was in the newest epoch when the client sent its request, so the epoch
            // must have changed afterwards.
            assert!(facts.epochs.have_changed(), "{at:?}");
        }
        Requested::OtherEpoch | Requested::Invalid => {
            assert_eq!(Some(&*gap.cause), requested.unusable_cause(), "{at:?}");
            gap.check_unusable_end(requested_at, log, facts);
        }
        Requested::First | Requested::Last(_) | Requested::Now => {
            panic!("{at:?}: a gap for no position")
        }
    }
}
