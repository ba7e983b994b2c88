//! Tests of tokens. Another implementation signs the tokens, and independent clients send them in
//! every supported way. The server refuses a token with a fault of any kind.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::raw::connect;
use crate::support::{Feeder, Lines, Raw, Server, Socket, dependency, fanfare, within};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Every channel except `open` requires a token. Only the token decides which channels a client may
/// publish to.
const SPACES: &str = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"broadcast\"\n\
                      client_presence = true\n\
                      [[namespace]]\nmatch = \"open\"\nanonymous_subscribe = true\n";

/// An issuer with keys of all kinds in a temporary folder. `openssl` created these keys.
struct Issuer(TempDir);

impl Issuer {
    fn new() -> Self {
        let issuer = Self(tempfile::tempdir().unwrap());
        fs::write(issuer.path("secret"), SECRET).unwrap();
        for (name, options) in [
            ("rs256", ["RSA", "rsa_keygen_bits:2048"]),
            ("es256", ["EC", "ec_paramgen_curve:P-256"]),
            ("eddsa", ["ED25519", ""]),
        ] {
            let key = issuer.path(name);
            let mut make = Command::new("openssl");
            make.args(["genpkey", "-algorithm", options[0], "-out"])
                .arg(&key);
            if !options[1].is_empty() {
                make.args(["-pkeyopt", options[1]]);
            }
            assert!(make.output().unwrap().status.success());
            let public = issuer.path(&format!("{name}.pem"));
            let made = Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(&key)
                .arg("-out")
                .arg(public)
                .output();
            assert!(made.unwrap().status.success());
        }
        issuer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file with a JWK set.
    fn set(&self, keys: &[Value]) -> PathBuf {
        let path = self.path("jwks.json");
        fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
        path
    }

    /// Returns an `[auth]` section that trusts these keys, followed by further lines.
    fn auth(&self, keys: &[(&str, &str)], more: &str) -> String {
        let keys = keys.iter().map(|(algorithm, file)| {
            let path = self.path(file);
            format!("\"{algorithm} {}\"", path.display())
        });
        let keys = keys.collect::<Vec<_>>().join(", ");
        format!("[auth]\nkeys = [{keys}]\n{more}\n{SPACES}")
    }

    fn sign(&self, algorithm: &str, key: &str, claims: &Value) -> String {
        self.sign_as(algorithm, key, claims, None)
    }

    fn sign_as(
        &self,
        algorithm: &str,
        key: &str,
        claims: &Value,
        header: Option<&Value>,
    ) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/sign_token.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(algorithm).arg(self.path(key));
        command.arg(claims.to_string());
        command.args(header.map(Value::to_string));
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn secret_token(&self, claims: &Value) -> String {
        self.sign("HS256", "secret", claims)
    }
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// Returns claims that allow `chat:*` for this many seconds.
fn claims(sub: &str, seconds: u64) -> Value {
    json!({
        "sub": sub,
        "exp": unix_s() + seconds,
        "fanfare": {"subscribe": ["chat:*"], "publish": ["chat:1"]},
    })
}

/// Sends one GET with further field lines.
fn get(server: &Server, target: &str, fields: &str) -> Raw {
    let mut stream = connect(server.addr);
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    Raw::read(&mut BufReader::new(stream))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Sends a short poll of a channel with a token. Returns the status and `code`.
fn status(server: &Server, channel: &str, token: &str) -> (u16, Value) {
    let target = format!("/poll?timeout=0&channel={channel}");
    let response = get(server, &target, &bearer(token));
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    if response.status != 200 {
        response.assert_problem(response.status);
    }
    (response.status, body["code"].clone())
}

#[test]
fn keys_and_signatures_of_openssl_are_accepted_for_every_algorithm() {
    let issuer = Issuer::new();
    let pairs = [
        ("HS256", "secret", "secret"),
        ("RS256", "rs256.pem", "rs256"),
        ("ES256", "es256.pem", "es256"),
        ("EdDSA", "eddsa.pem", "eddsa"),
    ];
    let trusted = pairs.map(|(algorithm, public, _)| (algorithm, public));
    let server = Server::with(&issuer.auth(&trusted, ""), &[]);
    for (algorithm, _, private) in pairs {
        let token = issuer.sign(algorithm, private, &claims("u", 60));
        assert_eq!(status(&server, "chat:1", &token).0, 200, "{algorithm}");
        let refused = status(&server, "news", &token);
        assert_eq!(refused, (403, json!("not_allowed")), "{algorithm}");
    }
    server.await_metric("fanfare_tokens_total{outcome=\"accepted\"}", 4.0);
}

#[test]
fn each_fault_of_a_token_is_refused_with_its_code() {
    let issuer = Issuer::new();
    let more = "audience = \"push\"\nissuer = \"id\"\nleeway_ms = 0";
    let trusted = [("HS256", "secret"), ("RS256", "rs256.pem")];
    let server = Server::with(&issuer.auth(&trusted, more), &[]);
    let with = |change: &[(&str, Value)]| {
        let mut claims = claims("u", 60);
        claims["aud"] = json!("push");
        claims["iss"] = json!("id");
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        claims
    };
    let good = issuer.secret_token(&with(&[]));
    assert_eq!(status(&server, "chat:1", &good).0, 200);
    let now = unix_s();
    for change in [
        ("exp", json!(1e300)),
        ("nbf", json!(-1)),
        ("iat", json!(0.5)),
    ] {
        let token = issuer.secret_token(&with(&[change]));
        assert_eq!(status(&server, "chat:1", &token).0, 200);
    }
    for (change, code) in [
        (("exp", json!(now - 1)), "token_expired"),
        (("exp", json!("soon")), "token_claims"),
        (("exp", json!(null)), "token_claims"),
        (("exp", json!(-1)), "token_expired"),
        (("iat", json!("now")), "token_claims"),
        (("nbf", json!(now + 60)), "token_not_yet"),
        (("aud", json!("shop")), "token_audience"),
        (("aud", json!(null)), "token_audience"),
        (("iss", json!("di")), "token_issuer"),
        (("fanfare", json!({"subscribe": ["a b"]})), "token_claims"),
    ] {
        let token = issuer.secret_token(&with(&[change]));
        assert_eq!(status(&server, "chat:1", &token), (401, json!(code)));
    }
    // Each token is forged: a public key is used as a secret, there is no signature, another key
    // signed the token, or the algorithm is unknown.
    let header = |alg: &str| Some(json!({"alg": alg}));
    for (algorithm, key, forged, code) in [
        ("HS256", "rs256.pem", header("HS256"), "token_signature"),
        ("HS256", "rs256.pem", header("RS256"), "token_signature"),
        ("none", "secret", header("none"), "token_algorithm"),
        ("none", "secret", header("HS256"), "token_signature"),
        ("ES256", "es256", header("ES256"), "token_algorithm"),
        ("HS256", "secret", header("HS384"), "token_algorithm"),
        ("RS256", "rs256", header("PS256"), "token_algorithm"),
    ] {
        let token = issuer.sign_as(algorithm, key, &with(&[]), forged.as_ref());
        assert_eq!(status(&server, "chat:1", &token), (401, json!(code)));
    }
    for (token, code) in [
        ("", "token_missing"),
        ("a.b.c", "token_malformed"),
        (&good[..good.len() - 1], "token_signature"),
    ] {
        assert_eq!(status(&server, "chat:1", token), (401, json!(code)));
    }
    let huge = "a".repeat(8192);
    let response = get(&server, "/poll?channel=chat:1", &bearer(&huge));
    response.assert_problem(431);
}

#[test]
fn request_without_a_token_gets_open_channels_or_a_challenge() {
    let issuer = Issuer::new();
    let server = Server::with(&issuer.auth(&[("HS256", "secret")], ""), &[]);
    for path in ["/sse?channel=chat:1", "/poll?channel=open&channel=chat:1"] {
        let refused = get(&server, path, "");
        refused.assert_problem(401);
        let challenge = refused.field("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"fanfare\""));
    }
    assert_eq!(get(&server, "/poll?timeout=0&channel=open", "").status, 200);
    let basic = "Authorization: Basic YTpi\r\n";
    assert_eq!(
        get(&server, "/poll?timeout=0&channel=open", basic).status,
        200
    );
    let bad = get(&server, "/poll?timeout=0&channel=open", &bearer("x"));
    bad.assert_problem(401);
    let challenge = bad.field("www-authenticate").unwrap();
    assert!(
        challenge.ends_with("error=\"invalid_token\""),
        "{challenge}"
    );
    let twice = [bearer("x"), bearer("y")].concat();
    get(&server, "/poll?channel=open", &twice).assert_problem(400);
}

#[test]
fn cookie_and_query_are_read_only_if_configured() {
    let issuer = Issuer::new();
    let token = issuer.secret_token(&claims("u", 60));
    let target = "/poll?timeout=0&channel=chat:1";
    let cookie = format!("Cookie: a=b; session={token}\r\n");
    let query = format!("{target}&access_token={token}");
    let silent = Server::with(&issuer.auth(&[("HS256", "secret")], ""), &[]);
    assert_eq!(get(&silent, target, &cookie).status, 401);
    assert_eq!(get(&silent, &query, "").status, 401);
    let more = "cookie = \"session\"\nquery = \"access_token\"";
    let config = issuer.auth(&[("HS256", "secret")], more);
    let server = Server::with(&config, &["--log", "debug"]);
    assert_eq!(get(&server, target, &cookie).status, 200);
    assert_eq!(get(&server, &query, "").status, 200);
    assert_eq!(get(&server, &format!("{query}x"), "").status, 401);
    // Several `Cookie` lines are read as one line, even if the token is in none of them.
    let others = "Cookie: a=b\r\nCookie: c=d\r\n";
    for (target, fields) in [
        (target, format!("{cookie}Cookie: c=d\r\n")),
        (target, format!("{others}{cookie}")),
        (target, format!("{others}{}", bearer(&token))),
        (&query, others.to_owned()),
    ] {
        assert_eq!(get(&server, target, &fields).status, 200, "{fields}");
    }
    // The log at level debug contains no part of a token.
    let log = fs::read_to_string(server.feed.parent().unwrap().join("stderr.txt")).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!log.contains(signature) && !log.contains(&token), "{log}");
}

#[test]
fn token_may_fill_the_request_head_in_every_place() {
    let issuer = Issuer::new();
    let more = "cookie = \"session\"\nquery = \"access_token\"\n\
                [limits]\nrequest_head_bytes = 65536";
    let server = Server::with(&issuer.auth(&[("HS256", "secret")], more), &[]);
    let mut long = claims("u", 60);
    long["groups"] = json!("g".repeat(40_000));
    let token = issuer.secret_token(&long);
    assert!(token.len() > 50_000);
    let target = "/poll?timeout=0&channel=chat:1";
    for (target, fields) in [
        (target, bearer(&token)),
        (target, format!("Cookie: session={token}\r\n")),
        (&format!("{target}&access_token={token}"), String::new()),
    ] {
        assert_eq!(get(&server, target, &fields).status, 200);
    }
    let offer = format!("Sec-WebSocket-Protocol: fanfare.v1, fanfare.token.{token}\r\n");
    let upgrade = format!("{}{offer}", UPGRADE.replace("Connection: Upgrade\r\n", ""));
    let mut stream = connect(server.addr);
    let request = "GET /ws?channel=chat:1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n";
    stream
        .write_all(format!("{request}{upgrade}\r\n").as_bytes())
        .unwrap();
    assert_eq!(Raw::read(&mut BufReader::new(stream)).status, 101);
    let mut socket = Socket::open(server.addr, "channel=chat:1");
    socket.send(&json!({"type": "auth", "token": token, "ref": 1}));
    assert_eq!(socket.json(), json!({"type": "ok", "ref": 1}));
}

#[test]
fn every_key_counts_and_too_many_are_refused_at_start() {
    let issuer = Issuer::new();
    let names: Vec<String> = (0..65).map(|number| format!("secret{number}")).collect();
    for name in &names {
        fs::write(issuer.path(name), format!("{name:0>32}")).unwrap();
    }
    let trusted: Vec<(&str, &str)> = names.iter().map(|name| ("HS256", &**name)).collect();
    let server = Server::with(&issuer.auth(&trusted[..64], ""), &[]);
    for name in [&names[0], &names[5], &names[63]] {
        let token = issuer.sign("HS256", name, &claims("u", 60));
        assert_eq!(status(&server, "chat:1", &token).0, 200, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = issuer.auth(&trusted, "");
    let started = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]);
    let (_, printed) = started.map(|_| ()).unwrap_err();
    assert!(
        printed.contains("65") && printed.contains("at most 64"),
        "{printed}"
    );
}

#[test]
fn curl_streams_until_its_token_expires() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "leeway_ms = 0");
    let server = Server::with(&config, &[]);
    let token = issuer.secret_token(&claims("u", 8));
    let mut curl = Lines::curl([
        "-H".to_owned(),
        format!("Authorization: Bearer {token}"),
        server.url("/sse?channel=chat:1"),
    ]);
    assert_eq!(curl.next().as_deref(), Some("HTTP/1.1 200 OK"));
    curl.until("id: ");
    Feeder::connect(&server.feed).publish("chat:1", 7);
    curl.until("data: 7");
    curl.until("event: fanfare.disconnect");
    let data = curl.next().unwrap();
    assert_eq!(data, "data: {\"code\":4002,\"reason\":\"token_expired\"}");
    curl.rest();
    assert!(curl.wait().success());
    assert_eq!(
        status(&server, "chat:1", &token),
        (401, json!("token_expired"))
    );
    let reason = "fanfare_conns_closed_total{reason=\"token_expired\"}";
    server.await_metric(reason, 1.0);
}

