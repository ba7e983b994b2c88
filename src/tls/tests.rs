//! Tests of a filter that is connected in memory to the client of rustls.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::config::ClientAuth;

fn made(name: &str) -> SelfSigned {
    self_signed(vec![String::from(name)]).unwrap()
}

fn material(made: &[&SelfSigned]) -> Material {
    let pairs = made.iter().map(|one| {
        (
            one.certificate.clone().into_bytes(),
            one.key.clone().into_bytes(),
        )
    });
    Material {
        pairs: pairs.collect(),
        ..Material::default()
    }
}

fn trusting(made: &[&SelfSigned]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for one in made {
        let certificate = CertificateDer::from_pem_slice(one.certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A TLS client and the server's filter, connected in memory.
struct Pair {
    client: ClientConnection,
    filter: Filter,
    /// Plaintext that the client has received.
    received: Vec<u8>,
    /// The maximum number of bytes that the filter receives in one call.
    slice: usize,
}

impl Pair {
    fn new(identity: &Identity, config: &Arc<ClientConfig>, name: &'static str) -> Self {
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
        client.set_buffer_limit(None);
        Self {
            client,
            filter: Filter::new(identity).unwrap(),
            received: Vec::new(),
            slice: usize::MAX,
        }
    }

    /// Moves bytes in both directions until neither side has bytes to send.
    fn settle(&mut self) -> Result<(), TlsError> {
        loop {
            let mut up = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut up).unwrap();
            }
            let down = self.filter.unsent().to_vec();
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            for slice in up.chunks_mut(self.slice.min(1 << 20)) {
                self.filter.receive(slice)?;
            }
            self.filter.advance(down.len());
            let mut down = down.as_slice();
            while !down.is_empty() {
                self.client.read_tls(&mut down).unwrap();
                let state = self.client.process_new_packets().unwrap();
                let mut got = vec![0; state.plaintext_bytes_to_read()];
                self.client.reader().read_exact(&mut got).unwrap();
                self.received.extend(got);
            }
        }
    }

    fn send_from_client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        self.settle().unwrap();
        self.filter.take_plain()
    }

    fn send_from_filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert_eq!(self.filter.seal(bytes).unwrap(), bytes.len());
        self.settle().unwrap();
        std::mem::take(&mut self.received)
    }
}

#[test]
fn plaintext_arrives_unchanged_at_every_cut() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        for slice in [1, 7, 1000, usize::MAX] {
            let mut pair = Pair::new(&identity, &config, "a.test");
            pair.slice = slice;
            pair.settle().unwrap();
            assert!(!pair.filter.is_handshaking());
            let long: Vec<u8> = (0..50_000_u32).flat_map(u32::to_be_bytes).collect();
            assert_eq!(pair.send_from_client(b"ping"), b"ping");
            assert_eq!(pair.send_from_client(&long), long);
            assert_eq!(pair.send_from_filter(b"pong"), b"pong");
            assert_eq!(pair.send_from_filter(&long), long);
        }
    }
}

#[test]
fn idle_filter_holds_no_buffers() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let mut pair = Pair::new(&identity, &Arc::new(trusting(&[&own])), "a.test");
    pair.settle().unwrap();
    drop(pair.send_from_client(b"GET / HTTP/1.1\r\n\r\n"));
    drop(pair.send_from_filter(b"HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(pair.filter.buffer_bytes(), 0);
}

#[test]
fn nothing_is_sealed_during_the_handshake() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let mut filter = Filter::new(&identity).unwrap();
    assert_eq!(filter.seal(b"early").unwrap(), 0);
    assert!(filter.unsent().is_empty());
}

