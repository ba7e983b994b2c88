//! Views of a Rust file for the rules: code without comments and literals, comments without code,
//! and code without tests.
//!
//! This is not a parser. It recognizes only the syntax that the rules need: strings, characters,
//! comments and braces. Every view has the same lines and columns as the file.

/// A file and its views.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The path from the package's root, with `/` as the separator.
    pub(crate) path: String,
    /// The whole text of the file.
    pub(crate) text: String,
    /// The text with comments and the contents of literals replaced by spaces.
    pub(crate) code: String,
    /// The text with everything except comments replaced by spaces.
    pub(crate) comments: String,
    /// The `code` view with the items after `#[cfg(test)]` replaced by spaces.
    pub(crate) product: String,
}

impl Source {
    /// Separates the code, the comments and the tests of a Rust file.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split_comments(text);
        let product = blank_tests(&code);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            comments,
            product,
        }
    }
}

/// A word or a single punctuation character, with its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// The line number, counted from 1.
    pub(crate) line: usize,
    /// An identifier, a number, or one punctuation character.
    pub(crate) text: &'a str,
    /// The byte offset of the token in the text that `tokens` received.
    pub(crate) at: usize,
}

/// Splits a view into tokens.
pub(crate) fn tokens(view: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut chars = view.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        if c.is_whitespace() {
            continue;
        }
        let mut end = at + c.len_utf8();
        if is_word(c) {
            while let Some(&(next, c)) = chars.peek()
                && is_word(c)
            {
                end = next + c.len_utf8();
                chars.next();
            }
        }
        found.push(Token {
            line,
            text: &view[at..end],
            at,
        });
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

/// Returns the code view and the comments view of a text.
fn split_comments(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let (next, taken) = step(&chars, at, state);
        // A whole character literal is consumed in one step.
        let is_character = state == State::Code && chars[at] == '\'' && taken > 1;
        for (index, &c) in chars[at..at + taken].iter().enumerate() {
            let is_inside = is_character && (1..taken - 1).contains(&index);
            let is_comment = [state, next]
                .iter()
                .any(|s| matches!(s, State::LineComment | State::BlockComment(_)));
            let is_literal = is_inside || matches!(state, State::Text | State::RawText(_));
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if is_comment || is_literal { blank } else { c });
            comments.push(if is_comment { c } else { blank });
        }
        state = next;
        at += taken;
    }
    (code, comments)
}

/// Reads the next one or more characters in this state. Returns the new state, and the number of
/// characters read.
fn step(chars: &[char], at: usize, state: State) -> (State, usize) {
    let rest = &chars[at..];
    let starts = |mark: &str| mark.chars().zip(rest).filter(|(a, b)| a == *b).count() == mark.len();
    match state {
        State::Code if starts("//") => (State::LineComment, 2),
        State::Code if starts("/*") => (State::BlockComment(1), 2),
        State::Code if starts("\"") => (State::Text, 1),
        State::Code => code_step(chars, at),
        State::LineComment if starts("\n") => (State::Code, 1),
        State::BlockComment(1) if starts("*/") => (State::Code, 2),
        State::BlockComment(depth) if starts("*/") => (State::BlockComment(depth - 1), 2),
        State::BlockComment(depth) if starts("/*") => (State::BlockComment(depth + 1), 2),
        State::Text if starts("\\") => (state, rest.len().min(2)),
        State::Text if starts("\"") => (State::Code, 1),
        State::RawText(hashes) if starts(&format!("\"{}", "#".repeat(hashes))) => {
            (State::Code, 1 + hashes)
        }
        State::LineComment | State::BlockComment(_) | State::Text | State::RawText(_) => (state, 1),
    }
}

/// Like `step`, for code. The next characters may start a raw string or be a character literal.
fn code_step(chars: &[char], at: usize) -> (State, usize) {
    let rest = &chars[at..];
    let is_start = at == 0 || !is_word(chars[at - 1]);
    if is_start
        && (rest[0] == 'r' || rest.starts_with(&['b', 'r']) || rest.starts_with(&['c', 'r']))
    {
        let prefix = if rest[0] == 'r' { 1 } else { 2 };
        let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
        if rest.get(prefix + hashes) == Some(&'"') {
            return (State::RawText(hashes), prefix + hashes + 1);
        }
    }
    if rest[0] != '\'' {
        return (State::Code, 1);
    }
    // A character literal closes after one character or one escape, but a lifetime does not close.
    match rest.get(1) {
        Some('\\') => {
            let close = rest.iter().skip(3).position(|c| *c == '\'');
            (State::Code, close.map_or(1, |n| n + 4))
        }
        Some(_) if rest.get(2) == Some(&'\'') => (State::Code, 3),
        _ => (State::Code, 1),
    }
}

