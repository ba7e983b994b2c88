//! Decides what a request gets: which path, which method, which transport.
//!
//! Everything a later step relies on is checked here, so that an [`Answer`] is a promise that can
//! be kept: its channels are names, its key is answered, its limits are held.

use std::time::Duration;

use crate::auth::Access;
use crate::config::Config;
use crate::config::limits::POLL_TIMEOUT_MS;
use crate::frame::Envelope;
use crate::id::Since;

use super::entry::{self, Entry, EntryError};
use super::head::{Head, Method, Version};
use super::origin::Source;
use super::target::{Query, Target};
use super::{
    Answer, EventStreamRequest, PollRequest, Refusal, StreamBody, WebSocketRequest, response,
    upgrade,
};

/// The paths that exist.
#[derive(Clone, Copy)]
enum Path {
    EventStream,
    Page,
    Poll,
    WebSocket,
}

impl Path {
    fn find(path: &str, config: &Config) -> Result<Self, Refusal> {
        match path {
            "/" if config.page => Ok(Self::Page),
            "/poll" => Ok(Self::Poll),
            "/sse" => Ok(Self::EventStream),
            "/ws" => Ok(Self::WebSocket),
            _ => Err(Refusal::Path),
        }
    }
}

/// Answers a head or says why not.
pub(super) fn answer(
    head: &Head<'_>,
    source: Source,
    access: &Access,
    config: &Config,
    date: &str,
) -> Result<Answer, Refusal> {
    if let Some(fault) = head.fault {
        return Err(fault);
    }
    // The one target that means the server as a whole (RFC 9112, 3.2.4).
    if head.method == Method::Options && head.target == "*" {
        return Ok(options(head, source, config, date));
    }
    let target = Target::parse(head.target)?;
    let path = Path::find(target.path, config)?;
    if head.method == Method::Options {
        return Ok(options(head, source, config, date));
    }
    match path {
        Path::EventStream => event_stream(head, target, source, access, config, date),
        Path::Page => Ok(Answer::Respond(response::page(
            head.method,
            head.after,
            date,
        ))),
        Path::Poll => poll(head, target, source, access, config, date),
        Path::WebSocket => websocket(head, target, source, access, config),
    }
}

fn options(head: &Head<'_>, source: Source, config: &Config, date: &str) -> Answer {
    let reader = source.sharing().reader(&config.browser);
    Answer::Respond(response::options(head.after, reader, date))
}

/// The browser keeps from a foreign page what it may not read. Yet where a cookie opens channels, a
/// page should not even have a stream opened in its visitor's name.
fn check_source(source: Source, config: &Config) -> Result<(), Refusal> {
    if source == Source::Foreign && !config.auth.cookie.is_empty() {
        return Err(Refusal::Origin);
    }
    Ok(())
}

fn event_stream(
    head: &Head<'_>,
    target: Target<'_>,
    source: Source,
    access: &Access,
    config: &Config,
    date: &str,
) -> Result<Answer, Refusal> {
    check_source(source, config)?;
    let query = parse_read_only_query(target, config)?;
    let entry = entry::decide(&head.fields, target.query, &query.channels, access, config)?;
    if head.method == Method::Head {
        let reader = source.sharing().reader(&config.browser);
        let response = response::event_stream_without_stream(head.after, reader, date);
        return Ok(Answer::Respond(response));
    }
    Ok(Answer::EventStream(EventStreamRequest {
        since: since(head, &query),
        channels: query.channels,
        envelope: query.envelope.unwrap_or(Envelope::Data),
        body: match head.version {
            Version::Http10 => StreamBody::UntilClose,
            Version::Http11 => StreamBody::Chunked,
        },
        sharing: source.sharing(),
        entry,
    }))
}

fn poll(
    head: &Head<'_>,
    target: Target<'_>,
    source: Source,
    access: &Access,
    config: &Config,
    date: &str,
) -> Result<Answer, Refusal> {
    check_source(source, config)?;
    let query = parse_read_only_query(target, config)?;
    let asked = query.timeout.transpose()?;
    let entry = entry::decide(&head.fields, target.query, &query.channels, access, config)?;
    if head.method == Method::Head {
        let reader = source.sharing().reader(&config.browser);
        let response = response::poll_without_answer(head.after, reader, date);
        return Ok(Answer::Respond(response));
    }
    let asked = asked.unwrap_or(Duration::from_millis(POLL_TIMEOUT_MS));
    Ok(Answer::Poll(PollRequest {
        since: since(head, &query),
        channels: query.channels,
        envelope: query.envelope.unwrap_or(Envelope::Full),
        timeout: asked.min(config.limits.poll_timeout()),
        validators: head.fields.if_none_match.clone(),
        sharing: source.sharing(),
        after: head.after,
        entry,
    }))
}

fn websocket(
    head: &Head<'_>,
    target: Target<'_>,
    source: Source,
    access: &Access,
    config: &Config,
) -> Result<Answer, Refusal> {
    let accept = upgrade::accept(head)?;
    // Once it is open the browser keeps nothing of it from the page.
    if source == Source::Foreign {
        return Err(Refusal::Origin);
    }
    let query = parse_query(target, config)?;
    let envelope = query.envelope.unwrap_or(Envelope::Full);
    // With the data envelope no command is heard, so that a channel could never be named later.
    if envelope == Envelope::Data && query.channels.is_empty() {
        return Err(Refusal::ChannelMissing);
    }
    let window = query.window.transpose()?;
    if window.is_some() && envelope == Envelope::Data {
        return Err(Refusal::WindowWithoutIds);
    }
    // It is for the channels that are named here; commands say for themselves.
    if window.is_some() && query.channels.is_empty() {
        return Err(Refusal::ChannelMissing);
    }
    let entry = entry::decide(&head.fields, target.query, &query.channels, access, config);
    let entry = match entry {
        // Its first message may bring one, where messages are heard.
        Err(Refusal::Entry(EntryError::TokenMissing)) if envelope == Envelope::Full => {
            Entry::Awaited
        }
        entry => entry?,
    };
    Ok(Answer::WebSocket(WebSocketRequest {
        entry,
        since: since(head, &query),
        window,
        channels: query.channels,
        envelope,
        accept,
        has_subprotocol: head.fields.offers_subprotocol,
        deflate: head
            .fields
            .extensions
            .deflate
            .filter(|_| config.deflate.enabled),
    }))
}

fn parse_query(target: Target<'_>, config: &Config) -> Result<Query, Refusal> {
    let channels_max = usize::try_from(config.limits.channels_per_conn).unwrap_or(usize::MAX);
    Query::parse(target.query, channels_max)
}

/// The query of a transport whose clients are not heard: they name all channels now, and could
/// acknowledge nothing.
fn parse_read_only_query(target: Target<'_>, config: &Config) -> Result<Query, Refusal> {
    let query = parse_query(target, config)?;
    if query.channels.is_empty() {
        return Err(Refusal::ChannelMissing);
    }
    if query.window.is_some() {
        return Err(Refusal::WindowUnheard);
    }
    Ok(query)
}

/// The field goes before the query: `EventSource` repeats the query of its first request when it
/// comes back, and says in the field how far it has got since.
fn since(head: &Head<'_>, query: &Query) -> Since {
    match head.fields.last_event_id {
        Some(value) if !value.is_empty() => {
            str::from_utf8(value).map_or(Since::Unrecognised, Since::parse)
        }
        Some(_) | None => query.since.unwrap_or(Since::Now),
    }
}
