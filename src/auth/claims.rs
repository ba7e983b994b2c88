//! The claims of a token with a valid signature (RFC 7519, 4).
//!
//! Registered claims are checked as the standard requires. `exp` must be present. If `aud` is
//! present, it must name this server. `iss` is checked if the operator has configured an issuer.
//! The permissions are a private claim: `"fanfare": {"subscribe": [patterns], "publish":
//! [patterns]}`. A token without this claim allows nothing. A repeated claim makes the token
//! malformed.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::grant::Grant;
use super::verify::TokenError;
use crate::config::TokenRules;
use crate::config::limits::{TOKEN_PATTERNS_MAX, TOKEN_SUB_BYTES_MAX};
use crate::pattern::Pattern;

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    exp: Option<&'a RawValue>,
    #[serde(borrow)]
    nbf: Option<&'a RawValue>,
    #[serde(borrow)]
    iat: Option<&'a RawValue>,
    aud: Option<Audience>,
    iss: Option<String>,
    sub: Option<String>,
    fanfare: Option<Rights>,
}

/// One audience, or a list of audiences (RFC 7519, 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(name) => name == audience,
            Self::Many(names) => names.iter().any(|name| name == audience),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rights {
    subscribe: Vec<String>,
    publish: Vec<String>,
}

/// Parses the claims, checks them against the rules, and returns the permissions.
pub(super) fn grant(json: &[u8], rules: &TokenRules, unix_s: u64) -> Result<Grant, TokenError> {
    // serde would also accept an array of the members' values, so the first character is checked.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(TokenError::Claims);
    }
    let claims: Claims<'_> = serde_json::from_slice(json).map_err(|_fault| TokenError::Claims)?;
    let date = |name, value: Option<&RawValue>| {
        value
            .map(|value| seconds(value.get()).ok_or(TokenError::Date(name)))
            .transpose()
    };
    let exp = date("exp", claims.exp)?.ok_or(TokenError::NoEnd)?;
    let nbf = date("nbf", claims.nbf)?;
    // `iat` is not used, but must be a NumericDate (RFC 7519, 4.1.6).
    date("iat", claims.iat)?;
    let leeway_s = i64::try_from(rules.leeway_s).unwrap_or(i64::MAX);
    let now_s = i64::try_from(unix_s).unwrap_or(i64::MAX);
    let ends_s = exp.saturating_add(leeway_s);
    if now_s >= ends_s {
        return Err(TokenError::Expired);
    }
    if nbf.is_some_and(|nbf| nbf > now_s.saturating_add(leeway_s)) {
        return Err(TokenError::NotYet);
    }
    let is_for_us = match (&claims.aud, &rules.audience) {
        (None, None) => true,
        (Some(audience), Some(own)) => audience.contains(own),
        // If no audience is configured, the server cannot be a token's audience (RFC 7519, 4.1.3).
        (None, Some(_)) | (Some(_), None) => false,
    };
    if !is_for_us {
        return Err(TokenError::Audience);
    }
    if rules.issuer.is_some() && claims.iss.as_deref() != rules.issuer.as_deref() {
        return Err(TokenError::Issuer);
    }
    let sub = claims.sub.filter(|sub| !sub.is_empty());
    if sub
        .as_ref()
        .is_some_and(|sub| sub.len() > TOKEN_SUB_BYTES_MAX)
    {
        return Err(TokenError::Claims);
    }
    let rights = claims.fanfare.unwrap_or_default();
    Ok(Grant {
        sub: sub.map(Arc::from),
        subscribe: patterns(&rights.subscribe)?,
        publish: patterns(&rights.publish)?,
        ends_s: ends_s.unsigned_abs(),
    })
}

/// Parses a number of seconds since 1970, which may be negative or have a fraction (RFC 7519, 2).
/// The number is rounded down and saturates. Returns `None` if the JSON is not a number.
fn seconds(json: &str) -> Option<i64> {
    if !json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and the fraction is dropped"
    )]
    json.parse()
        .ok()
        .or_else(|| Some(json.parse::<f64>().ok()?.floor() as i64))
}

fn patterns(texts: &[String]) -> Result<Box<[Pattern]>, TokenError> {
    if texts.len() > TOKEN_PATTERNS_MAX {
        return Err(TokenError::Claims);
    }
    let patterns = texts.iter().map(|text| Pattern::new(text));
    let patterns: Result<_, _> = patterns.collect();
    patterns.map_err(|_fault| TokenError::Claims)
}
