//! The figures of all servers of a comparison, as one table and as one JSON object.
//!
//! Each figure is shown with its ratio to the figure of the floor, the baseline server, in the same
//! rounds. If a server could not be measured, a line states the cause. A round in which a server
//! failed does not count for that server.

use fanfare_generator::figures::{ConnectFigures, PublishFigures};
use serde_json::{Value, json};

use crate::options::Report;
use crate::ratio::Ratio;

/// The number of results that every comparison begins with: the floor (the baseline server), and
/// fanfare with two transports. The results of other servers come after these.
pub(crate) const OWN: usize = 3;

/// The figures of one server.
#[derive(Debug)]
pub(crate) struct ServerResults {
    /// The server's name.
    pub(crate) name: String,
    /// The number of the server's processes or threads, as text for the table.
    pub(crate) runs_as: String,
    /// The rounds in which the server was started and measured.
    pub(crate) rounds: Vec<Round>,
    /// The error after which the server is not started again.
    pub(crate) failure: Option<String>,
}

/// The figures of one server in one round.
#[derive(Debug)]
pub(crate) struct Round {
    /// The figures of connecting.
    pub(crate) connected: ConnectFigures,
    /// The figures of publishing, for each burst size.
    pub(crate) measured: Vec<PublishFigures>,
}

/// The results of all servers. The first server is the floor, the baseline server.
#[derive(Debug)]
pub(crate) struct Results(pub(crate) Vec<ServerResults>);

impl ServerResults {
    /// Whether every client received each publication once and in order, in all rounds.
    pub(crate) fn is_clean(&self) -> bool {
        let mut measured = self.rounds.iter().flat_map(|round| &round.measured);
        self.failure.is_none() && measured.all(|measured| measured.is_clean(true))
    }

    /// Returns the values of a figure in all rounds. A value that was not measured is NaN.
    fn figures(&self, figure: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        let figures = self.rounds.iter().map(figure);
        figures.map(|value| value.unwrap_or(f64::NAN)).collect()
    }

    /// Returns `yes` if all deliveries were complete and correct. Otherwise returns how many
    /// deliveries arrived and how many were expected.
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

    /// Returns the ratio of a server's figure to the figure of the floor, the baseline server.
    fn ratio(&self, server: &ServerResults, figure: impl Fn(&Round) -> Option<f64>) -> Ratio {
        let floor = self.0.first().map(|floor| floor.figures(&figure));
        Ratio::new(&server.figures(&figure), &floor.unwrap_or_default())
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

    fn head(&self) -> Vec<String> {
        let mut head = ["server", "runs as", "bytes/conn", "connect us", "x floor"]
            .map(str::to_owned)
            .to_vec();
        for burst in self.bursts() {
            head.push(format!("delivery us ({burst} at once)"));
            head.push("x floor".to_owned());
            head.push("last ms p50/max".to_owned());
        }
        head.push("all delivered".to_owned());
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

impl Report for Results {
    fn json(&self) -> String {
        let servers: Vec<Value> = self
            .0
            .iter()
            .map(|server| self.server_json(server))
            .collect();
        format!("{:#}\n", json!({ "servers": servers }))
    }

    fn text(&self) -> String {
        let mut lines = vec![self.head()];
        let measured = self.0.iter().filter(|server| !server.rounds.is_empty());
        lines.extend(measured.map(|server| self.line(server)));
        let mut text = aligned(&lines);
        for server in &self.0 {
            if let Some(failure) = &server.failure {
                text += &format!("{}: measurement stopped: {failure}\n", server.name);
            }
        }
        text
    }

    fn is_clean(&self) -> bool {
        self.0.iter().take(OWN).all(ServerResults::is_clean)
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

/// Formats a ratio, with its range if there are several rounds.
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

/// Aligns the columns of the table: names to the left, figures to the right.
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
