//! What a consumer wants, and the lines in which it gets it.
//!
//! Pure. A feeder becomes a consumer by a line `{"consume":[…]}`; from then on it is told, one JSON
//! object a line, what clients publish in the channels it named and, with notices, who comes to
//! them and leaves. Who gets which report is decided by the loop in [`super`].

use super::minify::minify;
use crate::dialogue::{ClientPublication, Notice, Report};
use crate::frame::envelope::{push_display, push_json_string};
use crate::id::{ChannelName, ConnName};
use crate::pattern::Pattern;

/// What one consumer has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) patterns: Vec<Pattern>,
    pub(super) notices: bool,
}

impl Wants {
    /// Whether a report is for this consumer.
    pub(super) fn covers(&self, report: &Report) -> bool {
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

/// The line in which a consumer is told.
pub(super) fn line(report: &Report) -> Vec<u8> {
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
            has_come,
        }) => {
            let kind = if *has_come {
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

    fn notice(name: &str, has_come: bool) -> Report {
        Report::Notice(Notice {
            conn: from(),
            sub: None,
            channel: channel(name),
            has_come,
        })
    }

    #[test]
    fn consumer_wants_its_patterns_and_notices_only_if_it_said_so() {
        let mut wants = Wants {
            patterns: vec![Pattern::new("chat:*").unwrap()],
            notices: false,
        };
        assert!(wants.covers(&publication("chat:1", "1")));
        assert!(!wants.covers(&publication("chat", "1")));
        assert!(!wants.covers(&notice("chat:1", true)));
        assert!(!wants.covers(&Report::Lost(1)));
        wants.notices = true;
        assert!(wants.covers(&notice("chat:1", true)));
        assert!(!wants.covers(&notice("a", true)));
        assert!(wants.covers(&Report::Lost(1)));
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
