//! Removes the insignificant white space from a JSON text.
//!
//! Numbers and strings are kept byte for byte. The caller has checked that the text is JSON. For
//! any other text the result is unspecified, but the function does not panic.

use crate::certain;
use crate::json::string_end;

/// Returns the text without white space between tokens (RFC 8259, 2).
#[must_use]
pub fn minify(json: &str) -> Box<str> {
    let bytes = json.as_bytes();
    let mut end = run_end(bytes, 0);
    if end == bytes.len() {
        return Box::from(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut start = 0;
    loop {
        out.push_str(json.get(start..end).unwrap_or_default());
        let rest = certain::skip(bytes, end);
        let Some(spaces) = rest.iter().position(|byte| !is_space(*byte)) else {
            return out.into_boxed_str();
        };
        start = end + spaces;
        end = run_end(bytes, start);
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Returns the position of the first white space outside a string, or the length of the text.
/// `start` must be outside a string.
fn run_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        if is_space(byte) {
            return at;
        }
        at = if byte == b'"' {
            string_end(bytes, at + 1)
        } else {
            at + 1
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minify_keeps_numbers_and_strings_as_written() {
        for (json, expected) in [
            ("1", "1"),
            (" 1.50e+03 ", "1.50e+03"),
            ("{ \"a b\" : [ 1 ,\t2 ] }", "{\"a b\":[1,2]}"),
            (r#"" \" \\" "#, r#"" \" \\""#),
            (r#"[ "\\" , " " ]"#, r#"["\\"," "]"#),
            ("{\"ü\": \"\\u00fc \"}", "{\"ü\":\"\\u00fc \"}"),
            ("", ""),
            (" \r\n", ""),
            ("\"open ", "\"open "),
            ("\"open\\", "\"open\\"),
        ] {
            assert_eq!(&*minify(json), expected, "{json}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            ".*".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[ \"\\\\a-c]{0,4}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn minify_agrees_with_a_compact_serializer(value in json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let compact = value.to_string();
            prop_assert_eq!(&*minify(&pretty), compact.as_str());
            prop_assert_eq!(&*minify(&compact), compact.as_str());
        }

        #[test]
        fn minify_of_any_text_neither_panics_nor_grows(text in ".*") {
            prop_assert!(minify(&text).len() <= text.len());
        }
    }
}