#[test]
fn long_poll_ends_when_its_token_expires() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "leeway_ms = 0");
    let server = Server::with(&config, &[]);
    let token = issuer.secret_token(&claims("u", 5));
    let id = get(&server, "/poll?channel=open", "")
        .body_text()
        .to_owned();
    let id: Value = serde_json::from_str(&id).unwrap();
    let since = id["id"].as_str().unwrap();
    let target = format!("/poll?channel=chat:1&timeout=60&since={since}");
    let response = get(&server, &target, &bearer(&token));
    assert_eq!(response.status, 200);
    assert!(response.body_text().contains("\"publications\":[]"));
}

/// Runs a client of another language with each way of sending a token, and checks the messages it
/// receives.
fn check_peer(start: impl Fn(&str, &str, &str) -> Lines) {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("ES256", "es256.pem")], "leeway_ms = 0");
    let server = Server::with(&config, &[]);
    let url = |channel: &str| format!("ws://{}/ws?channel={channel}", server.addr);
    let good = issuer.sign("ES256", "es256", &claims("u", 8));
    let ways = ["header", "subprotocol", "message"];
    let peers = ways.map(|way| start(&url("chat:1"), way, &good));
    for (way, mut peer) in ways.into_iter().zip(peers) {
        // A response never contains the token, because proxies could log it.
        assert_eq!(peer.json(), json!({"protocol": "fanfare.v1"}), "{way}");
        if way == "message" {
            assert_eq!(peer.json(), json!({"type": "ok", "ref": 1}));
        }
        assert_eq!(peer.json()["type"], "welcome", "{way}");
        assert_eq!(peer.json()["type"], "subscribed", "{way}");
        let warning = peer.json();
        assert_eq!(warning["type"], "expiring", "{way}: {warning}");
        let in_ms = warning["in_ms"].as_u64().unwrap();
        assert!(in_ms > 0 && in_ms <= 4500, "{way}: {warning}");
        assert_eq!(peer.json(), json!({"closed": 4002}), "{way}");
    }
    for (way, answer) in [
        ("header", json!({"status": 403})),
        ("subprotocol", json!({"status": 403})),
    ] {
        let token = issuer.sign("ES256", "es256", &claims("u", 60));
        let mut peer = start(&url("news"), way, &token);
        assert_eq!(peer.json(), answer);
    }
    let token = issuer.sign("ES256", "es256", &claims("u", 60));
    let mut peer = start(&url("news"), "message", &token);
    assert_eq!(peer.json(), json!({"protocol": "fanfare.v1"}));
    assert_eq!(peer.json(), json!({"closed": 4003}));
    for (token, code) in [(&good[..good.len() - 8], 4001), (&good, 4002)] {
        let mut peer = start(&url("chat:1"), "message", token);
        assert_eq!(peer.json(), json!({"protocol": "fanfare.v1"}));
        assert_eq!(peer.json(), json!({"closed": code}));
        let mut peer = start(&url("chat:1"), "header", token);
        assert_eq!(peer.json(), json!({"status": 401}));
    }
}

