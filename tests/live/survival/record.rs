//! Holds what a subscriber was told against what was published.

use std::collections::BTreeMap;

use serde_json::Value;

use super::END;
use super::feeder::Published;
use super::subscriber::Diary;
use super::transport::Told;

/// An id's place in time: which of the server's epochs, and the number in it.
type Place = (usize, u64);

/// What happened, in the order of the server's ids.
pub(crate) struct Record<'a> {
    /// The server's epochs, oldest first.
    epochs: &'a [String],
    published: &'a Published,
    /// Acknowledged lines by place.
    places: BTreeMap<Place, usize>,
}

/// What a check has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    /// Acknowledged publications within gaps.
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

    /// Everything once, in order, or within a gap that was told.
    pub(crate) fn check(&self, diary: &Diary) -> Tally {
        let start = self.place(diary.start.as_ref().expect("a start"));
        let mut tally = Tally::default();
        let mut gaps: Vec<(&str, Place, Place)> = Vec::new();
        let mut seen: BTreeMap<Place, ()> = BTreeMap::new();
        for told in &diary.told {
            match told {
                Told::Position(_) => {}
                Told::Gap(gap) => {
                    tally.gaps += 1;
                    assert_eq!(gap["cause"], "restart", "{gap}");
                    let edge = |key: &str| self.place(gap[key].as_str().unwrap());
                    let channel = gap["channel"].as_str().unwrap();
                    gaps.push((channel, edge("since"), edge("until")));
                }
                Told::Publication(publication) => {
                    let place = self.place(publication["id"].as_str().unwrap());
                    assert!(place > start, "{publication} is before {start:?}");
                    let newest = seen.last_key_value();
                    assert!(
                        newest.is_none_or(|(newest, ())| *newest < place),
                        "{place:?} after {newest:?}"
                    );
                    self.check_words(place, publication);
                    seen.insert(place, ());
                    tally.received += 1;
                }
            }
        }
        for (place, number) in self.places.range((start.0, start.1 + 1)..) {
            let (channel, _) = &self.published.said[*number];
            if !diary.channels.contains(channel) || seen.contains_key(place) {
                continue;
            }
            let is_told = gaps
                .iter()
                .any(|(of, since, until)| of == channel && since < place && place <= until);
            assert!(is_told, "{place:?} in {channel} is missing, gaps {gaps:?}");
            tally.missed += 1;
        }
        tally
    }

    /// What was received is what was published under this id, or what a feeder said and the server
    /// was killed before it could acknowledge.
    fn check_words(&self, place: Place, publication: &Value) {
        let number = match self.places.get(&place) {
            Some(number) => *number,
            None => {
                let number = publication["data"]["number"].as_u64().unwrap();
                assert!(
                    place.0 + 1 < self.epochs.len(),
                    "{publication} was never said"
                );
                assert_ne!(number, END);
                usize::try_from(number).unwrap()
            }
        };
        let (channel, data) = &self.published.said[number];
        assert_eq!(publication["channel"], channel.as_str());
        assert_eq!(publication["data"], *data);
    }
}
