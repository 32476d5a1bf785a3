//! What sealing and opening promise, for every profile.

use proptest::prelude::*;

use super::*;

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

const SSRC: u32 = 0xcafe_babe;

/// The bytes that `text` shows.
pub(super) fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn master(profile: Profile) -> MasterKey {
    MasterKey::new(profile, &vec![7; profile.key_len()], &vec![9; profile.salt_len()]).unwrap()
}

fn both(profile: Profile) -> (Sealer, Opener) {
    (Sealer::new(profile, &master(profile)), Opener::new(profile, &master(profile)))
}

fn rtp(ssrc: u32, index: u64, payload: &[u8]) -> Vec<u8> {
    let [.., s0, s1] = index.to_be_bytes();
    [&[0x80, 96, s0, s1, 0, 0, 0, 1][..], &ssrc.to_be_bytes(), payload].concat()
}

fn sealed(sealer: &Sealer, ssrc: u32, index: u64) -> Vec<u8> {
    let mut packet = rtp(ssrc, index, b"payload");
    let len = packet.len();
    packet.resize(len + sealer.profile().tag_len(), 0);
    assert_eq!(sealer.seal_rtp(&mut packet, 12, len, index), packet.len());
    packet
}

fn open(opener: &mut Opener, packet: &[u8]) -> Result<Opened, OpenError> {
    let mut packet = packet.to_vec();
    let header = Header::parse(&packet).unwrap();
    let opened = opener.open_rtp(&mut packet, &header)?;
    assert_eq!(&packet[header.len..opened.len], b"payload");
    Ok(opened)
}

fn index(opener: &mut Opener, packet: &[u8]) -> Result<u64, OpenError> {
    open(opener, packet).map(|opened| opened.index)
}

/// A receiver report of a sender, sealed.
fn report(sealer: &mut Sealer, ssrc: u32) -> Vec<u8> {
    let mut packet = [&[0x80, 201, 0, 3][..], &ssrc.to_be_bytes(), &[0x55; 8]].concat();
    let len = packet.len();
    packet.resize(len + sealer.profile().tag_len() + 4, 0);
    assert_eq!(sealer.seal_rtcp(&mut packet, len), packet.len());
    packet
}

#[test]
fn the_index_goes_on_over_roll_overs_whatever_is_reordered() {
    for profile in PROFILES {
        for start in [0_u64, 65_000, 131_000] {
            let (sealer, mut opener) = both(profile);
            // A few packets on the way there, for the opener to count the roll-overs.
            for known in (0..start).step_by(30_000) {
                assert_eq!(index(&mut opener, &sealed(&sealer, SSRC, known)), Ok(known));
            }
            for n in (start + 8..start + 1200).map(|n| n ^ 5) {
                assert_eq!(index(&mut opener, &sealed(&sealer, SSRC, n)), Ok(n), "{profile}");
            }
        }
    }
}

#[test]
fn what_was_overtaken_by_a_roll_over_is_still_opened() {
    for profile in PROFILES {
        let (sealer, mut opener) = both(profile);
        for n in [65_530, 65_536, 65_540, 65_535, 65_531, 65_539] {
            assert_eq!(index(&mut opener, &sealed(&sealer, SSRC, n)), Ok(n), "{profile}");
        }
    }
}

#[test]
fn a_packet_is_opened_once() {
    for profile in PROFILES {
        let (sealer, mut opener) = both(profile);
        let first = sealed(&sealer, SSRC, 5000);
        assert_eq!(index(&mut opener, &first), Ok(5000));
        assert_eq!(index(&mut opener, &first), Err(OpenError::Replay));
        assert_eq!(index(&mut opener, &sealed(&sealer, SSRC, 5000 - 1023)), Ok(5000 - 1023));
        assert_eq!(
            index(&mut opener, &sealed(&sealer, SSRC, 5000 - 1024)),
            Err(OpenError::Replay),
            "too old"
        );
        assert_eq!(index(&mut opener, &sealed(&sealer, SSRC + 1, 5000)), Ok(5000), "another SSRC");
    }
}

