//! The acknowledgements of a peer with windows, and the answers that the server may send.
//!
//! The peer acknowledges all deliveries, some of them, an old id, an id that it did not receive, an
//! invalid id, or an id for another channel. [`crate::model::ExpectedDeliveries`] records the
//! result.

use std::fmt::Write as _;

use super::requests::requested_text;
use super::{Command, Link};
use crate::model::{Facts, Requested};

impl Link {
    /// If the client would resume from its acknowledgements, returns the last acknowledged position
    /// in each channel. A client does this if its request had a window and every channel has a
    /// window. Other clients resume from the publications that they have received.
    pub(crate) fn acknowledged(&self) -> Option<Vec<(usize, u64)>> {
        let is_whole = self.window.is_some() && self.unconfirmed.is_empty();
        let acknowledged = self.expected.acknowledged();
        let is_whole = is_whole && acknowledged.len() == self.expected.len();
        Some(acknowledged).filter(|all| is_whole && !all.is_empty())
    }

    /// Counts the publication if it has filled the window of its subscription.
    pub(super) fn count_full_window(&self, sequence: u64, facts: &mut Facts) {
        let channel = facts.channel(facts.publication(sequence).channel.as_str());
        facts.windows_filled += u64::from(self.expected.is_full(channel));
    }

    /// Whether a subscription has a window that can be acknowledged, according to the answers read
    /// so far.
    pub(super) fn has_window(&self, channel: Option<usize>) -> bool {
        let channel = channel.or_else(|| self.expected.only_channel());
        channel.is_some_and(|channel| self.expected.has_window(channel))
    }

    /// Whether the peer may send an acknowledgement. It may not while a subscribe or unsubscribe
    /// command is unanswered, because it is then unknown to which subscription an acknowledgement
    /// applies.
    fn may_acknowledge(&self) -> bool {
        let mut commands = self.commands.values();
        let is_settled = !commands.any(|command| {
            matches!(
                command,
                Command::Subscribe { .. } | Command::Unsubscribe { .. }
            )
        });
        self.may_send() && is_settled && self.unconfirmed.is_empty()
    }

    /// Acknowledges publications in channels with a window. In the quiet phase the peer
    /// acknowledges all that it has received. Otherwise it acknowledges a random part of them, an
    /// old id, or an invalid id. Returns whether the peer has acknowledged all of them, so that the
    /// windows have room.
    pub(crate) fn acknowledge(
        &mut self,
        is_quiet: bool,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> bool {
        let channels = self.expected.windowed_channels();
        if channels.is_empty() || !self.may_acknowledge() || !is_quiet && random.bool() {
            return false;
        }
        if is_quiet {
            let mut has_sent = false;
            for channel in channels {
                if let Some(last) = self.expected.unacknowledged(channel).last() {
                    self.queue_acknowledgement(Some(channel), *last, facts, random);
                    has_sent = true;
                }
            }
            return has_sent;
        }
        let channel = channels[random.usize(0..channels.len())];
        let given = self.expected.unacknowledged(channel);
        let named = random.bool().then_some(channel);
        match (random.u32(0..8), given.last()) {
            (0, _) => self.queue_invalid_acknowledgement(named, facts, random),
            // Acknowledges another channel, which may have no window or no subscription.
            (1, _) => {
                let other = random.usize(0..facts.names.len());
                let head = facts.logs[self.worker].head;
                self.queue_acknowledgement(Some(other), head, facts, random);
            }
            (2, Some(_)) => {
                let id = given[0] - 1;
                self.queue_acknowledgement(named, id, facts, random);
            }
            (3..6, Some(_)) => {
                let id = given[random.usize(0..given.len())];
                self.queue_acknowledgement(named, id, facts, random);
            }
            (_, Some(last)) => self.queue_acknowledgement(named, *last, facts, random),
            (_, None) => {}
        }
        false
    }

    /// Queues an acknowledgement. The server answers only an invalid acknowledgement, with an
    /// error. So an invalid acknowledgement must have a reference, by which the peer recognizes the
    /// answer.
    fn queue_acknowledgement(
        &mut self,
        channel: Option<usize>,
        id: u64,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        let mut head = format!("{{\"type\":\"ack\",\"id\":\"{}\"", facts.id(id));
        if let Some(channel) = channel {
            write!(head, ",\"channel\":\"{}\"", facts.names[channel]).unwrap();
        }
        let is_silent = self.has_window(channel);
        if let Some(channel) = channel.or_else(|| self.expected.only_channel()) {
            self.expected.acknowledge(channel, id);
        }
        if is_silent && random.bool() {
            head.push('}');
            return self.queue_message(0x81, head.as_bytes(), random);
        }
        let is_right = true;
        self.queue_command(&head, Command::Acknowledge { channel, is_right }, random);
    }

    fn queue_invalid_acknowledgement(
        &mut self,
        channel: Option<usize>,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        let requested = [Requested::OtherEpoch, Requested::Invalid][random.usize(0..2)];
        let id = requested_text(requested, facts, random).unwrap_or_default();
        let mut head = format!("{{\"type\":\"ack\",\"id\":\"{id}\"");
        if let Some(channel) = channel {
            write!(head, ",\"channel\":\"{}\"", facts.names[channel]).unwrap();
        }
        let is_right = false;
        self.queue_command(&head, Command::Acknowledge { channel, is_right }, random);
    }

    /// Checks that the error code of a refused acknowledgement is right.
    pub(super) fn check_refused(&self, code: &str, channel: Option<usize>, is_right: bool) {
        let is_so = match code {
            "bad_id" => !is_right,
            "no_window" => is_right && !self.has_window(channel),
            "bad_channel" => is_right && channel.is_none() && self.expected.len() > 1,
            _ => false,
        };
        assert!(is_so, "{code} for {channel:?}");
    }
}

pub(super) fn draw_window(random: &mut fastrand::Rng) -> Option<u32> {
    let sizes = [1, 1, 2, 3, 7, 1024];
    (random.u32(0..3) == 0).then(|| sizes[random.usize(0..sizes.len())])
}
