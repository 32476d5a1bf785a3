//! TURN (RFC 8656) over TCP or TLS, as another way to frame what a client sends to the relay.
//!
//! Browsers speak ICE within TLS only through a TURN server. Here the server is the relay itself: an allocation's relayed
//! address exists in name only, the peers it may reach are the relay's own addresses, and what is sent to them is handed
//! on as if it had come in a frame of RFC 4571. So there are no relay sockets, and it is of no use to anybody else.
//!
//! Credentials (RFC 8489, section 9.2) need no store: the user name is a time of expiry and some random characters,
//! `<seconds since the Unix epoch>:<random>`, the password is an HMAC of it under a key that nodes and ingresses derive
//! from their common secret.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::framing::{Format, Splitter};

mod message;

use message::{Message, Writer};

/// How long an allocation lives without a refresh (RFC 8656, section 3.2), and the longest that clients may ask for.
const LIFETIME: Duration = Duration::from_secs(600);
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// How long a permission lives (RFC 8656, section 9).
const PERMISSION: Duration = Duration::from_secs(300);

/// How long a channel lives (RFC 8656, section 12).
const CHANNEL: Duration = Duration::from_secs(600);

/// Channels of one allocation: one for each of the relay's addresses that the client checks.
const CHANNELS_MAX: usize = 16;

/// Bytes of answers that one batch of requests may make. A client sends one request at a time.
const REPLIES_BYTES_MAX: usize = 16 * 1024;

/// UDP, by its protocol number (RFC 8656, section 18.7).
const PROTOCOL_UDP: u8 = 17;

/// The realm of the credentials. It tells a client nothing but that they are of a relay.
const REALM: &str = "trunkline";

/// What the key of the credentials is derived for.
const PURPOSE: &[u8] = b"trunkline turn credentials 1";

/// Bytes that can be in front of a payload: a Data indication's header, an IPv6 address, the payload's attribute.
const HEAD_BYTES_MAX: usize = message::HEADER_BYTES + 24 + 4;

/// Why a connection is given up. All of it is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TurnError {
    /// Neither STUN nor ChannelData: where the next message begins is lost.
    #[error("neither a STUN message nor channel data")]
    Malformed,
    /// More requests at once than any client sends.
    #[error("too many requests at once")]
    Flood,
}

/// What a client signs its requests with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Says when they expire.
    pub username: String,
    /// A secret.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// What credentials are made and checked with: the same on all nodes and ingresses that share a ufrag key.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret that belongs to a ufrag key.
    #[must_use]
    pub fn derive(ufrag_key: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, ufrag_key);
        let derived = hmac::sign(&root, PURPOSE);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Credentials that are good until `expires_s`, seconds since the Unix epoch; `random` makes them differ.
    #[must_use]
    pub fn issue(&self, expires_s: u64, random: [u8; 9]) -> Credentials {
        let username = format!("{expires_s}:{}", URL_SAFE_NO_PAD.encode(random));
        let password = self.password(&username).to_string();
        Credentials { username, password }
    }

    fn password(&self, username: &str) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, username.as_bytes())))
    }

    /// The key that a user name's requests are signed with: MD5 of user name, realm and password (RFC 8489, section
    /// 9.2.2). `None` when the user name is none of ours, or has expired.
    fn key(&self, username: &str, now_s: u64) -> Option<[u8; 16]> {
        let (expires_s, _) = username.split_once(':')?;
        if expires_s.parse::<u64>().ok()? < now_s {
            return None;
        }
        let password = self.password(username);
        let mut hash = Md5::new();
        for part in [username, ":", REALM, ":", &password] {
            hash.update(part.as_bytes());
        }
        Some(hash.finalize().into())
    }
}

/// What all sessions of a process share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What credentials are checked with.
    pub secret: Secret,
    /// The relay's addresses, as clients are told them: the only peers.
    pub own: Vec<IpAddr>,
}

/// One client's connection.
pub struct Session {
    settings: Arc<Settings>,
    splitter: Splitter,
    client: SocketAddr,
    relayed: SocketAddr,
    nonce: String,
    allocation: Option<Allocation>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("allocated", &self.allocation.is_some()).finish_non_exhaustive()
    }
}

