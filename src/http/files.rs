//! The files that the server serves: the built-in page, and the browser module with its types.
//!
//! The files are part of the program. The module and its types are the same for all clients and
//! contain nothing secret, so pages of any origin may load them.

use super::head::Method;
use super::response::{Response, push_content, push_field, push_status_line};
use super::{After, Status};

/// A file that the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// Acknowledgement windows, for the browser module.
    Acks,
    /// The browser module.
    Module,
    /// Publications that wait for a connection, for the browser module.
    Outbox,
    /// The built-in page, which is one file without external assets.
    Page,
    /// The types of the browser module.
    Types,
}

/// The content security policy of the built-in page. It allows the page's inline script and style,
/// the browser module, images from data URLs, connections to the page's origin, and a `WebSocket`
/// to any origin.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; \
    style-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const TEXT: &str = "text/plain; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

impl File {
    /// Returns the file at a path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Page),
            "/fanfare.js" => Some(Self::Module),
            "/fanfare.d.ts" => Some(Self::Types),
            "/fanfare-acks.js" => Some(Self::Acks),
            "/fanfare-outbox.js" => Some(Self::Outbox),
            _ => None,
        }
    }

    fn content(self) -> (&'static str, &'static [u8]) {
        match self {
            Self::Acks => (SCRIPT, include_bytes!("../web/acks.min.js")),
            Self::Module => (SCRIPT, include_bytes!("../web/fanfare.min.js")),
            Self::Outbox => (SCRIPT, include_bytes!("../web/outbox.min.js")),
            Self::Page => ("text/html; charset=utf-8", include_bytes!("page.html")),
            Self::Types => (TEXT, include_bytes!("../web/fanfare.d.ts")),
        }
    }

    /// Returns the response with the file.
    pub(super) fn respond(self, method: Method, then: After, date: &str) -> Response {
        let (media_type, content) = self.content();
        let mut bytes = Vec::with_capacity(content.len() + 768);
        push_status_line(Status::Ok, date, &mut bytes);
        // A browser asks again each time, so that it has the module of the running server.
        push_field("Cache-Control", "no-cache", &mut bytes);
        match self {
            Self::Page => {
                push_field("Content-Security-Policy", PAGE_POLICY, &mut bytes);
                push_field("Referrer-Policy", "no-referrer", &mut bytes);
            }
            Self::Acks | Self::Module | Self::Outbox | Self::Types => {
                push_field("Access-Control-Allow-Origin", "*", &mut bytes);
                push_field("Cross-Origin-Resource-Policy", "cross-origin", &mut bytes);
            }
        }
        push_field("X-Content-Type-Options", "nosniff", &mut bytes);
        push_content(media_type, content, method, then, &mut bytes);
        Response {
            status: Status::Ok,
            bytes,
            then,
            refusal: None,
        }
    }
}
