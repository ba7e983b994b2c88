//! The figures of fanfare and of the floor (the baseline server), as text and as one JSON object.
//!
//! Each ratio is the quotient of two sums over all rounds. The report also shows the smallest and
//! the greatest ratio of a single round.

use fanfare_generator::figures::{ConnectFigures, PublishFigures};
use fanfare_generator::report::{connected_text, measured_text};
use serde_json::{Value, json};

use crate::options::Report;
use crate::ratio::Ratio;

/// The server to which a figure belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The program under test.
    Fanfare,
    /// The floor: the baseline server, which does the minimum of work.
    Floor,
}

/// The figures of both servers in all rounds.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The figures of connecting, for each server and round.
    pub(crate) connected: Vec<(Side, ConnectFigures)>,
    /// The figures of publishing, for each server, burst size and round.
    pub(crate) measured: Vec<(Side, PublishFigures)>,
}

impl Comparison {
    /// Returns the ratio of the two servers' processor times per connection attempt.
    fn connect_ratio(&self) -> Ratio {
        let of = |server| -> Vec<f64> {
            let own = self.connected.iter().filter(|(side, _)| *side == server);
            own.map(|(_, connected)| connected.cpu_us().unwrap_or(f64::NAN))
                .collect()
        };
        Ratio::new(&of(Side::Fanfare), &of(Side::Floor))
    }

    /// Returns the ratio of the two servers' figures for one burst size.
    fn ratio(&self, burst: u32, figure: impl Fn(&PublishFigures) -> f64) -> Ratio {
        let of = |server| -> Vec<f64> {
            let own = self.measured.iter();
            let own = own.filter(|(side, m)| *side == server && m.burst == burst);
            own.map(|(_, measured)| figure(measured)).collect()
        };
        Ratio::new(&of(Side::Fanfare), &of(Side::Floor))
    }

    fn bursts(&self) -> Vec<u32> {
        let mut bursts: Vec<u32> = self.measured.iter().map(|(_, m)| m.burst).collect();
        bursts.sort_unstable();
        bursts.dedup();
        bursts
    }
}

impl Report for Comparison {
    fn json(&self) -> String {
        let connect: Vec<Value> = self
            .connected
            .iter()
            .map(|(server, connected)| json!({ "server": name(*server), "connect": connected.json() }))
            .collect();
        let publish: Vec<Value> = self
            .measured
            .iter()
            .map(|(server, m)| json!({ "server": name(*server), "publish": m.json() }))
            .collect();
        let deliveries: Vec<Value> = self
            .bursts()
            .into_iter()
            .map(|burst| {
                json!({
                    "burst": burst,
                    "cpu_per_delivery": self.ratio(burst, cpu_us).json(),
                    "last_subscriber": self.ratio(burst, last_ms).json(),
                })
            })
            .collect();
        let value = json!({
            "clean": self.is_clean(),
            "ratio_to_floor": {
                "cpu_per_connect": self.connect_ratio().json(),
                "deliveries": deliveries,
            },
            "connect": connect,
            "publish": publish,
        });
        format!("{value:#}\n")
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (server, connected) in &self.connected {
            text += &format!("{}: {}\n", name(*server), connected_text(connected));
        }
        for (server, measured) in &self.measured {
            text += &format!("{}: {}", name(*server), measured_text(measured));
        }
        text += "ratios fanfare / floor, of sums (least-greatest of a round):\n";
        text += &format!("  CPU per connect {}\n", self.connect_ratio());
        for burst in self.bursts() {
            let cpu = self.ratio(burst, cpu_us);
            let last = self.ratio(burst, last_ms);
            text += &format!(
                "  {burst} together: CPU per delivery {cpu}, median time to last subscriber {last}\n"
            );
        }
        text += if self.is_clean() {
            "every publication once and in order\n"
        } else {
            "FAILED\n"
        };
        text
    }

    /// Whether every publication was delivered exactly once and in order, without gaps.
    fn is_clean(&self) -> bool {
        let mut measured = self.measured.iter();
        measured.all(|(_, measured)| measured.is_clean(true))
    }
}

fn name(server: Side) -> &'static str {
    match server {
        Side::Fanfare => "fanfare",
        Side::Floor => "floor",
    }
}

fn cpu_us(measured: &PublishFigures) -> f64 {
    measured.cpu_us().unwrap_or(f64::NAN)
}

fn last_ms(measured: &PublishFigures) -> f64 {
    measured.last_ms().map_or(f64::NAN, |(median, _)| median)
}
