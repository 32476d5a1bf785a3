//! SPKI pins (RFC 7469, section 2.4: SHA-256 of the SubjectPublicKeyInfo): which keys a peer may show.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Pins kept for one peer. Enough for a rotation that overlaps a revocation; more would hide forgotten ones.
pub const PINS_MAX: usize = 4;

/// SHA-256 of a certificate's SubjectPublicKeyInfo. Prints as base64, as `openssl` and browsers show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

/// What a pin is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinState {
    /// Announced by the peer; becomes current when first used.
    Next,
    /// In use.
    Current,
    /// Was in use; still accepted until the operator or the next rotation drops it.
    Retiring,
    /// Never accepted again, not even when announced.
    Revoked,
}

/// One pin and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinEntry {
    /// Which key.
    pub pin: Pin,
    /// What it is good for.
    pub state: PinState,
}

/// The pins of one peer, at most [`PINS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinSet(Vec<PinEntry>);

/// Why a certificate or pin cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// Not DER of an X.509 certificate.
    #[error("not an X.509 certificate in DER")]
    Certificate,
    /// Not 32 bytes in base64.
    #[error("not a pin: expected the base64 of 32 bytes")]
    Pin,
    /// The key was revoked before.
    #[error("this key was revoked: the peer must make a new one")]
    Revoked,
}

impl Pin {
    /// The pin of a certificate.
    ///
    /// # Errors
    /// [`PinError::Certificate`] when `der` is none.
    pub fn of_certificate(der: &[u8]) -> Result<Self, PinError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| PinError::Certificate)?;
        if !rest.is_empty() {
            return Err(PinError::Certificate);
        }
        Ok(Self::of_spki(certificate.tbs_certificate.subject_pki.raw))
    }

    /// The pin of a SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Self(pin)
    }

    /// From its 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PinSet {
    /// A set with one current pin.
    #[must_use]
    pub fn current(pin: Pin) -> Self {
        Self(vec![PinEntry { pin, state: PinState::Current }])
    }

    /// Whether a peer may show this key.
    #[must_use]
    pub fn accepts(&self, pin: Pin) -> bool {
        self.0.iter().any(|entry| entry.pin == pin && entry.state != PinState::Revoked)
    }

    /// All pins, newest last.
    #[must_use]
    pub fn entries(&self) -> &[PinEntry] {
        &self.0
    }

    /// The peer announced the key it will use next. Answers whether anything changed.
    ///
    /// # Errors
    /// [`PinError::Revoked`] when that key was revoked.
    pub fn announce(&mut self, pin: Pin) -> Result<bool, PinError> {
        match self.0.iter().find(|entry| entry.pin == pin) {
            Some(entry) if entry.state == PinState::Revoked => return Err(PinError::Revoked),
            Some(_) => return Ok(false),
            None => {}
        }
        self.0.retain(|entry| entry.state != PinState::Next);
        self.push(pin, PinState::Next);
        Ok(true)
    }

    /// The peer showed this key: a next one becomes current, the current one retires. Answers whether
    /// anything changed.
    pub fn used(&mut self, pin: Pin) -> bool {
        let is_next = self.0.iter().any(|entry| entry.pin == pin && entry.state == PinState::Next);
        if !is_next {
            return false;
        }
        self.0.retain(|entry| entry.state != PinState::Retiring);
        for entry in &mut self.0 {
            match entry.state {
                PinState::Current => entry.state = PinState::Retiring,
                PinState::Next if entry.pin == pin => entry.state = PinState::Current,
                _ => {}
            }
        }
        true
    }

    /// Never accepts this key again. Answers whether anything changed.
    pub fn revoke(&mut self, pin: Pin) -> bool {
        match self.0.iter_mut().find(|entry| entry.pin == pin) {
            Some(entry) if entry.state == PinState::Revoked => false,
            Some(entry) => {
                entry.state = PinState::Revoked;
                true
            }
            None => {
                self.push(pin, PinState::Revoked);
                true
            }
        }
    }

    /// The operator trusts this key as the peer's current one, whatever was trusted before; revoked ones stay.
    ///
    /// # Errors
    /// [`PinError::Revoked`] when it was revoked.
    pub fn replace(&mut self, pin: Pin) -> Result<(), PinError> {
        if self.0.iter().any(|entry| entry.pin == pin && entry.state == PinState::Revoked) {
            return Err(PinError::Revoked);
        }
        self.0.retain(|entry| entry.state == PinState::Revoked);
        self.push(pin, PinState::Current);
        Ok(())
    }

    /// Makes room by forgetting what matters least: the oldest revoked pin, then the oldest retiring one.
    fn push(&mut self, pin: Pin, state: PinState) {
        while self.0.len() >= PINS_MAX {
            let least = [PinState::Revoked, PinState::Retiring, PinState::Next, PinState::Current]
                .iter()
                .find_map(|state| self.0.iter().position(|entry| entry.state == *state));
            match least {
                Some(at) => drop(self.0.remove(at)),
                None => break,
            }
        }
        self.0.push(PinEntry { pin, state });
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = STANDARD.decode(text).map_err(|_| PinError::Pin)?;
        Ok(Self(bytes.try_into().map_err(|_| PinError::Pin)?))
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(n: u8) -> Pin {
        Pin::from_bytes([n; 32])
    }

    #[test]
    fn a_next_pin_becomes_current_when_used_and_the_old_one_retires() {
        let mut pins = PinSet::current(pin(1));
        assert_eq!(pins.announce(pin(2)), Ok(true));
        assert!(pins.accepts(pin(1)) && pins.accepts(pin(2)));
        assert!(pins.used(pin(2)));
        let states: Vec<_> = pins.entries().iter().map(|e| e.state).collect();
        assert_eq!(states, [PinState::Retiring, PinState::Current]);
    }

    #[test]
    fn a_revoked_pin_is_refused_even_when_announced_again() {
        let mut pins = PinSet::current(pin(1));
        assert!(pins.revoke(pin(1)));
        assert!(!pins.accepts(pin(1)));
        assert_eq!(pins.announce(pin(1)), Err(PinError::Revoked));
        assert_eq!(pins.replace(pin(1)), Err(PinError::Revoked));
    }

    #[test]
    fn a_set_never_grows_beyond_its_limit_and_keeps_the_current_pin() {
        let mut pins = PinSet::current(pin(1));
        for n in 2..100 {
            pins.revoke(pin(n));
        }
        assert_eq!(pins.entries().len(), PINS_MAX);
        assert!(pins.accepts(pin(1)));
    }
}
