//! The file that data keys rest in, wrapped: a header and fixed-size slots, overwritten in place.
//!
//! ```text
//! header:  magic(16) store id(16) nonce(12) tag(16) zeros
//! slot:    key id(8) scope(1) owner(4) created(8) nonce(12) sealed{ key(32) } tag(16) zeros
//! ```
//!
//! The header's tag is made with the deployment key over nothing: it tells a wrong deployment key from damage.
//! A slot lies within one sector, so that writing one never touches another. A slot whose content does not
//! open is free: its key was being written, and not used yet, or being destroyed.
//!
//! Overwriting in place is as much as a program can do. Where the file system or the medium keeps old copies
//! (copy-on-write, snapshots, flash translation), what protects those is the deployment key.

use std::io;

use ::redb::StorageBackend;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use trunkline_common::token;
use trunkline_gateway_proto::store::{NetworkKey, PeerKey, Scope};
use trunkline_gateway_proto::time::Time;

use super::StoreError;
use super::fault::{Faults, KEYS_FILE};
use super::seal::{KeyId, KeyScope, Secret, TAG_LEN};

/// A divisor of every sector size.
const SLOT_LEN: usize = 128;
const SLOT_LEN_U64: u64 = 128;
const MAGIC: &[u8; 16] = b"trunkline keys 1";
/// Slots made at once when there is no free one: a data key must not fail on a full disk, if that can be
/// avoided. One per scope and hour of backlog is needed.
const SLOTS_GROWTH: u32 = 512;

/// Identifies a store: its two files carry it, so that they are only used together.
pub(super) type StoreId = [u8; 16];

/// A data key as it was found in, or is put in, a slot.
pub(super) struct Wrapped {
    pub(super) id: KeyId,
    pub(super) scope: KeyScope,
    pub(super) created: Time,
    pub(super) secret: Secret,
}

/// What opening the file found.
pub(super) enum Found {
    /// Nothing was ever kept in it.
    Blank,
    /// Keys of this store, each with its slot.
    Keys(StoreId, Vec<(u32, Wrapped)>),
}

/// The file.
pub(super) struct KeyFile {
    backend: Box<dyn StorageBackend>,
    wrapping: LessSafeKey,
    store: StoreId,
    slots: u32,
    free: Vec<u32>,
    faults: Faults,
}

impl KeyFile {
    /// Opens the file and unwraps what it holds.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`], [`StoreError::Corrupt`] when the header is damaged, or what the disk reports.
    pub(super) fn open(
        backend: Box<dyn StorageBackend>,
        deployment_key: &[u8; 32],
        faults: &Faults,
    ) -> Result<(Self, Found), StoreError> {
        let wrapping = cipher(deployment_key);
        let mut file =
            Self { backend, wrapping, store: [0; 16], slots: 0, free: Vec::new(), faults: faults.clone() };
        let bytes = file.read_all().map_err(|error| faults.io(KEYS_FILE, &error))?;
        let Some((header, slots)) = bytes.split_first_chunk::<SLOT_LEN>() else {
            return if bytes.iter().all(|byte| *byte == 0) {
                Ok((file, Found::Blank))
            } else {
                Err(faults.corrupt(KEYS_FILE, "it is cut off"))
            };
        };
        if !header.starts_with(MAGIC) {
            // A header is only ever written before the first slot: torn, it leaves nothing behind it.
            return if slots.iter().all(|byte| *byte == 0) && bytes.len() <= file_len(SLOTS_GROWTH) {
                Ok((file, Found::Blank))
            } else {
                Err(faults.corrupt(KEYS_FILE, "it does not begin as a key file does"))
            };
        }
        file.store.copy_from_slice(&header[16..32]);
        file.check_header(header)?;
        let mut keys = Vec::new();
        for (index, slot) in (0..).zip(slots.as_chunks::<SLOT_LEN>().0) {
            file.slots = index + 1;
            match file.unwrap(slot) {
                Some(key) => keys.push((index, key)),
                None => file.free.push(index),
            }
        }
        file.free.reverse();
        let store = file.store;
        Ok((file, Found::Keys(store, keys)))
    }

