//! Chooses the answer to a request by its path and method.
//!
//! Later steps rely on the checks of this module: in an [`Answer`], the channels have valid names,
//! the answer to the WebSocket key is computed, and the limits are respected.

use std::time::Duration;

use crate::auth::Access;
use crate::config::Config;
use crate::config::limits::POLL_TIMEOUT_MS;
use crate::frame::Envelope;
use crate::id::Since;

use super::entry::{self, Entry, EntryError};
use super::files::File;
use super::head::{Head, Method, Version};
use super::origin::{Reader, Source};
use super::target::{Query, Target};
use super::{
    After, Answer, EventStreamRequest, PollRequest, Refusal, Response, StreamBody,
    WebSocketRequest, publish, response, upgrade,
};

/// The paths of the client listener.
#[derive(Clone, Copy)]
enum Path {
    EventStream,
    File(File),
    Poll,
    Publish,
    WebSocket,
}

impl Path {
    fn parse(path: &str) -> Option<Self> {
        match path {
            "/poll" => Some(Self::Poll),
            publish::PATH => Some(Self::Publish),
            "/sse" => Some(Self::EventStream),
            "/ws" => Some(Self::WebSocket),
            path => File::at(path).map(Self::File),
        }
    }

    fn find(path: &str, config: &Config) -> Result<Self, Refusal> {
        match Self::parse(path) {
            Some(Self::File(File::Page)) if !config.page => Err(Refusal::Path),
            found => found.ok_or(Refusal::Path),
        }
    }
}

/// Whether this is a path of the client listener.
pub(super) fn is_known(path: &str) -> bool {
    Path::parse(path).is_some()
}

/// Returns the answer to a request, or the reason to refuse the request.
pub(super) fn answer(
    head: &Head<'_>,
    source: Source,
    access: &Access,
    config: &Config,
    date: &str,
) -> Result<Answer, Refusal> {
    let router = Router {
        head,
        source,
        access,
        config,
        date,
    };
    router.answer()
}

struct Router<'a> {
    head: &'a Head<'a>,
    source: Source,
    access: &'a Access,
    config: &'a Config,
    date: &'a str,
}

