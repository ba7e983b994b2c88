//! `fanfare workers`: lists workers.

use std::io::Write;

use super::super::Failure;
use super::super::units::{grouped, microseconds, milliseconds, short_bytes};
use super::args::WorkersArgs;
use super::client::Client;
use super::text::{Align, Table, join};
use super::{print, print_json, warn_of_silent_workers};
use fanfare::operator::answer::{WorkerRow, WorkersAnswer};
use fanfare::operator::request::{Empty, Request};

/// What is shown instead of the time of an answer.
pub(super) const NO_ANSWER: &str = "no";

const TITLES: [&str; 10] = [
    "WORKER",
    "ANSWERED",
    "CONNECTIONS",
    "SUBSCRIPTIONS",
    "INBOX",
    "DELIVERIES",
    "SENT",
    "TURNS",
    "LATE",
    "WORKED",
];

/// Prints the list.
///
/// # Errors
/// Returns an error if the server does not answer, or refuses the request.
pub(in crate::cli) fn run(args: &WorkersArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = Request::Workers(Empty {});
    let answer = Client::new(&args.socket)?.ask::<WorkersAnswer>(&request)?;
    match args.json {
        true => print_json(&answer.line, out)?,
        false => print(&list(&answer.content), out)?,
    }
    warn_of_silent_workers(&answer.content.silent_workers, "overloaded or stuck");
    Ok(())
}

fn list(answer: &WorkersAnswer) -> String {
    let mut table = Table::new(&TITLES.map(|title| (title, Align::Right)));
    for worker in &answer.workers {
        table.push(cells(worker));
    }
    join(&table.lines())
}

fn cells(worker: &WorkerRow) -> [String; 10] {
    [
        worker.worker.to_string(),
        answered(worker),
        grouped(worker.conns),
        grouped(worker.subscriptions),
        grouped(worker.inbox),
        grouped(worker.deliveries),
        short_bytes(worker.sent_bytes),
        grouped(worker.turns),
        grouped(worker.turns_late),
        milliseconds(worker.worked_us / 1_000),
    ]
}

/// Returns the time until the worker has answered.
pub(super) fn answered(worker: &WorkerRow) -> String {
    let text = worker.answered_us.map(microseconds);
    text.unwrap_or_else(|| String::from(NO_ANSWER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_a_row_for_each_worker() {
        let worker = WorkerRow {
            worker: 1,
            answered_us: Some(120),
            conns: 5_000,
            subscriptions: 5_001,
            inbox: 2,
            deliveries: 1_000_000,
            sent_bytes: 3 << 20,
            turns: 7_000,
            turns_late: 1,
            worked_us: 61_000_000,
        };
        let late = WorkerRow::default();
        let answer = WorkersAnswer {
            workers: vec![late, worker],
            silent_workers: vec![0],
        };
        assert_eq!(
            list(&answer),
            "WORKER  ANSWERED  CONNECTIONS  SUBSCRIPTIONS  INBOX  DELIVERIES     SENT  TURNS  LATE     WORKED\n\
             \x20    0        no            0              0      0           0        0      0     0       0 ms\n\
             \x20    1    120 us        5,000          5,001      2   1,000,000  3.0 MiB  7,000     1  1 min 1 s\n"
        );
    }
}
