//! Who is a replica of this deployment: whoever holds its deployment key.
//!
//! Every replica derives the same Ed25519 key from it, and shows a certificate for that key; each side takes no other
//! key. Whoever has the deployment key and reaches the database can read the store anyway, so this trusts nobody new.

use std::io;
use std::sync::Arc;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, ServerConfig, version};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use trunkline_gateway_proto::certificate::Certificate;
use trunkline_gateway_proto::pin::Pin;
use trunkline_tls::Verifier;
use zeroize::Zeroizing;

/// What replicas speak (RFC 7301).
const ALPN: &[u8] = b"trunkline-replica/1";

/// What the key is derived for (RFC 5869, "info").
const INFO: &[u8] = b"trunkline replica 1";

/// The name in the certificate, which nobody looks at.
pub(super) const NAME: &str = "replica.invalid";

/// A key or certificate could not be made. It is no setting's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the key that replicas know each other by cannot be made: {0}")]
pub struct TrustError(String);

/// TLS 1.3 both ways between replicas of one deployment.
#[derive(Clone)]
pub struct Trust {
    server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl Trust {
    /// Of the deployment that this key belongs to.
    ///
    /// # Errors
    /// When the key's certificate cannot be made.
    pub fn of(deployment_key: &[u8; 32]) -> Result<Self, TrustError> {
        let key = derive(deployment_key)?;
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.as_slice())).map_err(failed)?;
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(failed)?;
        let certificate = params.self_signed(&pair).map_err(failed)?.der().clone();
        let ours = Certificate::parse(&certificate).map_err(failed)?.pin;
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let crypto = Arc::new(provider::default_provider());
        let same = same_key(ours, Arc::clone(&crypto));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&crypto))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(Arc::clone(&same) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(vec![certificate.clone()], key())
            .map_err(failed)?;
        let mut client = ClientConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(same)
            .with_client_auth_cert(vec![certificate], key())
            .map_err(failed)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl Trust {
    /// For accepting replicas.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

/// Why no connection to another replica came about, by what its TLS handshake failed with.
pub(super) fn refusal(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let another_key = rustls::Error::from(CertificateError::ApplicationVerificationFailure);
    if tls == Some(&another_key) {
        "it has another deployment key than this one: configure the same for all replicas (deployment_key_file), or, \
         if it is another deployment's, the right replica.advertise"
            .to_owned()
    } else {
        format!("{error}; is it a replica of this deployment?")
    }
}

fn failed(error: impl std::fmt::Display) -> TrustError {
    TrustError(error.to_string())
}

/// The key of all replicas, as PKCS#8.
fn derive(deployment_key: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    let unspecified = |_| failed("derivation failed");
    let mut seed = Zeroizing::new([0; 32]);
    let pseudorandom = Salt::new(HKDF_SHA256, &[]).extract(deployment_key);
    pseudorandom.expand(&[INFO], HKDF_SHA256).map_err(unspecified)?.fill(&mut *seed).map_err(unspecified)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(failed)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(unspecified)?;
    Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
}

/// Lets in who shows, and proves to hold, this key.
fn same_key(
    ours: Pin,
    crypto: Arc<CryptoProvider>,
) -> Arc<impl ServerCertVerifier + ClientCertVerifier + 'static> {
    Verifier::new(crypto, move |shown, _, _| match Certificate::parse(shown) {
        Ok(certificate) if certificate.pin == ours => Ok(()),
        Ok(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    })
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, ServerName};
    use tokio::io::duplex;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Whether the two sides let each other in, and what the client says if not.
    async fn meet(server: &Trust, client: Arc<ClientConfig>) -> Result<(), String> {
        let (near, far) = duplex(64 * 1024);
        let accepted = TlsAcceptor::from(Arc::clone(&server.server)).accept(far);
        let name = ServerName::try_from(NAME).unwrap();
        let connected = TlsConnector::from(client).connect(name, near);
        let (accepted, connected) = tokio::join!(accepted, connected);
        connected.map(drop).map_err(|error| refusal(&error))?;
        accepted.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn holders_of_one_deployment_key_let_each_other_in_and_nobody_else() {
        let (ours, again) = (Trust::of(&[7; 32]).unwrap(), Trust::of(&[7; 32]).unwrap());
        assert_eq!(meet(&ours, Arc::clone(&again.client)).await, Ok(()));
        let other = Trust::of(&[8; 32]).unwrap();
        for (server, client) in [(&ours, &other), (&other, &ours)] {
            let refused = meet(server, Arc::clone(&client.client)).await.unwrap_err();
            assert!(refused.contains("another deployment key"), "{refused}");
        }
    }

    #[tokio::test]
    async fn who_shows_no_certificate_stays_outside() {
        let ours = Trust::of(&[7; 32]).unwrap();
        let provider = Arc::new(provider::default_provider());
        let mut nobody = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(same_key(
                Certificate::parse(&certificate_of(&[7; 32])).unwrap().pin,
                provider,
            ))
            .with_no_client_auth();
        nobody.alpn_protocols = vec![ALPN.to_vec()];
        assert!(meet(&ours, Arc::new(nobody)).await.is_err());
    }

    fn certificate_of(key: &[u8; 32]) -> CertificateDer<'static> {
        let key = derive(key).unwrap();
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.as_slice())).unwrap();
        CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&pair).unwrap().der().clone()
    }
}
