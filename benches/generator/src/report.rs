//! The report of a load test, as text and as one JSON object.
//!
//! The last line of the text is the verdict. [`Report::is_clean`] determines both the verdict and
//! the exit status.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::figures::{
    ConnectFigures, IdleFigures, PublishFigures, StormFigures, megabytes, millis,
};
use super::probe::Times;
use super::stream_parser::Kind;
use super::tally::{Faults, Gaps};

/// The figures of all runs.
#[derive(Debug)]
pub struct Report {
    /// Whether a gap on a connection that reads at full speed is a failure.
    pub is_strict: bool,
    /// The reasons why connections have failed. The text is empty if no connection has failed.
    pub troubles: String,
    /// The figures of the connect storms.
    pub storms: Vec<StormFigures>,
    /// The figures of connecting.
    pub connected: Option<ConnectFigures>,
    /// The figures of idle connections.
    pub idle: Option<IdleFigures>,
    /// The figures of publishing.
    pub measured: Option<PublishFigures>,
}

impl Report {
    /// Whether every publication is accounted for.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let measured = self.measured.as_ref();
        measured.is_none_or(|measured| measured.is_clean(self.is_strict))
    }

    /// Returns the report as one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let storms: Vec<Value> = self.storms.iter().map(StormFigures::json).collect();
        let value = json!({
            "clean": self.is_clean(),
            "troubles": self.troubles,
            "storms": storms,
            "connect": self.connected.as_ref().map(ConnectFigures::json),
            "idle": self.idle.as_ref().map(IdleFigures::json),
            "publish": self.measured.as_ref().map(PublishFigures::json),
        });
        format!("{value:#}\n")
    }

    /// Returns the report as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (number, storm) in (1..).zip(&self.storms) {
            line(
                &mut text,
                &format!("storm {number}: {}", connected_text(&storm.connected)),
            );
            if let Some(pss) = storm.after.pss {
                let pss = megabytes(pss);
                line(
                    &mut text,
                    &format!("  after all have disconnected: PSS {pss:.1} MB"),
                );
            }
        }
        if let Some(connected) = &self.connected {
            line(&mut text, &connected_text(connected));
            line(&mut text, &format!("  {}", kinds_text(&connected.kinds)));
        }
        if let Some(idle) = &self.idle {
            let cost = figure(idle.cpu_us(), 3, "us");
            let seconds = idle.took.as_secs_f64();
            line(
                &mut text,
                &format!("idle for {seconds:.1} s: server {cost} CPU per conn and second"),
            );
        }
        if let Some(measured) = &self.measured {
            text += &measured_text(measured);
        }
        if !self.troubles.is_empty() {
            line(&mut text, &format!("trouble: {}", self.troubles));
        }
        line(&mut text, self.verdict());
        text
    }

    fn verdict(&self) -> &'static str {
        match &self.measured {
            _ if !self.is_clean() => "FAILED: not every publication is accounted for",
            None => "every connection was accepted",
            Some(measured) if measured.tally.gaps != Gaps::default() => {
                "nothing lost, doubled or out of order, and every gap reported"
            }
            Some(measured) if measured.publications == 0 => "nothing doubled or out of order",
            Some(_) => "every publication once and in order",
        }
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Formats a figure, or returns `unknown`.
fn figure(value: Option<f64>, digits: usize, unit: &str) -> String {
    match value {
        Some(value) => format!("{value:.digits$} {unit}"),
        None => "unknown".to_owned(),
    }
}

/// Formats the number of connections of each kind.
#[must_use]
pub fn kinds_text(kinds: &[(Kind, usize)]) -> String {
    let some = kinds.iter().filter(|(_, count)| *count > 0);
    let texts: Vec<String> = some
        .map(|(kind, count)| format!("{count} {}", kind.plural()))
        .collect();
    texts.join(", ")
}

