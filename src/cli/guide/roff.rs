//! Prints a page of the guide as a man page.

use roff::{Inline, Roff, bold, line_break, roman};

use super::markdown::{Block, Span, Text, plain};

/// The head of a man page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    /// The name of the page.
    pub(super) name: &'a str,
    /// The section of the manual.
    pub(super) section: &'a str,
    /// The summary in one line.
    pub(super) summary: &'a str,
    /// The name and the version of the program.
    pub(super) source: &'a str,
}

/// Returns a page in the language of man pages.
pub(super) fn print(head: Head<'_>, blocks: &[Block]) -> String {
    let mut roff = Roff::new();
    let title = head.name.to_uppercase();
    // The third argument is a date. An empty argument would be left out, so it is a space.
    roff.control(
        "TH",
        [title.as_str(), head.section, " ", head.source, "fanfare"],
    );
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{} - {}", head.name, head.summary))]);
    let mut has_section = false;
    for block in blocks {
        if matches!(block, Block::Heading(1, _)) {
            continue;
        }
        if !has_section && !matches!(block, Block::Heading(2, _)) {
            roff.control("SH", ["DESCRIPTION"]);
        }
        has_section = true;
        print_block(&mut roff, block);
    }
    roff.to_roff()
}

fn print_block(roff: &mut Roff, block: &Block) {
    match block {
        Block::Heading(2, text) => {
            roff.control("SH", [plain(text).to_uppercase().as_str()]);
        }
        Block::Heading(_, text) => {
            roff.control("SS", [plain(text).as_str()]);
        }
        Block::Paragraph(text) => {
            roff.control("PP", []);
            roff.text(inlines(text));
        }
        Block::Item(mark, blocks) => {
            roff.control("IP", [mark.as_str(), "4"]);
            print_nested(roff, blocks);
        }
        Block::Code(code) => {
            roff.control("PP", []);
            print_code(roff, code);
        }
        Block::Table(head, rows) => print_table(roff, head, rows),
    }
}

/// Prints the blocks of an item of a list. The first paragraph begins beside the item's mark.
fn print_nested(roff: &mut Roff, blocks: &[Block]) {
    let mut blocks = blocks;
    if let Some((Block::Paragraph(text), more)) = blocks.split_first() {
        roff.text(inlines(text));
        blocks = more;
    }
    if blocks.is_empty() {
        return;
    }
    roff.control("RS", ["4"]);
    for block in blocks {
        print_block(roff, block);
    }
    roff.control("RE", []);
}

fn print_code(roff: &mut Roff, code: &str) {
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in code.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// Prints a table as a list, because cells with long texts do not fit into columns. The first cell
/// of a row is the term. The other cells follow, and a cell that is not the last one begins with
/// the title of its column.
fn print_table(roff: &mut Roff, head: &[Text], rows: &[Vec<Text>]) {
    for row in rows {
        let Some((first, cells)) = row.split_first() else {
            continue;
        };
        roff.control("TP", []);
        roff.text([bold(plain(first))]);
        let titles = head.get(1..).unwrap_or_default();
        let mut text: Vec<Inline> = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            if plain(cell).is_empty() {
                continue;
            }
            if !text.is_empty() {
                text.push(line_break());
            }
            if index + 1 < cells.len() {
                let title = titles.get(index).map(|title| plain(title));
                text.push(roman(format!("{}: ", title.unwrap_or_default())));
            }
            text.extend(inlines(cell));
        }
        if text.is_empty() {
            text.push(roman("-"));
        }
        roff.text(text);
    }
}

fn inlines(text: &[Span]) -> Vec<Inline> {
    let spans = text.iter().map(|span| match span {
        Span::Plain(text) => roman(text.as_str()),
        Span::Code(text) | Span::Strong(text) => bold(text.as_str()),
        Span::Break => line_break(),
    });
    spans.collect()
}

#[cfg(test)]
mod tests {
    use super::super::markdown::parse;
    use super::*;

    #[test]
    fn sections_lists_and_tables_become_macros() {
        let page = "# Title\n\nOne `two`.\n\n## Part\n\n- item\n\n| key | unit | meaning |\n\
                    |---|---|---|\n| `a` | ms | long |\n";
        let head = Head {
            name: "fanfare.toml",
            section: "5",
            summary: "the configuration",
            source: "fanfare 1",
        };
        let text = print(head, &parse(page));
        for line in [
            ".TH FANFARE.TOML 5 \" \" \"fanfare 1\" fanfare",
            ".SH DESCRIPTION",
            "One \\fBtwo\\fR.",
            ".SH PART",
            ".IP - 4",
            "\\fBa\\fR",
            "unit: ms",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
