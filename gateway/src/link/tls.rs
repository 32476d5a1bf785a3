//! TLS 1.3 both ways, without tickets, resumption or early data: each of them would skip the verifiers, and a
//! removed pin would still be let in.
//!
//! The verifiers look at the directory as it is at the moment of the handshake. In pinned mode the certificate
//! is only a wrapping for its key: expiry, usage and names do not count, the handshake's signature does. In CA
//! mode the chain, the time, the usage, and the federation domain in the subject alternative name count.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError as TlsCertificateError, ClientConfig, RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::certificate::{Certificate, CertificateError};
use trunkline_gateway_proto::directory::{Directory, PeerRecord, Trust};
use trunkline_gateway_proto::key::{ChannelBinding, EXPORTER_ACCEPTOR, EXPORTER_DIALER, EXPORTER_ROTATION};
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::store::PeerKey;
use trunkline_tls::Verifier;

use crate::identity::Identity;

/// What both transports speak.
pub const ALPN: &[u8] = b"trunkline/1";

/// Certificates in a chain that are looked at. Real chains have two or three.
const CHAIN_MAX: usize = 8;

/// Why a certificate is not let in. Text for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a certificate.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(#[from] CertificateError),
    /// A chain longer than anyone needs.
    #[error("the peer's certificate chain is longer than {CHAIN_MAX}")]
    LongChain,
    /// Nobody we know may show it.
    #[error("no peer may show a certificate with pin {0}: accept that peer's bundle, or its rotation, first")]
    Unknown(Pin),
    /// Another key than the pinned ones.
    #[error(
        "{domain} showed a certificate with pin {pin}, which is not one of its pins: if its operator confirms the pin, replace it; if not, somebody is in between"
    )]
    Pin {
        /// Whom we dialled.
        domain: Domain,
        /// What was shown.
        pin: Pin,
    },
    /// CA mode: another name.
    #[error(
        "{0}'s certificate does not name {0} in its subject alternative name: its operator must have it reissued"
    )]
    Name(Domain),
    /// CA mode: no chain, out of time or not for this use.
    #[error("{domain}'s certificate is not good under its CA bundle: {reason}")]
    Chain {
        /// Whose.
        domain: Domain,
        /// What the chain check says.
        reason: String,
    },
    /// CA mode: our own record is unusable.
    #[error("the CA bundle set for {0} holds no usable certificate: set it again")]
    CaBundle(Domain),
    /// Removed while we dialled.
    #[error("the peer was removed")]
    Removed,
}

