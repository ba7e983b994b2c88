//! A server with TLS, and a client of the library's own that trusts it.

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

/// A client's end of a secured connection.
pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Certificate files.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// The chain.
    pub(crate) path: PathBuf,
    /// The private key.
    pub(crate) key: PathBuf,
    made: SelfSigned,
}

impl Certificate {
    /// Makes one for `localhost` and writes its files.
    pub(crate) fn make(folder: &Path, name: &str) -> Self {
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let made = self_signed(names.into()).unwrap();
        let certificate = Self {
            path: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            made,
        };
        certificate.write_as(&certificate);
        certificate
    }

    /// Writes this one into the other's files.
    pub(crate) fn write_as(&self, other: &Self) {
        fs::write(&other.path, &self.made.certificate).unwrap();
        fs::write(&other.key, &self.made.key).unwrap();
    }

    /// What a server's file says for it.
    pub(crate) fn config(&self) -> String {
        format!(
            "[tls]\ncertificates = [{:?}]\nkeys = [{:?}]\n",
            self.path, self.key
        )
    }

    /// A client that trusts it.
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

    /// Whether a server shows it now.
    pub(crate) fn is_shown_at(&self, addr: SocketAddr) -> bool {
        let mut stream = secured(addr, &self.trusting());
        stream.conn.complete_io(&mut stream.sock).is_ok()
    }
}

/// A connection whose handshake is still to come.
pub(crate) fn secured(addr: SocketAddr, config: &Arc<ClientConfig>) -> Secured {
    secured_over(connect(addr), config)
}

/// The same over a connection that is there.
pub(crate) fn secured_over(stream: TcpStream, config: &Arc<ClientConfig>) -> Secured {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(client, stream)
}

/// Where a server speaks TLS.
pub(crate) fn tls_addr(server: &Server) -> SocketAddr {
    address(&server.ready, " https://")
}
