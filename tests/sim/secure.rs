//! TLS of the simulated network: the worker's identity, and the peer's end of a pipe.
//!
//! The key and the certificate are fixed, and all their signatures have the same length. So the
//! same seed has the same outcome, although every handshake uses different random keys.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, LazyLock};

use fanfare::tls::{Identity, Material};
use fanfare::worker::reloadable::Reloadable;
use fanfare::worker::wire::tls::Secure;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const CERTIFICATE: &[u8] = include_bytes!("secure.pem");
const KEY: &[u8] = include_bytes!("secure.key");

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

/// Returns the TLS settings of a worker. `listeners` is a bit set of the listeners with TLS.
pub(crate) fn secure(listeners: u64) -> Secure {
    if listeners == 0 {
        return Secure::default();
    }
    let material = Material {
        pairs: vec![(CERTIFICATE.to_vec(), KEY.to_vec())],
        ..Material::default()
    };
    let identity = Identity::new(&material, None).expect("an identity");
    Secure {
        listeners,
        identity: Arc::new(Reloadable::new(Some(Arc::new(identity)))),
    }
}

/// The peer's end of TLS.
#[derive(Debug)]
pub(crate) struct PeerEnd(ClientConnection);

impl PeerEnd {
    pub(crate) fn new() -> Self {
        let name = ServerName::try_from("sim.test").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&CONFIG), name).expect("a client");
        client.set_buffer_limit(None);
        Self(client)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Accepts plaintext. The plaintext is sent now, or when the handshake is done.
    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        self.0.writer().write_all(plaintext).expect("room");
    }

    /// If the handshake is done, updates the peer's key and requests a key update from the server.
    pub(crate) fn change_keys(&mut self) {
        drop(self.0.refresh_traffic_keys());
    }

    /// Returns the encrypted bytes that are to be sent.
    pub(crate) fn sealed(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed).expect("room");
        }
        sealed
    }

    /// Decrypts received bytes.
    pub(crate) fn open(&mut self, mut sealed: &[u8], into: &mut Vec<u8>) {
        while !sealed.is_empty() {
            self.0.read_tls(&mut sealed).expect("room");
            let state = self.0.process_new_packets();
            let count = state.expect("valid records").plaintext_bytes_to_read();
            let begin = into.len();
            into.resize(begin + count, 0);
            self.0
                .reader()
                .read_exact(&mut into[begin..])
                .expect("plaintext");
        }
    }
}
