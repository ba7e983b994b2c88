//! `fanfare doctor`: how many connections this machine can hold, which limit binds first, and how
//! to raise it.
//!
//! The command reads the limits ([`tree`], [`facts`], [`cgroup`], [`context`]) and computes how
//! many connections each limit allows ([`capacity`]). It finds remedies ([`remedies`], [`advice`])
//! and writes the report ([`report`], [`limit_texts`]). It changes nothing on the machine; only
//! [`tree`] accesses files. A value that cannot be read is reported as unknown and never guessed.

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

use anyhow::{Context as _, anyhow};

use super::args::DoctorArgs;
use super::{Failure, print_error};
use capacity::Plan;
use facts::{Facts, Reading};
use fanfare::config::file::{self, Overrides};
use report::Report;
use tree::Tree;

/// Prints the report. Fails if the machine cannot hold the target number of connections.
pub(super) fn run(args: &DoctorArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let flags = Overrides {
        workers: args.workers,
        ..Overrides::default()
    };
    let loaded = file::load(args.config.as_deref(), file::process_environment(), &flags)?;
    for warning in &loaded.warnings {
        print_error(&format!("warning: {warning}"));
    }
    let root = args.root.as_deref().unwrap_or_else(|| Path::new("/"));
    let tree = Tree::new(root, args.pid);
    if let Some(pid) = args.pid
        && !tree.has_process()
    {
        let why = "systemctl prints 0 for a unit that does not run";
        return Err(anyhow!("there is no process {pid} ({why})").into());
    }
    let facts = Facts::gather(&tree);
    if let Some(folder) = &args.record {
        tree.record(folder)
            .with_context(|| format!("cannot write the record to {}", folder.display()))?;
    }
    let workers = match loaded.config.workers {
        0 => facts.processors.unwrap_or(1),
        workers => workers,
    };
    let plan = Plan::new(&loaded.config, workers, args.stalled);
    let notes = tree.into_notes();
    let report = Report::new(&Reading { facts, notes }, &plan, args.target);
    if args.json {
        write_json(&report, out)
    } else {
        report.write(out)
    }
    .map_err(Failure::of_output)?;
    if report.fits() {
        return Ok(());
    }
    Err(Failure::Reported)
}

fn write_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

#[cfg(test)]
mod tests;
