//! Tests of commands on a server with keys: permissions, the order of commands, and the end of the
//! conn.

use std::sync::Arc;

use super::super::*;
use super::{frame, server_frames};
use crate::auth::{Key, TokenSpec, Verifier, mint};
use crate::config::{Algorithm, TokenRules};
use crate::effect::Effect;
use crate::id::{ChannelName, Since};
use crate::time::{Deadline, Now};
use crate::transport::test_context::World;

/// Returns the state of a server with a token key, and a token that is valid for this many seconds.
fn guarded(seconds: u64) -> (World, String) {
    let secret = [7; 32];
    let spec = TokenSpec {
        subscribe: vec!["a".into()],
        expires_s: 1_000 + seconds,
        ..TokenSpec::default()
    };
    let token = mint(Algorithm::Hs256, &secret, &spec).unwrap();
    let key = Key::new(Algorithm::Hs256, &secret).unwrap();
    let verifier = Verifier::new(vec![key], TokenRules::default()).unwrap();
    let mut world = World::default();
    world.config.auth.jwks = "jwks.json".into();
    let time = Duration::from_secs(1_000);
    world.access.renew(Some(Arc::new(verifier)), time, Now(0));
    (world, token)
}

fn send(world: &mut World, commands: &[String]) -> (Vec<String>, Flow) {
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let frames = commands
        .iter()
        .map(|command| frame(0x81, command.as_bytes()));
    let mut input = frames.collect::<Vec<_>>().concat();
    let mut out = Vec::new();
    let flow = socket.handle_bytes(&mut input, &mut out, &mut world.context());
    let answers = server_frames(&out)
        .into_iter()
        .map(|(opcode, payload)| match opcode {
            Opcode::Close => u16::from_be_bytes([payload[0], payload[1]]).to_string(),
            Opcode::Continuation | Opcode::Text | Opcode::Binary | Opcode::Ping | Opcode::Pong => {
                let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                json["code"]
                    .as_str()
                    .or_else(|| json["type"].as_str())
                    .unwrap()
                    .to_owned()
            }
        });
    (answers.collect(), flow)
}

fn subscribe(channel: &str) -> String {
    format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)
}

#[test]
fn command_after_a_token_in_the_same_read_is_checked_against_it() {
    let (mut world, token) = guarded(60);
    let auth = format!(r#"{{"type":"auth","token":"{token}","ref":1}}"#);
    let commands = [
        subscribe("a"),
        auth.clone(),
        subscribe("a"),
        subscribe("b"),
        auth,
    ];
    let (answers, flow) = send(&mut world, &commands);
    assert_eq!(answers, ["not_allowed", "ok", "not_allowed", "busy"]);
    assert_eq!(flow, Flow::Open);
    let joins = world
        .effects
        .iter()
        .filter(|e| matches!(e, Effect::Join(_)));
    assert_eq!(joins.count(), 1);
    assert_eq!(world.metrics.tokens_accepted.value(), 1);
}

#[test]
fn invalid_token_ends_the_conn_and_later_commands_are_ignored() {
    for (token, code) in [("x", "4001"), (&guarded(0).1, "4002")] {
        let (mut world, _) = guarded(60);
        let auth = format!(r#"{{"type":"auth","token":"{token}"}}"#);
        let (answers, flow) = send(&mut world, &[auth, subscribe("a")]);
        assert_eq!(answers, [code]);
        assert!(matches!(flow, Flow::Ended(_)));
        assert!(matches!(world.effects[..], [Effect::NoteRefusedToken(_)]));
        assert_eq!(world.metrics.tokens_refused.value(), 1);
    }
}

#[test]
fn awaited_token_must_allow_the_channels_of_the_request() {
    for (channel, answer, joins) in [("a", "ok", 1), ("b", "4003", 0)] {
        let (mut world, token) = guarded(60);
        let join = Join {
            channels: vec![ChannelName::new(channel).unwrap()],
            since: Since::Now,
            window: None,
            origin: Origin::Request,
        };
        let slot = world.context().conn.slot;
        let mut context = world.context();
        context.access.await_token(join, Deadline(1));
        let change = context.access.into_change().unwrap();
        world.access.store(slot, change);
        let auth = format!(r#"{{"type":"auth","token":"{token}","ref":1}}"#);
        let (answers, _) = send(&mut world, &[subscribe("a"), auth]);
        assert_eq!(answers, ["not_authenticated", answer]);
        let asked = world
            .effects
            .iter()
            .filter(|e| matches!(e, Effect::Join(_)));
        assert_eq!(asked.count(), joins);
    }
}

#[test]
fn no_token_is_required_without_keys() {
    let mut world = World::default();
    let auth = String::from(r#"{"type":"auth","token":"x","ref":1}"#);
    let (answers, flow) = send(&mut world, &[auth, subscribe("a")]);
    assert_eq!(answers, ["not_allowed"]);
    assert_eq!(flow, Flow::Open);
    assert!(matches!(world.effects[..], [Effect::Join(_)]));
}
