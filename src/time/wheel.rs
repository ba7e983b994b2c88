//! A hashed timer wheel with at most one deadline per slot and no timer objects.
//!
//! The links of all slots are in a vector parallel to the slab (twelve bytes per conn). The slots
//! of one bucket form a doubly linked list. Arming and disarming need only a few stores; an empty
//! tick needs one lookup. Deadlines are rounded up to a tick, so no slot fires early. A deadline
//! may be more than one revolution of the wheel ahead. Its slot then stays in the bucket and is
//! skipped until the deadline is due. The wheel reads no clock: the worker passes the time with
//! each call.

use super::{Deadline, Now};
use crate::certain;
use crate::chunks::ChunkedVec;

/// The length of a tick in microseconds (65.5 ms). The length is a power of two, so that a division
/// is a shift.
pub const TICK_US: u64 = 1 << 16;

const BUCKETS: usize = 1024;
const WORDS: usize = BUCKETS / 64;
/// A value that stands for no slot, at the end of a list.
const NONE: u32 = u32::MAX;
/// A value that stands for no tick. A slot with this value is not armed.
const NEVER: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// The tick at which the slot fires, or [`NEVER`]. The tick modulo the number of buckets is the
    /// index of the bucket.
    due: u32,
}

const _: () = assert!(size_of::<Link>() == 12);

/// The deadlines of all slots, in buckets by tick.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    /// One bit for each bucket, set if the bucket has at least one slot.
    occupied: [u64; WORDS],
    links: ChunkedVec<Link>,
    /// The last tick that has fired.
    tick: u64,
    armed: u32,
}

impl Wheel {
    /// Makes an empty wheel that starts at this time.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            heads: vec![NONE; BUCKETS].into_boxed_slice(),
            occupied: [0; WORDS],
            links: ChunkedVec::default(),
            tick: now.0 / TICK_US,
            armed: 0,
        }
    }

    /// Returns the number of slots with a deadline.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.armed
    }

    /// Whether no slot has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Whether this slot has a deadline.
    #[must_use]
    pub fn is_armed(&self, slot: u32) -> bool {
        self.links
            .get(slot as usize)
            .is_some_and(|link| link.due != NEVER)
    }

    /// Sets the deadline of a slot. The new deadline replaces the previous one.
    pub fn arm(&mut self, slot: u32, deadline: Deadline) {
        self.disarm(slot);
        self.links.grow_to(slot as usize + 1, || Link {
            next: NONE,
            previous: NONE,
            due: NEVER,
        });
        let tick = deadline.0.div_ceil(TICK_US).max(self.tick + 1);
        // A tick number of 32 bits is enough for nine years of uptime.
        let due = u32::try_from(tick).unwrap_or(NEVER - 1);
        let bucket = bucket_of(due);
        let Some(head) = certain::some(self.heads.get_mut(bucket), HAS_BUCKET) else {
            return;
        };
        let next = std::mem::replace(head, slot);
        let link = self.links.get_mut(slot as usize);
        if let Some(link) = certain::some(link, "a link was added for the slot") {
            *link = Link {
                next,
                previous: NONE,
                due,
            };
        }
        if let Some(link) = self.links.get_mut(next as usize) {
            link.previous = slot;
        }
        self.set_occupied(bucket, true);
        self.armed += 1;
    }

    /// Sets the deadline of a slot if the slot has a later deadline.
    pub fn bring_forward(&mut self, slot: u32, deadline: Deadline) {
        let tick = deadline.0.div_ceil(TICK_US);
        let link = self.links.get(slot as usize);
        if link.is_some_and(|link| link.due != NEVER && u64::from(link.due) > tick) {
            self.arm(slot, deadline);
        }
    }

    /// Removes the deadline of a slot if the slot has a deadline.
    pub fn disarm(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        if link.due == NEVER {
            return;
        }
        let Link {
            next,
            previous,
            due,
        } = std::mem::replace(
            link,
            Link {
                next: NONE,
                previous: NONE,
                due: NEVER,
            },
        );
        self.armed -= 1;
        if let Some(link) = self.links.get_mut(next as usize) {
            link.previous = previous;
        }
        if let Some(link) = self.links.get_mut(previous as usize) {
            link.next = next;
            return;
        }
        let bucket = bucket_of(due);
        if let Some(head) = certain::some(self.heads.get_mut(bucket), HAS_BUCKET) {
            *head = next;
        }
        if next == NONE {
            self.set_occupied(bucket, false);
        }
    }

    /// Disarms slots whose deadline has passed and adds at most `max` of them to `fired`. Returns
    /// false if some of these slots are left for the next call.
    pub fn expire(&mut self, now: Now, max: u32, fired: &mut Vec<u32>) -> bool {
        let target = now.0 / TICK_US;
        let mut left = max;
        while self.tick < target {
            if self.armed == 0 {
                self.tick = target;
                return true;
            }
            let due = u32::try_from(self.tick + 1).unwrap_or(NEVER - 1);
            if !self.expire_tick(due, &mut left, fired) {
                return false;
            }
            self.tick += 1;
        }
        true
    }

    /// Frees the memory of the slots with the index `slots` and higher. None of these slots may
    /// have a deadline.
    pub fn shrink_to(&mut self, slots: usize) {
        debug_assert!(self.links.iter().skip(slots).all(|link| link.due == NEVER));
        self.links.truncate(slots);
    }

    /// Returns the earliest time at which a slot may be due; `None` if no slot is armed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Deadline> {
        if self.armed == 0 {
            return None;
        }
        let start = certain::to_usize((self.tick + 1) % BUCKETS as u64);
        let first_word = start / 64;
        for step in 0..=WORDS {
            let word_index = (first_word + step) % WORDS;
            let mut word = *certain::some(self.occupied.get(word_index), HAS_BUCKET)?;
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let bucket = word_index * 64 + word.trailing_zeros() as usize;
                let ahead = (bucket + BUCKETS - start) % BUCKETS;
                return Some(Deadline((self.tick + 1 + ahead as u64) * TICK_US));
            }
        }
        None
    }

    /// Fires at most `left` due slots of one bucket and subtracts their number from `left`. Returns
    /// false if a due slot remains.
    fn expire_tick(&mut self, due: u32, left: &mut u32, fired: &mut Vec<u32>) -> bool {
        let head = certain::some(self.heads.get(bucket_of(due)), HAS_BUCKET);
        let mut slot = head.copied().unwrap_or(NONE);
        while let Some(link) = self.links.get(slot as usize) {
            let next = link.next;
            if link.due <= due {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                self.disarm(slot);
                fired.push(slot);
            }
            slot = next;
        }
        true
    }

    fn set_occupied(&mut self, bucket: usize, is_occupied: bool) {
        if let Some(word) = certain::some(self.occupied.get_mut(bucket / 64), HAS_BUCKET) {
            let bit = 1 << (bucket % 64);
            *word = if is_occupied {
                *word | bit
            } else {
                *word & !bit
            };
        }
    }
}

