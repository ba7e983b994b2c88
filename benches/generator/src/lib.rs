//! The load generator of `fanfare bench`, which opens many connections and accounts for every
//! publication.
//!
//! The generator shares no code and no state with the server. They communicate over sockets only.
//!
//! - `options` defines the command line. `plan` derives the connections to open from the options.
//! - `client_pool` starts the client threads. `client_thread`, `client_io` and `schedule` implement
//!   one client thread.
//! - `stream_parser` turns received bytes into events. It uses `poll_response` for polls and
//!   `inflate_cache` for compressed messages. `tally` checks and counts the events.
//! - `load_test` is one server with all clients connected. `publisher` publishes to the server,
//!   `probe` times requests on new connections, and `server` and `process` measure the server.
//! - `figures`, `report` and `plot` show the results.
//!
//! The comparisons in `benches/load` use many of these modules, which are therefore public.
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test may panic"
    )
)]

mod client_io;
pub mod client_pool;
mod client_thread;
pub mod figures;
pub mod inflate_cache;
pub mod load_test;
pub mod options;
pub mod plan;
pub mod plot;
mod poll_response;
pub mod position;
pub mod probe;
pub mod process;
pub mod publisher;
pub mod report;
mod schedule;
pub mod server;
pub mod stream_parser;
mod sys;
pub mod tally;

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

use figures::PublishFigures;
use load_test::{LoadTest, PublishRate};
use options::BenchArgs;
use plan::Plan;
use publisher::FeedFormat;
use report::Report;
use server::Server;
use sys::{allowed_cpus, raise_descriptor_limit};

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The report could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The run could not be started or completed.
    #[error(transparent)]
    Running(#[from] anyhow::Error),
    /// The run is complete, but a publication is not accounted for. The report has the details.
    #[error("not every publication is accounted for")]
    Unaccounted,
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(String),
}

/// Runs the load test that the arguments request, and writes the report.
///
/// # Errors
/// Returns [`Failure::Usage`] before anything is started. Returns [`Failure::Unaccounted`] after
/// the report if publications were lost, duplicated or out of order; the report has the details.
/// Returns the other failures if a run or the output fails.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let descriptors = raise_descriptor_limit();
    args.check(descriptors).map_err(Failure::Usage)?;
    let report = measure(args, descriptors)?;
    if let (Some(path), Some(measured)) = (&args.plot, &report.measured) {
        draw(path, args, measured)?;
    }
    let text = if args.json {
        report.json()
    } else {
        report.text()
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::Unaccounted)
    }
}

fn measure(args: &BenchArgs, descriptors: u64) -> Result<Report> {
    let server = match args.attach {
        Some(address) => Server::attach(address, args.feed.clone(), args.pid),
        None => Server::start(serve_command(args)?, "--feed")?,
    };
    let plan = args.plan(server.address, descriptors, allowed_cpus());
    let mut report = Report {
        is_strict: args.strict,
        troubles: String::new(),
        storms: Vec::new(),
        connected: None,
        idle: None,
        measured: None,
    };
    if args.storms > 0 {
        for number in 1..=args.storms {
            let bar = bar(args.conns() as u64, &format!("storm {number}"));
            report
                .storms
                .push(load_test::storm(&server, plan.clone(), &bar)?);
            bar.finish_and_clear();
        }
        return Ok(report);
    }
    run_load_test(args, server, plan, &mut report)?;
    Ok(report)
}

/// Connects all clients, then measures idle connections and publishing as the arguments request.
fn run_load_test(args: &BenchArgs, server: Server, plan: Plan, report: &mut Report) -> Result<()> {
    let payloads = args
        .publishes()
        .then(|| (FeedFormat::Lines, args.payloads()));
    let connecting = bar(args.conns() as u64, "connections");
    let load_test = LoadTest::open(server, plan, payloads, &connecting);
    connecting.finish_and_clear();
    let mut load_test = load_test?;
    report.connected = Some(load_test.connected().clone());
    if args.idle > 0.0 {
        let bar = bar(0, "idle");
        report.idle = Some(load_test.idle(Duration::from_secs_f64(args.idle), &bar)?);
        bar.finish_and_clear();
    }
    if args.seconds > 0.0 {
        let due = if args.publishes() {
            args.rate * args.seconds
        } else {
            0.0
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the length of a progress bar"
        )]
        let bar = bar(due as u64, "publications");
        let rate = PublishRate {
            burst: args.burst,
            interval: args.interval(),
            lasting: Duration::from_secs_f64(args.seconds),
            has_probe: args.probe,
        };
        let measured = load_test.publish_at_rate(&rate, &bar);
        bar.finish_and_clear();
        report.measured = Some(measured?);
    }
    report.troubles = load_test.troubles();
    Ok(())
}

/// Returns the command that starts `fanfare serve`, from this program's own file, on a free port.
fn serve_command(args: &BenchArgs) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(own);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--log", "warn", "--workers", &args.workers.to_string()])
        .args(args.server_flags.split_whitespace());
    if args.deflate {
        command.env("FANFARE_DEFLATE_ENABLED", "true");
    }
    Ok(command)
}

fn draw(path: &Path, args: &BenchArgs, measured: &PublishFigures) -> Result<()> {
    let title = format!(
        "{}, {} publications, {} deliveries",
        report::kinds_text(&args.kinds()),
        measured.publications,
        measured.tally.delivered
    );
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run")]
    let ms = |quantile| measured.tally.latency_us(quantile) as f64 / 1e3;
    let picture = plot::svg(&title, measured.tally.timed(), ms);
    std::fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns a progress bar, or a spinner if the length is 0. The bar is hidden if standard error is
/// not a terminal.
fn bar(length: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, style) = match length {
        0 => (
            ProgressBar::new_spinner(),
            "{spinner} {prefix} {elapsed} {msg}",
        ),
        length => (
            ProgressBar::new(length),
            "{prefix} {bar:30} {human_pos}/{human_len} {per_sec} {msg}",
        ),
    };
    let bar = bar.with_prefix(what.to_owned());
    // An invalid template would be a defect in this file. In that case the bar has the default
    // style.
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_mistake) => bar,
    }
}
