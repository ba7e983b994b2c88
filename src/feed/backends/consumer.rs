//! The channels and notices that a consumer has requested, and the lines that it receives.
//!
//! This module performs no I/O. A feeder becomes a consumer with a line `{"consume":[…]}`. From
//! then on, the consumer receives a line of JSON for each publication of a client in these
//! channels. With `notices`, the consumer also receives a line for the start and the end of each
//! subscription. `reports` decides which consumer receives which report.

use crate::backend::{ClientPublication, Notice, Report};
use crate::config::limits::{NOTICE_BYTES_AT_ONCE, NOTICE_INTERVAL_BYTES, NOTICE_UNREAD_BYTES_MAX};
use crate::feed::protocol::minify::minify;
use crate::frame::envelope::{push_display, push_json_string, push_traceparent};
use crate::id::{ChannelName, ConnName};
use crate::pattern::Pattern;

/// The channels that one consumer has requested, and whether it receives notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumeOptions {
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) notices: bool,
}

impl ConsumeOptions {
    /// Whether this consumer receives a report.
    pub(crate) fn covers(&self, report: &Report) -> bool {
        match report {
            Report::Count { .. } => false,
            Report::Lost(_) => self.notices,
            Report::Notice(notice) => self.notices && self.has(&notice.channel),
            Report::Publish(publication) => self.has(&publication.channel),
        }
    }

    fn has(&self, channel: &ChannelName) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(channel))
    }
}

/// Limits the number of bytes of notices that a consumer has not read yet. A notice says that a
/// client has subscribed or unsubscribed. Publications are sent on the same connection, so the
/// limit prevents a publication from waiting for many notices. Notices above the limit stay in the
/// workers' table. There, a subscription and its end can still cancel each other out.
#[derive(Debug, Default)]
pub(crate) struct NoticeBudget {
    /// The end of the last notice, as an offset in the stream since the consumer connected.
    end: u64,
    /// The total size of the queued notices, in bytes. It restarts from zero when a notice is
    /// queued after all earlier notices were sent.
    bytes: usize,
}

impl NoticeBudget {
    /// Whether another notice may be queued. `sent` is the number of bytes written so far. `unread`
    /// returns the number of these bytes that the consumer has not read.
    pub(crate) fn has_room(&self, sent: u64, unread: impl FnOnce() -> u32) -> bool {
        match sent.checked_sub(self.end) {
            None => self.bytes < NOTICE_BYTES_AT_ONCE,
            Some(others) => others >= NOTICE_INTERVAL_BYTES || unread() <= NOTICE_UNREAD_BYTES_MAX,
        }
    }

