//! Session keys from a master key (RFC 3711, section 4.3): AES in counter mode as the pseudo-random function, keys
//! derived once. With a key of 256 bits it is AES-256 (RFC 6188, section 3).

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use super::profile::MasterKey;

/// What a session key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// Whether a session protects RTP or RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Rtp,
    Rtcp,
}

impl Traffic {
    pub(super) fn encryption(self) -> Label {
        match self {
            Self::Rtp => Label::RtpEncryption,
            Self::Rtcp => Label::RtcpEncryption,
        }
    }

    pub(super) fn authentication(self) -> Label {
        match self {
            Self::Rtp => Label::RtpAuthentication,
            Self::Rtcp => Label::RtcpAuthentication,
        }
    }

    pub(super) fn salt(self) -> Label {
        match self {
            Self::Rtp => Label::RtpSalt,
            Self::Rtcp => Label::RtcpSalt,
        }
    }
}

/// A session key of `N` bytes.
pub(super) fn derive<const N: usize>(master: &MasterKey, label: Label) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    fill(master.key(), master.salt(), label, out.as_mut_slice());
    out
}

fn fill(key: &[u8], salt: &[u8; 14], label: Label, out: &mut [u8]) {
    let mut iv = [0; 16];
    iv.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
    // The label stands above an index of 48 bits, of which none are in use.
    iv[7] ^= label as u8;
    // The keystream over zeros is the function's output.
    out.fill(0);
    let cipher = counter_mode(key);
    cipher
        .less_safe_encrypt(out, EncryptionContext::Iv128(FixedLength::from(iv)))
        .expect("counter mode takes any length");
}

/// A cipher in counter mode with a key of 16 or 32 bytes.
pub(super) fn counter_mode(key: &[u8]) -> EncryptingKey {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = UnboundCipherKey::new(algorithm, key).expect("a key of its algorithm's length");
    EncryptingKey::ctr(key).expect("AES has a counter mode")
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::super::tests::hex;
    use super::*;

    fn filled(key: &str, salt: &str, label: Label, len: usize) -> Vec<u8> {
        let mut out = vec![0xee; len];
        fill(&hex(key), &hex(salt).try_into().unwrap(), label, &mut out);
        out
    }

    #[test]
    fn keys_are_those_of_rfc_3711_appendix_b_3() {
        let (key, salt) = ("e1f97a0d3e018be0d64fa32c06de4139", "0ec675ad498afeebb6960b3aabe6");
        let cipher = hex("c61e7a93744f39ee10734afe3ff7a087");
        assert_eq!(filled(key, salt, Label::RtpEncryption, 16), cipher);
        assert_eq!(filled(key, salt, Label::RtpSalt, 14), hex("30cbbc08863d8c85d49db34a9ae1"));
        let authentication = hex("cebe321f6ff7716b6fd4ab49af256a156d38baa48f0a0acf3c34e2359e6cdbce\
             e049646c43d9327ad175578ef72270986371c10c9a369ac2f94a8c5fbcdddc25\
             6d6e919a48b610ef17c2041e474035766b68642c59bbfc2f34db60dbdfb2");
        assert_eq!(filled(key, salt, Label::RtpAuthentication, 94), authentication);
    }

    #[test]
    fn keys_are_those_of_rfc_6188_section_7_2_for_256_bits() {
        let key = "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6";
        let salt = "3b04803de51ee7c96423ab5b78d2";
        let cipher = hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4");
        assert_eq!(filled(key, salt, Label::RtpEncryption, 32), cipher);
        assert_eq!(filled(key, salt, Label::RtpSalt, 14), hex("fa31791685ca444a9e07c6c64e93"));
        let authentication = hex("fd9c32d39ed5fbb5a9dc96b30818454d1313dc05");
        assert_eq!(filled(key, salt, Label::RtpAuthentication, 20), authentication);
    }

    #[test]
    fn a_salt_of_96_bits_is_one_of_112_that_ends_in_zeros() {
        let short = MasterKey::new(Profile::AeadAes128Gcm, &[1; 16], &[2; 12]).unwrap();
        let mut salt = [2; 14];
        salt[12..].fill(0);
        let long = MasterKey::new(Profile::Aes128CmHmacSha1_80, &[1; 16], &salt).unwrap();
        assert_eq!(derive::<16>(&short, Label::RtcpSalt), derive::<16>(&long, Label::RtcpSalt));
    }

    #[test]
    fn every_label_gives_another_key() {
        let master = MasterKey::new(Profile::AeadAes128Gcm, &[1; 16], &[2; 12]).unwrap();
        let labels =
            [Traffic::Rtp, Traffic::Rtcp].map(|of| [of.encryption(), of.authentication(), of.salt()]);
        let mut keys: Vec<_> = labels.concat().iter().map(|label| *derive::<16>(&master, *label)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }
}
