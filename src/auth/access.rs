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
//! `http` reads the table. The state machine of a conn uses [`super::ConnAccess`], which returns a
//! [`TokenChange`]. Only the worker changes the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::calendar::Calendar;
use super::grant::Grant;
use super::verify::{TokenError, Verifier};
use crate::config::Config;
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

/// The state of a conn's token.
#[derive(Debug)]
pub(super) enum TokenState {
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

/// The new state of a conn's token after a call of the conn's state machine. See
/// [`Access::store`].
#[derive(Debug)]
#[must_use]
pub struct TokenChange(pub(super) Box<TokenState>);

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

    /// Stores the new state of a conn's token.
    pub fn store(&mut self, slot: u32, change: TokenChange) {
        self.by_slot.insert(slot, change.0);
    }

    /// Returns the state of a conn's token.
    pub(super) fn state(&self, slot: u32) -> Option<&TokenState> {
        self.by_slot.get(&slot).map(|state| &**state)
    }

    /// Returns the deadline on the worker's clock for a time since 1970.
    pub(super) fn deadline(&self, since_1970: Duration) -> Deadline {
        self.calendar.deadline(since_1970)
    }

    /// Whether the token of a grant has expired.
    #[must_use]
    pub fn has_expired(&self, grant: &Grant, now: Now) -> bool {
        now.has_reached(self.deadline(grant.ends()))
    }

