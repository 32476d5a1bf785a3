//! Tells apart what shares a call's port, by the first byte (RFC 7983, section 7), and RTCP from RTP by the second
//! (RFC 5761, section 4).

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connectivity check.
    Stun,
    /// A handshake, or its end.
    Dtls,
    /// Media.
    Rtp,
    /// Reports and feedback.
    Rtcp,
    /// Nothing the relay speaks.
    Unknown,
}

/// Looks at the first two bytes.
#[must_use]
pub fn classify(datagram: &[u8]) -> Protocol {
    match datagram {
        [0..=3, ..] => Protocol::Stun,
        [20..=63, ..] => Protocol::Dtls,
        [128..=191, 192..=223, ..] => Protocol::Rtcp,
        [128..=191, _, ..] => Protocol::Rtp,
        _ => Protocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_belongs_to_the_protocol_that_rfc_7983_gives_it_to() {
        for first in 0..=255 {
            let expected = match first {
                0..=3 => Protocol::Stun,
                20..=63 => Protocol::Dtls,
                128..=191 => Protocol::Rtp,
                _ => Protocol::Unknown,
            };
            assert_eq!(classify(&[first, 96, 0, 0]), expected, "{first}");
        }
    }

    #[test]
    fn payload_types_64_to_95_with_a_marker_are_rtcp() {
        for second in 0..=255 {
            let expected = if (192..=223).contains(&second) { Protocol::Rtcp } else { Protocol::Rtp };
            assert_eq!(classify(&[0x80, second]), expected, "{second}");
        }
    }

    #[test]
    fn nothing_and_a_lone_rtp_byte_are_unknown() {
        assert_eq!(classify(&[]), Protocol::Unknown);
        assert_eq!(classify(&[0x80]), Protocol::Unknown);
        assert_eq!(classify(&[0]), Protocol::Stun);
    }
}
