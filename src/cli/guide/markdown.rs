//! Parses the pages of the guide into blocks, which [`super::terminal`] and [`super::roff`] print.
//!
//! The pages use headings, paragraphs, lists, tables, code, quotes and links. HTML is only used for
//! comments, which are not printed.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A piece of text in one style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Text without a style.
    Plain(String),
    /// Code.
    Code(String),
    /// Emphasised text.
    Strong(String),
    /// A forced line break.
    Break,
}

/// The text of a paragraph, a heading or a cell.
pub(super) type Text = Vec<Span>;

/// A block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// A heading, with its level from 1 to 6.
    Heading(u8, Text),
    /// A paragraph.
    Paragraph(Text),
    /// An item of a list. The first value is its mark, such as `-` or `2.`.
    Item(String, Vec<Self>),
    /// Lines of code.
    Code(String),
    /// A table: the cells of the head, and those of each row.
    Table(Vec<Text>, Vec<Vec<Text>>),
}

/// Parses a page.
pub(super) fn parse(page: &str) -> Vec<Block> {
    let mut reader = Reader {
        events: Parser::new_ext(page, Options::ENABLE_TABLES),
    };
    reader.blocks()
}

/// Returns the text without styles.
pub(super) fn plain(text: &[Span]) -> String {
    let parts = text.iter().map(|span| match span {
        Span::Plain(text) | Span::Code(text) | Span::Strong(text) => text.as_str(),
        Span::Break => " ",
    });
    parts.collect()
}

struct Reader<'a> {
    events: Parser<'a>,
}

impl Reader<'_> {
    /// Reads blocks up to the end of the element that contains them.
    fn blocks(&mut self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut loose = Text::new();
        while let Some(event) = self.events.next() {
            let block = match event {
                Event::Start(Tag::Heading { level, .. }) => {
                    Block::Heading(level_number(level), self.text())
                }
                Event::Start(Tag::Paragraph) => Block::Paragraph(self.text()),
                Event::Start(Tag::CodeBlock(kind)) => self.code(&kind),
                Event::Start(Tag::Table(_)) => self.table(),
                Event::Start(Tag::List(first)) => {
                    end_loose(&mut loose, &mut blocks);
                    self.list(first, &mut blocks);
                    continue;
                }
                Event::Start(Tag::BlockQuote(_)) => {
                    blocks.extend(self.blocks());
                    continue;
                }
                Event::End(TagEnd::Item | TagEnd::BlockQuote(_)) => break,
                // The text of an item in a list without empty lines is not in a paragraph.
                other => {
                    self.span(other, &mut loose);
                    continue;
                }
            };
            end_loose(&mut loose, &mut blocks);
            blocks.push(block);
        }
        end_loose(&mut loose, &mut blocks);
        blocks
    }

    fn list(&mut self, first: Option<u64>, blocks: &mut Vec<Block>) {
        let mut number = first;
        while let Some(Event::Start(Tag::Item)) = self.events.next() {
            let mark = match &mut number {
                Some(number) => {
                    *number += 1;
                    format!("{}.", *number - 1)
                }
                None => String::from("-"),
            };
            blocks.push(Block::Item(mark, self.blocks()));
        }
    }

    fn code(&mut self, kind: &CodeBlockKind<'_>) -> Block {
        debug_assert!(matches!(kind, CodeBlockKind::Fenced(_)), "{kind:?}");
        Block::Code(plain(&self.text()))
    }

    fn table(&mut self) -> Block {
        let (mut head, mut rows, mut row) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(event) = self.events.next() {
            match event {
                Event::Start(Tag::TableCell) => row.push(self.text()),
                Event::End(TagEnd::TableHead) => head = std::mem::take(&mut row),
                Event::End(TagEnd::TableRow) => rows.push(std::mem::take(&mut row)),
                Event::End(TagEnd::Table) => break,
                _ => {}
            }
        }
        Block::Table(head, rows)
    }

    /// Reads text up to the end of its element.
    fn text(&mut self) -> Text {
        let mut text = Text::new();
        while let Some(event) = self.events.next() {
            if let Event::End(end) = &event
                && !is_inline(*end)
            {
                break;
            }
            self.span(event, &mut text);
        }
        text
    }

    fn span(&mut self, event: Event<'_>, text: &mut Text) {
        match event {
            Event::Text(part) => push_plain(text, &part),
            Event::Code(part) => text.push(Span::Code(part.into_string())),
            Event::SoftBreak => push_plain(text, " "),
            Event::HardBreak => text.push(Span::Break),
            Event::Start(Tag::Emphasis | Tag::Strong) => {
                let inner = self.text_of_style();
                text.push(Span::Strong(plain(&inner)));
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                let label = plain(&self.text_of_style());
                push_plain(text, &label);
                if dest_url.starts_with("https://") && *label != *dest_url {
                    push_plain(text, &format!(" <{dest_url}>"));
                }
            }
            // Comments, and the ends of elements.
            _ => {}
        }
    }

    /// Reads text up to the end of an emphasis or a link.
    fn text_of_style(&mut self) -> Text {
        let mut text = Text::new();
        while let Some(event) = self.events.next() {
            if matches!(event, Event::End(_)) {
                break;
            }
            self.span(event, &mut text);
        }
        text
    }
}

fn end_loose(loose: &mut Text, blocks: &mut Vec<Block>) {
    if !loose.is_empty() {
        blocks.push(Block::Paragraph(std::mem::take(loose)));
    }
}

fn push_plain(text: &mut Text, part: &str) {
    match text.last_mut() {
        Some(Span::Plain(last)) => last.push_str(part),
        _ => text.push(Span::Plain(part.to_owned())),
    }
}

fn is_inline(end: TagEnd) -> bool {
    matches!(end, TagEnd::Emphasis | TagEnd::Strong | TagEnd::Link)
}

fn level_number(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_span(text: &str) -> Span {
        Span::Plain(text.to_owned())
    }

    fn strong(text: &str) -> Span {
        Span::Strong(text.to_owned())
    }

    #[test]
    fn page_becomes_blocks_without_comments_and_links_to_pages() {
        let page = "# Title\n\n<!-- hidden -->\nOne *two*\n`three` [tls].\n\n```sh\nls -l\n```\n\n\
                    | a | b |\n|---|---|\n| `c` | d |\n\n[tls]: tls.md\n";
        let expected = [
            Block::Heading(1, vec![plain_span("Title")]),
            Block::Paragraph(vec![
                plain_span("One "),
                strong("two"),
                plain_span(" "),
                Span::Code(String::from("three")),
                plain_span(" tls."),
            ]),
            Block::Code(String::from("ls -l\n")),
            Block::Table(
                vec![vec![plain_span("a")], vec![plain_span("b")]],
                vec![vec![
                    vec![Span::Code(String::from("c"))],
                    vec![plain_span("d")],
                ]],
            ),
        ];
        assert_eq!(parse(page), expected);
    }

    #[test]
    fn lists_have_marks_and_may_be_nested() {
        let page = "1. one\n2. two\n   - inner\n\n   more\n";
        let paragraph = |text| Block::Paragraph(vec![plain_span(text)]);
        let inner = Block::Item(String::from("-"), vec![paragraph("inner")]);
        let expected = [
            Block::Item(String::from("1."), vec![paragraph("one")]),
            Block::Item(
                String::from("2."),
                vec![paragraph("two"), inner, paragraph("more")],
            ),
        ];
        assert_eq!(parse(page), expected);
    }
}
