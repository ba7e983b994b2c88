//! The proxies whose client addresses are accepted.
//!
//! This module contains only data: the networks of trusted proxies, and the header field in which
//! HTTP proxies name their clients. [`super::Listen`] defines whether a listener expects the PROXY
//! protocol.

use serde::{Deserialize, Serialize};

use crate::proxy::Network;
use crate::proxy::forwarded::List;

/// Proxies in front of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// Networks of the trusted proxies. If empty, only peers of a listener with the PROXY protocol
    /// are trusted.
    pub trusted: Vec<Network>,
    /// The header field in which the trusted proxies name their clients.
    pub field: ForwardedField,
}

/// The header field in which proxies name their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedField {
    /// The field `Forwarded` (RFC 7239).
    Forwarded,
    /// The field `X-Forwarded-For`.
    #[default]
    XForwardedFor,
}

impl From<ForwardedField> for List {
    fn from(field: ForwardedField) -> Self {
        match field {
            ForwardedField::Forwarded => Self::Forwarded,
            ForwardedField::XForwardedFor => Self::XForwardedFor,
        }
    }
}
