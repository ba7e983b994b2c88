//! The permissions of one worker's conns, and the expiry of these permissions.
//!
//! The permissions are in a separate table, so that a conn without a token needs no entry. An entry
//! is added when a token is accepted, or when the server starts to wait for a token. The worker
//! removes the entry when the conn is no longer served.
//!
//! A token expires by the wall clock. This clock can be set, and it advances while the machine is
//! suspended. Timers run on the worker's clock. [`Calendar`] converts between the two clocks.
//! [`Access::renew`] reports whether timers must be armed again.
//!
//! `http` reads the table. The state machine of a conn changes the entry of its own conn
//! immediately. So a token already applies to a command that follows the token in the same packet.

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

/// The permissions of one worker's conns. The default value has no keys, so it requires no tokens.
#[derive(Debug, Default)]
pub struct Access {
    verifier: Option<Arc<Verifier>>,
    calendar: Calendar,
    /// The current time of the worker's clock. Tokens are verified at this time.
    now: Now,
    /// The state of each conn's token. The key is the conn's slot, which is its index in the
    /// worker's table. The states are boxed to keep the nodes of the map small.
    by_slot: BTreeMap<u32, Box<TokenState>>,
}

#[derive(Debug)]
enum TokenState {
    /// The conn's token was accepted.
    Granted {
        grant: Grant,
        /// The time at which the client is warned of the expiry, as the time since 1970. `None` if
        /// the warning was already sent, or if the client receives no warning.
        warns: Option<Duration>,
        /// The time at which the client last sent a token over the open connection.
        refreshed: Option<Now>,
        /// Whether reports to backends about the conn contain the token's subject. False until all
        /// commands that the client sent before its first token are done.
        is_reported: bool,
    },
    /// The conn must show a token before the deadline `until`. `join` is the subscription that the
    /// client has requested. It is made after the token is accepted.
    Waiting { join: Join, until: Deadline },
}

/// Whether a client receives a warning before its token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The client is warned, because it can send a new token.
    Ahead,
    /// The client is not warned, because the transport has no warnings or the client cannot send a
    /// new token.
    None,
}

/// The event that a token's timer causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The client did not send a token before the deadline.
    Late,
    /// The token has expired.
    Over,
    /// The token will expire after this duration, and the client must be warned now.
    Soon(Duration),
}

/// The result of a valid token that a client sends over its open connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// The server was waiting for the conn's first token. Now it makes this subscription, which the
    /// client has requested earlier.
    First(Join),
    /// The permissions of this token replace the permissions of the conn's previous token, if any.
    Next,
}

/// The reason to refuse a token that a client sends over its open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowError {
    /// The server has no keys, so it accepts no tokens.
    Off,
    /// The token's subject differs from the subject of the previous token.
    OtherSub,
    /// The token is invalid.
    Token(TokenError),
    /// The client sent its previous token less than a second ago.
    TooSoon,
}

impl Access {
    /// Sets the keys and the time for later verifications. Returns true if timers may fire too
    /// late, because the wall clock has advanced more than the worker's clock. The caller must then
    /// arm the timers again, at the times that [`Access::dues`] returns.
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

    /// Sets the current time of the worker's clock. Tokens are verified at this time.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Whether the table has no entries. A conn has an entry if it has a token or must show a
    /// token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// Returns the time of the next event of each token, with the slot of the token's conn. An
    /// event is the warning, the expiry, or the end of the wait for a token.
    pub fn dues(&self) -> impl Iterator<Item = (u32, Deadline)> {
        let tokens = self.by_slot.iter();
        tokens.map(|(slot, state)| (*slot, self.due(state)))
    }

    /// Whether the server has keys, so that tokens are required.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.verifier.is_some()
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// Returns the reason to refuse the token.
    pub fn verify(&self, token: &str) -> Result<Grant, TokenError> {
        let verifier = self.verifier.as_ref().ok_or(TokenError::Algorithm)?;
        verifier.verify(token, self.calendar.unix_s(self.now))
    }

    /// Stores the permissions of a conn whose token was accepted.
    pub fn admit(&mut self, slot: u32, grant: Grant, warning: Warning, now: Now) {
        let granted = self.granted(grant, warning, now, None);
        self.by_slot.insert(slot, Box::new(granted));
    }

    /// Registers that a conn must show a token before the deadline `until`. The subscription `join`
    /// is made after the token is accepted.
    pub fn await_token(&mut self, slot: u32, join: Join, until: Deadline) {
        let waiting = TokenState::Waiting { join, until };
        self.by_slot.insert(slot, Box::new(waiting));
    }

