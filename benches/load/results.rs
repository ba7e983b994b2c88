//! The figures of all servers of a comparison, as one table and as one JSON object.
//!
//! Each server's figures stand beside their ratio to the floor's in the same rounds. A server that
//! could not be measured has a line that says why; a round in which it failed does not count.

use fanfare_generator::figures::{ConnectFigures, PublishFigures};
use serde_json::{Value, json};

use crate::ratio::Ratio;

/// What one server has shown.
#[derive(Debug)]
pub(crate) struct ServerResults {
    /// Whose it is.
    pub(crate) name: String,
    /// How many processes or threads it has.
    pub(crate) runs_as: String,
    /// Each time it was started and measured.
    pub(crate) rounds: Vec<Round>,
    /// Why there are no further rounds.
    pub(crate) failure: Option<String>,
}

/// One start of one server.
#[derive(Debug)]
pub(crate) struct Round {
    /// Everybody connected.
    pub(crate) connected: ConnectFigures,
    /// One for each size of burst.
    pub(crate) measured: Vec<PublishFigures>,
}

/// All servers; the floor comes first.
#[derive(Debug)]
pub(crate) struct Results(pub(crate) Vec<ServerResults>);

impl ServerResults {
    /// Whether every publication came once and in order to everybody, in all rounds.
    pub(crate) fn is_clean(&self) -> bool {
        let mut measured = self.rounds.iter().flat_map(|round| &round.measured);
        self.failure.is_none() && measured.all(|measured| measured.is_clean(true))
    }

    /// A figure of each round.
    fn figures(&self, figure: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        let figures = self.rounds.iter().map(figure);
        figures.map(|value| value.unwrap_or(f64::NAN)).collect()
    }

    /// Whether everybody got everything, and if not, how much of it.
    fn verdict(&self) -> String {
        let measured = || self.rounds.iter().flat_map(|round| &round.measured);
        if measured().all(|measured| measured.is_clean(true)) {
            return "yes".to_owned();
        }
        let delivered: u64 = measured().map(|each| each.tally.delivered()).sum();
        let due: u64 = measured().map(|each| each.expected).sum();
        format!("NO: {delivered} of {due}")
    }
}

impl Round {
    fn burst(&self, burst: u32) -> Option<&PublishFigures> {
        self.measured
            .iter()
            .find(|measured| measured.burst == burst)
    }
}

impl Results {
    fn bursts(&self) -> Vec<u32> {
        let rounds = self.0.iter().flat_map(|server| &server.rounds);
        let measured = rounds.flat_map(|round| &round.measured);
        let mut bursts: Vec<u32> = measured.map(|measured| measured.burst).collect();
        bursts.sort_unstable();
        bursts.dedup();
        bursts
    }

    /// A server's figure as a ratio to the floor's.
    fn ratio(&self, server: &ServerResults, figure: impl Fn(&Round) -> Option<f64>) -> Ratio {
        let floor = self.0.first().map(|floor| floor.figures(&figure));
        Ratio::new(&server.figures(&figure), &floor.unwrap_or_default())
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        let servers: Vec<Value> = self
            .0
            .iter()
            .map(|server| self.server_json(server))
            .collect();
        format!("{:#}\n", json!({ "servers": servers }))
    }

    fn server_json(&self, server: &ServerResults) -> Value {
        let rounds: Vec<Value> = server
            .rounds
            .iter()
            .map(|round| {
                let publish: Vec<Value> = round.measured.iter().map(PublishFigures::json).collect();
                json!({ "connect": round.connected.json(), "publish": publish })
            })
            .collect();
        let deliveries: Vec<Value> = self
            .bursts()
            .into_iter()
            .map(|burst| {
                json!({
                    "burst": burst,
                    "cpu_per_delivery": self.ratio(server, |round| delivery_us(round, burst)).json(),
                    "last_subscriber": self.ratio(server, |round| last_ms(round, burst)).json(),
                })
            })
            .collect();
        json!({
            "name": server.name,
            "runs_as": server.runs_as,
            "clean": server.is_clean(),
            "failure": server.failure,
            "ratio_to_floor": {
                "cpu_per_connect": self.ratio(server, connect_us).json(),
                "deliveries": deliveries,
            },
            "rounds": rounds,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![self.head()];
        let measured = self.0.iter().filter(|server| !server.rounds.is_empty());
        lines.extend(measured.map(|server| self.line(server)));
        let mut text = aligned(&lines);
        for server in &self.0 {
            if let Some(failure) = &server.failure {
                text += &format!("{}: not measured any further: {failure}\n", server.name);
            }
        }
        text
    }

    fn head(&self) -> Vec<String> {
        let mut head = ["server", "runs as", "bytes/conn", "connect us", "x floor"]
            .map(str::to_owned)
            .to_vec();
        for burst in self.bursts() {
            head.push(format!("delivery us ({burst} at once)"));
            head.push("x floor".to_owned());
            head.push("last ms p50/max".to_owned());
        }
        head.push("all got all".to_owned());
        head
    }

    fn line(&self, server: &ServerResults) -> Vec<String> {
        let mut line = vec![
            server.name.clone(),
            server.runs_as.clone(),
            format!(
                "{:.0}",
                mean(&server.figures(|round| round.connected.user_bytes()))
            ),
            format!("{:.1}", mean(&server.figures(connect_us))),
            ratio_text(&self.ratio(server, connect_us), server),
        ];
        for burst in self.bursts() {
            let cost = |round: &Round| delivery_us(round, burst);
            let greatest = server.figures(|round| Some(round.burst(burst)?.last_ms()?.1));
            line.push(format!("{:.2}", mean(&server.figures(cost))));
            line.push(ratio_text(&self.ratio(server, cost), server));
            line.push(format!(
                "{:.0}/{:.0}",
                mean(&server.figures(|round| last_ms(round, burst))),
                greatest.into_iter().fold(0.0, f64::max)
            ));
        }
        line.push(server.verdict());
        line
    }
}

fn connect_us(round: &Round) -> Option<f64> {
    round.connected.cpu_us()
}

fn delivery_us(round: &Round, burst: u32) -> Option<f64> {
    round.burst(burst)?.cpu_us()
}

fn last_ms(round: &Round, burst: u32) -> Option<f64> {
    Some(round.burst(burst)?.last_ms()?.0)
}

/// With its spread where there are rounds to have one.
fn ratio_text(ratio: &Ratio, server: &ServerResults) -> String {
    let Ratio {
        of_sums,
        least,
        greatest,
    } = ratio;
    if server.rounds.len() > 1 {
        format!("{of_sums:.2} ({least:.2}-{greatest:.2})")
    } else {
        format!("{of_sums:.2}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few rounds")]
fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

/// Columns of one width each: names to the left, figures to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    const NAMES: usize = 2;
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column < NAMES {
                format!("{cell:width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
