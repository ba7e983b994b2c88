//! The page at `/` in a headless Chromium, operated through its controls, and the browser's own
//! event streams.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::{Feeder, Lines, Relay, Server, dependency};

#[test]
fn page_shows_figures_over_both_transports_and_any_channel_asked_for() {
    let server = Server::with("", &["--demo"]);
    check_page(&server, "");
}

#[test]
fn page_shows_compressed_publications() {
    let server = Server::with("[deflate]\nenabled = true\n", &["--demo"]);
    check_page(&server, &" and good day".repeat(100));
    assert!(server.metric("fanfare_frames_deflated_total") >= 1.0);
}

/// Operates the page. Publishes the texts for which the page waits, with this suffix.
fn check_page(server: &Server, end: &str) {
    let folder = tempfile::tempdir().unwrap();
    let screenshot = folder.path().join("page.png");
    let mut page = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("page.mjs"))
            .arg("/usr/bin/chromium")
            .arg(server.url("/"))
            .arg(folder.path().join("profile"))
            .arg(&screenshot),
    );
    for transport in ["sse", "ws"] {
        let live = page.json();
        assert_eq!(live["live"], transport, "{live}");
        assert!(!live["last"].as_str().unwrap().is_empty(), "{live}");
    }
    let mut feeder = Feeder::connect(&server.feed);
    for transport in ["ws", "sse"] {
        assert_eq!(page.json()["subscribed"], transport);
        let text = format!("<b>hello {transport}</b>{end}");
        publish_to_one(&mut feeder, &format!("test:page-{transport}"), &text);
        let seen = page.json();
        assert_eq!(seen["seen"], transport, "{seen}");
        assert!(seen["text"].as_str().unwrap().contains(&text), "{seen}");
    }
    let last = page.json();
    assert_eq!(last["errors"], json!([]), "the page had errors");
    assert!(page.wait().success(), "{}", page.stderr());
    assert!(screenshot.metadata().unwrap().len() > 10_000);
}

#[test]
fn page_asks_for_a_token_and_uses_the_one_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let config = format!(
        "[auth]\nkeys = [\"HS256 {}\"]\nleeway_ms = 0\n\
         [[namespace]]\nmatch = \"open\"\nanonymous_subscribe = true\n",
        secret.display()
    );
    let server = Server::with(&config, &["--demo"]);
    let mut page = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("page_token.mjs"))
            .arg("/usr/bin/chromium")
            .arg(server.url("/"))
            .arg(folder.path().join("profile"))
            .arg(folder.path().join("page"))
            .arg(env!("CARGO_BIN_EXE_fanfare"))
            .arg(&secret),
    );
    let mut expect = |key: &str, part: &str| {
        let value = page.json();
        let text = value[key]
            .as_str()
            .unwrap_or_else(|| panic!("no {key}: {value}"));
        assert!(text.contains(part), "{value} has no {part}");
    };
    expect("asked", "demo:load, demo:memory, demo:network");
    let mut feeder = Feeder::connect(&server.feed);
    for transport in ["ws", "sse"] {
        expect("subscribed", transport);
        publish_to_one(&mut feeder, "open", &format!("hello {transport}"));
        expect("seen", transport);
    }
    for (key, part) in [
        ("asked", "malformed"),
        ("asked", "expired"),
        ("live", "sse"),
        ("live", "ws"),
        ("asked", "does not allow"),
    ] {
        expect(key, part);
    }
    assert_eq!(page.json(), json!({"leaks": [], "errors": []}));
    assert!(page.wait().success(), "{}", page.stderr());
}

/// Publishes a text repeatedly until the channel has a subscriber, because a stream may be open
/// shortly before it is subscribed.
fn publish_to_one(feeder: &mut Feeder, channel: &str, text: &str) {
    let line = json!({"channel": channel, "text": text, "ack": true});
    crate::support::within("a subscriber", || {
        feeder.send(&line);
        (feeder.answer()["subscribers"] == 1).then_some(())
    });
}

#[test]
fn browser_resumes_after_an_id_from_before_any_publication() {
    let server = Server::start();
    let relay = Relay::to(server.addr);
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("browser_resume.mjs"))
            .arg("/usr/bin/chromium")
            .arg(format!("http://{}/nowhere", relay.addr))
            .arg(folder.path().join("profile")),
    );
    assert_eq!(browser.json()["opened"], 1);
    server.await_metric("fanfare_subscribers", 1.0);
    relay.cut();
    server.await_metric("fanfare_subscribers", 0.0);
    let mut feeder = Feeder::connect(&server.feed);
    let missed = feeder.publish("a", "missed by a hair");
    assert_eq!(browser.json_with("opened")["opened"], 2);
    assert_eq!(browser.json()["id"], missed.as_str());
    let live = feeder.publish("a", "live");
    assert_eq!(browser.json()["id"], live.as_str());
    assert!(browser.wait().success(), "{}", browser.stderr());
}
