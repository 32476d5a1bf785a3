//! Connectivity checks: binding requests of RFC 8489 as RFC 8445 uses them, and their answers.
//!
//! The `is` crate reads and writes the messages. What it is given has been walked through first, because it allocates
//! for every message it cannot read, logs a warning for some attributes of strangers, and leaves FINGERPRINT alone.

use std::fmt;
use std::net::SocketAddr;

use aws_lc_rs::hmac;
use is::stun::{StunMessage, TransId};
use thiserror::Error;

/// Bytes of a message's header.
const HEADER_BYTES: usize = 20;

/// The largest message that is looked at. Checks have about 100 bytes; more room only costs time to hash it.
pub const MESSAGE_BYTES_MAX: usize = 1280;

/// Room that any answer fits into.
pub const ANSWER_BYTES_MAX: usize = 128;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const ALTERNATE_SERVER: u16 = 0x8023;
const FINGERPRINT: u16 = 0x8028;
const NETWORK_COST: u16 = 0xc057;

/// Bytes of FINGERPRINT with its header.
const FINGERPRINT_BYTES: usize = 8;

/// What FINGERPRINT is mixed with (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// The error code of a role conflict (RFC 8445, section 7.3.1.1).
pub const ROLE_CONFLICT: u16 = 487;

/// Why a message is not taken. All of it is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StunError {
    /// No STUN message, or one that is cut short.
    #[error("not a STUN message")]
    Malformed,
    /// A STUN message of another method or class.
    #[error("neither a binding request nor an answer to one")]
    Kind,
    /// Its FINGERPRINT is of other bytes.
    #[error("the STUN fingerprint is wrong")]
    Fingerprint,
    /// No USERNAME of two parts.
    #[error("the STUN user name is missing")]
    Username,
    /// No MESSAGE-INTEGRITY, or another attribute that ICE needs is missing or unreadable.
    #[error("a STUN attribute is missing or unreadable")]
    Attribute,
}

/// A check that a client sent. Nothing in it is to be believed before [`Request::verify`].
#[derive(Clone, Copy)]
pub struct Request<'a> {
    message: StunMessage<'a>,
    local_ufrag: &'a str,
    remote_ufrag: &'a str,
    priority: u32,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stun::Request")
    }
}

impl<'a> Request<'a> {
    /// Reads a datagram that is a binding request.
    ///
    /// # Errors
    /// When it is none, or lacks what ICE needs.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, StunError> {
        if examine(datagram)? != BINDING_REQUEST {
            return Err(StunError::Kind);
        }
        let message = StunMessage::parse(datagram).map_err(|_| StunError::Attribute)?;
        let (local_ufrag, remote_ufrag) =
            message.username().and_then(|name| name.split_once(':')).ok_or(StunError::Username)?;
        let priority = message.prio().ok_or(StunError::Attribute)?;
        Ok(Self { message, local_ufrag, remote_ufrag, priority })
    }

    /// The first part of the user name: the ufrag of the one who receives the check, which is us.
    #[must_use]
    pub fn local_ufrag(&self) -> &'a str {
        self.local_ufrag
    }

    /// The second part of the user name: the ufrag of the one who sent it.
    #[must_use]
    pub fn remote_ufrag(&self) -> &'a str {
        self.remote_ufrag
    }

    /// PRIORITY: what the path would get as a candidate of its own.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// USE-CANDIDATE: the client nominates the path.
    #[must_use]
    pub fn use_candidate(&self) -> bool {
        self.message.use_candidate()
    }

    /// The client believes that we control. A lite agent never does.
    #[must_use]
    pub fn is_controlled(&self) -> bool {
        self.message.ice_controlled().is_some()
    }

    /// Whether it was made with our password.
    #[must_use]
    pub fn verify(&self, pwd: &str) -> bool {
        self.message.verify(pwd.as_bytes(), hmac_sha1)
    }

    /// Writes the answer: where the check was seen to come from. `None` when `out` is too short.
    #[must_use]
    pub fn write_success(&self, out: &mut [u8], mapped: SocketAddr, pwd: &str) -> Option<usize> {
        write(StunMessage::binding_reply(self.message.trans_id(), mapped), out, pwd)
    }

    /// Writes the answer to one who believes that we control. `None` when `out` is too short.
    #[must_use]
    pub fn write_role_conflict(&self, out: &mut [u8], pwd: &str) -> Option<usize> {
        write(StunMessage::binding_role_conflict_reply(self.message.trans_id()), out, pwd)
    }
}

/// Whom a binding request says it is for: the first part of its user name, which is the receiver's ufrag. It looks at
/// nothing else and allocates nothing, so that what is forged costs little; [`Request`] looks at the rest.
#[must_use]
pub fn local_ufrag(datagram: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = datagram.split_first_chunk::<HEADER_BYTES>()?;
    let [t0, t1, l0, l1, c0, c1, c2, c3, ..] = *header;
    let is_request = u16::from_be_bytes([t0, t1]) == BINDING_REQUEST && [c0, c1, c2, c3] == MAGIC_COOKIE;
    if !is_request || usize::from(u16::from_be_bytes([l0, l1])) != rest.len() {
        return None;
    }
    while let Some(([k0, k1, l0, l1], value)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if u16::from_be_bytes([*k0, *k1]) == USERNAME {
            let name = value.get(..len)?;
            let colon = name.iter().position(|byte| *byte == b':')?;
            return name.get(..colon);
        }
        rest = value.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// An answer to a check, for those who send checks: clients in tests and load runs.
#[derive(Clone, Copy)]
pub struct Response<'a> {
    message: StunMessage<'a>,
    transaction: [u8; 12],
}

impl fmt::Debug for Response<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stun::Response")
    }
}

