//! API keys: what a peer proves to be the one the operator meant, beside its certificate.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use trunkline_common::token;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Live keys per peer and direction: the one in use, and the one that replaces it.
pub const KEYS_LIVE_MAX: usize = 2;

/// Text before an API key, so that a leaked one can be recognised.
const PREFIX: &str = "tlk";

/// TLS exporter values of one connection (RFC 8446, section 7.5): what proofs are bound to.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ChannelBinding {
    /// For what the side that dialled proves.
    pub dialer: [u8; 32],
    /// For what the side that accepted proves.
    pub acceptor: [u8; 32],
    /// For deriving the next API key.
    pub rotation: [u8; 32],
}

/// Exporter labels of the three values, with an empty context.
pub const EXPORTER_DIALER: &[u8] = b"EXPORTER-trunkline-1-dialer";
/// See [`EXPORTER_DIALER`].
pub const EXPORTER_ACCEPTOR: &[u8] = b"EXPORTER-trunkline-1-acceptor";
/// See [`EXPORTER_DIALER`].
pub const EXPORTER_ROTATION: &[u8] = b"EXPORTER-trunkline-1-rotation";

/// A 256-bit random key with an id. The id may be shown and logged, the secret never.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ApiKey {
    /// Names it on the wire and in the audit log.
    pub id: String,
    secret: Secret,
}

#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

/// A text that is no API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an API key: expected tlk_<id>_<secret> as the other operator's gateway printed it")]
pub struct KeyError;

impl ApiKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        let id: [u8; 6] = token::random();
        Self { id: id.iter().map(|byte| format!("{byte:02x}")).collect(), secret: Secret(token::random()) }
    }

    /// From the text another gateway printed.
    ///
    /// # Errors
    /// [`KeyError`] when it is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.trim().splitn(3, '_');
        let (Some(PREFIX), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError);
        };
        let mut decoded = URL_SAFE_NO_PAD.decode(secret).map_err(|_| KeyError)?;
        let secret = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| KeyError)?;
        decoded.zeroize();
        if !valid_id(id) {
            return Err(KeyError);
        }
        Ok(Self { id: id.to_owned(), secret: Secret(secret) })
    }

    /// The text an operator hands to the other one: a secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{PREFIX}_{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.secret.0))
    }

    /// What HELLO carries: HMAC-SHA256(key, exporter value).
    #[must_use]
    pub fn prove(&self, exporter: &[u8; 32]) -> [u8; 32] {
        self.mac(exporter)
    }

    /// Whether `proof` was made with this key on this connection, in constant time.
    #[must_use]
    pub fn verify(&self, exporter: &[u8; 32], proof: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.mac(exporter), proof).is_ok()
    }

    /// The key that replaces this one, made on both sides from this one and the connection, so that it never
    /// crosses the wire: HMAC-SHA256(key, exporter value ‖ new id).
    #[must_use]
    pub fn derive(&self, exporter: &[u8; 32], id: &str) -> Self {
        let mut message = exporter.to_vec();
        message.extend_from_slice(id.as_bytes());
        Self { id: id.to_owned(), secret: Secret(self.mac(&message)) }
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret.0);
        let mut mac = [0; 32];
        mac.copy_from_slice(hmac::sign(&key, message).as_ref());
        mac
    }
}

/// Whether a peer may name a key so.
#[must_use]
pub fn valid_id(id: &str) -> bool {
    (4..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("expected 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form_and_never_prints() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(&key.to_text()).unwrap(), key);
        assert!(!format!("{key:?}").contains(&key.to_text()[17..]));
        assert_eq!(ApiKey::parse("tlk_abcd_short"), Err(KeyError));
    }

    #[test]
    fn a_proof_holds_for_one_key_and_one_connection() {
        let (key, other) = (ApiKey::generate(), ApiKey::generate());
        let proof = key.prove(&[1; 32]);
        assert!(key.verify(&[1; 32], &proof));
        assert!(!key.verify(&[2; 32], &proof));
        assert!(!other.verify(&[1; 32], &proof));
    }

    #[test]
    fn both_sides_derive_the_same_next_key() {
        let key = ApiKey::generate();
        assert_eq!(key.derive(&[7; 32], "next1"), key.derive(&[7; 32], "next1"));
        assert_ne!(key.derive(&[7; 32], "next1"), key.derive(&[8; 32], "next1"));
    }
}
