//! Tests of the parser of commands and of the messages.

use super::*;

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn refusal(text: &str) -> (&'static str, Option<String>) {
    let refused = parse(text).unwrap_err();
    let reference = refused.reference.map(|r| r.as_json().to_owned());
    (refused.refusal.code(), reference)
}

#[test]
fn command_is_parsed_with_its_reference_in_any_order_of_fields() {
    let command =
        parse(r#" {"ref":"a\"b","since":"00000000000a-7","channel":"c\u0041","type":"subscribe"}"#)
            .unwrap();
    assert_eq!(command.reference, Reference::from_json(r#""a\"b""#));
    let since = Since::After("00000000000a-7".parse().unwrap());
    let expected = Action::Subscribe {
        channel: channel("cA"),
        since,
        window: None,
    };
    assert_eq!(command.action, expected);
}

#[test]
fn command_without_since_or_with_null_starts_now() {
    for text in [
        r#"{"type":"subscribe","channel":"c"}"#,
        r#"{"type":"subscribe","channel":"c","since":null,"ref":null,"more":[{}]}"#,
        r#"{"type":"subscribe","channel":"c","since":""}"#,
    ] {
        let expected = Action::Subscribe {
            channel: channel("c"),
            since: Since::Now,
            window: None,
        };
        assert_eq!(parse(text).unwrap().action, expected, "{text}");
    }
}

#[test]
fn command_with_an_unrecognised_since_is_accepted() {
    for since in ["7", "\"x\"", "{}"] {
        let text = format!(r#"{{"type":"subscribe","channel":"c","since":{since}}}"#);
        let Action::Subscribe { since, .. } = parse(&text).unwrap().action else {
            panic!("another action");
        };
        assert_eq!(since, Since::Unrecognised);
    }
}

#[test]
fn last_is_used_without_a_position() {
    let since = |fields: &str| {
        let text = format!(r#"{{"type":"subscribe","channel":"c",{fields}}}"#);
        let command = parse(&text).map_err(|refused| refused.refusal)?;
        let Action::Subscribe { since, .. } = command.action else {
            panic!("another action");
        };
        Ok(since)
    };
    let five = Since::last(5).unwrap();
    let position = Since::After("00000000000a-7".parse().unwrap());
    for (fields, expected) in [
        (r#""since":"first""#, Since::First),
        (r#""since":"\u0066irst","last":5"#, Since::First),
        (r#""last":5"#, five),
        (r#""last":5.0,"since":null"#, five),
        (r#""last":5e0,"since":"""#, five),
        (r#""last":0"#, Since::Now),
        (r#""last":null"#, Since::Now),
        (r#""last":5,"since":"00000000000a-7""#, position),
        (r#""last":5,"since":{}"#, Since::Unrecognised),
        (r#""since":"First""#, Since::Unrecognised),
    ] {
        assert_eq!(since(fields), Ok(expected), "{fields}");
    }
    for wrong in ["-1", "1.5", "4294967296", "1e400", "\"5\"", "[5]", "true"] {
        for fields in [
            format!(r#""last":{wrong}"#),
            format!(r#""last":{wrong},"since":"00000000000a-7""#),
        ] {
            assert_eq!(since(&fields), Err(Refusal::BadLast), "{fields}");
        }
    }
}

#[test]
fn ack_names_a_channel_or_none() {
    let id = "00000000000a-7".parse().unwrap();
    for (text, expected) in [
        (r#"{"type":"ack","id":"00000000000a-7"}"#, None),
        (
            r#"{"type":"ack","id":"00000000000a-7","channel":null}"#,
            None,
        ),
        (
            r#"{"type":"ack","id":"00000000000a-7","channel":"c"}"#,
            Some(channel("c")),
        ),
    ] {
        let expected = Action::Acknowledge {
            channel: expected,
            id,
        };
        assert_eq!(parse(text).unwrap().action, expected, "{text}");
    }
}

#[test]
fn data_may_be_null_and_no_other_field() {
    let text = r#"{"type":"publish","channel":"c","data":null,"ref":null}"#;
    let data = Box::from("null");
    let channel = channel("c");
    assert_eq!(
        parse(text).unwrap().action,
        Action::Publish {
            channel,
            data,
            dedupe: None,
            traceparent: None
        }
    );
    for (text, code) in [
        (r#"{"type":null,"channel":"c"}"#, "unknown_type"),
        (r#"{"type":"auth","token":null}"#, "bad_token"),
        (
            r#"{"type":"publish","channel":"c","data":1,"traceparent":"00-1"}"#,
            "bad_traceparent",
        ),
        (
            r#"{"type":"publish","channel":"c","data":1,"traceparent":1}"#,
            "bad_traceparent",
        ),
        (r#"{"type":"ack","id":null}"#, "bad_id"),
        (r#"{"type":"presence","channel":null}"#, "bad_channel"),
        (
            r#"{"type":"publish","channel":null,"data":1}"#,
            "bad_channel",
        ),
    ] {
        assert_eq!(refusal(text), (code, None), "{text}");
    }
}

#[test]
fn publication_may_have_a_trace_context() {
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (field, expected) in [
        (format!(r#""{context}""#), context.parse().ok()),
        (String::from("null"), None),
    ] {
        let text = format!(r#"{{"type":"publish","channel":"c","data":1,"traceparent":{field}}}"#);
        let expected = Action::Publish {
            channel: channel("c"),
            data: Box::from("1"),
            dedupe: None,
            traceparent: expected.map(Box::new),
        };
        assert_eq!(parse(&text).unwrap().action, expected, "{text}");
    }
}

#[test]
fn publication_may_have_an_idempotency_key() {
    let longest = "k".repeat(256);
    let parsed = |json: &str| {
        let text = format!(r#"{{"type":"publish","channel":"c","data":1,"dedupe":{json}}}"#);
        match parse(&text).map(|command| command.action) {
            Ok(Action::Publish { dedupe, .. }) => Ok(dedupe),
            Ok(action) => panic!("{action:?}"),
            Err(refused) => Err(refused.refusal.code()),
        }
    };
    assert_eq!(parsed("null"), Ok(None));
    for key in ["k", "\u{fc}", &longest] {
        assert_eq!(parsed(&format!("{key:?}")), Ok(Some(key.into())));
    }
    for json in [
        "1",
        "\"\"",
        "[]",
        &format!("{longest:?}").replacen('k', "kk", 1),
    ] {
        assert_eq!(parsed(json), Err("bad_dedupe"), "{json}");
    }
}

#[test]
fn pattern_is_no_channel_of_a_command() {
    for kind in ["subscribe", "unsubscribe", "publish", "presence"] {
        for name in ["*", "prices:*", "a*b"] {
            let text = format!(r#"{{"type":"{kind}","channel":"{name}","data":1}}"#);
            assert_eq!(refusal(&text), ("bad_channel", None), "{text}");
        }
    }
}

#[test]
fn command_beyond_the_limits_of_json_is_refused_with_its_reference() {
    let with = |field: &str, value: &str| {
        format!(r#"{{"type":"publish","channel":"c","data":1,"{field}":{value},"ref":1}}"#)
    };
    let publish = |value: &str| with("data", value).replacen(r#""data":1,"#, "", 1);
    let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let long = |digits| "7".repeat(digits);
    for good in [
        publish(&deep(128)),
        publish(&long(1000)),
        with("x", "1e400"),
    ] {
        assert!(parse(&good).is_ok(), "{good}");
    }
    for bad in [
        publish(&deep(129)),
        publish(&deep(20_000)),
        publish(&long(1001)),
        with("x", &deep(129)),
    ] {
        assert_eq!(refusal(&bad), ("bad_json", Some("1".to_owned())), "{bad}");
    }
}

#[test]
fn window_is_a_whole_number_within_its_limit() {
    let window = |window: &str| {
        let text = format!(r#"{{"type":"subscribe","channel":"c","window":{window}}}"#);
        let command = parse(&text).map_err(|refused| refused.refusal)?;
        let Action::Subscribe { window, .. } = command.action else {
            panic!("another action");
        };
        Ok(window.map(Window::publications))
    };
    assert_eq!(window("null"), Ok(None));
    assert_eq!(window("1"), Ok(Some(1)));
    assert_eq!(window("1024"), Ok(Some(1024)));
    assert_eq!(window("5.0"), Ok(Some(5)));
    assert_eq!(window("1e2"), Ok(Some(100)));
    for wrong in [
        "0",
        "1025",
        "-1",
        "1.5",
        "1e400",
        "\"5\"",
        "[5]",
        "4294967297",
    ] {
        assert_eq!(window(wrong), Err(Refusal::BadWindow), "{wrong}");
    }
}

#[test]
fn command_that_is_wrong_is_refused_with_its_code_and_reference() {
    let long_channel = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, "x".repeat(201));
    let long_reference = format!(r#"{{"type":"ping","ref":"{}"}}"#, "x".repeat(63));
    let deep = "[".repeat(60_000);
    let one = || Some(String::from("1"));
    for (text, code, reference) in [
        ("", "bad_json", None),
        ("{", "bad_json", None),
        ("[\"subscribe\",\"c\"]", "bad_json", None),
        ("17", "bad_json", None),
        (r#"{"type":"ping"} x"#, "bad_json", None),
        (r#"{"type":"ping","type":"ping"}"#, "bad_json", None),
        (&deep, "bad_json", None),
        (r#"{"ref":1}"#, "unknown_type", one()),
        (r#"{"type":7,"ref":1}"#, "unknown_type", one()),
        (r#"{"type":"dance","ref":1}"#, "unknown_type", one()),
        (r#"{"type":"auth","token":7,"ref":1}"#, "bad_token", one()),
        (
            r#"{"type":"publish","channel":"c","ref":1}"#,
            "bad_payload",
            one(),
        ),
        (r#"{"type":"subscribe","ref":1}"#, "bad_channel", one()),
        (
            r#"{"type":"subscribe","channel":4,"ref":1}"#,
            "bad_channel",
            one(),
        ),
        (
            r#"{"type":"unsubscribe","channel":"","ref":1}"#,
            "bad_channel",
            one(),
        ),
        (
            r#"{"type":"subscribe","channel":"a b","ref":1}"#,
            "bad_channel",
            one(),
        ),
        (
            r#"{"type":"subscribe","channel":"\ud800","ref":1}"#,
            "bad_channel",
            one(),
        ),
        (&long_channel, "bad_channel", None),
        (r#"{"type":"ack","ref":1}"#, "bad_id", one()),
        (r#"{"type":"ack","id":7,"ref":1}"#, "bad_id", one()),
        (
            r#"{"type":"ack","id":"00000000000a-07","ref":1}"#,
            "bad_id",
            one(),
        ),
        (
            r#"{"type":"ack","id":"00000000000a-7","channel":4,"ref":1}"#,
            "bad_channel",
            one(),
        ),
        (r#"{"type":"ping","ref":{}}"#, "bad_ref", None),
        (r#"{"type":"ping","ref":true}"#, "bad_ref", None),
        (&long_reference, "bad_ref", None),
    ] {
        assert_eq!(refusal(text), (code, reference), "{text}");
    }
}

#[test]
fn every_refusal_makes_an_error_that_is_json() {
    for refusal in [
        Refusal::AlreadySubscribed,
        Refusal::BadChannel(ChannelNameError::Empty),
        Refusal::BadChannel(ChannelNameError::TooLong { got: 201 }),
        Refusal::BadChannel(ChannelNameError::Character { at: 4 }),
        Refusal::BadId,
        Refusal::BadJson,
        Refusal::JsonLimit(LimitError::Levels),
        Refusal::JsonLimit(LimitError::Digits),
        Refusal::BadChannel(ChannelNameError::Wildcard { at: 1 }),
        Refusal::BadReference,
        Refusal::BadLast,
        Refusal::BadWindow,
        Refusal::BinaryMessage,
        Refusal::ChannelMissing,
        Refusal::ChannelUnclear,
        Refusal::NotAllowed,
        Refusal::NotSubscribed,
        Refusal::NoWindow,
        Refusal::ServerFull,
        Refusal::TooManyChannels,
        Refusal::UnknownEpoch,
        Refusal::UnknownType,
    ] {
        let mut out = vec![0xee];
        push_error(refusal, Reference::from_json("\"r\"").as_ref(), &mut out);
        // The byte that was in `out` before is unchanged. The frame's header has two or four
        // bytes.
        assert_eq!(out[..2], [0xee, 0x81]);
        let body = if out[2] < 126 { &out[3..] } else { &out[5..] };
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(value["type"], "error");
        assert_eq!(value["code"], refusal.code());
        assert_eq!(value["message"], refusal.to_string());
        assert_eq!(value["ref"], "r");
    }
}

#[test]
fn message_longer_than_125_bytes_has_the_longer_header() {
    let mut out = Vec::new();
    let name = "x".repeat(200);
    push_unsubscribed(&channel(&name), None, &mut out);
    let body = format!(r#"{{"type":"unsubscribed","channel":"{name}"}}"#);
    assert_eq!(out[..2], [0x81, 126]);
    assert_eq!(out[2..4], u16::try_from(body.len()).unwrap().to_be_bytes());
    assert_eq!(&out[4..], body.as_bytes());
}
