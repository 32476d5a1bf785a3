//! What the messaging page seals, in its format: see `web/sealed.js` and docs/decisions/0018.
//!
//! ```text
//! payload   version 1 (1 byte) | counter (8, big-endian) | salt (32) | AES-256-GCM ciphertext and tag
//! key, nonce = HKDF-SHA256(ECDH P-256, salt, "trunkline-demo/1 seal" | sender's key | recipient's key), 32 + 12 bytes
//! bound     the first 41 bytes, then kind, conversation, from, to and id, each after its length (4, big-endian)
//! ```
//!
//! A public key is the 65 bytes of an uncompressed point.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The first byte of everything that is sealed.
const VERSION: u8 = 1;

/// Bytes of a public key.
pub(crate) const PUBLIC_BYTES: usize = 65;

/// Bytes before the ciphertext: version, counter, salt.
const HEADER_BYTES: usize = 1 + 8 + SALT_BYTES;

const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// Groups of a safety number. Fewer could be searched for by somebody in between.
const SAFETY_GROUPS: usize = 12;

/// What keys are derived for.
const SEAL_INFO: &[u8] = b"trunkline-demo/1 seal";

/// What else is hashed.
const CONVERSATION_LABEL: &str = "trunkline-demo/1 conversation";
const SAFETY_LABEL: &str = "trunkline-demo/1 safety";

/// Why something is not opened, or not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SealError {
    /// The system, or a key that is none.
    #[error("the key agreement failed: the other's public key is no point of P-256")]
    Agreement,
    /// Too short, or of another version.
    #[error("the payload is not of this format")]
    Format,
    /// Changed, moved elsewhere, or sealed for others.
    #[error("the payload does not authenticate: it was changed, or is not what its envelope says")]
    Unauthentic,
    /// It came before.
    #[error("the payload is a replay")]
    Replayed,
}

/// One person's key pair, which lives as long as this.
pub(crate) struct Identity {
    private: PrivateKey,
    public: Vec<u8>,
}

/// What an envelope says about its payload, all of which is bound to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    /// `message` or `call`.
    pub(crate) kind: &'a str,
    /// Which conversation.
    pub(crate) conversation: &'a str,
    /// Who sent it.
    pub(crate) from: &'a str,
    /// For whom.
    pub(crate) to: &'a str,
    /// The envelope's id.
    pub(crate) id: &'a str,
}

/// What is known of another person: the key that was seen first, and how far each side has counted.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    /// The pinned key.
    pub(crate) key: Vec<u8>,
    sent: u64,
    received: u64,
}

/// The payload of a `control` envelope: somebody's public key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyNotice {
    v: u8,
    key: String,
    /// Whether the recipient's key is wanted in return.
    pub(crate) ask: bool,
}

/// Makes [`Identity::derive`] give as many bytes as a key and a nonce have.
struct KeyAndNonce;

