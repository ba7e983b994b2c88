//! Checks input from proxies (PROXY headers and lists of forwarded addresses) and the syntax of
//! networks.
//!
//! The first byte selects the kind of the rest. A header is parsed at every cut: the parser
//! requests no byte after the header's end, reads at most the maximum length, and never changes a
//! final result. In a list, only the address that the last proxy adds counts, whatever a client
//! puts before that address.

use std::net::IpAddr;

use fanfare::proxy::forwarded::{List, client};
use fanfare::proxy::header::{HEADER_BYTES_MAX, HeaderRead, read_header};
use fanfare::proxy::{Network, contains};

/// Runs the target on an input: a header, a list or a network.
pub fn attack(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 | 1 => header(rest),
        2 => list(rest),
        _ => network(rest),
    }
}

fn header(bytes: &[u8]) {
    let mut asked_for = 0;
    for cut in 0..=bytes.len() {
        match read_header(&bytes[..cut]) {
            Ok(HeaderRead::Incomplete { more }) => {
                assert!(more > 0);
                asked_for = asked_for.max(cut + more);
                assert!(asked_for <= HEADER_BYTES_MAX);
            }
            Ok(HeaderRead::Complete { length, client, .. }) => {
                assert_eq!(length, cut, "not found at its last byte");
                assert!(length <= HEADER_BYTES_MAX);
                assert!(asked_for <= length, "asked for a byte after its end");
                assert_eq!(client, client.map(|address| address.to_canonical()));
                assert_eq!(read_header(bytes), read_header(&bytes[..cut]));
                return;
            }
            Err(error) => {
                assert_eq!(read_header(bytes), Err(error));
                return;
            }
        }
    }
}

fn list(bytes: &[u8]) {
    let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
    let own: IpAddr = "192.0.2.77".parse().unwrap();
    for (list, end) in [
        (List::XForwardedFor, &b", 192.0.2.77"[..]),
        (List::Forwarded, b", for=192.0.2.77"),
        (
            List::Forwarded,
            b", for=\"192.0.2.77:443\";host=\"a,\\\"b\"",
        ),
    ] {
        let lines = bytes.split(|byte| *byte == b'\n');
        let _said = client(lines.rev(), list, &trusted);
        let whole = [bytes, end].concat();
        let alone = |line| client(std::iter::once(line), list, &trusted);
        assert_eq!(alone(&whole), Some(own));
        let behind = [&whole[..], b", 10.1.2.3"].concat();
        if list == List::XForwardedFor {
            assert_eq!(alone(&behind), Some(own));
        }
    }
}

fn network(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
        let base = text.split('/').next().unwrap().parse().unwrap();
        assert!(contains(&[network], base));
    }
}
