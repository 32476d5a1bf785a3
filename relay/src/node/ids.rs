//! Names of calls and sessions in URLs.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use trunkline_common::redact::{Detail, Redacted};

/// Random bytes of an identifier: enough that nobody guesses one.
const RANDOM_BYTES: usize = 16;

/// Characters they take.
const RANDOM_CHARS: usize = 22;

/// A call: the node it lives on, which an ingress routes by, and 128 random bits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    text: String,
    node: u16,
}

impl CallId {
    /// A new one on a node.
    #[must_use]
    pub fn random(node: u16) -> Self {
        Self { text: format!("{node:04x}-{}", random_text()), node }
    }

    /// The node it lives on.
    #[must_use]
    pub fn node(&self) -> u16 {
        self.node
    }

    /// As in URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for CallId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (node, random) = text.split_once('-').ok_or(IdError)?;
        let is_hex = node.len() == 4 && node.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || !is_random(random) {
            return Err(IdError);
        }
        Ok(Self { text: text.to_owned(), node: u16::from_str_radix(node, 16).map_err(|_| IdError)? })
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// It tells which call, so logs show it only where the operator allows.
impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Redacted::new(&self.text, Detail::Messaging, "call"), f)
    }
}

/// A participant's session: 128 random bits, known to the participant alone. It is a credential, so it does not print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(random_text())
    }

    /// As in the session's URL.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_random(text) { Ok(Self(text.to_owned())) } else { Err(IdError) }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId")
    }
}

/// Not an identifier of this node's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an identifier that a relay gave out")]
pub struct IdError;

fn is_random(text: &str) -> bool {
    text.len() == RANDOM_CHARS
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random::<RANDOM_BYTES>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_reads_back_with_its_node() {
        let id = CallId::random(0xbeef);
        let read: CallId = id.as_str().parse().expect("its own");
        assert_eq!((read.node(), &read), (0xbeef, &id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "beef",
            "beef-",
            "BEEF-AAAAAAAAAAAAAAAAAAAAAA",
            "beef-AAAAAAAAAAAAAAAAAAAA/A",
            "be-AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(text.parse::<CallId>().is_err(), "{text}");
        }
        assert!("AAAAAAAAAAAAAAAAAAAAAA".parse::<SessionId>().is_ok());
    }
}
