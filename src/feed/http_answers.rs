//! Encodes the feed's HTTP responses, with the functions that also encode responses to clients.
//!
//! This module performs no I/O. A refusal is a problem document (RFC 9457). The document also has
//! the member `error`, as refused lines have, and the index of the faulty publication.

use std::time::SystemTime;

use httpdate::HttpDate;

use super::protocol::request_refusal::RequestRefusal;
use crate::frame::envelope::push_display;
use crate::http::After;
use crate::http::head::Method;
use crate::http::response::{PROBLEM, Problem, Status, push_content, push_field, push_status_line};

/// The interim response that invites the client to send the body (RFC 9110, 15.2.1).
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The delay in seconds before a feeder should repeat a request that the journal refused.
const RETRY_AFTER_S: &str = "1";

/// Appends the response to a request whose publications were sequenced.
pub(super) fn push_accepted(body: &[u8], is_last: bool, date: SystemTime, out: &mut Vec<u8>) {
    push_status_line(Status::Ok, &HttpDate::from(date).to_string(), out);
    push_content("application/json", body, Method::Post, after(is_last), out);
}

/// Appends the response to a refused request. The response to `HEAD` has no body.
pub(super) fn push_refused(
    refusal: &RequestRefusal,
    is_last: bool,
    method: Method,
    date: SystemTime,
    out: &mut Vec<u8>,
) {
    push_status_line(refusal.status, &HttpDate::from(date).to_string(), out);
    if let Some((name, value)) = refusal.field {
        push_field(name, value, out);
    }
    match refusal.status {
        Status::MethodNotAllowed => push_field("Allow", "POST", out),
        Status::ServiceUnavailable => push_field("Retry-After", RETRY_AFTER_S, out),
        _ => {}
    }
    push_content(PROBLEM, &document(refusal), method, after(is_last), out);
}

fn document(refusal: &RequestRefusal) -> Vec<u8> {
    let problem = Problem {
        status: refusal.status,
        detail: &refusal.detail,
        code: refusal.error,
    };
    problem.document_with(|out| {
        push_display(&format_args!(",\"error\":\"{}\"", refusal.error), out);
        if let Some(index) = refusal.index {
            push_display(&format_args!(",\"index\":{index}"), out);
        }
    })
}

fn after(is_last: bool) -> After {
    match is_last {
        true => After::Close,
        false => After::KeepAlive,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn refused(refusal: &RequestRefusal, method: Method) -> String {
        let mut out = Vec::new();
        push_refused(refusal, false, method, UNIX_EPOCH, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn refusal_is_a_problem_document_and_has_no_body_for_head() {
        let detail = "a \"quoted\" word";
        let refusal = RequestRefusal {
            index: Some(3),
            ..RequestRefusal::new(Status::MethodNotAllowed, "method_not_allowed", detail)
        };
        let whole = refused(&refusal, Method::Post);
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 405 Method Not Allowed\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                 Allow: POST\r\nContent-Type: application/problem+json\r\n\
                 Content-Length: {}\r\nConnection: keep-alive",
                body.len()
            )
        );
        assert_eq!(
            body,
            "{\"type\":\"about:blank\",\"title\":\"Method Not Allowed\",\"status\":405,\
             \"detail\":\"a \\\"quoted\\\" word\",\"code\":\"method_not_allowed\",\
             \"error\":\"method_not_allowed\",\"index\":3}\n"
        );
        assert_eq!(refused(&refusal, Method::Head), format!("{head}\r\n\r\n"));
    }

    #[test]
    fn refusal_names_what_is_accepted_and_when_to_retry() {
        let accept = ("Accept", "application/json");
        let unsupported = RequestRefusal::unsupported("unsupported_media_type", "no", accept);
        let text = refused(&unsupported, Method::Post);
        assert!(text.contains("\r\nAccept: application/json\r\n"), "{text}");
        let journal = RequestRefusal::new(Status::ServiceUnavailable, "journal", "no");
        let text = refused(&journal, Method::Post);
        assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
    }
}