#[test]
fn a_changed_packet_is_refused_and_leaves_no_trace() {
    for profile in PROFILES {
        let (sealer, mut opener) = both(profile);
        let whole = sealed(&sealer, SSRC, 7);
        for at in 1..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(open(&mut opener, &changed).unwrap_err(), OpenError::Authentication, "{profile} {at}");
        }
        for len in 12..whole.len() {
            assert!(open(&mut opener, &whole[..len]).is_err());
        }
        assert!(opener.rtp_streams.slot(SSRC).unwrap().window().is_none());
        assert_eq!(index(&mut opener, &whole), Ok(7));
        // A forged number far ahead moves nothing.
        let mut forged = whole.clone();
        forged[2] = 0x70;
        assert_eq!(open(&mut opener, &forged), Err(OpenError::Authentication));
        assert_eq!(index(&mut opener, &sealed(&sealer, SSRC, 8)), Ok(8));
    }
}

#[test]
fn a_packet_for_another_key_profile_or_direction_is_refused() {
    let (sealer, _) = both(Profile::AeadAes128Gcm);
    let packet = sealed(&sealer, SSRC, 7);
    let other = MasterKey::new(Profile::AeadAes128Gcm, &[8; 16], &[9; 12]).unwrap();
    let mut opener = Opener::new(Profile::AeadAes128Gcm, &other);
    assert_eq!(open(&mut opener, &packet), Err(OpenError::Authentication));
    for profile in [Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80] {
        assert_eq!(open(&mut both(profile).1, &packet), Err(OpenError::Authentication));
    }
}

#[test]
fn ssrcs_are_bounded_and_can_be_forgotten() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = both(profile);
        let max = u32::try_from(SSRCS_MAX).unwrap();
        for ssrc in 0..max {
            open(&mut opener, &sealed(&sealer, ssrc, 1)).unwrap();
            opener.open_rtcp(&mut report(&mut sealer, ssrc)).unwrap();
        }
        assert_eq!(open(&mut opener, &sealed(&sealer, max, 1)), Err(OpenError::TooManySsrcs));
        assert_eq!(opener.open_rtcp(&mut report(&mut sealer, max)), Err(OpenError::TooManySsrcs));
        opener.forget(3);
        open(&mut opener, &sealed(&sealer, max, 1)).unwrap();
        opener.open_rtcp(&mut report(&mut sealer, max)).unwrap();
        assert_eq!(open(&mut opener, &sealed(&sealer, 4, 1)), Err(OpenError::Replay), "the others stay");
    }
}

#[test]
fn rtcp_is_opened_once_and_only_unchanged() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = both(profile);
        let (first, second) = (report(&mut sealer, SSRC), report(&mut sealer, SSRC));
        assert_ne!(first, second, "each has an index of its own");
        for at in 0..first.len() {
            let mut changed = first.clone();
            changed[at] ^= 1;
            assert_eq!(opener.open_rtcp(&mut changed), Err(OpenError::Authentication), "{profile} {at}");
        }
        for len in 0..first.len() {
            assert!(opener.open_rtcp(&mut first[..len].to_vec()).is_err());
        }
        for packet in [&second, &first] {
            let mut opened = packet.clone();
            assert_eq!(opener.open_rtcp(&mut opened), Ok(16));
            assert_eq!(opened[8..16], [0x55; 8]);
            assert_eq!(opener.open_rtcp(&mut packet.clone()), Err(OpenError::Replay));
        }
    }
}

#[test]
fn nothing_is_sealed_without_room_or_beyond_the_last_index() {
    for profile in PROFILES {
        assert!(profile.tag_len() <= Sealer::TAG_LEN_MAX);
        let (mut sealer, mut opener) = both(profile);
        let plain = rtp(SSRC, 1, b"payload");
        for room in 0..profile.tag_len() {
            let mut packet = [plain.as_slice(), &vec![0; room]].concat();
            assert_eq!(sealer.seal_rtp(&mut packet, 12, plain.len(), 1), 0);
        }
        let mut packet = [plain.as_slice(), &[0; 40]].concat();
        assert_eq!(sealer.seal_rtp(&mut packet, 11, plain.len(), 1), 0, "no whole header");
        assert_eq!(sealer.seal_rtp(&mut packet, 12, 11, 1), 0, "shorter than its header");
        assert_eq!(sealer.seal_rtp(&mut packet, 12, plain.len(), RTP_INDEX_MAX + 1), 0);
        assert_eq!(packet[..plain.len()], plain, "what is not sealed is not changed");
        assert_eq!(sealer.seal_rtp(&mut vec![0; 70_000], 12, 65_536, 1), 0);

        assert_eq!(sealer.seal_rtcp(&mut packet, 7), 0);
        assert_eq!(sealer.seal_rtcp(&mut packet[..12], 8), 0);
        sealer.rtcp_index = RTCP_ENCRYPTED - 1;
        opener.open_rtcp(&mut report(&mut sealer, SSRC)).unwrap();
        assert_eq!(sealer.seal_rtcp(&mut [0; 100], 16), 0, "an index is never used again");
    }
}

