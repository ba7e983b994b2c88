//! Prints a page of the guide for a terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use textwrap::{Options, WordSeparator, WordSplitter};

use super::markdown::{Block, Span, Text, plain};

/// The narrowest width for which tables and paragraphs are laid out, in columns.
const COLUMNS_MIN: usize = 40;
/// The indentation of code, in columns.
const CODE_INDENT: &str = "    ";

/// The columns of blank space around a cell.
const CELL_PADDING: usize = 2;

/// Where and how a page is printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// The width in columns.
    pub(super) columns: usize,
    /// Whether headings and code are in bold.
    pub(super) has_styles: bool,
}

impl Terminal {
    /// Returns the text of a page.
    pub(super) fn print(self, blocks: &[Block]) -> String {
        let mut out = String::new();
        self.blocks(blocks, "", &mut out);
        out
    }

    fn blocks(self, blocks: &[Block], indent: &str, out: &mut String) {
        let mut was_item = false;
        for block in blocks {
            let is_item = matches!(block, Block::Item(..));
            let is_begin = out.is_empty() || out.ends_with("\n\n");
            let is_same_list = was_item && is_item;
            if !is_begin && !is_same_list {
                out.push('\n');
            }
            was_item = is_item;
            match block {
                Block::Heading(level, text) => {
                    let title = self.bold(&plain(text));
                    let line = match level {
                        1 | 2 => title,
                        _ => format!("  {title}"),
                    };
                    out.push_str(&line);
                    out.push('\n');
                }
                Block::Paragraph(text) => self.paragraph(&self.styled(text), indent, indent, out),
                Block::Item(mark, blocks) => self.item(mark, blocks, indent, out),
                Block::Code(code) => {
                    for line in code.lines() {
                        let line = format!("{indent}{CODE_INDENT}{line}");
                        out.push_str(line.trim_end());
                        out.push('\n');
                    }
                }
                Block::Table(head, rows) => self.table(head, rows, indent, out),
            }
        }
    }

    fn item(self, mark: &str, blocks: &[Block], indent: &str, out: &mut String) {
        let first = format!("{indent}{mark} ");
        let rest = " ".repeat(first.len());
        let mut blocks = blocks;
        if let Some((Block::Paragraph(text), more)) = blocks.split_first() {
            self.paragraph(&self.styled(text), &first, &rest, out);
            blocks = more;
        }
        if !blocks.is_empty() {
            self.blocks(blocks, &rest, out);
        }
    }

    fn paragraph(self, text: &str, first: &str, rest: &str, out: &mut String) {
        let options = Options::new(self.columns.max(COLUMNS_MIN))
            .initial_indent(first)
            .subsequent_indent(rest)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        for line in textwrap::wrap(text, options) {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    /// Prints a table in columns that are wide enough for their longest words, so that names are
    /// not broken. If the columns do not fit, each row is printed as a term with its cells below.
    fn table(self, head: &[Text], rows: &[Vec<Text>], indent: &str, out: &mut String) {
        let columns = self.columns.max(COLUMNS_MIN) - indent.len();
        let widths = head.iter().enumerate().map(|(index, title)| {
            let cells = rows.iter().filter_map(|row| row.get(index)).chain([title]);
            let words = cells.filter_map(|cell| longest_word(&plain(cell)));
            words.max().unwrap_or_default() + CELL_PADDING
        });
        let widths: Vec<usize> = widths.collect();
        if widths.iter().sum::<usize>() > columns {
            return self.table_as_list(head, rows, indent, out);
        }
        let mut table = Table::new();
        let to_u16 = |width| u16::try_from(width).unwrap_or(u16::MAX);
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(to_u16(columns))
            .set_header(head.iter().map(|cell| plain(cell).to_uppercase()));
        for row in rows {
            table.add_row(row.iter().map(|cell| plain(cell)));
        }
        for (column, width) in table.column_iter_mut().zip(widths) {
            let least = Width::Fixed(to_u16(width));
            column.set_constraint(ColumnConstraint::LowerBoundary(least));
        }
        for line in table.to_string().lines() {
            out.push_str(indent);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    fn table_as_list(self, head: &[Text], rows: &[Vec<Text>], indent: &str, out: &mut String) {
        let below = format!("{indent}{CODE_INDENT}");
        for row in rows {
            let Some((term, cells)) = row.split_first() else {
                continue;
            };
            self.paragraph(&self.styled(term), indent, indent, out);
            for (cell, title) in cells.iter().zip(head.iter().skip(1)) {
                let text = self.styled(cell);
                if !text.is_empty() {
                    let text = format!("{}: {text}", plain(title));
                    self.paragraph(&text, &below, &below, out);
                }
            }
        }
    }

    fn styled(self, text: &[Span]) -> String {
        let parts = text.iter().map(|span| match span {
            Span::Plain(text) => text.clone(),
            Span::Code(text) if !self.has_styles => format!("`{text}`"),
            Span::Code(text) | Span::Strong(text) => self.bold(text),
            Span::Break => String::from("\n"),
        });
        parts.collect()
    }

    fn bold(self, text: &str) -> String {
        match self.has_styles {
            true => format!("\u{1b}[1m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

fn longest_word(text: &str) -> Option<usize> {
    text.split_whitespace()
        .map(|word| word.chars().count())
        .max()
}

#[cfg(test)]
mod tests {
    use super::super::markdown::parse;
    use super::*;

    fn printed(page: &str, columns: usize) -> String {
        let terminal = Terminal {
            columns,
            has_styles: false,
        };
        terminal.print(&parse(page))
    }

    #[test]
    fn paragraphs_lists_code_and_tables_fit_the_width() {
        let words = "word ".repeat(30);
        let page = format!(
            "# Title\n\n{words}\n\n- {words}\n- two\n\n| name | meaning |\n|---|---|\n\
             | `a` | {words} |\n"
        );
        let text = printed(&page, 60);
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
        assert!(text.contains("\n- word"), "{text}");
        assert!(text.contains("\n  word"), "{text}");
        assert!(text.contains("NAME"), "{text}");
        assert_eq!(printed("# T\n\n```sh\nls\n```\n", 60), "T\n\n    ls\n");
    }

    #[test]
    fn names_in_tables_are_not_broken() {
        let name = "limits.client_frames_per_second";
        let words = "word ".repeat(40);
        let page = format!(
            "| key | above it | counted |\n|---|---|---|\n\
             | `{name}` | {words} | `fanfare_conns_refused_total` |\n"
        );
        let text = printed(&page, 100);
        assert!(text.contains(name), "{text}");
        assert!(text.contains("fanfare_conns_refused_total"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let narrow = printed(&page, 60);
        assert!(narrow.contains(name), "{narrow}");
        assert!(
            narrow.contains("    counted: `fanfare_conns_refused_total`"),
            "{narrow}"
        );
    }

    #[test]
    fn styles_are_only_for_terminals_that_show_them() {
        let page = "# Title\n\n`code`\n";
        assert!(!printed(page, 60).contains('\u{1b}'));
        let terminal = Terminal {
            columns: 60,
            has_styles: true,
        };
        assert!(
            terminal
                .print(&parse(page))
                .contains("\u{1b}[1mcode\u{1b}[0m")
        );
    }
}
