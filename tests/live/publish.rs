//! Publications of clients over HTTP, with curl, Node and Python.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare, within};

const OPEN: &str = "[[namespace]]\nmatch = \"chat:*\"\nclient_publish = \"consume\"\n\
                    [[namespace]]\nmatch = \"room:*\"\nclient_publish = \"broadcast\"\n";

/// Publishes with curl. Returns the status and the document of the response.
fn publish(server: &Server, query: &str, args: &[&str], content: &str) -> (u16, Value) {
    let mut curl = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"])
        .args(args)
        .args(["--data-binary", "@-"])
        .arg(server.url(&format!("/publish?{query}")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = curl.stdin.take().unwrap();
    input.write_all(content.as_bytes()).unwrap();
    drop(input);
    let output = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    let (document, status) = output.trim_end().rsplit_once('\n').unwrap();
    let document = serde_json::from_str(document).unwrap();
    (status.parse().unwrap(), document)
}

#[test]
fn publication_over_http_reaches_subscribers_and_a_repetition_gets_its_id() {
    let server = Server::with(OPEN, &[]);
    let mut stream = Lines::curl([&server.url("/sse?channel=room:1&envelope=full")]);
    stream.until("id:");
    let (status, first) = publish(&server, "channel=room:1&dedupe=k", &[], "{ \"n\": 1 }");
    assert_eq!((status, &first["type"]), (200, &json!("ok")), "{first}");
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let again = publish(&server, "channel=room:1&dedupe=k", &chunked, "2");
    assert_eq!(again, (200, first.clone()));
    let (_, second) = publish(&server, "channel=room:1&dedupe=l", &chunked, "3");
    stream.until(&format!("id: {}", first["id"].as_str().unwrap()));
    let data: Value = serde_json::from_str(&stream.until("data: ")["data: ".len()..]).unwrap();
    assert_eq!(data["data"], json!({"n": 1}));
    stream.until(&format!("id: {}", second["id"].as_str().unwrap()));

    // curl waits for `100 Continue` before it sends long content.
    let long = format!("\"{}\"", "x".repeat(60_000));
    let expect = ["-H", "Expect: 100-continue"];
    let (status, third) = publish(&server, "channel=room:2", &expect, &long);
    assert_eq!(status, 200, "{third}");
    let poll = Raw::get(server.addr, "/poll?channel=room:2&last=1&timeout=0");
    let poll: Value = serde_json::from_str(poll.body_text()).unwrap();
    assert_eq!(poll["publications"][0]["id"], third["id"]);
    assert_eq!(
        poll["publications"][0]["data"].as_str().unwrap().len(),
        60_000
    );
}

#[test]
fn publication_over_http_goes_to_consumers_with_the_subject_of_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let keys = format!("HS256 {}", secret.display());
    let config = format!("[auth]\nkeys = [\"{keys}\"]\nquery = \"token\"\n{OPEN}");
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    let mut command = fanfare();
    command.args([
        "token",
        "--publish",
        "chat:1",
        "--expires-in",
        "60",
        "--sub=alice",
    ]);
    let token = command.arg("--key").arg(&secret).output().unwrap().stdout;
    let bearer = format!(
        "Authorization: Bearer {}",
        String::from_utf8(token).unwrap().trim()
    );
    let code = |query: &str, args: &[&str]| {
        let (status, document) = publish(&server, query, args, "1");
        (status, document["code"].as_str().unwrap().to_owned())
    };
    let expected = |status: u16, code: &str| (status, String::from(code));
    assert_eq!(code("channel=chat:1", &[]), expected(401, "token_missing"));
    let header = ["-H", &bearer];
    assert_eq!(
        code("channel=chat:2", &header),
        expected(403, "not_allowed")
    );
    assert_eq!(code("channel=other", &header), expected(403, "not_allowed"));
    assert_eq!(
        code("channel=chat:1", &header),
        expected(503, "no_consumer")
    );
    assert_eq!(
        code("channel=chat:1&token=x", &[]),
        expected(401, "token_malformed")
    );

    let mut backend = Feeder::connect(&server.feed);
    backend.send(&json!({"consume": ["chat:*"], "ack": true}));
    assert_eq!(backend.answer()["ok"], true);
    let traced = "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let args = ["-H", &bearer, "-H", traced];
    let accepted = publish(&server, "channel=chat:1", &args, "[1, 2]");
    assert_eq!(accepted, (200, json!({"type": "ok"})));
    let line = backend.answer();
    assert_eq!(
        (&line["sub"], &line["channel"], &line["data"]),
        (&json!("alice"), &json!("chat:1"), &json!([1, 2])),
        "{line}"
    );
    assert_eq!(line["traceparent"], traced["Traceparent: ".len()..]);
    server.await_metric("fanfare_client_publications_total", 2.0);
}

/// A server whose namespaces give each subject channels of its own.
struct OwnChannels {
    server: Server,
    folder: tempfile::TempDir,
}

impl OwnChannels {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        let keys = format!("HS256 {}", secret.display());
        let config = format!(
            "[auth]\nkeys = [\"{keys}\"]\nquery = \"token\"\n\
             leeway_ms = 0\n[[namespace]]\nmatch = \"user:*\"\nsubscribe = [\"user:{{sub}}\"]\n\
             [[namespace]]\nmatch = \"chat:*\"\nclient_publish = \"broadcast\"\n\
             publish = [\"chat:*:{{sub}}\"]\nsubscribe = [\"chat:*\"]\n"
        );
        let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
        Self { server, folder }
    }

    /// Returns a token that names no channels.
    fn token(&self, sub: &str) -> String {
        let mut command = fanfare();
        command.args(["token", "--expires-in", "60", &format!("--sub={sub}")]);
        command.arg("--key").arg(self.folder.path().join("secret"));
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn bearer(&self, sub: &str) -> String {
        format!("Authorization: Bearer {}", self.token(sub))
    }

    /// Returns the status of a poll of a channel.
    fn subscribes(&self, sub: &str, channel: &str) -> String {
        let channel = channel.replace('*', "%2A");
        let target = format!("/poll?timeout=0&channel={channel}");
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(["--max-time", "20", "-H", &self.bearer(sub)])
            .arg(self.server.url(&target))
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Returns the status of a publication over HTTP.
    fn publishes(&self, sub: &str, channel: &str) -> u16 {
        let header = ["-H", &self.bearer(sub)];
        publish(&self.server, &format!("channel={channel}"), &header, "1").0
    }
}

#[test]
fn namespace_lets_a_subject_use_its_own_channels_and_no_others() {
    let rig = OwnChannels::start();
    assert_eq!(rig.subscribes("alice", "user:alice"), "200");
    assert_eq!(rig.subscribes("a:b", "user:a:b"), "200");
    for (sub, channel) in [
        ("*", "user:alice"),
        ("a:b", "user:a"),
        ("alice", "user:bob"),
    ] {
        assert_eq!(rig.subscribes(sub, channel), "403", "{sub} {channel}");
    }
    assert_eq!(rig.subscribes("*", "user:*"), "400");
    assert_eq!(rig.publishes("alice", "chat:42:alice"), 200);
    for (sub, channel) in [
        ("*", "chat:42:alice"),
        ("alice", "chat:42:bob"),
        ("alice", "chat:alice"),
        ("b", "chat:42:a:b"),
        ("alice", "user:alice"),
    ] {
        assert_eq!(rig.publishes(sub, channel), 403, "{sub} {channel}");
    }
}

/// Sends a publication without the last byte of its content.
fn begin_publication(rig: &OwnChannels, token: &str) -> BufReader<TcpStream> {
    let mut stream = connect(rig.server.addr);
    let head = "POST /publish?channel=chat:1:alice HTTP/1.1\r\nHost: h\r\n";
    let fields = format!("Authorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n1");
    stream
        .write_all((head.to_owned() + &fields).as_bytes())
        .unwrap();
    BufReader::new(stream)
}

#[test]
fn client_that_publishes_over_http_is_disconnected_by_its_subject() {
    let rig = OwnChannels::start();
    let mut publishing = begin_publication(&rig, &rig.token("alice"));
    let mut feeder = Feeder::connect(&rig.server.feed);
    within("a connection of alice that is closed", || {
        feeder.send(&json!({"disconnect_sub": "alice", "ack": true}));
        (feeder.answer()["conns"] == 1).then_some(())
    });
    let _sent = publishing.get_mut().write_all(b"1");
    let mut rest = Vec::new();
    let _ended = publishing.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(rig.server.metric("fanfare_publications_total"), 0.0);
}

#[test]
fn token_that_expires_before_the_content_is_complete_publishes_nothing() {
    let rig = OwnChannels::start();
    let mut command = fanfare();
    command.args(["token", "--expires-in", "1", "--sub=alice"]);
    let output = command
        .arg("--key")
        .arg(rig.folder.path().join("secret"))
        .output();
    let token = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut publishing = begin_publication(&rig, token.trim());
    within("a token that has expired", || {
        let header = ["-H", &format!("Authorization: Bearer {}", token.trim())];
        let (status, _) = publish(&rig.server, "channel=chat:2:alice", &header, "1");
        (status == 401).then_some(())
    });
    publishing.get_mut().write_all(b"1").unwrap();
    let response = Raw::read(&mut publishing);
    assert_eq!(response.status, 401);
    assert!(response.body_text().contains("\"code\":\"token_expired\""));
}

#[test]
fn commands_of_a_subject_reach_its_own_channels_and_no_others() {
    let rig = OwnChannels::start();
    let token = rig.token("alice");
    let mut socket = Socket::open(rig.server.addr, &format!("token={token}"));
    assert_eq!(socket.json()["type"], "welcome");
    let command =
        |kind: &str, channel: &str| json!({"type": kind, "channel": channel, "data": 1, "ref": 1});
    for (kind, channel, answer) in [
        ("subscribe", "user:alice", "subscribed"),
        ("subscribe", "user:bob", "error"),
        ("publish", "chat:1:alice", "ok"),
        ("publish", "chat:1:bob", "error"),
    ] {
        socket.send(&command(kind, channel));
        let got = socket.json();
        assert_eq!(got["type"], answer, "{kind} {channel} {got}");
    }
}

#[test]
fn page_of_a_configured_origin_may_publish_and_others_may_not() {
    let config = format!("[browser]\norigins = [\"https://a.example\"]\n{OPEN}");
    let server = Server::with(&config, &[]);
    let options = |origin: &str| {
        let target = server.url("/publish?channel=room:1");
        let output = Command::new("curl")
            .args(["-sS", "-i", "--max-time", "20", "-X", "OPTIONS"])
            .args(["-H", &format!("Origin: {origin}")])
            .args(["-H", "Access-Control-Request-Method: POST", &target])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let allowed = options("https://a.example");
    assert!(
        allowed.contains("Access-Control-Allow-Methods: OPTIONS, POST"),
        "{allowed}"
    );
    assert!(allowed.contains("Access-Control-Allow-Origin: https://a.example"));
    let other = options("https://b.example");
    assert!(!other.contains("Access-Control"), "{other}");
    let from = |origin: &str| {
        let header = format!("Origin: {origin}");
        publish(&server, "channel=room:1", &["-H", &header], "1").0
    };
    assert_eq!(from("https://a.example"), 200);
    assert_eq!(from(&format!("http://{}", server.addr)), 200);
    assert_eq!(from("https://b.example"), 403);
    assert_eq!(from("null"), 403);
}

#[test]
fn fetch_and_python_publish() {
    let server = Server::with(OPEN, &[]);
    let url = server.url("/publish?channel=room:1");
    let script = format!(
        "const r = await fetch('{url}', {{method: 'POST', body: JSON.stringify({{n: 1}})}});
         console.log(r.status, (await r.json()).type)"
    );
    let output = Command::new("node")
        .args(["--input-type=module", "-e", &script])
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(output, "200 ok\n");
    let script = format!(
        "import http.client, json\n\
         c = http.client.HTTPConnection('{}')\n\
         for part in (b'[1]', iter([b'[', b'2]'])):\n\
        \x20    c.request('POST', '/publish?channel=room:1', part)\n\
        \x20    r = c.getresponse(); print(r.status, json.load(r)['type'])\n",
        server.addr
    );
    let output = Command::new("python3").args(["-c", &script]).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(output, "200 ok\n200 ok\n");
    let poll = Raw::get(server.addr, "/poll?channel=room:1&since=first&timeout=0");
    let poll: Value = serde_json::from_str(poll.body_text()).unwrap();
    let data = poll["publications"].as_array().unwrap();
    let data: Vec<_> = data.iter().map(|one| one["data"].to_string()).collect();
    assert_eq!(data, ["{\"n\":1}", "[1]", "[2]"]);
}
