//! Receives publications by polling over HTTP/1.1: repeated requests on one connection, each of
//! which resumes after the last id.
//!
//! The `timeout` parameter of the URL decides between long and short polls. Responses are printed
//! like messages of a WebSocket: publications unchanged, gaps on standard error. If a response
//! contains nothing new, the next request is sent at least a second after the previous request. So
//! a short poll does not cause a busy loop.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use fanfare::certain;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Subscriber;
use super::connection::Connection;
use super::end::End;
use super::exchange::{Response, read_head, refusal, request};
use super::response_body::Body;
use crate::cli::print_error;

/// The maximum length of a response's content, in bytes. It is larger than any publication.
const CONTENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The minimum time between two requests if the first response contains nothing new.
const PAUSE: Duration = Duration::from_secs(1);

/// The content of a response, as JSON.
#[derive(Deserialize)]
struct PollContent<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    gaps: Vec<&'a RawValue>,
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
}

/// The id in the envelope of a publication.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Sends polls until the subscription ends or the connection is lost.
pub(super) fn follow(subscriber: &mut Subscriber<'_>) -> End {
    match attempt(subscriber) {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

fn attempt(subscriber: &mut Subscriber<'_>) -> Result<Infallible, End> {
    let mut socket = subscriber.connect()?;
    let mut is_subscribed = false;
    loop {
        let started = Instant::now();
        let failed = |error: &_| match is_subscribed {
            true => subscriber.broken(error, None),
            false => subscriber.unreached(error),
        };
        // The server decides how long a poll lasts, so only `--timeout` limits the wait.
        socket.set_deadline(subscriber.deadline);
        socket
            .write_all(request("application/json", subscriber).as_bytes())
            .map_err(|error| failed(&error))?;
        let response = read_head(&mut socket, failed)?;
        if response.status != 200 {
            return Err(refusal(&mut socket, response));
        }
        if !is_subscribed {
            subscriber.note("connected");
            is_subscribed = true;
        }
        let (is_last, retry_after) = (response.is_last, response.retry_after);
        let had_position = subscriber.last_id.is_some();
        let content = read_content(&mut socket, response, subscriber)?;
        let has_news = print(&content, subscriber)?;
        if is_last {
            return Err(End::orderly(
                "the server closed the connection",
                retry_after,
            ));
        }
        if !has_news && had_position && !subscriber.sleep(PAUSE.saturating_sub(started.elapsed())) {
            return Err(End::TimedOut);
        }
    }
}

fn read_content(
    socket: &mut Connection,
    response: Response,
    subscriber: &Subscriber<'_>,
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
        if content.len() > CONTENT_BYTES_MAX {
            let cause = format!("a response has more than {CONTENT_BYTES_MAX} bytes");
            return Err(End::Failed(cause));
        }
        let count = socket
            .read(&mut buffer)
            .map_err(|error| subscriber.broken(&error, None))?;
        match count {
            0 if body.may_end() => return Ok(content),
            0 => return Err(End::broken("the connection ended within a response", None)),
            count => piece = Vec::from(certain::take(&buffer, count)),
        }
    }
}

/// Prints a response and stores its id. Returns false if the response contained nothing to print.
fn print(content: &[u8], subscriber: &mut Subscriber<'_>) -> Result<bool, End> {
    let content: PollContent<'_> = serde_json::from_slice(content)
        .map_err(|error| End::Failed(format!("the response is not that of a poll: {error}")))?;
    for gap in &content.gaps {
        print_error(&format!("gap: {gap}"));
    }
    for publication in &content.publications {
        let text = publication.get();
        // With `envelope=data`, a publication has no id.
        let envelope = serde_json::from_str::<Envelope<'_>>(text);
        let envelope = envelope.ok().filter(|_| !subscriber.target.is_bare());
        let id = envelope.map(|envelope| envelope.id).unwrap_or_default();
        if !id.is_empty() {
            subscriber.last_id = Some(String::from(&*id));
        }
        subscriber.publication(&id, text)?;
    }
    subscriber.note(&format!("at {}", content.id));
    subscriber.last_id = Some(String::from(&*content.id));
    Ok(!content.gaps.is_empty() || !content.publications.is_empty())
}
