//! `fanfare conns`: lists connections.

use std::io::Write;

use super::super::Failure;
use super::super::units::{grouped, milliseconds, short_bytes};
use super::args::ConnsArgs;
use super::client::Client;
use super::text::{Align, Table, escape, join, width};
use super::{columns, print, print_json, warn_of_silent_workers};
use fanfare::operator::answer::{ConnRow, ConnsAnswer};
use fanfare::operator::request::{ConnTransport, ConnsRequest, Request};

/// The columns of a connection that do not depend on the width of the terminal.
const TITLES: [(&str, Align); 5] = [
    ("CONNECTION", Align::Left),
    ("CLIENT", Align::Left),
    ("BEHIND", Align::Right),
    ("UNSENT", Align::Right),
    ("SILENT", Align::Right),
];
/// The further columns, if the terminal is wide enough.
const MORE_TITLES: [(&str, Align); 5] = [
    ("WORKER", Align::Right),
    ("TRANSPORT", Align::Left),
    ("TLS", Align::Left),
    ("SUB", Align::Left),
    ("CHANNELS", Align::Left),
];

/// Prints the list.
///
/// # Errors
/// Returns an error if the server does not answer, or refuses the request.
pub(in crate::cli) fn run(args: &ConnsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = Request::Conns(ConnsRequest {
        filter: args.filter.filter(),
        sort: args.sort,
        limit: args.limit,
    });
    let answer = Client::new(&args.socket)?.ask::<ConnsAnswer>(&request)?;
    if args.json {
        print_json(&answer.line, out)?;
    } else {
        print(&list(&answer.content, columns()), out)?;
    }
    let silent = &answer.content.silent_workers;
    warn_of_silent_workers(silent, "their connections are missing from the list");
    Ok(())
}

/// Returns the list as text. Without `columns` it can have any width.
fn list(answer: &ConnsAnswer, columns: Option<usize>) -> String {
    let ConnsAnswer {
        conns,
        matched,
        open,
        silent_workers: _,
    } = answer;
    let summary = match (conns.len() as u64, *matched) {
        (_, 0) => format!("no connection matches, {} open\n", grouped(*open)),
        (shown, matched) => format!(
            "{} of {} matching, {} open\n",
            grouped(shown),
            grouped(matched),
            grouped(*open)
        ),
    };
    if conns.is_empty() {
        return summary;
    }
    let wide = wide_lines(conns);
    let is_wide = columns.is_none_or(|columns| width(&wide) <= columns);
    let lines = if is_wide { wide } else { two_lines_each(conns) };
    join(&lines) + &summary
}

fn wide_lines(conns: &[ConnRow]) -> Vec<String> {
    let mut table = Table::new(&[TITLES, MORE_TITLES].concat());
    for conn in conns {
        let more = [
            conn.worker.to_string(),
            transport(conn),
            String::from(if conn.tls { "yes" } else { "no" }),
            conn.sub.clone().unwrap_or_else(|| String::from("-")),
            channels(conn),
        ];
        table.push(main_cells(conn).into_iter().chain(more));
    }
    table.lines()
}

fn two_lines_each(conns: &[ConnRow]) -> Vec<String> {
    let mut table = Table::new(&TITLES);
    for conn in conns {
        table.push(main_cells(conn));
    }
    let mut lines = table.lines().into_iter();
    let mut found: Vec<String> = lines.next().into_iter().collect();
    for (line, conn) in lines.zip(conns) {
        let tls = if conn.tls { " with TLS" } else { "" };
        let sub = conn.sub.as_ref();
        let sub = sub.map_or_else(String::new, |sub| format!(", sub {sub}"));
        let (kind, worker, channels) = (transport(conn), conn.worker, channels(conn));
        let more = format!("{kind}{tls}, worker {worker}{sub}, channels {channels}");
        found.push(line);
        found.push(format!("  {}", escape(&more)));
    }
    found
}

fn main_cells(conn: &ConnRow) -> [String; 5] {
    [
        conn.connection.clone(),
        client(conn),
        grouped(conn.behind),
        short_bytes(conn.unsent_bytes),
        milliseconds(conn.silent_ms),
    ]
}

