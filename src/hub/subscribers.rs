//! The subscribers of one channel, and the walk that visits each of them after a publication.
//!
//! A *place* is an index in the list of subscribers. A walk goes through the list from the first
//! place to the last. It may pause at any place. Meanwhile subscribers may join and leave, and
//! publications may arrive. Each subscriber at the time of a publication is visited after it. A
//! subscriber that joins later is not visited. This module does not depend on positions in the log,
//! quotas or sockets.
//!
//! Three marks divide the list into four sections, `again <= next <= end <= len`:
//!
//! ```text
//! 0 ......... again ......... next ............ end ............ len
//! visited, but  visited, and    to be visited     joined since the
//! not since     nothing new     in this pass      last publication:
//! the last      for them                          nothing for them
//! publication
//! ```

use crate::certain;

/// The slots of the subscribers of one channel. Most channels have one subscriber, which is stored
/// in place.
#[derive(Clone, Debug, Default)]
pub enum Subscribers {
    /// The channel has no subscriber.
    #[default]
    None,
    /// The channel has one subscriber.
    One(One),
    /// The channel has several subscribers.
    Many(Box<Many>),
}

const _: () = assert!(size_of::<Subscribers>() == 16);

/// The slot of a channel's only subscriber, and its state.
#[derive(Clone, Copy, Debug)]
pub struct One {
    slot: u32,
    /// How many of the three [`Marks`] are after the subscriber: 0 (none), 1 (only `end`), 2
    /// (`next` and `end`) or 3 (all).
    marks: u8,
}

/// Several subscribers of a channel.
#[derive(Clone, Debug)]
pub struct Many {
    slots: Vec<u32>,
    marks: Marks,
}

/// The ends of the first three sections of the list of subscribers (see the start of this file).
/// Each end is an index in the list.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// Subscribers before this index are visited again in the next pass.
    again: u32,
    /// The index of the next subscriber to visit.
    next: u32,
    /// The index at which the current pass over the subscribers ends.
    end: u32,
}

/// The result of [`Subscribers::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// No subscriber is left to visit.
    Done,
    /// One pass over the subscribers is over. Another pass begins, because publications arrived
    /// during it.
    NextPass,
    /// The conn in this slot is the next subscriber to visit.
    Visit(u32),
}

impl Subscribers {
    fn slots(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(&one.slot),
            Self::Many(many) => &many.slots,
        }
    }

    fn marks(&self) -> Marks {
        match self {
            Self::None => Marks::default(),
            Self::One(one) => Marks::of_one(one.marks),
            Self::Many(many) => many.marks,
        }
    }

    /// Returns the number of subscribers.
    #[must_use]
    pub fn len(&self) -> u32 {
        certain::to_u32(self.slots().len())
    }

    /// Whether there are no subscribers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// Whether at least one subscriber still has to be visited to deliver a publication.
    #[must_use]
    pub fn is_walking(&self) -> bool {
        self.marks().are_walking()
    }

    /// Returns the index of the next subscriber to visit. Each visit changes the index.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.marks().next
    }

    /// Whether some subscribers have to be visited a second time, because a publication arrived
    /// after their visit.
    #[must_use]
    pub fn has_second_pass(&self) -> bool {
        self.marks().again > 0
    }

    /// Adds a subscriber and returns its index in the list. The subscriber is not visited for
    /// earlier publications.
    pub fn push(&mut self, slot: u32) -> u32 {
        let place = self.len();
        match self {
            Self::None => *self = Self::One(One { slot, marks: 0 }),
            Self::One(one) => {
                *self = Self::Many(Box::new(Many {
                    slots: vec![one.slot, slot],
                    marks: Marks::of_one(one.marks),
                }));
            }
            Self::Many(many) => many.slots.push(slot),
        }
        place
    }

    /// Removes the subscriber at an index. Other subscribers may move to fill the gap in the list.
    /// For each of them, calls `moved` with its slot and its new index.
    pub fn remove(&mut self, place: u32, moved: impl FnMut(u32, u32)) {
        debug_assert!(place < self.len());
        match self {
            Self::None | Self::One(_) => *self = Self::None,
            Self::Many(many) => {
                many.remove(place, moved);
                if let [slot] = *many.slots {
                    let marks = many.marks.as_one();
                    *self = Self::One(One { slot, marks });
                }
            }
        }
    }

    /// Called when the channel has a new publication: every subscriber must be visited. Returns
    /// true if a new pass over the subscribers begins. Returns false if a pass is in progress,
    /// which then visits all of them once more.
    pub fn mark_behind(&mut self) -> bool {
        let len = self.len();
        self.change_marks(|marks| marks.mark_behind(len))
    }

    /// Returns the next subscriber to visit, or that a pass is over.
    pub fn step(&mut self) -> Step {
        let place = match self.change_marks(Marks::step) {
            Ok(place) => place,
            Err(step) => return step,
        };
        let visit = self.slots().get(place as usize).copied();
        visit.map_or(Step::Done, Step::Visit)
    }

    /// Iterates over all slots, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots().iter().copied()
    }

    fn change_marks<T>(&mut self, change: impl FnOnce(&mut Marks) -> T) -> T {
        let mut marks = self.marks();
        let result = change(&mut marks);
        match self {
            Self::None => debug_assert!(!marks.are_walking()),
            Self::One(one) => one.marks = marks.as_one(),
            Self::Many(many) => many.marks = marks,
        }
        result
    }
}