#[test]
fn python_websockets_sends_a_token_in_every_way() {
    check_peer(|url, way, token| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/token_client.py");
        let mut python = Command::new(dependency("venv/bin/python"));
        Lines::run(python.arg(script).args([url, way, token]))
    });
}

#[test]
fn node_ws_sends_a_token_in_every_way() {
    check_peer(|url, way, token| {
        let script = dependency("node").join("token_client.mjs");
        Lines::run(Command::new("node").arg(script).args([url, way, token]))
    });
}

#[test]
fn token_limits_commands_and_a_new_one_changes_the_limits() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "leeway_ms = 0");
    let server = Server::with(&config, &[]);
    // A client without a token may connect, because there are open channels.
    let mut socket = Socket::open(server.addr, "");
    assert_eq!(socket.json()["type"], "welcome");
    let refused = |socket: &mut Socket, command: Value| {
        socket.send(&command);
        let answer = socket.json();
        assert_eq!(answer["type"], "error", "{answer}");
        answer["code"].as_str().unwrap().to_owned()
    };
    let subscribe = |channel: &str| json!({"type": "subscribe", "channel": channel});
    let publish =
        |channel: &str| json!({"type": "publish", "channel": channel, "data": 1, "ref": 2});
    assert_eq!(refused(&mut socket, subscribe("chat:1")), "not_allowed");
    assert_eq!(refused(&mut socket, publish("open")), "not_allowed");
    socket.send(&subscribe("open"));
    assert_eq!(socket.json()["type"], "subscribed");
    let auth =
        |claims: &Value| json!({"type": "auth", "token": issuer.secret_token(claims), "ref": 9});
    socket.send(&auth(&claims("u", 3600)));
    assert_eq!(socket.json(), json!({"type": "ok", "ref": 9}));
    for channel in ["chat:1", "chat:2"] {
        socket.send(&subscribe(channel));
        assert_eq!(socket.json()["type"], "subscribed");
    }
    assert_eq!(refused(&mut socket, subscribe("news")), "not_allowed");
    assert_eq!(refused(&mut socket, publish("chat:2")), "not_allowed");
    let presence = json!({"type": "presence", "channel": "news"});
    assert_eq!(refused(&mut socket, presence), "not_allowed");
    socket.send(&publish("chat:1"));
    let mut types = [socket.json(), socket.json()].map(|answer| answer["type"].clone());
    types.sort_by_key(|kind| kind.is_null());
    assert_eq!(types, [json!("ok"), json!(null)]);
    // A new token must have the same `sub`. For a second after a token, the answer to another token
    // is `busy`.
    let refusal = within("the time of another token", || {
        let code = refused(&mut socket, auth(&claims("v", 60)));
        (code != "busy").then_some(code)
    });
    assert_eq!(refusal, "not_allowed");
    let mut less = claims("u", 60);
    less["fanfare"]["subscribe"] = json!(["chat:2"]);
    let less = auth(&less);
    // A token that does not allow a channel ends the subscription to that channel. The second token
    // is sent too early.
    socket.send(&less);
    socket.send(&less);
    let mut answers = [(); 3].map(|()| socket.json());
    answers.sort_by_key(|answer| answer["type"].as_str().map(str::to_owned));
    assert_eq!(answers[0]["code"], "busy");
    assert_eq!(answers[1], json!({"type": "ok", "ref": 9}));
    let left = json!({"type": "unsubscribed", "channel": "chat:1"});
    assert_eq!(answers[2], left);
}

