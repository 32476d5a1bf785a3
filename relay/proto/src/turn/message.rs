//! STUN messages as TURN uses them (RFC 8489, RFC 8656): read with the attributes a TURN server needs, and written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

/// Bytes of a message's header.
pub(super) const HEADER_BYTES: usize = 20;

pub(super) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

// Methods (RFC 8489, section 18.1; RFC 8656, section 17).
pub(super) const BINDING: u16 = 0x0001;
pub(super) const ALLOCATE: u16 = 0x0003;
pub(super) const REFRESH: u16 = 0x0004;
pub(super) const SEND: u16 = 0x0006;
pub(super) const DATA: u16 = 0x0007;
pub(super) const CREATE_PERMISSION: u16 = 0x0008;
pub(super) const CHANNEL_BIND: u16 = 0x0009;

// Classes, as bits of the message type (RFC 8489, section 5).
pub(super) const REQUEST: u16 = 0x0000;
pub(super) const INDICATION: u16 = 0x0010;
pub(super) const SUCCESS: u16 = 0x0100;
pub(super) const ERROR: u16 = 0x0110;

// Attributes (RFC 8489, section 18.3; RFC 8656, section 18).
pub(super) const USERNAME: u16 = 0x0006;
pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(super) const ERROR_CODE: u16 = 0x0009;
pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
pub(super) const CHANNEL_NUMBER: u16 = 0x000c;
pub(super) const LIFETIME: u16 = 0x000d;
pub(super) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(super) const DATA_ATTRIBUTE: u16 = 0x0013;
pub(super) const REALM: u16 = 0x0014;
pub(super) const NONCE: u16 = 0x0015;
pub(super) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(super) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub(super) const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;

/// Attributes below this must be understood (RFC 8489, section 14).
const OPTIONAL: u16 = 0x8000;

/// Bytes of MESSAGE-INTEGRITY's value: an HMAC-SHA1.
const INTEGRITY_BYTES: usize = 20;

/// Attributes of one message that are told apart. A client's have about eight; more are no use.
const ATTRIBUTES_MAX: usize = 32;

/// A message that was read. Nothing in it is to be believed before its integrity was verified.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    method: u16,
    class: u16,
    transaction: [u8; 12],
    /// Bytes before MESSAGE-INTEGRITY, if it is there. What follows it is not looked at, FINGERPRINT excepted.
    signed: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads a whole message. `None` when it is none.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([t0, t1, l0, l1, cookie @ ..], _) = bytes.split_first_chunk::<8>()?;
        let kind = u16::from_be_bytes([*t0, *t1]);
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let body = bytes.get(HEADER_BYTES..)?;
        if kind >= 0x4000 || cookie != &MAGIC_COOKIE || len != body.len() || !len.is_multiple_of(4) {
            return None;
        }
        let transaction = *bytes.get(8..HEADER_BYTES)?.first_chunk()?;
        let mut message =
            Self { bytes, method: kind & !ERROR, class: kind & ERROR, transaction, signed: None };
        let (mut at, mut count) = (HEADER_BYTES, 0);
        while at < bytes.len() {
            let (attribute, value, next) = attribute(bytes, at)?;
            count += 1;
            if count > ATTRIBUTES_MAX {
                return None;
            }
            if attribute == MESSAGE_INTEGRITY && message.signed.is_none() {
                if value.len() != INTEGRITY_BYTES {
                    return None;
                }
                message.signed = Some(at);
            }
            at = next;
        }
        Some(message)
    }

    pub(super) fn method(&self) -> u16 {
        self.method
    }

    pub(super) fn class(&self) -> u16 {
        self.class
    }

    pub(super) fn is_signed(&self) -> bool {
        self.signed.is_some()
    }

    /// The attributes that integrity covers (all, without it), each with its value.
    fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let (bytes, end) = (self.bytes, self.signed.unwrap_or(self.bytes.len()));
        let mut at = HEADER_BYTES;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (kind, value, next) = attribute(bytes, at)?;
            at = next;
            Some((kind, value))
        })
    }

    /// The first attribute of a kind.
    pub(super) fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Where the value of the first attribute of a kind lies in the message.
    pub(super) fn range_of(&self, wanted: u16) -> Option<Range<usize>> {
        let value = self.get(wanted)?;
        let start = value.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
        Some(start..start + value.len())
    }

    pub(super) fn text(&self, wanted: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(wanted)?).ok()
    }

    pub(super) fn number(&self, wanted: u16) -> Option<u32> {
        self.get(wanted)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Every XOR-PEER-ADDRESS; `None` for one that cannot be read.
    pub(super) fn peers(&self) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let transaction = self.transaction;
        let peers = self.attributes().filter(|(kind, _)| *kind == XOR_PEER_ADDRESS);
        peers.map(move |(_, value)| read_address(value, &transaction))
    }

    /// Attributes that must be understood and are not, among those that are not `known`.
    pub(super) fn unknown(&self, known: &[u16]) -> impl Iterator<Item = u16> {
        let known = |kind: &u16| *kind >= OPTIONAL || known.contains(kind) || *kind == MESSAGE_INTEGRITY;
        self.attributes().map(|(kind, _)| kind).filter(move |kind| !known(kind))
    }

    /// Whether it was signed with this key.
    pub(super) fn verify(&self, key: &[u8]) -> bool {
        let Some(signed) = self.signed else { return false };
        let Some(tag) = attribute(self.bytes, signed).map(|(_, value, _)| value) else { return false };
        let Some(before) = self.bytes.get(..signed) else { return false };
        integrity(key, before).is_some_and(|expected| verify_slices_are_equal(&expected, tag).is_ok())
    }
}

