//! Tests of conns from proxies: PROXY headers that are split at every position, and clients that
//! are refused.

use super::super::*;
use super::Rig;

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x12\x67\x01\xbb";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
const ADDRESSES: &[u8] = b"\xc0\0\x02\x01\xc6\x33\x64\x01\x12\x67\x01\xbb";
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const FORWARDED: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
const HEAD_BYTES: u32 = 8192;

fn proxied() -> Rig {
    let mut rig = Rig::new();
    rig.conn = Conn::proxied(Now(0));
    rig
}

/// Returns a header with this many bytes of extensions.
fn long_v2(extensions: u16) -> Vec<u8> {
    let length = (12 + extensions).to_be_bytes();
    let extensions = vec![0xea; extensions.into()];
    [V2_START, &length, ADDRESSES, &extensions].concat()
}

fn client() -> Option<std::net::IpAddr> {
    Some([192, 0, 2, 1].into())
}

fn admit(rig: &mut Rig, admitted: Result<(), TooMany>) -> Vec<u8> {
    assert_eq!(
        rig.effects.pop(),
        Some(Effect::IdentifyByProxyHeader(client()))
    );
    rig.call(|conn, out, context| conn.handle_proxy_client(admitted, out, context));
    rig.drain()
}

#[test]
fn no_byte_after_the_header_is_read_at_any_cut() {
    for header in [V1, V2, &long_v2(1), &long_v2(4000)] {
        let mut rig = proxied();
        let mut taken = 0;
        while rig.conn.is_proxied() {
            let most = rig.conn.read_bytes_max(HEAD_BYTES);
            assert!(most > 0 && taken + most <= header.len());
            // The requested bytes may arrive in two parts.
            let first = header[taken..taken + most.div_ceil(2)].to_vec();
            rig.feed(&first);
            taken += first.len();
        }
        assert_eq!(taken, header.len());
        assert_eq!(rig.conn.class(), ConnClass::Arriving);
        assert!(admit(&mut rig, Ok(())).is_empty());
        rig.feed(PAGE);
        assert!(rig.drain().starts_with(b"HTTP/1.1 200 "));
        assert_eq!(rig.conn.class(), ConnClass::Other);
    }
}

#[test]
fn request_in_one_read_with_the_header_waits_until_the_client_is_counted() {
    for header in [V1, V2, &long_v2(700)] {
        let mut rig = proxied();
        rig.feed(&[header, PAGE].concat());
        assert!(rig.drain().is_empty());
        assert!(admit(&mut rig, Ok(())).starts_with(b"HTTP/1.1 200 "));
    }
}

#[test]
fn extensions_are_dropped_as_they_arrive() {
    let longest = long_v2(u16::MAX - 12);
    let mut rig = proxied();
    for (at, piece) in longest.chunks(1000).enumerate() {
        assert!(rig.conn.is_proxied(), "{at}");
        rig.feed(piece);
        let (Phase::ProxyHeader { partial, .. } | Phase::Request { partial, .. }) = &rig.conn.phase
        else {
            panic!("no request is awaited any more");
        };
        let kept = partial.as_ref().map_or(0, |partial| partial.bytes.len());
        assert!(kept <= crate::proxy::header::HEADER_BYTES_MAX, "{kept}");
    }
    assert!(!rig.conn.is_proxied());
    assert!(admit(&mut rig, Ok(())).is_empty());
    rig.feed(PAGE);
    assert!(rig.drain().starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn client_over_its_limit_is_refused_with_retry_after() {
    let mut rig = proxied();
    rig.feed(V2);
    let response = admit(&mut rig, Err(TooMany::Conns));
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 429 "), "{response}");
    assert!(response.contains("\r\nRetry-After: "), "{response}");
    assert!(rig.conn.is_ending());
}

#[test]
fn malformed_or_late_header_ends_the_conn_without_a_response() {
    for wrong in [PAGE, b"PROXY TCP5", b"\r\n\r\n\0\r\nQUIT\n\x31"] {
        let mut rig = proxied();
        rig.feed(wrong);
        assert_eq!(rig.closed(), Some(CloseReason::BadProxyHeader));
        assert!(rig.drain().is_empty());
    }
    for part in [&b""[..], &V1[..20], &long_v2(100)[..128 - 1]] {
        let mut rig = proxied();
        rig.feed(part);
        rig.time_out(SendState::CaughtUp);
        assert_eq!(rig.closed(), Some(CloseReason::BadProxyHeader));
        assert!(rig.drain().is_empty());
    }
    for part in [&b""[..], &long_v2(100)[..50]] {
        let mut rig = proxied();
        rig.feed(part);
        rig.call(|conn, out, context| conn.handle_eof(out, context));
        assert_eq!(rig.closed(), Some(CloseReason::PeerGone));
    }
}

#[test]
fn every_request_of_a_trusted_proxy_waits_until_its_client_is_counted() {
    let mut rig = Rig::new();
    rig.is_trusted = true;
    rig.config.proxy.trusted = vec!["10.0.0.0/8".parse().unwrap()];
    rig.feed(&[FORWARDED, PAGE, FORWARDED].concat());
    for (client, admitted, status) in [
        (client(), Ok(()), "HTTP/1.1 200 "),
        (None, Ok(()), "HTTP/1.1 200 "),
        (client(), Err(TooMany::Connects), "HTTP/1.1 429 "),
    ] {
        assert_eq!(
            rig.effects.pop(),
            Some(Effect::IdentifyByForwardedHeader(client))
        );
        rig.call(|conn, out, context| conn.handle_forwarded_client(admitted, out, context));
        let response = String::from_utf8(rig.drain()).unwrap();
        assert!(response.starts_with(status), "{response}");
    }
    assert!(rig.conn.is_ending());
}
