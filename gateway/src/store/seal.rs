//! Data keys: which one seals what, and when one is destroyed.
//!
//! Everything that rests is sealed with AES-256-GCM under a data key of its [`Scope`]. A key seals for at most
//! [`KEY_AGE_MAX`], and only in the process that made it; later ones only open with it. Once nothing that it
//! sealed is live, its slot in the key file is overwritten and synced, and its copy in memory erased. What the
//! engine's free pages still hold is unreadable from then on.
//!
//! Order is what makes it safe: a key is durable in its slot before the commit that first uses it, and
//! destroyed only after the commit that removed its last use is durable.
//!
//! **Nonces** (96 bit) are a counter of the key's uses, four random bytes drawn for each transaction, and the
//! row's number within its block. Since a key seals in one process only, the counter alone never repeats; the
//! random bytes are for a virtual machine that was cloned while running.
//!
//! State entries have one key of their own for each run of the process. Opening the store seals them anew,
//! so a value deleted from the state is unreadable after the next restart.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::aead::{LessSafeKey, Nonce};
use trunkline_common::token;
use trunkline_gateway_proto::store::Scope;
use trunkline_gateway_proto::time::Time;
use zeroize::Zeroizing;

use super::StoreError;
use super::keyfile::{KeyFile, StoreId, Wrapped, cipher};

/// How long a data key seals. Shorter erases sooner, and costs a slot and a sync per scope each time.
const KEY_AGE_MAX: Duration = Duration::from_secs(3600);

/// Length of a GCM tag.
pub(super) const TAG_LEN: usize = 16;
/// Length of what is stored of a nonce: all but the row.
pub(super) const NONCE_BASE_LEN: usize = 10;

/// A secret key, erased when dropped. Boxed, so that moving it leaves no copy behind.
pub(super) type Secret = Box<Zeroizing<[u8; 32]>>;

/// Names a data key. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyId(pub(super) u64);

/// What a data key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum KeyScope {
    /// Streams of a scope.
    Stream(Scope),
    /// State entries.
    State,
}

/// What the nonces of one block, or of one state entry, are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NonceBase(pub(super) [u8; NONCE_BASE_LEN]);

impl NonceBase {
    /// The nonce of one row.
    pub(super) fn nonce(self, row: u16) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..NONCE_BASE_LEN].copy_from_slice(&self.0);
        nonce[NONCE_BASE_LEN..].copy_from_slice(&row.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// All data keys there are, for whoever opens what they sealed. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Keys {
    secrets: Arc<RwLock<HashMap<KeyId, Secret>>>,
}

impl Keys {
    /// As the key file held them.
    pub(super) fn of(found: Vec<(u32, Wrapped)>) -> Self {
        let keys = Self::default();
        found.into_iter().for_each(|(_, key)| keys.insert(key.id, key.secret));
        keys
    }