#[test]
fn new_token_in_band_keeps_the_conn() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "leeway_ms = 0");
    let server = Server::with(&config, &[]);
    let [short, longer] = [8, 14].map(|seconds| issuer.secret_token(&claims("u", seconds)));
    let mut socket = Socket::open(server.addr, "");
    assert_eq!(socket.json()["type"], "welcome");
    socket.send(&json!({"type": "auth", "token": short}));
    assert_eq!(socket.json()["type"], "expiring");
    socket.send(&json!({"type": "auth", "token": longer, "ref": 1}));
    assert_eq!(socket.json(), json!({"type": "ok", "ref": 1}));
    assert_eq!(socket.json()["type"], "expiring");
    assert_eq!(socket.closed(), (4002, "token_expired".to_owned()));
}

#[test]
fn websocket_without_a_token_in_time_is_closed() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "deadline_ms = 300");
    let server = Server::with(&config, &[]);
    let mut socket = Socket::open(server.addr, "channel=chat:1");
    socket.send(&json!({"type": "subscribe", "channel": "open", "ref": 1}));
    assert_eq!(socket.json()["code"], "not_authenticated");
    socket.send(&json!({"type": "ping", "ref": 2}));
    assert_eq!(socket.json(), json!({"type": "pong", "ref": 2}));
    assert_eq!(socket.closed(), (4001, "token_missing".to_owned()));
    let one_way = get(&server, "/ws?channel=chat:1&envelope=data", UPGRADE);
    one_way.assert_problem(401);
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

