//! Join tokens: JWTs (RFC 7519) that say who may join which call as what.
//!
//! A token is signed with HS256 by whoever has the node's secret, or with EdDSA by a calling service whose Ed25519
//! public key the operator configured. A key is tied to its one algorithm when it is read: what a token's header says
//! only picks among them, so no public key is ever taken for a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use trunkline_common::secret::{self, SecretError};
use trunkline_relay_proto::event::Role;
use zeroize::Zeroizing;

use crate::config::TokensConfig;

/// Bytes of a token. Claims of our own take about 300; more lets one request take more time.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Characters of a participant's name: it goes to everybody on the call with every roster.
pub const NAME_CHARS_MAX: usize = 128;

/// How far clocks may be apart. Longer forgives more, and lets an expired token in for as long.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// How long a token that is minted here is good for, unless the caller says.
pub const TTL_DEFAULT: Duration = Duration::from_secs(3600);

/// How long it can be good for: there is no list of revoked ones, so a leaked one opens its call for as long.
pub const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Bytes of the HS256 secret, as RFC 7518 (section 3.2) asks for.
const SECRET_BYTES_MIN: usize = 32;

/// Bytes of an Ed25519 public key, which are the last of its SubjectPublicKeyInfo (RFC 8410).
const ED25519_BYTES: usize = 32;

/// What stands before them.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The participant's name.
    pub participant: Arc<str>,
    /// The only call it opens.
    pub call: String,
    /// What the participant may do.
    pub role: Role,
}

/// Why a token opens nothing. The text is for whoever sent it, and says nothing that a forger would like to know: the
/// times are looked at once the signature was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a JWT, not signed by anybody we know, or without the claims it needs.
    #[error("this is no valid join token: ask the calling service for one")]
    Invalid,
    /// `exp` has passed.
    #[error("the join token has expired: ask the calling service for a new one")]
    Expired,
    /// `nbf` has not come.
    #[error("the join token is not valid yet: is a clock wrong?")]
    NotYet,
}

/// Why keys cannot be used: the operator's to mend.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The secret's file.
    #[error("tokens.hs256_secret_file: {0}")]
    File(#[from] SecretError),
    /// What is in it.
    #[error("tokens.hs256_secret_file: {} holds something else: expected the base64 of 32 bytes or more", .0.display())]
    Secret(PathBuf),
    /// A public key's file.
    #[error("tokens.eddsa_public_keys: cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error(
        "tokens.eddsa_public_keys: {} holds no Ed25519 public key: expected `-----BEGIN PUBLIC KEY-----`, as `openssl \
         pkey -pubout` writes it",
        .0.display()
    )]
    PublicKey(PathBuf),
}

/// The node has no secret to mint with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node has no tokens.hs256_secret_file: tokens are signed by whoever has the keys it trusts")]
pub struct NoSecret;

/// Checks tokens, and mints them.
pub struct Tokens {
    keys: Vec<Key>,
    minting: Option<EncodingKey>,
    issuer: Option<String>,
    audience: Option<String>,
}

/// A key and all that a token signed with it must be.
struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    call: String,
    #[serde(default)]
    role: Role,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
}

/// `aud` is a text or a list of them (RFC 7519, section 4.1.3).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// A new secret, as the text that rests in a file.
#[must_use]
pub fn generate_secret() -> Zeroizing<String> {
    let secret = Zeroizing::new(trunkline_common::token::random::<32>());
    Zeroizing::new(STANDARD.encode(&secret[..]))
}

/// Whether a text can be a participant's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= NAME_CHARS_MAX && !text.chars().any(char::is_control)
}

impl Tokens {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn load(config: &TokensConfig) -> Result<Self, KeyError> {
        let mut tokens = Self::new(config.issuer.clone(), config.audience.clone());
        if let Some(file) = &config.hs256_secret_file {
            let text = secret::read(file)?;
            let decoded = STANDARD.decode(text.trim()).map(Zeroizing::new);
            let secret = decoded.ok().filter(|secret| secret.len() >= SECRET_BYTES_MIN);
            tokens.trust_secret(&secret.ok_or_else(|| KeyError::Secret(file.clone()))?);
        }
        for file in &config.eddsa_public_keys {
            tokens.trust_public_key(&read_public_key(file)?);
        }
        Ok(tokens)
    }

    /// Without any key.
    #[must_use]
    pub fn new(issuer: Option<String>, audience: Option<String>) -> Self {
        Self { keys: Vec::new(), minting: None, issuer, audience }
    }

    /// Takes tokens that are signed with this secret (HS256), and mints with it.
    pub fn trust_secret(&mut self, secret: &[u8]) {
        self.trust(Algorithm::HS256, DecodingKey::from_secret(secret));
        self.minting = Some(EncodingKey::from_secret(secret));
    }

    /// Takes tokens that are signed with the private key of this Ed25519 public key (EdDSA).
    pub fn trust_public_key(&mut self, key: &[u8; ED25519_BYTES]) {
        self.trust(Algorithm::EdDSA, DecodingKey::from_ed_der(key));
    }

    /// What a token allows.
    ///
    /// # Errors
    /// When it opens nothing.
    pub fn verify(&self, token: &str) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let mut error = TokenError::Invalid;
        for key in self.keys.iter().filter(|key| key.algorithm == header.alg) {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &key.validation) {
                Ok(decoded) => return decoded.claims.grant(),
                Err(refused) => error = why(refused.kind()).unwrap_or(error),
            }
        }
        Err(error)
    }

    /// A token for one participant of one call, good until `expires_s` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// When there is no secret to sign it with.
    ///
    /// # Panics
    /// Never: the claims are plain data, and the key is of the algorithm's kind.
    pub fn mint(&self, grant: &Grant, expires_s: u64) -> Result<String, NoSecret> {
        let claims = Claims {
            sub: grant.participant.to_string(),
            call: grant.call.clone(),
            role: grant.role,
            exp: expires_s,
            iss: self.issuer.clone(),
            aud: self.audience.clone().map(Audience::One),
        };
        let key = self.minting.as_ref().ok_or(NoSecret)?;
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key);
        Ok(token.expect("invariant: plain claims, and an HMAC key for HS256"))
    }

    fn trust(&mut self, algorithm: Algorithm, key: DecodingKey) {
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp", "sub"];
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            // A token for several services is as good as one that names none.
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        self.keys.push(Key { algorithm, key, validation });
    }
}

impl Claims {
    fn grant(self) -> Result<Grant, TokenError> {
        if !is_name(&self.sub) || self.call.is_empty() {
            return Err(TokenError::Invalid);
        }
        Ok(Grant { participant: self.sub.into(), call: self.call, role: self.role })
    }
}

/// What is said about a token whose signature was right; `None` for all others.
fn why(kind: &ErrorKind) -> Option<TokenError> {
    match kind {
        ErrorKind::ExpiredSignature => Some(TokenError::Expired),
        ErrorKind::ImmatureSignature => Some(TokenError::NotYet),
        _ => None,
    }
}

fn read_public_key(file: &Path) -> Result<[u8; ED25519_BYTES], KeyError> {
    let pem = std::fs::read(file).map_err(|source| KeyError::Read { path: file.to_owned(), source })?;
    let bad = || KeyError::PublicKey(file.to_owned());
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|_| bad())?;
    let key = spki.strip_prefix(&ED25519_SPKI_PREFIX).and_then(|key| key.try_into().ok()).ok_or_else(bad)?;
    ParsedPublicKey::new(&ED25519, key).map(|_| key).map_err(|_| bad())
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
