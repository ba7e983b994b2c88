//! Whose word counts for where a client comes from.
//!
//! Plain data. The networks of proxies that are trusted, and the field in which the ones that speak
//! HTTP name their clients. That a listener expects the PROXY protocol is said where it is listed.

use serde::{Deserialize, Serialize};

use crate::proxy::Network;
use crate::proxy::forwarded::List;

/// Proxies in front of us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// Where they are. Empty: nobody is believed, but whoever reaches a listener with the PROXY
    /// protocol.
    pub trusted: Vec<Network>,
    /// Where they name their clients.
    pub field: ForwardedField,
}

/// The field of a request in which proxies name their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedField {
    /// `Forwarded` (RFC 7239)
    Forwarded,
    /// `X-Forwarded-For`
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
