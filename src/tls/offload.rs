//! What the kernel has to know to go on with a conn's records itself: the keys and the place in the
//! sequence of both directions, in the shape of `struct tls_crypto_info` (`linux/tls.h`,
//! Documentation/networking/tls.rst).
//!
//! Pure: the shell hands the bytes to a socket. TLS 1.3 only: in TLS 1.2 the sender chooses a part
//! of each nonce, and the library and the kernel choose it in different ways, so that one might
//! repeat what the other has used.

use std::fmt;

use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use super::TlsError;

/// `TLS_1_3_VERSION`.
const VERSION: u16 = 0x0304;

/// How many bytes of a nonce the kernel takes as a salt where the cipher has one (RFC 5288, 3).
const SALT_BYTES: usize = 4;

/// The keys of one direction, as the kernel reads them. Wiped when dropped.
pub struct CryptoInfo(Zeroizing<Vec<u8>>);

impl CryptoInfo {
    /// The structure's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, TlsError> {
        use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
        let (cipher, key, nonce, salt_bytes) = match secrets {
            Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv, SALT_BYTES),
            Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv, SALT_BYTES),
            Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv, 0),
            _ => return Err(rustls::Error::General(String::from("unknown cipher")).into()),
        };
        let (salt, nonce) = nonce.as_ref().split_at(salt_bytes);
        let parts = [nonce, key.as_ref(), salt];
        Ok(Self::layout(cipher, parts, sequence))
    }

    fn layout(cipher: Cipher, parts: [&[u8]; 3], sequence: u64) -> Self {
        // As long as it gets, so that no half of a key is left behind in memory given back.
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(&VERSION.to_ne_bytes());
        bytes.extend_from_slice(&(cipher as u16).to_ne_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&sequence.to_be_bytes());
        Self(bytes)
    }

    /// One of each cipher that a conn may come to, with keys that are worth nothing: to ask a
    /// kernel what it knows.
    #[must_use]
    pub fn samples() -> [Self; 3] {
        [
            Self::layout(Cipher::Aes128Gcm, [&[0; 8], &[0; 16], &[0; SALT_BYTES]], 0),
            Self::layout(Cipher::Aes256Gcm, [&[0; 8], &[0; 32], &[0; SALT_BYTES]], 0),
            Self::layout(Cipher::Chacha20Poly1305, [&[0; 12], &[0; 32], &[]], 0),
        ]
    }
}

impl fmt::Debug for CryptoInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The keys are nobody's business.
        f.debug_struct("CryptoInfo").finish_non_exhaustive()
    }
}

/// `TLS_CIPHER_*` of `linux/tls.h`.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Cipher {
    Aes128Gcm = 51,
    Aes256Gcm = 52,
    Chacha20Poly1305 = 54,
}

/// The keys of a conn whose filter has ended, for the kernel to go on with.
#[derive(Debug)]
pub struct Offload {
    /// For what is written.
    pub transmit: CryptoInfo,
    /// For what is read.
    pub receive: CryptoInfo,
}

impl Offload {
    pub(super) fn new(secrets: &rustls::ExtractedSecrets) -> Result<Self, TlsError> {
        let (transmitted, transmit) = &secrets.tx;
        let (received, receive) = &secrets.rx;
        Ok(Self {
            transmit: CryptoInfo::new(*transmitted, transmit)?,
            receive: CryptoInfo::new(*received, receive)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_has_the_kernels_layout_and_length() {
        // struct tls12_crypto_info_aes_gcm_128, ..._256 and ..._chacha20_poly1305.
        assert_eq!(CryptoInfo::samples().map(|info| info.0.len()), [40, 56, 56]);
        let parts: [&[u8]; 3] = [&[1; 8], &[2; 16], &[3; 4]];
        let info = CryptoInfo::layout(Cipher::Aes128Gcm, parts, 0x0102);
        let bytes = info.as_bytes();
        assert_eq!(bytes[..2], 0x0304_u16.to_ne_bytes());
        assert_eq!(bytes[2..4], 51_u16.to_ne_bytes());
        assert_eq!(
            (&bytes[4..12], &bytes[12..28], &bytes[28..32]),
            (parts[0], parts[1], parts[2])
        );
        assert_eq!(bytes[32..], [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn nonce_is_split_into_salt_and_rest() {
        let iv = rustls::crypto::cipher::Iv::new(std::array::from_fn(|n| n as u8));
        let key = rustls::crypto::cipher::AeadKey::from([7; 32]);
        let secrets = ConnectionTrafficSecrets::Aes256Gcm { key, iv };
        let info = CryptoInfo::new(5, &secrets).unwrap();
        let bytes = info.as_bytes();
        assert_eq!(bytes[4..12], [4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(bytes[12..44], [7; 32]);
        assert_eq!(bytes[44..48], [0, 1, 2, 3]);
        assert_eq!(bytes[55], 5);
    }

    #[test]
    fn keys_are_not_shown() {
        let [info, ..] = CryptoInfo::samples();
        assert_eq!(format!("{info:?}"), "CryptoInfo { .. }");
    }
}
