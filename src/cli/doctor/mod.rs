//! `fanfare doctor`: how many conns this machine holds, which limit binds first, and what lifts it.
//!
//! Reads the limits ([`tree`], [`facts`], [`cgroup`], [`context`]), does the sums ([`capacity`]),
//! finds the lines ([`remedies`], [`advice`]) and writes them down ([`report`], [`limit_texts`]). Changes
//! nothing on the machine; only [`tree`] touches a file. A value that cannot be read is said to be
//! unknown and is never guessed.

mod advice;
mod capacity;
mod cgroup;
mod context;
mod facts;
mod limit_texts;
mod parse;
mod remedies;
mod report;
mod tree;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;

use super::args::DoctorArgs;
use super::{Failure, tell};
use capacity::Plan;
use facts::{Facts, Reading};
use fanfare::config::file::{self, Overrides};
use report::Finding;
use tree::Tree;

/// Examines, reports, and fails when the target does not fit.
pub(super) fn run(args: &DoctorArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let flags = Overrides {
        workers: args.workers,
        ..Overrides::default()
    };
    let loaded = file::load(args.config.as_deref(), file::process_environment(), &flags)?;
    for warning in &loaded.warnings {
        tell(&format!("warning: {warning}"));
    }
    let root = args.root.as_deref().unwrap_or_else(|| Path::new("/"));
    let tree = Tree::new(root, args.pid);
    let facts = Facts::gather(&tree);
    if let Some(folder) = &args.record {
        tree.record(folder)
            .with_context(|| format!("cannot record to {}", folder.display()))?;
    }
    let workers = match loaded.config.workers {
        0 => facts.processors.unwrap_or(1),
        workers => workers,
    };
    let plan = Plan::new(&loaded.config, workers, args.stalled);
    let notes = tree.into_notes();
    let finding = Finding::new(&Reading { facts, notes }, &plan, args.target);
    if args.json {
        write_json(&finding, out)
    } else {
        finding.write(out)
    }
    .map_err(Failure::of_output)?;
    if finding.fits() {
        return Ok(());
    }
    Err(Failure::Told)
}

fn write_json(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, finding)?;
    writeln!(out)
}

#[cfg(test)]
mod tests;