#[test]
fn backend_disconnects_all_conns_of_a_subject() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "");
    let server = Server::with(&config, &[]);
    let [of_one, of_other] = ["one", "other"].map(|sub| issuer.secret_token(&claims(sub, 600)));
    let curl = |token: &str, path: &str| {
        let field = format!("Authorization: Bearer {token}");
        Lines::curl(["-H".to_owned(), field, server.url(path)])
    };
    let mut streams: Vec<Lines> = (0..4)
        .map(|_| curl(&of_one, "/sse?channel=chat:1"))
        .collect();
    let mut other = curl(&of_other, "/sse?channel=chat:1");
    for stream in streams.iter_mut().chain([&mut other]) {
        stream.until("id: ");
    }
    let since = "0-0";
    let mut poll = curl(
        &of_one,
        &format!("/poll?channel=chat:9&timeout=60&since={since}"),
    );
    // The first poll has an id of another epoch, so the server answers it immediately. The next
    // poll waits from the position in that answer.
    let answer: Value = serde_json::from_str(&poll.rest().pop().unwrap()).unwrap();
    let since = answer["id"].as_str().unwrap();
    let mut poll = curl(
        &of_one,
        &format!("/poll?channel=chat:9&timeout=60&since={since}"),
    );
    server.await_metric("fanfare_streams{transport=\"long_poll\"}", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.send(&json!({"disconnect_sub": "one", "code": 4003, "reason": "revoked", "ack": true}));
    assert_eq!(feeder.answer(), json!({"ok": true, "line": 1, "conns": 5}));
    for mut stream in streams {
        stream.until("event: fanfare.disconnect");
        assert_eq!(
            stream.next().unwrap(),
            "data: {\"code\":4003,\"reason\":\"revoked\"}"
        );
        stream.rest();
    }
    assert_eq!(poll.next().as_deref(), Some("HTTP/1.1 200 OK"));
    poll.rest();
    feeder.publish("chat:1", "still here");
    other.until("data: \"still here\"");
    feeder.send(&json!({"disconnect_sub": "unknown", "ack": true}));
    assert_eq!(feeder.answer(), json!({"ok": true, "line": 3, "conns": 0}));
    feeder.send(&json!({"disconnect_sub": ""}));
    assert_eq!(feeder.answer()["error"], "bad_value");
}