struct Allocation {
    username: String,
    expires: Instant,
    permissions: Vec<(IpAddr, Instant)>,
    channels: Vec<Channel>,
    /// Whom the client wrote to last: what it gets comes from there.
    peer: Option<SocketAddr>,
}

#[derive(Clone, Copy)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Instant,
}

/// Padding up to a multiple of four bytes.
static PAD: [u8; 3] = [0; 3];

/// What goes around a payload on its way to the client.
#[derive(Clone, Copy, Debug)]
pub struct Wrapping {
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    pad_len: usize,
}

impl Wrapping {
    /// What goes in front of it.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_len).unwrap_or_default()
    }

    /// What goes behind it: up to three bytes.
    #[must_use]
    pub fn pad(&self) -> &'static [u8] {
        PAD.get(..self.pad_len).unwrap_or_default()
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.head.iter_mut().skip(self.head_len);
        room.zip(bytes).for_each(|(to, from)| *to = *from);
        self.head_len = (self.head_len + bytes.len()).min(HEAD_BYTES_MAX);
    }
}

/// A refusal: a code of RFC 8489 or 8656, and its reason phrase.
type Refusal = (u16, &'static str);

const BAD_REQUEST: Refusal = (400, "Bad Request");
const UNAUTHENTICATED: Refusal = (401, "Unauthenticated");
const FORBIDDEN: Refusal = (403, "Forbidden");
const UNKNOWN_ATTRIBUTE: Refusal = (420, "Unknown Attribute");
const ALLOCATION_MISMATCH: Refusal = (437, "Allocation Mismatch");
const STALE_NONCE: Refusal = (438, "Stale Nonce");
const ADDRESS_FAMILY: Refusal = (440, "Address Family not Supported");
const WRONG_CREDENTIALS: Refusal = (441, "Wrong Credentials");
const TRANSPORT: Refusal = (442, "Unsupported Transport Protocol");
const PEER_FAMILY: Refusal = (443, "Peer Address Family Mismatch");
const INSUFFICIENT_CAPACITY: Refusal = (508, "Insufficient Capacity");

/// STUN messages, whose length is in their header, and ChannelData, padded to four bytes as over all streams
/// (RFC 8656, section 12.5).
const FORMAT: Format = Format { head_bytes: 4, rest_bytes };

fn rest_bytes(head: &[u8]) -> Option<usize> {
    let [first, _, l0, l1] = *head.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    match first >> 6 {
        0 => Some(message::HEADER_BYTES - 4 + len),
        1 => Some(len.next_multiple_of(4)),
        _ => None,
    }
}

impl Session {
    /// A connection from `client`. `relayed` is the address it is told to have, `nonce` are random bytes.
    #[must_use]
    pub fn new(settings: Arc<Settings>, client: SocketAddr, relayed: SocketAddr, nonce: [u8; 12]) -> Self {
        let nonce = URL_SAFE_NO_PAD.encode(nonce);
        Self { settings, splitter: Splitter::new(FORMAT), client, relayed, nonce, allocation: None }
    }

    /// The address that the client is told to have.
    #[must_use]
    pub fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Whether the client showed good credentials, and holds an allocation.
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        self.allocation.is_some()
    }

    /// Takes what came on the connection at `now`, `now_s` seconds since the Unix epoch. Payloads for the relay are handed
    /// on where they lie; answers are put behind what is in `replies`.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub fn handle(
        &mut self,
        now: Instant,
        now_s: u64,
        bytes: &mut [u8],
        replies: &mut Vec<u8>,
        mut payload: impl FnMut(&mut [u8]),
    ) -> Result<(), TurnError> {
        let Self { settings, splitter, client, relayed, nonce, allocation } = self;
        if allocation.as_ref().is_some_and(|allocation| allocation.expires <= now) {
            *allocation = None;
        }
        let mut desk = Desk { settings, client: *client, relayed: *relayed, nonce, allocation, now, now_s };
        let mut verdict = Ok(());
        let before = replies.len();
        let split = splitter.feed(bytes, |message| {
            if verdict.is_ok() {
                verdict = desk.take(message, replies, &mut payload);
            }
            if replies.len() - before > REPLIES_BYTES_MAX {
                verdict = Err(TurnError::Flood);
            }
        });
        split.map_err(|_| TurnError::Malformed).and(verdict)
    }

    /// What goes around a payload of `len` bytes. `None` while there is nobody to whom it could go.
    #[must_use]
    pub fn wrap(&self, now: Instant, len: usize) -> Option<Wrapping> {
        let allocation = self.allocation.as_ref().filter(|allocation| allocation.expires > now)?;
        let peer = allocation.peer.filter(|peer| allocation.permits(peer.ip(), now))?;
        let len16 = u16::try_from(len).ok()?;
        let pad_len = len.next_multiple_of(4) - len;
        let mut wrapping = Wrapping { head: [0; HEAD_BYTES_MAX], head_len: 0, pad_len };
        if let Some(channel) = allocation.channels.iter().find(|c| c.peer == peer && c.expires > now) {
            wrapping.put(&channel.number.to_be_bytes());
            wrapping.put(&len16.to_be_bytes());
            return Some(wrapping);
        }
        // Nobody answers an indication, so its transaction need not differ from others.
        let transaction = [0; 12];
        let (address, address_len) = message::write_address(peer, &transaction);
        let attributes = 4 + address_len + 4 + len + pad_len;
        wrapping.put(&(message::DATA | message::INDICATION).to_be_bytes());
        wrapping.put(&u16::try_from(attributes).ok()?.to_be_bytes());
        wrapping.put(&message::MAGIC_COOKIE);
        wrapping.put(&transaction);
        wrapping.put(&message::XOR_PEER_ADDRESS.to_be_bytes());
        wrapping.put(&u16::try_from(address_len).ok()?.to_be_bytes());
        wrapping.put(address.get(..address_len)?);
        wrapping.put(&message::DATA_ATTRIBUTE.to_be_bytes());
        wrapping.put(&len16.to_be_bytes());
        Some(wrapping)
    }
}