    /// Whether a conn may subscribe to a channel.
    #[must_use]
    pub fn may_subscribe(&self, slot: u32, channel: &ChannelName, config: &Config) -> bool {
        TokenState::may_subscribe(self.state(slot), channel, config)
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

    fn due(&self, state: &TokenState) -> Deadline {
        match state {
            TokenState::Granted { grant, warns, .. } => self
                .calendar
                .deadline(warns.unwrap_or_else(|| grant.ends())),
            TokenState::Waiting { until, .. } => *until,
        }
    }
}

impl TokenState {
    /// Whether a conn whose token has this state may subscribe to a channel.
    pub(super) fn may_subscribe(
        state: Option<&Self>,
        channel: &ChannelName,
        config: &Config,
    ) -> bool {
        match state.and_then(Self::grant) {
            Some(grant) => grant.may_subscribe(channel, config),
            None => config.is_open(channel),
        }
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Granted { grant, .. } => Some(grant),
            Self::Waiting { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{ConnAccess, Key, TokenSpec, mint};
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

    /// Calls a conn's state machine as the worker does.
    fn call<R>(access: &mut Access, slot: u32, act: impl FnOnce(&mut ConnAccess<'_>) -> R) -> R {
        let mut conn = ConnAccess::new(access, slot);
        let result = act(&mut conn);
        if let Some(change) = conn.into_change() {
            access.store(slot, change);
        }
        result
    }

    fn admit(access: &mut Access, slot: u32, grant: Grant, warning: Warning, now: Now) {
        call(access, slot, |conn| conn.admit(grant, warning, now));
    }

    fn await_token(access: &mut Access, slot: u32, until: Deadline) {
        call(access, slot, |conn| conn.await_token(join(), until));
    }

    fn show(access: &mut Access, slot: u32, token: &str, now: Now) -> Result<Shown, ShowError> {
        call(access, slot, |conn| conn.show(token, now))
    }

    fn take_due(access: &mut Access, slot: u32, now: Now) -> Option<Due> {
        call(access, slot, |conn| conn.take_due(now))
    }

    fn may_publish(access: &Access, slot: u32, channel: &str) -> bool {
        let channel = ChannelName::new(channel).unwrap();
        ConnAccess::new(access, slot).may_publish(&channel, &Config::default())
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
        assert!(may_publish(&access, 0, "a"));
        assert_eq!(show(&mut access, 0, "x", at(0)), Err(ShowError::Off));
        assert_eq!(access.next_due(0), None);
    }

    #[test]
    fn token_is_warned_of_once_and_then_expires() {
        let mut access = access();
        let grant = access.verify(&token("u", 100)).unwrap();
        admit(&mut access, 3, grant, Warning::Ahead, at(10));
        assert_eq!(access.next_due(3), Some(Deadline(70_000_000)));
        assert_eq!(take_due(&mut access, 3, at(69)), None);
        let left = Duration::from_secs(30);
        assert_eq!(take_due(&mut access, 3, at(70)), Some(Due::Soon(left)));
        assert_eq!(take_due(&mut access, 3, at(71)), None);
        assert_eq!(access.next_due(3), Some(Deadline(100_000_000)));
        assert_eq!(take_due(&mut access, 3, at(100)), Some(Due::Over));
        access.forget(3);
        assert_eq!(take_due(&mut access, 3, at(100)), None);
    }

    #[test]
    fn short_lived_token_is_warned_of_at_half_of_its_life_or_never_without_a_warning() {
        let mut access = access();
        let grant = access.verify(&token("u", 5)).unwrap();
        admit(&mut access, 1, grant.clone(), Warning::Ahead, at(0));
        admit(&mut access, 2, grant, Warning::None, at(0));
        assert_eq!(access.next_due(1), Some(Deadline(2_500_000)));
        assert_eq!(access.next_due(2), Some(Deadline(5_000_000)));
    }

    #[test]
    fn token_expires_by_the_wall_clock_when_that_is_set() {
        let mut access = access();
        let grant = access.verify(&token("u", 100)).unwrap();
        admit(&mut access, 1, grant, Warning::None, at(0));
        await_token(&mut access, 2, Deadline(60_000_000));
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
        assert_eq!(take_due(&mut access, 1, at(100)), None);
        // The wall clock has advanced more than the worker's clock, as after a suspension. So
        // timers would fire too late.
        assert!(renew(&mut access, NOW_S + 99, 30));
        assert_eq!(dues(&access), [31_000_000, 60_000_000]);
        assert_eq!(take_due(&mut access, 1, at(30)), None);
        assert!(renew(&mut access, NOW_S + 1000, 30));
        assert_eq!(take_due(&mut access, 1, at(30)), Some(Due::Over));
        assert_eq!(take_due(&mut access, 2, at(30)), None);
    }

    #[test]
    fn awaited_token_returns_the_join() {
        let mut access = access();
        await_token(&mut access, 1, Deadline(10_000_000));
        assert!(ConnAccess::new(&access, 1).is_waiting());
        assert_eq!(take_due(&mut access, 1, at(9)), None);
        assert_eq!(take_due(&mut access, 1, at(10)), Some(Due::Late));
        let shown = show(&mut access, 1, &token("u", 60), at(9));
        assert_eq!(shown, Ok(Shown::First(join())));
        assert!(!ConnAccess::new(&access, 1).is_waiting());
        let channel = |name| ChannelName::new(name).unwrap();
        let config = Config::default();
        assert!(access.may_subscribe(1, &channel("a"), &config));
        assert!(may_publish(&access, 1, "b") && !may_publish(&access, 1, "a"));
        assert!(!may_publish(&access, 2, "b"));
    }

    #[test]
    fn next_token_must_have_the_same_sub_and_not_come_at_once() {
        let mut access = access();
        assert_eq!(
            show(&mut access, 1, &token("u", 60), at(0)),
            Ok(Shown::Next)
        );
        let again = show(&mut access, 1, &token("u", 90), at(0));
        assert_eq!(again, Err(ShowError::TooSoon));
        let other = show(&mut access, 1, &token("v", 90), at(2));
        assert_eq!(other, Err(ShowError::OtherSub));
        assert_eq!(
            show(&mut access, 1, &token("u", 90), at(2)),
            Ok(Shown::Next)
        );
        assert_eq!(access.next_due(1), Some(Deadline(60_000_000)));
        let bad = show(&mut access, 1, "x", at(4));
        assert_eq!(bad, Err(ShowError::Token(TokenError::Malformed)));
    }

    #[test]
    fn subject_is_reported_after_the_token_was_shown() {
        let mut access = access();
        let grant = access.verify(&token("u", 60)).unwrap();
        admit(&mut access, 1, grant, Warning::None, at(0));
        assert_eq!(access.sub(1).as_deref(), Some("u"));
        // While the server waits for a token, it accepts no command. So no command precedes the
        // first token, and the subject is reported immediately.
        await_token(&mut access, 2, Deadline(10_000_000));
        assert_eq!(access.sub(2), None);
        assert!(show(&mut access, 2, &token("v", 60), at(0)).is_ok());
        assert_eq!(access.sub(2).as_deref(), Some("v"));
        // The server was not waiting for this token, so commands that the client sent before the
        // token may be unfinished. Until they are done, reports to backends lack the subject.
        assert!(show(&mut access, 3, &token("w", 60), at(0)).is_ok());
        assert_eq!(access.sub(3), None);
        access.start_reporting(3);
        assert_eq!(access.sub(3).as_deref(), Some("w"));
        assert!(show(&mut access, 3, &token("w", 60), at(2)).is_ok());
        assert_eq!(access.sub(3).as_deref(), Some("w"));
        access.forget(3);
        assert_eq!(access.sub(3), None);
    }

    #[test]
    fn token_applies_within_its_call_and_to_the_table_when_it_is_stored() {
        let mut access = access();
        let mut conn = ConnAccess::new(&access, 1);
        assert_eq!(conn.show(&token("u", 60), at(0)), Ok(Shown::Next));
        assert!(conn.may_publish(&ChannelName::new("b").unwrap(), &Config::default()));
        assert_eq!(conn.show(&token("u", 60), at(0)), Err(ShowError::TooSoon));
        let change = conn.into_change().unwrap();
        assert!(access.is_empty() && !may_publish(&access, 1, "b"));
        access.store(1, change);
        assert!(may_publish(&access, 1, "b"));
        assert!(ConnAccess::new(&access, 1).into_change().is_none());
    }

    #[test]
    fn conns_are_found_by_sub() {
        let mut access = access();
        for (slot, sub) in [(7, "u"), (2, "v"), (5, "u")] {
            let grant = access.verify(&token(sub, 60)).unwrap();
            admit(&mut access, slot, grant, Warning::None, at(0));
        }
        await_token(&mut access, 9, Deadline(0));
        assert_eq!(access.slots_of("u"), [5, 7]);
        assert!(access.slots_of("w").is_empty());
    }
}
