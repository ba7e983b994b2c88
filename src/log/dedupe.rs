//! Idempotency keys in memory. Repeated publications are recognised by these keys.
//!
//! A key belongs to one channel. A key is kept for a fixed time after its first use; repetitions do
//! not extend that time. When there are too many keys, the oldest is removed. The functions receive
//! the current time as an argument. The sequencer uses the keys, and the journal restores them when
//! the server starts.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::{Equivalent, HashMap};

use crate::certain;
use crate::config::limits::{DEDUPE_KEYS_MAX, DEDUPE_WINDOW_MS};
use crate::id::{ChannelName, Cursor, Sequence};
use crate::time::Now;

/// The keys of publications in the log. The keys of clients are separate from the keys of feeders:
/// a client can neither use up the room for the keys of feeders, nor cause that a feeder's
/// publication counts as a repetition.
#[derive(Debug)]
pub struct DedupeKeys {
    feeders: Dedupe<Cursor>,
    clients: Dedupe<Cursor>,
}

impl DedupeKeys {
    /// Creates empty tables. `seed` prevents feeders and clients from choosing keys whose hashes
    /// collide.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            feeders: Dedupe::new(seed),
            clients: Dedupe::new(seed),
        }
    }

    /// Returns the keys of clients, or the keys of feeders.
    pub fn of(&mut self, is_from_client: bool) -> &mut Dedupe<Cursor> {
        match is_from_client {
            true => &mut self.clients,
            false => &mut self.feeders,
        }
    }

    /// Removes every key whose first publication has a number above `last`.
    pub fn forget_after(&mut self, last: Sequence) {
        self.feeders.forget_after(last);
        self.clients.forget_after(last);
    }
}

/// Returns the key under which a client's key is remembered. It contains the subject of the
/// client's token, so that clients with different subjects may use equal keys. A repetition may
/// arrive on another connection, so the key does not contain the connection.
#[must_use]
pub fn client_key(sub: Option<&str>, key: &str) -> String {
    // The length comes first, so that no other subject and key have the same text.
    match sub {
        Some(sub) => format!("{}:{sub}{key}", sub.len()),
        None => format!(":{key}"),
    }
}

/// The keys that were first used within the window, each with the first outcome, for example the
/// id of the first publication.
#[derive(Debug)]
pub struct Dedupe<T> {
    first: HashMap<Arc<Key>, T, FixedState>,
    /// The keys of `first`, oldest first.
    order: VecDeque<(Now, Arc<Key>)>,
    keys_max: usize,
    window: Duration,
}

impl<T: Copy> Dedupe<T> {
    /// Creates an empty table with the configured bounds. `seed` prevents feeders from choosing
    /// keys whose hashes collide.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::bounded(
            seed,
            DEDUPE_KEYS_MAX,
            Duration::from_millis(DEDUPE_WINDOW_MS),
        )
    }

    fn bounded(seed: u64, keys_max: usize, window: Duration) -> Self {
        Self {
            first: HashMap::with_hasher(FixedState::with_seed(seed)),
            order: VecDeque::new(),
            keys_max,
            window,
        }
    }

    /// Returns the outcome of the key's first use, if that use is within the window.
    #[must_use]
    pub fn first(&mut self, channel: &ChannelName, key: &str, now: Now) -> Option<T> {
        self.forget_expired(now);
        self.first.get(&KeyRef { channel, key }).copied()
    }

    /// Stores the outcome of a key's first use.
    pub fn remember(&mut self, channel: &ChannelName, key: &str, outcome: T, now: Now) {
        if self.first.len() >= self.keys_max {
            self.forget_oldest();
        }
        let key = Arc::new(Key {
            channel: channel.clone(),
            key: Box::from(key),
        });
        let replaced = self.first.insert(Arc::clone(&key), outcome);
        debug_assert!(replaced.is_none());
        self.order.push_back((now, key));
        debug_assert_eq!(self.first.len(), self.order.len());
    }

    fn forget_expired(&mut self, now: Now) {
        while let Some((since, _)) = self.order.front() {
            if now.since(*since) < self.window {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            let removed = self.first.remove(&key);
            debug_assert!(removed.is_some(), "{LISTED}");
        }
    }
}

