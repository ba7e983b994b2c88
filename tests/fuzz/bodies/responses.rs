//! Checks that apply to every response.

use fanfare::http::{After, Response};

/// The status and fields of a response, as found by another parser.
#[derive(Debug)]
pub struct Parsed {
    pub status: u16,
    /// The number of bytes of the head.
    pub length: usize,
    pub fields: Vec<(String, String)>,
}

impl Parsed {
    /// Returns the value of a field that occurs at most once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(other, _)| other == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        first.map(|(_, value)| value.as_str())
    }
}

/// Parses a complete head.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).expect("a response's head");
    assert!(parsed.is_complete(), "a head without an end");
    assert_eq!(response.version, Some(1));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("ASCII");
    let fields = response.headers.iter();
    Parsed {
        status: response.code.expect("a status"),
        length: parsed.unwrap(),
        fields: fields
            .map(|field| (field.name.to_ascii_lowercase(), text(field.value)))
            .collect(),
    }
}

/// Checks a complete response. `has_content` is false if the request was `HEAD`.
pub fn check(response: &Response, has_content: bool) {
    if response.bytes.first() == Some(&0) {
        return check_goaway(response);
    }
    let parsed = parse(&response.bytes);
    assert_eq!(parsed.status, response.status.code());
    let content = response.bytes.len() - parsed.length;
    match parsed.field("content-length") {
        Some(length) if has_content => {
            assert_eq!(length, content.to_string(), "{parsed:?}");
        }
        Some(_) => assert_eq!(content, 0, "content for HEAD: {parsed:?}"),
        None => assert_eq!(content, 0, "content of unknown length: {parsed:?}"),
    }
    let mut options = parsed
        .fields
        .iter()
        .filter(|(name, _)| name == "connection");
    let is_last = options.any(|(_, option)| option == "close");
    assert_eq!(is_last, response.then == After::Close, "{parsed:?}");
    for field in ["date", "content-type", "cache-control", "upgrade"] {
        let _at_most_once = parsed.field(field);
    }
}

/// Checks the HTTP/2 frames that refuse a connection preface.
fn check_goaway(response: &Response) {
    assert_eq!((response.status.code(), response.then), (505, After::Close));
    let (settings, goaway) = response.bytes.split_at(9);
    assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let length = u32::from_be_bytes([0, goaway[0], goaway[1], goaway[2]]);
    assert_eq!(length as usize, goaway.len() - 9);
}
