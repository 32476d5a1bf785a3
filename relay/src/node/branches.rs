//! Calls larger than one worker: on which worker somebody joins, and the branches that are made for it.
//!
//! A call begins on one worker, its home. Who joins when many are there joins on another, in a branch of the call that has
//! a port of its own. All places of a call know each other, and exchange what they need; see the core's `exchange`.

use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

use trunkline_relay_proto::call::JoinError;
use trunkline_relay_proto::event::ParticipantId;
use trunkline_relay_proto::exchange::Branch;

use super::{CallEntry, CallId, Node, NodeError, Registry, SessionId};
use crate::worker::{Command, Hosted, Peer};

/// A branch is filled up to this share of what a call's home takes, one quarter, before another is made. Less uses more
/// workers sooner, each of which then takes in every stream for few receivers.
const FILLED_PART: usize = 4;

/// One worker that a call is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) branch: Branch,
    /// The worker knows it by this.
    pub(super) key: u32,
    pub(super) worker: usize,
    /// Its own UDP port, or the ingress's.
    pub(super) port: u16,
    /// People there.
    people: usize,
}

/// Somebody in a call.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) session: SessionId,
    name: Arc<str>,
    branch: Branch,
    /// It was let go, and its place is free; the worker has not said so yet.
    leaving: bool,
}

impl Place {
    /// Where a call begins.
    pub(super) fn home(key: u32, worker: usize, port: u16) -> Self {
        Self { branch: Branch::HOME, key, worker, port, people: 0 }
    }
}

impl Seat {
    /// Somebody who joins.
    pub(super) fn new(session: SessionId, name: Arc<str>, branch: Branch) -> Self {
        Self { session, name, branch, leaving: false }
    }
}

impl CallEntry {
    /// Where the call began.
    pub(super) fn home(&self) -> &Place {
        self.places.first().expect("invariant: a call has a home for as long as it is known")
    }

    /// Where somebody is.
    pub(super) fn place_of(&self, id: ParticipantId) -> Option<Place> {
        let branch = self.seats.get(&id)?.branch;
        self.places.iter().find(|place| place.branch == branch).copied()
    }

    /// Takes note of somebody who joins.
    ///
    /// # Errors
    /// When the branch is gone, or the call full meanwhile.
    pub(super) fn seat(&mut self, id: ParticipantId, seat: Seat) -> Result<(), NodeError> {
        if self.places.len() > 1 && self.is_full(&seat.name) {
            return Err(JoinError::Full.into());
        }
        let place = self.places.iter_mut().find(|place| place.branch == seat.branch);
        place.ok_or(NodeError::NoSuchCall)?.people += 1;
        self.seats.insert(id, seat);
        Ok(())
    }

    /// Takes note of somebody who is gone.
    pub(super) fn vacate(&mut self, id: ParticipantId) -> Option<Seat> {
        let seat = self.seats.remove(&id)?;
        if let Some(place) = self.places.iter_mut().find(|place| place.branch == seat.branch) {
            place.people = place.people.saturating_sub(1);
        }
        Some(seat)
    }

    /// Whether there is no room for this name, which may be here already and be replaced. A call that is in one place sees
    /// to that itself; nobody but the node sees all places at the same time.
    fn is_full(&self, name: &str) -> bool {
        // Whoever joins several times at once is counted so until all but one are gone.
        let others = self.seats.values().filter(|seat| !seat.leaving && &*seat.name != name);
        others.count() >= self.info.max_participants
    }
}

impl Registry {
    /// Somebody is let go: their place is free at once.
    pub(super) fn leaving(&mut self, session: &SessionId) {
        let Some(entry) = self.sessions.get(session) else { return };
        let (call, id) = (entry.call.clone(), entry.id);
        if let Some(seat) = self.calls.get_mut(&call).and_then(|entry| entry.seats.get_mut(&id)) {
            seat.leaving = true;
        }
    }
}

/// Where somebody is to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// In one of the call's places, by position.
    There(usize),
    /// On a worker that the call is not on yet.
    New(usize),
}

