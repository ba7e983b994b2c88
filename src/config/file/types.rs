//! PURE: describes a value of the wrong type in words of the configuration file.
//!
//! The parser names types of the programming language, for example `u64`. An operator needs the
//! values that are allowed.

use std::ops::RangeInclusive;

use toml::Value;

/// Returns the message for a value that the parser has refused. `range` has the allowed numbers of
/// the key, if it has a range.
pub(super) fn message(
    error: &toml::de::Error,
    value: &Value,
    range: Option<RangeInclusive<u64>>,
) -> String {
    let text = error.message().trim().replace('\n', ", ");
    let Some((_, expected)) = text.split_once(", expected ") else {
        return text;
    };
    let subject = match value {
        Value::Array(_) if expected != LIST => "but each entry must be",
        _ => "but must be",
    };
    format!("is {value}, {subject} {}", allowed(expected, range))
}

/// The parser's name of a list.
const LIST: &str = "a sequence";

/// Returns the values that the parser has expected, in plain words.
pub(super) fn allowed(expected: &str, range: Option<RangeInclusive<u64>>) -> String {
    let most = match expected {
        "u8" => u8::MAX.into(),
        "u16" => u16::MAX.into(),
        "u32" => u32::MAX.into(),
        "u64" => u64::MAX,
        "a boolean" => return String::from("true or false"),
        "a string" | "path string" | "string only" => return String::from("a text in quotes"),
        "f64" => return String::from("a number"),
        LIST => return String::from("a list, such as [\"a\", \"b\"]"),
        // The types of the configuration describe their values in plain words.
        _ => return String::from(expected),
    };
    let range = range.unwrap_or(0..=most);
    let (least, most) = (range.start(), range.end());
    match *most {
        u64::MAX => format!("a whole number of at least {least}"),
        most => format!("a whole number from {least} to {most}"),
    }
}
