//! Who this deployment is: its key and certificate, in files that are watched, and the pair that comes next.
//!
//! Handshakes take the pair from an [`Identity`] each time, so a new certificate is seen by the next one. What
//! is wrong with a new file is reported, and the pair in use stays.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::certificate::{Certificate, CertificateError};
use trunkline_gateway_proto::pin::Pin;
use zeroize::Zeroizing;

mod files;

pub use files::Files;
use files::{read_file, remove, rename, write_private};

/// How long files must be quiet before they are read again: a key and its certificate are written one after
/// the other. Longer delays a rotation, shorter reports halves of one.
const SETTLE: Duration = Duration::from_millis(250);

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

/// A key with its certificate.
#[derive(Debug)]
pub struct KeyPair {
    certified: Arc<CertifiedKey>,
    /// What people and checks want to know of the certificate.
    pub certificate: Certificate,
    /// The certificate file's text: the certificate, then its chain if any.
    pub pem: String,
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

    /// Reads a pair and checks that it is one.
    fn read(files: &Files) -> Result<Self, IdentityError> {
        let key = Zeroizing::new(read_file(&files.key)?);
        let pem = String::from_utf8_lossy(&read_file(&files.certificate)?).into_owned();
        let refused = |source| IdentityError::Certificate { path: files.certificate.clone(), source };
        let (certificate, _) = Certificate::parse_pem(&pem).map_err(refused)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| refused(CertificateError::Pem))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| IdentityError::Key(files.key.clone()))?;
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

    fn same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// The pairs at one moment.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// What handshakes show.
    pub current: Arc<KeyPair>,
    /// What they will show after a rotation: announced to peers before it is used.
    pub next: Option<Arc<KeyPair>>,
}

/// This deployment's pairs, live.
pub struct Identity {
    domain: Domain,
    current: Files,
    next: Files,
    live: ArcSwap<Pairs>,
    /// Counts changes, for whoever announces them.
    changes: watch::Sender<u64>,
    /// One change of the files at a time.
    changing: Mutex<()>,
}

/// Keeps the files watched until it is dropped.
pub struct IdentityWatch {
    _watcher: RecommendedWatcher,
    task: tokio::task::JoinHandle<()>,
}

impl Identity {
    /// Makes the first pair, `current.{key,crt}` in `dir`.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(dir: &Path, domain: &Domain) -> Result<(), IdentityError> {
        generate(&Files::named(dir, "current"), domain)
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
        let pairs = Pairs { current: Arc::new(pair?), next: read_next(&next)?.map(Arc::new) };
        warn_about(&current, &pairs.current, &domain);
        Ok(Arc::new(Self {
            domain,
            current,
            next,
            live: ArcSwap::from_pointee(pairs),
            changes: watch::Sender::new(0),
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

    /// Tells of changes: the number is how many there were.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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

    /// Makes the pair that comes next, unless there is one; gives it either way.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_next(&self) -> Result<Arc<KeyPair>, IdentityError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.next.key.exists() || !self.next.certificate.exists() {
            // Half a pair is what a crash while writing one leaves: nobody was told of it yet.
            remove(&self.next)?;
            generate(&self.next, &self.domain)?;
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

    /// Forgets the next pair.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn discard_next(&self) -> Result<(), IdentityError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        remove(&self.next)?;
        drop(changing);
        self.reload().map(drop)
    }

    /// Reads the files again. Answers whether anything changed; on an error what was in use stays.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = KeyPair::read(&self.current)?;
        let next = read_next(&self.next)?;
        let live = self.live.load();
        let same_next = match (&live.next, &next) {
            (None, None) => true,
            (Some(old), Some(new)) => old.same_as(new),
            _ => false,
        };
        if live.current.same_as(&current) && same_next {
            return Ok(false);
        }
        warn_about(&self.current, &current, &self.domain);
        self.live.store(Arc::new(Pairs { current: Arc::new(current), next: next.map(Arc::new) }));
        self.changes.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Reloads whenever the files change, until the answer is dropped; `report` hears what each reload came to.
    ///
    /// # Errors
    /// When the directory cannot be watched. A reload on SIGHUP still works.
    pub fn watch(
        self: &Arc<Self>,
        report: impl Fn(Result<bool, IdentityError>) + Send + 'static,
    ) -> Result<IdentityWatch, IdentityError> {
        let (seen, mut changes) = mpsc::unbounded_channel();
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files makes access events of its own.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = seen.send(());
            }
        };
        let failed = |path: &Path, error: notify::Error| IdentityError::Watch {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(|e| failed(&self.current.key, e))?;
        let mut dirs: Vec<_> =
            [&self.current.key, &self.current.certificate, &self.next.key, &self.next.certificate]
                .into_iter()
                .filter_map(|path| path.parent())
                .filter(|dir| dir.is_dir())
                .collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            // The directory and not the file: editors and secret mounts replace files.
            watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|error| failed(dir, error))?;
        }
        let identity = Arc::clone(self);
        let task = tokio::spawn(async move {
            while changes.recv().await.is_some() {
                while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.recv()).await {}
                report(identity.reload());
            }
        });
        Ok(IdentityWatch { _watcher: watcher, task })
    }
}

