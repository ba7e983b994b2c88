//! Tests of `fanfare subscribe` with scripted servers.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::*;
use crate::cli::args::{Arguments, Command};

/// Starts a server that accepts one connection for each script, and calls the script with this
/// connection. Returns the port, and a thread that returns the results of the scripts.
fn server<S, R>(scripts: Vec<S>) -> (u16, JoinHandle<Vec<R>>)
where
    S: FnOnce(TcpStream) -> R + Send + 'static,
    R: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let serve = |script: S| script(listener.accept().unwrap().0);
        scripts.into_iter().map(serve).collect()
    });
    (port, thread)
}

/// Returns a script that responds to one request with these bytes. The script returns the head of
/// the request.
fn answer(bytes: &'static str) -> impl FnOnce(TcpStream) -> String + Send {
    move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0u8; 1];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend_from_slice(&byte);
        }
        stream.write_all(bytes.as_bytes()).unwrap();
        String::from_utf8(head).unwrap()
    }
}

/// Returns a script that accepts a WebSocket, sends these messages and closes the WebSocket. The
/// script returns the request target.
fn messages(
    texts: &'static [&'static str],
    close: Option<(u16, &'static str)>,
) -> impl FnOnce(TcpStream) -> String + Send {
    move |stream| {
        let mut uri = String::new();
        #[expect(
            clippy::result_large_err,
            reason = "the callback's type is tungstenite's"
        )]
        let callback = |request: &Request, response: Response| {
            uri = request.uri().to_string();
            Ok(response)
        };
        let mut conn: WebSocket<TcpStream> = tungstenite::accept_hdr(stream, callback).unwrap();
        for text in texts {
            conn.send(Message::text(*text)).unwrap();
        }
        if let Some((code, reason)) = close {
            let code = CloseCode::from(code);
            let reason = reason.into();
            conn.close(Some(CloseFrame { code, reason })).unwrap();
        }
        while close.is_some() && conn.read().is_ok() {}
        uri
    }
}

