//! Passwords: what they must be, and what they are stored as. Argon2id (RFC 9106) with the costs that OWASP names for
//! it: 19 MiB, two passes, one lane.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time;
use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;
use trunkline_common::token;
use trunkline_gateway_proto::administrator::PasswordHash;
use trunkline_http::problem::{OVERLOADED, Problem};
use zeroize::Zeroizing;

use super::super::{Answer, fail};

/// Memory of one hash in KiB. More slows a thief of the store down and each log-in too.
const MEMORY_KIB: u32 = 19 * 1024;

/// Passes over that memory. As above.
const PASSES: u32 = 2;

/// Lanes. More needs more cores per log-in.
const LANES: u32 = 1;

/// What a stored hash may ask for, in KiB: a store that was made elsewhere cannot take all memory.
const MEMORY_KIB_MAX: u32 = 256 * 1024;

/// Hashes at a time. More lets more people log in at once, at 19 MiB each.
const AT_ONCE: usize = 2;

/// Requests that wait for their hash. Each takes some 50 ms, so more would wait too long anyway.
const WAITING_MAX: usize = 32;

/// Characters that a chosen password has at least.
const CHARACTERS_MIN: usize = 12;

/// Characters that it has at most, and that anything is hashed with at most.
pub(super) const CHARACTERS_MAX: usize = 128;

/// Letters and digits that no two of look alike: five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What is verified when there is no such name, so that it takes as long.
static NOBODY: LazyLock<PasswordHash> = LazyLock::new(|| PasswordHash {
    memory_kib: MEMORY_KIB,
    passes: PASSES,
    lanes: LANES,
    salt: token::random(),
    // Not the hash of anything anybody could send: that would have to be found first.
    hash: token::random(),
});

/// A password that somebody sent: forgotten when it was looked at, and never printed.
#[derive(Clone)]
pub(crate) struct Password(Zeroizing<String>);

/// Hashes away from the tasks that serve requests, a few at a time.
#[derive(Clone)]
pub(crate) struct Passwords {
    at_once: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// What is not in use of the memory for hashes, at most [`AT_ONCE`] pieces. The system's allocator would keep one for
    /// every thread that ever hashed.
    memory: Arc<Mutex<Vec<Memory>>>,
}

/// What one hash works in.
type Memory = Vec<Block>;

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING_MAX)),
            memory: Arc::default(),
        }
    }
}

impl Passwords {
    /// Whether `password` is the one; never for a name that has none. `still` is asked when it is this request's turn:
    /// others may have failed meanwhile.
    pub(super) async fn verify(
        &self,
        password: Password,
        stored: Option<PasswordHash>,
        still: impl FnOnce() -> Answer<()>,
    ) -> Answer<bool> {
        self.run(still, move |memory| verify(&password, stored.as_ref(), memory)).await
    }

    /// What a password is stored as.
    pub(crate) async fn hash(&self, password: Password) -> Answer<PasswordHash> {
        self.run(|| Ok(()), move |memory| hash_in(&password, memory)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        still: impl FnOnce() -> Answer<()>,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Answer<T> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            Problem::new(OVERLOADED, "too many log-ins at once: try again in a moment")
                .retry_after(Duration::from_secs(2))
        })?;
        let turn = Arc::clone(&self.at_once).acquire_owned().await.map_err(|_| fail::unexpected())?;
        still()?;
        // The permits go with the work: a caller that gives up does not end it.
        let pool = Arc::clone(&self.memory);
        let done = tokio::task::spawn_blocking(move || {
            let _permits = (waiting, turn);
            let mut memory = pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let result = work(&mut memory);
            // What stands in it was made of a password.
            memory.fill(Block::default());
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
            result
        });
        done.await.map_err(|_| fail::unexpected())
    }
}

/// What a password is stored as. Takes its time and memory.
pub(crate) fn hash(password: &str) -> PasswordHash {
    hash_in(password, &mut Memory::new())
}

fn hash_in(password: &str, memory: &mut Memory) -> PasswordHash {
    let mut stored = PasswordHash {
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: token::random(),
        hash: [0; 32],
    };
    stored.hash =
        derive(password, &stored, memory).expect("invariant: the costs above are within Argon2's bounds");
    stored
}

fn verify(password: &str, stored: Option<&PasswordHash>, memory: &mut Memory) -> bool {
    let against = stored.unwrap_or(&NOBODY);
    // Nobody could have chosen it, so nothing is learnt from the time it does not take.
    if password.chars().count() > CHARACTERS_MAX {
        return false;
    }
    let derived = derive(password, against, memory);
    let equal = derived
        .is_some_and(|derived| constant_time::verify_slices_are_equal(&derived, &against.hash).is_ok());
    equal && stored.is_some()
}

