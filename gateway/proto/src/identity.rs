//! Our keys and certificates towards peers: replaced by ones that peers were told of before, and for replicas kept in the
//! store, which they share.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::admin::AdminError;
use crate::certificate::Certificate;
use crate::core::{After, Core};
use crate::pin::Pin;
use crate::state::{Key, to_json};
use crate::store::PeerKey;
use crate::time::Time;

/// A private key with its certificate, as the texts of two PEM files. Never shown, logged or audited.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct PemPair {
    /// The key.
    pub key: String,
    /// The certificate, then its chain if any.
    pub certificate: String,
}

/// The pairs of a deployment whose replicas share them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PemPairs {
    /// What handshakes show.
    pub current: PemPair,
    /// What they will show: announced to peers.
    #[serde(default)]
    pub next: Option<PemPair>,
}

impl PemPair {
    /// The certificate's DER.
    fn der(&self) -> Result<Vec<u8>, AdminError> {
        let parsed = Certificate::parse_pem(&self.certificate);
        parsed.map(|(_, der)| der).map_err(|error| AdminError::Invalid(error.to_string()))
    }
}

impl fmt::Debug for PemPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemPair").finish_non_exhaustive()
    }
}

impl Core {
    /// Announces to all peers which certificate comes next.
    pub(crate) fn announce_next(&mut self, now: Time, certificate: Bytes) -> Result<(), AdminError> {
        Pin::of_certificate(&certificate).map_err(|error| AdminError::Invalid(error.to_string()))?;
        self.put(now, &Key::NextCertificate, certificate.clone());
        self.next_certificate = Some(certificate);
        for key in self.peer_keys() {
            // Once it is durable: peers are not to wait for a certificate whose key was lost.
            if let Some((link, keys)) = self.announcement(key) {
                self.after_commit(now, After::Send(link, keys));
            }
        }
        Ok(())
    }

    /// Keeps the next pair in the store and announces it. What the store has already counts before what is given: whoever
    /// asked may not have known of it.
    pub(crate) fn keep_next(&mut self, now: Time, current: PemPair, next: PemPair) -> Result<(), AdminError> {
        let pairs = match self.directory.identity() {
            Some(kept) => PemPairs { current: kept.current.clone(), next: kept.next.clone().or(Some(next)) },
            None => PemPairs { current, next: Some(next) },
        };
        let Some(next) = pairs.next.as_ref().filter(|next| **next != pairs.current) else {
            return Err(AdminError::Conflict("the next certificate is in use already".to_owned()));
        };
        self.announce_next(now, next.der()?.into())?;
        self.keep_identity(now, pairs);
        Ok(())
    }

    /// The next certificate is in use: nothing is announced any more.
    pub(crate) fn activate_next(&mut self, now: Time, pin: Pin) -> Result<(), AdminError> {
        if let Some(kept) = self.directory.identity().cloned() {
            let is_meant =
                |next: &&PemPair| Certificate::parse_pem(&next.certificate).is_ok_and(|(c, _)| c.pin == pin);
            let Some(next) = kept.next.as_ref().filter(is_meant) else {
                return Err(AdminError::Conflict(format!(
                    "{pin} is not the next certificate (any more): look at it with `identity show`"
                )));
            };
            self.keep_identity(now, PemPairs { current: next.clone(), next: None });
        }
        self.next_certificate = None;
        self.delete(now, &Key::NextCertificate);
        for key in self.peer_keys() {
            self.delete(now, &Key::Ready(key));
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.ready = None;
            }
        }
        Ok(())
    }

    fn keep_identity(&mut self, now: Time, pairs: PemPairs) {
        self.put(now, &Key::Identity, to_json(&pairs));
        self.directory.set_identity(Arc::new(pairs));
        self.after_commit(now, After::DirectoryChanged);
    }

    fn peer_keys(&self) -> Vec<PeerKey> {
        self.peers.keys().copied().collect()
    }
}
