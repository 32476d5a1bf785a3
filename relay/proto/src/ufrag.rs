//! The relay's ICE user name fragment, which says where a participant's packets belong.
//!
//! Every connectivity check carries it, so an ingress can route by it without asking anybody, and drop what is forged
//! before it keeps any state. Its 32 characters are the standard base64 alphabet, which is what RFC 8445 calls
//! `ice-char`, of 24 bytes in network order:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 2 | node |
//! | 1 | worker of the node |
//! | 4 | call |
//! | 4 | participant |
//! | 4 | expiry, minutes since the Unix epoch |
//! | 8 | HMAC-SHA256 of all that, cut |

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use thiserror::Error;
use zeroize::Zeroize;

/// Characters of a ufrag.
pub const LEN: usize = 32;

/// The only version there is.
const VERSION: u8 = 1;

/// Bytes that are authenticated.
const CLEAR_BYTES: usize = 16;

/// Bytes of the tag. Forging one takes 2^63 packets on average; more would not fit the 32 characters that
/// clients are known to take.
const TAG_BYTES: usize = 8;

/// Where a participant's packets belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The relay node.
    pub node: u16,
    /// The worker of that node.
    pub worker: u8,
    /// The call, as its node numbers them.
    pub call: u32,
    /// The participant, as its node numbers them.
    pub participant: u32,
    /// After this minute since the Unix epoch no new flow begins with it.
    pub expires_min: u32,
}

/// Why a ufrag leads nowhere. All of it is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UfragError {
    /// Not 32 characters of base64.
    #[error("the ufrag is not one of a relay")]
    Malformed,
    /// Of a layout that is not known here.
    #[error("the ufrag is of an unknown version")]
    Version,
    /// Not made with this key.
    #[error("the ufrag was not made here")]
    Forged,
    /// Too old. Said without looking at the tag, so that a flood of old ones costs nothing.
    #[error("the ufrag has expired")]
    Expired,
}

/// The secret that nodes and their ingresses share. Its schedule is cleared from memory when it is dropped.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A key of 32 random bytes.
    #[must_use]
    pub fn new(mut bytes: [u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        bytes.zeroize();
        Self(key)
    }

    /// The ufrag of a route.
    #[must_use]
    pub fn write(&self, route: &Route) -> String {
        let mut bytes = [0; CLEAR_BYTES + TAG_BYTES];
        let (clear, tag) = bytes.split_at_mut(CLEAR_BYTES);
        clear.copy_from_slice(&to_bytes(route));
        tag.copy_from_slice(&self.tag(clear));
        STANDARD_NO_PAD.encode(bytes)
    }

    /// The route of a ufrag, if it was made with this key and has not expired. What is cheap is looked at first: a
    /// packet that is not even a ufrag costs no HMAC.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn read(&self, ufrag: impl AsRef<[u8]>, now_min: u32) -> Result<Route, UfragError> {
        let bytes = decode(ufrag.as_ref())?;
        let (clear, tag) = bytes.split_first_chunk::<CLEAR_BYTES>().ok_or(UfragError::Malformed)?;
        let route = from_bytes(clear)?;
        if route.expires_min < now_min {
            return Err(UfragError::Expired);
        }
        verify_slices_are_equal(&self.tag(clear), tag).map_err(|_| UfragError::Forged)?;
        Ok(route)
    }

    fn tag(&self, clear: &[u8]) -> [u8; TAG_BYTES] {
        let whole = hmac::sign(&self.0, clear);
        *whole.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }
}

/// Where a ufrag claims to belong. Nothing vouches for it: for those who find out by other means, such as a call that
/// knows its own ufrags.
///
/// # Errors
/// When it is no ufrag.
pub fn peek(ufrag: impl AsRef<[u8]>) -> Result<Route, UfragError> {
    from_bytes(decode(ufrag.as_ref())?.first_chunk().ok_or(UfragError::Malformed)?)
}

