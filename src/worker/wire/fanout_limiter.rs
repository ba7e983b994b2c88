//! Limits how many workers deliver a publication to many subscribers at the same time. The limiter
//! exists only if there are more workers than permits.
//!
//! The delivery of a publication to all subscribers keeps each worker busy for seconds. If all
//! workers were runnable, a worker with one new request would wait until the scheduler had given a
//! time slice to each other worker. So a worker needs a permit to visit a channel's subscribers. A
//! worker without a permit sleeps in its poll, where a new request wakes the worker immediately.
//! After [`FANOUT_PERMIT_US`], a permit is passed to the worker that has waited longest.
//!
//! The lock is held for a few instructions when a permit is acquired, and again when it is
//! released. In the usual case a server has no more workers than permits, and then has no limiter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::certain;
use crate::config::limits::FANOUT_PERMIT_US;
use crate::sys::wake::Wake;
use crate::time::Now;

/// The permits of all workers, and the queue of workers that wait for a permit.
#[derive(Debug)]
pub struct FanoutLimiter {
    permits: Mutex<Permits>,
    wakes: Vec<Arc<Wake>>,
}

#[derive(Debug)]
struct Permits {
    free: usize,
    /// Workers that wait for a permit, longest wait first. Empty while a permit is free.
    queue: VecDeque<usize>,
    /// Whether each worker was given a permit and has not called [`Permit::acquire`] since then.
    granted: Vec<bool>,
}

/// The handle with which one worker acquires and releases a permit. Dropping the handle releases
/// the permit.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<FanoutLimiter>,
    worker: usize,
    state: PermitState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PermitState {
    Idle,
    Queued,
    Held { since: Now },
}

