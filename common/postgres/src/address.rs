//! Where the database is: as settings say it.

use std::net::IpAddr;
use std::str::FromStr;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    Plain,
    /// Encrypted, whoever answers.
    Encrypted,
    /// Encrypted, with a server whose certificate is for its name and from one of the operator's authorities.
    Verified,
}

/// A database's address, as `postgres://user@host:port/database?sslmode=…`. Several hosts, with commas between
/// them, are tried in turn until one takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) config: tokio_postgres::Config,
    protection: Protection,
}

impl Address {
    /// Whether a text means to be one.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// How the connection is protected.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// What operators call it, in errors: without its user.
    #[must_use]
    pub fn name(&self) -> String {
        let ports = self.config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        let hosts = self.config.get_hosts().iter().enumerate();
        let hosts: Vec<_> = hosts.map(|(at, host)| host_name(host, port(at))).collect();
        format!("database {} on {}", self.config.get_dbname().unwrap_or_default(), hosts.join(", "))
    }

    fn is_near(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Host::Unix(_) => true,
        })
    }
}

/// Where PostgreSQL listens when nothing else is said.
const PORT: u16 = 5432;

fn host_name(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => path.display().to_string(),
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected postgres://user@host:port/database?sslmode=verify-full";
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (modes, rest): (Vec<&str>, Vec<&str>) =
            query.split('&').filter(|pair| !pair.is_empty()).partition(|pair| pair.starts_with("sslmode="));
        let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config: tokio_postgres::Config =
            // The error's text could repeat a password.
            plain.parse().map_err(|_| format!("{expected}: it does not read as such an address"))?;
        if config.get_password().is_some() {
            return Err(format!(
                "{expected} without a password: put it into a file of its own, which the settings name"
            ));
        }
        if config.get_hosts().is_empty() || config.get_dbname().is_none() || config.get_user().is_none() {
            return Err(format!("{expected}: user, host and database are needed"));
        }
        let protection = match modes.as_slice() {
            ["sslmode=disable"] => Some(Protection::Plain),
            ["sslmode=require"] => Some(Protection::Encrypted),
            ["sslmode=verify-full"] => Some(Protection::Verified),
            [] => None,
            _ => return Err("expected sslmode once, as disable, require or verify-full".to_owned()),
        };
        let mut address = Self { config: config.clone(), protection: Protection::Plain };
        address.protection = match protection {
            Some(protection) => protection,
            None if address.is_near() => Protection::Plain,
            None => {
                return Err("expected ?sslmode=verify-full (or require, or disable) at the end: \
                            the database is on another machine"
                    .to_owned());
            }
        };
        config.ssl_mode(match address.protection {
            Protection::Plain => SslMode::Disable,
            Protection::Encrypted | Protection::Verified => SslMode::Require,
        });
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        address.config = config;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        text.parse::<Address>().unwrap_err()
    }

    #[test]
    fn an_address_says_how_its_connection_is_protected() {
        for (text, protection) in [
            ("postgres://gw@127.0.0.1:5432/trunkline", Protection::Plain),
            ("postgresql://gw@localhost/trunkline", Protection::Plain),
            ("postgres://gw@db.test/trunkline?sslmode=disable", Protection::Plain),
            ("postgres://gw@db.test/trunkline?sslmode=require", Protection::Encrypted),
            ("postgres://gw@one.test,two.test:5433/t?sslmode=verify-full", Protection::Verified),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().protection(), protection, "{text}");
        }
    }

    #[test]
    fn an_address_on_another_machine_must_say_whether_it_is_encrypted() {
        assert!(problem("postgres://gw@db.test/trunkline").contains("sslmode=verify-full"));
        assert!(problem("postgres://gw@127.0.0.1,db.test/trunkline").contains("sslmode=verify-full"));
        assert!(problem("postgres://gw@db.test/trunkline?sslmode=prefer").contains("disable, require or"));
    }

    #[test]
    fn a_password_does_not_belong_into_an_address_and_is_not_repeated() {
        for text in ["postgres://gw:secret@localhost/trunkline", "postgres://gw:secret@localhost:x/trunkline"]
        {
            assert!(!problem(text).contains("secret"), "{}", problem(text));
        }
        assert!(problem("postgres://gw:secret@localhost/trunkline").contains("a file of its own"));
    }

    #[test]
    fn an_address_without_user_host_or_database_is_refused() {
        for text in ["postgres://", "postgres://localhost/t", "postgres://gw@localhost", "postgres://gw@/t"] {
            assert!(problem(text).contains("user, host and database"), "{text}: {}", problem(text));
        }
    }

    #[test]
    fn the_name_in_errors_says_which_database_and_not_who() {
        let address: Address = "postgres://gw@one.test:5432,two.test:6432/t?sslmode=require".parse().unwrap();
        assert_eq!(address.name(), "database t on one.test:5432, two.test:6432");
    }
}
