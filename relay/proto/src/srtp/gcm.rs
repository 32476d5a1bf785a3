//! AES-GCM (RFC 7714). RTP is header, ciphertext, tag; RTCP is header, ciphertext, tag, encryption bit and index.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::derive::{Traffic, derive};
use super::profile::{MasterKey, Profile};
use super::{OpenError, RTCP_CLEAR_LEN, RTCP_ENCRYPTED, RTCP_INDEX_LEN, cut, mixed, rtcp_ssrc, rtp_ssrc};

/// Bytes of a tag.
const TAG_LEN: usize = Profile::AeadAes128Gcm.tag_len();

/// The key of one kind of traffic in one direction, expanded once.
pub(super) struct Session {
    key: LessSafeKey,
    salt: u128,
}

impl Session {
    pub(super) fn new(master: &MasterKey, traffic: Traffic) -> Self {
        let salt = derive::<NONCE_LEN>(master, traffic.salt());
        if master.profile() == Profile::AeadAes256Gcm {
            Self::with(derive::<32>(master, traffic.encryption()).as_slice(), &salt)
        } else {
            Self::with(derive::<16>(master, traffic.encryption()).as_slice(), &salt)
        }
    }

    fn with(key: &[u8], salt: &[u8; NONCE_LEN]) -> Self {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).expect("a key of its algorithm's length");
        let salt = salt.iter().fold(0, |salt, byte| salt << 8 | u128::from(*byte));
        Self { key: LessSafeKey::new(key), salt }
    }

    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let [_, _, _, _, nonce @ ..] = mixed(self.salt, ssrc, index).to_be_bytes();
        Nonce::assume_unique_for_key(nonce)
    }

    #[inline]
    pub(super) fn seal_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        len: usize,
        index: u64,
    ) -> Option<usize> {
        let (header, text, tail) = cut(packet, header_len, len)?;
        let nonce = self.nonce(rtp_ssrc(header)?, index);
        let tag = tail.get_mut(..TAG_LEN)?;
        self.key.seal_in_place_scatter(nonce, Aad::from(header), text, &[], tag).ok()?;
        Some(len + TAG_LEN)
    }

    #[inline]
    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, OpenError> {
        let len = packet.len().checked_sub(TAG_LEN).ok_or(OpenError::Short)?;
        let (header, text, tag) = cut(packet, header_len, len).ok_or(OpenError::Short)?;
        self.open(self.nonce(ssrc, index), header, text, tag)?;
        Ok(len)
    }

    pub(super) fn seal_rtcp(&self, packet: &mut [u8], len: usize, index: u32) -> Option<usize> {
        let (header, text, tail) = cut(packet, RTCP_CLEAR_LEN, len)?;
        let nonce = self.nonce(rtcp_ssrc(header)?, u64::from(index));
        let (tag, tail) = tail.split_first_chunk_mut::<TAG_LEN>()?;
        let word = tail.first_chunk_mut::<RTCP_INDEX_LEN>()?;
        *word = (RTCP_ENCRYPTED | index).to_be_bytes();
        let aad = associated(header, *word)?;
        self.key.seal_in_place_scatter(nonce, Aad::from(aad), text, &[], tag).ok()?;
        Some(len + TAG_LEN + RTCP_INDEX_LEN)
    }

    /// Opens a packet whose encryption bit and index are `word`.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, OpenError> {
        let len = packet.len().checked_sub(TAG_LEN + RTCP_INDEX_LEN).ok_or(OpenError::Short)?;
        let (header, text, tail) = cut(packet, RTCP_CLEAR_LEN, len).ok_or(OpenError::Short)?;
        let tag = *tail.first_chunk::<TAG_LEN>().ok_or(OpenError::Short)?;
        let nonce = self.nonce(ssrc, u64::from(word & !RTCP_ENCRYPTED));
        let word_bytes = word.to_be_bytes();
        if word & RTCP_ENCRYPTED != 0 {
            let aad = associated(header, word_bytes).ok_or(OpenError::Short)?;
            self.open(nonce, &aad, text, &tag)?;
        } else {
            // Only authenticated: the packet and, right after it, bit and index. The tag is in between.
            tail.first_chunk_mut().map(|bytes| *bytes = word_bytes).ok_or(OpenError::Short)?;
            let aad = packet.get(..len + RTCP_INDEX_LEN).ok_or(OpenError::Short)?;
            self.open(nonce, aad, &mut [], &tag)?;
        }
        Ok(len)
    }

    #[inline]
    fn open(&self, nonce: Nonce, aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        let opened = self.key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text);
        opened.map(|_| ()).map_err(|_| OpenError::Authentication)
    }
}