    /// A context to open with; `None` when there is no such key, any more.
    ///
    /// Made each time: that takes half a microsecond, while keeping one for every hour of every peer's backlog
    /// would take memory.
    pub(super) fn cipher(&self, id: KeyId) -> Option<LessSafeKey> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(|secret| cipher(secret))
    }

    fn insert(&self, id: KeyId, secret: Secret) {
        self.secrets.write().unwrap_or_else(PoisonError::into_inner).insert(id, secret);
    }

    fn remove(&self, id: KeyId) {
        self.secrets.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// The data keys, as the writer has them.
pub(super) struct KeyRing {
    file: KeyFile,
    keys: Keys,
    uses: HashMap<KeyId, Use>,
    current: HashMap<KeyScope, Current>,
    /// Keys that are no longer current, or were never, and that nothing live needs.
    unused: HashSet<KeyId>,
    /// When the oldest current key has to be replaced.
    replace_at: Time,
    /// The random bytes of this transaction's nonces.
    salt: [u8; 4],
}

struct Use {
    slot: u32,
    /// Blocks sealed with it that are there.
    blocks: u64,
    current: bool,
}

/// The key that seals a scope now.
pub(super) struct Current {
    pub(super) id: KeyId,
    pub(super) cipher: LessSafeKey,
    created: Time,
    seals: u64,
}

impl KeyRing {
    /// From what the key file held: nothing is current, and nothing known to be used.
    pub(super) fn new(file: KeyFile, found: Vec<(u32, Wrapped)>) -> Self {
        let keys = Keys::default();
        let mut uses = HashMap::new();
        let mut unused = HashSet::new();
        for (slot, key) in found {
            uses.insert(key.id, Use { slot, blocks: 0, current: false });
            unused.insert(key.id);
            keys.insert(key.id, key.secret);
        }
        Self { file, keys, uses, current: HashMap::new(), unused, replace_at: Time::NEVER, salt: [0; 4] }
    }

    /// Whose keys these are.
    pub(super) fn store(&self) -> StoreId {
        self.file.store()
    }

    /// The keys to open with.
    pub(super) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Prepares a transaction: makes sure that every scope has a key that may seal at `now`, durably.
    pub(super) fn begin(
        &mut self,
        scopes: impl IntoIterator<Item = KeyScope>,
        now: Time,
    ) -> Result<(), StoreError> {
        self.salt = token::random();
        self.retire(now);
        let mut made = Vec::new();
        for scope in scopes {
            if !self.current.contains_key(&scope) {
                made.push(self.make(scope, now)?);
            }
        }
        if made.is_empty() {
            return Ok(());
        }
        self.file.sync()?;
        for (id, secret) in made {
            self.keys.insert(id, secret);
        }
        Ok(())
    }

    /// The key that seals `scope` in this transaction, and a nonce never used with it before.
    pub(super) fn seal(&mut self, scope: KeyScope) -> Option<(&Current, NonceBase)> {
        let current = self.current.get_mut(&scope)?;
        current.seals += 1;
        let mut nonce = [0; NONCE_BASE_LEN];
        nonce[..6].copy_from_slice(&current.seals.to_le_bytes()[..6]);
        nonce[6..].copy_from_slice(&self.salt);
        Some((current, NonceBase(nonce)))
    }

    /// A block sealed with a key is there now. Answers whether that key is, too.
    #[must_use]
    pub(super) fn used(&mut self, id: KeyId) -> bool {
        let Some(used) = self.uses.get_mut(&id) else { return false };
        used.blocks += 1;
        self.unused.remove(&id);
        true
    }

    /// A block sealed with a key is gone.
    pub(super) fn released(&mut self, id: KeyId) {
        if let Some(used) = self.uses.get_mut(&id) {
            used.blocks = used.blocks.saturating_sub(1);
            if used.blocks == 0 && !used.current {
                self.unused.insert(id);
            }
        }
    }

    /// Destroys what nothing needs any more. Only to be called when all that was released is durably gone.
    pub(super) fn sweep(&mut self, now: Time) -> Result<(), StoreError> {
        self.retire(now);
        if self.unused.is_empty() {
            return Ok(());
        }
        for id in self.unused.drain() {
            self.keys.remove(id);
            if let Some(used) = self.uses.remove(&id) {
                self.file.erase(used.slot)?;
            }
        }
        self.file.sync()
    }

    /// How long after `now` the next key has sealed for long enough.
    pub(super) fn retires_in(&self, now: Time) -> Duration {
        // Time counts in milliseconds: waiting for less would sweep too early, and again at once.
        self.replace_at.since(now).max(Duration::from_millis(1))
    }

    fn make(&mut self, scope: KeyScope, now: Time) -> Result<(KeyId, Secret), StoreError> {
        let id = KeyId(u64::from_le_bytes(token::random()));
        let key = Wrapped { id, scope, created: now, secret: Secret::new(Zeroizing::new(token::random())) };
        let slot = self.file.put(&key)?;
        let current = Current { id, cipher: cipher(&key.secret), created: now, seals: 0 };
        self.current.insert(scope, current);
        self.uses.insert(id, Use { slot, blocks: 0, current: true });
        self.replace_at = self.next_replacement();
        Ok((id, key.secret))
    }

    /// Ends the turn of keys that have sealed long enough.
    fn retire(&mut self, now: Time) {
        if now < self.replace_at {
            return;
        }
        let (uses, unused) = (&mut self.uses, &mut self.unused);
        self.current.retain(|scope, current| {
            let keep = *scope == KeyScope::State || now < current.created + KEY_AGE_MAX;
            if let Some(used) = uses.get_mut(&current.id).filter(|_| !keep) {
                used.current = false;
                if used.blocks == 0 {
                    unused.insert(current.id);
                }
            }
            keep
        });
        self.replace_at = self.next_replacement();
    }

    fn next_replacement(&self) -> Time {
        let hourly = self.current.iter().filter(|(scope, _)| **scope != KeyScope::State);
        hourly.map(|(_, current)| current.created + KEY_AGE_MAX).min().unwrap_or(Time::NEVER)
    }
}
