//! Conns from proxies: the PROXY header, and the admission of the client that a proxy names.
//!
//! The part of the header that names the client is kept like a partial request. The header's
//! extensions are only counted and dropped, so a header of any length occupies a few dozen bytes.
//! Bytes after the header are never read together with the header, because they may belong to TLS.
//! The worker counts the conn for the client and reports whether the client is admitted. The conn's
//! request waits for this report.

use super::phase::{Partial, Phase};
use super::{Conn, TooMany};
use crate::certain;
use crate::context::Context;
use crate::effect::{CloseReason, Effect};
use crate::http;
use crate::http::origin::Reader;
use crate::proxy::header::{HeaderRead, read_header};

/// Returns the number of bytes of the PROXY header to read next.
pub(super) fn missing_bytes(partial: Option<&Partial>) -> usize {
    let kept = partial.map_or(&[][..], |partial| &partial.bytes);
    match read_header(kept) {
        Ok(HeaderRead::Incomplete { more }) => more,
        Ok(HeaderRead::Complete { .. }) | Err(_) => 0,
    }
}

impl Conn {
    /// Parses the part of the header that names the client, if this part is complete.
    pub(super) fn handle_proxy_header(&mut self, context: &mut Context<'_>) {
        let Phase::ProxyHeader {
            partial,
            extensions_left,
        } = &mut self.phase
        else {
            debug_assert!(false, "no PROXY header is awaited");
            return;
        };
        let kept = partial.as_ref().map_or(&[][..], |partial| &partial.bytes);
        match read_header(kept) {
            Ok(HeaderRead::Incomplete { .. }) => {}
            Ok(HeaderRead::Complete { length, skip, .. }) => {
                let after = partial
                    .as_mut()
                    .map(|partial| partial.bytes.split_off(length));
                *extensions_left = Some(skip);
                self.skip_extensions(&after.unwrap_or_default(), context);
            }
            Err(_) => context.ask(Effect::Close(CloseReason::BadProxyHeader)),
        }
    }

    /// Drops extensions of the header. After the last extension, asks the worker to count the conn
    /// for the client.
    pub(super) fn skip_extensions(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        let Phase::ProxyHeader {
            partial,
            extensions_left: Some(left),
        } = &mut self.phase
        else {
            debug_assert!(false, "no extensions are awaited");
            return;
        };
        let skipped = u16::try_from(bytes.len()).map_or(*left, |length| length.min(*left));
        *left -= skipped;
        if *left > 0 {
            return;
        }
        let client = match read_header(&partial.take().map_or_else(Vec::new, |p| p.bytes)) {
            Ok(HeaderRead::Complete { client, .. }) => client,
            other => {
                debug_assert!(false, "a complete header became {other:?}");
                None
            }
        };
        let mut partial = None;
        Partial::push(&mut partial, certain::skip(bytes, usize::from(skipped)));
        self.phase = Phase::Request {
            partial,
            is_first: true,
        };
        context.ask(Effect::IdentifyByProxyHeader(client));
    }

    /// Handles the worker's decision about the client that the PROXY header names. If the client is
    /// admitted, the worker has counted the conn for this client.
    pub fn handle_proxy_client(
        &mut self,
        admitted: Result<(), TooMany>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        self.handle_admission(admitted, Self::handle_requests, out, context);
    }

    /// Handles the worker's decision whether to admit the client that an HTTP proxy has named in a
    /// header field. If the client is admitted, its request is answered now.
    pub fn handle_forwarded_client(
        &mut self,
        admitted: Result<(), TooMany>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        self.handle_admission(admitted, Self::answer_request, out, context);
    }

    fn handle_admission(
        &mut self,
        admitted: Result<(), TooMany>,
        answer: fn(&mut Self, &mut [u8], &mut Vec<u8>, &mut Context<'_>),
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match admitted {
            Ok(()) => {
                if let Some(mut partial) = self.take_partial() {
                    answer(self, &mut partial.bytes, out, context);
                }
            }
            Err(too_many) => {
                let wait_s = context.retry_after_s();
                let (refusal, reader) = (too_many.into(), Reader::SameOrigin);
                let response =
                    http::response::refuse_for_now(refusal, reader, wait_s, context.date);
                self.refuse(&response, CloseReason::Refused, out, context);
            }
        }
        self.settle(out, context);
    }

    pub(super) fn take_partial(&mut self) -> Option<Box<Partial>> {
        match &mut self.phase {
            Phase::Request { partial, .. } | Phase::Publish { partial, .. } => partial.take(),
            Phase::ProxyHeader { .. }
            | Phase::Poll { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => None,
        }
    }
}
