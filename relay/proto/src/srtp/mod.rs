//! SRTP and SRTCP (RFC 3711, RFC 7714), with keys expanded once and packets sealed and opened where they lie.

mod cm;
mod derive;
mod gcm;
mod profile;
mod replay;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::rtp::{Header, nearest};

use derive::Traffic;
use replay::Streams;

pub use profile::{KeyLength, MasterKey, Profile};
pub use replay::SSRCS_MAX;

/// RTP packets a sender's packets may come late by, in words of 64: 1024. Video repaired after a long round trip needs
/// some hundreds; more costs a byte per eight packets and SSRC.
const RTP_WINDOW_WORDS: usize = 16;

/// The same for RTCP: 128.
const RTCP_WINDOW_WORDS: usize = 2;

/// The longest packet that is sealed or opened. Within one, no counter of a block cipher overflows.
const PACKET_LEN_MAX: usize = 65_535;

/// Bytes of an RTCP packet that stay clear: header and SSRC.
const RTCP_CLEAR_LEN: usize = 8;

/// Bytes of SRTCP's encryption bit and index.
const RTCP_INDEX_LEN: usize = 4;

/// SRTCP's encryption bit.
const RTCP_ENCRYPTED: u32 = 1 << 31;

/// The last index of an RTP packet under one key: roll-over counter and sequence number of all ones.
const RTP_INDEX_MAX: u64 = (1 << 48) - 1;

/// Why a packet was not opened. It may have been written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is too short to be protected, or too long to be a packet.
    #[error("the packet's length is none that a protected packet has")]
    Short,
    /// Its tag is wrong: it is forged, damaged, or sealed with another key.
    #[error("the packet is not authentic")]
    Authentication,
    /// It was opened before, or is too old to tell.
    #[error("the packet was opened before, or is too old to tell")]
    Replay,
    /// It is of a new SSRC, and as many as are allowed have been opened. It was not looked into.
    #[error("the packet is of one SSRC too many")]
    TooManySsrcs,
}

/// An RTP packet that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Roll-over counter and sequence number: `ROC << 16 | sequence`.
    pub index: u64,
    /// Where the plaintext ends, which begins after the header.
    pub len: usize,
    /// Nothing of its SSRC had been opened before.
    pub first: bool,
}

/// The keys of one kind of traffic in one direction.
#[expect(clippy::large_enum_variant, reason = "behind a pointer, every packet would fetch a cache line more")]
enum Session {
    Gcm(gcm::Session),
    Cm(cm::Session),
}

impl Session {
    fn new(master: &MasterKey, traffic: Traffic) -> Self {
        match master.profile() {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => Self::Gcm(gcm::Session::new(master, traffic)),
            Profile::Aes128CmHmacSha1_80 => Self::Cm(cm::Session::new(master, traffic)),
        }
    }
}

/// Protects what goes to one participant.
pub struct Sealer {
    profile: Profile,
    rtp: Session,
    rtcp: Session,
    rtcp_index: u32,
}

impl Sealer {
    /// Bytes that an RTP packet grows by at most, whatever the profile.
    pub const TAG_LEN_MAX: usize = Profile::AeadAes128Gcm.tag_len();

    /// The same of an RTCP packet.
    pub const RTCP_OVERHEAD_MAX: usize = Self::TAG_LEN_MAX + RTCP_INDEX_LEN;

    /// Expands the keys.
    ///
    /// # Panics
    /// When the key is for another profile.
    #[must_use]
    pub fn new(profile: Profile, master: &MasterKey) -> Self {
        assert_eq!(profile, master.profile(), "a key is used for the profile it was agreed on for");
        let (rtp, rtcp) = (Session::new(master, Traffic::Rtp), Session::new(master, Traffic::Rtcp));
        Self { profile, rtp, rtcp, rtcp_index: 0 }
    }

    /// How packets are protected.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Encrypts `packet[header_len..len]` in place, appends the tag, and returns how long the packet is now. `index` is
    /// `ROC << 16 | sequence`, of which the header must hold the lower half.
    ///
    /// The caller must never seal two different packets of one SSRC under one index.
    ///
    /// 0, and nothing is to be sent, when `packet` has no room for [`Profile::tag_len`] bytes more, or lengths or index
    /// are none that a packet has.
    #[inline]
    #[must_use]
    pub fn seal_rtp(&self, packet: &mut [u8], header_len: usize, len: usize, index: u64) -> usize {
        if len > PACKET_LEN_MAX || index > RTP_INDEX_MAX {
            return 0;
        }
        let sealed = match &self.rtp {
            Session::Gcm(session) => session.seal_rtp(packet, header_len, len, index),
            Session::Cm(session) => session.seal_rtp(packet, header_len, len, index),
        };
        sealed.unwrap_or(0)
    }

