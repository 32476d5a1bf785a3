//! Keys and tokens, who else may read them, and how long our certificate is good.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use trunkline_common::ids::Domain;
use trunkline_gateway_proto::certificate::Certificate;
use trunkline_gateway_proto::time::Time;

use super::{Check, now};
use crate::config::{Config, IdentityMode, deployment_key};
use crate::init::ADMIN_TOKEN_FILE;

/// Days before a certificate of CA mode ends when that becomes a warning: issuing one takes some people a week.
const DAYS_LEFT: u64 = 14;

const DAY_S: u64 = 86_400;

/// Who may do what with a file that holds a secret.
#[derive(Debug)]
enum Guarded {
    Missing,
    Mode(u32),
    Unreadable(String),
}

pub(super) fn examine(config: &Config, certificate: Option<&Certificate>) -> Vec<Check> {
    let mut checks = vec![deployment_key(config)];
    if let Some(certificate) = certificate {
        checks.push(days(&config.domain, config.identity.mode, certificate, now()));
    }
    checks.push(secrets(secret_files(config).into_iter().map(|file| (look(&file), file)).collect()));
    checks
}

/// What is said when looking took too long.
pub(super) fn hang(config: &Config) -> Check {
    Check::failed(
        "files",
        config.data_dir.display().to_string(),
        "Looking at the files and the disk took too long.",
        "Look whether data_dir is on a server that does not answer, or whether deployment_key_command waits for \
         somebody.",
    )
}

fn deployment_key(config: &Config) -> Check {
    let source = match (&config.deployment_key_command, &config.deployment_key_file) {
        (Some(_), _) => "deployment_key_command".to_owned(),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => "deployment_key_file".to_owned(),
    };
    match deployment_key::read(config) {
        Ok(_) => {
            Check::ok("deployment key", source, "It can be read. Backups need it: keep a copy elsewhere.")
        }
        Err(error) => Check::failed(
            "deployment key",
            source,
            format!("It cannot be had: {error}."),
            "Put the copy back before the gateway stops: without it the store cannot be opened again.",
        ),
    }
}

fn days(domain: &Domain, mode: IdentityMode, certificate: &Certificate, now: Time) -> Check {
    let subject = domain.as_str();
    let left_s = certificate.not_after.since(now).as_secs();
    let left = left_s / DAY_S;
    match mode {
        IdentityMode::Pinned => Check::ok(
            "certificate",
            subject,
            "Peers know it by its key (`identity show`), so its date does not matter.",
        ),
        IdentityMode::Ca if !certificate.names(domain) => Check::failed(
            "certificate",
            subject,
            "It does not name this deployment's domain, so peers in CA mode refuse it.",
            format!("Have it issued again with {domain} among its DNS names."),
        ),
        IdentityMode::Ca if left_s == 0 => Check::failed(
            "certificate",
            subject,
            "It has ended: peers refuse new links.",
            "Replace certificate and key; the gateway reads them by itself.",
        ),
        IdentityMode::Ca if left < DAYS_LEFT => Check::warning(
            "certificate",
            subject,
            format!("It ends in {left} days; peers refuse new links then."),
            "Replace certificate and key; the gateway reads them by itself.",
        ),
        IdentityMode::Ca => Check::ok("certificate", subject, format!("It is good for {left} days.")),
    }
}

/// Every file with a secret that the configuration names, and those that `init` put beside the store.
fn secret_files(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![config.identity.key.clone(), config.identity.key.with_file_name("next.key")];
    files.extend(config.deployment_key_file.clone());
    files.extend([&config.local_api.tls_key, &config.admin_api.tls_key].into_iter().flatten().cloned());
    if let Some(dir) = config.data_dir.parent() {
        files.extend([dir.join(ADMIN_TOKEN_FILE), dir.join("admin.password")]);
        let networks = std::fs::read_dir(dir.join("networks")).into_iter().flatten().flatten();
        files.extend(
            networks.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "token")),
        );
    }
    files
}

fn look(file: &Path) -> Guarded {
    match file.metadata() {
        Ok(metadata) => Guarded::Mode(metadata.permissions().mode() & 0o777),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Guarded::Missing,
        Err(error) => Guarded::Unreadable(error.to_string()),
    }
}

fn secrets(files: Vec<(Guarded, PathBuf)>) -> Check {
    let subject = "keys and tokens";
    let mut open = Vec::new();
    let mut there = 0;
    for (guarded, file) in &files {
        match guarded {
            Guarded::Missing => {}
            Guarded::Unreadable(error) => {
                let finding = format!("{} cannot be looked at: {error}.", file.display());
                return Check::failed(
                    "files",
                    subject,
                    finding,
                    "Give the gateway's user its directory back.",
                );
            }
            Guarded::Mode(mode) => {
                there += 1;
                if mode & 0o077 != 0 {
                    open.push(file.display().to_string());
                }
            }
        }
    }
    if open.is_empty() {
        return Check::ok(
            "files",
            subject,
            format!("Only their owner can read the {there} files that hold secrets."),
        );
    }
    let list = open.join(" ");
    Check::failed(
        "files",
        subject,
        format!("Others than their owner may read: {list}."),
        format!("`chmod 600 {list}`; if others did read them, replace what is in them."),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::identity::Identity;

    fn domain() -> Domain {
        "alpha.test".parse().unwrap()
    }

    fn certificate() -> Certificate {
        let dir = tempfile::tempdir().unwrap();
        Identity::create(dir.path(), &domain()).unwrap();
        Identity::open(dir.path(), domain()).unwrap().current().certificate.clone()
    }

    #[test]
    fn days_count_in_ca_mode_only() {
        let certificate = certificate();
        let before = |days| Time::from_unix_ms(certificate.not_after.unix_ms() - days * DAY_S * 1000);
        let judged = |mode, now| days(&domain(), mode, &certificate, now).outcome;
        assert_eq!(judged(IdentityMode::Ca, before(100)), Outcome::Ok);
        assert_eq!(judged(IdentityMode::Ca, before(5)), Outcome::Warning);
        assert_eq!(judged(IdentityMode::Ca, before(0)), Outcome::Failed);
        assert_eq!(judged(IdentityMode::Pinned, before(0)), Outcome::Ok);
    }

    #[test]
    fn a_certificate_that_names_somebody_else_is_a_failure_in_ca_mode() {
        let check = days(&"other.test".parse().unwrap(), IdentityMode::Ca, &certificate(), Time::default());
        assert_eq!(check.outcome, Outcome::Failed);
    }

    #[test]
    fn a_secret_that_others_may_read_is_named_with_the_command_that_mends_it() {
        let mut files =
            vec![(Guarded::Mode(0o600), "/a/key".into()), (Guarded::Missing, "/a/next.key".into())];
        assert_eq!(secrets(vec![(Guarded::Mode(0o600), "/a/key".into())]).outcome, Outcome::Ok);
        files.push((Guarded::Mode(0o640), "/a/token".into()));
        let check = secrets(files);
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.advice.unwrap().contains("chmod 600 /a/token"));
    }
}
