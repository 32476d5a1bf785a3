//! AES in counter mode with HMAC-SHA1 (RFC 3711). RTP is header, ciphertext, tag; RTCP is header, ciphertext,
//! encryption bit and index, tag.

use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::derive::{Traffic, counter_mode, derive};
use super::profile::{MasterKey, Profile};
use super::{OpenError, RTCP_CLEAR_LEN, RTCP_ENCRYPTED, RTCP_INDEX_LEN, cut, mixed, rtcp_ssrc, rtp_ssrc};

/// Bytes of a tag, which is an HMAC-SHA1 cut short.
const TAG_LEN: usize = Profile::Aes128CmHmacSha1_80.tag_len();

/// The keys of one kind of traffic in one direction, expanded once.
pub(super) struct Session {
    cipher: EncryptingKey,
    salt: u128,
    mac: hmac::Key,
}

impl Session {
    pub(super) fn new(master: &MasterKey, traffic: Traffic) -> Self {
        let key = derive::<16>(master, traffic.encryption());
        let salt = derive::<14>(master, traffic.salt());
        Self::with(key.as_slice(), &salt, derive::<20>(master, traffic.authentication()).as_slice())
    }

    fn with(key: &[u8], salt: &[u8; 14], mac: &[u8]) -> Self {
        Self {
            cipher: counter_mode(key),
            salt: salt.iter().fold(0, |salt, byte| salt << 8 | u128::from(*byte)),
            mac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, mac),
        }
    }

    pub(super) fn seal_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        len: usize,
        index: u64,
    ) -> Option<usize> {
        let (header, text, tail) = cut(packet, header_len, len)?;
        let tag = tail.first_chunk_mut()?;
        self.crypt(rtp_ssrc(header)?, index, text)?;
        *tag = self.rtp_tag(header, text, index)?;
        Some(len + TAG_LEN)
    }

    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, OpenError> {
        let len = packet.len().checked_sub(TAG_LEN).ok_or(OpenError::Short)?;
        let (header, text, tag) = cut(packet, header_len, len).ok_or(OpenError::Short)?;
        let expected = self.rtp_tag(header, text, index).ok_or(OpenError::Authentication)?;
        verify_slices_are_equal(&expected, tag).map_err(|_| OpenError::Authentication)?;
        self.crypt(ssrc, index, text).ok_or(OpenError::Authentication)?;
        Ok(len)
    }

    pub(super) fn seal_rtcp(&self, packet: &mut [u8], len: usize, index: u32) -> Option<usize> {
        let (header, text, tail) = cut(packet, RTCP_CLEAR_LEN, len)?;
        let (word, tail) = tail.split_first_chunk_mut::<RTCP_INDEX_LEN>()?;
        let tag = tail.first_chunk_mut()?;
        self.crypt(rtcp_ssrc(header)?, u64::from(index), text)?;
        *word = (RTCP_ENCRYPTED | index).to_be_bytes();
        *tag = self.tag(&[header, text, word])?;
        Some(len + RTCP_INDEX_LEN + TAG_LEN)
    }

    /// Opens a packet whose encryption bit and index are `word`.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, OpenError> {
        let authenticated = packet.len().checked_sub(TAG_LEN).ok_or(OpenError::Short)?;
        let len = authenticated.checked_sub(RTCP_INDEX_LEN).ok_or(OpenError::Short)?;
        let (body, tag) = packet.split_at_checked(authenticated).ok_or(OpenError::Short)?;
        let expected = self.tag(&[body]).ok_or(OpenError::Authentication)?;
        verify_slices_are_equal(&expected, tag).map_err(|_| OpenError::Authentication)?;
        let (_, text, _) = cut(packet, RTCP_CLEAR_LEN, len).ok_or(OpenError::Short)?;
        if word & RTCP_ENCRYPTED != 0 {
            let index = u64::from(word & !RTCP_ENCRYPTED);
            self.crypt(ssrc, index, text).ok_or(OpenError::Authentication)?;
        }
        Ok(len)
    }

    /// Encrypts or decrypts: the keystream is the same (section 4.1.1).
    fn crypt(&self, ssrc: u32, index: u64, text: &mut [u8]) -> Option<()> {
        let iv = (mixed(self.salt, ssrc, index) << 16).to_be_bytes();
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.cipher.less_safe_encrypt(text, context).ok().map(|_| ())
    }

    /// The tag of an RTP packet: its roll-over counter is authenticated too, but not sent (section 4.2).
    fn rtp_tag(&self, header: &[u8], text: &[u8], index: u64) -> Option<[u8; TAG_LEN]> {
        let [_, _, roll_over @ .., _, _] = index.to_be_bytes();
        self.tag(&[header, text, &roll_over])
    }

    fn tag(&self, parts: &[&[u8]]) -> Option<[u8; TAG_LEN]> {
        let mut context = hmac::Context::with_key(&self.mac);
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().first_chunk().copied()
    }
}