/// Chooses the place of somebody new: the home until it has `home_max` people, then a branch that is not filled yet, then
/// the worker with the least to do. `places` are the workers that the call is on, home first, and how many of its people
/// are there; `weights` says how much each worker has to do.
fn choose(places: &[(usize, usize)], weights: &[(usize, usize)], home_max: usize) -> Choice {
    let weight = |worker: usize| weights.get(worker).copied().unwrap_or((usize::MAX, usize::MAX));
    if places.first().is_none_or(|(_, people)| *people < home_max) {
        return Choice::There(0);
    }
    let filled = (home_max / FILLED_PART).max(1);
    let open = places.iter().enumerate().skip(1).filter(|(_, (_, people))| *people < filled);
    if let Some((at, _)) = open.min_by_key(|(_, (worker, _))| weight(*worker)) {
        return Choice::There(at);
    }
    let known = |worker: usize| places.iter().position(|(at, _)| *at == worker);
    // Of two with the same to do, the one that has the call already.
    let least = (0..weights.len()).min_by_key(|worker| (weight(*worker).0, known(*worker).is_none()));
    least.map_or(Choice::There(0), |worker| known(worker).map_or(Choice::New(worker), Choice::There))
}

impl Node {
    /// Where somebody of this name joins a call. Whoever is on it already joins where they are, to be replaced there.
    pub(super) fn place(
        &self,
        registry: &mut Registry,
        call: &CallId,
        name: &str,
    ) -> Result<Place, NodeError> {
        let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
        let home = *entry.home();
        // The newest, should there be several.
        let before = entry.seats.iter().filter(|(_, seat)| &*seat.name == name).max_by_key(|(id, _)| **id);
        if let Some(place) = before.and_then(|(id, _)| entry.place_of(*id)) {
            return Ok(place);
        }
        let home_max = self.0.config.worker_participants;
        if home.people < home_max || self.0.workers.len() < 2 {
            return Ok(home);
        }
        if entry.is_full(name) {
            return Err(JoinError::Full.into());
        }
        let places: Vec<_> = entry.places.iter().map(|place| (place.worker, place.people)).collect();
        let choice = choose(&places, &self.weights(registry), home_max);
        match choice {
            Choice::There(at) => Ok(entry.places.get(at).copied().unwrap_or(home)),
            Choice::New(worker) => match self.branch(registry, call, worker) {
                // Better a busy worker than nobody new.
                Err(NodeError::Ports(error)) => {
                    tracing::warn!(%error, "a large call stays on the workers that it is on");
                    let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
                    Ok(entry.places.iter().min_by_key(|place| place.people).copied().unwrap_or(home))
                }
                made => made,
            },
        }
    }

    /// Makes a branch of a call on another worker.
    fn branch(&self, registry: &mut Registry, call: &CallId, worker: usize) -> Result<Place, NodeError> {
        let inner = &*self.0;
        let now = Instant::now();
        let entry = registry.calls.get_mut(call).ok_or(NodeError::NoSuchCall)?;
        let free =
            (1..).map_while(Branch::new).find(|at| entry.places.iter().all(|place| place.branch != *at));
        let (Some(branch), Some(handle)) = (free, inner.workers.get(worker)) else {
            return Ok(*entry.home());
        };
        let (socket, port) = self.bind(now)?;
        let key = inner.next_key.fetch_add(1, Ordering::Relaxed);
        let peer = |place: &Place| {
            let handle = inner.workers.get(place.worker)?;
            Some(Peer::new(place.branch, place.key, handle.mailbox.clone()))
        };
        let peers: Vec<Peer> = entry.places.iter().filter_map(peer).collect();
        let settings = self.call_settings(entry.info.max_participants);
        let hosted = Hosted::new(now, socket, settings, self.empty(now)).into_branch(now, branch, peers);
        // The new one first: it must be there when the others tell it how things are. It says nothing itself before
        // somebody joins it, and that is told to it later.
        self.tell(worker, Command::Create { key, call: Box::new(hosted) })?;
        // Of a worker that is gone nobody needs to hear.
        let _ = self.tell_all(&entry.places, |to| Command::Attach {
            key: to,
            peer: Box::new(Peer::new(branch, key, handle.mailbox.clone())),
        });
        let place = Place { branch, key, worker, port, people: 0 };
        entry.places.push(place);
        registry.by_key.insert(key, call.clone());
        tracing::info!(worker, "a call grew onto another worker");
        Ok(place)
    }

