//! The ratio of a server's figure to the figure of the floor, the baseline server, over several
//! rounds.
//!
//! The ratio is the quotient of two sums over all rounds. The smallest and the greatest ratio of a
//! single round are stored, too, because a figure without its range means little on a shared
//! machine.

use serde_json::{Value, json};

/// A ratio of sums, with the smallest and the greatest ratio of a single round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) of_sums: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Ratio {
    /// Divides a server's figures by the figures of the floor, the baseline server. A round counts
    /// only if it has a figure of the server.
    pub(crate) fn new(server: &[f64], floor: &[f64]) -> Self {
        let pairs = || server.iter().zip(floor);
        let rounds = || pairs().map(|(a, b)| a / b);
        let (own, floors) = pairs().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        Self {
            of_sums: own / floors,
            least: rounds().fold(f64::INFINITY, f64::min),
            greatest: rounds().fold(0.0, f64::max),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "of_sums": self.of_sums, "least": self.least, "greatest": self.greatest })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            of_sums,
            least,
            greatest,
        } = self;
        write!(f, "{of_sums:.3} ({least:.3}-{greatest:.3})")
    }
}