#[test]
fn keys_are_read_again_on_sighup() {
    let issuer = Issuer::new();
    let config = issuer.auth(&[("HS256", "secret")], "");
    let server = Server::with(&config, &[]);
    let old = issuer.secret_token(&claims("u", 60));
    assert_eq!(status(&server, "chat:1", &old).0, 200);
    fs::write(issuer.path("secret"), "fedcba9876543210fedcba9876543210").unwrap();
    let new = issuer.secret_token(&claims("u", 60));
    assert_eq!(status(&server, "chat:1", &new).0, 401);
    server.signal("HUP");
    within("the new key", || {
        (status(&server, "chat:1", &new).0 == 200).then_some(())
    });
    // Each worker checks for new keys every half second.
    within("the end of the old key", || {
        let refused = status(&server, "chat:1", &old);
        (refused == (401, json!("token_signature"))).then_some(())
    });
    // A reload with a file that has no valid key changes nothing.
    fs::write(issuer.path("secret"), "short").unwrap();
    server.signal("HUP");
    within("the error", || {
        let log = fs::read_to_string(server.feed.parent().unwrap().join("stderr.txt")).unwrap();
        log.contains("nothing has changed").then_some(())
    });
    within("the new key", || {
        (status(&server, "chat:1", &new).0 == 200).then_some(())
    });
}