fn decode(ufrag: &[u8]) -> Result<[u8; CLEAR_BYTES + TAG_BYTES], UfragError> {
    let ufrag: &[u8; LEN] = ufrag.try_into().map_err(|_| UfragError::Malformed)?;
    let mut bytes = [0; CLEAR_BYTES + TAG_BYTES];
    let len = STANDARD_NO_PAD.decode_slice(ufrag, &mut bytes).map_err(|_| UfragError::Malformed)?;
    if len == bytes.len() { Ok(bytes) } else { Err(UfragError::Malformed) }
}

fn to_bytes(route: &Route) -> [u8; CLEAR_BYTES] {
    let [n0, n1] = route.node.to_be_bytes();
    let [c0, c1, c2, c3] = route.call.to_be_bytes();
    let [p0, p1, p2, p3] = route.participant.to_be_bytes();
    let [e0, e1, e2, e3] = route.expires_min.to_be_bytes();
    [VERSION, n0, n1, route.worker, c0, c1, c2, c3, p0, p1, p2, p3, e0, e1, e2, e3]
}

fn from_bytes(bytes: &[u8; CLEAR_BYTES]) -> Result<Route, UfragError> {
    let [version, n0, n1, worker, c0, c1, c2, c3, p0, p1, p2, p3, e0, e1, e2, e3] = *bytes;
    if version != VERSION {
        return Err(UfragError::Version);
    }
    Ok(Route {
        node: u16::from_be_bytes([n0, n1]),
        worker,
        call: u32::from_be_bytes([c0, c1, c2, c3]),
        participant: u32::from_be_bytes([p0, p1, p2, p3]),
        expires_min: u32::from_be_bytes([e0, e1, e2, e3]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTE: Route =
        Route { node: 0x0102, worker: 3, call: 0x0405_0607, participant: 8, expires_min: 30_000_000 };

    fn key() -> Key {
        Key::new([7; 32])
    }

    #[test]
    fn a_ufrag_is_32_ice_characters() {
        let ufrag = key().write(&ROUTE);
        assert_eq!(ufrag.len(), LEN);
        assert!(ufrag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'));
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = STANDARD_NO_PAD.decode(key().write(&ROUTE)).expect("base64");
        assert_eq!(bytes[..16], [1, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 8, 0x01, 0xc9, 0xc3, 0x80]);
    }

    #[test]
    fn it_is_good_through_its_last_minute() {
        let ufrag = key().write(&ROUTE);
        assert_eq!(key().read(&ufrag, ROUTE.expires_min), Ok(ROUTE));
        assert_eq!(key().read(&ufrag, ROUTE.expires_min + 1), Err(UfragError::Expired));
    }

    #[test]
    fn another_key_does_not_take_it() {
        let ufrag = Key::new([8; 32]).write(&ROUTE);
        assert_eq!(key().read(&ufrag, 0), Err(UfragError::Forged));
    }

    #[test]
    fn whoever_only_peeks_sees_the_route_of_any_key() {
        assert_eq!(peek(Key::new([8; 32]).write(&ROUTE)), Ok(ROUTE));
        assert_eq!(peek("short"), Err(UfragError::Malformed));
    }

    #[test]
    fn another_version_says_so() {
        let mut bytes = STANDARD_NO_PAD.decode(key().write(&ROUTE)).expect("base64");
        bytes[0] = 2;
        assert_eq!(key().read(STANDARD_NO_PAD.encode(bytes), 0), Err(UfragError::Version));
    }

    #[test]
    fn no_changed_bit_passes() {
        let bytes = STANDARD_NO_PAD.decode(key().write(&ROUTE)).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key().read(STANDARD_NO_PAD.encode(changed), 0).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(node: u16, worker: u8, call: u32, participant: u32, expires_min: u32) {
            let route = Route { node, worker, call, participant, expires_min };
            prop_assert_eq!(key().read(key().write(&route), expires_min), Ok(route));
        }

        #[test]
        fn nothing_else_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(key().read(&bytes, 0).is_err());
        }
    }
}
