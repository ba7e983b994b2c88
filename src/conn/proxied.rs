//! Conns behind proxies: the header of the PROXY protocol ahead of everything, and whether the
//! client that a proxy names may come in.
//!
//! The part of the header that names the client is kept like a part of a request. What follows it
//! in the header is only counted, so a header of any length costs some dozens of bytes. No byte
//! beyond the header is asked for: what follows may be TLS. The worker counts the client and says
//! the outcome; until then the request that named it waits.

use super::phase::{Partial, Phase, Stage};
use super::{Conn, TooMany};
use crate::effect::{CloseReason, Context, Effect};
use crate::http;
use crate::http::origin::Reader;
use crate::proxy::header::{HeaderRead, read_header};

/// How many bytes of the header are to be read next.
pub(super) fn bytes_to_come(partial: Option<&Partial>) -> usize {
    let kept = partial.map_or(&[][..], |partial| &partial.bytes);
    match read_header(kept) {
        Ok(HeaderRead::Incomplete { more }) => more,
        Ok(HeaderRead::Complete { .. }) | Err(_) => 0,
    }
}

impl Conn {
    /// Looks whether the part of the header that names the client is there.
    pub(super) fn handle_proxy_header(&mut self, context: &mut Context<'_>) {
        let Phase::Request { partial, stage } = &mut self.phase else {
            return;
        };
        let kept = partial.as_ref().map_or(&[][..], |partial| &partial.bytes);
        match read_header(kept) {
            Ok(HeaderRead::Incomplete { .. }) => {}
            Ok(HeaderRead::Complete { length, skip, .. }) => {
                let after = partial
                    .as_mut()
                    .map(|partial| partial.bytes.split_off(length));
                *stage = Stage::Skipping { left: skip };
                self.skip_extensions(&after.unwrap_or_default(), context);
            }
            Err(_) => context.ask(Effect::Close(CloseReason::BadProxyHeader)),
        }
    }

    /// Drops what belongs to the header. When all of it has come, the client is to be counted.
    pub(super) fn skip_extensions(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        let Phase::Request { partial, stage } = &mut self.phase else {
            return;
        };
        let Stage::Skipping { left } = stage else {
            return;
        };
        let come = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let skipped = come.min(*left);
        *left -= skipped;
        if *left > 0 {
            return;
        }
        let client = match read_header(&partial.take().map_or_else(Vec::new, |p| p.bytes)) {
            Ok(HeaderRead::Complete { client, .. }) => client,
            other => {
                debug_assert!(false, "{other:?} of what was complete");
                None
            }
        };
        Partial::push(
            partial,
            bytes.get(usize::from(skipped)..).unwrap_or_default(),
        );
        *stage = Stage::Fresh;
        context.ask(Effect::IdentifyByProxyHeader(client));
    }

    /// The conn is counted for whoever the PROXY header names, or may not come in.
    pub fn handle_proxy_client(
        &mut self,
        admitted: Result<(), TooMany>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        self.go_on(admitted, Self::handle_requests, out, context);
    }

    /// The conn is counted for the client of an HTTP proxy, or that one may not come in. The
    /// request that named it is answered now.
    pub fn handle_forwarded_client(
        &mut self,
        admitted: Result<(), TooMany>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        self.go_on(admitted, Self::answer_requests, out, context);
    }

    fn go_on(
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
                let refusal = too_many.into();
                let response =
                    http::response::put_off(refusal, Reader::SameOrigin, wait_s, context.date);
                out.extend_from_slice(&response.bytes);
                self.end(CloseReason::Refused, context);
            }
        }
        self.settle(out, context);
    }

    fn take_partial(&mut self) -> Option<Box<Partial>> {
        match &mut self.phase {
            Phase::Request { partial, .. } => partial.take(),
            Phase::Poll { .. } | Phase::Stream { .. } | Phase::Ending { .. } => None,
        }
    }
}
