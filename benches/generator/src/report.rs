//! The report of a run: as text for people and as one JSON object for programs.
//!
//! The last line of the text is the verdict, and the exit status follows from the same question.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::figures::{Idled, Measured, Opened, Storm, megabytes, millis};
use super::probe::Times;
use super::stream_parser::Kind;
use super::tally::{Faults, Gaps};

/// Everything there is to say.
#[derive(Debug)]
pub struct Report {
    /// Whether a gap that is told to a connection that reads is a failure.
    pub is_strict: bool,
    /// Why connections have failed; empty if none has.
    pub troubles: String,
    /// Coming and going.
    pub storms: Vec<Storm>,
    /// Connecting.
    pub opened: Option<Opened>,
    /// Doing nothing.
    pub idled: Option<Idled>,
    /// Publishing.
    pub measured: Option<Measured>,
}

impl Report {
    /// Whether everything was accounted for.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let measured = self.measured.as_ref();
        measured.is_none_or(|measured| measured.is_clean(self.is_strict))
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> String {
        let storms: Vec<Value> = self.storms.iter().map(Storm::json).collect();
        let value = json!({
            "clean": self.is_clean(),
            "troubles": self.troubles,
            "storms": storms,
            "connect": self.opened.as_ref().map(Opened::json),
            "idle": self.idled.as_ref().map(Idled::json),
            "publish": self.measured.as_ref().map(Measured::json),
        });
        format!("{value:#}\n")
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (number, storm) in (1..).zip(&self.storms) {
            line(
                &mut text,
                &format!("storm {number}: {}", opened_text(&storm.opened)),
            );
            if let Some(pss) = storm.after.pss {
                let pss = megabytes(pss);
                line(&mut text, &format!("  everybody gone: PSS {pss:.1} MB"));
            }
        }
        if let Some(opened) = &self.opened {
            line(&mut text, &opened_text(opened));
            line(&mut text, &format!("  {}", kinds_text(&opened.kinds)));
        }
        if let Some(idled) = &self.idled {
            let cost = figure(idled.cpu_us(), 3, "us");
            let seconds = idled.took.as_secs_f64();
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
            None => "everybody was let in",
            Some(measured) if measured.tally.gaps != Gaps::default() => {
                "nothing lost, doubled or out of order, and every gap told"
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

/// A figure that may not be known.
fn figure(value: Option<f64>, digits: usize, unit: &str) -> String {
    match value {
        Some(value) => format!("{value:.digits$} {unit}"),
        None => "unknown".to_owned(),
    }
}

/// How many connections there are of each kind, for people.
#[must_use]
pub fn kinds_text(kinds: &[(Kind, usize)]) -> String {
    let some = kinds.iter().filter(|(_, count)| *count > 0);
    let texts: Vec<String> = some
        .map(|(kind, count)| format!("{count} {}", kind.plural()))
        .collect();
    texts.join(", ")
}

/// What connecting has cost, for people.
#[must_use]
pub fn opened_text(opened: &Opened) -> String {
    let pss = |memory: Option<i64>| figure(memory.map(megabytes), 1, "MB");
    format!(
        "{} conns in {:.2} s ({:.0}/s): server {} CPU per connect, {} of its memory per idle conn \
         (PSS {} to {}), {:.0} B of slab for both ends",
        opened.conns,
        opened.took.as_secs_f64(),
        opened.per_second(),
        figure(opened.cpu_us(), 1, "us"),
        figure(opened.user_bytes(), 0, "B"),
        pss(opened.before.pss),
        pss(opened.with.pss),
        opened.slab_bytes(),
    )
}

/// What publishing has cost, for people.
#[must_use]
pub fn measured_text(measured: &Measured) -> String {
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
        // Writing to a string does not fail.
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
            &format!("  new requests: {all}; during a broadcast {busy}; without answer {failed}"),
        );
    }
    text + &counts_text(measured)
}

fn times_text(times: &Times) -> String {
    let at = |quantile| millis(times.quantile(quantile));
    let (count, median, late, max) = (times.count(), at(0.5), at(0.99), at(1.0));
    format!("{count} answered, ms p50 {median:.1} p99 {late:.1} max {max:.1}")
}

fn counts_text(measured: &Measured) -> String {
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
            "; not everybody came to the end"
        },
    );
    if measured.tally.gaps != Gaps::default() {
        line(
            &mut text,
            &format!(
                "  gaps told: {readers} to readers, {impaired} to stalled or slow ones; {skipped} \
                 publications in them; {cut} stalled or slow ones cut"
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
    if measured.tally.passed + measured.tally.foreign > 0 {
        line(
            &mut text,
            &format!(
                "  {} conns came and went; {} publications of others",
                measured.tally.passed, measured.tally.foreign
            ),
        );
    }
    text
}
