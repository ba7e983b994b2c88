//! Checks at the end of a connection: the answers, the publications of the log, and the server's
//! last message in a drain.
//!
//! The peer calls these checks when a connection is over, and at the end of the quiet phase.

use super::{Goodbye, Link, Service, Stage};
use crate::model::Facts;

impl Link {
    /// Checks that every command and request was answered, unless the connection ended before the
    /// answer.
    pub(crate) fn check_answers(&self, facts: &Facts) {
        let pipe = self.pipe.borrow();
        let is_cut_off = self.has_broken_protocol
            || pipe.is_reset
            || pipe.is_refused
            || pipe.is_cut_off
            || self.is_abandoned;
        if self.is_half_closing && !is_cut_off {
            self.check_served(facts);
        }
        let is_excused =
            is_cut_off || self.has_sent_close || (self.goodbye.is_some() && self.is_stream());
        if is_excused || self.stage == Stage::Over && self.is_stream() {
            return;
        }
        assert!(
            self.commands.is_empty(),
            "commands without an answer: {:?}",
            self.commands
        );
        assert!(self.pings.is_empty(), "pings without a pong");
        assert_eq!(self.unreferenced, 0, "bad messages without an answer");
        self.check_polls();
        if self.service == Service::Plain {
            assert_eq!(self.responses_awaited, 0, "requests without a response");
        }
    }

    /// Whether the server still has to answer a command.
    pub(crate) fn awaits_answers(&self) -> bool {
        let is_asked = !self.commands.is_empty() || !self.pings.is_empty() || self.unreferenced > 0;
        let is_served = self.stage == Stage::WebSocket && self.goodbye.is_none();
        let can_receive = !self.has_broken_protocol && !self.has_sent_close && !self.is_abandoned;
        is_asked && is_served && can_receive && !self.pipe.borrow().is_reset
    }

    /// Checks a stream whose client has sent FIN. The stream must deliver all publications that the
    /// log had at the time of the request, and then end cleanly.
    fn check_served(&self, facts: &Facts) {
        let has_end = match (&self.stage, self.service) {
            (Stage::WebSocket, _) => {
                matches!(
                    self.goodbye,
                    Some(Goodbye::Close {
                        code: 1000 | 4002,
                        ..
                    })
                )
            }
            (Stage::EventStream { .. }, Service::EventStream { is_chunked, .. }) => {
                self.is_opened && (!is_chunked || self.goodbye == Some(Goodbye::LastChunk))
            }
            (Stage::AwaitHead, Service::Plain | Service::Poll { .. }) | (Stage::Over, _) => true,
            _ => false,
        };
        assert!(has_end, "no end in {:?}: {:?}", self.stage, self.goodbye);
        // Polls are exempt, because one answer need not contain all publications. Streams with
        // windows are exempt, because they end even if publications still wait for room in a
        // window.
        if self.window.is_none() && !matches!(self.service, Service::Poll { .. }) {
            let owed = self.expected.owed_until(self.requested_at, facts);
            assert_eq!(owed, None, "not delivered before the end");
        }
    }

    /// Checks the end of a client that was served when the drain began. A WebSocket has received
    /// close code 1012. An event stream has received its end and a second `retry` field. Other
    /// clients have received all due answers.
    pub(crate) fn check_goodbye(&self) {
        let has_goodbye = match (&self.stage, self.service) {
            (Stage::WebSocket, _) => {
                matches!(self.goodbye, Some(Goodbye::Close { code: 1012, .. }))
            }
            (Stage::EventStream { .. }, Service::EventStream { is_chunked, .. }) => {
                let is_whole = !is_chunked || self.goodbye == Some(Goodbye::LastChunk);
                is_whole && self.retries == 2
            }
            _ => self.has_due_answers(),
        };
        // The limit `log.pinned_bytes` also applies during a drain. If it is below the size of one
        // publication and its frame, the server may close a slow client without a close frame.
        let is_cut_off = self.may_be_cut_off && self.pipe.borrow().is_cut_off;
        assert!(
            has_goodbye || is_cut_off || !self.must_get_goodbye,
            "no goodbye in {:?}: {:?}",
            self.stage,
            self.goodbye
        );
    }
}
