//! Histograms of durations, each with a single writer and any number of readers.
//!
//! The upper bounds of the buckets are powers of two, so one instruction finds the bucket. To
//! record a value, two counters are loaded and stored. There is no lock and no allocation.

use super::Counter;

/// The number of buckets that have an upper bound. One more bucket has the larger values.
pub const BOUNDS: usize = 21;

/// The binary logarithm of the first upper bound in microseconds. The bounds are 16 us, 32 us, and
/// so on up to 16.8 s.
const FIRST_BOUND_LOG2: usize = 4;

/// A histogram of durations in microseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The numbers of values, each counted in one bucket only. The last bucket has no upper bound.
    buckets: [Counter; BOUNDS + 1],
    sum_us: Counter,
}

/// One line of a table of histograms.
#[derive(Debug)]
pub struct HistogramMetric<T> {
    /// The name in the exposition, which ends in `_seconds`.
    pub name: &'static str,
    /// The meaning of the values, in one sentence.
    pub help: &'static str,
    /// The function that finds the histogram in its owner.
    pub histogram: fn(&T) -> &Histogram,
}

impl Histogram {
    /// Records one duration.
    pub fn record(&self, us: u64) {
        self.record_many(us, 1);
    }

    /// Records the same duration several times.
    pub fn record_many(&self, us: u64, count: u64) {
        // The binary logarithm of the value, rounded up. A value that equals a bound belongs to the
        // bucket of that bound.
        let log2 = u64::BITS - us.saturating_sub(1).leading_zeros();
        let index = (log2 as usize).saturating_sub(FIRST_BOUND_LOG2);
        if let Some(bucket) = self.buckets.get(index.min(BOUNDS)) {
            bucket.add(count);
        }
        self.sum_us.add(us.wrapping_mul(count));
    }

    /// Returns the number of values in one bucket; zero if there is no bucket with this index.
    #[must_use]
    pub fn bucket(&self, index: usize) -> u64 {
        self.buckets.get(index).map_or(0, Counter::value)
    }

    /// Returns the sum of all values in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.value()
    }
}

/// Returns the largest value of a bucket in microseconds. `index` is below [`BOUNDS`].
#[must_use]
pub fn bound_us(index: usize) -> u64 {
    debug_assert!(index < BOUNDS, "{index}");
    1 << (index + FIRST_BOUND_LOG2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_counted_in_the_first_bucket_whose_bound_is_not_below_it() {
        for index in 0..BOUNDS {
            let bound = bound_us(index);
            let histogram = Histogram::default();
            histogram.record(bound);
            histogram.record(bound + 1);
            assert_eq!(histogram.bucket(index), 1, "{bound}");
            assert_eq!(histogram.bucket(index + 1), 1, "{bound}");
            assert_eq!(histogram.sum_us(), 2 * bound + 1);
        }
    }

    #[test]
    fn smallest_and_largest_values_have_a_bucket() {
        let histogram = Histogram::default();
        for us in [0, 1, 16] {
            histogram.record(us);
        }
        histogram.record_many(1 << 40, 3);
        assert_eq!(histogram.bucket(0), 3);
        assert_eq!(histogram.bucket(BOUNDS), 3);
        assert_eq!(histogram.sum_us(), 17 + 3 * (1 << 40));
    }
}