fn derive(password: &str, stored: &PasswordHash, memory: &mut Memory) -> Option<[u8; 32]> {
    if stored.memory_kib > MEMORY_KIB_MAX {
        return None;
    }
    let mut out = [0; 32];
    let params = Params::new(stored.memory_kib, stored.passes, stored.lanes, Some(out.len())).ok()?;
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2
        .hash_password_into_with_memory(password.as_bytes(), &stored.salt, &mut out, memory.as_mut_slice())
        .ok()?;
    Some(out)
}

/// A first password: 100 random bits in four groups, to be read from a screen or a file.
pub(crate) fn generate() -> Password {
    let bytes = Zeroizing::new(token::random::<20>());
    let mut text = Zeroizing::new(String::with_capacity(23));
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 && index % 5 == 0 {
            text.push('-');
        }
        text.extend(ALPHABET.get(usize::from(byte & 31)).map(|byte| char::from(*byte)));
    }
    Password(text)
}

impl Deref for Password {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Whether `new` may take the place of `old`.
pub(super) fn check(new: &str, old: &str, name: &str) -> Answer<()> {
    let characters = new.chars().count();
    if !(CHARACTERS_MIN..=CHARACTERS_MAX).contains(&characters) {
        return Err(fail::invalid(format!(
            "new: expected {CHARACTERS_MIN} to {CHARACTERS_MAX} characters, found {characters}"
        )));
    }
    if new == old {
        return Err(fail::invalid("new: this is the old one, choose another"));
    }
    if new.eq_ignore_ascii_case(name) {
        return Err(fail::invalid("new: this is your name, choose another"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_matches_its_hash_and_it_costs_what_is_written_down() {
        let stored = hash("correct horse battery");
        assert_eq!((stored.memory_kib, stored.passes, stored.lanes), (19 * 1024, 2, 1));
        let mut memory = Memory::new();
        assert!(verify("correct horse battery", Some(&stored), &mut memory));
        assert!(!verify("correct horse batterz", Some(&stored), &mut memory));
        assert_ne!(hash("correct horse battery").salt, stored.salt);
    }

    #[test]
    fn nobody_has_no_password_and_a_stored_cost_is_bounded() {
        let mut memory = Memory::new();
        assert!(!verify("anything at all", None, &mut memory));
        let greedy = PasswordHash { memory_kib: u32::MAX, ..hash("x") };
        assert!(!verify("x", Some(&greedy), &mut memory));
        assert!(!verify(&"x".repeat(1 << 20), Some(&hash("x")), &mut memory));
    }

    #[test]
    fn first_passwords_are_long_plain_and_never_the_same() {
        let (a, b) = (generate(), generate());
        assert_ne!(&*a, &*b);
        assert_eq!(format!("{a:?}"), "Password(..)");
        assert_eq!(a.len(), 23);
        assert!(a.chars().all(|c| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit()), "{}", &*a);
        assert!(check(&a, "old", "ann").is_ok());
    }

    #[test]
    fn a_new_password_is_long_enough_and_neither_the_old_one_nor_the_name() {
        for new in ["short", "elevenchars", &"x".repeat(129), "the old password", "Administrator"] {
            assert!(check(new, "the old password", "administrator").is_err(), "{new}");
        }
        assert!(check("twelve chars", "the old password", "administrator").is_ok());
        assert!(check(&"ü".repeat(128), "the old password", "administrator").is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hashes_run_at_a_time_and_a_crowd_is_refused() {
        let passwords = Passwords::default();
        let (running, most) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let mut tasks = Vec::new();
        for _ in 0..AT_ONCE + WAITING_MAX {
            let (passwords, running, most, gate) =
                (passwords.clone(), Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
            tasks.push(tokio::spawn(async move {
                let work = move |_: &mut Memory| {
                    let now = running.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                    let mut most = most.lock().unwrap();
                    *most = now.max(*most);
                    drop(most);
                    let _ = gate.lock().unwrap().recv();
                    running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                };
                passwords.run(|| Ok(()), work).await.is_ok()
            }));
        }
        // Until all wait, and the first are at work.
        let at_work = || running.load(std::sync::atomic::Ordering::SeqCst) == AT_ONCE;
        while passwords.waiting.available_permits() > 0 || !at_work() {
            tokio::task::yield_now().await;
        }
        let refused = passwords.run(|| Ok(()), |_| ()).await.unwrap_err();
        assert_eq!(refused.kind(), OVERLOADED);
        drop(open);
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(*most.lock().unwrap(), AT_ONCE);
        // What they worked in is kept for the next, and no more than ran at a time.
        assert_eq!(passwords.memory.lock().unwrap().len(), AT_ONCE);
    }
}
