//! Who this deployment is: its key and certificate, and the pair that comes next. They rest in files, which are watched;
//! once replicas share them, in the store, and the files are where they began.
//!
//! Handshakes take the pair from an [`Identity`] each time, so a new certificate is seen by the next one. What
//! is wrong with a new file is reported, and the pair in use stays.
//!
//! # Layout
//! - `files`, `watch`: where pairs rest, and how a change there is noticed
//! - `pair`: a key with its certificate

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::certificate::CertificateError;
use trunkline_gateway_proto::identity::{PemPair, PemPairs};

mod files;
mod pair;
#[cfg(test)]
mod tests;
mod watch;

pub use files::Files;
use files::{remove, rename, write_private};
pub use pair::KeyPair;
use pair::generate;
pub use watch::IdentityWatch;

/// What is said of files that do not count.
const NOT_THE_FILES: &str = "this deployment's key and certificate are in its store, where `identity rotate` put them for \
    all replicas: the files are not used";

/// Why an identity cannot be made, read or changed. All of them are the operator's or this machine's.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is one already.
    #[error("{} exists: this deployment has an identity; remove the file only if no peer knows it", .0.display())]
    Exists(PathBuf),
    /// No pair comes next.
    #[error("there is no next certificate: make one first with `trunkline-gateway identity rotate`")]
    NoNext,
    /// The file holds no private key.
    #[error("{}: no private key in PEM; expected an ECDSA P-256 key in PKCS#8", .0.display())]
    Key(PathBuf),
    /// A key of another kind.
    #[error("{}: the key is not ECDSA P-256; make one with `openssl ecparam -name prime256v1 -genkey`", .0.display())]
    KeyKind(PathBuf),
    /// The file holds no certificate.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: CertificateError,
    },
    /// Key and certificate are of different pairs.
    #[error("{} does not belong to {}: replace both files together", certificate.display(), key.display())]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A new certificate could not be made.
    #[error("the certificate for {domain} could not be made: {reason}")]
    Generate {
        /// For whom.
        domain: Domain,
        /// Why.
        reason: String,
    },
    /// The signature could not be made.
    #[error("signing failed: {0}")]
    Sign(String),
    /// The files cannot be watched.
    #[error("{}: cannot be watched ({reason}); send SIGHUP after a change instead", path.display())]
    Watch {
        /// Which directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The pairs at one moment.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// What handshakes show.
    pub current: Arc<KeyPair>,
    /// What they will show after a rotation: announced to peers before it is used.
    pub next: Option<Arc<KeyPair>>,
    /// Whether they are the store's.
    kept: bool,
}

/// This deployment's pairs, live.
pub struct Identity {
    domain: Domain,
    current: Files,
    next: Files,
    live: ArcSwap<Pairs>,
    /// Handshakes get nothing: whether the store has other pairs is not known yet.
    withheld: AtomicBool,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Identity {
    /// Makes the first pair, `current.{key,crt}` in `dir`.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(dir: &Path, domain: &Domain) -> Result<(), IdentityError> {
        write(&Files::named(dir, "current"), domain)
    }

