//! Access of a conn's state machine to the permissions of its own conn, during one call.
//!
//! A call may process several commands of one packet. If a command brings a new token, the later
//! commands must be checked against this token. So the state machine changes the entry of its conn
//! immediately. It cannot change the entry of another conn.

use super::access::{Access, Due, ShowError, Shown, Warning};
use super::grant::Grant;
use crate::config::Config;
use crate::effect::Join;
use crate::id::ChannelName;
use crate::time::{Deadline, Now};

/// Access to the entry of one conn in the worker's [`Access`].
#[derive(Debug)]
pub struct ConnAccess<'a> {
    table: &'a mut Access,
    slot: u32,
}

impl<'a> ConnAccess<'a> {
    /// Gives access to the entry of the conn whose slot is `slot`.
    pub fn new(table: &'a mut Access, slot: u32) -> Self {
        Self { table, slot }
    }

    /// Returns the permissions and keys of all conns of the worker, read-only. The keys verify the
    /// tokens of requests.
    #[must_use]
    pub fn table(&self) -> &Access {
        self.table
    }

    /// Stores the permissions of the conn's accepted token. See [`Access::admit`].
    pub fn admit(&mut self, grant: Grant, warning: Warning, now: Now) {
        self.table.admit(self.slot, grant, warning, now);
    }

    /// Registers that the conn must show a token before the deadline `until`. See
    /// [`Access::await_token`].
    pub fn await_token(&mut self, join: Join, until: Deadline) {
        self.table.await_token(self.slot, join, until);
    }

    /// Accepts a token that the client sends over its open connection. See [`Access::show`].
    ///
    /// # Errors
    /// Returns the errors of [`Access::show`].
    pub fn show(&mut self, token: &str, now: Now) -> Result<Shown, ShowError> {
        self.table.show(self.slot, token, now)
    }

    /// Whether the server still waits for the conn's first token. See [`Access::is_waiting`].
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.table.is_waiting(self.slot)
    }

    /// Whether the conn may subscribe to a channel. See [`Access::may_subscribe`].
    #[must_use]
    pub fn may_subscribe(&self, channel: &ChannelName, config: &Config) -> bool {
        self.table.may_subscribe(self.slot, channel, config)
    }

    /// Whether the conn's token allows publishing to a channel. See [`Access::may_publish`].
    #[must_use]
    pub fn may_publish(&self, channel: &ChannelName) -> bool {
        self.table.may_publish(self.slot, channel)
    }

    /// Returns the event of the conn's token that is due now. See [`Access::take_due`].
    pub fn take_due(&mut self, now: Now) -> Option<Due> {
        self.table.take_due(self.slot, now)
    }
}