impl KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        KEY_BYTES + NONCE_BYTES
    }
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no key.
    pub(crate) fn generate() -> Result<Self, SealError> {
        Self::of(PrivateKey::generate(&ECDH_P256).map_err(|_| SealError::Agreement)?)
    }

    fn of(private: PrivateKey) -> Result<Self, SealError> {
        let public = private.compute_public_key().map_err(|_| SealError::Agreement)?.as_ref().to_vec();
        Ok(Self { private, public })
    }

    /// The public key.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// What tells it to others.
    pub(crate) fn notice(&self, ask: bool) -> KeyNotice {
        KeyNotice { v: VERSION, key: URL_SAFE_NO_PAD.encode(&self.public), ask }
    }

    /// Seals for a contact, and counts.
    ///
    /// # Errors
    /// When the contact's key is none.
    pub(crate) fn seal(
        &self,
        contact: &mut Contact,
        bound: &Bound<'_>,
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let salt = trunkline_common::token::random::<SALT_BYTES>();
        let counter = contact.sent.checked_add(1).ok_or(SealError::Format)?;
        let payload = self.seal_with(&contact.key, bound, counter, &salt, plain)?;
        contact.sent = counter;
        Ok(payload)
    }

    fn seal_with(
        &self,
        recipient: &[u8],
        bound: &Bound<'_>,
        counter: u64,
        salt: &[u8; SALT_BYTES],
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut payload = vec![VERSION];
        payload.extend_from_slice(&counter.to_be_bytes());
        payload.extend_from_slice(salt);
        let aad = bound.aad(&payload);
        let (key, nonce) = self.derive(recipient, salt, &self.public, recipient)?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed)
            .map_err(|_| SealError::Unauthentic)?;
        payload.append(&mut sealed);
        Ok(payload)
    }

    /// Opens what a contact sealed, once.
    ///
    /// # Errors
    /// When it is not from that contact, not what its envelope says, or came before.
    pub(crate) fn open(
        &self,
        contact: &mut Contact,
        bound: &Bound<'_>,
        payload: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let (header, sealed) = payload.split_at_checked(HEADER_BYTES).ok_or(SealError::Format)?;
        let (start, salt) = header.split_at_checked(HEADER_BYTES - SALT_BYTES).ok_or(SealError::Format)?;
        let (&[VERSION], counter) = start.split_first_chunk::<1>().ok_or(SealError::Format)? else {
            return Err(SealError::Format);
        };
        let counter = u64::from_be_bytes(counter.try_into().map_err(|_| SealError::Format)?);
        let (key, nonce) = self.derive(&contact.key, salt, &contact.key, &self.public)?;
        let mut sealed = sealed.to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(bound.aad(header)), &mut sealed)
            .map_err(|_| SealError::Unauthentic)?;
        // Counters rise in a conversation, which envelopes do not overtake each other in.
        if counter <= contact.received {
            return Err(SealError::Replayed);
        }
        contact.received = counter;
        Ok(plain.to_vec())
    }

    fn derive(
        &self,
        other: &[u8],
        salt: &[u8],
        sender: &[u8],
        recipient: &[u8],
    ) -> Result<(LessSafeKey, Nonce), SealError> {
        let other = UnparsedPublicKey::new(&ECDH_P256, other);
        let mut bytes = [0; KEY_BYTES + NONCE_BYTES];
        agree(&self.private, other, SealError::Agreement, |secret| {
            let info = [SEAL_INFO, sender, recipient];
            let extracted = Salt::new(HKDF_SHA256, salt).extract(secret);
            let expanded = extracted.expand(&info, KeyAndNonce).map_err(|_| SealError::Agreement)?;
            expanded.fill(&mut bytes).map_err(|_| SealError::Agreement)
        })?;
        let (key, nonce) = bytes.split_at(KEY_BYTES);
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::Agreement)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Agreement)?;
        Ok((LessSafeKey::new(key), nonce))
    }
}

impl Contact {
    /// With a key that was just seen first.
    pub(crate) fn pinned(key: Vec<u8>) -> Self {
        Self { key, sent: 0, received: 0 }
    }
}

impl KeyNotice {
    /// The key, when it can be one.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn key(&self) -> Result<Vec<u8>, SealError> {
        let key = URL_SAFE_NO_PAD.decode(&self.key).map_err(|_| SealError::Format)?;
        if self.v == VERSION && key.len() == PUBLIC_BYTES { Ok(key) } else { Err(SealError::Format) }
    }
}

impl Bound<'_> {
    fn aad(&self, header: &[u8]) -> Vec<u8> {
        let fields = [self.kind, self.conversation, self.from, self.to, self.id];
        [header, &framed(fields.map(str::as_bytes))].concat()
    }
}

/// The conversation of two people: the same for both, and telling nobody who they are.
pub(crate) fn conversation(one: &str, other: &str) -> String {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    let hash = digest(&SHA256, &framed([CONVERSATION_LABEL, low, high].map(str::as_bytes)));
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..16).unwrap_or_default())
}

/// What two people compare to know that nobody is in between.
pub(crate) fn safety_number(one: (&str, &[u8]), other: (&str, &[u8])) -> String {
    let (low, high) = if one.0 < other.0 { (one, other) } else { (other, one) };
    let hash = digest(
        &SHA512,
        &framed([SAFETY_LABEL.as_bytes(), low.0.as_bytes(), low.1, high.0.as_bytes(), high.1]),
    );
    let groups = hash.as_ref().chunks_exact(5).take(SAFETY_GROUPS).map(|five| {
        let value = five.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        format!("{:05}", value % 100_000)
    });
    groups.collect::<Vec<_>>().join(" ")
}

