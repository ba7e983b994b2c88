//! What the conns of one worker may do, and until when.
//!
//! A table beside the conns, so that one without a token owns nothing here: an entry comes when a
//! token is taken, or is awaited, and goes when the conn is served no more. A token ends by the
//! calendar, which may be set and goes on while the machine is suspended; timers run on the
//! worker's clock. So [`Calendar`] converts, and [`Access::renew`] reports when timers have to be
//! brought forward. Asked by `http`, the transports and the machine through their context; filled
//! by them too, so that a command behind a token in the same packet is already held to it. The
//! worker clears it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::calendar::Calendar;
use super::grant::Grant;
use super::verify::{TokenError, Verifier};
use crate::config::Config;
use crate::config::limits::{TOKEN_REFRESH_MS_MIN, TOKEN_WARNING_MS};
use crate::effect::Join;
use crate::id::ChannelName;
use crate::time::{Deadline, Now};

/// What one worker knows of tokens. The default asks nobody for one.
#[derive(Debug, Default)]
pub struct Access {
    verifier: Option<Arc<Verifier>>,
    calendar: Calendar,
    /// The worker's time, by which tokens are verified.
    now: Now,
    /// By slot. Boxed, so that the tree's nodes stay small.
    held: BTreeMap<u32, Box<Held>>,
}

#[derive(Debug)]
enum Held {
    /// A token has been taken.
    Granted {
        grant: Grant,
        /// When the client receives the expiry warning, since 1970; `None` after that, or if the
        /// transport has none.
        warns: Option<Duration>,
        /// When it was last shown in band.
        refreshed: Option<Now>,
        /// Whether reports carry its subject. False until what the client asked for before it
        /// showed its first token is done.
        is_reported: bool,
    },
    /// A token is awaited, and with it what was asked for.
    Waiting { join: Join, until: Deadline },
}

/// Whether a client is told ahead that its token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// It can show another one.
    Ahead,
    /// It cannot be told, or could do nothing about it.
    None,
}

/// What is due with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// None has come in time.
    Late,
    /// It has ended.
    Over,
    /// It ends soon.
    Soon(Duration),
}

/// What a token that was shown in band has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// It was awaited, with this.
    First(Join),
    /// The conn goes on under it.
    Next,
}

/// Why a token that was shown in band is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowError {
    /// Nobody is asked for one.
    Off,
    /// It is about somebody else than the one before.
    OtherSub,
    /// It is no good.
    Token(TokenError),
    /// The one before was shown only just now.
    TooSoon,
}

impl Access {
    /// Takes keys and time for what is decided from now on. True if the calendar has gone ahead of
    /// the worker's clock, so that [`Access::dues`] come before the timers that are set for them.
    pub fn renew(
        &mut self,
        verifier: Option<Arc<Verifier>>,
        since_1970: Duration,
        now: Now,
    ) -> bool {
        self.verifier = verifier;
        self.now = now;
        self.calendar.read(since_1970, now)
    }

    /// The worker's time has gone on.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Whether any conn has a token or has to show one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When something is due next with each token, by slot.
    pub fn dues(&self) -> impl Iterator<Item = (u32, Deadline)> {
        let held = self.held.iter();
        held.map(|(slot, held)| (*slot, self.due(held)))
    }

