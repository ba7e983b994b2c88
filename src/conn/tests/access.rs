//! Tests of what a conn passes to the access log.

use super::super::*;
use super::{PAGE, Rig};

const FORWARDED: &[u8] =
    b"GET /x?channel=a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";

fn logged() -> Rig {
    let mut rig = Rig::new();
    rig.is_observed = true;
    rig
}

impl Rig {
    /// Removes the effects for the access log. Returns the paths of the requests, then the status
    /// and the reason of each answer.
    fn noted(&mut self) -> (Vec<String>, Vec<(u16, Option<CloseReason>)>) {
        let (mut paths, mut answers) = (Vec::new(), Vec::new());
        for effect in self.effects.drain(..) {
            if let Effect::NoteRequest(request) = &effect {
                paths.push(request.path.to_string());
            }
            if let Effect::NoteAnswer(answered) = &effect {
                assert!(answered.bytes > 100 && answered.publications == 0);
                answers.push((answered.status, answered.reason));
            }
        }
        (paths, answers)
    }

    fn refused(&self) -> u64 {
        self.metrics.requests_refused.value()
    }
}

#[test]
fn refusal_of_a_forwarded_client_is_noted_with_its_request() {
    let mut rig = logged();
    rig.is_trusted = true;
    for (admitted, status, reason) in [
        (Ok(()), 404, None),
        (Err(TooMany::Conns), 429, Some(CloseReason::Refused)),
    ] {
        rig.feed(FORWARDED);
        rig.call(|conn, out, context| conn.handle_forwarded_client(admitted, out, context));
        let path = String::from("/x?channel=a");
        assert_eq!(rig.noted(), (vec![path], vec![(status, reason)]));
        rig.drain();
    }
    assert_eq!(rig.refused(), 2);
}

#[test]
fn trace_context_of_a_request_is_noted_unless_it_is_invalid_or_repeated() {
    let field = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let lower = field.replace("-01", "-1");
    for (fields, is_noted) in [
        (field.to_owned(), true),
        (field.to_uppercase(), false),
        (field.replace("traceparent", "TraceParent"), true),
        (format!("{field}{field}"), false),
        (lower, false),
    ] {
        let mut rig = logged();
        rig.feed(format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        let noted = rig.effects.iter().find_map(|effect| {
            let Effect::NoteRequest(request) = effect else {
                return None;
            };
            Some(request.traceparent.is_some())
        });
        assert_eq!(noted, Some(is_noted), "{fields}");
    }
}

#[test]
fn refusals_without_a_complete_request_are_noted() {
    let partial = &PAGE[..20];
    let mut late = logged();
    late.feed(partial);
    late.time_out(SendState::CaughtUp);
    let mut stopped = logged();
    stopped.feed(partial);
    stopped.call(|conn, out, context| conn.handle_shutdown(out, context));
    let mut plain = logged();
    plain.call(|conn, out, context| conn.handle_plaintext(out, context));
    for (mut rig, status, reason) in [
        (late, 408, CloseReason::HeadTimeout),
        (stopped, 503, CloseReason::Shutdown),
        (plain, 400, CloseReason::BadRequest),
    ] {
        assert_eq!(rig.noted(), (Vec::new(), vec![(status, Some(reason))]));
        assert_eq!(rig.refused(), 1, "{status}");
        assert!(rig.conn.is_ending());
    }
}

#[test]
fn conn_outside_the_sample_notes_nothing() {
    let mut rig = Rig::new();
    rig.config.logging.access = crate::config::AccessFormat::Json;
    rig.feed(PAGE);
    rig.drain();
    rig.feed(&PAGE[..20]);
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.noted(), (Vec::new(), Vec::new()));
}