    /// Reads `current.{key,crt}` and, when they are there, `next.{key,crt}` in `dir`.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn open(dir: &Path, domain: Domain) -> Result<Arc<Self>, IdentityError> {
        Self::open_files(Files::named(dir, "current"), Files::named(dir, "next"), domain)
    }

    /// As [`Identity::open`], from files elsewhere: CA mode with an operator's own certificates.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn open_files(current: Files, next: Files, domain: Domain) -> Result<Arc<Self>, IdentityError> {
        let mut pair = KeyPair::read(&current);
        if let Err(IdentityError::Mismatch { .. }) = pair {
            finish_promotion(&current, &next)?;
            pair = KeyPair::read(&current);
        }
        let pairs = Pairs { current: Arc::new(pair?), next: read_next(&next)?.map(Arc::new), kept: false };
        warn_about(&current, &pairs.current, &domain);
        Ok(Arc::new(Self {
            domain,
            current,
            next,
            live: ArcSwap::from_pointee(pairs),
            withheld: AtomicBool::new(false),
            changing: Mutex::new(()),
        }))
    }

    /// Whose identity this is.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The pair that handshakes show now.
    #[must_use]
    pub fn current(&self) -> Arc<KeyPair> {
        Arc::clone(&self.live.load().current)
    }

    /// The pair that comes next.
    #[must_use]
    pub fn next(&self) -> Option<Arc<KeyPair>> {
        self.live.load().next.clone()
    }

    /// Whether the store has the pairs, and the files do not count.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.live.load().kept
    }

    /// Shows nobody a certificate until [`Identity::settle`]: other replicas may use another one than the files have.
    pub fn withhold(&self) {
        self.withheld.store(true, Ordering::Release);
    }

    /// Uses what the store has from now on instead of the files, when it has something. Asked for under the lock, so that
    /// of two who come at once none takes back what the other one knows.
    ///
    /// # Errors
    /// When that is no pair; what was in use stays.
    pub fn settle(&self, kept: impl FnOnce() -> Option<Arc<PemPairs>>) -> Result<(), IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept() {
            self.adopt(&kept)?;
        }
        self.withheld.store(false, Ordering::Release);
        Ok(())
    }

    fn adopt(&self, kept: &PemPairs) -> Result<(), IdentityError> {
        let live = self.live.load();
        let same_next = live.next.as_ref().map(|next| next.pem()) == kept.next.as_ref();
        if live.kept && same_next && *live.current.pem() == kept.current {
            return Ok(());
        }
        let parse = |pem: &PemPair| KeyPair::parse(pem.clone(), &Files::in_store()).map(Arc::new);
        let (current, next) = (parse(&kept.current)?, kept.next.as_ref().map(parse).transpose()?);
        if !live.kept && !live.current.same_as(&current) {
            tracing::info!(file = %self.current.certificate.display(), "{NOT_THE_FILES}");
        }
        self.live.store(Arc::new(Pairs { current, next, kept: true }));
        Ok(())
    }

    /// What handshakes show.
    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        (!self.withheld.load(Ordering::Acquire)).then(|| self.current().certified())
    }

    /// Signs with the current key: ECDSA P-256 with SHA-256, in ASN.1.
    ///
    /// # Errors
    /// When the key refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let current = self.current();
        let signer = current
            .certified
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or_else(|| IdentityError::KeyKind(self.current.key.clone()))?;
        signer.sign(message).map_err(|error| IdentityError::Sign(error.to_string()))
    }

    /// The pair that comes next, for the store to keep, or a new one. A copy that a rotation by hand left is not the next.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn next_or_new(&self) -> Result<Arc<KeyPair>, IdentityError> {
        let new = || KeyPair::parse(generate(&self.domain)?, &Files::in_store()).map(Arc::new);
        self.next().filter(|next| !next.same_as(&self.current())).map_or_else(new, Ok)
    }

    /// Makes the files of the pair that comes next, unless there are some; gives it either way.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_next(&self) -> Result<Arc<KeyPair>, IdentityError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.next.key.exists() || !self.next.certificate.exists() {
            // Half a pair is what a crash while writing one leaves: nobody was told of it yet.
            remove(&self.next)?;
            write(&self.next, &self.domain)?;
        }
        drop(changing);
        self.reload()?;
        self.next().ok_or(IdentityError::NoNext)
    }

    /// Puts the next pair in use. Only after every peer made it durable: who did not hear of it refuses us.
    ///
    /// # Errors
    /// When there is none, or the files cannot be renamed.
    pub fn promote(&self) -> Result<Arc<KeyPair>, IdentityError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        read_next(&self.next)?.ok_or(IdentityError::NoNext)?;
        // A crash between the two is mended by `finish_promotion` at the next start.
        rename(&self.next.key, &self.current.key)?;
        rename(&self.next.certificate, &self.current.certificate)?;
        drop(changing);
        self.reload()?;
        Ok(self.current())
    }

    /// Reads the files again. Answers whether anything changed; on an error what was in use stays.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.load();
        if live.kept {
            tracing::info!(file = %self.current.certificate.display(), "{NOT_THE_FILES}");
            return Ok(false);
        }
        let current = KeyPair::read(&self.current)?;
        let next = read_next(&self.next)?;
        let same_next = match (&live.next, &next) {
            (None, None) => true,
            (Some(old), Some(new)) => old.same_as(new),
            _ => false,
        };
        if live.current.same_as(&current) && same_next {
            return Ok(false);
        }
        warn_about(&self.current, &current, &self.domain);
        let pairs = Pairs { current: Arc::new(current), next: next.map(Arc::new), kept: false };
        self.live.store(Arc::new(pairs));
        Ok(true)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// Makes a pair where there is none.
fn write(files: &Files, domain: &Domain) -> Result<(), IdentityError> {
    for path in [&files.key, &files.certificate] {
        if path.exists() {
            return Err(IdentityError::Exists(path.clone()));
        }
    }
    let made = generate(domain)?;
    write_private(&files.key, made.key.as_bytes())?;
    write_private(&files.certificate, made.certificate.as_bytes())
}

fn read_next(files: &Files) -> Result<Option<KeyPair>, IdentityError> {
    if files.key.exists() && files.certificate.exists() { KeyPair::read(files).map(Some) } else { Ok(None) }
}

/// A crash in the middle of a promotion leaves the new key beside the old certificate, and the new certificate
/// still waiting: the second rename is made up for.
fn finish_promotion(current: &Files, next: &Files) -> Result<(), IdentityError> {
    let half = Files { key: current.key.clone(), certificate: next.certificate.clone() };
    if !next.key.exists() && half.certificate.exists() && KeyPair::read(&half).is_ok() {
        rename(&next.certificate, &current.certificate)?;
    }
    Ok(())
}

fn warn_about(files: &Files, pair: &KeyPair, domain: &Domain) {
    if !pair.certificate.names(domain) {
        tracing::warn!(
            file = %files.certificate.display(),
            %domain,
            "the certificate does not name this deployment's federation domain: peers in CA mode will refuse it"
        );
    }
    let open_to_others = fs::metadata(&files.key).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    if open_to_others {
        tracing::warn!(file = %files.key.display(), "the private key is open to other users: chmod 600 it");
    }
}
