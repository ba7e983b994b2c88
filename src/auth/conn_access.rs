//! Access of a conn's machine to the permissions of this conn, during one call.
//!
//! The machine may accept a token in the middle of a call. A later command in the same packet must
//! be checked against this token. So the machine changes the entry of its conn immediately. The
//! machine cannot change the entry of another conn.

use super::access::{Access, Due, ShowError, Shown, Warning};
use super::grant::Grant;
use crate::config::Config;
use crate::effect::Join;
use crate::id::ChannelName;
use crate::time::{Deadline, Now};

/// The entry of one conn in the worker's [`Access`].
#[derive(Debug)]
pub struct ConnAccess<'a> {
    table: &'a mut Access,
    slot: u32,
}

impl<'a> ConnAccess<'a> {
    /// Gives access to the entry of the conn in a slot.
    pub fn new(table: &'a mut Access, slot: u32) -> Self {
        Self { table, slot }
    }

    /// Returns the worker's table, which verifies the token of a request.
    #[must_use]
    pub fn table(&self) -> &Access {
        self.table
    }

    /// Registers the conn's accepted token. See [`Access::admit`].
    pub fn admit(&mut self, grant: Grant, warning: Warning, now: Now) {
        self.table.admit(self.slot, grant, warning, now);
    }

    /// Registers that the conn must show a token before it subscribes by `join`. See
    /// [`Access::await_token`].
    pub fn await_token(&mut self, join: Join, until: Deadline) {
        self.table.await_token(self.slot, join, until);
    }

    /// Accepts a token that the conn shows in band. See [`Access::show`].
    ///
    /// # Errors
    /// Returns the errors of [`Access::show`].
    pub fn show(&mut self, token: &str, now: Now) -> Result<Shown, ShowError> {
        self.table.show(self.slot, token, now)
    }

    /// Whether the conn must still show a token. See [`Access::is_waiting`].
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

    /// Returns the event that is due now for the conn's token. See [`Access::take_due`].
    pub fn take_due(&mut self, now: Now) -> Option<Due> {
        self.table.take_due(self.slot, now)
    }
}
