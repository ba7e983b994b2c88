//! SHELL: a feeder that is a backend: what it says to one conn, what it asks, and what it consumes.
//!
//! The part of a [`Feeder`] that has to do with conns instead of publications. Commands go to the
//! workers through the sequencer, behind what was published before; reports are owed to consumers
//! like answers, within the same bounds.

use std::sync::Arc;

use super::command::Command;
use super::consumer::Wants;
use super::feeder::{Feeder, Intake, Phase};
use crate::dialogue::{Delivery, Report, Saying, Verdict};

impl Feeder {
    /// Carries out a command, and owes the answer.
    pub(super) fn carry_out(
        &mut self,
        command: Command,
        line: u64,
        wants_ack: bool,
        intake: &mut Intake,
    ) {
        let sequencer = &mut intake.sequencer;
        let (conn, saying) = match command {
            Command::Consume { patterns, notices } => {
                self.wants = (!patterns.is_empty()).then_some(Wants { patterns, notices });
                let receipt = intake.note_wants();
                if wants_ack {
                    self.answers.owe_confirmation(line, receipt);
                }
                return;
            }
            Command::Presence(channels) => {
                let counts = sequencer.count(channels);
                return self.answers.owe_counts(line, counts);
            }
            Command::DisconnectSub { sub, farewell } => {
                let revocation = sequencer.revoke(sub, farewell);
                if wants_ack {
                    self.answers.owe_revocation(line, revocation);
                }
                return;
            }
            Command::Disconnect { conn, farewell } => (conn, Saying::Disconnect(farewell)),
            Command::Send { conn, payload } => (conn, Saying::Message(payload)),
        };
        let verdict = Arc::new(Verdict::default());
        match conn {
            Some(conn) => sequencer.say(conn, saying, Some(Arc::clone(&verdict))),
            None => verdict.decide(Delivery::NoConn),
        }
        self.answers.owe_verdict(line, wants_ack, verdict);
    }

    /// What it consumes, if it does.
    pub(super) fn wants(&self) -> Option<&Wants> {
        self.wants.as_ref().filter(|_| self.phase != Phase::Gone)
    }

    /// Whether consumers are fewer without it.
    pub(super) fn was_consumer(&self) -> bool {
        self.wants.is_some()
    }

    /// Whether a report is for this feeder.
    pub(super) fn consumes(&self, report: &Report) -> bool {
        self.wants().is_some_and(|wants| wants.covers(report))
    }

    /// Whether it is owed so much that nothing more can be.
    pub(super) fn is_congested(&self) -> bool {
        self.answers.is_congested()
    }

    /// Owes a report to a consumer.
    pub(super) fn owe_report(&mut self, line: &[u8]) {
        self.answers.owe_bytes(line);
    }

    /// It has read nothing for too long, and others wait for it.
    pub(super) fn cut_off(&mut self) {
        tracing::warn!(
            pid = self.socket.peer.pid,
            "a consumer reads nothing and is cut off"
        );
        self.phase = Phase::Gone;
    }
}
