//! Conns behind proxies: the header of the PROXY protocol ahead of everything, and whether the
//! client that a proxy names may come in.
//!
//! What has come of the header is kept like a part of a request, and no byte beyond it is asked
//! for: what follows may be TLS. The worker counts the client and says what came of it; until then
//! the request that named it waits.

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
    /// Looks whether the header is there.
    pub(super) fn handle_proxy_header(&mut self, context: &mut Context<'_>) {
        let Phase::Request { partial, stage } = &mut self.phase else {
            return;
        };
        let kept = partial.as_ref().map_or(&[][..], |partial| &partial.bytes);
        match read_header(kept) {
            Ok(HeaderRead::Incomplete { .. }) => {}
            Ok(HeaderRead::Complete { length, client }) => {
                let rest = partial.take().map(|mut partial| {
                    partial.bytes.drain(..length);
                    partial
                });
                *partial = rest.filter(|rest| !rest.bytes.is_empty());
                *stage = Stage::Fresh;
                context.ask(Effect::Proxied(client));
            }
            Err(_) => context.ask(Effect::Close(CloseReason::BadProxyHeader)),
        }
    }

    /// The conn is counted for whoever the PROXY header names, or may not come in.
    pub fn handle_proxied(
        &mut self,
        admitted: Result<(), TooMany>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        self.go_on(admitted, Self::handle_requests, out, context);
    }

    /// The conn is counted for the client of an HTTP proxy, or that one may not come in. The
    /// request that named it is answered now.
    pub fn handle_entered(
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
