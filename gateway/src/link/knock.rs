//! A look at our own listener from outside: a stranger's dial, which must see our certificate and be refused.
//!
//! It is an ordinary dial with two differences: it shows a certificate that was made for it and that nobody trusts,
//! and it takes one certificate only, ours. So it goes as far as a peer's dial with a wrong certificate goes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::Endpoint;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::directory::{Directory, PeerRecord, PeerState, Trust};
use trunkline_gateway_proto::pin::{Pin, PinSet};
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::time::Time;

use super::end::CERTIFICATE_REFUSED;
use super::listen::LinkConfig;
use super::tls::{self, Refusal};
use super::{Transport, quic, tcp};

/// How long a handshake may take. Our own port is near, or not there.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);

/// How long the refusal may take after the handshake: over QUIC it comes a round trip later.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// The only peer in a stranger's directory: ourselves.
const OURSELVES: PeerKey = PeerKey(0);

/// The name in the certificate that nobody trusts.
const STRANGER: &str = "stranger.invalid";

/// Who answers, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It showed our certificate and refused the stranger's: as it should be.
    Refused,
    /// It showed our certificate and let the stranger in.
    LetIn,
    /// It showed another certificate than ours.
    Another(Pin),
    /// Nobody answers, or it is not a gateway.
    Unreachable(String),
}

/// A stranger, who knows what our certificate must be.
#[derive(Debug)]
pub struct Stranger {
    domain: Domain,
    directory: Arc<ArcSwap<Directory>>,
    certificate: Arc<SingleCertAndKey>,
    config: LinkConfig,
}

/// How often a connection is tried that ends without a reason, and how that reads. On a busy machine several in a row do.
const ATTEMPTS: usize = 10;
const RESET: &str = "connection reset";

impl Stranger {
    /// Who expects the certificate with this pin from the gateway of `domain`. Makes a certificate, which takes a moment.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn new(domain: &Domain, pin: Pin) -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed([STRANGER.to_owned()]);
        let made = made.map_err(|error| format!("no certificate could be made: {error}"))?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| format!("the certificate's key is of no use: {error}"))?;
        let certified = CertifiedKey::new(vec![made.cert.der().clone()], signer);
        let mut directory = Directory::default();
        directory.put_peer(PeerRecord {
            state: PeerState::Active,
            trust: Trust::Pinned { pins: PinSet::current(pin) },
            ..PeerRecord::new(OURSELVES, domain.clone(), Time::default())
        });
        Ok(Self {
            domain: domain.clone(),
            directory: Arc::new(ArcSwap::from_pointee(directory)),
            certificate: Arc::new(SingleCertAndKey::from(certified)),
            config: LinkConfig { handshake_timeout: HANDSHAKE_WITHIN, ..LinkConfig::default() },
        })
    }

    /// Dials an address, and says who answers.
    pub async fn knock(&self, address: SocketAddr, transport: Transport) -> Answer {
        let refusal = Arc::new(OnceLock::new());
        let crypto = tls::client_config(
            Arc::clone(&self.certificate),
            Arc::clone(&self.directory),
            OURSELVES,
            Arc::clone(&refusal),
        );
        let came_to = match transport {
            Transport::Quic => self.over_quic(address, crypto, &refusal).await,
            Transport::Tcp => {
                let mut came_to = self.over_tcp(address, crypto.clone(), &refusal).await;
                for _ in 1..ATTEMPTS {
                    // Whoever refuses us closes at once, and what we sent meanwhile can overtake the reason.
                    if !came_to.as_ref().is_err_and(|reason| reason.contains(RESET)) {
                        break;
                    }
                    came_to = self.over_tcp(address, crypto.clone(), &refusal).await;
                }
                came_to
            }
        };
        match (came_to, refusal.get()) {
            (_, Some(Refusal::Pin { pin, .. })) => Answer::Another(*pin),
            (Ok(()), _) => Answer::LetIn,
            (Err(reason), _) if reason == CERTIFICATE_REFUSED => Answer::Refused,
            (Err(reason), _) => Answer::Unreachable(reason),
        }
    }

    async fn over_quic(
        &self,
        address: SocketAddr,
        crypto: rustls::ClientConfig,
        refusal: &OnceLock<Refusal>,
    ) -> Result<(), String> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint =
            Endpoint::client(any).map_err(|error| format!("no UDP socket to dial from: {error}"))?;
        let name = self.domain.as_str();
        let connection = quic::establish(&self.config, &endpoint, crypto, name, address, refusal).await?;
        // Our side is done before the other side has seen the stranger's certificate.
        let came_to = match tokio::time::timeout(REFUSED_WITHIN, connection.closed()).await {
            Ok(error) => Err(quic::explain(&error, None)),
            Err(_) => Ok(()),
        };
        connection.close(quic::CODE_DONE, b"");
        came_to
    }

    async fn over_tcp(
        &self,
        address: SocketAddr,
        crypto: rustls::ClientConfig,
        refusal: &OnceLock<Refusal>,
    ) -> Result<(), String> {
        let name = self.domain.as_str();
        let dial = tcp::establish(&self.config, &self.directory, crypto, name, address, refusal);
        match tokio::time::timeout(HANDSHAKE_WITHIN + REFUSED_WITHIN, Box::pin(dial)).await {
            Ok(came_to) => came_to.map(drop),
            Err(_) => Err("no answer: nothing listens there, or a firewall is in between".to_owned()),
        }
    }
}
