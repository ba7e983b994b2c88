//! The report, as text and as JSON.
//!
//! [`Report::new`] computes the number of connections that fit, the limit that is reached first,
//! and remedies for the limits that are too low. The report is serialised as one JSON object;
//! [`Report::write`] prints the same content as text. The module reads no files. `fanfare doctor`
//! is the only caller.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::super::units::{bytes, grouped};
use super::advice::{self, Advice, Features};
use super::capacity::{self, Allows, KERNEL_BYTES_PER_CONN, LimitId, Plan, USER_BYTES_PER_CONN};
use super::facts::Reading;
use super::limit_texts;
use super::remedies::{self, Remedy};

/// Memory of one conn, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct BytesPerConn {
    kernel: u64,
    user: u64,
    /// Memory of full send buffers per conn. This is the total size of these buffers, divided by
    /// the number of all conns.
    send_buffers: u64,
}

/// One limit, as a row of the report's table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: &'static str,
    read: String,
    /// The number of conns that the limit allows. Null if the limit allows any number, or if the
    /// number is unknown.
    conns: Option<u64>,
    known: bool,
    effect: &'static str,
    /// Ways to raise the limit; empty if the limit is high enough.
    lift: Vec<Remedy>,
}

/// The requested number of conns, and whether the machine can hold this number.
#[derive(Clone, Debug, Serialize)]
struct Target {
    conns: u64,
    fits: bool,
    /// Names of the limits that are too low for the requested number of conns.
    too_low: Vec<&'static str>,
    /// A number of workers with which the machine can hold the requested number of conns, without
    /// any other change. Null if there is no such number.
    fits_with_workers: Option<u32>,
}

/// The whole report, serialised as JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    fanfare: &'static str,
    kernel: Option<String>,
    context: String,
    processors: Option<u32>,
    workers: u32,
    stalled_percent: u8,
    bytes_per_conn: BytesPerConn,
    fixed_bytes: u64,
    /// The number of conns that fit; null if no limit is known.
    conns: Option<u64>,
    binds_first: Option<&'static str>,
    /// The number of conns for which the remedies raise the limits.
    goal: u64,
    target: Option<Target>,
    limits: Vec<Row>,
    features: Features,
    advice: Vec<Advice>,
    /// All values that were read, by the path of their file. A value that could not be read is
    /// null.
    read: BTreeMap<String, Option<String>>,
}

impl Report {
    /// Creates the report for a target, which is the requested number of conns. Without a target,
    /// the remedies are for the number of conns that the second-lowest limit allows.
    pub(super) fn new(reading: &Reading, plan: &Plan, target: Option<u64>) -> Self {
        let facts = &reading.facts;
        let limits = capacity::limits(facts, plan);
        let binding = capacity::binding(&limits);
        let goal = target.unwrap_or_else(|| next_goal(&limits));
        let rows = limits
            .iter()
            .map(|limit| Row {
                name: limit_texts::name(limit.id),
                read: limit_texts::value(limit.id, facts, plan),
                conns: match limit.allows {
                    Allows::Conns(conns) => Some(conns),
                    Allows::AnyNumber | Allows::Unknown => None,
                },
                known: limit.allows != Allows::Unknown,
                effect: limit_texts::effect(limit.id),
                lift: if limit.allows.refuses(goal) {
                    remedies::remedies(limit.id, facts, plan, goal)
                } else {
                    Vec::new()
                },
            })
            .collect();
        Self {
            fanfare: env!("CARGO_PKG_VERSION"),
            kernel: facts.kernel.clone(),
            context: facts.context.text(),
            processors: facts.processors,
            workers: plan.workers,
            stalled_percent: plan.stalled_percent,
            bytes_per_conn: BytesPerConn {
                kernel: KERNEL_BYTES_PER_CONN,
                user: USER_BYTES_PER_CONN,
                send_buffers: plan.buffer_bytes_per_conn(facts),
            },
            fixed_bytes: plan.fixed_bytes(),
            conns: binding.map(|(_, conns)| conns),
            binds_first: binding.map(|(id, _)| limit_texts::name(id)),
            goal,
            target: target.map(|conns| judge(reading, plan, &limits, conns)),
            limits: rows,
            features: advice::features(facts),
            advice: advice::advise(facts, plan, goal),
            read: reading
                .notes
                .iter()
                .map(|note| (note.name.clone(), note.value.clone()))
                .collect(),
        }
    }

    /// Whether the machine can hold the requested number of conns. True if no number was requested.
    pub(super) fn fits(&self) -> bool {
        self.target.as_ref().is_none_or(|target| target.fits)
    }

