//! Parses the examples of a page: its fenced code blocks.

/// What the test does with an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Shell commands.
    Shell,
    /// A Python program.
    Python,
    /// A JavaScript module for Node.
    Node,
    /// A script in a page of a browser.
    Browser,
    /// A complete configuration.
    Config,
    /// Lines of JSON.
    Json,
    /// The output of the example before it.
    Output,
    /// Another text, which is not checked.
    Other,
}

/// A fenced code block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The line of the fence, counted from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
    /// Whether the example runs until the end of the page.
    pub(super) is_background: bool,
    /// Whether the server of the page runs with this configuration.
    pub(super) is_server: bool,
    /// Whether only the syntax is checked.
    pub(super) is_only_parsed: bool,
    pub(super) text: String,
}

/// Returns the examples of a page.
pub(super) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if !line.trim().is_empty() {
                before = line;
            }
            continue;
        };
        let body = lines.by_ref().map(|(_, line)| line);
        let body = body.take_while(|line| line.trim() != "```");
        let body = body.map(|line| line.get(indent..).unwrap_or_default());
        let text: String = body.flat_map(|line| [line, "\n"]).collect();
        blocks.push(block(index + 1, info, before, text));
        before = line;
    }
    blocks
}

fn block(line: usize, info: &str, before: &str, text: String) -> Block {
    let mut words: Vec<&str> = info.split_whitespace().collect();
    let mut take = |word: &str| match words.iter().position(|found| *found == word) {
        Some(at) => {
            words.remove(at);
            true
        }
        None => false,
    };
    let is_background = take("background");
    let is_server = take("server");
    let is_only_parsed = take("no_run");
    let kind = match words.as_slice() {
        ["sh"] => Kind::Shell,
        ["python"] => Kind::Python,
        ["js", "node"] => Kind::Node,
        ["js", "browser"] => Kind::Browser,
        ["toml"] => Kind::Config,
        ["json"] => Kind::Json,
        ["text", "output"] => Kind::Output,
        [] | ["text" | "http" | "nginx" | "ini" | "html" | "rust" | "js"] => Kind::Other,
        _ => panic!("line {line}: the fence has an unknown info string: {info}"),
    };
    assert!(
        !is_only_parsed || before.starts_with("<!-- not run: "),
        "line {line}: a comment before the example must give the reason why it is not run"
    );
    assert!(!is_server || kind == Kind::Config, "line {line}: {info}");
    Block {
        line,
        kind,
        is_background,
        is_server,
        is_only_parsed,
        text,
    }
}

/// Whether an output is as expected. In `expected`, `…` stands for any text in a line, and a line
/// `…` for any lines. With `may_go_on`, further lines may follow.
pub(super) fn matches(expected: &str, output: &str, may_go_on: bool) -> bool {
    let expected: Vec<&str> = expected.lines().map(str::trim_end).collect();
    let output: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
    lines_match(&expected, &output, may_go_on)
}

fn lines_match(expected: &[&str], output: &[&str], may_go_on: bool) -> bool {
    let Some((first, rest)) = expected.split_first() else {
        return may_go_on || output.is_empty();
    };
    if *first == "…" {
        return (0..=output.len()).any(|skipped| lines_match(rest, &output[skipped..], may_go_on));
    }
    let Some((line, others)) = output.split_first() else {
        return false;
    };
    line_matches(first, line) && lines_match(rest, others, may_go_on)
}

fn line_matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut line) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return line.is_empty();
    };
    for part in middle {
        let Some(at) = line.find(part) else {
            return false;
        };
        line = &line[at + part.len()..];
    }
    line.ends_with(last)
}

#[test]
fn examples_have_their_kind_and_their_lines() {
    let page = "# T\n\n```sh background\nls\n```\n\n<!-- not run: needs root -->\n```sh no_run\n\
                reboot\n```\n- item\n  ```text output\n  a\n  ```\n";
    let found = blocks(page);
    let kinds: Vec<_> = found.iter().map(|block| (block.line, block.kind)).collect();
    assert_eq!(
        kinds,
        [(3, Kind::Shell), (8, Kind::Shell), (12, Kind::Output)]
    );
    assert!(found[0].is_background && found[1].is_only_parsed);
    assert_eq!(found[2].text, "a\n");
}

#[test]
fn dots_in_an_expected_output_stand_for_any_text() {
    assert!(matches("a … c\n", "a b c\n", false));
    assert!(!matches("a … c\n", "a b d\n", false));
    assert!(matches("a\n…\nz\n", "a\nb\nc\nz\n", false));
    assert!(matches("a\n…\nz\n", "a\nz\n", false));
    assert!(!matches("a\n", "a\nb\n", false));
    assert!(matches("a\n", "a\nb\n", true));
    assert!(!matches("a\nb\n", "a\n", true));
    assert!(!matches("…x…\n", "abc\n", false));
}
