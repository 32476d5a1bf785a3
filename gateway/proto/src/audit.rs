//! The audit log: a hash chain of what operators did and what left the outbox, without content.
//!
//! Each entry carries the SHA-256 of the one before it, so that a removed or changed entry shows.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// One entry. Rests and travels as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// Label of the token that asked, `console:` and the name of the administrator, or `gateway` for what the gateway did itself.
    pub actor: String,
    /// Verb, for example `peer.accept`, `outbox.purge`, `token.add`.
    pub action: String,
    /// On what: a federation domain, a network id, a label, an administrator. Never a user.
    pub target: String,
    /// What came of it: `ok`, a count, a reason.
    pub outcome: String,
    /// [`Entry::hash`] of the entry before; 64 zeros before the first.
    pub previous: String,
}

/// What the first entry names as the one before it.
#[must_use]
pub fn genesis() -> String {
    "0".repeat(64)
}

impl Entry {
    /// SHA-256 over all fields, each preceded by its length, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.at.unix_ms().to_be_bytes());
        for field in [&self.actor, &self.action, &self.target, &self.outcome, &self.previous] {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field.as_bytes());
        }
        context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Checks a run of entries, given what the first must name as the one before it. Answers the position of the
/// first entry that does not fit, or the hash to go on with.
///
/// # Errors
/// The index of the first entry that breaks the chain.
pub fn verify<'a>(previous: String, entries: impl IntoIterator<Item = &'a Entry>) -> Result<String, usize> {
    entries.into_iter().enumerate().try_fold(previous, |previous, (index, entry)| {
        if entry.previous == previous { Ok(entry.hash()) } else { Err(index) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<Entry> {
        let mut previous = genesis();
        (0..length)
            .map(|n| {
                let entry = Entry {
                    at: Time::from_unix_ms(n),
                    actor: "root".into(),
                    action: "peer.pause".into(),
                    target: format!("p{n}.test"),
                    outcome: "ok".into(),
                    previous: previous.clone(),
                };
                previous = entry.hash();
                entry
            })
            .collect()
    }

    #[test]
    fn a_changed_or_missing_entry_breaks_the_chain_right_behind_it() {
        let mut entries = chain(5);
        assert!(verify(genesis(), &entries).is_ok());
        entries[2].outcome = "never happened".into();
        assert_eq!(verify(genesis(), &entries), Err(3));
        let mut entries = chain(5);
        entries.remove(1);
        assert_eq!(verify(genesis(), &entries), Err(1));
    }
}
