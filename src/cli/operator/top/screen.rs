//! PURE: the text of `fanfare top`, fitted to the size of a terminal.
//!
//! The first lines have the figures of the whole server. The lists below share the remaining lines.
//! Without a terminal, all lines are printed in full.

use super::super::super::units::{bytes, grouped, milliseconds, short_bytes, tenths};
use super::super::conns::{client, transport};
use super::super::text::{Align, Table, cut, escape, join};
use super::super::workers::answered;
use super::rates::Rates;
use fanfare::operator::answer::TopAnswer;

/// The seconds over which the server counts the recent publications of a channel.
const RECENT_S: u64 = 10;
/// The lines of a list that are no rows: a blank line and the titles.
const LIST_HEAD: usize = 2;

/// The size of a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// The width.
    pub(super) columns: usize,
    /// The height.
    pub(super) rows: usize,
}

/// What is shown at one time.
#[derive(Debug)]
pub(super) struct Screen<'a> {
    /// The answer of the server.
    pub(super) answer: &'a TopAnswer,
    /// The rates since the answer before.
    pub(super) rates: &'a Rates,
    /// Whether the server was restarted while the command has watched it.
    pub(super) has_restarted: bool,
    /// The time, in milliseconds since 1970-01-01 UTC.
    pub(super) now_unix_ms: u64,
}

/// A list: its titles, and its rows.
type List = (String, Vec<String>);

