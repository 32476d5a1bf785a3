//! What a handshake is for.

use dimpl::SrtpProfile;

use crate::srtp::{MasterKey, Profile};

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
            SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmHmacSha1_80,
            _ => return None,
        };
        let (key, salt) = (profile.key_len(), profile.salt_len());
        let (client_key, rest) = material.split_at_checked(key)?;
        let (server_key, rest) = rest.split_at_checked(key)?;
        let (client_salt, rest) = rest.split_at_checked(salt)?;
        let (server_salt, _) = rest.split_at_checked(salt)?;
        let client = MasterKey::new(profile, client_key, client_salt).ok()?;
        let server = MasterKey::new(profile, server_key, server_salt).ok()?;
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
            assert_eq!((server.open.key(), &server.open.salt()[..salt]), (&[1; 32][..key], &[3; 14][..salt]));
            assert_eq!((server.seal.key(), &server.seal.salt()[..salt]), (&[2; 32][..key], &[4; 14][..salt]));
            let client = Keys::split(&material, profile, true).expect("long enough");
            assert_eq!((client.seal.key(), &client.open.salt()[..salt]), (&[1; 32][..key], &[4; 14][..salt]));
            assert!(Keys::split(&material[1..], profile, true).is_none());
        }
    }
}
