//! PURE: tables, and texts of the network that are safe to print.
//!
//! A client chooses its subject, its channels and its close reason. Control characters in them
//! could change the terminal's state or fake lines of the table, so they are printed as escapes.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Grid, presets};
use textwrap::core::display_width;

/// The columns of blank space between two columns.
const GAP: u16 = 2;
/// Marks the place where a text was cut.
const CUT: char = '…';

/// Escapes control characters, line ends, characters that change the direction of the text, and
/// other characters that a terminal does not print.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for part in text.split_inclusive(['\\', '"', '\'']) {
        let quote = part
            .chars()
            .next_back()
            .filter(|c| ['\\', '"', '\''].contains(c));
        let plain = part.strip_suffix(['\\', '"', '\'']).unwrap_or(part);
        safe.extend(plain.escape_debug());
        safe.extend(quote);
    }
    safe
}

/// Escapes the same characters in a line of JSON. The line stays the same value. JSON itself
/// escapes only the control characters of ASCII.
pub(super) fn escape_json(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    for c in line.chars() {
        let is_safe = (' '..='~').contains(&c) || (!c.is_ascii() && c.escape_debug().len() == 1);
        if is_safe {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _written = write!(safe, "\\u{unit:04x}");
        }
    }
    safe
}

/// Lists the numbers of workers, as `worker 3` or `workers 1, 3`. Returns `None` for an empty list.
pub(super) fn list_numbers(workers: &[u16]) -> Option<String> {
    let numbers: Vec<String> = workers.iter().map(u16::to_string).collect();
    let noun = match workers {
        [] => return None,
        [_] => "worker",
        _ => "workers",
    };
    Some(format!("{noun} {}", numbers.join(", ")))
}

/// Cuts a line to a number of columns. A line that was cut ends with `…`.
pub(super) fn cut(line: &str, columns: usize) -> String {
    if display_width(line) <= columns {
        return String::from(line);
    }
    let mut kept = String::new();
    let mut width = 0;
    for c in line.chars() {
        width += display_width(c.encode_utf8(&mut [0; 4]));
        if width >= columns {
            break;
        }
        kept.push(c);
    }
    if columns > 0 {
        kept.push(CUT);
    }
    kept
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// For texts.
    Left,
    /// For numbers.
    Right,
}

/// A table without borders, whose columns are as wide as their longest cell.
#[derive(Debug)]
pub(super) struct Table {
    grid: Grid,
    aligns: Vec<Align>,
}

impl Table {
    /// Creates a table with these titles.
    pub(super) fn new(titles: &[(&str, Align)]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        let aligns = titles.iter().map(|(_, align)| *align).collect();
        let mut table = Self { grid, aligns };
        let head = table.cells(titles.iter().map(|(title, _)| String::from(*title)));
        table.grid.set_header(head);
        table
    }

    /// Adds a row. The cells are escaped.
    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let row = self.cells(cells.into_iter().map(|cell| escape(&cell)));
        self.grid.add_row(row);
    }

    fn cells(&self, texts: impl Iterator<Item = String>) -> Vec<Cell> {
        let cells = texts.zip(&self.aligns).map(|(text, align)| {
            Cell::new(text).set_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            })
        });
        cells.collect()
    }

    /// Returns the lines of the table, the titles first.
    pub(super) fn lines(mut self) -> Vec<String> {
        for column in self.grid.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let text = self.grid.to_string();
        text.lines()
            .map(|line| String::from(line.trim_end()))
            .collect()
    }
}

/// Returns the width of the widest line, in columns.
pub(super) fn width(lines: &[String]) -> usize {
    let widths = lines.iter().map(|line| display_width(line));
    widths.max().unwrap_or_default()
}

/// Joins lines to a text.
pub(super) fn join(lines: &[String]) -> String {
    lines
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_network_cannot_control_the_terminal() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}31m\u{7f}\u{202e}\u{2028}b\u{0}";
        let shown = escape(hostile);
        assert_eq!(
            shown,
            "a\\u{1b}[2J\\r\\n\\u{9b}31m\\u{7f}\\u{202e}\\u{2028}b\\0"
        );
        let plain = "prices:eur ä 漢 \"x\" 'y' \\";
        assert_eq!(escape(plain), plain);
    }

    #[test]
    fn json_keeps_its_value_without_control_characters() {
        let value = serde_json::json!({"sub": "a\u{1b}\u{9b}\u{7f}\u{202e}\u{e0001}ä\"\\"});
        let line = value.to_string();
        let safe = escape_json(&line);
        assert!(
            safe.chars().all(|c| c != '\u{9b}' && c != '\u{7f}'),
            "{safe}"
        );
        assert!(
            safe.contains("\\udb40\\udc01") && safe.contains('ä'),
            "{safe}"
        );
        let read: serde_json::Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn columns_are_aligned_by_display_width() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.push(["漢字".to_owned(), "1".to_owned()]);
        table.push(["a\nb".to_owned(), "10,000".to_owned()]);
        assert_eq!(
            table.lines(),
            ["NAME    SIZE", "漢字       1", "a\\nb  10,000"].map(str::to_owned)
        );
    }

    #[test]
    fn table_without_rows_has_its_titles() {
        let table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        assert_eq!(table.lines(), ["NAME  SIZE"].map(str::to_owned));
    }

    #[test]
    fn long_lines_are_cut_at_the_width_of_the_terminal() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
        assert_eq!(
            (cut("ab", 1), cut("ab", 0)),
            ("…".to_owned(), String::new())
        );
    }

    #[test]
    fn workers_are_listed() {
        assert_eq!(list_numbers(&[]), None);
        assert_eq!(list_numbers(&[3]).as_deref(), Some("worker 3"));
        assert_eq!(list_numbers(&[1, 3]).as_deref(), Some("workers 1, 3"));
    }
}
