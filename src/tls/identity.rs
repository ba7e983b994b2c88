//! The server's certificates and keys by server name, and the verification of client certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::config::ClientAuth;

/// The only protocol that ALPN negotiates (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The contents of the PEM files from which an identity is made.
#[derive(Clone, Default)]
pub struct Material {
    /// Certificate chains, each with its private key. The first pair is for clients that send no
    /// SNI or an unknown server name.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of each pair in metrics, in the order of the pairs. May be shorter than `pairs`.
    pub names: Vec<String>,
    /// The certificates of the authorities that sign client certificates.
    pub client_authorities: Vec<u8>,
    /// Whether clients may or must present a certificate.
    pub client_auth: ClientAuth,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys must not be logged.
        f.debug_struct("Material")
            .field("pairs", &self.pairs.len())
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

/// The reason for which an identity cannot be used. `index` counts the pairs from zero.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no pair of a certificate and a key.
    #[error("there is no certificate")]
    NoCertificate,
    /// A certificate chain cannot be parsed.
    #[error("certificate {index}: {reason}")]
    Certificate {
        /// The index of the certificate and its key, counted from zero.
        index: usize,
        /// The cause, as a text.
        reason: String,
    },
    /// A private key cannot be parsed, or does not belong to its certificate.
    #[error("key {index}: {reason}")]
    Key {
        /// The index of the certificate and its key, counted from zero.
        index: usize,
        /// The cause, as a text.
        reason: String,
    },
    /// The certificates of the client authorities cannot be used.
    #[error("client authorities: {0}")]
    ClientAuthorities(String),
    /// The library has returned another error.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

/// The end of the validity of a certificate chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The name of the pair in [`Material::names`].
    pub name: String,
    /// The earliest time at which a certificate of the chain expires, in seconds since 1970.
    pub unix_s: u64,
}

/// The TLS configuration for new connections.
pub struct Identity {
    pub(super) config: Arc<ServerConfig>,
    expiries: Vec<Expiry>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Makes an identity from PEM texts. If the new identity replaces the identity `former`,
    /// tickets that `former` has issued stay valid.
    ///
    /// # Errors
    /// Returns an [`IdentityError`] if a text cannot be parsed, if a key does not belong to its
    /// certificate, or if there is no pair.
    pub fn new(material: &Material, former: Option<&Self>) -> Result<Self, IdentityError> {
        let names = Names::new(&material.pairs)?;
        let expiries = expiries(material);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = match material.client_auth {
            ClientAuth::Off => config.with_no_client_auth(),
            ClientAuth::Optional | ClientAuth::Required => {
                let roots = authorities(&material.client_authorities)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match material.client_auth {
                    ClientAuth::Required => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build();
                config.with_client_cert_verifier(
                    verifier.map_err(|e| IdentityError::ClientAuthorities(e.to_string()))?,
                )
            }
        };
        let mut config = config.with_cert_resolver(Arc::new(names));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A ticket contains the whole state of its session, so the server stores no sessions. One
        // ticket is enough for a client that opens one connection at a time.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.ticketer = match former {
            Some(former) => Arc::clone(&former.config.ticketer),
            None => ticketer()?,
        };
        let config = Arc::new(config);
        Ok(Self { config, expiries })
    }

