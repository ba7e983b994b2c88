//! What a peer that has windows says of them, and what it may be answered.
//!
//! It acknowledges all, a part, what it had acknowledged, what it was not given, wrongly, or in the
//! name of another channel. The ledger knows what that comes to; the peer calls it when it acts.

use std::fmt::Write as _;

use super::requests::ask_text;
use super::{Command, Link};
use crate::model::{Ask, Facts};

impl Link {
    /// How far a client got in each channel that goes on from what it has acknowledged, and not
    /// from what it was given: one whose request asked for windows, until it asks for more.
    pub(crate) fn acknowledged(&self) -> Option<Vec<(usize, u64)>> {
        let is_whole = self.window.is_some() && self.unconfirmed.is_empty();
        let acknowledged = self.ledger.acknowledged();
        let is_whole = is_whole && acknowledged.len() == self.ledger.len();
        Some(acknowledged).filter(|all| is_whole && !all.is_empty())
    }

    /// Counts a window that a publication has filled.
    pub(super) fn count_full_window(&self, sequence: u64, facts: &mut Facts) {
        let channel = facts.channel(facts.publication(sequence).channel.as_str());
        facts.windows_filled += u64::from(self.ledger.is_full(channel));
    }

    /// Whether there is a window to acknowledge for, as far as answers have come.
    pub(super) fn has_window(&self, channel: Option<usize>) -> bool {
        let channel = channel.or_else(|| self.ledger.only_channel());
        channel.is_some_and(|channel| self.ledger.has_window(channel))
    }

    /// While a subscription begins or ends, nobody knows which one an acknowledgement meets.
    fn may_acknowledge(&self) -> bool {
        let mut commands = self.commands.values();
        let is_settled = !commands.any(|command| {
            matches!(
                command,
                Command::Subscribe { .. } | Command::Unsubscribe { .. }
            )
        });
        self.may_speak() && is_settled && self.unconfirmed.is_empty()
    }

    /// Acknowledges what a window is waiting for: all of it when it is calm, else now and then,
    /// in part, again, or wrongly. True if the server has heard that there is room.
    pub(crate) fn acknowledge(
        &mut self,
        is_calm: bool,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> bool {
        let channels = self.ledger.windowed_channels();
        if channels.is_empty() || !self.may_acknowledge() || !is_calm && random.bool() {
            return false;
        }
        if is_calm {
            let mut has_said = false;
            for channel in channels {
                if let Some(last) = self.ledger.unacknowledged(channel).last() {
                    self.say_acknowledge(Some(channel), *last, facts, random);
                    has_said = true;
                }
            }
            return has_said;
        }
        let channel = channels[random.usize(0..channels.len())];
        let given = self.ledger.unacknowledged(channel);
        let named = random.bool().then_some(channel);
        match (random.u32(0..8), given.last()) {
            (0, _) => self.say_wrong_acknowledge(named, facts, random),
            // Of an unknown channel, or of one that has no window.
            (1, _) => {
                let other = random.usize(0..facts.names.len());
                let head = facts.logs[self.worker].head;
                self.say_acknowledge(Some(other), head, facts, random);
            }
            (2, Some(_)) => {
                let id = given[0] - 1;
                self.say_acknowledge(named, id, facts, random);
            }
            (3..6, Some(_)) => {
                let id = given[random.usize(0..given.len())];
                self.say_acknowledge(named, id, facts, random);
            }
            (_, Some(last)) => self.say_acknowledge(named, *last, facts, random),
            (_, None) => {}
        }
        false
    }

    /// Without a reference where nothing is to be answered.
    fn say_acknowledge(
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
        if let Some(channel) = channel.or_else(|| self.ledger.only_channel()) {
            self.ledger.acknowledge(channel, id);
        }
        if is_silent && random.bool() {
            head.push('}');
            return self.say_message(0x81, head.as_bytes(), random);
        }
        let is_right = true;
        self.say_command(&head, Command::Acknowledge { channel, is_right }, random);
    }

    fn say_wrong_acknowledge(
        &mut self,
        channel: Option<usize>,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        let ask = [Ask::Foreign, Ask::Nonsense][random.usize(0..2)];
        let id = ask_text(ask, facts, random).unwrap_or_default();
        let mut head = format!("{{\"type\":\"ack\",\"id\":\"{id}\"");
        if let Some(channel) = channel {
            write!(head, ",\"channel\":\"{}\"", facts.names[channel]).unwrap();
        }
        let is_right = false;
        self.say_command(&head, Command::Acknowledge { channel, is_right }, random);
    }

    /// Whether an acknowledgement is refused as it has to be.
    pub(super) fn check_refused(&self, code: &str, channel: Option<usize>, is_right: bool) {
        let is_so = match code {
            "bad_id" => !is_right,
            "no_window" => is_right && !self.has_window(channel),
            "bad_channel" => is_right && channel.is_none() && self.ledger.len() > 1,
            _ => false,
        };
        assert!(is_so, "{code} for {channel:?}");
    }
}

pub(super) fn draw_window(random: &mut fastrand::Rng) -> Option<u32> {
    let sizes = [1, 1, 2, 3, 7, 1024];
    (random.u32(0..3) == 0).then(|| sizes[random.usize(0..sizes.len())])
}
