//! Random bearer tokens, and the hashes they are stored as.
//!
//! A token carries 256 bits of randomness, so one SHA-256 is a safe way to keep it: there is nothing to guess.

use aws_lc_rs::{constant_time, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::sha256;

/// SHA-256 of a token: what the store keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash([u8; 32]);

/// A new token: `prefix` says what it opens, so that a leaked one can be recognised.
#[must_use]
pub fn generate(prefix: &str) -> Zeroizing<String> {
    let secret = Zeroizing::new(random::<32>());
    Zeroizing::new(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(&secret[..])))
}

/// Random bytes from the operating system's generator.
///
/// # Panics
/// When the generator fails: nothing that follows would be safe.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

impl TokenHash {
    /// The hash `token` is stored as.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(sha256(token.as_bytes()))
    }

    /// Whether `token` is the one, in constant time.
    #[must_use]
    pub fn matches(&self, token: &str) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &Self::of(token).0).is_ok()
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_matches_its_hash() {
        let token = generate("tla");
        assert!(TokenHash::of(&token).matches(&token));
        assert!(!TokenHash::of(&token).matches(&generate("tla")));
        assert!(!format!("{:?}", TokenHash::of(&token)).contains(&token[4..]));
    }
}
