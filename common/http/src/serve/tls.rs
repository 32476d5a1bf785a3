//! TLS for servers: a certificate and its key from two PEM files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::{Stopping, stopped};

/// How often the files are looked at. Shorter takes a renewed certificate up sooner, and reads more.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Where a server's certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that issued it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// As two settings name them; `None` when they do not.
    #[must_use]
    pub fn of(certificate: &Option<PathBuf>, key: &Option<PathBuf>) -> Option<Self> {
        Some(Self { certificate: certificate.clone()?, key: key.clone()? })
    }

    /// Whether two settings, called `names`, name them both, or neither.
    ///
    /// # Errors
    /// The one that does alone, and what is wrong with that.
    pub fn check(
        certificate: &Option<PathBuf>,
        key: &Option<PathBuf>,
        names: [&'static str; 2],
    ) -> Result<(), (&'static str, String)> {
        let [one, other] = names;
        match (certificate, key) {
            (Some(_), None) => Err((one, format!("expected {other} with it"))),
            (None, Some(_)) => Err((other, format!("expected {one} with it"))),
            _ => Ok(()),
        }
    }
}

/// Why a certificate and its key cannot be used: the operator's to mend.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate, or a broken one.
    #[error("{path} holds no PEM certificate chain: expected `-----BEGIN CERTIFICATE-----` blocks")]
    Certificate {
        /// Which.
        path: PathBuf,
    },
    /// No private key, or a broken one.
    #[error("{path} holds no PEM private key: expected a PKCS#8, SEC1 or PKCS#1 block")]
    Key {
        /// Which.
        path: PathBuf,
    },
    /// They do not belong together, or are of a kind that is not supported.
    #[error("{certificate} and {key} cannot be used together: {source}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A server's TLS, whose certificate can change while it serves.
pub struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

/// What handshakes use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What the files held, to see whether they changed.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    ///
    /// # Panics
    /// Never: the provider knows the protocol versions rustls starts with.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        Self::load_for(files, &["h2", "http/1.1"])
    }

    /// The same for another protocol than HTTP: `protocols` are those of ALPN (RFC 7301) that are taken, the best first.
    /// A client need not name any.
    ///
    /// # Errors
    /// When the files cannot be used.
    ///
    /// # Panics
    /// Never: the provider knows the protocol versions rustls starts with.
    pub fn load_for(files: TlsFiles, protocols: &[&str]) -> Result<Arc<Self>, TlsError> {
        let pair = Contents::read(&files)?.pair(&files)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(Self { files, current, acceptor: TlsAcceptor::from(Arc::new(config)) }))
    }

    /// What handshakes are made with. It stays the same when the files change: they are looked up through it.
    #[must_use]
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(self.acceptor.config())
    }

    /// Reads the files again; new connections use what they hold.
    ///
    /// # Errors
    /// When they cannot be used; what was used before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pair = Contents::read(&self.files)?.pair(&self.files)?;
        self.current.0.store(Arc::new(pair));
        Ok(())
    }

    /// Reads the files again whenever they change, until told to stop.
    pub async fn watch(self: Arc<Self>, mut stopping: Stopping) {
        // Looking at the contents works on every file system, and through every way of replacing files.
        let mut seen = self.contents().await;
        if let Some(Ok(pair)) = seen.as_ref().map(|contents| contents.pair(&self.files)) {
            self.current.0.store(Arc::new(pair));
        }
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut stopping) => return,
                _ = ticks.tick() => {}
            }
            let found = self.contents().await;
            if found == seen {
                continue;
            }
            match found.as_ref().map(|contents| contents.pair(&self.files)) {
                Some(Ok(pair)) => {
                    self.current.0.store(Arc::new(pair));
                    tracing::info!("a TLS certificate was replaced");
                }
                // Half of a replacement, most likely: the next look finds the other half.
                Some(Err(error)) => tracing::warn!(%error, "keeping the TLS certificate in use"),
                None => tracing::warn!("TLS files cannot be read: keeping the TLS certificate in use"),
            }
            seen = found;
        }
    }

    /// Accepts connections, with the certificate as it is then.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    async fn contents(&self) -> Option<Contents> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || Contents::read(&files).ok()).await.ok().flatten()
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
        };
        Ok(Self { certificate: read(&files.certificate)?, key: Zeroizing::new(read(&files.key)?) })
    }

    fn pair(&self, files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .ok()
            .filter(|chain: &Vec<_>| !chain.is_empty())
            .ok_or_else(|| TlsError::Certificate { path: files.certificate.clone() })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Key { path: files.key.clone() })?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}
