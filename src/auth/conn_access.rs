//! Access of a conn's state machine to the state of its own token, during one call.
//!
//! The state machine does not change the worker's table. A change is kept here until the call ends,
//! and then the worker stores it. A call may process several commands of one packet. If a command
//! brings a new token, the later commands are checked against this token.

use std::time::Duration;

use super::access::{Access, Due, ShowError, Shown, TokenChange, TokenState, Warning};
use super::grant::Grant;
use crate::config::Config;
use crate::config::limits::{TOKEN_REFRESH_MS_MIN, TOKEN_WARNING_MS};
use crate::effect::Join;
use crate::id::ChannelName;
use crate::time::{Deadline, Now};

/// Access to the token of one conn.
#[derive(Debug)]
pub struct ConnAccess<'a> {
    table: &'a Access,
    slot: u32,
    /// The new state of the conn's token, if the call has changed it.
    changed: Option<Box<TokenState>>,
}

impl<'a> ConnAccess<'a> {
    /// Gives access to the token of the conn whose slot is `slot`.
    #[must_use]
    pub fn new(table: &'a Access, slot: u32) -> Self {
        Self {
            table,
            slot,
            changed: None,
        }
    }

    /// Returns the new state of the conn's token, if the call has changed it. The caller passes it
    /// to [`Access::store`].
    pub fn into_change(self) -> Option<TokenChange> {
        self.changed.map(TokenChange)
    }

    /// Returns the permissions and keys of all conns of the worker. The keys verify the tokens of
    /// requests.
    #[must_use]
    pub fn table(&self) -> &Access {
        self.table
    }

    /// Accepts the permissions of a request's token.
    pub fn admit(&mut self, grant: Grant, warning: Warning, now: Now) {
        let warns = match warning {
            Warning::Ahead => Some(self.warning_time(&grant, now)),
            Warning::None => None,
        };
        self.change(TokenState::Granted {
            grant,
            warns,
            refreshed: None,
            is_reported: true,
        });
    }

    /// Registers that the conn must show a token before the deadline `until`. The subscription
    /// `join` is made after the token is accepted.
    pub fn await_token(&mut self, join: Join, until: Deadline) {
        self.change(TokenState::Waiting { join, until });
    }

    /// Accepts a token that the client sends over its open connection.
    ///
    /// # Errors
    /// Returns the reason to refuse the token. The conn then keeps its previous permissions.
    pub fn show(&mut self, token: &str, now: Now) -> Result<Shown, ShowError> {
        if !self.table.is_on() {
            return Err(ShowError::Off);
        }
        let refresh = Duration::from_millis(TOKEN_REFRESH_MS_MIN);
        if let Some(TokenState::Granted { refreshed, .. }) = self.state()
            && refreshed.is_some_and(|last| now.since(last) < refresh)
        {
            // Each verification costs CPU time. Without this limit, tokens of one client could use
            // up the time of the worker.
            return Err(ShowError::TooSoon);
        }
        let grant = self.table.verify(token).map_err(ShowError::Token)?;
        let (shown, is_reported) = match self.state() {
            Some(TokenState::Granted { grant: before, .. }) if before.sub != grant.sub => {
                return Err(ShowError::OtherSub);
            }
            Some(TokenState::Granted { .. }) => (Shown::Next, true),
            Some(TokenState::Waiting { join, .. }) => (Shown::First(join.clone()), true),
            None => (Shown::Next, false),
        };
        let warns = Some(self.warning_time(&grant, now));
        self.change(TokenState::Granted {
            grant,
            warns,
            refreshed: Some(now),
            is_reported,
        });
        Ok(shown)
    }

    /// Whether the server still waits for the conn's first token.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state(), Some(TokenState::Waiting { .. }))
    }

    /// Whether the conn may subscribe to a channel.
    #[must_use]
    pub fn may_subscribe(&self, channel: &ChannelName, config: &Config) -> bool {
        TokenState::may_subscribe(self.state(), channel, config)
    }

    /// Whether the conn may publish to a channel. True if no token is required.
    #[must_use]
    pub fn may_publish(&self, channel: &ChannelName, config: &Config) -> bool {
        let grant = self.state().and_then(TokenState::grant);
        !self.table.is_on() || grant.is_some_and(|grant| grant.may_publish(channel, config))
    }

    /// Returns what has become due for the conn's token: the warning, the expiry, or the end of the
    /// wait for a token. Returns `None` if nothing is due. The warning is returned only once.
    pub fn take_due(&mut self, now: Now) -> Option<Due> {
        match self.state()? {
            TokenState::Granted {
                grant,
                warns,
                refreshed,
                is_reported,
            } => {
                let ends = self.table.deadline(grant.ends());
                if now.has_reached(ends) {
                    return Some(Due::Over);
                }
                let is_due = |warns| now.has_reached(self.table.deadline(warns));
                warns.filter(|warns| is_due(*warns))?;
                let warned = TokenState::Granted {
                    grant: grant.clone(),
                    warns: None,
                    refreshed: *refreshed,
                    is_reported: *is_reported,
                };
                self.change(warned);
                Some(Due::Soon(ends.remaining(now)))
            }
            TokenState::Waiting { until, .. } => now.has_reached(*until).then_some(Due::Late),
        }
    }

    fn state(&self) -> Option<&TokenState> {
        let changed = self.changed.as_deref();
        changed.or_else(|| self.table.state(self.slot))
    }

    fn change(&mut self, state: TokenState) {
        self.changed = Some(Box::new(state));
    }

    /// Returns the time at which the client is warned of the expiry, as the time since 1970.
    fn warning_time(&self, grant: &Grant, now: Now) -> Duration {
        let left = self.table.deadline(grant.ends()).remaining(now);
        // If the token expires soon, the warning is sent after half of the remaining time, not
        // immediately.
        let ahead = Duration::from_millis(TOKEN_WARNING_MS).min(left / 2);
        grant.ends().saturating_sub(ahead)
    }
}