/// Which end of the handshake showed the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Whether any peer may show this certificate as a client.
///
/// # Errors
/// Why not.
pub fn check_client(
    directory: &Directory,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Refusal> {
    let certificate = Certificate::parse(end_entity)?;
    let mut refusal = Refusal::Unknown(certificate.pin);
    for peer in directory.peers() {
        match may_show(peer, &certificate, end_entity, intermediates, now, Role::Client) {
            Ok(()) => return Ok(()),
            // A chain that fails for the peer it names says more than that nobody is named.
            Err(reason @ (Refusal::Chain { .. } | Refusal::CaBundle(_) | Refusal::LongChain)) => {
                refusal = reason;
            }
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// Whether the peer we dialled may show this certificate.
///
/// # Errors
/// Why not.
pub fn check_server(
    directory: &Directory,
    peer: PeerKey,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Refusal> {
    let certificate = Certificate::parse(end_entity)?;
    let peer = directory.peer(peer).ok_or(Refusal::Removed)?;
    may_show(peer, &certificate, end_entity, intermediates, now, Role::Server)
}

fn may_show(
    peer: &PeerRecord,
    certificate: &Certificate,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<(), Refusal> {
    let domain = || peer.domain.clone();
    match &peer.trust {
        Trust::Pinned { pins } if pins.accepts(certificate.pin) => Ok(()),
        Trust::Pinned { .. } => Err(Refusal::Pin { domain: domain(), pin: certificate.pin }),
        // The name first: a stranger must not make us check chains for every peer.
        Trust::Ca { .. } if !certificate.names(&peer.domain) => Err(Refusal::Name(domain())),
        Trust::Ca { .. } if intermediates.len() >= CHAIN_MAX => Err(Refusal::LongChain),
        Trust::Ca { bundle_pem } => {
            let roots = roots(bundle_pem).ok_or_else(|| Refusal::CaBundle(domain()))?;
            check_chain(roots, &peer.domain, end_entity, intermediates, now, role)
                .map_err(|reason| Refusal::Chain { domain: domain(), reason })
        }
    }
}

fn roots(bundle_pem: &str) -> Option<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(bundle_pem.as_bytes()).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
    (!roots.is_empty()).then(|| Arc::new(roots))
}

fn check_chain(
    roots: Arc<RootCertStore>,
    domain: &Domain,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<(), String> {
    match role {
        Role::Client => WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| error.to_string())?
            .verify_client_cert(end_entity, intermediates, now)
            .map(drop),
        Role::Server => {
            let name = server_name(domain).ok_or("the domain is not a DNS name")?;
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| error.to_string())?
                .verify_server_cert(end_entity, intermediates, &name, &[], now)
                .map(drop)
        }
    }
    .map_err(|error| error.to_string())
}

/// The name a dialler asks for.
#[must_use]
pub fn server_name(domain: &Domain) -> Option<ServerName<'static>> {
    ServerName::try_from(domain.as_str().to_owned()).ok()
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// What a listener needs. Every new handshake sees the identity and the directory as they are then.
#[must_use]
pub fn server_config(identity: Arc<Identity>, directory: Arc<ArcSwap<Directory>>) -> ServerConfig {
    let verifier = Verifier::new(provider(), move |end_entity, intermediates, now| {
        check_client(&directory.load(), end_entity, intermediates, now).map_err(|refusal| {
            tracing::info!(reason = %refusal, "refused a connection");
            denied()
        })
    });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config
}

/// What one dial needs; `refusal` afterwards holds why the peer's certificate was refused, if it was. `identity` is
/// what we show: our own, but for a look from outside.
#[must_use]
pub fn client_config(
    identity: Arc<impl ResolvesClientCert + 'static>,
    directory: Arc<ArcSwap<Directory>>,
    peer: PeerKey,
    refusal: Arc<OnceLock<Refusal>>,
) -> ClientConfig {
    let verifier = Verifier::new(provider(), move |end_entity, intermediates, now| {
        check_server(&directory.load(), peer, end_entity, intermediates, now).map_err(|why| {
            let _ = refusal.set(why);
            denied()
        })
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

/// Who is at the other end, and what proofs are bound to.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) certificate: Bytes,
    /// Peers in CA mode whose authorities vouch for the certificate.
    pub(crate) vouched: Vec<PeerKey>,
    pub(crate) binding: ChannelBinding,
}

impl Authenticated {
    /// `export` fills its first argument for the label that is its second. `None` when the handshake is not done.
    pub(crate) fn new(
        directory: &Directory,
        role: Role,
        chain: Option<&[CertificateDer<'_>]>,
        export: impl Fn(&mut [u8; 32], &[u8]) -> bool,
    ) -> Option<Self> {
        let (end_entity, intermediates) = chain?.split_first()?;
        let vouched = vouched(directory, role, end_entity, intermediates);
        let certificate = Bytes::copy_from_slice(end_entity);
        let value = |label| {
            let mut value = [0; 32];
            export(&mut value, label).then_some(value)
        };
        let binding = ChannelBinding {
            dialer: value(EXPORTER_DIALER)?,
            acceptor: value(EXPORTER_ACCEPTOR)?,
            rotation: value(EXPORTER_ROTATION)?,
        };
        Some(Self { certificate, vouched, binding })
    }
}

/// Which peers in CA mode may show this certificate. TLS asked only whether any may.
fn vouched(
    directory: &Directory,
    role: Role,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Vec<PeerKey> {
    let Ok(certificate) = Certificate::parse(end_entity) else { return Vec::new() };
    let now = UnixTime::now();
    let in_ca_mode = directory.peers().filter(|peer| matches!(peer.trust, Trust::Ca { .. }));
    in_ca_mode
        .filter(|peer| may_show(peer, &certificate, end_entity, intermediates, now, role).is_ok())
        .map(|peer| peer.key)
        .collect()
}

/// The alert `access_denied` tells the other side that it is its certificate that we do not want.
fn denied() -> rustls::Error {
    TlsCertificateError::ApplicationVerificationFailure.into()
}