    /// Whether anybody is asked for a token.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.verifier.is_some()
    }

    /// Decides about a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str) -> Result<Grant, TokenError> {
        let verifier = self.verifier.as_ref().ok_or(TokenError::Algorithm)?;
        verifier.verify(token, self.calendar.unix_s(self.now))
    }

    /// Lets the conn in a slot do what its token says.
    pub fn admit(&mut self, slot: u32, grant: Grant, warning: Warning, now: Now) {
        let granted = self.granted(grant, warning, now, None);
        self.held.insert(slot, Box::new(granted));
    }

    /// Has the conn in a slot show a token before it gets what it asked for.
    pub fn await_token(&mut self, slot: u32, join: Join, until: Deadline) {
        let waiting = Held::Waiting { join, until };
        self.held.insert(slot, Box::new(waiting));
    }

    /// Takes a token that the conn in a slot shows in band.
    ///
    /// # Errors
    /// Why it is not taken. What was before still holds.
    pub fn show(&mut self, slot: u32, token: &str, now: Now) -> Result<Shown, ShowError> {
        if !self.is_on() {
            return Err(ShowError::Off);
        }
        let held = self.held.get(&slot).map(|held| &**held);
        if let Some(Held::Granted { refreshed, .. }) = held
            && refreshed
                .is_some_and(|last| now.since(last) < Duration::from_millis(TOKEN_REFRESH_MS_MIN))
        {
            // Who may have a signature verified as often as he likes may stop the worker.
            return Err(ShowError::TooSoon);
        }
        let grant = self.verify(token).map_err(ShowError::Token)?;
        if let Some(Held::Granted { grant: before, .. }) = held
            && before.sub != grant.sub
        {
            return Err(ShowError::OtherSub);
        }
        let mut granted = self.granted(grant, Warning::Ahead, now, Some(now));
        if let (None, Held::Granted { is_reported, .. }) = (held, &mut granted) {
            *is_reported = false;
        }
        let before = self.held.insert(slot, Box::new(granted));
        match before.map(|before| *before) {
            Some(Held::Waiting { join, .. }) => Ok(Shown::First(join)),
            Some(Held::Granted { .. }) | None => Ok(Shown::Next),
        }
    }

    /// Whether the conn in a slot has yet to show a token.
    #[must_use]
    pub fn is_waiting(&self, slot: u32) -> bool {
        let held = self.held.get(&slot);
        held.is_some_and(|held| matches!(**held, Held::Waiting { .. }))
    }

    /// Whether the conn in a slot may subscribe to a channel.
    #[must_use]
    pub fn may_subscribe(&self, slot: u32, channel: &ChannelName, config: &Config) -> bool {
        let grant = self.grant(slot);
        grant.is_some_and(|grant| grant.may_subscribe(channel)) || config.is_open(channel)
    }

    /// Whether the token of the conn in a slot, if one is needed, lets it publish to a channel.
    #[must_use]
    pub fn may_publish(&self, slot: u32, channel: &ChannelName) -> bool {
        let grant = self.grant(slot);
        !self.is_on() || grant.is_some_and(|grant| grant.may_publish(channel))
    }

    /// What the conn in a slot asked for before it showed its token is done.
    pub fn start_reporting(&mut self, slot: u32) {
        let held = self.held.get_mut(&slot).map(|held| &mut **held);
        if let Some(Held::Granted { is_reported, .. }) = held {
            *is_reported = true;
        }
    }

    /// The subject that reports about the conn in a slot carry.
    #[must_use]
    pub fn sub(&self, slot: u32) -> Option<Arc<str>> {
        match &**self.held.get(&slot)? {
            Held::Granted {
                grant,
                is_reported: true,
                ..
            } => grant.sub.clone(),
            Held::Granted { .. } | Held::Waiting { .. } => None,
        }
    }

    /// When something is due with the token of the conn in a slot.
    #[must_use]
    pub fn next_due(&self, slot: u32) -> Option<Deadline> {
        self.held.get(&slot).map(|held| self.due(held))
    }

    /// What is due with the token of the conn in a slot. A warning is due once.
    pub fn take_due(&mut self, slot: u32, now: Now) -> Option<Due> {
        let calendar = &self.calendar;
        match &mut **self.held.get_mut(&slot)? {
            Held::Granted { grant, warns, .. } => {
                let ends = calendar.deadline(grant.ends());
                if now.has_reached(ends) {
                    return Some(Due::Over);
                }
                warns.take_if(|warns| now.has_reached(calendar.deadline(*warns)))?;
                Some(Due::Soon(ends.remaining(now)))
            }
            Held::Waiting { until, .. } => now.has_reached(*until).then_some(Due::Late),
        }
    }

    /// The slots of the conns whose token is about somebody.
    #[must_use]
    pub fn slots_of(&self, sub: &str) -> Vec<u32> {
        let has_sub = |held: &Held| match held {
            Held::Granted { grant, .. } => grant.sub.as_deref() == Some(sub),
            Held::Waiting { .. } => false,
        };
        let held = self.held.iter().filter(|(_, held)| has_sub(held));
        held.map(|(slot, _)| *slot).collect()
    }

    /// The conn in a slot is served no more.
    pub fn forget(&mut self, slot: u32) {
        if !self.held.is_empty() {
            self.held.remove(&slot);
        }
    }

    fn grant(&self, slot: u32) -> Option<&Grant> {
        match &**self.held.get(&slot)? {
            Held::Granted { grant, .. } => Some(grant),
            Held::Waiting { .. } => None,
        }
    }

    fn granted(&self, grant: Grant, warning: Warning, now: Now, refreshed: Option<Now>) -> Held {
        let left = self.calendar.deadline(grant.ends()).remaining(now);
        // Half of a short time is better than a warning that comes with the token.
        let ahead = Duration::from_millis(TOKEN_WARNING_MS).min(left / 2);
        let warns = match warning {
            Warning::Ahead => Some(grant.ends().saturating_sub(ahead)),
            Warning::None => None,
        };
        Held::Granted {
            grant,
            warns,
            refreshed,
            is_reported: true,
        }
    }

    fn due(&self, held: &Held) -> Deadline {
        match held {
            Held::Granted { grant, warns, .. } => self
                .calendar
                .deadline(warns.unwrap_or_else(|| grant.ends())),
            Held::Waiting { until, .. } => *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Algorithm, Key, Terms, Wish, mint};
    use crate::effect::Origin;
    use crate::id::Since;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW_S: u64 = 1_800_000_000;

    fn token(sub: &str, seconds: u64) -> String {
        let wish = Wish {
            sub: Some(sub.into()),
            subscribe: vec!["a".into()],
            publish: vec!["b".into()],
            expires_s: NOW_S + seconds,
            ..Wish::default()
        };
        mint(Algorithm::Hs256, SECRET, &wish).unwrap()
    }

    fn access() -> Access {
        let key = Key::new(Algorithm::Hs256, SECRET).unwrap();
        let verifier = Verifier::new(vec![key], Terms::default()).unwrap();
        let mut access = Access::default();
        access.renew(Some(Arc::new(verifier)), Duration::from_secs(NOW_S), at(0));
        access
    }

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000)
    }

    fn join() -> Join {
        Join {
            channels: Vec::new(),
            since: Since::Now,
            window: None,
            origin: Origin::Request,
        }
    }

    #[test]
    fn nobody_is_asked_without_keys() {
        let mut access = Access::default();
        let channel = ChannelName::new("a").unwrap();
        assert!(access.may_subscribe(0, &channel, &Config::default()));
        assert!(access.may_publish(0, &channel));
        assert_eq!(access.show(0, "x", at(0)), Err(ShowError::Off));
        assert_eq!(access.next_due(0), None);
    }

    #[test]
    fn token_is_warned_of_once_and_then_over() {
        let mut access = access();
        let grant = access.verify(&token("u", 100)).unwrap();
        access.admit(3, grant, Warning::Ahead, at(10));
        assert_eq!(access.next_due(3), Some(Deadline(70_000_000)));
        assert_eq!(access.take_due(3, at(69)), None);
        let left = Duration::from_secs(30);
        assert_eq!(access.take_due(3, at(70)), Some(Due::Soon(left)));
        assert_eq!(access.take_due(3, at(71)), None);
        assert_eq!(access.next_due(3), Some(Deadline(100_000_000)));
        assert_eq!(access.take_due(3, at(100)), Some(Due::Over));
        access.forget(3);
        assert_eq!(access.take_due(3, at(100)), None);
    }

    #[test]
    fn short_token_is_warned_of_in_its_middle_and_a_silent_one_never() {
        let mut access = access();
        let grant = access.verify(&token("u", 5)).unwrap();
        access.admit(1, grant.clone(), Warning::Ahead, at(0));
        access.admit(2, grant, Warning::None, at(0));
        assert_eq!(access.next_due(1), Some(Deadline(2_500_000)));
        assert_eq!(access.next_due(2), Some(Deadline(5_000_000)));
    }

    #[test]
    fn token_ends_by_the_calendar_when_that_is_set() {
        let mut access = access();
        let grant = access.verify(&token("u", 100)).unwrap();
        access.admit(1, grant, Warning::None, at(0));
        access.await_token(2, join(), Deadline(60_000_000));
        let renew = |access: &mut Access, unix_s, seconds| {
            let verifier = access.verifier.clone();
            access.renew(verifier, Duration::from_secs(unix_s), at(seconds))
        };
        let dues = |access: &Access| access.dues().map(|(_, due)| due.0).collect::<Vec<_>>();
        assert!(!renew(&mut access, NOW_S + 10, 10));
        assert_eq!(dues(&access), [100_000_000, 60_000_000]);
        // Set back by an hour, it lasts for an hour longer, and timers may fire early.
        assert!(!renew(&mut access, NOW_S - 3580, 20));
        assert_eq!(dues(&access), [3_700_000_000, 60_000_000]);
        assert_eq!(access.take_due(1, at(100)), None);
        // Set ahead, or after a suspension, timers are late.
        assert!(renew(&mut access, NOW_S + 99, 30));
        assert_eq!(dues(&access), [31_000_000, 60_000_000]);
        assert_eq!(access.take_due(1, at(30)), None);
        assert!(renew(&mut access, NOW_S + 1000, 30));
        assert_eq!(access.take_due(1, at(30)), Some(Due::Over));
        assert_eq!(access.take_due(2, at(30)), None);
    }

    #[test]
    fn awaited_token_brings_what_was_asked_for() {
        let mut access = access();
        access.await_token(1, join(), Deadline(10_000_000));
        assert!(access.is_waiting(1));
        assert_eq!(access.take_due(1, at(9)), None);
        assert_eq!(access.take_due(1, at(10)), Some(Due::Late));
        let shown = access.show(1, &token("u", 60), at(9));
        assert_eq!(shown, Ok(Shown::First(join())));
        assert!(!access.is_waiting(1));
        let channel = |name| ChannelName::new(name).unwrap();
        let config = Config::default();
        assert!(access.may_subscribe(1, &channel("a"), &config));
        assert!(access.may_publish(1, &channel("b")) && !access.may_publish(1, &channel("a")));
        assert!(!access.may_publish(2, &channel("b")));
    }

    #[test]
    fn token_is_followed_by_one_of_the_same_sub_and_not_at_once() {
        let mut access = access();
        assert_eq!(access.show(1, &token("u", 60), at(0)), Ok(Shown::Next));
        let again = access.show(1, &token("u", 90), at(0));
        assert_eq!(again, Err(ShowError::TooSoon));
        let other = access.show(1, &token("v", 90), at(2));
        assert_eq!(other, Err(ShowError::OtherSub));
        assert_eq!(access.show(1, &token("u", 90), at(2)), Ok(Shown::Next));
        assert_eq!(access.next_due(1), Some(Deadline(60_000_000)));
        let bad = access.show(1, "x", at(4));
        assert_eq!(bad, Err(ShowError::Token(TokenError::Malformed)));
    }

    #[test]
    fn subject_is_reported_from_when_the_token_was_shown() {
        let mut access = access();
        let grant = access.verify(&token("u", 60)).unwrap();
        access.admit(1, grant, Warning::None, at(0));
        assert_eq!(access.sub(1).as_deref(), Some("u"));
        // Nothing but the token was heard of a conn that awaits one.
        access.await_token(2, join(), Deadline(10_000_000));
        assert_eq!(access.sub(2), None);
        assert!(access.show(2, &token("v", 60), at(0)).is_ok());
        assert_eq!(access.sub(2).as_deref(), Some("v"));
        // What another one asked for may still be under way.
        assert!(access.show(3, &token("w", 60), at(0)).is_ok());
        assert_eq!(access.sub(3), None);
        access.start_reporting(3);
        assert_eq!(access.sub(3).as_deref(), Some("w"));
        assert!(access.show(3, &token("w", 60), at(2)).is_ok());
        assert_eq!(access.sub(3).as_deref(), Some("w"));
        access.forget(3);
        assert_eq!(access.sub(3), None);
    }

    #[test]
    fn conns_are_found_by_sub() {
        let mut access = access();
        for (slot, sub) in [(7, "u"), (2, "v"), (5, "u")] {
            let grant = access.verify(&token(sub, 60)).unwrap();
            access.admit(slot, grant, Warning::None, at(0));
        }
        access.await_token(9, join(), Deadline(0));
        assert_eq!(access.slots_of("u"), [5, 7]);
        assert!(access.slots_of("w").is_empty());
    }
}