    /// Counts a queued notice of `bytes` bytes. `sent` is the number of bytes sent so far, and
    /// `end` is the offset at which the notice ends in the consumer's stream.
    pub(crate) fn note(&mut self, sent: u64, bytes: usize, end: u64) {
        if sent >= self.end {
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.end = end;
    }
}

/// Returns the line that a consumer receives for a report.
pub(crate) fn line(report: &Report) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match report {
        // A request for a number of subscribers is never sent to consumers. `reports` asks the
        // workers for the number and answers the client.
        Report::Count { .. } => return out,
        Report::Lost(notices) => push_display(
            &format_args!("{{\"type\":\"notices_lost\",\"count\":{notices}"),
            &mut out,
        ),
        Report::Notice(Notice {
            conn,
            sub,
            channel,
            has_subscribed,
        }) => {
            let kind = if *has_subscribed {
                "subscribed"
            } else {
                "unsubscribed"
            };
            push_start(kind, *conn, sub.as_deref(), channel, &mut out);
        }
        Report::Publish(ClientPublication {
            from,
            sub,
            channel,
            data,
            traceparent,
            ..
        }) => {
            push_start("publish", *from, sub.as_deref(), channel, &mut out);
            out.extend_from_slice(b",\"data\":");
            // Line feeds are removed from the client's data, because they would end the line.
            out.extend_from_slice(minify(data).as_bytes());
            if let Some(traceparent) = traceparent {
                push_traceparent(traceparent, &mut out);
            }
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

fn push_start(
    kind: &str,
    conn: ConnName,
    sub: Option<&str>,
    channel: &ChannelName,
    out: &mut Vec<u8>,
) {
    push_display(
        &format_args!("{{\"type\":\"{kind}\",\"conn\":\"{conn}\",\"sub\":"),
        out,
    );
    match sub {
        None => out.extend_from_slice(b"null"),
        Some(sub) => push_json_string(sub, out),
    }
    out.extend_from_slice(b",\"channel\":");
    push_json_string(channel.as_str(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Audience;
    use crate::id::RunId;

    fn from() -> ConnName {
        ConnName {
            run: RunId(9),
            worker: 1,
            slot: 2,
            serial: 3,
        }
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::new(name).unwrap()
    }

    fn publication(name: &str, data: &str) -> Report {
        Report::Publish(client_publication(name, data))
    }

    fn client_publication(name: &str, data: &str) -> ClientPublication {
        ClientPublication {
            from: from(),
            sub: Some("a\"l".into()),
            channel: channel(name),
            data: data.into(),
            dedupe: None,
            reference: None,
            audience: Audience::Consumers,
            traceparent: None,
        }
    }

    fn notice(name: &str, has_subscribed: bool) -> Report {
        Report::Notice(Notice {
            conn: from(),
            sub: None,
            channel: channel(name),
            has_subscribed,
        })
    }

    #[test]
    fn consumer_receives_its_channels_and_notices_only_on_request() {
        let mut consume_options = ConsumeOptions {
            patterns: vec![Pattern::new("chat:*").unwrap()],
            notices: false,
        };
        assert!(consume_options.covers(&publication("chat:1", "1")));
        assert!(!consume_options.covers(&publication("chat", "1")));
        assert!(!consume_options.covers(&notice("chat:1", true)));
        assert!(!consume_options.covers(&Report::Lost(1)));
        consume_options.notices = true;
        assert!(consume_options.covers(&notice("chat:1", true)));
        assert!(!consume_options.covers(&notice("a", true)));
        assert!(consume_options.covers(&Report::Lost(1)));
    }

    #[test]
    fn few_notices_are_in_flight_and_steady_publications_leave_room_for_them() {
        let mut budget = NoticeBudget::default();
        let read_all = || 0;
        let read_nothing = || NOTICE_UNREAD_BYTES_MAX + 1;
        assert!(budget.has_room(0, read_all));
        assert!(!budget.has_room(0, read_nothing));
        budget.note(0, NOTICE_BYTES_AT_ONCE - 1, 10_000);
        assert!(budget.has_room(0, read_nothing), "the batch is not full");
        budget.note(0, 1, 10_001);
        assert!(
            !budget.has_room(10_000, read_all),
            "the notices are not written yet"
        );
        assert!(budget.has_room(10_001, read_all));
        assert!(!budget.has_room(10_001 + NOTICE_INTERVAL_BYTES - 1, read_nothing));
        assert!(budget.has_room(10_001 + NOTICE_INTERVAL_BYTES, read_nothing));
        budget.note(80_000, 1, 80_001);
        assert!(budget.has_room(80_000, read_nothing), "another batch");
    }

    #[test]
    fn reports_are_one_line_of_json_each() {
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = ClientPublication {
            traceparent: context.parse().ok().map(Box::new),
            ..client_publication("a", "1")
        };
        let traced_line = format!(
            r#"{{"type":"publish","conn":"C","sub":"a\"l","channel":"a","data":1,"traceparent":"{context}"}}"#
        );
        for (report, expected) in [
            (Report::Publish(traced), &*traced_line),
            (
                publication("a\"b", "{\n \"x\" : 1 }"),
                r#"{"type":"publish","conn":"C","sub":"a\"l","channel":"a\"b","data":{"x":1}}"#,
            ),
            (
                notice("a", true),
                r#"{"type":"subscribed","conn":"C","sub":null,"channel":"a"}"#,
            ),
            (
                notice("a", false),
                r#"{"type":"unsubscribed","conn":"C","sub":null,"channel":"a"}"#,
            ),
            (Report::Lost(7), r#"{"type":"notices_lost","count":7}"#),
        ] {
            let line = String::from_utf8(line(&report)).unwrap();
            let line = line.replace(&from().to_string(), "C");
            assert_eq!(line, format!("{expected}\n"));
        }
    }
}
