//! What a handshake is for.

use std::fmt;

use dimpl::SrtpProfile;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// An SRTP profile (RFC 5764, RFC 7714).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `SRTP_AEAD_AES_256_GCM`.
    AeadAes256Gcm,
    /// `SRTP_AEAD_AES_128_GCM`.
    AeadAes128Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80`.
    Aes128CmHmacSha1Tag80,
}

impl Profile {
    fn lengths(self) -> (usize, usize) {
        match self {
            Self::AeadAes256Gcm => (32, 12),
            Self::AeadAes128Gcm => (16, 12),
            Self::Aes128CmHmacSha1Tag80 => (16, 14),
        }
    }
}

/// A master key and its salt, cleared from memory when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    /// 16 or 32 bytes.
    pub key: Vec<u8>,
    /// 12 or 14 bytes.
    pub salt: Vec<u8>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// The keys of both directions.
#[derive(Debug)]
pub struct Keys {
    /// What they are for.
    pub profile: Profile,
    /// Opens what the peer sends.
    pub open: MasterKey,
    /// Seals what we send.
    pub seal: MasterKey,
}

impl Keys {
    /// Splits what was exported: client key, server key, client salt, server salt (RFC 5764, section 4.2).
    pub(super) fn split(material: &[u8], profile: SrtpProfile, is_client: bool) -> Option<Self> {
        let profile = match profile {
            SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
            SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
            SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmHmacSha1Tag80,
            _ => return None,
        };
        let (key, salt) = profile.lengths();
        let (client_key, rest) = material.split_at_checked(key)?;
        let (server_key, rest) = rest.split_at_checked(key)?;
        let (client_salt, rest) = rest.split_at_checked(salt)?;
        let (server_salt, _) = rest.split_at_checked(salt)?;
        let client = MasterKey { key: client_key.to_vec(), salt: client_salt.to_vec() };
        let server = MasterKey { key: server_key.to_vec(), salt: server_salt.to_vec() };
        let (open, seal) = if is_client { (server, client) } else { (client, server) };
        Some(Self { profile, open, seal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_before_salts_and_the_clients_before_the_servers() {
        for (profile, key, salt) in [
            (SrtpProfile::AEAD_AES_256_GCM, 32, 12),
            (SrtpProfile::AEAD_AES_128_GCM, 16, 12),
            (SrtpProfile::AES128_CM_SHA1_80, 16, 14),
        ] {
            let material = [vec![1; key], vec![2; key], vec![3; salt], vec![4; salt]].concat();
            let server = Keys::split(&material, profile, false).expect("long enough");
            assert_eq!((&server.open.key, &server.open.salt), (&vec![1; key], &vec![3; salt]));
            assert_eq!((&server.seal.key, &server.seal.salt), (&vec![2; key], &vec![4; salt]));
            let client = Keys::split(&material, profile, true).expect("long enough");
            assert_eq!((&client.seal.key, &client.open.salt), (&vec![1; key], &vec![4; salt]));
            assert!(Keys::split(&material[1..], profile, true).is_none());
        }
    }
}