/// The encryption bit and index of an RTCP packet.
pub(super) fn rtcp_word(packet: &[u8]) -> Option<u32> {
    packet.last_chunk().copied().map(u32::from_be_bytes)
}

/// What of an encrypted RTCP packet is authenticated but clear.
fn associated(header: &[u8], word: [u8; 4]) -> Option<[u8; RTCP_CLEAR_LEN + RTCP_INDEX_LEN]> {
    let mut aad = [0; RTCP_CLEAR_LEN + RTCP_INDEX_LEN];
    *aad.first_chunk_mut::<RTCP_CLEAR_LEN>()? = *header.first_chunk()?;
    *aad.last_chunk_mut()? = word;
    Some(aad)
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    // RFC 7714, sections 16 and 17. All have the same session salt, "Quid pro quo".
    const KEY_128: &str = "000102030405060708090a0b0c0d0e0f";
    const KEY_256: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const RTP: &str = "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e6973206469766973\
                       6120696e207061727465732074726573";
    const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                        deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

    fn session(key: &str) -> Session {
        Session::with(&hex(key), &hex("517569642070726f2071756f").try_into().unwrap())
    }

    fn rtp_is(key: &str, sealed: &str) {
        let (plain, sealed) = (hex(RTP), hex(sealed));
        let mut packet = plain.clone();
        packet.resize(plain.len() + TAG_LEN, 0);
        assert_eq!(session(key).seal_rtp(&mut packet, 12, plain.len(), 0xf17b), Some(sealed.len()));
        assert_eq!(packet, sealed);
        assert_eq!(session(key).open_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
    }

    fn rtcp_is(key: &str, sealed: &str, tagged: &str) {
        let (plain, sealed, mut tagged) = (hex(RTCP), hex(sealed), hex(tagged));
        let mut packet = plain.clone();
        packet.resize(plain.len() + TAG_LEN + RTCP_INDEX_LEN, 0);
        assert_eq!(session(key).seal_rtcp(&mut packet, plain.len(), 0x5d4), Some(sealed.len()));
        assert_eq!(packet, sealed);
        for packet in [&mut packet, &mut tagged] {
            let word = rtcp_word(packet).unwrap();
            assert_eq!(word & !RTCP_ENCRYPTED, 0x5d4);
            assert_eq!(session(key).open_rtcp(packet, 0x4d61_7273, word), Ok(plain.len()));
            assert_eq!(packet[..plain.len()], plain);
        }
    }

    #[test]
    fn rtp_under_a_key_of_128_bits_is_that_of_rfc_7714_section_16_1() {
        let sealed = "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd5\
                      0d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce";
        rtp_is(KEY_128, sealed);
    }

    #[test]
    fn rtp_under_a_key_of_256_bits_is_that_of_rfc_7714_section_16_2() {
        let sealed = "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab1801238\
                      9a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13";
        rtp_is(KEY_256, sealed);
    }

    #[test]
    fn rtcp_under_a_key_of_128_bits_is_that_of_rfc_7714_section_17_1_and_17_3() {
        let sealed = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32d\
                      c676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";
        let tagged = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                      deadbeefdeadbeefdeadbeefdeadbeefdeadbeef841dd9683dd78ec92ae58790125f62b3000005d4";
        rtcp_is(KEY_128, sealed, tagged);
    }

    #[test]
    fn rtcp_under_a_key_of_256_bits_is_that_of_rfc_7714_section_17_2_and_17_4() {
        let sealed = "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50\
                      a2eaa5c1110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4";
        let tagged = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                      deadbeefdeadbeefdeadbeefdeadbeefdeadbeef91db4afbfeee5a978fab4393ed2615fe000005d4";
        rtcp_is(KEY_256, sealed, tagged);
    }
}
