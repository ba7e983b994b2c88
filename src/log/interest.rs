//! The workers that have subscribers of a channel.

/// A worker that has subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInterest {
    /// The worker's number.
    pub worker: u16,
    /// The slot of the channel in the worker's table of channels.
    pub place: u32,
}

/// The workers that have subscribers of a channel. Most channels have at most one such worker.
#[derive(Debug, Default)]
pub(super) enum Interest {
    /// No worker has subscribers.
    #[default]
    None,
    /// One worker has subscribers.
    One(WorkerInterest),
    /// Several workers have subscribers.
    #[expect(clippy::box_collection, reason = "a channel is smaller with a box")]
    Many(Box<Vec<WorkerInterest>>),
}

const _: () = assert!(size_of::<Interest>() <= 16);

impl Interest {
    pub(super) fn all(&self) -> &[WorkerInterest] {
        match self {
            Self::None => &[],
            Self::One(interest) => std::slice::from_ref(interest),
            Self::Many(interests) => interests,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.all().is_empty()
    }

    /// Returns the slot of the channel in the table of channels of this worker. Returns `None` if
    /// the worker has no subscribers.
    pub(super) fn place_in(&self, worker: u16) -> Option<u32> {
        let mut interests = self.all().iter();
        let interest = interests.find(|interest| interest.worker == worker)?;
        Some(interest.place)
    }

    pub(super) fn add(&mut self, interest: WorkerInterest) {
        debug_assert_eq!(
            self.place_in(interest.worker),
            None,
            "{interest:?} is registered twice"
        );
        match self {
            Self::None => *self = Self::One(interest),
            Self::One(one) => *self = Self::Many(Box::new(vec![*one, interest])),
            Self::Many(interests) => interests.push(interest),
        }
    }

    pub(super) fn remove(&mut self, worker: u16) {
        match self {
            Self::Many(interests) => {
                interests.retain(|interest| interest.worker != worker);
                if let [one] = interests.as_slice() {
                    *self = Self::One(*one);
                }
            }
            Self::One(one) if one.worker == worker => *self = Self::None,
            Self::None | Self::One(_) => {
                debug_assert!(false, "worker {worker} has no interest");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interest_grows_to_a_list_and_shrinks_to_one_in_place() {
        let of = |worker| WorkerInterest { worker, place: 7 };
        let mut interest = Interest::default();
        for worker in 0..3 {
            interest.add(of(worker));
        }
        interest.remove(1);
        assert_eq!(interest.all(), [of(0), of(2)]);
        assert_eq!(
            (interest.place_in(2), interest.place_in(1)),
            (Some(7), None)
        );
        interest.remove(0);
        assert!(matches!(interest, Interest::One(_)));
        interest.remove(2);
        assert!(interest.is_none());
    }
}
