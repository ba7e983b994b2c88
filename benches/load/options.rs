//! The flags and the main function that the comparisons with the floor (the baseline server) share.
//!
//! Each of these programs starts itself as a child process with `--serve-floor`. With this flag,
//! the program runs as the floor and compares nothing. `floor.rs` and `peers.rs` use this file.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use fanfare_generator::publisher::PAYLOAD_BYTES_MIN;

use crate::baseline_server;

/// The flags of all comparisons with the floor, the baseline server.
#[derive(Debug, Args)]
pub(crate) struct SharedOptions {
    /// Bytes of JSON in each publication; at least 64.
    #[arg(long, default_value_t = 100)]
    pub(crate) payload: usize,
    /// Publications sent together; may be repeated [default: 1 and 10].
    #[arg(long)]
    burst: Vec<u32>,
    /// Number of bursts in one measurement.
    #[arg(long, default_value_t = 20)]
    pub(crate) bursts: u32,
    /// Number of times that all servers are started and measured.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u32,
    /// Workers of fanfare and of the floor, the baseline server.
    #[arg(long, default_value_t = 2)]
    pub(crate) workers: u32,
    /// Flags for `fanfare serve`, as one argument.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) server_flags: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Run as the floor (the baseline server), with the feed at this path. Only this program sets
    /// the flag.
    #[arg(long, hide = true)]
    serve_floor: Option<PathBuf>,
    /// cargo sets this flag. It is ignored.
    #[arg(long, hide = true)]
    bench: bool,
    /// Some test runners set this flag. It is ignored.
    #[arg(long, hide = true)]
    test: bool,
}

impl SharedOptions {
    pub(crate) fn burst_sizes(&self) -> Vec<u32> {
        if self.burst.is_empty() {
            vec![1, 10]
        } else {
            self.burst.clone()
        }
    }
}

/// The figures of a comparison.
pub(crate) trait Report {
    /// Returns the figures as JSON.
    fn json(&self) -> String;

    /// Returns the figures as text.
    fn text(&self) -> String;

    /// Whether the deliveries of fanfare and of the floor, the baseline server, were complete and
    /// correct.
    fn is_clean(&self) -> bool;
}

/// Runs a comparison and prints its report. `name` is the name of the program. The exit status is 1
/// if the report is not clean, and 2 after an error.
pub(crate) fn run<R: Report>(
    name: &str,
    options: &SharedOptions,
    compare: impl FnOnce() -> Result<R>,
) -> ExitCode {
    match serve_or_compare(options, compare) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs this program as the floor (the baseline server) if `--serve-floor` is set. Otherwise
/// compares the servers and prints the report. Returns false if the report shows a fault.
fn serve_or_compare<R: Report>(
    options: &SharedOptions,
    compare: impl FnOnce() -> Result<R>,
) -> Result<bool> {
    if let Some(feed) = &options.serve_floor {
        return baseline_server::serve(feed, options.workers).map(|()| true);
    }
    ensure!(
        options.payload >= PAYLOAD_BYTES_MIN,
        "a payload has at least {PAYLOAD_BYTES_MIN} bytes"
    );
    let report = compare()?;
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.is_clean())
}