impl FanoutLimiter {
    /// Creates a limiter with `count` permits. `wakes` has one element for each worker, with which
    /// the limiter wakes the worker.
    #[must_use]
    pub fn new(count: usize, wakes: Vec<Arc<Wake>>) -> Self {
        let permits = Permits {
            free: count.max(1),
            queue: VecDeque::with_capacity(wakes.len()),
            granted: vec![false; wakes.len()],
        };
        Self {
            permits: Mutex::new(permits),
            wakes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Permits> {
        // While the lock is held, no code runs that can panic.
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a permit to the worker that has waited longest. If no worker waits, the permit becomes
    /// free.
    fn pass_on(&self, mut permits: MutexGuard<'_, Permits>) {
        let Some(next) = permits.queue.pop_front() else {
            permits.free += 1;
            return;
        };
        // Without this mark or this wake, the worker would wait for ever.
        let granted = permits.granted.get_mut(next);
        if let Some(granted) = certain::some(granted, IS_WORKER) {
            *granted = true;
        }
        drop(permits);
        if let Some(wake) = certain::some(self.wakes.get(next), IS_WORKER) {
            wake.wake();
        }
    }
}

const IS_WORKER: &str = "a number in the queue is a worker";

impl Permits {
    /// Returns whether a waiting worker was given a permit, and clears this flag.
    fn take_granted(&mut self, worker: usize) -> bool {
        self.granted.get_mut(worker).is_some_and(std::mem::take)
    }
}

impl Permit {
    /// Creates the handle of a worker that has no permit. `worker` is the worker's index in
    /// `wakes`.
    #[must_use]
    pub fn new(limiter: Arc<FanoutLimiter>, worker: usize) -> Self {
        Self {
            limiter,
            worker,
            state: PermitState::Idle,
        }
    }

    /// Returns the objects that wake the workers. Their descriptors must stay open in this worker's
    /// descriptor table.
    #[must_use]
    pub fn wakes(&self) -> &[Arc<Wake>] {
        &self.limiter.wakes
    }

    /// Acquires a permit. If no permit is free, adds the worker to the queue and returns false. The
    /// worker is woken when it is given a permit, and calls this function again.
    pub fn acquire(&mut self, now: Now) -> bool {
        let mut permits = self.limiter.lock();
        let is_held = match self.state {
            PermitState::Held { .. } => return true,
            PermitState::Queued => permits.take_granted(self.worker),
            PermitState::Idle if permits.free > 0 => {
                permits.free -= 1;
                true
            }
            PermitState::Idle => {
                permits.queue.push_back(self.worker);
                false
            }
        };
        self.state = if is_held {
            PermitState::Held { since: now }
        } else {
            PermitState::Queued
        };
        is_held
    }

    /// Passes the permit on if this worker has had it for [`FANOUT_PERMIT_US`] and another worker
    /// waits. This worker then waits for another permit.
    pub fn yield_now(&mut self, now: Now) {
        let PermitState::Held { since } = self.state else {
            return;
        };
        if now.since(since) < Duration::from_micros(FANOUT_PERMIT_US) {
            return;
        }
        let mut permits = self.limiter.lock();
        if permits.queue.is_empty() {
            self.state = PermitState::Held { since: now };
            return;
        }
        // This worker is added to the queue first. Otherwise another worker could get ahead of the
        // workers that wait.
        permits.queue.push_back(self.worker);
        self.limiter.pass_on(permits);
        self.state = PermitState::Queued;
    }

    /// Releases the permit. If the worker is waiting for a permit, removes the worker from the
    /// queue instead.
    pub fn release(&mut self) {
        let before = std::mem::replace(&mut self.state, PermitState::Idle);
        let was_held = match before {
            PermitState::Idle => return,
            PermitState::Held { .. } => true,
            PermitState::Queued => false,
        };
        let mut permits = self.limiter.lock();
        if was_held || permits.take_granted(self.worker) {
            self.limiter.pass_on(permits);
        } else {
            permits.queue.retain(|worker| *worker != self.worker);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(permits: usize, workers: usize) -> Vec<Permit> {
        let wakes = (0..workers).map(|_| Arc::new(Wake::new().unwrap()));
        let limiter = Arc::new(FanoutLimiter::new(permits, wakes.collect()));
        (0..workers)
            .map(|worker| Permit::new(Arc::clone(&limiter), worker))
            .collect()
    }

    const LATER: Now = Now(FANOUT_PERMIT_US);

    #[test]
    fn permits_are_limited_and_passed_on_in_the_order_of_asking() {
        let mut permits = permits(2, 4);
        let held: Vec<bool> = permits.iter_mut().map(|one| one.acquire(Now(0))).collect();
        assert_eq!(held, [true, true, false, false]);
        assert!(!permits[3].acquire(Now(1)) && !permits[2].acquire(Now(1)));
        permits[1].release();
        assert!(!permits[3].acquire(Now(2)));
        assert!(permits[2].acquire(Now(2)));
        permits[0].release();
        assert!(permits[3].acquire(Now(2)));
    }

    #[test]
    fn permit_is_kept_while_no_worker_waits_and_passed_on_when_its_time_is_over() {
        let mut permits = permits(1, 3);
        assert!(permits[0].acquire(Now(0)));
        permits[0].yield_now(LATER);
        assert!(!permits[1].acquire(LATER) && !permits[2].acquire(LATER));
        permits[0].yield_now(LATER);
        assert!(permits[0].acquire(LATER), "its time has started again");
        let end = Now(2 * FANOUT_PERMIT_US);
        permits[0].yield_now(end);
        assert!(!permits[0].acquire(end) && !permits[2].acquire(end));
        assert!(permits[1].acquire(end));
        permits[1].release();
        assert!(!permits[0].acquire(end));
        assert!(permits[2].acquire(end));
        permits[2].release();
        assert!(permits[0].acquire(end));
    }

    #[test]
    fn permit_is_not_lost_by_a_worker_that_stops_waiting() {
        let mut permits = permits(1, 3);
        assert!(permits[0].acquire(Now(0)));
        assert!(!permits[1].acquire(Now(0)) && !permits[2].acquire(Now(0)));
        permits[1].release();
        permits[0].release();
        // This worker was given the permit but has not called `acquire` again. It passes the permit
        // on.
        permits[2].release();
        assert!(permits[1].acquire(Now(1)));
        drop(permits.remove(1));
        assert!(permits[0].acquire(Now(1)));
    }
}
