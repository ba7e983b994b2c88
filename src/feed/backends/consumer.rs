//! What a consumer wants, and the lines in which it gets it.
//!
//! Pure. A feeder becomes a consumer by a line `{"consume":[…]}`; from then on it is told, one JSON
//! object a line, what clients publish in the channels it named and, with notices, who comes to
//! them and leaves. Who gets which report is decided by the loop in [`super`].

use crate::backend::{ClientPublication, Notice, Report};
use crate::config::limits::{NOTICE_BYTES_AT_ONCE, NOTICE_INTERVAL_BYTES, NOTICE_UNREAD_BYTES_MAX};
use crate::feed::protocol::minify::minify;
use crate::frame::envelope::{push_display, push_json_string};
use crate::id::{ChannelName, ConnName};
use crate::pattern::Pattern;

/// What one consumer has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumeOptions {
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) notices: bool,
}

impl ConsumeOptions {
    /// Whether a report is for this consumer.
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

/// How much of what a consumer has not read may be notices. They share one stream of bytes with
/// publications, so few are in it at any time: a publication never waits for many, and those that
/// wait elsewhere can still be undone.
#[derive(Debug, Default)]
pub(crate) struct NoticeBudget {
    /// Where the last notice ends, counted in bytes since the consumer connected.
    end: u64,
    /// Bytes of notices of which the last ends there.
    bytes: usize,
}

impl NoticeBudget {
    /// Whether there is room for a notice. `sent` is what the socket has taken so far; `unread`
    /// says how much of that the consumer has not read.
    pub(crate) fn has_room(&self, sent: u64, unread: impl FnOnce() -> u32) -> bool {
        match sent.checked_sub(self.end) {
            None => self.bytes < NOTICE_BYTES_AT_ONCE,
            Some(others) => others >= NOTICE_INTERVAL_BYTES || unread() <= NOTICE_UNREAD_BYTES_MAX,
        }
    }

    /// Notes a notice of so many bytes, the last of what the consumer is owed up to `end`.
    pub(crate) fn note(&mut self, sent: u64, bytes: usize, end: u64) {
        if sent >= self.end {
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.end = end;
    }
}

/// The line in which a consumer is told.
pub(crate) fn line(report: &Report) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match report {
        // Nothing for consumers; the loop answers it.
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
            ..
        }) => {
            push_start("publish", *from, sub.as_deref(), channel, &mut out);
            out.extend_from_slice(b",\"data\":");
            // A line end in the client's white space would be one in ours.
            out.extend_from_slice(minify(data).as_bytes());
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
        Report::Publish(ClientPublication {
            from: from(),
            sub: Some("a\"l".into()),
            channel: channel(name),
            data: data.into(),
            reference: None,
            audience: Audience::Consumers,
        })
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
    fn consumer_wants_its_patterns_and_notices_only_if_it_said_so() {
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
    fn few_notices_are_on_their_way_and_steady_publications_leave_them_a_share() {
        let mut share = NoticeBudget::default();
        let read_all = || 0;
        let read_nothing = || NOTICE_UNREAD_BYTES_MAX + 1;
        assert!(share.has_room(0, read_all));
        assert!(!share.has_room(0, read_nothing));
        share.note(0, NOTICE_BYTES_AT_ONCE - 1, 10_000);
        assert!(share.has_room(0, read_nothing), "the batch is not full");
        share.note(0, 1, 10_001);
        assert!(!share.has_room(10_000, read_all), "it is not written");
        assert!(share.has_room(10_001, read_all));
        assert!(!share.has_room(10_001 + NOTICE_INTERVAL_BYTES - 1, read_nothing));
        assert!(share.has_room(10_001 + NOTICE_INTERVAL_BYTES, read_nothing));
        share.note(80_000, 1, 80_001);
        assert!(share.has_room(80_000, read_nothing), "another batch");
    }

    #[test]
    fn reports_are_one_line_of_json_each() {
        for (report, expected) in [
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