impl Allocation {
    fn permits(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.iter().any(|(ip, expires)| *ip == peer && *expires > now)
    }

    /// The relay's own addresses are few, so this list is short.
    fn permit(&mut self, peer: IpAddr, now: Instant) {
        self.permissions.retain(|(ip, _)| *ip != peer);
        self.permissions.push((peer, now + PERMISSION));
    }

    /// Whether a payload to a peer is taken. Then that is whom the client talks to.
    fn send_to(&mut self, peer: SocketAddr, now: Instant) -> bool {
        let permitted = self.permits(peer.ip(), now);
        if permitted {
            self.peer = Some(peer);
        }
        permitted
    }
}

/// A session while it works on what came.
struct Desk<'a> {
    settings: &'a Settings,
    client: SocketAddr,
    relayed: SocketAddr,
    nonce: &'a str,
    allocation: &'a mut Option<Allocation>,
    now: Instant,
    now_s: u64,
}

/// What a request that was granted is answered with, beyond its integrity.
enum Grant {
    Allocated(Duration),
    Refreshed(Duration),
    Done,
}

impl Desk<'_> {
    fn take(
        &mut self,
        bytes: &mut [u8],
        replies: &mut Vec<u8>,
        payload: &mut impl FnMut(&mut [u8]),
    ) -> Result<(), TurnError> {
        if bytes.first().is_some_and(|first| first >> 6 == 1) {
            self.channel_data(bytes, payload);
            return Ok(());
        }
        let message = Message::parse(bytes).ok_or(TurnError::Malformed)?;
        match (message.class(), message.method()) {
            (message::REQUEST, message::BINDING) => {
                Writer::answer(replies, &message, message::SUCCESS)
                    .address(message::XOR_MAPPED_ADDRESS, self.client)
                    .end(None);
            }
            (message::REQUEST, _) => self.request(&message, replies),
            (message::INDICATION, message::SEND) => {
                let data = message.range_of(message::DATA_ATTRIBUTE);
                let peer = message.peers().next().flatten();
                if let Some((peer, data)) = peer.zip(data)
                    && self.allocation.as_mut().is_some_and(|it| it.send_to(peer, self.now))
                    && let Some(data) = bytes.get_mut(data)
                {
                    payload(data);
                }
            }
            // Other indications, and answers to requests that nobody made.
            _ => {}
        }
        Ok(())
    }

    fn channel_data(&mut self, bytes: &mut [u8], payload: &mut impl FnMut(&mut [u8])) {
        let Some(([n0, n1, l0, l1], rest)) = bytes.split_first_chunk_mut::<4>() else { return };
        let number = u16::from_be_bytes([*n0, *n1]);
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let now = self.now;
        let Some(allocation) = self.allocation.as_mut() else { return };
        let bound =
            allocation.channels.iter().find(|c| c.number == number && c.expires > now).map(|c| c.peer);
        if bound.is_some_and(|peer| allocation.send_to(peer, now))
            && let Some(data) = rest.get_mut(..len).filter(|data| !data.is_empty())
        {
            payload(data);
        }
    }

    /// Answers a request that has to be signed.
    fn request(&mut self, message: &Message<'_>, replies: &mut Vec<u8>) {
        let (username, key) = match self.authenticate(message) {
            Ok(authentic) => authentic,
            Err((code, reason)) => {
                let answer = Writer::answer(replies, message, message::ERROR).error(code, reason);
                match (code, reason) {
                    BAD_REQUEST => answer.end(None),
                    _ => answer
                        .put(message::REALM, REALM.as_bytes())
                        .put(message::NONCE, self.nonce.as_bytes())
                        .end(None),
                }
                return;
            }
        };
        let granted = match message.unknown(message::KNOWN).next() {
            Some(_) => Err(UNKNOWN_ATTRIBUTE),
            None => self.grant(message, username),
        };
        match granted {
            Ok(grant) => {
                let answer = Writer::answer(replies, message, message::SUCCESS);
                let lifetime =
                    |lifetime: Duration| u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
                let answer = match grant {
                    Grant::Allocated(granted) => answer
                        .address(message::XOR_RELAYED_ADDRESS, self.relayed)
                        .put(message::LIFETIME, &lifetime(granted))
                        .address(message::XOR_MAPPED_ADDRESS, self.client),
                    Grant::Refreshed(granted) => answer.put(message::LIFETIME, &lifetime(granted)),
                    Grant::Done => answer,
                };
                answer.end(Some(&key));
            }
            Err(refusal @ (code, reason)) => {
                let answer = Writer::answer(replies, message, message::ERROR).error(code, reason);
                let answer = if refusal == UNKNOWN_ATTRIBUTE {
                    let unknown: Vec<u8> =
                        message.unknown(message::KNOWN).flat_map(u16::to_be_bytes).collect();
                    answer.put(message::UNKNOWN_ATTRIBUTES, &unknown)
                } else {
                    answer
                };
                answer.end(Some(&key));
            }
        }
    }

    /// The long-term credential mechanism (RFC 8489, section 9.2.4): the user name, and what its requests are signed with.
    fn authenticate<'m>(&self, message: &Message<'m>) -> Result<(&'m str, [u8; 16]), Refusal> {
        if !message.is_signed() {
            return Err(UNAUTHENTICATED);
        }
        let text = |kind| message.text(kind).ok_or(BAD_REQUEST);
        let (username, nonce) = (text(message::USERNAME)?, text(message::NONCE)?);
        if text(message::REALM)? != REALM {
            return Err(UNAUTHENTICATED);
        }
        if nonce != self.nonce {
            return Err(STALE_NONCE);
        }
        let key = self.settings.secret.key(username, self.now_s).ok_or(UNAUTHENTICATED)?;
        if message.verify(&key) { Ok((username, key)) } else { Err(UNAUTHENTICATED) }
    }

    fn grant(&mut self, message: &Message<'_>, username: &str) -> Result<Grant, Refusal> {
        if message.method() == message::ALLOCATE {
            return self.allocate(message, username);
        }
        let now = self.now;
        let Some(allocation) = self.allocation.as_mut() else { return Err(ALLOCATION_MISMATCH) };
        if allocation.username != username {
            return Err(WRONG_CREDENTIALS);
        }
        match message.method() {
            message::REFRESH => {
                let lifetime = lifetime(message);
                allocation.expires = now + lifetime;
                if lifetime.is_zero() {
                    *self.allocation = None;
                }
                Ok(Grant::Refreshed(lifetime))
            }
            message::CREATE_PERMISSION => {
                let mut peers = message.peers().peekable();
                peers.peek().ok_or(BAD_REQUEST)?;
                // All or none (RFC 8656, section 9.2).
                let peers =
                    peers
                        .map(|peer| permitted(self.settings, self.relayed, peer))
                        .collect::<Result<Vec<_>, _>>()?;
                peers.iter().for_each(|peer| allocation.permit(peer.ip(), now));
                Ok(Grant::Done)
            }
            message::CHANNEL_BIND => {
                let number = message.number(message::CHANNEL_NUMBER).ok_or(BAD_REQUEST)?;
                // Two reserved bytes follow the number.
                let number = u16::try_from(number >> 16).unwrap_or_default();
                let peer = message.peers().next().ok_or(BAD_REQUEST)?;
                let peer = permitted(self.settings, self.relayed, peer)?;
                let taken = |c: &&Channel| c.expires > now && (c.number == number) != (c.peer == peer);
                if !(0x4000..=0x4fff).contains(&number) || allocation.channels.iter().any(|c| taken(&c)) {
                    return Err(BAD_REQUEST);
                }
                allocation.channels.retain(|c| c.number != number && c.peer != peer && c.expires > now);
                if allocation.channels.len() >= CHANNELS_MAX {
                    return Err(INSUFFICIENT_CAPACITY);
                }
                allocation.channels.push(Channel { number, peer, expires: now + CHANNEL });
                allocation.permit(peer.ip(), now);
                Ok(Grant::Done)
            }
            _ => Err(BAD_REQUEST),
        }
    }

    fn allocate(&mut self, message: &Message<'_>, username: &str) -> Result<Grant, Refusal> {
        if self.allocation.is_some() {
            return Err(ALLOCATION_MISMATCH);
        }
        let [protocol, ..] = message.number(message::REQUESTED_TRANSPORT).ok_or(BAD_REQUEST)?.to_be_bytes();
        if protocol != PROTOCOL_UDP {
            return Err(TRANSPORT);
        }
        if let Some(family) = message.number(message::REQUESTED_ADDRESS_FAMILY) {
            let ours = if self.relayed.is_ipv4() { 1 } else { 2 };
            if family.to_be_bytes().first() != Some(&ours) {
                return Err(ADDRESS_FAMILY);
            }
        }
        let lifetime = lifetime(message).max(LIFETIME);
        *self.allocation = Some(Allocation {
            username: username.to_owned(),
            expires: self.now + lifetime,
            permissions: Vec::new(),
            channels: Vec::new(),
            peer: None,
        });
        Ok(Grant::Allocated(lifetime))
    }
}

/// The lifetime a request asks for: nothing, or within bounds.
fn lifetime(message: &Message<'_>) -> Duration {
    let wanted = message.number(message::LIFETIME).map(|wanted| Duration::from_secs(wanted.into()));
    match wanted {
        None => LIFETIME,
        Some(Duration::ZERO) => Duration::ZERO,
        Some(wanted) => wanted.clamp(LIFETIME, LIFETIME_MAX),
    }
}

/// A peer that clients may reach: an address of the relay's own.
fn permitted(
    settings: &Settings,
    relayed: SocketAddr,
    peer: Option<SocketAddr>,
) -> Result<SocketAddr, Refusal> {
    let peer = peer.ok_or(BAD_REQUEST)?;
    if peer.is_ipv4() != relayed.is_ipv4() {
        return Err(PEER_FAMILY);
    }
    if settings.own.contains(&peer.ip()) { Ok(peer) } else { Err(FORBIDDEN) }
}

#[cfg(test)]
mod tests;
