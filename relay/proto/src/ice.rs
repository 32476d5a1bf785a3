//! The ICE agent of one participant: lite (RFC 8445, section 2.5), so it answers checks and sends none.
//!
//! Where media goes is what the client nominated last. Before any nomination it is the first path that a check
//! authenticated: waiting for the nomination would cost a third of the time it takes to join. A path that falls silent
//! while the client is heard on another (its NAT gave it another port) is left without being asked to. So is one when the
//! same client socket is heard by another way, over another ingress or thread of one: its packets now come there.

use std::fmt;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::media::IceCredentials;
use crate::path::{Path, Transport, Via};
use crate::stun;

/// Without anything authenticated for this long, the client is gone or does not want our packets any more (RFC 7675,
/// section 5.1). Less would end calls on bad networks; more keeps sending to nobody.
pub const CONSENT: Duration = Duration::from_secs(30);

/// How long a client may take to its first check. More keeps the place of those who never come.
pub const CONNECT: Duration = Duration::from_secs(30);

/// Media on another path takes over from one that has been silent for this long. Less would follow every stray packet
/// of a client that uses two networks; more lengthens the gap after a NAT forgot its binding.
pub const SILENCE_MEDIA: Duration = Duration::from_secs(2);

/// A mere check on another path takes over after this long: clients that send nothing still check their path every
/// 2.5 s, and what they check now and then is not what they want to use. Less would flap to such a path.
pub const SILENCE_CHECK: Duration = Duration::from_secs(6);

/// Paths known at a time. Clients have a handful of networks; more would only help those who try to fill memory.
pub const PATHS_MAX: usize = 8;

/// Why a check is not answered. All of it is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IceError {
    /// Its user name is not of this participant, any more.
    #[error("the check's user name is not this participant's")]
    Username,
    /// It was not made with the password.
    #[error("the check's integrity does not verify")]
    Integrity,
    /// The answer does not fit.
    #[error("no room for the answer")]
    Room,
}

/// A check that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Bytes of the answer, which goes back on the path the check came on.
    pub len: usize,
    /// What is different from now on.
    pub change: Option<Change>,
    /// A path that made room for a new one, and no longer belongs to the participant.
    pub evicted: Option<Path>,
}

/// What is different from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path a check came on is new, and belongs to the participant.
    PathAdded,
    /// What is sent goes to `to`, a new path or a known one.
    Selected {
        /// Where it went before. `None` for the very first.
        from: Option<Path>,
        /// Where it goes now.
        to: Path,
    },
}

/// The participant is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// It never was.
    NeverConnected,
    /// It was, and fell silent.
    Silent,
}

