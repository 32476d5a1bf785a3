//! Which database to use, as programs' settings say it in the same three words.

use std::path::Path;

use thiserror::Error;
use trunkline_common::secret;
use zeroize::Zeroizing;

use crate::access::Access;
use crate::address::{Address, Protection};

/// What the settings say.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// What they are called, for errors.
    pub names: Names,
    /// The address.
    pub address: &'a str,
    /// Holds the password.
    pub password_file: Option<&'a Path>,
    /// PEM: whom the server's certificate must be from.
    pub ca_file: Option<&'a Path>,
}

/// What a program calls its settings.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The address.
    pub address: &'static str,
    /// The file with the password.
    pub password_file: &'static str,
    /// The file with the authorities.
    pub ca_file: &'static str,
}

/// Why the database cannot be used: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct SettingsError {
    /// Which setting.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Settings<'_> {
    /// What types alone do not say: the setting that is wrong, and what is wrong with it.
    ///
    /// # Errors
    /// When it is no address, or lacks what belongs to it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let problem = match self.address.parse::<Address>() {
            Ok(address) if address.protection() == Protection::Verified && self.ca_file.is_none() => {
                format!("sslmode=verify-full: expected {} with it", self.names.ca_file)
            }
            Ok(_) => return Ok(()),
            Err(problem) => problem,
        };
        Err((self.names.address, problem))
    }

    /// The way in. `program` is what the server's list of connections shows.
    ///
    /// # Errors
    /// When a file cannot be read, or used.
    pub fn access(&self, program: &str) -> Result<Access, SettingsError> {
        let wrong = |field| move |problem| SettingsError { field, problem };
        let address: Address = self.address.parse().map_err(wrong(self.names.address))?;
        let password =
            self.password_file.map(password).transpose().map_err(wrong(self.names.password_file))?;
        let authorities = self.ca_file.map(std::fs::read).transpose().map_err(|error| error.to_string());
        let access = authorities
            .and_then(|authorities| Access::new(address, program, password, authorities.as_deref()));
        access.map_err(wrong(self.names.ca_file))
    }
}

fn password(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = secret::read(file).map_err(|error| error.to_string())?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> Settings<'_> {
        let names = Names { address: "db", password_file: "db_password_file", ca_file: "db_ca_file" };
        Settings { names, address, password_file: None, ca_file: None }
    }

    #[test]
    fn an_address_that_is_verified_lacks_whom_its_certificate_is_from() {
        assert_eq!(settings("postgres://relay@localhost/t").check(), Ok(()));
        let (field, problem) =
            settings("postgres://relay@db.test/t?sslmode=verify-full").check().unwrap_err();
        assert_eq!((field, problem.as_str()), ("db", "sslmode=verify-full: expected db_ca_file with it"));
        assert!(settings("postgres://relay@db.test/t").check().is_err());
    }

    #[test]
    fn a_password_that_cannot_be_read_says_which_setting_names_it() {
        let file = Path::new("/nowhere/password");
        let settings = Settings { password_file: Some(file), ..settings("postgres://relay@localhost/t") };
        let said = settings.access("trunkline-relay").unwrap_err().to_string();
        assert!(said.starts_with("db_password_file: cannot read /nowhere"), "{said}");
    }
}