impl Screen<'_> {
    /// Returns the text. On a terminal it leaves the last line free, for the cursor.
    pub(super) fn text(&self, size: Option<Size>) -> String {
        let mut lines = self.summary();
        let lists = [
            Some(self.workers()),
            self.laggards(),
            self.channels(),
            self.problems(),
        ];
        let mut lists: Vec<List> = lists.into_iter().flatten().collect();
        if let Some(Size { rows, .. }) = size {
            fit(&mut lists, rows.saturating_sub(lines.len() + 1));
        }
        for (titles, rows) in lists {
            lines.extend([String::new(), titles]);
            lines.extend(rows);
        }
        if let Some(Size { columns, rows }) = size {
            lines.truncate(rows.saturating_sub(1).max(1));
            for line in &mut lines {
                *line = cut(line, columns);
            }
        }
        join(&lines)
    }

    fn summary(&self) -> Vec<String> {
        let Self { answer, rates, .. } = self;
        let restarted = match self.has_restarted {
            true => ", restarted while this command runs",
            false => "",
        };
        let period = match rates.is_since_start {
            true => String::from("since the start"),
            false => format!("of the last {}", milliseconds(rates.period_ms)),
        };
        let state = answer.state.lines().collect::<Vec<_>>().join("; ");
        let share = (answer.log_bytes.saturating_mul(100))
            .checked_div(answer.log_bytes_max)
            .unwrap_or(0);
        vec![
            escape(&format!(
                "fanfare {}: {state}; up {}{restarted}; rates {period}",
                answer.version,
                milliseconds(answer.uptime_ms)
            )),
            format!(
                "connections {} of {}: websocket {}, event_stream {}, poll {}",
                grouped(answer.conns),
                grouped(answer.conns_max),
                grouped(answer.websockets),
                grouped(answer.event_streams),
                grouped(answer.polls)
            ),
            format!(
                "accepted {}/s, refused {}/s",
                tenths(rates.accepted),
                tenths(rates.refused)
            ),
            format!(
                "publications {}/s, deliveries {}/s, sent {}/s, skipped {}/s",
                tenths(rates.publications),
                tenths(rates.deliveries),
                short_bytes(rates.sent_bytes),
                tenths(rates.skipped)
            ),
            format!(
                "log {} of {} ({share} %), publications {}; memory {}",
                bytes(answer.log_bytes),
                bytes(answer.log_bytes_max),
                grouped(answer.log_publications),
                bytes(answer.memory_bytes)
            ),
        ]
    }

    fn workers(&self) -> List {
        const TITLES: [&str; 8] = [
            "WORKER",
            "BUSY",
            "ANSWERED",
            "CONNECTIONS",
            "INBOX",
            "DELIVERIES/S",
            "SENT/S",
            "LATE",
        ];
        let mut table = Table::new(&TITLES.map(|title| (title, Align::Right)));
        for (worker, rates) in self.answer.workers.iter().zip(&self.rates.workers) {
            table.push([
                worker.worker.to_string(),
                format!("{}.{} %", rates.busy / 10, rates.busy % 10),
                answered(worker),
                grouped(worker.conns),
                grouped(worker.inbox),
                tenths(rates.deliveries),
                short_bytes(rates.sent_bytes),
                grouped(rates.late),
            ]);
        }
        list(table)
    }

    fn laggards(&self) -> Option<List> {
        let mut table = Table::new(&[
            ("BEHIND", Align::Right),
            ("BYTES", Align::Right),
            ("UNSENT", Align::Right),
            ("SILENT", Align::Right),
            ("CLIENT", Align::Left),
            ("SUB", Align::Left),
            ("TRANSPORT", Align::Left),
            ("CONNECTION", Align::Left),
        ]);
        for conn in &self.answer.laggards {
            table.push([
                grouped(conn.behind),
                short_bytes(conn.behind_bytes),
                short_bytes(conn.unsent_bytes),
                milliseconds(conn.silent_ms),
                client(conn),
                conn.sub.clone().unwrap_or_else(|| String::from("-")),
                transport(conn),
                conn.connection.clone(),
            ]);
        }
        Some(list(table)).filter(|_| !self.answer.laggards.is_empty())
    }

    fn channels(&self) -> Option<List> {
        let mut table = Table::new(&[
            ("PUBLICATIONS/S", Align::Right),
            ("SUBSCRIBERS", Align::Right),
            ("IN THE LOG", Align::Right),
            ("BYTES", Align::Right),
            ("CHANNEL", Align::Left),
        ]);
        for channel in &self.answer.channels {
            table.push([
                tenths(channel.recent.saturating_mul(10) / RECENT_S),
                grouped(channel.subscribers),
                grouped(channel.publications),
                short_bytes(channel.bytes),
                channel.channel.clone(),
            ]);
        }
        Some(list(table)).filter(|_| !self.answer.channels.is_empty())
    }

    /// Returns the problems, the newest first, so that the oldest are left out on a small terminal.
    fn problems(&self) -> Option<List> {
        let rows = self.answer.problems.iter().rev().map(|problem| {
            let age = self.now_unix_ms.saturating_sub(problem.unix_ms);
            let age = milliseconds(age);
            escape(&format!("{} {age} ago: {}", problem.level, problem.text))
        });
        let rows: Vec<String> = rows.collect();
        let titles = String::from("LATEST WARNINGS AND ERRORS");
        Some((titles, rows)).filter(|_| !self.answer.problems.is_empty())
    }
}

fn list(table: Table) -> List {
    let mut lines = table.lines().into_iter();
    (lines.next().unwrap_or_default(), lines.collect())
}