fn subscribe(url: &str, flags: &str) -> (Result<(), Failure>, String) {
    let line = ["fanfare", "subscribe", url]
        .into_iter()
        .chain(flags.split_whitespace());
    let arguments = <Arguments as clap::Parser>::try_parse_from(line).unwrap();
    let Command::Subscribe(args) = arguments.command else {
        panic!("another subcommand");
    };
    let mut out = Vec::new();
    let ended = run(&args, &mut out);
    (ended, String::from_utf8(out).unwrap())
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";
const FIRST: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                     Transfer-Encoding: chunked\r\n\r\n\
                     11\r\nretry: 1\nid: e-0\n\r\n1\r\n\n\r\n\
                     1a\r\nid: e-1\nevent: x\ndata: 1\n\n\r\n0\r\n\r\n";
const SECOND: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
                      event: fanfare.gap\ndata: {}\n\nid: e-5\ndata: a\ndata: b\n\n";

#[test]
fn event_stream_reconnects_and_resumes_after_the_last_id() {
    let (port, server) = server(vec![answer(FIRST), answer(SECOND)]);
    let url = format!("http://127.0.0.1:{port}/sse?channel=a");
    let (ended, out) = subscribe(&url, "--count 2 --ids --timeout 30 --header X-A:b");
    ended.unwrap();
    assert_eq!(out, "e-1\t1\ne-5\ta\nb\n");
    let heads = server.join().unwrap();
    assert!(heads[0].starts_with("GET /sse?channel=a HTTP/1.1\r\n"));
    assert!(heads[0].contains("\r\nX-A: b\r\n"));
    assert!(!heads[0].contains("Last-Event-ID"));
    assert!(heads[1].contains("\r\nLast-Event-ID: e-1\r\n"));
}

#[test]
fn event_stream_prints_json_on_one_line() {
    let (port, _server) = server(vec![answer(SECOND)]);
    let url = format!("http://127.0.0.1:{port}/sse");
    let (ended, out) = subscribe(&url, "--count 1 --json --timeout 30 --since e-4");
    ended.unwrap();
    assert_eq!(
        out,
        "{\"id\":\"e-5\",\"event\":\"message\",\"data\":\"a\\nb\"}\n"
    );
}

#[test]
fn event_stream_succeeds_with_status_204_and_fails_if_refused() {
    let (port, _server) = server(vec![answer("HTTP/1.1 204 No Content\r\n\r\n")]);
    assert!(
        subscribe(&format!("http://127.0.0.1:{port}/sse"), "")
            .0
            .is_ok()
    );
    let (port, _server) = server(vec![answer(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{\"detail\":\"why\"}",
    )]);
    let (ended, _) = subscribe(&format!("http://127.0.0.1:{port}/sse"), "");
    assert_eq!(
        ended.unwrap_err().to_string(),
        "the server answered 400: why"
    );
    let (port, _server) = server(vec![answer("HTTP/1.1 200 OK\r\n\r\n{}")]);
    let (ended, _) = subscribe(&format!("http://127.0.0.1:{port}/"), "");
    assert!(
        ended
            .unwrap_err()
            .to_string()
            .contains("not an event stream")
    );
}

#[test]
fn broken_event_stream_fails_without_reconnect_and_an_ended_one_succeeds() {
    let (port, _server) = server(vec![answer(STREAM)]);
    let url = format!("http://127.0.0.1:{port}/sse");
    assert!(matches!(
        subscribe(&url, "--no-reconnect").0,
        Err(Failure::Running(_))
    ));
    let (port, _server) = server(vec![answer(FIRST)]);
    let url = format!("http://127.0.0.1:{port}/sse");
    assert!(subscribe(&url, "--no-reconnect").0.is_ok());
}

/// Returns a script that responds to consecutive requests on one connection, with one content for
/// each request. The script returns the heads of the requests.
fn answers(contents: &'static [&'static str]) -> impl FnOnce(TcpStream) -> String + Send {
    move |stream| {
        let mut heads = String::new();
        for content in contents {
            let bytes = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{content}",
                content.len()
            );
            heads.push_str(&answer(bytes.leak())(stream.try_clone().unwrap()));
        }
        heads
    }
}

