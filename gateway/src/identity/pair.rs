//! A key with its certificate, ready for handshakes.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::certificate::{Certificate, CertificateError};
use trunkline_gateway_proto::identity::PemPair;
use trunkline_gateway_proto::pin::Pin;
use zeroize::Zeroizing;

use super::files::read_file;
use super::{Files, IdentityError};

/// A key with its certificate.
#[derive(Debug)]
pub struct KeyPair {
    pub(super) certified: Arc<CertifiedKey>,
    /// What people and checks want to know of the certificate.
    pub certificate: Certificate,
    pem: PemPair,
}

impl KeyPair {
    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |certificate| certificate.as_ref())
    }

    /// The pin that peers know it by.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.certificate.pin
    }

    /// What TLS shows and signs with.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// Both as text: a secret.
    #[must_use]
    pub fn pem(&self) -> &PemPair {
        &self.pem
    }

    /// Reads a pair and checks that it is one.
    pub(super) fn read(files: &Files) -> Result<Self, IdentityError> {
        let key = Zeroizing::new(read_file(&files.key)?);
        let key = String::from_utf8_lossy(&key).into_owned();
        let certificate = String::from_utf8_lossy(&read_file(&files.certificate)?).into_owned();
        Self::parse(PemPair { key, certificate }, files)
    }

    /// From text; `files` is where that rests, for what is said of it.
    pub(super) fn parse(pem: PemPair, files: &Files) -> Result<Self, IdentityError> {
        let refused = |source| IdentityError::Certificate { path: files.certificate.clone(), source };
        let (certificate, _) = Certificate::parse_pem(&pem.certificate).map_err(refused)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| refused(CertificateError::Pem))?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
            .map_err(|_| IdentityError::Key(files.key.clone()))?;
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|_| IdentityError::Key(files.key.clone()))?;
        if signer.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_none() {
            return Err(IdentityError::KeyKind(files.key.clone()));
        }
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| IdentityError::Mismatch {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
        })?;
        Ok(Self { certified: Arc::new(certified), certificate, pem })
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// Makes a self-signed pair. It never expires (RFC 5280, section 4.1.2.5): what ends it is a rotation.
pub(super) fn generate(domain: &Domain) -> Result<PemPair, IdentityError> {
    let failed =
        |error: rcgen::Error| IdentityError::Generate { domain: domain.clone(), reason: error.to_string() };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new([domain.as_str().to_owned()]).map_err(failed)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, domain.as_str());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(PemPair { key: key.serialize_pem(), certificate: certificate.pem() })
}
