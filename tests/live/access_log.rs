//! The access log: one line per answered request, ended stream and connection without a request.

use std::fs;
use std::io::{BufReader, Write as _};

use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::{Feeder, Raw, Server, Socket, fanfare, within};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Starts a server that requires tokens and logs in this format.
fn guarded(format: &str, more: &str) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let config = format!(
        "[logging]\naccess = \"{format}\"\n{more}\
         [auth]\nkeys = [\"HS256 {}\"]\nquery = \"token\"\n",
        secret.display()
    );
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    (folder, server)
}

fn token(folder: &tempfile::TempDir) -> String {
    let mut command = fanfare();
    command.args(["token", "--subscribe", "*", "--sub=al \"ice\"", "--key"]);
    let output = command.arg(folder.path().join("secret")).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the complete lines of standard output after the line with `ready`.
fn lines(server: &Server) -> Vec<String> {
    let path = server.feed.parent().unwrap().join("stdout.txt");
    let text = fs::read_to_string(path).unwrap();
    let complete = text
        .rsplit_once('\n')
        .map_or("", |(complete, _rest)| complete);
    complete.lines().skip(1).map(str::to_owned).collect()
}

/// Waits for this many lines.
fn await_lines(server: &Server, count: usize) -> Vec<String> {
    within(&format!("{count} lines"), || {
        Some(lines(server)).filter(|lines| lines.len() >= count)
    })
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))
}

#[test]
fn ended_stream_has_a_line_with_what_it_received() {
    let (folder, server) = guarded("json", "");
    let token = token(&folder);
    let query = format!("channel=a&token={token}");
    let mut socket = Socket::open(server.addr, &query);
    let name = socket.json()["conn"].clone();
    assert_eq!(socket.json()["type"], "subscribed");
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..3 {
        feeder.publish("a", number);
        assert_eq!(socket.publication()["data"], number);
    }
    drop(socket);
    let first = parsed(&await_lines(&server, 1)[0]);
    let expected = json!({
        "connection": name,
        "transport": "websocket",
        "path": "/ws?channel=a",
        "status": 101,
        "reason": "peer_gone",
        "publications": 3,
        "sub": "al \"ice\"",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(first[field], *value, "{field} of {first}");
    }
    assert!(
        first["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{first}"
    );
    assert!(first["bytes"].as_u64().unwrap() > 200, "{first}");
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
}

#[test]
fn poll_refusal_and_silent_connection_have_a_line_each() {
    let (folder, server) = guarded("json", "");
    let query = format!("channel=a&token={}", token(&folder));
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..3 {
        feeder.publish("a", number);
    }
    // A poll and a refused request on one connection.
    let mut stream = connect(server.addr);
    let peer = stream.local_addr().unwrap().to_string();
    let polled = format!(
        "GET /poll?timeout=0&last=2&{query} HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /poll?channel=b&token=wrong HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    stream.write_all(polled.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let poll = Raw::read(&mut stream);
    assert_eq!((poll.status, Raw::read(&mut stream).status), (200, 401));
    let all = await_lines(&server, 2);
    let (first, second) = (parsed(&all[0]), parsed(&all[1]));
    let short = |line: &Value| {
        let fields = [
            "transport",
            "path",
            "status",
            "publications",
            "sub",
            "peer",
            "reason",
        ];
        Value::from_iter(fields.map(|field| line[field].clone()))
    };
    let path = "/poll?timeout=0&last=2&channel=a";
    let sub = "al \"ice\"";
    assert_eq!(
        short(&first),
        json!(["short_poll", path, 200, 2, sub, peer, null])
    );
    assert!(
        first["bytes"].as_u64().unwrap() > poll.body.len() as u64,
        "{first}"
    );
    let path = "/poll?channel=b";
    assert_eq!(
        short(&second),
        json!(["http", path, 401, 0, null, peer, null])
    );

    // A connection that ends without a request.
    let silent = connect(server.addr);
    let peer = silent.local_addr().unwrap().to_string();
    drop(silent);
    let all = await_lines(&server, 3);
    let last = parsed(&all[2]);
    assert_eq!(
        short(&last),
        json!([null, null, null, 0, null, peer, "peer_gone"])
    );
    assert_eq!(all.len(), 3, "{all:?}");
    for line in all {
        assert!(!line.contains("token") && !line.contains("wrong"), "{line}");
    }
}

#[test]
fn logfmt_quotes_texts_and_a_drain_writes_all_lines() {
    let (folder, mut server) = guarded("logfmt", "");
    let query = format!("channel=a&token={}", token(&folder));
    let _sockets = [(); 20].map(|()| Socket::subscribed(server.addr, &query));
    server.signal("TERM");
    assert!(server.wait().success());
    let lines = await_lines(&server, 20);
    for line in &lines {
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(line.contains(r#" path="/ws?channel=a" "#), "{line}");
        assert!(
            line.contains(r#" reason="shutdown" sub="al \"ice\"" status=101 "#),
            "{line}"
        );
    }
    assert_eq!(lines.len(), 20);
}

#[test]
fn sample_of_zero_and_the_default_write_nothing() {
    for config in ["", "[logging]\naccess = \"json\"\naccess_sample = 0.0\n"] {
        let mut server = Server::with(config, &[]);
        assert_eq!(Raw::get(server.addr, "/").status, 200);
        drop(Socket::subscribed(server.addr, "channel=a"));
        server.await_metric("fanfare_conns", 0.0);
        assert!(server.metric("fanfare_access_log_lines_dropped_total") < 0.5);
        server.signal("TERM");
        assert!(server.wait().success());
        assert_eq!(lines(&server), Vec::<String>::new());
    }
}