/// Replaces each item after a `#[cfg(test)]` by spaces, up to its closing brace or semicolon.
fn blank_tests(code: &str) -> String {
    let tokens = tokens(code);
    let mut blank = vec![false; code.len()];
    for start in 0..tokens.len() {
        if !is_cfg_test(&tokens[start..]) {
            continue;
        }
        let end = item_end(&tokens, start).map_or(code.len(), |last| tokens[last].at + 1);
        blank[tokens[start].at..end].fill(true);
    }
    let keep = |(at, c): (usize, char)| if blank[at] && c != '\n' { ' ' } else { c };
    code.char_indices().map(keep).collect()
}

/// Whether an attribute `#[cfg(test)]` or `#[cfg(all(test, …))]` starts here.
pub(crate) fn is_cfg_test(tokens: &[Token<'_>]) -> bool {
    if tokens.first().is_none_or(|token| token.text != "#") {
        return false;
    }
    let head: Vec<&str> = tokens.iter().take(7).map(|t| t.text).collect();
    head.starts_with(&["#", "[", "cfg", "(", "test", ")"])
        || head.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Returns the index of the token that ends the item whose first attribute starts at `start`.
pub(crate) fn item_end(tokens: &[Token<'_>], start: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" if depth == 1 => return Some(index),
            "}" => depth -= 1,
            ";" if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

/// Returns the paths in code that start with `crate`, `super` or `self`, with their lines. The
/// paths are resolved from the crate's root, and groups in braces are expanded.
pub(crate) fn imports(path: &str, view: &str) -> Vec<(usize, Vec<String>)> {
    let module = module_of(path);
    let tokens = tokens(view);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let base = match tokens[at].text {
            "crate" => Some(Vec::new()),
            "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
            "self" => Some(module.clone()),
            _ => None,
        };
        let is_tail = at >= 2 && tokens[at - 1].text == ":" && tokens[at - 2].text == ":";
        match base {
            Some(base) if !is_tail && is_path_mark(&tokens, at + 1) => {
                at = read_tree(&tokens, at + 3, base, &mut found);
            }
            _ => at += 1,
        }
    }
    found
}

fn is_path_mark(tokens: &[Token<'_>], at: usize) -> bool {
    matches!(tokens.get(at..at + 2), Some([a, b]) if a.text == ":" && b.text == ":")
}

/// Reads one path or group after `::`. Returns the index after it.
fn read_tree(
    tokens: &[Token<'_>],
    mut at: usize,
    mut base: Vec<String>,
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at += 1;
            while at < tokens.len() && tokens[at].text != "}" {
                let after = read_tree(tokens, at, base.clone(), found);
                at = after.max(at + 1);
            }
            return at + 1;
        }
        if !token.text.starts_with(is_word) {
            return at;
        }
        match token.text {
            "super" => drop(base.pop()),
            name => base.push(name.to_owned()),
        }
        if !is_path_mark(tokens, at + 1) {
            found.push((token.line, base));
            return at + 1;
        }
        at += 3;
    }
    at
}

/// The source folder of the load generator, which is a crate of its own.
pub(crate) const GENERATOR: &str = "benches/generator/src/";

/// Returns the module path of a file, from the root of its crate (the server or the generator).
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let inner = [GENERATOR, "src/"]
        .iter()
        .find_map(|root| path.strip_prefix(root));
    let inner = inner.unwrap_or(path);
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

#[test]
fn code_view_has_neither_comments_nor_literals() {
    let source = Source::new(
        "src/x.rs",
        "let a = \"mio // no\"; // mio\nlet b = r#\"mio\"#; /* mio /* mio */ */\n\
         let c = '\"'; let d: &'a u8; '{'; '\\n';\n",
    );
    assert!(!source.code.contains("mio"), "{}", source.code);
    assert!(
        source.code.contains("let d: &'a u8; ' '; '  ';"),
        "{}",
        source.code
    );
    assert_eq!(source.comments.matches("mio").count(), 3);
    assert_eq!(source.code.lines().count(), source.text.lines().count());
}

#[test]
fn product_view_has_no_test_items() {
    let source = Source::new(
        "src/x.rs",
        "use a;\n#[cfg(test)]\nuse b;\nfn c() {}\n\
         #[cfg(test)]\n#[allow(x)]\nmod tests { fn d() { if e {} } }\nfn f() {}\n",
    );
    let words: Vec<&str> = tokens(&source.product).iter().map(|t| t.text).collect();
    assert_eq!(words.join(" "), "use a ; fn c ( ) { } fn f ( ) { }");
}

#[test]
fn imports_are_resolved_through_groups_and_supers() {
    let view =
        "use crate::{conn, hub::{Log, gap::Gap}};\nuse super::super::worker;\ncrate::id::ConnId;\n";
    let found: Vec<(usize, String)> = imports("src/transport/websocket.rs", view)
        .into_iter()
        .map(|(line, path)| (line, path.join("::")))
        .collect();
    let expected = [
        (1, "conn"),
        (1, "hub::Log"),
        (1, "hub::gap::Gap"),
        (2, "worker"),
        (3, "id::ConnId"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}