    /// Returns the ends of the validity of the certificates that have a name, once for each name.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

/// Returns the end of the validity for each name. If several pairs have one name, for example
/// because the configuration repeats a path, the earliest end is returned.
fn expiries(material: &Material) -> Vec<Expiry> {
    let mut earliest = BTreeMap::new();
    for (name, (chain, _key)) in material.names.iter().zip(&material.pairs) {
        if let Some(unix_s) = expiry(chain) {
            let known = earliest.entry(name).or_insert(unix_s);
            *known = unix_s.min(*known);
        }
    }
    let named = earliest.into_iter();
    let named = named.map(|(name, unix_s)| Expiry {
        name: name.clone(),
        unix_s,
    });
    named.collect()
}

/// Returns the earliest time at which a certificate of a PEM chain expires, in seconds since 1970.
/// Returns `None` if no certificate can be parsed.
fn expiry(chain: &[u8]) -> Option<u64> {
    let certificates = CertificateDer::pem_slice_iter(chain).flatten();
    let ends = certificates.filter_map(|certificate| {
        let (_rest, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    });
    ends.min()
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    aws_lc_rs::Ticketer::new()
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(IdentityError::ClientAuthorities)?;
    }
    if roots.is_empty() {
        let reason = String::from("there is no certificate");
        return Err(IdentityError::ClientAuthorities(reason));
    }
    Ok(roots)
}

/// The certificates, by server name (RFC 6066, 3).
#[derive(Debug)]
struct Names {
    first: Arc<CertifiedKey>,
    /// The certificate for each name in lower case. A name that begins with a dot is a wildcard for
    /// exactly one label before the dot.
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
}

impl Names {
    fn new(pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, IdentityError> {
        let mut first = None;
        let mut by_name = BTreeMap::new();
        for (index, (chain, key)) in pairs.iter().enumerate() {
            let certified = Arc::new(certified(index, chain, key)?);
            for name in names(index, &certified)? {
                // If two certificates have the same name, the earlier certificate is used.
                by_name
                    .entry(name)
                    .or_insert_with(|| Arc::clone(&certified));
            }
            first.get_or_insert(certified);
        }
        let first = first.ok_or(IdentityError::NoCertificate)?;
        Ok(Self { first, by_name })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let dot = name.find('.')?;
            self.by_name.get(name.get(dot..)?)
        })
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(found.unwrap_or(&self.first)))
    }
}

/// Checks that a certificate chain and a private key belong together.
///
/// # Errors
/// Returns the error that [`Identity::new`] would return for this pair.
pub fn check_pair(chain: &[u8], key: &[u8]) -> Result<(), IdentityError> {
    let certified = certified(0, chain, key)?;
    names(0, &certified).map(drop)
}

fn certified(index: usize, chain: &[u8], key: &[u8]) -> Result<CertifiedKey, IdentityError> {
    let bad_chain = |reason: String| IdentityError::Certificate { index, reason };
    let bad_key = |reason: String| IdentityError::Key { index, reason };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| bad_chain(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_chain(String::from(
            "there is no certificate in the PEM text",
        )));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            bad_key(String::from("there is no private key in the PEM text"))
        }
        other => bad_key(other.to_string()),
    })?;
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            bad_key(String::from("it is not the key of the certificate"))
        }
        other => bad_key(other.to_string()),
    })
}

/// Returns the DNS names in a certificate in lower case, without a leading `*`.
fn names(index: usize, certified: &CertifiedKey) -> Result<Vec<String>, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate { index, reason };
    let end_entity = certified.end_entity_cert();
    let end_entity = end_entity.map_err(|error| bad(error.to_string()))?;
    let parsed = rustls::server::ParsedCertificate::try_from(end_entity);
    parsed.map_err(|error| bad(error.to_string()))?;
    let parsed = webpki::EndEntityCert::try_from(end_entity);
    let parsed = parsed.map_err(|error| bad(error.to_string()))?;
    let names = parsed.valid_dns_names();
    Ok(names
        .map(|name| name.trim_start_matches('*').to_ascii_lowercase())
        .collect())
}

/// A self-signed certificate and its private key, as PEM texts.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate in PEM.
    pub certificate: String,
    /// The private key in PEM.
    pub key: String,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfSigned")
    }
}

/// Generates a self-signed certificate for these names and addresses. Such certificates are for
/// tests only.
///
/// # Errors
/// Returns [`IdentityError::Certificate`] if a name is not allowed in a certificate.
pub fn self_signed(names: Vec<String>) -> Result<SelfSigned, IdentityError> {
    let made = rcgen::generate_simple_self_signed(names);
    let made = made.map_err(|error| IdentityError::Certificate {
        index: 0,
        reason: error.to_string(),
    })?;
    Ok(SelfSigned {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    })
}