impl Drop for IdentityWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified())
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

/// Makes a self-signed pair. It never expires (RFC 5280, section 4.1.2.5): what ends it is a rotation.
fn generate(files: &Files, domain: &Domain) -> Result<(), IdentityError> {
    for path in [&files.key, &files.certificate] {
        if path.exists() {
            return Err(IdentityError::Exists(path.clone()));
        }
    }
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
    write_private(&files.key, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    write_private(&files.certificate, certificate.pem().as_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, Arc<Identity>) {
        let dir = tempfile::tempdir().unwrap();
        let domain: Domain = "alpha.test".parse().unwrap();
        Identity::create(dir.path(), &domain).unwrap();
        let identity = Identity::open(dir.path(), domain).unwrap();
        (dir, identity)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_identity_names_its_domain_and_is_for_its_owner_only() {
        let (dir, identity) = made();
        assert!(identity.current().certificate.names(&"alpha.test".parse().unwrap()));
        assert_eq!(mode(&dir.path().join("current.key")), 0o600);
        assert_eq!(mode(&dir.path().join("current.crt")), 0o600);
    }

    #[test]
    fn an_identity_is_never_overwritten() {
        let (dir, identity) = made();
        let again = Identity::create(dir.path(), identity.domain());
        assert!(matches!(again, Err(IdentityError::Exists(_))));
    }

    #[test]
    fn the_certificate_verifies_what_its_key_signed() {
        let (_dir, identity) = made();
        let signature = identity.sign(b"message").unwrap();
        let certificate = &identity.current().certificate;
        assert_eq!(certificate.verify(b"message", &signature), Ok(()));
        assert_eq!(certificate.verify(b"massage", &signature), Err(CertificateError::Signature));
    }

    #[test]
    fn a_rotation_puts_the_announced_pair_in_use() {
        let (dir, identity) = made();
        let changes = identity.changes();
        let next = identity.make_next().unwrap();
        assert_eq!(identity.make_next().unwrap().pin(), next.pin());
        assert_ne!(identity.current().pin(), next.pin());
        assert_eq!(identity.promote().unwrap().pin(), next.pin());
        assert!(identity.next().is_none());
        assert_eq!(*changes.borrow(), 2);
        assert_eq!(
            Identity::open(dir.path(), identity.domain().clone()).unwrap().current().pin(),
            next.pin()
        );
        assert!(matches!(identity.promote(), Err(IdentityError::NoNext)));
    }

    #[test]
    fn a_crash_in_the_middle_of_a_promotion_is_mended_at_the_next_start() {
        let (dir, identity) = made();
        let next = identity.make_next().unwrap();
        fs::rename(dir.path().join("next.key"), dir.path().join("current.key")).unwrap();
        let reopened = Identity::open(dir.path(), identity.domain().clone()).unwrap();
        assert_eq!(reopened.current().pin(), next.pin());
        assert!(reopened.next().is_none());
    }

    #[test]
    fn an_invalid_new_file_is_reported_and_the_old_pair_stays() {
        let (dir, identity) = made();
        let pin = identity.current().pin();
        fs::write(dir.path().join("current.crt"), "no certificate").unwrap();
        let error = identity.reload().unwrap_err();
        assert!(error.to_string().contains("current.crt"), "{error}");
        assert_eq!(identity.current().pin(), pin);
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (dir, identity) = made();
        let (other, _) = made();
        fs::copy(other.path().join("current.crt"), dir.path().join("current.crt")).unwrap();
        assert!(matches!(identity.reload(), Err(IdentityError::Mismatch { .. })));
    }

    #[test]
    fn a_key_that_is_not_p256_is_refused() {
        let (dir, identity) = made();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        fs::write(dir.path().join("current.key"), key.serialize_pem()).unwrap();
        assert!(matches!(identity.reload(), Err(IdentityError::KeyKind(_))));
    }

    #[tokio::test]
    async fn a_replaced_file_is_seen_without_being_told() {
        let (dir, identity) = made();
        let (other, replacement) = made();
        let (seen, mut reports) = mpsc::unbounded_channel();
        let _watch = identity
            .watch(move |result| {
                let _ = seen.send(result.is_ok_and(|changed| changed));
            })
            .unwrap();
        for name in ["current.key", "current.crt"] {
            fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
        }
        let deadline = Duration::from_secs(10);
        while !tokio::time::timeout(deadline, reports.recv()).await.unwrap().unwrap() {}
        assert_eq!(identity.current().pin(), replacement.current().pin());
    }
}
