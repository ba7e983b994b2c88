//! Models of a change of epoch, after which the new epoch assigns the same number to a different
//! publication.
//!
//! The first epoch has the publications 1 and 2. The second epoch discards that publication 2, and
//! has a new publication with the number 2.

use super::*;
use crate::log::EpochChange;

/// The parameters of a run.
#[derive(Clone, Copy)]
struct Life {
    /// The position that the client requests.
    since: Since,
    /// The last number of the first epoch that is valid in the second epoch, or `None` if no number
    /// is valid.
    valid_until: Option<u64>,
    /// Whether the client unsubscribes and resumes from its position.
    returns: bool,
}

/// What a client received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Given(Cursor),
    Restart,
}

fn second() -> Epoch {
    Epoch::new(8)
}

fn id(epoch: Epoch, number: u64) -> Cursor {
    Cursor {
        epoch,
        sequence: Sequence(number),
    }
}

impl Feed {
    fn change_epoch(&mut self, valid_until: Option<u64>) {
        self.writer.change_epoch(&EpochChange {
            from: self.epoch,
            to: second(),
            head: Sequence(1),
            valid_until: valid_until.map(Sequence),
        });
        self.epoch = second();
    }
}

/// A client of one channel. It uses the hub in the same way as `worker/epoch.rs` and
/// `worker/broadcast.rs`.
struct Subscriber {
    position: Option<Cursor>,
    events: Vec<Event>,
}

impl Subscriber {
    /// Subscribes, and starts again if the epoch changes meanwhile.
    fn come(&mut self, worker: &mut Worker, since: Since) {
        let hub = &mut worker.hub;
        let since = self.position.map_or(since, Since::After);
        let joined = loop {
            hub.follow_epoch(NOW);
            let sequenced = hub.sequenced();
            let outcome = hub.subscribe(SLOT, &name("a"), since, sequenced);
            if hub.is_in_newest_epoch() {
                break *outcome.joined().unwrap();
            }
            hub.unsubscribe(SLOT, &name("a"));
        };
        self.events.extend(joined.gap.map(|gap| restart(&gap)));
        self.position = Some(joined.position);
    }

    /// Receives all publications and gaps that are pending for the client.
    fn take(&mut self, worker: &mut Worker) {
        worker.hub.follow_epoch(NOW);
        worker.broadcast();
        let hub = &mut worker.hub;
        while hub.visit() != Visit::Done {}
        let (mut planned, mut compressor) = (Vec::new(), Compressor::default());
        loop {
            while let Some((_, gap)) = hub.take_gap(SLOT) {
                self.events.push(restart(&gap));
                self.position = Some(gap.until);
            }
            hub.plan(SLOT, KIND, NOW, usize::MAX, &mut compressor, &mut planned);
            let bytes = planned.iter().map(|step| step.length).sum();
            for step in &planned {
                let given = hub.encoded(step).unwrap().id;
                self.position = Some(given);
                self.events.push(Event::Given(given));
            }
            let _advanced = hub.advance(SLOT, &planned, bytes);
            hub.release_planned();
            // If a change of epoch causes a loss, the hub finds the loss only after it has switched
            // to the new epoch.
            if planned.is_empty() {
                break;
            }
        }
        hub.release_walked();
    }
}

fn restart(gap: &Gap) -> Event {
    assert_eq!(gap.cause, crate::hub::GapCause::Restart, "{gap:?}");
    Event::Restart
}

impl Life {
    fn new(since: Since, valid_until: Option<u64>) -> Self {
        Self {
            since,
            valid_until,
            returns: false,
        }
    }

    fn run(self) -> Vec<Event> {
        let config = Config::default();
        let mut feed = Feed::new(1, &config);
        let mut worker = Worker::new(&feed, 0, &config);
        let valid_until = self.valid_until;
        feed.publish(&[(1, "a"), (2, "a")]);
        worker.broadcast();
        let feed = spawn(move || {
            feed.change_epoch(valid_until);
            feed.publish(&[(2, "a")]);
            feed
        });
        let mut client = Subscriber {
            position: None,
            events: Vec::new(),
        };
        client.come(&mut worker, self.since);
        client.take(&mut worker);
        if self.returns {
            worker.hub.leave(SLOT);
            client.come(&mut worker, self.since);
        }
        let feed = feed.join().unwrap();
        client.take(&mut worker);
        worker.hub.check_invariants();
        assert_eq!(worker.hub.head(), id(second(), 2));
        worker.finish();
        feed.writer.check_invariants();
        client.events
    }

    fn check(self, judge: fn(&[Event])) {
        for returns in [false, true] {
            let life = Self { returns, ..self };
            check(move || judge(&life.run()));
        }
    }
}

const RESTART: Event = Event::Restart;

#[test]
fn client_is_given_what_is_valid_and_a_gap_only_after_what_is_void() {
    Life::new(Since::After(id(epoch(), 0)), Some(1)).check(|events| {
        let [one, void, two] = [id(epoch(), 1), id(epoch(), 2), id(second(), 2)].map(Event::Given);
        let before = [one, void, RESTART, two];
        let after = [one, two];
        assert!(events == before || events == after, "{events:?}");
    });
}

#[test]
fn client_that_stands_after_what_is_void_receives_one_gap() {
    Life::new(Since::After(id(epoch(), 2)), Some(1)).check(|events| {
        let two = Event::Given(id(second(), 2));
        assert_eq!(events, [RESTART, two]);
    });
}

#[test]
fn nothing_is_kept_where_nothing_is_valid() {
    Life::new(Since::After(id(epoch(), 0)), None).check(|events| {
        let [one, void, two] = [id(epoch(), 1), id(epoch(), 2), id(second(), 2)].map(Event::Given);
        let before = [one, void, RESTART, two];
        assert!(events == before || events == [RESTART, two], "{events:?}");
    });
}

#[test]
fn shard_of_another_epoch_says_nothing_of_the_readers_own() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(1, &config);
        let log = feed.log();
        let first = log.state();
        feed.publish(&[(1, "a"), (2, "a")]);
        let key = enter(&log, 1, "a").unwrap();
        let feed = spawn(move || {
            feed.change_epoch(Some(1));
            feed.writer.announce(Sequence(2));
            let (id, ledger) = (id(second(), 2), feed.writer.log().ledger());
            let two = publication(id, "a", ledger);
            let _removed = feed.writer.publish(Arc::new(two), |_, _, _| {});
            feed
        });
        for state in [first, log.state()] {
            let mut entries: Vec<crate::log::Entry> = Vec::new();
            let horizon = state.horizon(state.sequenced());
            log.fetch(key, Sequence::ZERO, horizon, 9, &mut entries);
            let own = state.epoch().unwrap_or_else(epoch);
            for entry in entries {
                let id = entry.publication.id;
                let is_own = id.epoch == own || state.has_valid(id);
                assert!(is_own, "{id:?} for a reader in {own:?}");
            }
        }
        let feed = feed.join().unwrap();
        log.leave(key, 1);
        feed.writer.check_invariants();
    });
}
