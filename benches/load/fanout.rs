//! Load generator: a real server, thousands of subscribers, every publication accounted for.
//!
//! `cargo bench --bench fanout -- --websockets 10000 --event-streams 10000 --rate 20 --seconds 60`
//! starts the `fanfare` program as a child, subscribes, publishes stamped payloads through the feed
//! and checks on each connection that every number arrives once and in order. With `--floor` it
//! also runs [`floor`], the least that any server has to do, and prints ratios. Exit status 1 when
//! a publication was lost, doubled, out of order, or skipped without a word.
#![allow(
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a program for the command line, on input of its own"
)]

mod crowd;
mod floor;
mod options;
mod process;
mod publisher;
mod report;
mod run;
mod stream;
mod tally;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use options::Options;

fn main() -> ExitCode {
    match act(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fanout: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False when something was lost.
fn act(options: &Options) -> Result<bool> {
    if let Some(feed) = &options.serve_floor {
        return floor::serve(feed, options.workers).map(|()| true);
    }
    let report = if options.floor {
        run::compare(options)?
    } else {
        run::accept(options)?
    };
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.is_clean())
}