#[test]
fn poll_continues_from_the_last_id_on_the_same_connection_and_on_a_new_one() {
    let first = answers(&[
        r#"{"id":"e-4","gap":false,"publications":[]}"#,
        r#"{"id":"e-6","gap":true,"gaps":[{"channel":"a"}],"publications":[
            {"channel":"a","id":"e-5","data":1},{"channel":"a","id":"e-6","text":"x"}]}"#,
    ]);
    let second = answers(&[r#"{"id":"e-7","gap":false,"publications":[
        {"channel":"a","id":"e-7","data":2}]}"#]);
    let scripts: Vec<Box<dyn FnOnce(TcpStream) -> String + Send>> =
        vec![Box::new(first), Box::new(second)];
    let (port, server) = server(scripts);
    let url = format!("http://127.0.0.1:{port}/poll?channel=a&timeout=5");
    let (ended, out) = subscribe(&url, "--count 3 --ids --timeout 30");
    ended.unwrap();
    assert_eq!(
        out,
        "e-5\t{\"channel\":\"a\",\"id\":\"e-5\",\"data\":1}\n\
         e-6\t{\"channel\":\"a\",\"id\":\"e-6\",\"text\":\"x\"}\n\
         e-7\t{\"channel\":\"a\",\"id\":\"e-7\",\"data\":2}\n"
    );
    let heads = server.join().unwrap();
    let positions = |head: &str| {
        let lines = head
            .lines()
            .filter(|line| line.starts_with("Last-Event-ID"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(heads[0].starts_with("GET /poll?channel=a&timeout=5 HTTP/1.1\r\n"));
    assert_eq!(positions(&heads[0]), ["Last-Event-ID: e-4"]);
    assert_eq!(positions(&heads[1]), ["Last-Event-ID: e-6"]);
}

#[test]
fn poll_waits_as_long_as_its_last_response_requests() {
    let last = answer(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 42\r\n\
         Connection: close\r\nRetry-After: 1\r\n\r\n{\"id\":\"e-1\",\"gap\":false,\"publications\":[]}",
    );
    let next = answers(&[r#"{"id":"e-2","gap":false,"publications":[{"id":"e-2","data":1}]}"#]);
    let scripts: Vec<Box<dyn FnOnce(TcpStream) -> String + Send>> =
        vec![Box::new(last), Box::new(next)];
    let (port, _server) = server(scripts);
    let begun = Instant::now();
    let url = format!("http://127.0.0.1:{port}/poll?channel=a");
    let (ended, _) = subscribe(&url, "--count 1 --timeout 30");
    ended.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "polled at once");
}

#[test]
fn poll_prints_bare_payloads_without_ids() {
    let (port, _server) = server(vec![answers(&[
        r#"{"id":"e-2","gap":false,"publications":[{"id":"mine"},"x"]}"#,
    ])]);
    let url = format!("http://127.0.0.1:{port}/poll?channel=a&envelope=data");
    let (ended, out) = subscribe(&url, "--count 2 --timeout 30");
    ended.unwrap();
    assert_eq!(out, "{\"id\":\"mine\"}\n\"x\"\n");
}

#[test]
fn poll_fails_if_refused_or_if_the_response_is_not_that_of_a_poll() {
    let (port, _server) = server(vec![answer(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{\"detail\":\"why\"}",
    )]);
    let (ended, _) = subscribe(&format!("http://127.0.0.1:{port}/poll"), "");
    let text = ended.unwrap_err().to_string();
    assert_eq!(text, "the server answered 400: why");
    let (port, _server) = server(vec![answers(&["<html>"])]);
    let (ended, _) = subscribe(&format!("http://127.0.0.1:{port}/poll"), "");
    let text = ended.unwrap_err().to_string();
    assert!(
        text.starts_with("the response is not that of a poll"),
        "{text}"
    );
}

#[test]
fn web_socket_prints_publications_only_and_resumes_in_the_query() {
    let first = messages(
        &[
            r#"{"type":"welcome","conn":"1","heartbeat_ms":1}"#,
            r#"{"type":"subscribed","channel":"a","id":"e-0","recovered":true}"#,
            r#"{"channel":"a","id":"e-1","data":{"type":"welcome"}}"#,
            r#"{"type":"gap","channel":"a","missed":1}"#,
        ],
        Some((1012, "retry_ms=1")),
    );
    let second = messages(&[r#"{"channel":"a","id":"e-2","text":"x"}"#], None);
    let scripts: Vec<Box<dyn FnOnce(TcpStream) -> String + Send>> =
        vec![Box::new(first), Box::new(second)];
    let (port, server) = server(scripts);
    let url = format!("ws://127.0.0.1:{port}/ws?channel=a");
    let (ended, out) = subscribe(&url, "--count 2 --timeout 30");
    ended.unwrap();
    assert_eq!(
        out,
        "{\"channel\":\"a\",\"id\":\"e-1\",\"data\":{\"type\":\"welcome\"}}\n\
         {\"channel\":\"a\",\"id\":\"e-2\",\"text\":\"x\"}\n"
    );
    let targets = server.join().unwrap();
    assert_eq!(targets, ["/ws?channel=a", "/ws?channel=a&since=e-1"]);
}

#[test]
fn web_socket_resumes_after_its_first_position_before_any_publication() {
    let script = || {
        messages(
            &[r#"{"type":"subscribed","channel":"a","id":"e-7","recovered":true}"#],
            Some((1013, "retry_ms=1")),
        )
    };
    let last = messages(&[], Some((4003, "no")));
    let scripts: Vec<Box<dyn FnOnce(TcpStream) -> String + Send>> =
        vec![Box::new(script()), Box::new(last)];
    let (port, server) = server(scripts);
    let (ended, _) = subscribe(&format!("ws://127.0.0.1:{port}/ws?channel=a"), "");
    let text = ended.unwrap_err().to_string();
    assert_eq!(text, "closed by the server with code 4003 (no)");
    assert_eq!(server.join().unwrap()[1], "/ws?channel=a&since=e-7");
}

#[test]
fn history_is_requested_until_there_is_an_id() {
    for (flags, expected) in [
        ("--last 3", "/ws?channel=a&last=3"),
        ("--since first", "/ws?channel=a&since=first"),
    ] {
        let first = messages(
            &[r#"{"channel":"a","id":"e-1","initial":true,"text":"x"}"#],
            Some((1013, "retry_ms=1")),
        );
        let last = messages(&[], Some((4003, "no")));
        let scripts: Vec<Box<dyn FnOnce(TcpStream) -> String + Send>> =
            vec![Box::new(first), Box::new(last)];
        let (port, server) = server(scripts);
        let url = format!("ws://127.0.0.1:{port}/ws?channel=a&since=e-0");
        let (ended, _) = subscribe(&url, flags);
        ended.unwrap_err();
        let targets = server.join().unwrap();
        assert_eq!(targets, [expected, "/ws?channel=a&since=e-1"]);
    }
}

#[test]
fn web_socket_prints_bare_payloads_of_any_kind() {
    let (port, _server) = server(vec![messages(&[r#"{"type":"welcome"}"#], Some((1000, "")))]);
    let url = format!("ws://127.0.0.1:{port}/ws?channel=a&envelope=data");
    let (ended, out) = subscribe(&url, "");
    ended.unwrap();
    assert_eq!(out, "{\"type\":\"welcome\"}\n");
}

#[test]
fn web_socket_fails_if_the_handshake_is_refused() {
    let (port, _server) = server(vec![answer(
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    )]);
    let (ended, _) = subscribe(&format!("ws://127.0.0.1:{port}/ws"), "");
    assert_eq!(ended.unwrap_err().to_string(), "the server answered 401");
}

#[test]
fn subscribe_fails_after_its_timeout() {
    // The listener never accepts. The kernel still completes the TCP handshake, but no response
    // arrives.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for url in [
        format!("ws://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/poll"),
    ] {
        let (ended, _) = subscribe(&url, "--timeout 0.1");
        let text = ended.unwrap_err().to_string();
        assert_eq!(text, "no publication within 0.1 s", "{url}");
    }
}

#[test]
fn subscribe_fails_at_once_without_reconnect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for url in [
        format!("ws://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/poll"),
    ] {
        let (ended, _) = subscribe(&url, "--no-reconnect");
        assert!(
            ended.unwrap_err().to_string().contains("cannot reach"),
            "{url}"
        );
    }
}

#[test]
fn bad_url_and_flags_that_exclude_each_other_are_bad_usage() {
    for (url, flags) in [
        ("ftp://127.0.0.1/ws", ""),
        ("ws://127.0.0.1/ws", "--insecure"),
        ("ws://127.0.0.1/ws", "--cacert x"),
        ("wss://127.0.0.1/ws", "--cacert /dev/null"),
        ("ws://127.0.0.1/ws", "--token-file /dev/null"),
        ("ws://127.0.0.1/ws", "--token x --header Authorization:y"),
    ] {
        let (ended, _) = subscribe(url, flags);
        assert!(matches!(ended, Err(Failure::Usage(_))), "{url} {flags}");
    }
}

/// A standard output whose reader has closed the pipe.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn subscribe_ends_silently_if_its_output_is_closed() {
    let (port, _server) = server(vec![answer(SECOND)]);
    let url = format!("http://127.0.0.1:{port}/sse");
    let arguments = <Arguments as clap::Parser>::try_parse_from(["fanfare", "subscribe", &url]);
    let Command::Subscribe(args) = arguments.unwrap().command else {
        panic!("another subcommand");
    };
    assert!(matches!(
        run(&args, &mut Closed),
        Err(Failure::OutputClosed)
    ));
}