const HAS_BUCKET: &str = "each tick has a bucket";

fn bucket_of(due: u32) -> usize {
    due as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn fire(wheel: &mut Wheel, at_us: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        assert!(wheel.expire(Now(at_us), u32::MAX, &mut fired));
        fired.sort_unstable();
        fired
    }

    #[test]
    fn slot_fires_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(Now(0));
        wheel.arm(3, Deadline(TICK_US + 1));
        assert_eq!(fire(&mut wheel, 2 * TICK_US - 1), Vec::<u32>::new());
        assert_eq!(fire(&mut wheel, 2 * TICK_US), [3]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn second_deadline_replaces_the_first_and_disarm_removes_it() {
        let mut wheel = Wheel::new(Now(0));
        wheel.arm(1, Deadline(TICK_US));
        wheel.arm(1, Deadline(5 * TICK_US));
        wheel.arm(2, Deadline(TICK_US));
        wheel.disarm(2);
        assert_eq!(fire(&mut wheel, 4 * TICK_US), Vec::<u32>::new());
        assert_eq!(fire(&mut wheel, 5 * TICK_US), [1]);
    }

    #[test]
    fn bring_forward_never_delays_a_deadline() {
        let mut wheel = Wheel::new(Now(0));
        wheel.bring_forward(0, Deadline(TICK_US));
        assert!(wheel.is_empty());
        wheel.arm(0, Deadline(5 * TICK_US));
        wheel.bring_forward(0, Deadline(9 * TICK_US));
        wheel.bring_forward(0, Deadline(3 * TICK_US));
        assert!(fire(&mut wheel, 2 * TICK_US).is_empty());
        assert_eq!(fire(&mut wheel, 3 * TICK_US), [0]);
        wheel.arm(0, Deadline(9 * TICK_US));
        wheel.bring_forward(0, Deadline(0));
        assert_eq!(fire(&mut wheel, 4 * TICK_US), [0]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn deadline_more_than_one_round_ahead_waits_for_its_round() {
        let mut wheel = Wheel::new(Now(0));
        let far = (BUCKETS as u64 + 5) * TICK_US;
        wheel.arm(0, Deadline(far));
        assert_eq!(fire(&mut wheel, 6 * TICK_US), Vec::<u32>::new());
        assert_eq!(fire(&mut wheel, far), [0]);
    }

    #[test]
    fn exhausted_budget_leaves_the_rest_for_the_next_call() {
        let mut wheel = Wheel::new(Now(0));
        for slot in 0..10 {
            wheel.arm(slot, Deadline(TICK_US));
        }
        let mut fired = Vec::new();
        assert!(!wheel.expire(Now(TICK_US), 4, &mut fired));
        assert!(!wheel.expire(Now(TICK_US), 4, &mut fired));
        assert!(wheel.expire(Now(TICK_US), 4, &mut fired));
        fired.sort_unstable();
        assert_eq!(fired, (0..10).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn wheel_agrees_with_a_sorted_map(
            acts in proptest::collection::vec((0u32..40, 0u64..200_000_000, 0u64..3_000_000, 0u8..4), 1..200)
        ) {
            let mut wheel = Wheel::new(Now(0));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0;
            for (slot, ahead, step, act) in acts {
                match act {
                    0 => { wheel.disarm(slot); model.remove(&slot); }
                    1 | 2 => {
                        wheel.arm(slot, Deadline(now + ahead));
                        let current = now / TICK_US;
                        model.insert(slot, (now + ahead).div_ceil(TICK_US).max(current + 1));
                    }
                    _ => {
                        now += step * 20;
                        let due: Vec<u32> =
                            model.iter().filter(|(_, t)| **t <= now / TICK_US).map(|(s, _)| *s).collect();
                        for slot in &due { model.remove(slot); }
                        prop_assert_eq!(fire(&mut wheel, now), due);
                    }
                }
                prop_assert_eq!(wheel.len() as usize, model.len());
                if let Some(first) = model.values().min() {
                    let next = wheel.next_deadline().unwrap();
                    prop_assert!(next.0 <= first * TICK_US && next.0 > now / TICK_US * TICK_US);
                } else {
                    prop_assert_eq!(wheel.next_deadline(), None);
                }
            }
        }
    }
}