    /// Which store it belongs to.
    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    /// Makes it the key file of a new store. Durable when it returns.
    pub(super) fn create(&mut self, store: StoreId) -> Result<(), StoreError> {
        self.store = store;
        (self.slots, self.free) = (0, Vec::new());
        let nonce: [u8; NONCE_LEN] = token::random();
        let tag = self
            .wrapping
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.header_aad()),
                &mut [],
            )
            .map_err(|_| self.faults.corrupt(KEYS_FILE, "its header cannot be sealed"))?;
        let mut header = [0; SLOT_LEN];
        header[..16].copy_from_slice(MAGIC);
        header[16..32].copy_from_slice(&store);
        header[32..44].copy_from_slice(&nonce);
        header[44..60].copy_from_slice(tag.as_ref());
        self.resize(0)?;
        self.grow()?;
        self.io(self.backend.write(0, &header))?;
        self.sync()
    }

    /// Writes a key into a free slot, which it returns. Not durable before [`Self::sync`].
    pub(super) fn put(&mut self, key: &Wrapped) -> Result<u32, StoreError> {
        if self.free.is_empty() {
            self.grow()?;
        }
        let slot = self.free.pop().ok_or_else(|| self.faults.corrupt(KEYS_FILE, "it has too many keys"))?;
        let bytes = self.wrap(key)?;
        self.io(self.backend.write(offset(slot), &bytes))?;
        Ok(slot)
    }

    /// Overwrites a slot. Not durable before [`Self::sync`].
    pub(super) fn erase(&mut self, slot: u32) -> Result<(), StoreError> {
        self.io(self.backend.write(offset(slot), &[0; SLOT_LEN]))?;
        self.free.push(slot);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.io(self.backend.sync_data())
    }

    /// Writes zeros rather than leaving a hole: the space is then taken.
    fn grow(&mut self) -> Result<(), StoreError> {
        let slots = self.slots.saturating_add(SLOTS_GROWTH);
        self.resize(slots)?;
        // Not over the header: a file may hold that alone.
        let start = offset(self.slots);
        let zeros = vec![0; file_len(slots) - usize::try_from(start).unwrap_or(0)];
        self.io(self.backend.write(start, &zeros))?;
        self.free.extend((self.slots..slots).rev());
        self.slots = slots;
        Ok(())
    }

    fn resize(&self, slots: u32) -> Result<(), StoreError> {
        let len = if slots == 0 { 0 } else { offset(slots) };
        self.io(self.backend.set_len(len))
    }

    fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.backend.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len];
        self.backend.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| self.faults.io(KEYS_FILE, &error))
    }

    fn header_aad(&self) -> Vec<u8> {
        [&b"header"[..], MAGIC, &self.store].concat()
    }

    fn check_header(&self, header: &[u8; SLOT_LEN]) -> Result<(), StoreError> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&header[32..44]);
        self.wrapping
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.header_aad()),
                &[],
                &header[44..60],
                &mut [],
            )
            .map_err(|_| StoreError::WrongKey { path: self.faults.path(KEYS_FILE).display().to_string() })
    }

    fn wrap(&self, key: &Wrapped) -> Result<[u8; SLOT_LEN], StoreError> {
        let (scope, owner) = encode_scope(key.scope);
        let mut slot = [0; SLOT_LEN];
        slot[..8].copy_from_slice(&key.id.0.to_le_bytes());
        slot[8] = scope;
        slot[9..13].copy_from_slice(&owner.to_le_bytes());
        slot[13..21].copy_from_slice(&key.created.unix_ms().to_le_bytes());
        // A random nonce: one deployment key wraps fewer than a million data keys a year.
        let nonce: [u8; NONCE_LEN] = token::random();
        slot[21..33].copy_from_slice(&nonce);
        slot[33..65].copy_from_slice(&key.secret[..]);
        let aad = self.slot_aad(&slot);
        let tag = self
            .wrapping
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut slot[33..65],
            )
            .map_err(|_| self.faults.corrupt(KEYS_FILE, "a data key cannot be wrapped"))?;
        slot[65..65 + TAG_LEN].copy_from_slice(tag.as_ref());
        Ok(slot)
    }

    fn unwrap(&self, slot: &[u8; SLOT_LEN]) -> Option<Wrapped> {
        let mut secret = Secret::default();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&slot[21..33]);
        self.wrapping
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.slot_aad(slot)),
                &slot[33..65],
                &slot[65..65 + TAG_LEN],
                &mut secret[..],
            )
            .ok()?;
        let (id, rest) = slot.split_first_chunk()?;
        let ([scope], rest) = rest.split_first_chunk()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let (created, _) = rest.split_first_chunk()?;
        Some(Wrapped {
            id: KeyId(u64::from_le_bytes(*id)),
            scope: decode_scope(*scope, u32::from_le_bytes(*owner))?,
            created: Time::from_unix_ms(u64::from_le_bytes(*created)),
            secret,
        })
    }

    fn slot_aad(&self, slot: &[u8; SLOT_LEN]) -> Vec<u8> {
        [&b"slot"[..], &self.store, &slot[..21]].concat()
    }
}

/// A cipher context for `secret`.
pub(super) fn cipher(secret: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, secret).expect("invariant: AES-256 takes 32 bytes");
    LessSafeKey::new(key)
}

fn offset(slot: u32) -> u64 {
    SLOT_LEN_U64 * (u64::from(slot) + 1)
}

fn file_len(slots: u32) -> usize {
    usize::try_from(offset(slots)).unwrap_or(usize::MAX)
}

fn encode_scope(scope: KeyScope) -> (u8, u32) {
    match scope {
        KeyScope::Stream(Scope::Peer(peer)) => (1, peer.0),
        KeyScope::Stream(Scope::Network(network)) => (2, network.0),
        KeyScope::Stream(Scope::Deployment) => (3, 0),
        KeyScope::State => (4, 0),
    }
}

fn decode_scope(scope: u8, owner: u32) -> Option<KeyScope> {
    match scope {
        1 => Some(KeyScope::Stream(Scope::Peer(PeerKey(owner)))),
        2 => Some(KeyScope::Stream(Scope::Network(NetworkKey(owner)))),
        3 => Some(KeyScope::Stream(Scope::Deployment)),
        4 => Some(KeyScope::State),
        _ => None,
    }
}