/// See the module's text. `Debug` shows neither credentials nor addresses.
pub struct Agent {
    local: IceCredentials,
    remote: IceCredentials,
    /// Credentials before a restart, good until the first check with those after it (RFC 8445, section 9).
    previous: Option<(IceCredentials, IceCredentials)>,
    paths: Vec<Known>,
    selected: Option<Path>,
    created: Instant,
    heard: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Known {
    path: Path,
    /// When something authenticated last came on it.
    heard: Instant,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("paths", &self.paths.len())
            .field("selected", &self.selected.is_some())
            .field("restarting", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that waits for a client's first check.
    #[must_use]
    pub fn new(now: Instant, local: IceCredentials, remote: IceCredentials) -> Self {
        Self { local, remote, previous: None, paths: Vec::new(), selected: None, created: now, heard: None }
    }

    /// New credentials, as a new offer and its answer agreed on. The old ones stay good, and media stays where it is,
    /// until the client checks with the new ones.
    pub fn restart(&mut self, now: Instant, local: IceCredentials, remote: IceCredentials) {
        let old_local = std::mem::replace(&mut self.local, local);
        let old_remote = std::mem::replace(&mut self.remote, remote);
        // Credentials nobody has used yet are not worth keeping: those before them are in use.
        if self.previous.is_none() {
            self.previous = Some((old_local, old_remote));
        }
        if self.heard.is_none() {
            self.created = now;
        }
    }

    /// Our ufrags that checks may name: one, and during a restart the one before.
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        let previous = self.previous.as_ref().map(|(local, _)| local);
        std::iter::once(&self.local).chain(previous).map(|local| local.ufrag.as_str())
    }

    /// Where to send. `None` until a first check was answered.
    #[must_use]
    pub fn path(&self) -> Option<Path> {
        self.selected
    }

    /// Whether a path belongs to this participant.
    #[must_use]
    pub fn knows(&self, path: Path) -> bool {
        self.paths.iter().any(|known| known.path == path)
    }

    /// All paths that belong to this participant.
    pub fn paths(&self) -> impl Iterator<Item = Path> {
        self.paths.iter().map(|known| known.path)
    }

    /// Answers a check into `out`.
    ///
    /// # Errors
    /// When it is not this participant's, or does not verify. Nothing has changed then.
    pub fn handle_request(
        &mut self,
        now: Instant,
        path: Path,
        request: &stun::Request<'_>,
        out: &mut [u8],
    ) -> Result<Handled, IceError> {
        let current = self.local.ufrag == request.local_ufrag();
        let (local, remote) = match &self.previous {
            _ if current => (&self.local, &self.remote),
            Some((local, remote)) if local.ufrag == request.local_ufrag() => (local, remote),
            _ => return Err(IceError::Username),
        };
        if remote.ufrag != request.remote_ufrag() {
            return Err(IceError::Username);
        }
        if !request.verify(&local.pwd) {
            return Err(IceError::Integrity);
        }
        if request.is_controlled() {
            let len = request.write_role_conflict(out, &local.pwd).ok_or(IceError::Room)?;
            return Ok(Handled { len, change: None, evicted: None });
        }
        let len = request.write_success(out, path.remote, &local.pwd).ok_or(IceError::Room)?;
        if current {
            self.previous = None;
        }
        let (added, evicted) = self.note(now, path);
        let nominates = request.use_candidate() && current;
        let moves = nominates || self.is_silent(now, SILENCE_CHECK) || self.came_round(path);
        let change = if moves { self.select(path) } else { None };
        Ok(Handled { len, change: change.or(added.then_some(Change::PathAdded)), evicted })
    }

    /// Authenticated media came on a path. It changes nothing when no check came on that path before.
    pub fn handle_media(&mut self, now: Instant, path: Path) -> Option<Change> {
        let known = self.paths.iter_mut().find(|known| known.path == path)?;
        known.heard = now;
        self.heard = Some(now);
        if self.is_silent(now, SILENCE_MEDIA) { self.select(path) } else { None }
    }

    /// A path belongs to somebody else now: two clients behind one NAT, one after the other.
    pub fn forget(&mut self, path: Path) {
        self.paths.retain(|known| known.path != path);
        if self.selected == Some(path) {
            self.selected = self.paths.iter().max_by_key(|known| known.heard).map(|known| known.path);
        }
    }

    /// Whether time is up.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Expired> {
        if now < self.poll_timeout() {
            return None;
        }
        Some(if self.heard.is_some() { Expired::Silent } else { Expired::NeverConnected })
    }

    /// When time is up, if nothing is heard until then.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.heard.map_or(self.created + CONNECT, |heard| heard + CONSENT)
    }

    /// Remembers that something authenticated came on a path: whether it is new, and what made room for it.
    fn note(&mut self, now: Instant, path: Path) -> (bool, Option<Path>) {
        self.heard = Some(now);
        if let Some(known) = self.paths.iter_mut().find(|known| known.path == path) {
            known.heard = now;
            return (false, None);
        }
        let mut evicted = None;
        if self.paths.len() >= PATHS_MAX {
            let others = self.paths.iter().enumerate().filter(|(_, known)| Some(known.path) != self.selected);
            let oldest = others.min_by_key(|(_, known)| known.heard).map(|(index, _)| index);
            evicted = oldest.map(|index| self.paths.swap_remove(index).path);
        }
        self.paths.push(Known { path, heard: now });
        (true, evicted)
    }

    /// Whether nothing is selected, or nothing came on what is for `silence`.
    fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        let selected = self.paths.iter().find(|known| Some(known.path) == self.selected);
        selected.is_none_or(|known| now.saturating_duration_since(known.heard) > silence)
    }

    /// Whether a path is the selected one over another ingress: the same socket of the client and the same address of
    /// the ingresses, whose packets the network or the kernel now brings to another of them, or another thread. The client
    /// does not know of it, so there is no nomination to wait for.
    fn came_round(&self, path: Path) -> bool {
        let Some(selected) = self.selected else { return false };
        match (path.via, selected.via) {
            (
                Via::Ingress { endpoint, transport: Transport::Udp, flow },
                Via::Ingress { endpoint: before, transport: Transport::Udp, flow: same },
            ) => endpoint != before && flow == same && path.remote == selected.remote,
            _ => false,
        }
    }

    fn select(&mut self, path: Path) -> Option<Change> {
        let from = self.selected.replace(path);
        (from != Some(path)).then_some(Change::Selected { from, to: path })
    }
}

#[cfg(test)]
mod tests;
