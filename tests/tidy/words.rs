//! Checks that texts do not contain words and phrases that the house language forbids.

use crate::rules::Finding;

/// The forbidden words and phrases in lower case. The words of a phrase are separated by one space.
pub(crate) const FORBIDDEN: &[&str] = &[
    "anew",
    "anybody",
    "are told",
    "as ever",
    "as you like",
    "comes and goes",
    "everybody",
    "for all that",
    "he",
    "him",
    "his",
    "in earnest",
    "in vain",
    "is told",
    "nobody",
    "says no",
    "somebody",
    "whoever",
    "whom",
];

/// The file that contains the forbidden words. It is not checked.
const LIST: &str = "tests/tidy/words.rs";

/// Returns the forbidden words of a text, each with the line of its first word. The words of a
/// phrase may be joined by `_`, as in a name, or be on two lines of a comment or a string.
pub(crate) fn forbidden(path: &str, text: &str) -> Vec<Finding> {
    if path == LIST {
        return Vec::new();
    }
    let words = words(text);
    let mut findings = Vec::new();
    for (at, first) in words.iter().enumerate() {
        for phrase in FORBIDDEN {
            let mut parts = phrase.split(' ');
            let mut found = words[at..].iter();
            let starts = parts.next().is_some_and(|part| first.text == part);
            found.next();
            let goes_on = parts.all(|part| {
                found
                    .next()
                    .is_some_and(|word| word.is_joined && word.text == part)
            });
            if starts && goes_on {
                findings.push((
                    first.line,
                    format!("`{phrase}`: use a plain word of the field"),
                ));
            }
        }
    }
    findings
}

/// A word in lower case.
struct Word {
    line: usize,
    text: String,
    /// Whether only spaces, line ends, comment marks, `\` or `_` separate this word from the
    /// previous one.
    is_joined: bool,
}

fn words(text: &str) -> Vec<Word> {
    let mut found: Vec<Word> = Vec::new();
    let (mut line, mut is_open, mut is_joined) = (1, false, false);
    for c in text.chars() {
        if c.is_alphanumeric() {
            if !is_open {
                let text = String::new();
                found.push(Word {
                    line,
                    text,
                    is_joined,
                });
                is_joined = true;
            }
            if let Some(word) = found.last_mut() {
                word.text.extend(c.to_lowercase());
            }
        } else {
            line += usize::from(c == '\n');
            is_joined &= c.is_whitespace() || "_/!#*\\".contains(c);
        }
        is_open = c.is_alphanumeric();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_forbidden_word_is_found_in_any_case_and_in_names() {
        for word in FORBIDDEN {
            let name = word.replace(' ', "_");
            let wrapped = word.replace(' ', "\n    /// ");
            let capital = word[..1].to_uppercase() + &word[1..];
            for sample in [
                word,
                word.to_uppercase().as_str(),
                &name,
                &wrapped,
                &capital,
            ] {
                for text in [
                    format!("a\n/// A {sample} b."),
                    format!("a\nlet x = \"{sample}\";"),
                    format!("a\nfn {sample}() {{}}"),
                    format!("a\n{{\"data\": \"({sample})\"}}"),
                ] {
                    let found = forbidden("a.rs", &text);
                    assert_eq!(found.len(), 1, "{text}: {found:?}");
                    assert_eq!(found[0].0, 2, "{text}");
                }
            }
        }
    }

    #[test]
    fn words_inside_other_words_and_parts_of_phrases_are_kept() {
        for text in [
            "the head has this history",
            "anewest heap, whomp",
            "is: told",
            "are\", \"told",
            "told is",
            "it is as if told, in a vain hope",
            "comes, and goes",
        ] {
            assert_eq!(forbidden("a.rs", text), [], "{text}");
        }
    }
}