    /// Encrypts the compound RTCP packet in `packet[..len]` in place but for its first header, appends index and tag,
    /// and returns how long it is now.
    ///
    /// 0, and nothing is to be sent, when it is no packet, `packet` has no room for [`Profile::tag_len`] and four bytes
    /// more, or all of the 2^31 indices have been used.
    #[must_use]
    pub fn seal_rtcp(&mut self, packet: &mut [u8], len: usize) -> usize {
        if len > PACKET_LEN_MAX || self.rtcp_index >= RTCP_ENCRYPTED {
            return 0;
        }
        let sealed = match &self.rtcp {
            Session::Gcm(session) => session.seal_rtcp(packet, len, self.rtcp_index),
            Session::Cm(session) => session.seal_rtcp(packet, len, self.rtcp_index),
        };
        // An index is used up even if nothing came of it.
        self.rtcp_index += 1;
        sealed.unwrap_or(0)
    }
}

/// Opens what comes from one participant.
pub struct Opener {
    profile: Profile,
    rtp: Session,
    rtcp: Session,
    rtp_streams: Streams<RTP_WINDOW_WORDS>,
    rtcp_streams: Streams<RTCP_WINDOW_WORDS>,
}

impl Opener {
    /// Expands the keys.
    ///
    /// # Panics
    /// When the key is for another profile.
    #[must_use]
    pub fn new(profile: Profile, master: &MasterKey) -> Self {
        assert_eq!(profile, master.profile(), "a key is used for the profile it was agreed on for");
        Self {
            profile,
            rtp: Session::new(master, Traffic::Rtp),
            rtcp: Session::new(master, Traffic::Rtcp),
            rtp_streams: Streams::default(),
            rtcp_streams: Streams::default(),
        }
    }

    /// How packets are protected.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Decrypts the payload of `packet` in place, whose header is `header`. The header stays as it is.
    ///
    /// # Errors
    /// When the packet is not authentic, was opened before, or is of one SSRC too many (more than [`SSRCS_MAX`]). Only
    /// authentic packets leave a trace.
    #[inline]
    pub fn open_rtp(&mut self, packet: &mut [u8], header: &Header) -> Result<Opened, OpenError> {
        if packet.len() > PACKET_LEN_MAX {
            return Err(OpenError::Short);
        }
        let slot = self.rtp_streams.slot(header.ssrc)?;
        let index = match slot.window() {
            Some(window) => nearest(window.highest(), header.sequence),
            // A sender begins at a roll-over counter of zero.
            None => u64::from(header.sequence),
        };
        if index > RTP_INDEX_MAX || !slot.window().is_none_or(|window| window.is_new(index)) {
            return Err(OpenError::Replay);
        }
        let len = match &self.rtp {
            Session::Gcm(session) => session.open_rtp(packet, header.len, header.ssrc, index)?,
            Session::Cm(session) => session.open_rtp(packet, header.len, header.ssrc, index)?,
        };
        let first = slot.window().is_none();
        slot.commit(index);
        Ok(Opened { index, len, first })
    }

    /// Decrypts an RTCP packet in place and returns where the plaintext ends, which begins with the packet.
    ///
    /// # Errors
    /// As for RTP; SSRCs of RTCP's senders are counted by themselves.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        if packet.len() > PACKET_LEN_MAX {
            return Err(OpenError::Short);
        }
        let word = match &self.rtcp {
            Session::Gcm(_) => gcm::rtcp_word(packet),
            Session::Cm(_) => cm::rtcp_word(packet),
        };
        let (word, ssrc) = word.zip(rtcp_ssrc(packet)).ok_or(OpenError::Short)?;
        let index = u64::from(word & !RTCP_ENCRYPTED);
        let slot = self.rtcp_streams.slot(ssrc)?;
        if !slot.window().is_none_or(|window| window.is_new(index)) {
            return Err(OpenError::Replay);
        }
        let len = match &self.rtcp {
            Session::Gcm(session) => session.open_rtcp(packet, ssrc, word)?,
            Session::Cm(session) => session.open_rtcp(packet, ssrc, word)?,
        };
        slot.commit(index);
        Ok(len)
    }

    /// Makes room for another SSRC. Only for one that will not be used again under this key: packets of it could be
    /// played back, and its roll-over counter would be taken for zero.
    pub fn forget(&mut self, ssrc: u32) {
        self.rtp_streams.forget(ssrc);
        self.rtcp_streams.forget(ssrc);
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.profile)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({})", self.profile)
    }
}

/// A session's salt, aligned to the right, to be mixed with SSRC and index (RFC 3711, section 4.1.1; RFC 7714, 8.1).
fn mixed(salt: u128, ssrc: u32, index: u64) -> u128 {
    salt ^ (u128::from(ssrc) << 48 | u128::from(index))
}

fn rtp_ssrc(header: &[u8]) -> Option<u32> {
    header.get(8..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes)
}

fn rtcp_ssrc(packet: &[u8]) -> Option<u32> {
    packet.get(4..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes)
}

/// Cuts a packet into what stays clear, what is encrypted, and what comes after.
fn cut(packet: &mut [u8], clear_len: usize, len: usize) -> Option<(&mut [u8], &mut [u8], &mut [u8])> {
    let (head, tail) = packet.split_at_mut_checked(len)?;
    let (clear, text) = head.split_at_mut_checked(clear_len)?;
    Some((clear, text, tail))
}