    /// Accepts a token that a client sends over its open connection.
    ///
    /// # Errors
    /// Returns the reason to refuse the token. The conn then keeps its previous permissions.
    pub fn show(&mut self, slot: u32, token: &str, now: Now) -> Result<Shown, ShowError> {
        if !self.is_on() {
            return Err(ShowError::Off);
        }
        let state = self.by_slot.get(&slot).map(|state| &**state);
        if let Some(TokenState::Granted { refreshed, .. }) = state
            && refreshed
                .is_some_and(|last| now.since(last) < Duration::from_millis(TOKEN_REFRESH_MS_MIN))
        {
            // Each verification costs CPU time. Without this limit, tokens of one client could use
            // up the time of the worker.
            return Err(ShowError::TooSoon);
        }
        let grant = self.verify(token).map_err(ShowError::Token)?;
        if let Some(TokenState::Granted { grant: before, .. }) = state
            && before.sub != grant.sub
        {
            return Err(ShowError::OtherSub);
        }
        let mut granted = self.granted(grant, Warning::Ahead, now, Some(now));
        if let (None, TokenState::Granted { is_reported, .. }) = (state, &mut granted) {
            *is_reported = false;
        }
        let before = self.by_slot.insert(slot, Box::new(granted));
        match before.map(|before| *before) {
            Some(TokenState::Waiting { join, .. }) => Ok(Shown::First(join)),
            Some(TokenState::Granted { .. }) | None => Ok(Shown::Next),
        }
    }

    /// Whether the server still waits for the conn's first token.
    #[must_use]
    pub fn is_waiting(&self, slot: u32) -> bool {
        let state = self.by_slot.get(&slot);
        state.is_some_and(|state| matches!(**state, TokenState::Waiting { .. }))
    }

    /// Whether a conn may subscribe to a channel.
    #[must_use]
    pub fn may_subscribe(&self, slot: u32, channel: &ChannelName, config: &Config) -> bool {
        let grant = self.grant(slot);
        grant.is_some_and(|grant| grant.may_subscribe(channel)) || config.is_open(channel)
    }

    /// Whether the token of a conn allows publishing to a channel. True if no token is required.
    #[must_use]
    pub fn may_publish(&self, slot: u32, channel: &ChannelName) -> bool {
        let grant = self.grant(slot);
        !self.is_on() || grant.is_some_and(|grant| grant.may_publish(channel))
    }

    /// Makes all later reports to backends about a conn contain the token's subject. The worker
    /// calls this function after the commands that preceded the conn's first token are done.
    pub fn start_reporting(&mut self, slot: u32) {
        let state = self.by_slot.get_mut(&slot).map(|state| &mut **state);
        if let Some(TokenState::Granted { is_reported, .. }) = state {
            *is_reported = true;
        }
    }

    /// Returns the token's subject for reports to backends about a conn. `None` if the token has no
    /// subject, or if the reports must not contain it yet.
    #[must_use]
    pub fn sub(&self, slot: u32) -> Option<Arc<str>> {
        match &**self.by_slot.get(&slot)? {
            TokenState::Granted {
                grant,
                is_reported: true,
                ..
            } => grant.sub.clone(),
            TokenState::Granted { .. } | TokenState::Waiting { .. } => None,
        }
    }

    /// Returns the time of the next event of a conn's token.
    #[must_use]
    pub fn next_due(&self, slot: u32) -> Option<Deadline> {
        self.by_slot.get(&slot).map(|state| self.due(state))
    }

    /// Returns what has become due for a conn's token: the warning, the expiry, or the end of the
    /// wait for a token. Returns `None` if nothing is due. The warning is returned only once.
    pub fn take_due(&mut self, slot: u32, now: Now) -> Option<Due> {
        let calendar = &self.calendar;
        match &mut **self.by_slot.get_mut(&slot)? {
            TokenState::Granted { grant, warns, .. } => {
                let ends = calendar.deadline(grant.ends());
                if now.has_reached(ends) {
                    return Some(Due::Over);
                }
                warns.take_if(|warns| now.has_reached(calendar.deadline(*warns)))?;
                Some(Due::Soon(ends.remaining(now)))
            }
            TokenState::Waiting { until, .. } => now.has_reached(*until).then_some(Due::Late),
        }
    }

    /// Returns the slots of the conns whose token has this subject.
    #[must_use]
    pub fn slots_of(&self, sub: &str) -> Vec<u32> {
        let has_sub = |state: &TokenState| match state {
            TokenState::Granted { grant, .. } => grant.sub.as_deref() == Some(sub),
            TokenState::Waiting { .. } => false,
        };
        let tokens = self.by_slot.iter().filter(|(_, state)| has_sub(state));
        tokens.map(|(slot, _)| *slot).collect()
    }

    /// Removes the entry of a conn.
    pub fn forget(&mut self, slot: u32) {
        if !self.by_slot.is_empty() {
            self.by_slot.remove(&slot);
        }
    }