/// The attribute at a place, and where the next one is.
fn attribute(bytes: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let ([k0, k1, l0, l1], rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([*l0, *l1]));
    let value = rest.get(..len)?;
    rest.get(..len.next_multiple_of(4))?;
    Some((u16::from_be_bytes([*k0, *k1]), value, at + 4 + len.next_multiple_of(4)))
}

/// The HMAC-SHA1 of MESSAGE-INTEGRITY: over what comes before it, with a length that counts it in (RFC 8489, section
/// 14.5).
fn integrity(key: &[u8], before: &[u8]) -> Option<[u8; INTEGRITY_BYTES]> {
    let (kind, rest) = before.split_at_checked(2)?;
    let len = u16::try_from(before.len().checked_sub(HEADER_BYTES)? + 4 + INTEGRITY_BYTES).ok()?;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
    context.update(kind);
    context.update(&len.to_be_bytes());
    context.update(rest.get(2..)?);
    context.sign().as_ref().try_into().ok()
}

fn read_address(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let ([_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let [c0, c1, ..] = MAGIC_COOKIE;
    let port = u16::from_be_bytes([p0 ^ c0, p1 ^ c1]);
    let mask = MAGIC_COOKIE.iter().chain(transaction);
    let ip = match family {
        1 => IpAddr::from(Ipv4Addr::from(xor::<4>(ip, mask)?)),
        2 => IpAddr::from(Ipv6Addr::from(xor::<16>(ip, mask)?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor<'a, const N: usize>(bytes: &[u8], mask: impl Iterator<Item = &'a u8>) -> Option<[u8; N]> {
    let mut out: [u8; N] = bytes.try_into().ok()?;
    out.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    Some(out)
}

/// Writes a message behind what is in a buffer.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    transaction: [u8; 12],
}

impl<'a> Writer<'a> {
    /// The answer to a message, of a class.
    pub(super) fn answer(out: &'a mut Vec<u8>, to: &Message<'_>, class: u16) -> Self {
        Self::begin(out, to.method | class, to.transaction)
    }

    pub(super) fn begin(out: &'a mut Vec<u8>, kind: u16, transaction: [u8; 12]) -> Self {
        let start = out.len();
        out.extend(kind.to_be_bytes());
        out.extend([0, 0]);
        out.extend(MAGIC_COOKIE);
        out.extend(transaction);
        Self { out, start, transaction }
    }

    pub(super) fn put(self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len()).unwrap_or_default();
        let value = value.get(..usize::from(len)).unwrap_or_default();
        self.out.extend(kind.to_be_bytes());
        self.out.extend(len.to_be_bytes());
        self.out.extend(value);
        self.out.resize(self.out.len() + value.len().next_multiple_of(4) - value.len(), 0);
        self
    }

    pub(super) fn address(self, kind: u16, address: SocketAddr) -> Self {
        let (bytes, len) = write_address(address, &self.transaction);
        self.put(kind, bytes.get(..len).unwrap_or_default())
    }

    /// ERROR-CODE (RFC 8489, section 14.8).
    pub(super) fn error(self, code: u16, reason: &str) -> Self {
        let digit = |number: u16| u8::try_from(number).unwrap_or_default();
        let head = [0, 0, digit(code / 100), digit(code % 100)];
        self.put(ERROR_CODE, &[&head, reason.as_bytes()].concat())
    }

    /// Ends the message, signed when there is a key.
    pub(super) fn end(self, key: Option<&[u8]>) {
        let key = key.and_then(|key| integrity(key, self.out.get(self.start..).unwrap_or_default()));
        let writer = match key {
            Some(tag) => self.put(MESSAGE_INTEGRITY, &tag),
            None => self,
        };
        let len = u16::try_from(writer.out.len() - writer.start - HEADER_BYTES).unwrap_or_default();
        if let Some(place) = writer.out.get_mut(writer.start + 2..writer.start + 4) {
            place.copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// The value of an XOR address attribute, and how many of the bytes it is.
pub(super) fn write_address(address: SocketAddr, transaction: &[u8; 12]) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    let mut octets = [0; 16];
    let (family, len) = match address.ip() {
        IpAddr::V4(ip) => {
            octets.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from);
            (1, 4)
        }
        IpAddr::V6(ip) => {
            octets = ip.octets();
            (2, 16)
        }
    };
    let [p0, p1] = address.port().to_be_bytes();
    let head = [0, family, p0, p1];
    let mask = [0, 0].iter().chain(MAGIC_COOKIE.iter().take(2)).chain(&MAGIC_COOKIE).chain(transaction);
    let plain = head.iter().chain(octets.iter().take(len));
    value.iter_mut().zip(plain.zip(mask)).for_each(|(to, (plain, mask))| *to = plain ^ mask);
    (value, 4 + len)
}

/// Attributes that any request may bring.
pub(super) const KNOWN: &[u16] = &[
    USERNAME,
    REALM,
    NONCE,
    LIFETIME,
    XOR_PEER_ADDRESS,
    CHANNEL_NUMBER,
    DATA_ATTRIBUTE,
    REQUESTED_ADDRESS_FAMILY,
    REQUESTED_TRANSPORT,
    FINGERPRINT,
];