/// Each field after its length.
fn framed<const N: usize>(fields: [&[u8]; N]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        // A field is an address, an id or a key: far below 4 GiB.
        out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound<'_> = Bound {
        kind: "message",
        conversation: "c",
        from: "ann@alpha.test",
        to: "ben@beta.test",
        id: "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11",
    };

    fn pair() -> (Identity, Identity, Contact, Contact) {
        let (ann, ben) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (of_ann, of_ben) =
            (Contact::pinned(ann.public().to_vec()), Contact::pinned(ben.public().to_vec()));
        (ann, ben, of_ann, of_ben)
    }

    #[test]
    fn what_is_sealed_opens_once_and_only_as_what_it_is() {
        let (ann, ben, mut of_ann, mut of_ben) = pair();
        let sealed = ann.seal(&mut of_ben, &BOUND, b"hello").unwrap();
        for other in [
            Bound { kind: "call", ..BOUND },
            Bound { conversation: "d", ..BOUND },
            Bound { from: "amir@alpha.test", ..BOUND },
            Bound { to: "bea@beta.test", ..BOUND },
            Bound { id: "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b12", ..BOUND },
            // The border between two fields is bound, too.
            Bound { kind: "messag", conversation: "ec", ..BOUND },
        ] {
            assert_eq!(ben.open(&mut of_ann, &other, &sealed), Err(SealError::Unauthentic));
        }
        assert_eq!(ben.open(&mut of_ann, &BOUND, &sealed).unwrap(), b"hello");
        assert_eq!(ben.open(&mut of_ann, &BOUND, &sealed), Err(SealError::Replayed));
        // Nor by its sender, who has the same secret.
        assert_eq!(ann.open(&mut of_ben, &BOUND, &sealed), Err(SealError::Unauthentic));
    }

    #[test]
    fn no_bit_of_a_payload_can_be_changed() {
        let (ann, ben, mut of_ann, mut of_ben) = pair();
        let sealed = ann.seal(&mut of_ben, &BOUND, b"hello").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(ben.open(&mut of_ann, &BOUND, &changed).is_err(), "byte {at}");
            assert!(ben.open(&mut of_ann, &BOUND, &sealed[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn what_the_page_seals_opens_here_and_the_other_way_round() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/sealed.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let bytes = |value: &serde_json::Value| URL_SAFE_NO_PAD.decode(text(value)).unwrap();
        let identity = |name: &str| {
            let private = bytes(&vectors[name]["private"]);
            Identity::of(PrivateKey::from_private_key(&ECDH_P256, &private).unwrap()).unwrap()
        };
        let (ann, ben) = (identity("ann"), identity("ben"));
        assert_eq!(ann.public(), bytes(&vectors["ann"]["public"]));
        let field = |name: &str| text(&vectors["bound"][name]);
        let (kind, conversation_id, from) = (field("kind"), field("conversation"), field("from"));
        let (to, id) = (field("to"), field("id"));
        let bound = Bound { kind: &kind, conversation: &conversation_id, from: &from, to: &to, id: &id };
        let (payload, plain) = (bytes(&vectors["payload"]), text(&vectors["plain"]));
        let mut of_ann = Contact::pinned(ann.public().to_vec());
        assert_eq!(ben.open(&mut of_ann, &bound, &payload).unwrap(), plain.as_bytes());
        let counter = vectors["counter"].as_u64().unwrap();
        let salt = payload[9..HEADER_BYTES].try_into().unwrap();
        let here = ann.seal_with(ben.public(), &bound, counter, &salt, plain.as_bytes()).unwrap();
        assert_eq!(here, payload);
        assert_eq!(conversation(&from, &to), conversation_id);
        assert_eq!(conversation(&to, &from), conversation_id);
        let number = safety_number((&to, ben.public()), (&from, ann.public()));
        assert_eq!(number, text(&vectors["safety"]));
    }
}
