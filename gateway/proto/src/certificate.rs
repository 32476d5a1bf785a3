//! X.509 certificates, as far as peering and operators look into them.
//!
//! TLS itself checks signatures and chains. This reads what is pinned, compared and shown.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use thiserror::Error;
use trunkline_common::ids::Domain;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::pin::Pin;
use crate::time::Time;

/// Longest certificate in bytes of DER that is looked at. Real ones take 400 to 3,000; more is work for nothing.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// What people and checks want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its key's pin.
    pub pin: Pin,
    /// DNS names of its subject alternative name, as they are written.
    pub dns_names: Vec<String>,
    /// From when it is valid.
    pub not_before: Time,
    /// Until when it is valid.
    pub not_after: Time,
    /// Its subject, for people.
    pub subject: String,
    /// Its issuer, for people.
    pub issuer: String,
    /// The uncompressed point of its key, when that is ECDSA P-256.
    p256: Option<Vec<u8>>,
}

/// Why a certificate cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Longer than [`CERTIFICATE_BYTES_MAX`].
    #[error("certificate longer than {CERTIFICATE_BYTES_MAX} bytes")]
    TooLong,
    /// Not DER of one X.509 certificate.
    #[error("not an X.509 certificate in DER")]
    Der,
    /// No PEM block of a certificate.
    #[error("no PEM certificate: expected a block that starts with -----BEGIN CERTIFICATE-----")]
    Pem,
    /// Its key cannot check the signature.
    #[error("the certificate's key is not ECDSA P-256: make one with `trunkline-gateway init`")]
    Key,
    /// The signature was not made with its key, or not over this message.
    #[error("the signature does not match the certificate's key")]
    Signature,
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// When `der` is not one certificate of sane length.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Der)?;
        if !rest.is_empty() {
            return Err(CertificateError::Der);
        }
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Der)?;
        let dns_names = names.map_or_else(Vec::new, |names| {
            let dns = |name: &GeneralName<'_>| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            };
            names.value.general_names.iter().filter_map(dns).collect()
        });
        let validity = certificate.validity();
        Ok(Self {
            pin: Pin::of_spki(certificate.public_key().raw),
            dns_names,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            p256: p256_point(certificate.public_key()),
        })
    }

    /// Reads the first certificate of a PEM text, and gives its DER too.
    ///
    /// # Errors
    /// When there is none, or it does not parse.
    pub fn parse_pem(pem: &str) -> Result<(Self, Vec<u8>), CertificateError> {
        let block = Pem::iter_from_buffer(pem.as_bytes())
            .map_while(Result::ok)
            .find(|block| block.label == "CERTIFICATE")
            .ok_or(CertificateError::Pem)?;
        Ok((Self::parse(&block.contents)?, block.contents))
    }

    /// Whether its subject alternative name has exactly this domain. A wildcard names nobody in particular.
    #[must_use]
    pub fn names(&self, domain: &Domain) -> bool {
        self.dns_names.iter().any(|name| name.eq_ignore_ascii_case(domain.as_str()))
    }

    /// Checks an ECDSA P-256 SHA-256 signature in ASN.1.
    ///
    /// # Errors
    /// When the key is of another kind, or the signature is not its.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), CertificateError> {
        let point = self.p256.as_ref().ok_or(CertificateError::Key)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(message, signature)
            .map_err(|_| CertificateError::Signature)
    }
}

fn p256_point(key: &SubjectPublicKeyInfo<'_>) -> Option<Vec<u8>> {
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let is_p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256;
    is_p256.then(|| key.subject_public_key.data.to_vec())
}

/// Seconds since the epoch, where anything before it is as old as can be.
fn time(unix_s: i64) -> Time {
    Time::from_unix_ms(u64::try_from(unix_s).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(name: &str) -> (KeyPair, rcgen::Certificate) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (key, certificate)
    }

    #[test]
    fn a_certificate_shows_its_pin_names_and_validity() {
        let (_, certificate) = made("Alpha.test");
        let read = Certificate::parse(certificate.der()).unwrap();
        assert_eq!(read.pin, Pin::of_certificate(certificate.der()).unwrap());
        assert!(read.names(&"alpha.test".parse().unwrap()));
        assert!(!read.names(&"beta.test".parse().unwrap()));
        assert!(read.not_before < read.not_after);
        assert_eq!(Certificate::parse_pem(&certificate.pem()).unwrap().0, read);
    }

    #[test]
    fn a_wildcard_names_no_domain() {
        let (_, certificate) = made("*.alpha.test");
        let read = Certificate::parse(certificate.der()).unwrap();
        assert!(!read.names(&"gate.alpha.test".parse().unwrap()));
    }

    #[test]
    fn a_certificate_cut_or_changed_anywhere_is_an_error_or_another_certificate_never_a_panic() {
        let (_, certificate) = made("alpha.test");
        let der = certificate.der();
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_err());
            let mut changed = der.to_vec();
            changed[cut] ^= 0xff;
            let _ = Certificate::parse(&changed);
        }
        assert_eq!(
            Certificate::parse(&vec![0x30; CERTIFICATE_BYTES_MAX + 1]),
            Err(CertificateError::TooLong)
        );
    }

    #[test]
    fn text_without_a_certificate_is_refused() {
        let (key, _) = made("alpha.test");
        for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA", &key.serialize_pem()] {
            assert_eq!(Certificate::parse_pem(text), Err(CertificateError::Pem));
        }
    }
}
