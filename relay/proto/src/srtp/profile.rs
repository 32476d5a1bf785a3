//! Protection profiles and master keys, as DTLS-SRTP (RFC 5764) agrees on them.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes of the longest master key.
const KEY_LEN_MAX: usize = 32;

/// Bytes of the longest master salt.
const SALT_LEN_MAX: usize = 14;

/// How packets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// AES-128 in GCM (RFC 7714).
    AeadAes128Gcm,
    /// AES-256 in GCM (RFC 7714).
    AeadAes256Gcm,
    /// AES-128 in counter mode with HMAC-SHA1, tags of 80 bits (RFC 3711). Several times slower than the others.
    Aes128CmHmacSha1_80,
}

impl Profile {
    /// Its registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AeadAes128Gcm => "SRTP_AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "SRTP_AEAD_AES_256_GCM",
            Self::Aes128CmHmacSha1_80 => "SRTP_AES128_CM_HMAC_SHA1_80",
        }
    }

    /// Bytes of a master key, and of a session's encryption key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::Aes128CmHmacSha1_80 => 16,
            Self::AeadAes256Gcm => KEY_LEN_MAX,
        }
    }

    /// Bytes of a master salt, and of a session's salt.
    #[must_use]
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::Aes128CmHmacSha1_80 => SALT_LEN_MAX,
        }
    }

    /// Bytes that protection adds to an RTP packet. RTCP packets grow by four more, the index.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 16,
            Self::Aes128CmHmacSha1_80 => 10,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key or salt is not as long as its profile wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{profile} takes {} and {} bytes of key and salt, not {key} and {salt}", .profile.key_len(), .profile.salt_len())]
pub struct KeyLength {
    /// The profile.
    pub profile: Profile,
    /// Bytes of the key that was given.
    pub key: usize,
    /// Bytes of the salt that was given.
    pub salt: usize,
}

/// One direction's master key and salt, gone from memory when dropped.
pub struct MasterKey {
    profile: Profile,
    key: Zeroizing<[u8; KEY_LEN_MAX]>,
    salt: Zeroizing<[u8; SALT_LEN_MAX]>,
}

impl MasterKey {
    /// A key for `profile`.
    ///
    /// # Errors
    /// When key or salt has another length than the profile's.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, KeyLength> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(KeyLength { profile, key: key.len(), salt: salt.len() });
        }
        let mut master = Self { profile, key: Zeroizing::default(), salt: Zeroizing::default() };
        master.key.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        // A salt of 96 bits is used as one of 112 that ends in zeros (RFC 7714, section 11).
        master.salt.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
        Ok(master)
    }

    /// Both directions' keys from what DTLS exported (RFC 5764, section 4.2): the DTLS client's first, then its
    /// server's.
    ///
    /// # Errors
    /// When there is not exactly as much of it as the profile takes.
    pub fn pair(profile: Profile, material: &[u8]) -> Result<(Self, Self), KeyLength> {
        let (key, salt) = (profile.key_len(), profile.salt_len());
        let split = || {
            let (client_key, rest) = material.split_at_checked(key)?;
            let (server_key, rest) = rest.split_at_checked(key)?;
            let (client_salt, server_salt) = rest.split_at_checked(salt)?;
            let client = Self::new(profile, client_key, client_salt).ok()?;
            Some((client, Self::new(profile, server_key, server_salt).ok()?))
        };
        split().ok_or(KeyLength {
            profile,
            key: key.min(material.len()),
            salt: material.len().saturating_sub(key),
        })
    }

    /// What it is a key for.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.key.get(..self.profile.key_len()).unwrap_or_default()
    }

    pub(crate) fn salt(&self) -> &[u8; SALT_LEN_MAX] {
        &self.salt
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [Profile; 3] =
        [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

    #[test]
    fn keys_and_salts_have_their_profile_s_length() {
        for profile in PROFILES {
            let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
            let master = MasterKey::new(profile, &key, &salt).unwrap();
            assert_eq!(master.key(), key);
            assert!(master.salt().starts_with(&salt));
            for wrong in
                [MasterKey::new(profile, &key[1..], &salt), MasterKey::new(profile, &key, &salt[1..])]
            {
                assert_eq!(wrong.unwrap_err().profile, profile);
            }
        }
        let error = MasterKey::new(Profile::AeadAes128Gcm, &[0; 16], &[0; 14]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "SRTP_AEAD_AES_128_GCM takes 16 and 12 bytes of key and salt, not 16 and 14"
        );
    }

    #[test]
    fn exported_material_holds_keys_before_salts_and_the_client_s_before_the_server_s() {
        for profile in PROFILES {
            let (key, salt) = (profile.key_len(), profile.salt_len());
            let material = [vec![1; key], vec![2; key], vec![3; salt], vec![4; salt]].concat();
            let (client, server) = MasterKey::pair(profile, &material).unwrap();
            assert_eq!((client.key()[0], client.salt()[0]), (1, 3));
            assert_eq!((server.key()[0], server.salt()[0]), (2, 4));
            for len in (0..material.len()).chain([material.len() + 1]) {
                let mut other = material.clone();
                other.resize(len, 0);
                assert!(MasterKey::pair(profile, &other).is_err());
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let master = MasterKey::new(Profile::AeadAes128Gcm, &[0x41; 16], &[0x42; 12]).unwrap();
        assert_eq!(format!("{master:?}"), "MasterKey(SRTP_AEAD_AES_128_GCM)");
    }
}
