//! A line for the feed: one publication as a JSON object.
//!
//! PURE: the code only builds bytes. Everything except the payload is the same for every line and
//! is built once. A payload that is not valid JSON is refused here, because unchecked text could
//! change the object around it.

use serde_json::value::RawValue;

use crate::cli::Failure;
use crate::cli::args::PublishArgs;
use fanfare::frame::envelope::{push_json_string, push_traceparent};

/// The maximum length of a line of standard input. No feed accepts a longer line.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The reason why a payload cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("the data is not JSON; use --text to send it as text")]
    NotJson,
    #[error("the data is not UTF-8")]
    NotUtf8,
    #[error("the data has more than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

impl From<PayloadError> for Failure {
    fn from(error: PayloadError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// The parts of a line for the feed that are the same for every payload.
pub(super) struct Template {
    /// The part of the line before the idempotency key.
    before: Vec<u8>,
    /// Prefix of the idempotency keys; `None` if the lines have no keys.
    run: Option<String>,
    /// The name of the member that contains the payload.
    name: &'static [u8],
    /// The part of the line after the payload, including the line end.
    after: Vec<u8>,
    is_text: bool,
}

impl Template {
    /// Builds the constant parts of a line. With `run`, each line has an idempotency key: `run`, a
    /// hyphen and the line's number.
    pub(super) fn new(args: &PublishArgs, run: Option<&str>) -> Self {
        let mut before = b"{\"channel\":".to_vec();
        push_json_string(args.channel.as_str(), &mut before);
        for (name, value) in [("event", &args.event), ("key", &args.key)] {
            if let Some(value) = value {
                before.extend_from_slice(format!(",\"{name}\":").as_bytes());
                push_json_string(value, &mut before);
            }
        }
        if let Some(traceparent) = &args.traceparent {
            push_traceparent(traceparent, &mut before);
        }
        if args.ack {
            before.extend_from_slice(b",\"ack\":true");
        }
        Self {
            before,
            run: run.map(String::from),
            name: if args.text {
                b",\"text\":"
            } else {
                b",\"data\":"
            },
            after: b"}\n".to_vec(),
            is_text: args.text,
        }
    }

    /// Whether payloads are sent as text instead of JSON.
    pub(super) fn is_text(&self) -> bool {
        self.is_text
    }

    /// Appends to `out` the line that publishes `payload`.
    pub(super) fn push_line(
        &self,
        number: u64,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), PayloadError> {
        let Ok(text) = std::str::from_utf8(payload) else {
            return Err(PayloadError::NotUtf8);
        };
        if !self.is_text && serde_json::from_str::<&RawValue>(text).is_err() {
            return Err(PayloadError::NotJson);
        }
        out.extend_from_slice(&self.before);
        if let Some(run) = &self.run {
            out.extend_from_slice(format!(",\"dedupe\":\"{run}-{number}\"").as_bytes());
        }
        out.extend_from_slice(self.name);
        if self.is_text {
            push_json_string(text, out);
        } else {
            // A line end in valid JSON is always white space between tokens, so a space can replace
            // it.
            out.extend(
                text.bytes()
                    .map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }),
            );
        }
        out.extend_from_slice(&self.after);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::publish::tests::args;

    const CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn line(args: &PublishArgs, payload: &[u8]) -> Result<String, PayloadError> {
        let mut out = Vec::new();
        Template::new(args, None).push_line(1, payload, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn line_has_json_on_one_line_and_escaped_text() {
        assert_eq!(
            line(&args(false, false), b"{\n \"a\": 1\r\n}").unwrap(),
            "{\"channel\":\"prices\",\"data\":{  \"a\": 1  }}\n"
        );
        assert_eq!(
            line(&args(true, true), b"a\"b").unwrap(),
            "{\"channel\":\"prices\",\"ack\":true,\"text\":\"a\\\"b\"}\n"
        );
        let labelled = PublishArgs {
            event: Some(String::from("tick")),
            key: Some(String::from("eur")),
            traceparent: CONTEXT.parse().ok(),
            ..args(false, false)
        };
        assert_eq!(
            line(&labelled, b"1").unwrap(),
            format!(
                r#"{{"channel":"prices","event":"tick","key":"eur","traceparent":"{CONTEXT}","data":1}}"#
            ) + "\n"
        );
    }

    #[test]
    fn idempotency_key_has_the_run_and_the_line_number() {
        let template = Template::new(&args(true, false), Some("0f"));
        let mut out = Vec::new();
        template.push_line(12, b"1", &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"channel\":\"prices\",\"ack\":true,\"dedupe\":\"0f-12\",\"data\":1}\n"
        );
    }

    #[test]
    fn payload_that_is_not_json_is_refused() {
        assert_eq!(
            line(&args(false, false), b"1,\"channel\":\"x\""),
            Err(PayloadError::NotJson)
        );
        assert_eq!(line(&args(false, false), b""), Err(PayloadError::NotJson));
        assert_eq!(
            line(&args(false, true), b"\xff"),
            Err(PayloadError::NotUtf8)
        );
    }
}