/// The encryption bit and index of an RTCP packet.
pub(super) fn rtcp_word(packet: &[u8]) -> Option<u32> {
    let (body, _) = packet.split_last_chunk::<TAG_LEN>()?;
    body.last_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    #[test]
    fn the_keystream_is_that_of_rfc_3711_appendix_b_2() {
        let salt = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd").try_into().unwrap();
        let session = Session::with(&hex("2b7e151628aed2a6abf7158809cf4f3c"), &salt, &[]);
        let mut keystream = vec![0; 0xff02 * 16];
        session.crypt(0, 0, &mut keystream).unwrap();
        let blocks = [
            (0, "e03ead0935c95e80e166b16dd92b4eb4"),
            (1, "d23513162b02d0f72a43a2fe4a5f97ab"),
            (2, "41e95b3bb0a2e8dd477901e4fca894c0"),
            (0xfeff, "ec8cdf7398607cb0f2d21675ea9ea1e4"),
            (0xff00, "362b7c3c6773516318a077d7fc5073ae"),
            (0xff01, "6a2cc3787889374fbeb4c81b17ba6c44"),
        ];
        for (block, expected) in blocks {
            assert_eq!(keystream[block * 16..][..16], hex(expected), "block {block:#x}");
        }
    }

    /// The keys of RFC 3711, appendix B.3, and packets that other implementations test themselves with.
    #[test]
    fn whole_packets_are_those_of_other_implementations() {
        let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
        let salt = hex("0ec675ad498afeebb6960b3aabe6");
        let master = MasterKey::new(Profile::Aes128CmHmacSha1_80, &key, &salt).unwrap();

        let plain = hex("800f1234decafbadcafebabeabababababababababababababababab");
        let sealed = hex("800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb");
        let session = Session::new(&master, Traffic::Rtp);
        let mut packet = [plain.as_slice(), &[0; TAG_LEN]].concat();
        assert_eq!(session.seal_rtp(&mut packet, 12, plain.len(), 0x1234), Some(sealed.len()));
        assert_eq!(packet, sealed);
        assert_eq!(session.open_rtp(&mut packet, 12, 0xcafe_babe, 0x1234), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);

        let plain = hex("81c8000bcafebabeabababababababababababababababab");
        let sealed = hex("81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798");
        let session = Session::new(&master, Traffic::Rtcp);
        let mut packet = [plain.as_slice(), &[0; TAG_LEN + RTCP_INDEX_LEN]].concat();
        assert_eq!(session.seal_rtcp(&mut packet, plain.len(), 1), Some(sealed.len()));
        assert_eq!(packet, sealed);
        let word = rtcp_word(&packet).unwrap();
        assert_eq!(word, RTCP_ENCRYPTED | 1);
        assert_eq!(session.open_rtcp(&mut packet, 0xcafe_babe, word), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
    }
}