#[test]
fn a_packet_without_payload_is_sealed_and_opened() {
    for profile in PROFILES {
        let (sealer, mut opener) = both(profile);
        let mut packet = rtp(SSRC, 1, &[]);
        packet.resize(12 + profile.tag_len(), 0);
        assert_eq!(sealer.seal_rtp(&mut packet, 12, 12, 1), packet.len());
        let header = Header::parse(&packet).unwrap();
        assert_eq!(opener.open_rtp(&mut packet, &header), Ok(Opened { index: 1, len: 12, first: true }));
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (sealer, opener) = both(Profile::AeadAes256Gcm);
    assert_eq!(
        format!("{sealer:?} {opener:?}"),
        "Sealer(SRTP_AEAD_AES_256_GCM) Opener(SRTP_AEAD_AES_256_GCM)"
    );
}

proptest! {
    #[test]
    fn what_was_sealed_is_opened(
        profile in prop::sample::select(PROFILES.as_slice()),
        key in prop::array::uniform32(any::<u8>()),
        salt in prop::array::uniform14(any::<u8>()),
        ssrc in any::<u32>(),
        sequence in any::<u16>(),
        csrcs in 0_u8..16,
        payload in prop::collection::vec(any::<u8>(), 0..1300),
    ) {
        let master = MasterKey::new(profile, &key[..profile.key_len()], &salt[..profile.salt_len()]).unwrap();
        let (mut sealer, mut opener) = (Sealer::new(profile, &master), Opener::new(profile, &master));

        let mut packet = rtp(ssrc, u64::from(sequence), &[]);
        packet[0] |= csrcs;
        packet.resize(12 + usize::from(csrcs) * 4, 0x33);
        let header_len = packet.len();
        packet.extend(&payload);
        let plain = packet.clone();
        packet.resize(plain.len() + profile.tag_len(), 0);
        prop_assert_eq!(sealer.seal_rtp(&mut packet, header_len, plain.len(), u64::from(sequence)), packet.len());
        let header = Header::parse(&packet).unwrap();
        let opened = opener.open_rtp(&mut packet, &header).unwrap();
        prop_assert_eq!(opened, Opened { index: u64::from(sequence), len: plain.len(), first: true });
        prop_assert_eq!(&packet[..opened.len], &plain[..]);

        let mut packet = [&[0x80, 200, 0, 0][..], &ssrc.to_be_bytes(), &payload].concat();
        let plain = packet.clone();
        packet.resize(plain.len() + profile.tag_len() + 4, 0);
        prop_assert_eq!(sealer.seal_rtcp(&mut packet, plain.len()), packet.len());
        prop_assert!(payload.len() < 8 || packet[8..plain.len()] != plain[8..]);
        let len = opener.open_rtcp(&mut packet).unwrap();
        prop_assert_eq!(&packet[..len], &plain[..]);
    }

    #[test]
    fn garbage_is_refused(
        profile in prop::sample::select(PROFILES.as_slice()),
        mut packet in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (_, mut opener) = both(profile);
        prop_assert!(opener.open_rtcp(&mut packet.clone()).is_err());
        if let Ok(header) = Header::parse(&packet) {
            prop_assert!(opener.open_rtp(&mut packet, &header).is_err());
            // Nor does a header of another packet do harm.
            prop_assert!(opener.open_rtp(&mut packet[..2], &header).is_err());
        }
    }
}