    /// Writes the report as text.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_verdict(out)?;
        self.write_basis(out)?;
        self.write_table(out)?;
        self.write_remedies(out)?;
        self.write_sysctls(out)?;
        self.write_advice(out)?;
        self.write_unknown(out)
    }

    fn write_verdict(&self, out: &mut dyn Write) -> io::Result<()> {
        let found = match (self.conns, self.binds_first) {
            (Some(conns), Some(name)) => {
                let fit = if conns == 1 { "fits" } else { "fit" };
                format!("{} {fit}; {name} binds first", connections(conns))
            }
            _ => String::from("the number that fits is not known"),
        };
        match &self.target {
            None => writeln!(out, "{found}."),
            Some(target) if target.fits => {
                writeln!(
                    out,
                    "The target of {} fits: {found}.",
                    connections(target.conns)
                )
            }
            Some(target) => {
                let target_conns = connections(target.conns);
                writeln!(out, "The target of {target_conns} does not fit: {found}.")?;
                match target.fits_with_workers {
                    Some(workers) => writeln!(out, "It fits with `--workers {workers}`."),
                    None => Ok(()),
                }
            }
        }
    }

    fn write_basis(&self, out: &mut dyn Write) -> io::Result<()> {
        let kernel = self.kernel.as_deref().unwrap_or("not known");
        let processors = self.processors.map_or_else(
            || String::from("processors not known"),
            |count| format!("processors {count}"),
        );
        writeln!(
            out,
            "\nLinux {kernel}, {}, {processors}, workers {}",
            self.context, self.workers
        )?;
        let BytesPerConn {
            kernel,
            user,
            send_buffers,
        } = self.bytes_per_conn;
        writeln!(
            out,
            "A connection takes {kernel} bytes in the kernel, {user} in the process, and {send_buffers} \
             for full send\nbuffers of {} % of all connections; the server itself takes up to {}.\n",
            self.stalled_percent,
            bytes(self.fixed_bytes)
        )
    }

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |text: fn(&Row) -> usize| self.limits.iter().map(text).max().unwrap_or(0);
        let names = width(|row| row.name.chars().count());
        let reads = width(|row| row.read.chars().count());
        writeln!(
            out,
            "{:<names$}  {:<reads$}  {:>13}",
            "limit", "value", "connections"
        )?;
        for row in &self.limits {
            let conns = match row.conns {
                Some(conns) => grouped(conns),
                None if row.known => String::from("any"),
                None => String::from("unknown"),
            };
            let mark = if self.binds_first == Some(row.name) {
                "  <- first"
            } else if row.conns.is_some_and(|conns| conns < self.goal) && self.target.is_some() {
                "  <- too low"
            } else {
                ""
            };
            writeln!(
                out,
                "{:<names$}  {:<reads$}  {conns:>13}{mark}",
                row.name, row.read
            )?;
        }
        Ok(())
    }

    fn write_remedies(&self, out: &mut dyn Write) -> io::Result<()> {
        let low: Vec<&Row> = self
            .limits
            .iter()
            .filter(|row| !row.lift.is_empty())
            .collect();
        if low.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nFor {}:", connections(self.goal))?;
        for row in low {
            writeln!(out, "  {}: at the limit, {}", row.name, row.effect)?;
            for way in &row.lift {
                writeln!(out, "    {}:\n      {}", way.place, way.line)?;
            }
        }
        Ok(())
    }

    /// Writes the sysctls as lines of a file that is applied at each boot.
    fn write_sysctls(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines: Vec<&str> = self
            .limits
            .iter()
            .flat_map(|row| &row.lift)
            .filter_map(|way| way.sysctl.as_deref())
            .collect();
        lines.sort_unstable();
        lines.dedup();
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\nTo keep sysctls after a reboot, in /etc/sysctl.d/99-fanfare.conf:"
        )?;
        for line in lines {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    fn write_advice(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.advice.is_empty() {
            writeln!(out, "\nAlso consider:")?;
        }
        for advice in &self.advice {
            write_wrapped(
                out,
                &format!("{}: {}.", advice.about, advice.why.trim_end_matches(':')),
            )?;
            if let Some(line) = &advice.line {
                writeln!(out, "      {line}")?;
            }
        }
        writeln!(
            out,
            "\nKernel: io_uring {}, memory for rings {}.",
            self.features.io_uring.replace('_', " "),
            self.features.locked_memory
        )
    }

    fn write_unknown(&self, out: &mut dyn Write) -> io::Result<()> {
        let missing: Vec<&str> = self
            .read
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nNot known, because they cannot be read here:")?;
        for name in missing {
            writeln!(out, "  {name}")?;
        }
        Ok(())
    }
}

/// Formats a number of connections, with the unit.
fn connections(count: u64) -> String {
    let unit = if count == 1 {
        "connection"
    } else {
        "connections"
    };
    format!("{} {unit}", grouped(count))
}

/// Writes an indented sentence, wrapped to the width of a terminal.
fn write_wrapped(out: &mut dyn Write, text: &str) -> io::Result<()> {
    const COLUMNS: usize = 92;
    let mut line = String::from(" ");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            writeln!(out, "{line}")?;
            line = String::from("   ");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}")
}

/// Returns the number of conns that fit after the lowest limit has been raised. This is the number
/// that the second-lowest limit allows.
fn next_goal(limits: &[capacity::Limit]) -> u64 {
    let mut numbers: Vec<u64> = limits
        .iter()
        .filter_map(|limit| match limit.allows {
            Allows::Conns(conns) => Some(conns),
            Allows::AnyNumber | Allows::Unknown => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    match numbers.as_slice() {
        [] => 0,
        [only] => only.saturating_mul(2),
        [_, next, ..] => *next,
    }
}

fn judge(reading: &Reading, plan: &Plan, limits: &[capacity::Limit], conns: u64) -> Target {
    let facts = &reading.facts;
    let refusing = |limits: &[capacity::Limit]| -> Vec<LimitId> {
        limits
            .iter()
            .filter(|limit| limit.allows.refuses(conns))
            .map(|limit| limit.id)
            .collect()
    };
    let is_bounded = capacity::binding(limits).is_some();
    let too_low = refusing(limits);
    let fits = is_bounded && too_low.is_empty();
    let more_workers = remedies::enough_workers(facts, conns)
        .filter(|workers| !fits && *workers > plan.workers)
        .filter(|workers| {
            let workers = *workers;
            refusing(&capacity::limits(facts, &Plan { workers, ..*plan })).is_empty()
        });
    Target {
        conns,
        fits,
        too_low: too_low.into_iter().map(limit_texts::name).collect(),
        fits_with_workers: more_workers,
    }
}
