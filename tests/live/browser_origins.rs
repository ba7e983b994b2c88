//! Cross-origin access from a headless Chromium: which pages may open and read each transport.
//!
//! The origins differ only in their ports, so they belong to the same site. Therefore the browser
//! sends the cookie with every request, whatever the cookie's `SameSite`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Lines, Server, dependency, fanfare};

/// Returns an `[auth]` section with a secret in this folder, and a token signed with that secret.
fn guard(folder: &Path) -> (String, String) {
    let secret = folder.join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let output = fanfare()
        .args(["token", "--subscribe", "*", "--key"])
        .arg(&secret)
        .output()
        .unwrap();
    assert!(output.status.success());
    let token = String::from_utf8(output.stdout).unwrap();
    let section = format!(
        "[auth]\nkeys = [\"HS256 {}\"]\ncookie = \"ticket\"\n",
        secret.display()
    );
    (section, token.trim().to_owned())
}

/// Starts the browser with a cookie for the server, and opens a page of each host.
fn visit(server: &Server, token: &str, folder: &Path, hosts: &[&Server]) -> Lines {
    Lines::run(
        Command::new("node")
            .arg(dependency("node").join("browser_origins.mjs"))
            .arg("/usr/bin/chromium")
            .arg(format!("http://{}", server.addr))
            .arg(format!("ticket={token}"))
            .arg(folder.join("profile"))
            .args(hosts.iter().map(|host| host.url("/nowhere"))),
    )
}

#[test]
fn browser_opens_every_transport_for_a_listed_origin_only() {
    let folder = tempfile::tempdir().unwrap();
    let (auth, token) = guard(folder.path());
    let (listed, foreign) = (Server::start(), Server::start());
    let origins = format!("[browser]\norigins = [\"http://{}\"]\n", listed.addr);
    let server = Server::with(&format!("{auth}{origins}"), &[]);
    let mut browser = visit(
        &server,
        &token,
        folder.path(),
        &[&listed, &server, &foreign],
    );
    let all = json!({
        "stream": "opened", "poll": 200, "read": true, "again": 304, "socket": "opened",
    });
    assert_eq!(browser.json(), all, "listed");
    assert_eq!(browser.json(), all, "the server's own");
    assert!(server.metric("fanfare_origins_refused_total") < 0.5);
    let nothing = json!({
        "stream": "error", "poll": "error", "read": false, "again": "error", "socket": "error",
    });
    assert_eq!(browser.json(), nothing, "foreign");
    // The preflight of the second poll is refused, so the poll itself is never sent.
    server.await_metric("fanfare_origins_refused_total", 3.0);
    assert!(browser.wait().success(), "{}", browser.stderr());
}

#[test]
fn browser_hides_responses_without_a_cookie_from_another_origin() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = Server::start();
    let (closed, open) = (
        Server::start(),
        Server::with("[browser]\norigins = [\"*\"]\n", &[]),
    );
    let outcome = |server: &Server, name: &str| {
        let folder = folder.path().join(name);
        visit(server, "none", &folder, &[&foreign]).json()
    };
    let nothing = json!({
        "stream": "error", "poll": "error", "read": false, "again": "error", "socket": "error",
    });
    assert_eq!(outcome(&closed, "closed"), nothing);
    closed.await_metric("fanfare_origins_refused_total", 1.0);
    // The server allows any origin. For requests with credentials, the browser requires that the
    // response names the page's own origin.
    let only_socket = json!({
        "stream": "error", "poll": "error", "read": false, "again": "error", "socket": "opened",
    });
    assert_eq!(outcome(&open, "open"), only_socket);
}