/// Returns the address of the client: the one that a proxy has named, or the one of the peer.
pub(super) fn client(conn: &ConnRow) -> String {
    let address = conn.client.as_ref().or(conn.peer.as_ref());
    address.map_or_else(|| String::from("-"), Clone::clone)
}

/// Returns what the connection is used for, as `--transport` names it.
pub(super) fn transport(conn: &ConnRow) -> String {
    let word = match conn.transport {
        ConnTransport::EventStream => "event_stream",
        ConnTransport::Poll => "poll",
        ConnTransport::Request => "request",
        ConnTransport::WebSocket => "websocket",
    };
    let closing = if conn.closing { ", closing" } else { "" };
    format!("{word}{closing}")
}

/// Returns the names of the first channels, and how many more there are.
fn channels(conn: &ConnRow) -> String {
    let named = conn.first_channels.join(" ");
    match conn
        .channels
        .saturating_sub(conn.first_channels.len() as u64)
    {
        0 if named.is_empty() => String::from("-"),
        0 => named,
        more => format!("{named} and {} more", grouped(more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(digit: char) -> ConnRow {
        ConnRow {
            connection: digit.to_string().repeat(40),
            worker: 3,
            peer: Some(String::from("203.0.113.7:51000")),
            client: None,
            transport: ConnTransport::WebSocket,
            tls: true,
            closing: false,
            sub: Some(String::from("alice")),
            channels: 1,
            first_channels: vec![String::from("prices:eur")],
            behind: 12_345,
            behind_bytes: 1 << 20,
            unsent_bytes: 65_536,
            unacknowledged_bytes: 0,
            silent_ms: 61_000,
        }
    }

    fn answer(conns: Vec<ConnRow>) -> ConnsAnswer {
        ConnsAnswer {
            matched: 314,
            open: 10_000,
            conns,
            silent_workers: Vec::new(),
        }
    }

    #[test]
    fn list_has_a_row_for_each_connection_and_the_numbers() {
        let name = "a".repeat(40);
        let blank = " ".repeat(30);
        let shown = list(&answer(vec![conn('a')]), None);
        assert_eq!(
            shown,
            format!(
                "CONNECTION{blank}  CLIENT             BEHIND    UNSENT     SILENT  WORKER  \
                 TRANSPORT  TLS  SUB    CHANNELS\n\
                 {name}  203.0.113.7:51000  12,345  64.0 KiB  1 min 1 s       3  \
                 websocket  yes  alice  prices:eur\n\
                 1 of 314 matching, 10,000 open\n"
            )
        );
    }

    #[test]
    fn narrow_terminal_gets_two_lines_for_each_connection() {
        let other = ConnRow {
            tls: false,
            closing: true,
            sub: None,
            client: Some(String::from("198.51.100.1")),
            channels: 5,
            first_channels: ["a", "b", "c"].map(str::to_owned).to_vec(),
            ..conn('b')
        };
        let shown = list(&answer(vec![conn('a'), other]), Some(100));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 6, "{shown}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{shown}");
        assert_eq!(
            lines[2],
            "  websocket with TLS, worker 3, sub alice, channels prices:eur"
        );
        assert!(lines[3].contains("  198.51.100.1 "), "{shown}");
        assert_eq!(
            lines[4],
            "  websocket, closing, worker 3, channels a b c and 2 more"
        );
    }

    #[test]
    fn subject_cannot_control_the_terminal_or_fake_a_row() {
        let hostile = ConnRow {
            sub: Some(String::from("x\u{1b}[2J\nfake")),
            first_channels: vec![String::from("c\u{9b}1m")],
            ..conn('a')
        };
        for columns in [None, Some(80)] {
            let shown = list(&answer(vec![hostile.clone()]), columns);
            assert!(shown.contains("x\\u{1b}[2J\\nfake"), "{shown}");
            let is_control = |c: char| c.is_control() && c != '\n';
            assert!(!shown.contains(is_control), "{shown:?}");
        }
    }

    #[test]
    fn empty_list_has_only_the_numbers() {
        let none = ConnsAnswer {
            open: 10_000,
            ..ConnsAnswer::default()
        };
        assert_eq!(list(&none, None), "no connection matches, 10,000 open\n");
    }
}
