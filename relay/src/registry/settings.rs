//! Which database the registry is in, as settings of nodes and ingresses say it in the same three words.

use std::path::{Path, PathBuf};

use thiserror::Error;
use trunkline_common::secret::{self, SecretError};
use trunkline_postgres::{Access, Address, Protection};
use zeroize::Zeroizing;

/// What the settings say.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// `registry`: the address; empty when there is none.
    pub address: &'a str,
    /// `registry_password_file`
    pub password_file: Option<&'a PathBuf>,
    /// `registry_ca_file`
    pub ca_file: Option<&'a PathBuf>,
}

/// Why the registry cannot be used: the operator's to mend.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// Its address.
    #[error("registry: {0}")]
    Address(String),
    /// The password.
    #[error("registry_password_file: {0}")]
    Password(#[from] SecretError),
    /// Whom the server's certificate must be from.
    #[error("registry_ca_file: {0}")]
    Authorities(String),
}

impl Settings<'_> {
    /// What types alone do not say: the setting that is wrong, and what is wrong with it.
    ///
    /// # Errors
    /// When it is no address, or lacks what belongs to it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match self.address {
            "" => Ok(()),
            text if Address::is_meant(text) => match text.parse::<Address>() {
                Ok(address) if address.protection() == Protection::Verified && self.ca_file.is_none() => {
                    Err(("registry", "sslmode=verify-full: expected registry_ca_file with it".into()))
                }
                Ok(_) => Ok(()),
                Err(problem) => Err(("registry", problem)),
            },
            // It may have been meant for something else, and have a password in it.
            _ => Err(("registry", "expected a postgres:// address, or nothing for no registry".into())),
        }
    }

    /// The way in; `None` when there is no registry. `program` is what the server's list of connections shows.
    ///
    /// # Errors
    /// When a file cannot be read, or used.
    pub fn access(&self, program: &str) -> Result<Option<Access>, SettingsError> {
        if self.address.is_empty() {
            return Ok(None);
        }
        let address: Address = self.address.parse().map_err(SettingsError::Address)?;
        let password = self.password_file.map(|file| password(file)).transpose()?;
        let authorities = self.ca_file.map(std::fs::read).transpose();
        let authorities = authorities.map_err(|error| SettingsError::Authorities(error.to_string()))?;
        let access = Access::new(address, program, password, authorities.as_deref());
        access.map(Some).map_err(SettingsError::Authorities)
    }
}

fn password(file: &Path) -> Result<Zeroizing<String>, SecretError> {
    Ok(Zeroizing::new(secret::read(file)?.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(address: &str) -> Option<String> {
        let settings = Settings { address, password_file: None, ca_file: None };
        settings.check().err().map(|(field, problem)| format!("{field}: {problem}"))
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
        assert!(problem("postgres://relay@db.test/t").is_some());
    }

    #[test]
    fn a_registry_whose_password_cannot_be_read_says_which_setting_names_it() {
        let file = PathBuf::from("/nowhere/password");
        let address = "postgres://relay@localhost/t";
        let settings = Settings { address, password_file: Some(&file), ca_file: None };
        let said = settings.access("trunkline-relay").unwrap_err().to_string();
        assert!(said.starts_with("registry_password_file: cannot read /nowhere"), "{said}");
    }
}
