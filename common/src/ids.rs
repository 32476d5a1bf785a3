//! Identifiers. None prints what it identifies unless the operator raised the log detail
//! ([`crate::redact`]); `as_str` gives the real text to code that must have it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::limits::{ADDRESS_BYTES_MAX, DOMAIN_BYTES_MAX, NETWORK_BYTES_MAX};
use crate::redact::{Detail, shows};

/// Why a text is not the identifier it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not a DNS name.
    #[error(
        "not a domain name: expected letters, digits and hyphens in labels of 1 to 63, separated by dots, at most 253 in all"
    )]
    Domain,
    /// Not `local@domain`.
    #[error("not an address: expected local@domain, printable, without spaces, at most 320 bytes")]
    Address,
    /// Not a network id.
    #[error("not a network id: expected 1 to 64 of a-z, 0-9, `-`, `_`")]
    Network,
    /// Not a UUID.
    #[error("not an envelope id: expected a UUID")]
    Envelope,
}

/// A lower-case DNS name: a federation domain, or the part after `@` in an address.
/// Deployments are known to each other, so this one prints at every log detail.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Domain(Arc<str>);

/// A person's address, `local@domain`; the domain in lower case, the local part as given.
/// Prints from [`Detail::Username`] on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Address(Arc<str>);

/// The id of a network (tenant) within a deployment. Prints at every log detail.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NetworkId(Arc<str>);

/// An envelope's id, and its idempotency key. Prints from [`Detail::Messaging`] on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnvelopeId(Uuid);

/// Checks that `text` is a domain name; says nothing about its case.
///
/// # Errors
/// [`IdError::Domain`] when it is not.
pub fn check_domain(text: &str) -> Result<(), IdError> {
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let ok = !text.is_empty() && text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(label_ok);
    if ok { Ok(()) } else { Err(IdError::Domain) }
}

/// Splits an address into its local part and its domain without allocating.
///
/// # Errors
/// [`IdError::Address`] when it is none. The domain is not folded to lower case here.
pub fn split_address(text: &str) -> Result<(&str, &str), IdError> {
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(IdError::Address);
    }
    let (local, domain) = text.rsplit_once('@').ok_or(IdError::Address)?;
    let local_ok =
        !local.is_empty() && local.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '@');
    if !local_ok || check_domain(domain).is_err() {
        return Err(IdError::Address);
    }
    Ok((local, domain))
}

impl Domain {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Address {
    /// The address itself: never for a log line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `@`, in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl NetworkId {
    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EnvelopeId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// From the 16 bytes it travels as.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes it travels as.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The hyphenated text an API shows: never for a log line.
    #[must_use]
    pub fn to_text(self) -> String {
        self.0.hyphenated().to_string()
    }
}

impl FromStr for Domain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        check_domain(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl FromStr for Address {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (local, domain) = split_address(text)?;
        if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(Self(format!("{local}@{}", domain.to_ascii_lowercase()).into()));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for NetworkId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let byte_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let ok = !text.is_empty() && text.len() <= NETWORK_BYTES_MAX && text.bytes().all(byte_ok);
        if ok { Ok(Self(text.into())) } else { Err(IdError::Network) }
    }
}

impl FromStr for EnvelopeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| IdError::Envelope)
    }
}

/// Text identifiers read from JSON and TOML through their own parser, and look maps up by `&str`.
macro_rules! text_id {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

text_id!(Domain);
text_id!(Address);
text_id!(NetworkId);

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if shows(Detail::Username) { f.write_str(&self.0) } else { f.write_str("‹address›") }
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if shows(Detail::Messaging) {
            write!(f, "{}", self.0.hyphenated())
        } else {
            f.write_str("‹envelope›")
        }
    }
}

impl fmt::Debug for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_print_who_they_are() {
        let address: Address = "Ann@Alpha.Test".parse().unwrap();
        assert_eq!(address.as_str(), "Ann@alpha.test");
        assert_eq!(address.domain(), "alpha.test");
        assert!(!format!("{address} {address:?}").contains("Ann"));
    }

    #[test]
    fn what_is_no_identifier_is_refused() {
        for bad in ["", ".", "a..b", "-a.b", "a b", "a@b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Domain>(), Err(IdError::Domain), "{bad}");
        }
        for bad in ["", "@b", "a@", "a b@c", "a\n@c", "a@b@c d", "a@-b"] {
            assert_eq!(bad.parse::<Address>(), Err(IdError::Address), "{bad}");
        }
        for bad in ["", "A", "a b", &"n".repeat(65)] {
            assert_eq!(bad.parse::<NetworkId>(), Err(IdError::Network), "{bad}");
        }
    }
}