/// Formats the figures of connecting.
#[must_use]
pub fn connected_text(connected: &ConnectFigures) -> String {
    let pss = |memory: Option<i64>| figure(memory.map(megabytes), 1, "MB");
    format!(
        "{} conns in {:.2} s ({:.0}/s): server {} CPU per connect, {} of its memory per idle conn \
         (PSS {} to {}), {:.0} B of slab for both ends",
        connected.conns,
        connected.took.as_secs_f64(),
        connected.per_second(),
        figure(connected.cpu_us(), 1, "us"),
        figure(connected.user_bytes(), 0, "B"),
        pss(connected.before.pss),
        pss(connected.with.pss),
        connected.slab_bytes(),
    )
}

/// Formats the figures of publishing.
#[must_use]
pub fn measured_text(measured: &PublishFigures) -> String {
    let mut text = String::new();
    line(
        &mut text,
        &format!(
            "{} publications, {} together: {} deliveries in {:.2} s; per delivery server {} CPU, \
             generator {}; PSS {}",
            measured.publications,
            measured.burst,
            measured.tally.delivered,
            measured.took.as_secs_f64(),
            figure(measured.cpu_us(), 2, "us"),
            figure(measured.own_cpu_us(), 2, "us"),
            figure(measured.memory.pss.map(megabytes), 1, "MB"),
        ),
    );
    let mut latencies = String::new();
    for (name, ms) in measured.latencies_ms() {
        // The result is ignored, because writing to a string cannot fail.
        let _written = write!(latencies, " {name} {ms:.1}");
    }
    if let Some((median, max)) = measured.last_ms() {
        let _written = write!(
            latencies,
            "; to the last subscriber p50 {median:.1} max {max:.1}"
        );
    }
    if !latencies.is_empty() {
        line(&mut text, &format!("  latency ms:{latencies}"));
    }
    if let Some(probe) = &measured.probe {
        let (all, busy) = (times_text(&probe.all), times_text(&probe.during_broadcast));
        let failed = probe.failed;
        line(
            &mut text,
            &format!("  new requests: {all}; during a broadcast {busy}; unanswered {failed}"),
        );
    }
    text + &counts_text(measured)
}

fn times_text(times: &Times) -> String {
    let at = |quantile| millis(times.quantile(quantile));
    let (count, median, late, max) = (times.count(), at(0.5), at(0.99), at(1.0));
    format!("{count} answered, ms p50 {median:.1} p99 {late:.1} max {max:.1}")
}

fn counts_text(measured: &PublishFigures) -> String {
    let Faults {
        lost,
        duplicates,
        reordered,
        wrong_ids,
        ended,
        refused,
    } = measured.tally.faults;
    let Gaps {
        readers,
        impaired,
        skipped,
        cut,
    } = measured.tally.gaps;
    let mut text = format!(
        "  lost {lost}, doubled {duplicates}, out of order {reordered}, wrong ids {wrong_ids}, \
         ended {ended}, refused {refused}{}\n",
        if measured.is_complete {
            ""
        } else {
            "; not every connection reached the last publication"
        },
    );
    if measured.tally.gaps != Gaps::default() {
        line(
            &mut text,
            &format!(
                "  gaps: {readers} at readers, {impaired} at stalled or slow connections, of {skipped} \
                 publications; {cut} stalled or slow connections closed by the server"
            ),
        );
    }
    if measured.tally.deflated > 0 {
        let (deflated, inflated) = (measured.tally.deflated, measured.tally.inflated);
        line(
            &mut text,
            &format!("  {deflated} compressed messages, of which {inflated} had to be inflated"),
        );
    }
    if measured.tally.answers > 0 {
        let answers = measured.tally.answers;
        line(&mut text, &format!("  {answers} answers to polls"));
    }
    if measured.tally.churned + measured.tally.foreign > 0 {
        line(
            &mut text,
            &format!(
                "  {} churning conns; {} publications of others",
                measured.tally.churned, measured.tally.foreign
            ),
        );
    }
    text
}
