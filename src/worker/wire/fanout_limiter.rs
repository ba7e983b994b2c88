//! Where there are many more workers than processors, only a few of them walk at once.
//!
//! A broadcast to everybody keeps each worker busy for seconds. Were all of them runnable, the
//! scheduler would give each its slice in turn, and a worker with one new request to answer would
//! wait for the slices of all others. So a worker needs a *place* to walk over a channel's
//! subscribers; without one it sleeps in its poll, where a request wakes it at once. A place is
//! held for [`FANOUT_PERMIT_US`], then handed to whoever has waited longest.
//!
//! The lock is held for a few instructions and taken twice for each place. A server with no more
//! workers than places, which is the usual one, has neither.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::limits::FANOUT_PERMIT_US;
use crate::sys::wake::Wake;
use crate::time::Now;

/// The places, and who waits for one.
#[derive(Debug)]
pub struct FanoutLimiter {
    lot: Mutex<Lot>,
    wakes: Vec<Arc<Wake>>,
}

#[derive(Debug)]
struct Lot {
    free: usize,
    /// Workers without a place, in the order in which they came; only while none is free.
    queue: VecDeque<usize>,
    /// Workers that have been handed a place and do not know yet.
    handed: Vec<bool>,
}

/// One worker's way to a place. Given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<FanoutLimiter>,
    worker: usize,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Aside,
    Queued,
    Holding { since: Now },
}

impl FanoutLimiter {
    /// So many places for the workers that these wakes wake.
    #[must_use]
    pub fn new(places: usize, wakes: Vec<Arc<Wake>>) -> Self {
        let lot = Lot {
            free: places.max(1),
            queue: VecDeque::with_capacity(wakes.len()),
            handed: vec![false; wakes.len()],
        };
        Self {
            lot: Mutex::new(lot),
            wakes,
        }
    }

    fn lot(&self) -> MutexGuard<'_, Lot> {
        // Nothing that panics is called with the lock held.
        self.lot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a place to whoever has waited longest, or keeps it free.
    fn hand_on(&self, mut lot: MutexGuard<'_, Lot>) {
        let Some(next) = lot.queue.pop_front() else {
            lot.free += 1;
            return;
        };
        if let Some(handed) = lot.handed.get_mut(next) {
            *handed = true;
        }
        drop(lot);
        if let Some(wake) = self.wakes.get(next) {
            wake.wake();
        }
    }
}

impl Lot {
    /// Whether this worker has been handed a place since it was last asked.
    fn take_handed(&mut self, worker: usize) -> bool {
        self.handed.get_mut(worker).is_some_and(std::mem::take)
    }
}

impl Permit {
    /// The way of this worker, counted as the wakes are.
    #[must_use]
    pub fn new(limiter: Arc<FanoutLimiter>, worker: usize) -> Self {
        Self {
            limiter,
            worker,
            standing: Standing::Aside,
        }
    }

    /// The wakes by which a place is handed on, which the worker's descriptor table has to keep.
    #[must_use]
    pub fn wakes(&self) -> &[Arc<Wake>] {
        &self.limiter.wakes
    }

    /// Whether the worker has a place now. If not, it is woken when it has.
    pub fn take(&mut self, now: Now) -> bool {
        let mut lot = self.limiter.lot();
        let has_place = match self.standing {
            Standing::Holding { .. } => return true,
            Standing::Queued => lot.take_handed(self.worker),
            Standing::Aside if lot.free > 0 => {
                lot.free -= 1;
                true
            }
            Standing::Aside => {
                lot.queue.push_back(self.worker);
                false
            }
        };
        self.standing = if has_place {
            Standing::Holding { since: now }
        } else {
            Standing::Queued
        };
        has_place
    }

    /// The worker has walked for a while and wants to go on: the place goes to somebody else when
    /// it has been held for long enough and somebody waits.
    pub fn rest(&mut self, now: Now) {
        let Standing::Holding { since } = self.standing else {
            return;
        };
        if now.since(since) < Duration::from_micros(FANOUT_PERMIT_US) {
            return;
        }
        let mut lot = self.limiter.lot();
        if lot.queue.is_empty() {
            self.standing = Standing::Holding { since: now };
            return;
        }
        // Behind the others, before the place is handed on: nobody is passed over.
        lot.queue.push_back(self.worker);
        self.limiter.hand_on(lot);
        self.standing = Standing::Queued;
    }

    /// The worker has nobody left to visit.
    pub fn leave(&mut self) {
        let before = std::mem::replace(&mut self.standing, Standing::Aside);
        let has_place = match before {
            Standing::Aside => return,
            Standing::Holding { .. } => true,
            Standing::Queued => false,
        };
        let mut lot = self.limiter.lot();
        let has_place = has_place || lot.take_handed(self.worker);
        if has_place {
            self.limiter.hand_on(lot);
        } else {
            lot.queue.retain(|worker| *worker != self.worker);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(places: usize, workers: usize) -> Vec<Permit> {
        let wakes = (0..workers).map(|_| Arc::new(Wake::new().unwrap()));
        let limiter = Arc::new(FanoutLimiter::new(places, wakes.collect()));
        (0..workers)
            .map(|worker| Permit::new(Arc::clone(&limiter), worker))
            .collect()
    }

    const LATER: Now = Now(FANOUT_PERMIT_US);

    #[test]
    fn only_so_many_have_a_place_and_the_next_gets_it_in_the_order_of_asking() {
        let mut places = places(2, 4);
        let have: Vec<bool> = places.iter_mut().map(|place| place.take(Now(0))).collect();
        assert_eq!(have, [true, true, false, false]);
        assert!(!places[3].take(Now(1)) && !places[2].take(Now(1)));
        places[1].leave();
        assert!(!places[3].take(Now(2)));
        assert!(places[2].take(Now(2)));
        places[0].leave();
        assert!(places[3].take(Now(2)));
    }

    #[test]
    fn place_is_kept_while_nobody_waits_and_handed_on_when_its_time_is_over() {
        let mut places = places(1, 3);
        assert!(places[0].take(Now(0)));
        places[0].rest(LATER);
        assert!(!places[1].take(LATER) && !places[2].take(LATER));
        places[0].rest(LATER);
        assert!(places[0].take(LATER), "its time began anew");
        let end = Now(2 * FANOUT_PERMIT_US);
        places[0].rest(end);
        assert!(!places[0].take(end) && !places[2].take(end));
        assert!(places[1].take(end));
        places[1].leave();
        assert!(!places[0].take(end));
        assert!(places[2].take(end));
        places[2].leave();
        assert!(places[0].take(end));
    }

    #[test]
    fn whoever_goes_while_waiting_or_unasked_leaves_no_place_behind() {
        let mut places = places(1, 3);
        assert!(places[0].take(Now(0)));
        assert!(!places[1].take(Now(0)) && !places[2].take(Now(0)));
        places[1].leave();
        places[0].leave();
        // Handed a place, and gone before it knew.
        places[2].leave();
        assert!(places[1].take(Now(1)));
        drop(places.remove(1));
        assert!(places[0].take(Now(1)));
    }
}
