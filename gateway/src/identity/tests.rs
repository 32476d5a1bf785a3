//! Pairs in files, and what counts when the store has some.

use std::time::Duration;

use tokio::sync::mpsc;

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
    let next = identity.make_next().unwrap();
    assert_eq!(identity.make_next().unwrap().pin(), next.pin());
    assert_ne!(identity.current().pin(), next.pin());
    assert_eq!(identity.promote().unwrap().pin(), next.pin());
    assert!(identity.next().is_none());
    assert_eq!(Identity::open(dir.path(), identity.domain().clone()).unwrap().current().pin(), next.pin());
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

#[test]
fn what_the_store_keeps_counts_before_the_files_as_long_as_it_is_a_pair() {
    let (dir, identity) = made();
    let [current, next] = [0; 2].map(|_| generate(identity.domain()).unwrap());
    let settle = |current: &PemPair, next: Option<&PemPair>| {
        let kept = PemPairs { current: current.clone(), next: next.cloned() };
        identity.settle(|| Some(Arc::new(kept)))
    };
    settle(&current, Some(&next)).unwrap();
    assert_eq!((identity.current().pem(), identity.next().unwrap().pem()), (&current, &next));
    assert_eq!(identity.next_or_new().unwrap().pem(), &next, "no other is made");

    fs::write(dir.path().join("current.crt"), "no certificate").unwrap();
    assert!(!identity.reload().unwrap(), "files are not looked at");
    let halves = PemPair { key: next.key.clone(), certificate: current.certificate.clone() };
    let error = settle(&halves, None).unwrap_err();
    assert!(error.to_string().contains("in the store"), "{error}");
    settle(&next, None).unwrap();
    assert_eq!((identity.current().pem(), identity.next().is_none()), (&next, true));
}

#[test]
fn the_pair_in_use_does_not_come_next() {
    let (dir, _) = made();
    for end in ["key", "crt"] {
        fs::copy(dir.path().join(format!("current.{end}")), dir.path().join(format!("next.{end}"))).unwrap();
    }
    let identity = Identity::open(dir.path(), "alpha.test".parse().unwrap()).unwrap();
    assert_eq!(identity.next().unwrap().pin(), identity.current().pin());
    assert_ne!(identity.next_or_new().unwrap().pin(), identity.current().pin());
}

#[test]
fn no_certificate_is_shown_while_it_is_not_known_whether_the_store_has_another() {
    let (_dir, identity) = made();
    identity.withhold();
    assert!(identity.shown().is_none());
    identity.settle(|| None).unwrap();
    assert!(identity.shown().is_some() && !identity.is_kept());
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
