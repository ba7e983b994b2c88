//! Decides which certificates of servers a subscription trusts.
//!
//! There are three cases: the authorities that the system trusts, the certificates in the file of
//! `--cacert`, and any certificate with `--insecure`. The signatures of the handshake are always
//! verified.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::cli::args::SubscribeArgs;

/// Returns the settings of the TLS client. An error is a message for the user.
pub(super) fn client_config(args: &SubscribeArgs) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chains = match (args.insecure, &args.cacert) {
        (true, _) => None,
        (false, Some(path)) => Some(Chains::new(read_certificates(path)?, &provider)?),
        (false, None) => Some(Chains::new(system_certificates()?, &provider)?),
    };
    let verifier = Verifier {
        chains,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![Vec::from(b"http/1.1")];
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |reason: String| format!("--cacert {}: {reason}", path.display());
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(none) if none.is_empty() => Err(failed(String::from("has no certificate in PEM"))),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(
            || String::from("the system has no certificates of authorities"),
            |error| format!("cannot read the certificates of the system: {error}"),
        );
        return Err(format!("<URL>: {reason}; use --cacert FILE"));
    }
    Ok(found.certs)
}

/// Verifies a chain up to one of the trusted certificates.
#[derive(Debug)]
struct Chains {
    trusted: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Chains {
    fn new(
        trusted: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A system has old certificates that rustls cannot parse. The others are still usable.
        let (usable, _ignored) = roots.add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 {
            return Err(String::from("no trusted certificate is valid X.509"));
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        Ok(Self { trusted, verifier })
    }

    /// Verifies a certificate that the user trusts by itself. `openssl req -x509` makes such
    /// certificates. They are also marked as authorities, so a chain never accepts them.
    fn verify_itself(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !self.trusted.contains(certificate) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let (_rest, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_invalid| CertificateError::BadEncoding)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        match seconds {
            early if early < validity.not_before.timestamp() => {
                Err(CertificateError::NotValidYet.into())
            }
            late if late > validity.not_after.timestamp() => Err(CertificateError::Expired.into()),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Verifier {
    /// `None` with `--insecure`: every certificate is accepted.
    chains: Option<Chains>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chains) = &self.chains else {
            return Ok(ServerCertVerified::assertion());
        };
        let verifier = &chains.verifier;
        match verifier.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            Err(error) if is_authority(&error) => {
                chains.verify_itself(certificate, name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Whether a server's certificate was refused because it is marked as an authority.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    let cause = other.0.downcast_ref::<webpki::Error>();
    matches!(cause, Some(webpki::Error::CaUsedAsEndEntity))
}