impl<'a> Response<'a> {
    /// Reads a datagram that answers a binding request.
    ///
    /// # Errors
    /// When it does not.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, StunError> {
        if !matches!(examine(datagram)?, BINDING_SUCCESS | BINDING_ERROR) {
            return Err(StunError::Kind);
        }
        let message = StunMessage::parse(datagram).map_err(|_| StunError::Attribute)?;
        let transaction = datagram.get(8..HEADER_BYTES).and_then(|id| id.try_into().ok());
        Ok(Self { message, transaction: transaction.ok_or(StunError::Malformed)? })
    }

    /// The transaction it answers.
    #[must_use]
    pub fn transaction(&self) -> [u8; 12] {
        self.transaction
    }

    /// Where the check was seen to come from. `None` in an error.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.message.mapped_address()
    }

    /// The error code, if it is an error.
    #[must_use]
    pub fn error(&self) -> Option<u16> {
        self.message.error_code().map(|(code, _)| code)
    }

    /// Whether it was made with the password the request was made with.
    #[must_use]
    pub fn verify(&self, pwd: &str) -> bool {
        self.message.verify(pwd.as_bytes(), hmac_sha1)
    }
}

/// Writes a check of a controlling client; `username` is the receiver's ufrag, a colon, the sender's. `None` when
/// `out` is too short, or the user name longer than 128 bytes.
#[must_use]
pub fn write_request(
    out: &mut [u8],
    username: &str,
    pwd: &str,
    priority: u32,
    tie_breaker: u64,
    use_candidate: bool,
    transaction: [u8; 12],
) -> Option<usize> {
    let id = trans_id(transaction)?;
    write(StunMessage::binding_request(username, id, true, tie_breaker, priority, use_candidate), out, pwd)
}

/// The `is` crate makes up transaction ids or reads them, so one is read: out of an indication without attributes.
fn trans_id(transaction: [u8; 12]) -> Option<TransId> {
    let mut indication = [0; HEADER_BYTES];
    let (head, id) = indication.split_first_chunk_mut::<8>()?;
    *head = [0x00, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    id.copy_from_slice(&transaction);
    StunMessage::parse(&indication).ok().map(|message| message.trans_id())
}

fn write(message: StunMessage<'_>, out: &mut [u8], pwd: &str) -> Option<usize> {
    message.to_bytes(Some(pwd.as_bytes()), out, hmac_sha1).ok()
}

/// Walks through a message, and says its type. After it, the `is` crate finds nothing to stumble over or to warn of.
fn examine(datagram: &[u8]) -> Result<u16, StunError> {
    if datagram.len() > MESSAGE_BYTES_MAX {
        return Err(StunError::Malformed);
    }
    let (header, mut rest) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(StunError::Malformed)?;
    let [t0, t1, l0, l1, c0, c1, c2, c3, ..] = *header;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    if t0 > 0x3f || [c0, c1, c2, c3] != MAGIC_COOKIE || len != rest.len() || !len.is_multiple_of(4) {
        return Err(StunError::Malformed);
    }
    let (mut integrity, mut named) = (false, false);
    while let Some(([k0, k1, l0, l1], value)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([*k0, *k1]);
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (value, behind) = value.split_at_checked(len.next_multiple_of(4)).ok_or(StunError::Malformed)?;
        match kind {
            MESSAGE_INTEGRITY if len == 20 => integrity = true,
            // One that is routed by, and another that is verified.
            USERNAME if std::mem::replace(&mut named, true) => return Err(StunError::Attribute),
            FINGERPRINT if len == 4 => check_fingerprint(datagram, rest.len(), value)?,
            NETWORK_COST if len == 4 => {}
            MESSAGE_INTEGRITY | FINGERPRINT | NETWORK_COST => return Err(StunError::Attribute),
            MAPPED_ADDRESS | UNKNOWN_ATTRIBUTES | ALTERNATE_SERVER => return Err(StunError::Attribute),
            _ => {}
        }
        rest = behind;
    }
    if integrity { Ok(u16::from_be_bytes([t0, t1])) } else { Err(StunError::Attribute) }
}

/// FINGERPRINT is the last attribute, a checksum of all before it. `tail` is how many bytes it and what follows have.
fn check_fingerprint(datagram: &[u8], tail: usize, value: &[u8]) -> Result<(), StunError> {
    let before = datagram.len().checked_sub(tail).and_then(|len| datagram.get(..len));
    let expected = crc32(before.ok_or(StunError::Malformed)?) ^ FINGERPRINT_XOR;
    if tail == FINGERPRINT_BYTES && value == expected.to_be_bytes() {
        Ok(())
    } else {
        Err(StunError::Fingerprint)
    }
}

fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(part);
    }
    *context.sign().as_ref().first_chunk().expect("SHA-1 has 20 bytes")
}

/// The CRC-32 of ISO/IEC 3309, bit-reversed as everywhere.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        let step = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        step ^ (crc >> 8)
    })
}

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "computed by the compiler")]
const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests;
