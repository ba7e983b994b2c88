//! Follows by polling over HTTP/1.1: one request after the other on one conn, each from the last
//! id.
//!
//! Long or short is the URL's choice, by `timeout`. An answer is printed like what a WebSocket
//! brings: publications as they are, gaps to standard error. Where an answer without news comes at
//! once, nothing is asked for a second, so that a short poll is no busy loop.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Connection;
use super::end::End;
use super::exchange::{Response, read_head, refusal, request};
use super::response_body::Body;
use super::socket::Socket;
use crate::cli::tell;

/// The longest content of an answer, in bytes: more than the longest publication.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The least time from one answer without news to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// What a poll is answered with.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    gaps: Vec<&'a RawValue>,
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
}

/// Where a publication stands, if it has its envelope.
#[derive(Deserialize)]
struct Glance<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Polls until it ends in some way.
pub(super) fn follow(connection: &mut Connection<'_>) -> End {
    match attempt(connection) {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

fn attempt(connection: &mut Connection<'_>) -> Result<Infallible, End> {
    let target = connection.target;
    let mut socket = Socket::connect(&target.host, target.port, connection.handshake_deadline())
        .map_err(|error| connection.unreached(&error))?;
    let mut is_joined = false;
    loop {
        let asked = Instant::now();
        let failed = |error: &_| match is_joined {
            true => connection.broken(error, None),
            false => connection.unreached(error),
        };
        // An answer may take as long as the server lets it.
        socket.set_deadline(connection.deadline);
        socket
            .write_all(request("application/json", connection).as_bytes())
            .map_err(|error| failed(&error))?;
        let response = read_head(&mut socket, failed)?;
        if response.status != 200 {
            return Err(refusal(&mut socket, response));
        }
        if !is_joined {
            connection.note("connected");
            is_joined = true;
        }
        let (is_last, asked_away) = (response.is_last, response.retry_after);
        let had_position = connection.last_id.is_some();
        let content = read_content(&mut socket, response, connection)?;
        let has_news = print(&content, connection)?;
        if is_last {
            return Err(End::orderly("the server ended the connection", asked_away));
        }
        if !has_news && had_position && !connection.sleep(PAUSE.saturating_sub(asked.elapsed())) {
            return Err(End::TimedOut);
        }
    }
}

fn read_content(
    socket: &mut Socket,
    response: Response,
    connection: &Connection<'_>,
) -> Result<Vec<u8>, End> {
    let mut body = Body::new(response.framing);
    let mut content = Vec::new();
    let mut buffer = vec![0u8; 64 * 1024];
    let mut piece = response.rest;
    loop {
        body.push(&piece, &mut content)
            .map_err(|error| End::broken(error.to_string(), None))?;
        if body.is_done() {
            return Ok(content);
        }
        if content.len() > ANSWER_BYTES_MAX {
            let cause = format!("an answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(End::Failed(cause));
        }
        let count = socket
            .read(&mut buffer)
            .map_err(|error| connection.broken(&error, None))?;
        match count {
            0 if body.may_end() => return Ok(content),
            0 => return Err(End::broken("the connection ended in an answer", None)),
            count => piece = Vec::from(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Prints an answer, and goes on from its id. False if there was nothing to print.
fn print(content: &[u8], connection: &mut Connection<'_>) -> Result<bool, End> {
    let answer: Answer<'_> = serde_json::from_slice(content)
        .map_err(|error| End::Failed(format!("the answer is not a poll's: {error}")))?;
    for gap in &answer.gaps {
        tell(&format!("gap: {gap}"));
    }
    for publication in &answer.publications {
        let text = publication.get();
        // Without the envelope nobody knows the id.
        let glance = serde_json::from_str::<Glance<'_>>(text);
        let glance = glance.ok().filter(|_| !connection.target.is_bare());
        let id = glance.map(|glance| glance.id).unwrap_or_default();
        if !id.is_empty() {
            connection.last_id = Some(String::from(&*id));
        }
        connection.publication(&id, text)?;
    }
    connection.note(&format!("at {}", answer.id));
    connection.last_id = Some(String::from(&*answer.id));
    Ok(!answer.gaps.is_empty() || !answer.publications.is_empty())
}