#[test]
fn server_does_not_start_with_an_unusable_key() {
    let issuer = Issuer::new();
    for (key, word) in [
        (("HS256", "rs256.pem"), "PEM"),
        (("RS256", "rs256"), "private"),
        (("ES256", "rs256.pem"), "ES256"),
        (("HS512", "secret"), "at least 64"),
        (("EdDSA", "missing"), "cannot read"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = issuer.auth(&[key], "");
        let started = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]);
        let (status, printed) = started.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Some(2), "{printed}");
        assert!(printed.contains(word), "{printed}");
    }
}

#[test]
fn unusable_key_of_a_set_is_refused_at_start_and_on_sighup() {
    let issuer = Issuer::new();
    let good = json!({"kty": "oct", "alg": "HS256", "kid": "good",
                      "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let bad = json!({"kty": "RSA", "kid": "bad", "n": "AQAB", "e": "AA"});
    let config = |set: &Path| format!("[auth]\njwks = \"{}\"\n{SPACES}", set.display());
    let folder = tempfile::tempdir().unwrap();
    let config_bad = config(&issuer.set(&[good.clone(), bad.clone()]));
    let started = Server::in_folder(folder.path(), "127.0.0.1:0", &config_bad, &[]);
    let (_, printed) = started.map(|_| ()).unwrap_err();
    let why = "key 2 (kid \"bad\") has no RSA exponent (e)";
    assert!(
        printed.contains("jwks.json") && printed.contains(why),
        "{printed}"
    );

    let foreign = json!({"kty": "EC", "crv": "P-384", "kid": "foreign"});
    let server = Server::with(&config(&issuer.set(&[foreign, good.clone()])), &[]);
    let log = || fs::read_to_string(server.feed.parent().unwrap().join("stderr.txt")).unwrap();
    let ignored = log()
        .lines()
        .any(|line| line.contains("WARN") && line.contains("foreign"));
    assert!(ignored, "{}", log());
    let token = issuer.secret_token(&claims("u", 60));
    assert_eq!(status(&server, "chat:1", &token).0, 200);
    issuer.set(&[bad, good]);
    server.signal("HUP");
    within("the error", || {
        let log = log();
        (log.contains("nothing has changed") && log.contains("(kid \"bad\")")).then_some(())
    });
    assert_eq!(status(&server, "chat:1", &token).0, 200);
}

#[test]
fn token_subcommand_prints_a_token_that_the_server_accepts() {
    let issuer = Issuer::new();
    let server = Server::with(&issuer.auth(&[("HS256", "secret")], ""), &[]);
    let output = fanfare()
        .args(["token", "--subscribe", "chat:*", "--sub", "me", "--key"])
        .arg(issuer.path("secret"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let token = printed.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(status(&server, "chat:1", token).0, 200);
    let refused = fanfare()
        .args(["token", "--key"])
        .arg(issuer.path("rs256"))
        .output();
    assert_eq!(refused.unwrap().status.code(), Some(2));
}

#[test]
fn refused_token_ends_its_connection_and_a_missing_token_does_not() {
    let issuer = Issuer::new();
    let server = Server::with(&issuer.auth(&[("HS256", "secret")], ""), &[]);
    let mut stream = BufReader::new(connect(server.addr));
    let mut ask = |field: &str| {
        let head = format!("GET /poll?channel=chat:a HTTP/1.1\r\nHost: a\r\n{field}\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let answer = Raw::read(&mut stream);
        assert_eq!(answer.status, 401);
        answer.field("connection").map(str::to_owned)
    };
    for _ in 0..2 {
        assert_eq!(ask("").as_deref(), Some("keep-alive"));
    }
    let refused = ask("Authorization: Bearer a.b.c\r\n");
    assert_eq!(refused.as_deref(), Some("close"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    server.await_metric("fanfare_conns_closed_total{reason=\"unauthorized\"}", 1.0);
}
