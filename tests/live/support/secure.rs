//! Certificates for a server, and a rustls client that trusts them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fanfare::tls::{SelfSigned, self_signed};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::raw::connect;
use super::{Server, address};

/// The client's side of a TLS connection.
pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A certificate with its files.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// The path of the certificate chain.
    pub(crate) path: PathBuf,
    /// The path of the private key.
    pub(crate) key: PathBuf,
    made: SelfSigned,
}

impl Certificate {
    /// Creates a certificate for `localhost` and writes its files.
    pub(crate) fn make(folder: &Path, name: &str) -> Self {
        Self::make_for(&["localhost", "127.0.0.1"], folder, name)
    }

    /// Creates a certificate for these hosts and writes its files.
    pub(crate) fn make_for(hosts: &[&str], folder: &Path, name: &str) -> Self {
        let hosts = hosts.iter().copied().map(String::from);
        let made = self_signed(hosts.collect()).unwrap();
        let certificate = Self {
            path: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            made,
        };
        certificate.write_as(&certificate);
        certificate
    }

    /// Overwrites the files of another certificate with this certificate.
    pub(crate) fn write_as(&self, other: &Self) {
        fs::write(&other.path, &self.made.certificate).unwrap();
        fs::write(&other.key, &self.made.key).unwrap();
    }

    /// Returns a `[tls]` section that names this certificate.
    pub(crate) fn config(&self) -> String {
        format!(
            "[tls]\ncertificates = [{:?}]\nkeys = [{:?}]\n",
            self.path, self.key
        )
    }

    /// Returns the settings of a client that trusts this certificate.
    pub(crate) fn trusting(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.made.certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Whether a handshake with the server succeeds for a client that trusts only this certificate.
    pub(crate) fn is_shown_at(&self, addr: SocketAddr) -> bool {
        let mut stream = secured(addr, &self.trusting());
        stream.conn.complete_io(&mut stream.sock).is_ok()
    }
}

/// Returns a TLS connection on which no handshake message has been sent yet.
pub(crate) fn secured(addr: SocketAddr, config: &Arc<ClientConfig>) -> Secured {
    secured_over(connect(addr), config)
}

/// Returns a TLS session over an open connection.
pub(crate) fn secured_over(stream: TcpStream, config: &Arc<ClientConfig>) -> Secured {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(client, stream)
}

/// Returns the address of the server's TLS listener.
pub(crate) fn tls_addr(server: &Server) -> SocketAddr {
    address(&server.ready, " https://")
}
