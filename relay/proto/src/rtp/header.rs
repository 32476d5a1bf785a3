//! The RTP header (RFC 3550, section 5.1). SRTP leaves it clear, so it is read before a packet is opened.

use std::ops::Range;

use super::RtpError;
use super::extension::{self, Elements};

/// Bytes of the header without CSRCs and extension.
pub const FIXED_LEN: usize = 12;

/// A header: what it says, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last packet of a video frame, or the first of a talkspurt.
    pub marker: bool,
    /// The payload ends in padding, whose last byte counts it. That byte is encrypted: see [`payload`].
    pub padding: bool,
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Media time in ticks of the codec's clock.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
    /// How many contributing sources follow the fixed header, 0 to 15.
    pub csrc_count: u8,
    /// What form the extension has (RFC 8285), 0 when there is none.
    pub extension_profile: u16,
    /// Where the extension's words are within the packet, without profile and length.
    pub extension: Range<u16>,
    /// Bytes of the whole header: fixed part, CSRCs, extension.
    pub len: usize,
}

impl Header {
    /// Reads the header of a packet, encrypted or not.
    ///
    /// # Errors
    /// When this is no whole RTP header of version 2. Padding is not looked at: it is encrypted.
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        let (&fixed, rest) = packet.split_first_chunk::<FIXED_LEN>().ok_or(RtpError::Short)?;
        let [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = fixed;
        if first >> 6 != 2 {
            return Err(RtpError::Version);
        }
        if packet.len() > usize::from(u16::MAX) {
            return Err(RtpError::Long);
        }
        let csrc_count = first & 0x0f;
        let rest = rest.get(usize::from(csrc_count) * 4..).ok_or(RtpError::Short)?;
        let (extension_profile, extension_len, rest) = if first & 0x10 == 0 {
            (0, 0, rest)
        } else {
            let (&[p0, p1, l0, l1], rest) = rest.split_first_chunk::<4>().ok_or(RtpError::Short)?;
            let len = usize::from(u16::from_be_bytes([l0, l1])) * 4;
            (u16::from_be_bytes([p0, p1]), len, rest.get(len..).ok_or(RtpError::Short)?)
        };
        let len = packet.len() - rest.len();
        let offset = |at| u16::try_from(at).map_err(|_| RtpError::Long);
        Ok(Self {
            marker: second & 0x80 != 0,
            padding: first & 0x20 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([i0, i1, i2, i3]),
            csrc_count,
            extension_profile,
            extension: offset(len - extension_len)?..offset(len)?,
            len,
        })
    }

    /// The words of the extension in the packet this header was read from.
    #[must_use]
    pub fn extension_words<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(usize::from(self.extension.start)..usize::from(self.extension.end)).unwrap_or_default()
    }

    /// The elements of the extension in the packet this header was read from.
    #[must_use]
    pub fn elements<'a>(&self, packet: &'a [u8]) -> Elements<'a> {
        extension::elements(self.extension_profile, self.extension_words(packet))
    }
}

/// The payload of an opened packet, without padding. It is empty when the packet is nothing but padding.
///
/// # Errors
/// When the packet ends before its header, or its padding is not within its payload.
pub fn payload<'a>(packet: &'a [u8], header: &Header) -> Result<&'a [u8], RtpError> {
    let body = packet.get(header.len..).ok_or(RtpError::Short)?;
    if !header.padding {
        return Ok(body);
    }
    let padding = body.last().map(|count| usize::from(*count)).filter(|count| *count > 0);
    let len = padding.and_then(|padding| body.len().checked_sub(padding)).ok_or(RtpError::Padding)?;
    body.get(..len).ok_or(RtpError::Padding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: [u8; 15] = [0x80, 0xe0, 0x12, 0x34, 1, 2, 3, 4, 0xaa, 0xbb, 0xcc, 0xdd, 7, 8, 9];

    #[test]
    fn a_plain_header_is_read() {
        let header = Header::parse(&PLAIN).unwrap();
        let expected = Header {
            marker: true,
            padding: false,
            payload_type: 96,
            sequence: 0x1234,
            timestamp: 0x0102_0304,
            ssrc: 0xaabb_ccdd,
            csrc_count: 0,
            extension_profile: 0,
            extension: 12..12,
            len: 12,
        };
        assert_eq!(header, expected);
        assert_eq!(payload(&PLAIN, &header), Ok(&[7, 8, 9][..]));
        assert_eq!(header.elements(&PLAIN).count(), 0);
    }

    #[test]
    fn contributing_sources_and_the_extension_belong_to_the_header() {
        let mut packet = vec![0x92, 0x60];
        packet.extend([0; 10]);
        packet.extend([1, 1, 1, 1, 2, 2, 2, 2]);
        packet.extend([0xbe, 0xde, 0, 1, 0x10, 0x55, 0, 0]);
        packet.extend([42; 3]);
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.csrc_count, header.extension_profile, header.len), (2, 0xbede, 28));
        assert_eq!(header.extension, 24..28);
        assert_eq!(header.elements(&packet).collect::<Vec<_>>(), [(1, &[0x55][..])]);
        assert_eq!(payload(&packet, &header), Ok(&[42; 3][..]));
        for len in 0..28 {
            assert_eq!(Header::parse(&packet[..len]), Err(RtpError::Short), "cut after {len} bytes");
        }
    }

    #[test]
    fn padding_is_left_out_of_the_payload() {
        let with = |body: &[u8]| [&[0xa0, 96], &[0; 10][..], body].concat();
        let read = |packet: &[u8]| payload(packet, &Header::parse(packet).unwrap()).map(<[u8]>::to_vec);
        assert_eq!(read(&with(&[7, 8, 0, 0, 3])), Ok(vec![7, 8]));
        assert_eq!(read(&with(&[0, 0, 3])), Ok(Vec::new()), "a packet of padding alone has an empty payload");
        assert_eq!(read(&with(&[1])), Ok(Vec::new()));
        assert_eq!(read(&with(&[7, 0])), Err(RtpError::Padding));
        assert_eq!(read(&with(&[7, 4])), Err(RtpError::Padding));
        assert_eq!(read(&with(&[])), Err(RtpError::Padding));
        let header = Header::parse(&PLAIN).unwrap();
        assert_eq!(payload(&PLAIN[..11], &header), Err(RtpError::Short));
    }

    #[test]
    fn other_versions_and_what_no_datagram_holds_are_refused() {
        for version in [0x00, 0x40, 0xc0] {
            let mut packet = PLAIN;
            packet[0] = version;
            assert_eq!(Header::parse(&packet), Err(RtpError::Version));
        }
        let mut packet = PLAIN.to_vec();
        packet.resize(65_536, 0);
        assert_eq!(Header::parse(&packet), Err(RtpError::Long));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_a_header_lies_within_its_packet(
            first in 0x80_u8..=0xbf,
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let packet = [&[first], &rest[..]].concat();
            if let Ok(header) = Header::parse(&packet) {
                prop_assert!(header.len <= packet.len());
                prop_assert!(header.extension.start <= header.extension.end);
                prop_assert!(usize::from(header.extension.end) == header.len);
                prop_assert!(header.elements(&packet).count() <= 200);
                let _ = payload(&packet, &header);
            }
        }
    }
}