impl Dedupe<Cursor> {
    /// Removes every key whose first publication has a number above `last`.
    pub fn forget_after(&mut self, last: Sequence) {
        while let Some((_, key)) = self.order.back() {
            let first_id = certain::some(self.first.get(key), LISTED);
            if first_id.is_none_or(|id| id.sequence <= last) {
                return;
            }
            self.first.remove(key);
            self.order.pop_back();
        }
    }
}

const LISTED: &str = "a key in the order has an id";

#[derive(Debug, PartialEq, Eq)]
struct Key {
    channel: ChannelName,
    key: Box<str>,
}

/// A borrowed form of [`Key`], with which a key is looked up without an allocation.
struct KeyRef<'a> {
    channel: &'a ChannelName,
    key: &'a str,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef {
            channel: &self.channel,
            key: &self.key,
        }
        .hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.channel.as_str().hash(state);
        self.key.hash(state);
    }
}

impl Equivalent<Arc<Key>> for KeyRef<'_> {
    fn equivalent(&self, key: &Arc<Key>) -> bool {
        *self.channel == key.channel && *self.key == *key.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Sequence};

    fn id(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(sequence),
        }
    }

    fn channel(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    #[test]
    fn key_is_remembered_per_channel_until_its_window_is_over() {
        let mut dedupe = Dedupe::bounded(7, 10, Duration::from_micros(100));
        dedupe.remember(&channel("a"), "k", id(1), Now(0));
        assert_eq!(dedupe.first(&channel("a"), "k", Now(99)), Some(id(1)));
        assert_eq!(dedupe.first(&channel("b"), "k", Now(99)), None);
        assert_eq!(dedupe.first(&channel("a"), "l", Now(99)), None);
        assert_eq!(dedupe.first(&channel("a"), "k", Now(100)), None);
        assert!(dedupe.order.is_empty());
    }

    #[test]
    fn oldest_key_goes_first_when_there_are_too_many() {
        let mut dedupe = Dedupe::bounded(7, 2, Duration::from_secs(1));
        for (number, key) in [(1, "x"), (2, "y"), (3, "z")] {
            dedupe.remember(&channel("a"), key, id(number), Now(number));
        }
        assert_eq!(dedupe.first(&channel("a"), "x", Now(4)), None);
        assert_eq!(dedupe.first(&channel("a"), "y", Now(4)), Some(id(2)));
        assert_eq!(dedupe.first(&channel("a"), "z", Now(4)), Some(id(3)));
        assert_eq!(dedupe.first.len(), 2);
    }

    #[test]
    fn key_of_a_client_is_neither_that_of_a_feeder_nor_of_another_subject() {
        let mut keys = DedupeKeys::new(7);
        let client = client_key(Some("alice"), "k");
        for feeder in ["k", &client] {
            keys.of(false)
                .remember(&channel("a"), feeder, id(1), Now(0));
        }
        assert_eq!(keys.of(true).first(&channel("a"), &client, Now(1)), None);
        keys.of(true)
            .remember(&channel("a"), &client, id(2), Now(0));
        let first = keys.of(true).first(&channel("a"), &client, Now(1));
        assert_eq!(first, Some(id(2)));
        let texts = [
            (None, "5:alicek"),
            (None, "alicek"),
            (Some(""), "5:alicek"),
            (Some("alic"), "ek"),
            (Some("alicek"), ""),
            (Some("5"), ":alicek"),
        ];
        for (sub, key) in texts {
            assert_ne!(client_key(sub, key), client, "{sub:?} {key}");
        }
        keys.forget_after(Sequence(1));
        assert_eq!(keys.of(true).first(&channel("a"), &client, Now(1)), None);
        let first = keys.of(false).first(&channel("a"), "k", Now(1));
        assert_eq!(first, Some(id(1)));
    }
}