/// Shortens lists so that they have at most `room` lines together. The longest list is shortened
/// first. Its last line then has the number of the rows that are missing. Lists without room for a
/// row are left out, the last one first.
fn fit(lists: &mut Vec<List>, room: usize) {
    // A list with rows needs its head, a row and perhaps the line for the missing rows.
    while lists.len() > 1 && lists.len() * (LIST_HEAD + 2) > room {
        lists.pop();
    }
    let needed = |kept: &[usize]| -> usize { kept.iter().map(|rows| rows + LIST_HEAD).sum() };
    let mut kept: Vec<usize> = lists.iter().map(|(_, rows)| rows.len()).collect();
    while needed(&kept) > room {
        match kept.iter_mut().max_by_key(|rows| **rows) {
            Some(longest) if *longest > 1 => *longest -= 1,
            _ => break,
        }
    }
    for ((_, rows), kept) in lists.iter_mut().zip(kept) {
        if kept < rows.len() {
            let missing = rows.len() - kept + 1;
            rows.truncate(kept.saturating_sub(1));
            rows.push(format!("… {missing} more"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare::operator::answer::{ChannelRow, ConnRow, ProblemRow, WorkerRow};
    use fanfare::operator::request::ConnTransport;

    fn laggard() -> ConnRow {
        ConnRow {
            connection: "a".repeat(40),
            worker: 1,
            peer: Some(String::from("203.0.113.7:51000")),
            client: None,
            transport: ConnTransport::WebSocket,
            tls: false,
            closing: false,
            sub: Some(String::from("x\u{1b}[2J")),
            channels: 1,
            first_channels: vec![String::from("prices:eur")],
            behind: 1_000,
            behind_bytes: 2_048,
            unsent_bytes: 65_536,
            unacknowledged_bytes: 0,
            silent_ms: 500,
        }
    }

    fn answer() -> TopAnswer {
        let worker = |worker| WorkerRow {
            worker,
            answered_us: Some(80),
            ..WorkerRow::default()
        };
        let channel = |number| ChannelRow {
            channel: format!("channel:{number}"),
            recent: 25,
            ..ChannelRow::default()
        };
        let problem = |number: u64| ProblemRow {
            unix_ms: 1_000 * number,
            level: String::from("WARN"),
            text: format!("problem {number}\nfake"),
        };
        TopAnswer {
            version: String::from("0.2.0"),
            uptime_ms: 3_725_000,
            now_us: 3_725_000_000,
            state: String::from("ready\n"),
            conns: 12_345,
            conns_max: 100_000,
            log_bytes: 32 << 20,
            log_bytes_max: 64 << 20,
            workers: (0..4).map(worker).collect(),
            laggards: vec![laggard()],
            channels: (0..10).map(channel).collect(),
            problems: (0..10u64).map(problem).collect(),
            ..TopAnswer::default()
        }
    }

    fn shown(answer: &TopAnswer, size: Option<(usize, usize)>) -> String {
        let rates = Rates::new(None, answer);
        let screen = Screen {
            answer,
            rates: &rates,
            has_restarted: false,
            now_unix_ms: 20_000,
        };
        screen.text(size.map(|(columns, rows)| Size { columns, rows }))
    }

    #[test]
    fn everything_is_shown_without_a_terminal() {
        let text = shown(&answer(), None);
        assert!(
            text.starts_with("fanfare 0.2.0: ready; up 1 h 2 min; rates since the start\n"),
            "{text}"
        );
        for part in [
            "connections 12,345 of 100,000: websocket 0",
            "32.0 MiB of 64.0 MiB (50 %)",
            "x\\u{1b}[2J",
            "2.5            0",
            "  channel:9\n",
            "WARN 11.0 s ago: problem 9\\nfake\n",
            "problem 0",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn text_fits_each_terminal() {
        let answer = answer();
        for columns in [1, 20, 80, 200] {
            for rows in 1..60 {
                let text = shown(&answer, Some((columns, rows)));
                let lines: Vec<&str> = text.lines().collect();
                assert!(lines.len() < rows.max(2), "{rows}: {text}");
                let width = lines.iter().map(|line| line.chars().count()).max();
                assert!(width <= Some(columns), "{columns}: {text}");
            }
        }
    }

    #[test]
    fn small_terminal_shows_some_rows_of_each_list() {
        let text = shown(&answer(), Some((100, 24)));
        for part in [
            "WORKER",
            "BEHIND",
            "CHANNEL",
            "WARNINGS",
            "… 8 more",
            "problem 9",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 23, "{text}");
    }

    #[test]
    fn idle_server_has_no_empty_lists() {
        let idle = TopAnswer {
            version: String::from("0.2.0"),
            state: String::from("ready"),
            ..TopAnswer::default()
        };
        let text = shown(&idle, None);
        for title in ["BEHIND", "CHANNEL", "WARNINGS"] {
            assert!(!text.contains(title), "{text}");
        }
    }
}