impl Router<'_> {
    fn answer(&self) -> Result<Answer, Refusal> {
        let head = self.head;
        if let Some(fault) = head.fault {
            return Err(fault);
        }
        // The target `*` means the server as a whole (RFC 9112, 3.2.4).
        if head.method == Method::Options && head.target == "*" {
            return Ok(self.respond(response::options));
        }
        let target = Target::parse(head.target)?;
        let path = Path::find(target.path, self.config)?;
        if head.method == Method::Options {
            return Ok(self.respond(match path {
                Path::Publish => response::options_of_publish,
                Path::EventStream | Path::File(_) | Path::Poll | Path::WebSocket => {
                    response::options
                }
            }));
        }
        match path {
            Path::EventStream => self.event_stream(target),
            Path::File(file) => {
                let response = file.respond(head.method, head.after, self.date);
                Ok(Answer::Respond(response))
            }
            Path::Poll => self.poll(target),
            Path::Publish => publish::check(head, target, self.source, self.access, self.config)
                .map(Answer::Publish),
            Path::WebSocket => self.websocket(target),
        }
    }

    fn respond(&self, write: fn(After, Reader<'_>, &str) -> Response) -> Answer {
        let reader = self.source.reader(&self.config.browser);
        Answer::Respond(write(self.head.after, reader, self.date))
    }

    fn event_stream(&self, target: Target<'_>) -> Result<Answer, Refusal> {
        self.check_source()?;
        let query = self.parse_read_only_query(target)?;
        let entry = self.entry(target, &query)?;
        if self.head.method == Method::Head {
            return Ok(self.respond(response::event_stream_head));
        }
        Ok(Answer::EventStream(EventStreamRequest {
            since: self.since(&query),
            channels: query.channels,
            envelope: query.envelope.unwrap_or(Envelope::Data),
            body: match self.head.version {
                Version::Http10 => StreamBody::UntilClose,
                Version::Http11 => StreamBody::Chunked,
            },
            sharing: self.source.sharing(&self.config.browser),
            entry,
        }))
    }

    fn poll(&self, target: Target<'_>) -> Result<Answer, Refusal> {
        self.check_source()?;
        let mut query = self.parse_read_only_query(target)?;
        let timeout = query.timeout.take().transpose()?;
        let timeout = timeout.unwrap_or(Duration::from_millis(POLL_TIMEOUT_MS));
        let entry = self.entry(target, &query)?;
        if self.head.method == Method::Head {
            return Ok(self.respond(response::poll_head));
        }
        Ok(Answer::Poll(PollRequest {
            since: self.since(&query),
            channels: query.channels,
            envelope: query.envelope.unwrap_or(Envelope::Full),
            timeout: timeout.min(self.config.limits.poll_timeout()),
            validators: self.head.fields.if_none_match.clone(),
            sharing: self.source.sharing(&self.config.browser),
            after: self.head.after,
            entry,
        }))
    }

    fn websocket(&self, target: Target<'_>) -> Result<Answer, Refusal> {
        let accept = upgrade::accept(self.head)?;
        // The server must check the origin, because browsers let any page use a WebSocket.
        if self.source == Source::Foreign {
            return Err(Refusal::Origin);
        }
        let query = self.parse_query(target)?;
        let envelope = query.envelope.unwrap_or(Envelope::Full);
        // With the data envelope, commands are ignored, so the client cannot name a channel later.
        if envelope == Envelope::Data && query.channels.is_empty() {
            return Err(Refusal::ChannelMissing);
        }
        let window = query.window.transpose()?;
        if window.is_some() && envelope == Envelope::Data {
            return Err(Refusal::WindowWithoutIds);
        }
        // The parameter `window` applies only to the channels of the query. A subscribe command has
        // its own window.
        if window.is_some() && query.channels.is_empty() {
            return Err(Refusal::ChannelMissing);
        }
        let entry = match self.entry(target, &query) {
            // With the full envelope, the client may send a token in its first message.
            Err(Refusal::Entry(EntryError::TokenMissing)) if envelope == Envelope::Full => {
                Entry::Awaited
            }
            entry => entry?,
        };
        let fields = &self.head.fields;
        Ok(Answer::WebSocket(WebSocketRequest {
            entry,
            since: self.since(&query),
            window,
            channels: query.channels,
            envelope,
            accept,
            has_subprotocol: fields.offers_subprotocol,
            deflate: fields
                .extensions
                .deflate
                .filter(|_| self.config.deflate.enabled),
        }))
    }

    fn entry(&self, target: Target<'_>, query: &Query) -> Result<Entry, Refusal> {
        let fields = &self.head.fields;
        entry::decide(
            fields,
            target.query,
            &query.channels,
            self.access,
            self.config,
        )
    }

    fn parse_query(&self, target: Target<'_>) -> Result<Query, Refusal> {
        let limit = self.config.limits.channels_per_conn;
        Query::parse(target.query, limit as usize)
    }

    /// Parses the query for an event stream or a poll, whose clients send no commands. The query
    /// must name at least one channel. A window is refused, because these clients cannot
    /// acknowledge publications.
    fn parse_read_only_query(&self, target: Target<'_>) -> Result<Query, Refusal> {
        let query = self.parse_query(target)?;
        if query.channels.is_empty() {
            return Err(Refusal::ChannelMissing);
        }
        if query.window.is_some() {
            return Err(Refusal::WindowUnheard);
        }
        Ok(query)
    }

    /// Refuses a request from a foreign page if cookies can contain tokens. The browser would send
    /// the user's cookie, so the page could open a stream with the user's token. Without such
    /// cookies, no check is needed, because browsers hide responses from foreign pages.
    fn check_source(&self) -> Result<(), Refusal> {
        if self.source == Source::Foreign && !self.config.auth.cookie.is_empty() {
            return Err(Refusal::Origin);
        }
        Ok(())
    }

    /// Returns the position after which publications are delivered. The field `Last-Event-ID` has
    /// priority over the query. After a reconnect, `EventSource` repeats its first query and sends
    /// its current position in the field.
    fn since(&self, query: &Query) -> Since {
        match self.head.fields.last_event_id {
            Some(value) if !value.is_empty() => {
                str::from_utf8(value).map_or(Since::Unrecognised, Since::parse)
            }
            Some(_) | None => query.since.unwrap_or(Since::Now),
        }
    }
}
