//! Which database the registry is in, as settings of nodes and ingresses say it in the same three words.

use std::path::Path;

use trunkline_postgres::Address;
use trunkline_postgres::settings::{Names, Settings};

const NAMES: Names =
    Names { address: "registry", password_file: "registry_password_file", ca_file: "registry_ca_file" };

/// What the settings say; `None` when there is no registry.
#[must_use]
pub fn database<'a>(
    address: &'a str,
    password_file: Option<&'a Path>,
    ca_file: Option<&'a Path>,
) -> Option<Settings<'a>> {
    (!address.is_empty()).then_some(Settings { names: NAMES, address, password_file, ca_file })
}

/// What types alone do not say: the setting that is wrong, and what is wrong with it.
///
/// # Errors
/// When it is no address, or lacks what belongs to it.
pub fn check(database: Option<Settings<'_>>) -> Result<(), (&'static str, String)> {
    match database {
        None => Ok(()),
        Some(database) if Address::is_meant(database.address) => database.check(),
        // It may have been meant for something else, and have a password in it.
        Some(_) => Err((NAMES.address, "expected a postgres:// address, or nothing for no registry".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(address: &str) -> Option<String> {
        check(database(address, None, None)).err().map(|(field, problem)| format!("{field}: {problem}"))
    }

    #[test]
    fn nothing_is_no_registry_and_what_is_no_database_is_refused_without_being_repeated() {
        assert_eq!(problem(""), None);
        assert_eq!(problem("postgres://relay@localhost/t"), None);
        for text in ["redis://:secret@cache", "postgres://relay:secret@localhost/t"] {
            assert!(problem(text).is_some_and(|said| !said.contains("secret")), "{:?}", problem(text));
        }
        let said = problem("postgres://relay@db.test/t?sslmode=verify-full").unwrap();
        assert!(said.starts_with("registry: sslmode=verify-full: expected registry_ca_file"), "{said}");
    }
}
