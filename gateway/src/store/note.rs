//! What a store says of its own move: a state entry that the core never sees.
//!
//! A gateway does not start on a store that has one, and a release that knows of no moves refuses it as an entry
//! that it cannot read. So of the two stores of a move at most one is ever good to start on.

use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::state::KEEPER;
use trunkline_gateway_proto::store::{Op, Recovered};

use super::inspect::Found;
use super::{Store, StoreError};

/// Where the note rests.
pub(super) const KEY: &[u8] = &[KEEPER];

/// The other store of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// See [`Store::id`].
    pub id: [u8; 16],
    /// What operators call it.
    pub name: String,
    /// Its engine, as the command line names it.
    pub engine: String,
}

/// A move that a store is, or was, part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "lowercase")]
pub enum Note {
    /// What another store holds is being copied into this one.
    Arriving {
        /// From where.
        from: Other,
        /// The engine of this one.
        engine: String,
    },
    /// What this store held is in another one, and goes on there.
    Left {
        /// Where.
        to: Other,
        /// The engine of this one.
        engine: String,
    },
}

impl Note {
    /// What a store's state entry says, when it is one.
    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|_| {
            StoreError::Corrupt("the note of its move does not read as one of this release".to_owned())
        })
    }

    /// The note, when it is what was found.
    pub fn of(found: &Found) -> Option<Result<Self, StoreError>> {
        match found {
            Found::State { key, value: Some(value) } if key == KEY => Some(Self::decode(value)),
            _ => None,
        }
    }

    /// Sets it.
    pub(super) fn put(&self) -> Op {
        let value = serde_json::to_vec(self).unwrap_or_default();
        Op::Put { key: KEY.to_vec(), value: value.into() }
    }

    /// Why no gateway starts on the store, and what to do.
    #[must_use]
    pub fn refusal(&self) -> StoreError {
        StoreError::Moved(match self {
            Self::Arriving { from, engine } => format!(
                "the move of {} into this store is not finished: run `trunkline-gateway store migrate --from {} --to \
                 {engine}` again, which goes on where it was; or go on there, with `store` in gateway.toml as it was",
                from.name, from.engine
            ),
            Self::Left { to, engine } => format!(
                "this store was moved to the {}: set `store` in gateway.toml to {}; to go back, with all that came \
                 since, run `trunkline-gateway store migrate --from {} --to {engine}`",
                to.name,
                if to.engine == "redb" { "\"redb\"" } else { "its address" },
                to.engine
            ),
        })
    }
}

/// Removes it.
pub(super) fn remove() -> Op {
    Op::Delete { key: KEY.to_vec() }
}

/// As [`Store::recover`], for a gateway that wants to start.
///
/// # Errors
/// As [`Store::recover`], and when the store is part of a move.
pub fn recover(store: &dyn Store, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
    let mut note = None;
    store.recover(&mut |found| match found {
        Recovered::State { key, value } if key == KEY => note = Some(Note::decode(&value)),
        found => visit(found),
    })?;
    note.map_or(Ok(()), |note| Err(note?.refusal()))
}