#[test]
fn peer_that_has_sent_close_notify_can_still_receive() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let mut pair = Pair::new(&identity, &Arc::new(trusting(&[&own])), "a.test");
    pair.settle().unwrap();
    pair.client.send_close_notify();
    pair.settle().unwrap();
    assert!(pair.filter.is_peer_done());
    assert_eq!(pair.send_from_filter(b"still"), b"still");
    pair.filter.close();
    pair.settle().unwrap();
    let mut rest = Vec::new();
    assert_eq!(pair.client.reader().read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn filter_seals_while_half_a_message_is_received() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let mut pair = Pair::new(&identity, &Arc::new(trusting(&[&own])), "a.test");
    pair.settle().unwrap();
    pair.client.refresh_traffic_keys().unwrap();
    let mut update = Vec::new();
    pair.client.write_tls(&mut update).unwrap();
    let middle = update.len() / 2;
    let (half, rest) = update.split_at_mut(middle);
    pair.filter.receive(half).unwrap();
    assert_eq!(pair.send_from_filter(b"meanwhile"), b"meanwhile");
    pair.filter.receive(rest).unwrap();
    assert_eq!(pair.send_from_client(b"with new keys"), b"with new keys");
    assert_eq!(pair.send_from_filter(b"good"), b"good");
}

#[test]
fn garbage_is_an_error_with_an_alert() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let mut filter = Filter::new(&identity).unwrap();
    let mut request = *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(filter.receive(&mut request).is_err());
    assert!(filter.unsent().starts_with(&[21, 3]), "an alert's record");
}

#[test]
fn certificate_is_selected_by_server_name() {
    let (one, two) = (made("one.test"), made("*.two.test"));
    let identity = Identity::new(&material(&[&one, &two]), None).unwrap();
    let config = Arc::new(trusting(&[&one, &two]));
    for (name, own) in [
        ("one.test", &one),
        ("x.two.test", &two),
        ("X.TWO.test", &two),
    ] {
        let mut pair = Pair::new(&identity, &config, name);
        pair.settle().unwrap();
        let shown = &pair.client.peer_certificates().unwrap()[0];
        let expected = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
        assert_eq!(shown, &expected, "{name}");
    }
}

#[test]
fn ticket_resumes_also_after_the_identity_is_replaced() {
    let own = made("a.test");
    let identity = Identity::new(&material(&[&own]), None).unwrap();
    let config = Arc::new(trusting(&[&own]));
    let mut first = Pair::new(&identity, &config, "a.test");
    first.settle().unwrap();
    assert!(!first.filter.is_resumed());
    drop(first.send_from_filter(b"x"));
    let next = Identity::new(&material(&[&own]), Some(&identity)).unwrap();
    let mut again = Pair::new(&next, &config, "a.test");
    again.settle().unwrap();
    assert!(again.filter.is_resumed());
}

#[test]
fn client_without_a_certificate_is_refused_if_one_is_required() {
    let own = made("a.test");
    let mut material = material(&[&own]);
    material.client_authorities = own.certificate.clone().into_bytes();
    for (client_auth, is_accepted) in [
        (ClientAuth::Off, true),
        (ClientAuth::Optional, true),
        (ClientAuth::Required, false),
    ] {
        material.client_auth = client_auth;
        let identity = Identity::new(&material, None).unwrap();
        let mut pair = Pair::new(&identity, &Arc::new(trusting(&[&own])), "a.test");
        assert_eq!(pair.settle().is_ok(), is_accepted, "{client_auth:?}");
    }
}

#[test]
fn bad_material_is_refused_with_a_reason() {
    let (one, two) = (made("one.test"), made("two.test"));
    let good = material(&[&one]);
    let (certificate, key) = good.pairs[0].clone();
    let other_key = two.key.into_bytes();
    for (pairs, reason) in [
        (vec![], "no certificate"),
        (vec![(b"hello".to_vec(), key.clone())], "certificate 0"),
        (vec![(certificate.clone(), b"hello".to_vec())], "key 0"),
        (
            vec![(certificate.clone(), key), (certificate, other_key)],
            "key 1",
        ),
    ] {
        let material = Material {
            pairs,
            ..Material::default()
        };
        let error = Identity::new(&material, None).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn repeated_name_has_one_expiry() {
    let made = self_signed(vec![String::from("a.example")]).unwrap();
    let mut material = material(&[&made, &made, &made]);
    material.names = ["a.pem", "b.pem", "a.pem"].map(String::from).into();
    let identity = Identity::new(&material, None).unwrap();
    let names: Vec<_> = identity.expiries().iter().map(|one| &one.name).collect();
    assert_eq!(names, ["a.pem", "b.pem"]);
}
