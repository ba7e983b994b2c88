//! Gaps as they were told, and where a subscription may begin.
//!
//! What any gap has to be true to, whether it is found on joining or later. [`crate::model`] has
//! what else holds for a connection.

use fanfare::id::Cursor;

use crate::model::{Ask, Facts, LogFacts, Seen};

/// A gap as it was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) channel: usize,
    pub(crate) since: Option<String>,
    pub(crate) until: u64,
    pub(crate) missed: Option<u64>,
    pub(crate) cause: String,
}

impl Told {
    /// Where it begins, if that is a position of a known epoch.
    pub(crate) fn begins(&self, facts: &Facts) -> Option<u64> {
        let since: Option<Cursor> = self.since.as_ref()?.parse().ok();
        facts.epochs.position(since?)
    }

    /// What lies in it. Up to where the next epoch begins nothing is in it that is void.
    pub(crate) fn missing<'f>(&self, since: u64, facts: &'f Facts) -> &'f [u64] {
        let until = facts.epochs.last_before(self.until);
        facts.ever_between(self.channel, since, until)
    }

    /// A gap that begins at a void position ends where the next epoch begins, or later, and says
    /// why. There is none where nothing was void. The one of an answer may be cut at its position.
    pub(crate) fn check_void(&self, answer: Option<u64>, facts: &Facts) {
        let Some(since) = self.begins(facts) else {
            return;
        };
        let restart = facts.epochs.restart(since);
        let passes = restart.is_some_and(|restart| self.until >= restart);
        let is_cut = restart.is_some() && answer == Some(self.until);
        match self.cause.as_str() {
            // It may join one of what comes before, of a subscription that had passed over that.
            "restart" => {
                let void = facts.ever_between(self.channel, since, self.until);
                let mut void = void.iter().filter(|s| facts.epochs.restart(**s).is_some());
                let is_of_nothing = !passes && !is_cut && void.next().is_none();
                assert!(!is_of_nothing, "{self:?} at a position that is valid");
            }
            _ => assert!(!passes, "{self:?} passes over a new epoch"),
        }
    }

    pub(crate) fn seen(&self, facts: &Facts) -> Seen {
        Seen::Gap {
            channel: self.channel,
            since: self.begins(facts),
            until: self.until,
        }
    }

    /// A gap because of a position that is of no use ends where the cause says. What the log has of
    /// this epoch is not missing to a client that comes from another one.
    pub(crate) fn check_foreign_end(&self, at: u64, log: &LogFacts, facts: &Facts) {
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

/// Whether a subscription at a worker that asked for something may start here, and so.
pub(crate) fn check_start(
    worker: usize,
    ask: Ask,
    asked_at: u64,
    position: u64,
    gap: Option<&Told>,
    facts: &Facts,
) {
    let log = &facts.logs[worker];
    let at = (ask, position, gap);
    let Some(told) = gap else {
        return match ask {
            Ask::After(since) => assert_eq!(position, since, "{at:?}: not where it asked"),
            Ask::Foreign | Ask::Nonsense => panic!("{at:?}: no gap"),
            Ask::Now => assert!((asked_at..=log.head).contains(&position), "{at:?}"),
            // Its history says where.
            Ask::First | Ask::Last(_) => assert!(position <= log.head, "{at:?}"),
        };
    };
    assert_eq!(told.until, position, "{at:?}: goes on elsewhere");
    assert_eq!(told.missed, None, "{at:?}: cannot be known");
    match ask {
        Ask::After(since) => {
            told.check_void(None, facts);
            assert_eq!(told.since, Some(facts.id(since)), "{at:?}");
            let is_start = facts.epochs.is_beginning(position);
            let is_evicted = position <= log.evicted_of_any() || is_start;
            match told.cause.as_str() {
                "restart" => {
                    let is_void = facts.epochs.restart(since).is_some();
                    let evicted = log.evicted[told.channel];
                    let newest = facts.first_newest(log, told.channel, evicted, position);
                    assert!(is_void && (is_evicted || newest.is_none()), "{at:?}");
                }
                cause => {
                    assert_eq!(cause, "expired", "{at:?}");
                    assert!(since < position && is_evicted, "{at:?}");
                }
            }
        }
        Ask::Nonsense if told.cause == "restart" => {
            // Its epoch was the newest when it asked.
            assert!(facts.epochs.have_changed(), "{at:?}");
        }
        Ask::Foreign | Ask::Nonsense => {
            assert_eq!(Some(&*told.cause), ask.foreign_cause(), "{at:?}");
            told.check_foreign_end(asked_at, log, facts);
        }
        Ask::First | Ask::Last(_) | Ask::Now => panic!("{at:?}: a gap before it begins"),
    }
}