    /// A branch is gone without its call: those on it are, too.
    pub(super) fn prune(&self, mut registry: MutexGuard<'_, Registry>, call: &CallId, key: u32) {
        let Some(entry) = registry.calls.get_mut(call) else { return };
        let Some(at) = entry.places.iter().position(|place| place.key == key) else { return };
        let gone = entry.places.remove(at);
        let ids: Vec<ParticipantId> =
            entry.seats.iter().filter(|(_, seat)| seat.branch == gone.branch).map(|(id, _)| *id).collect();
        let left: Vec<_> = ids.into_iter().filter_map(|id| entry.vacate(id)).collect();
        let _ = self.tell_all(&entry.places, |key| Command::Detach { key, branch: gone.branch });
        for seat in left {
            registry.sessions.remove(&seat.session);
        }
        drop(registry);
        self.release(Instant::now(), gone.port);
    }

    /// Tells all these places something.
    pub(super) fn tell_all(
        &self,
        places: &[Place],
        mut command: impl FnMut(u32) -> Command,
    ) -> Result<(), NodeError> {
        // All of them, whatever becomes of the first.
        places.iter().map(|place| self.tell(place.worker, command(place.key))).fold(Ok(()), Result::and)
    }

    /// How much each worker has to do: people, then places of calls.
    pub(super) fn weights(&self, registry: &Registry) -> Vec<(usize, usize)> {
        let mut weights = vec![(0_usize, 0_usize); self.0.workers.len()];
        for place in registry.calls.values().flat_map(|entry| &entry.places) {
            if let Some(weight) = weights.get_mut(place.worker) {
                *weight = (weight.0 + place.people, weight.1 + 1);
            }
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stays_at_home_until_it_is_large() {
        let weights = [(63, 1), (0, 0)];
        assert_eq!(choose(&[(0, 63)], &weights, 64), Choice::There(0));
        assert_eq!(choose(&[(0, 64)], &weights, 64), Choice::New(1));
    }

    #[test]
    fn a_branch_is_filled_before_the_next_is_made() {
        let weights = [(64, 1), (15, 1), (0, 0)];
        assert_eq!(choose(&[(0, 64), (1, 15)], &weights, 64), Choice::There(1));
        assert_eq!(choose(&[(0, 64), (1, 16)], &weights, 64), Choice::New(2));
    }

    #[test]
    fn when_all_are_filled_the_least_busy_worker_is_next_and_the_home_is_one_of_them() {
        let places = [(0, 64), (1, 70), (2, 66)];
        assert_eq!(choose(&places, &[(64, 1), (70, 1), (66, 1)], 64), Choice::There(0));
        assert_eq!(choose(&places, &[(300, 9), (70, 1), (66, 1)], 64), Choice::There(2));
        assert_eq!(choose(&places, &[(64, 1), (70, 1), (66, 1), (64, 8)], 64), Choice::There(0));
    }

    #[test]
    fn five_hundred_people_use_every_worker() {
        for workers in [1, 2, 4, 16] {
            let mut places = vec![(0_usize, 0_usize)];
            for _ in 0..500 {
                let mut weights = vec![(0, 0); workers];
                for (worker, people) in &places {
                    weights[*worker] = (*people, 1);
                }
                match choose(&places, &weights, 64) {
                    Choice::There(at) => places[at].1 += 1,
                    Choice::New(worker) => places.push((worker, 1)),
                }
            }
            let most = places.iter().map(|(_, people)| *people).max().unwrap_or(0);
            assert_eq!(places.len(), workers);
            assert!(most <= (500 / workers).max(64) + 1, "{places:?}");
        }
    }
}