impl Many {
    fn remove(&mut self, place: u32, mut moved: impl FnMut(u32, u32)) {
        // In each section from the removed subscriber on, the section's last slot moves to the
        // vacant index, and the section becomes shorter. So its last index is now the vacant one,
        // and is part of the next section. At the end, the vacant index is the last index of the
        // list.
        let mut hole = place;
        let Marks { again, next, end } = &mut self.marks;
        for mark in [again, next, end] {
            if hole < *mark {
                *mark -= 1;
                hole = fill(&mut self.slots, hole, *mark, &mut moved);
            }
        }
        let last = certain::to_u32(self.slots.len());
        fill(&mut self.slots, hole, last.saturating_sub(1), &mut moved);
        self.slots.pop();
        if self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }
}

impl Marks {
    /// Returns the marks of a list with one subscriber. `passed` is the number of marks that are
    /// after this subscriber.
    fn of_one(passed: u8) -> Self {
        Self {
            again: u32::from(passed > 2),
            next: u32::from(passed > 1),
            end: u32::from(passed > 0),
        }
    }

    /// Returns how many of the three marks are after the only subscriber of the list.
    fn as_one(self) -> u8 {
        [self.again, self.next, self.end]
            .map(|mark| u8::from(mark > 0))
            .iter()
            .sum()
    }

    fn are_walking(self) -> bool {
        self.next < self.end || self.again > 0
    }

    fn mark_behind(&mut self, len: u32) -> bool {
        let begins = !self.are_walking();
        if begins {
            self.next = 0;
        }
        self.again = self.next;
        self.end = len;
        begins && self.end > 0
    }

    /// Returns the index of the next subscriber to visit. If the current pass is over, begins the
    /// next pass and returns [`Step::NextPass`]. Returns [`Step::Done`] if no next pass is needed.
    fn step(&mut self) -> Result<u32, Step> {
        if self.next < self.end {
            self.next += 1;
            return Ok(self.next - 1);
        }
        if self.again > 0 {
            self.end = std::mem::take(&mut self.again);
            self.next = 0;
            return Err(Step::NextPass);
        }
        Err(Step::Done)
    }
}

/// Moves the slot at the index `from` to the vacant index `hole`. Returns the index that is now
/// vacant.
fn fill(slots: &mut [u32], hole: u32, from: u32, moved: &mut impl FnMut(u32, u32)) -> u32 {
    if hole != from
        && let Some(slot) = slots.get(from as usize).copied()
        && let Some(place) = slots.get_mut(hole as usize)
    {
        *place = slot;
        moved(slot, hole);
    }
    from
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn walk(subscribers: &mut Subscribers) -> Vec<u32> {
        let mut visited = Vec::new();
        loop {
            match subscribers.step() {
                Step::Done => return visited,
                Step::NextPass => {}
                Step::Visit(slot) => visited.push(slot),
            }
        }
    }

    #[test]
    fn publication_in_mid_walk_brings_back_only_those_already_visited() {
        let mut subscribers = Subscribers::default();
        for slot in 0..4 {
            subscribers.push(slot);
        }
        assert!(subscribers.mark_behind());
        assert_eq!(subscribers.step(), Step::Visit(0));
        assert!(!subscribers.mark_behind());
        assert_eq!(walk(&mut subscribers), [1, 2, 3, 0]);
        assert!(!subscribers.is_walking());
    }

    #[test]
    fn subscriber_that_joins_in_mid_walk_is_not_visited_for_the_past() {
        let mut subscribers = Subscribers::default();
        subscribers.push(1);
        subscribers.mark_behind();
        subscribers.push(2);
        assert_eq!(walk(&mut subscribers), [1]);
        subscribers.mark_behind();
        assert_eq!(walk(&mut subscribers), [1, 2]);
    }

    proptest! {
        /// Compares `Subscribers` with a set of the slots that are still to be visited.
        #[test]
        fn each_subscriber_that_is_owed_a_visit_gets_exactly_one(
            acts in proptest::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..400)
        ) {
            let mut subscribers = Subscribers::default();
            let mut places: BTreeMap<u32, u32> = BTreeMap::new();
            let mut owed: BTreeSet<u32> = BTreeSet::new();
            let mut fresh = 0u32;
            for (act, index) in acts {
                match act {
                    0..=2 => {
                        places.insert(fresh, subscribers.push(fresh));
                        fresh += 1;
                    }
                    3..=4 if !places.is_empty() => {
                        let slot = *index.get(&places.keys().copied().collect::<Vec<_>>());
                        let place = places.remove(&slot).unwrap();
                        owed.remove(&slot);
                        subscribers.remove(place, |moved, to| { places.insert(moved, to); });
                    }
                    5 => {
                        subscribers.mark_behind();
                        owed = places.keys().copied().collect();
                    }
                    _ => match subscribers.step() {
                        Step::Done => prop_assert!(owed.is_empty()),
                        Step::NextPass => {}
                        Step::Visit(slot) => prop_assert!(owed.remove(&slot), "{} visited without need", slot),
                    },
                }
                prop_assert_eq!(subscribers.len() as usize, places.len());
                for (slot, place) in &places {
                    prop_assert_eq!(subscribers.slots()[*place as usize], *slot);
                }
                prop_assert_eq!(subscribers.is_walking(), !owed.is_empty());
            }
            for slot in walk(&mut subscribers) {
                prop_assert!(owed.remove(&slot));
            }
            prop_assert!(owed.is_empty());
        }
    }
}