    fn grant(&self, slot: u32) -> Option<&Grant> {
        match &**self.by_slot.get(&slot)? {
            TokenState::Granted { grant, .. } => Some(grant),
            TokenState::Waiting { .. } => None,
        }
    }

    fn granted(
        &self,
        grant: Grant,
        warning: Warning,
        now: Now,
        refreshed: Option<Now>,
    ) -> TokenState {
        let left = self.calendar.deadline(grant.ends()).remaining(now);
        // If the token expires soon, the warning is sent after half of the remaining time, not
        // immediately.
        let ahead = Duration::from_millis(TOKEN_WARNING_MS).min(left / 2);
        let warns = match warning {
            Warning::Ahead => Some(grant.ends().saturating_sub(ahead)),
            Warning::None => None,
        };
        TokenState::Granted {
            grant,
            warns,
            refreshed,
            is_reported: true,
        }
    }

    fn due(&self, state: &TokenState) -> Deadline {
        match state {
            TokenState::Granted { grant, warns, .. } => self
                .calendar
                .deadline(warns.unwrap_or_else(|| grant.ends())),
            TokenState::Waiting { until, .. } => *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, TokenSpec, mint};
    use crate::config::{Algorithm, TokenRules};
    use crate::effect::Origin;
    use crate::id::Since;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW_S: u64 = 1_800_000_000;

    fn token(sub: &str, seconds: u64) -> String {
        let spec = TokenSpec {
            sub: Some(sub.into()),
            subscribe: vec!["a".into()],
            publish: vec!["b".into()],
            expires_s: NOW_S + seconds,
            ..TokenSpec::default()
        };
        mint(Algorithm::Hs256, SECRET, &spec).unwrap()
    }

    fn access() -> Access {
        let key = Key::new(Algorithm::Hs256, SECRET).unwrap();
        let verifier = Verifier::new(vec![key], TokenRules::default()).unwrap();
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
    fn no_token_is_required_without_keys() {
        let mut access = Access::default();
        let channel = ChannelName::new("a").unwrap();
        assert!(access.may_subscribe(0, &channel, &Config::default()));
        assert!(access.may_publish(0, &channel));
        assert_eq!(access.show(0, "x", at(0)), Err(ShowError::Off));
        assert_eq!(access.next_due(0), None);
    }

    #[test]
    fn token_is_warned_of_once_and_then_expires() {
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
    fn short_lived_token_is_warned_of_at_half_of_its_life_or_never_without_a_warning() {
        let mut access = access();
        let grant = access.verify(&token("u", 5)).unwrap();
        access.admit(1, grant.clone(), Warning::Ahead, at(0));
        access.admit(2, grant, Warning::None, at(0));
        assert_eq!(access.next_due(1), Some(Deadline(2_500_000)));
        assert_eq!(access.next_due(2), Some(Deadline(5_000_000)));
    }

    #[test]
    fn token_expires_by_the_wall_clock_when_that_is_set() {
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
        // The wall clock is set back by an hour, so the token expires an hour later.
        assert!(!renew(&mut access, NOW_S - 3580, 20));
        assert_eq!(dues(&access), [3_700_000_000, 60_000_000]);
        assert_eq!(access.take_due(1, at(100)), None);
        // The wall clock has advanced more than the worker's clock, as after a suspension. So
        // timers would fire too late.
        assert!(renew(&mut access, NOW_S + 99, 30));
        assert_eq!(dues(&access), [31_000_000, 60_000_000]);
        assert_eq!(access.take_due(1, at(30)), None);
        assert!(renew(&mut access, NOW_S + 1000, 30));
        assert_eq!(access.take_due(1, at(30)), Some(Due::Over));
        assert_eq!(access.take_due(2, at(30)), None);
    }

    #[test]
    fn awaited_token_returns_the_join() {
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
    fn next_token_must_have_the_same_sub_and_not_come_at_once() {
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
    fn subject_is_reported_after_the_token_was_shown() {
        let mut access = access();
        let grant = access.verify(&token("u", 60)).unwrap();
        access.admit(1, grant, Warning::None, at(0));
        assert_eq!(access.sub(1).as_deref(), Some("u"));
        // While the server waits for a token, it accepts no command. So no command precedes the
        // first token, and the subject is reported immediately.
        access.await_token(2, join(), Deadline(10_000_000));
        assert_eq!(access.sub(2), None);
        assert!(access.show(2, &token("v", 60), at(0)).is_ok());
        assert_eq!(access.sub(2).as_deref(), Some("v"));
        // The server was not waiting for this token, so commands that the client sent before the
        // token may be unfinished. Until they are done, reports to backends lack the subject.
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
