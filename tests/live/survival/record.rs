//! Compares the messages of a subscriber with the publications.

use std::collections::BTreeMap;

use serde_json::Value;

use super::END;
use super::feeder::Published;
use super::subscriber::SubscriberLog;
use super::transport::Received;

/// The position of an id: the index of its epoch, and the number in that epoch.
type Place = (usize, u64);

/// All publications, in the order of their ids.
pub(crate) struct Record<'a> {
    /// The server's epochs, oldest first.
    epochs: &'a [String],
    published: &'a Published,
    /// For each position, the number of the publication that was acknowledged with it.
    places: BTreeMap<Place, usize>,
}

/// The counts of one subscriber or of all subscribers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    /// The number of acknowledged publications that gaps cover.
    pub(crate) missed: u64,
    pub(crate) gaps: u64,
}

impl<'a> Record<'a> {
    pub(crate) fn new(epochs: &'a [String], published: &'a Published) -> Self {
        let mut record = Self {
            epochs,
            published,
            places: BTreeMap::new(),
        };
        for (id, number) in &published.acknowledged {
            record.places.insert(record.place(id), *number);
        }
        record
    }

    fn place(&self, id: &str) -> Place {
        let (epoch, sequence) = id.split_once('-').unwrap();
        let known = self.epochs.iter().position(|known| known == epoch);
        let known = known.unwrap_or_else(|| panic!("{id} is of no epoch of {:?}", self.epochs));
        (known, sequence.parse().unwrap())
    }

    /// Checks that each publication was received once and in order, or is covered by a gap.
    pub(crate) fn check(&self, log: &SubscriberLog) -> Tally {
        let start = self.place(log.start.as_ref().expect("a start"));
        let mut tally = Tally::default();
        let mut gaps: Vec<(&str, Place, Place)> = Vec::new();
        let mut seen: BTreeMap<Place, ()> = BTreeMap::new();
        for message in &log.messages {
            match message {
                Received::Position(_) => {}
                Received::Gap(gap) => {
                    tally.gaps += 1;
                    assert_eq!(gap["cause"], "restart", "{gap}");
                    let edge = |key: &str| self.place(gap[key].as_str().unwrap());
                    let channel = gap["channel"].as_str().unwrap();
                    gaps.push((channel, edge("since"), edge("until")));
                }
                Received::Publication(publication) => {
                    let place = self.place(publication["id"].as_str().unwrap());
                    assert!(place > start, "{publication} is before {start:?}");
                    let newest = seen.last_key_value();
                    assert!(
                        newest.is_none_or(|(newest, ())| *newest < place),
                        "{place:?} after {newest:?}"
                    );
                    self.check_payload(place, publication);
                    seen.insert(place, ());
                    tally.received += 1;
                }
            }
        }
        for (place, number) in self.places.range((start.0, start.1 + 1)..) {
            let (channel, _) = &self.published.lines[*number];
            if !log.channels.contains(channel) || seen.contains_key(place) {
                continue;
            }
            let is_covered = gaps
                .iter()
                .any(|(of, since, until)| of == channel && since < place && place <= until);
            assert!(
                is_covered,
                "{place:?} in {channel} is missing, gaps {gaps:?}"
            );
            tally.missed += 1;
        }
        tally
    }

    /// Checks the payload of a received publication. Its id may be unknown, because the server may
    /// have been killed before it acknowledged the publication.
    fn check_payload(&self, place: Place, publication: &Value) {
        let number = match self.places.get(&place) {
            Some(number) => *number,
            None => {
                let number = publication["data"]["number"].as_u64().unwrap();
                assert!(
                    place.0 + 1 < self.epochs.len(),
                    "{publication} was never published"
                );
                assert_ne!(number, END);
                usize::try_from(number).unwrap()
            }
        };
        let (channel, data) = &self.published.lines[number];
        assert_eq!(publication["channel"], channel.as_str());
        assert_eq!(publication["data"], *data);
    }
}
