//! One call: its participants, what they send, and who sees and hears whom.

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use crate::counters::Counters;
use crate::dtls;
use crate::egress::Egress;
use crate::event::{EndReason, Event, ParticipantId, Request, Role};
use crate::media::{Description, IceCredentials};
use crate::path::Path;
use crate::snapshot::Snapshot;

/// What a call is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Participants at a time.
    pub participants_max: usize,
    /// The certificate and limits of DTLS handshakes, shared by all calls of the node.
    pub dtls: Arc<dtls::Settings>,
}

/// Who joins, and with what.
#[derive(Debug)]
pub struct Join {
    /// The shell's number for it.
    pub id: ParticipantId,
    /// The name from the join token.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// What offer and answer agreed on.
    pub description: Description,
    /// The relay's credentials in the answer.
    pub ice: IceCredentials,
}

/// Why somebody cannot join, or change what they agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// As many participants as the call takes.
    #[error("the call is full")]
    Full,
    /// No such participant, any more.
    #[error("this participant has left")]
    Gone,
    /// A change of certificate needs a new join.
    #[error("the certificate fingerprint changed: leave, and join anew")]
    Fingerprint,
    /// A media section changed its name or kind.
    #[error("media section {0} is not what it was")]
    Section(usize),
}

/// Why a request cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No such participant, any more.
    #[error("this participant has left")]
    Gone,
    /// No slot of that name.
    #[error("no slot of this name")]
    NoSuchSlot,
    /// No source of that name.
    #[error("this participant sends no such source")]
    NoSuchSource,
    /// An audio source for a video slot, or the other way round.
    #[error("slot and source are of different kinds")]
    WrongKind,
}

/// One call. Drive it so: `handle_*` or [`Call::join`] and the like, then [`Call::poll_egress`] until it says that
/// nothing is left (sending and clearing in between), then [`Call::poll_event`] until it is empty; the call wants
/// [`Call::handle_timeout`] at [`Call::poll_timeout`].
#[derive(Debug)]
pub struct Call {
    settings: Settings,
}

impl Call {
    /// A call without participants.
    #[must_use]
    pub fn new(_now: Instant, settings: Settings) -> Self {
        Self { settings }
    }

    /// Takes a participant in. One of the same name is replaced.
    ///
    /// # Errors
    /// When the call is full.
    pub fn join(&mut self, _now: Instant, _join: Join) -> Result<(), JoinError> {
        if self.settings.participants_max == 0 { Err(JoinError::Full) } else { Ok(()) }
    }

    /// A new offer of a participant: more sections, other directions, an ICE restart (new `ice`).
    ///
    /// # Errors
    /// When it is gone, or changed what cannot change.
    pub fn update(
        &mut self,
        _now: Instant,
        _id: ParticipantId,
        _description: Description,
        _ice: Option<IceCredentials>,
    ) -> Result<(), JoinError> {
        Err(JoinError::Gone)
    }

    /// Lets a participant go. Not an error when it is gone.
    pub fn leave(&mut self, _now: Instant, _id: ParticipantId, _reason: EndReason) {}

    /// What a participant asks for.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn request(
        &mut self,
        _now: Instant,
        _id: ParticipantId,
        _request: Request,
    ) -> Result<(), RequestError> {
        Err(RequestError::Gone)
    }

    /// Tells one participant everything anew: its events connection just began.
    pub fn resend_state(&mut self, _id: ParticipantId) {}

    /// One datagram, opened in place. What must not wait (STUN, DTLS) is in `egress` afterwards; media waits for
    /// [`Call::poll_egress`].
    pub fn handle_datagram(
        &mut self,
        _now: Instant,
        _path: Path,
        _datagram: &mut [u8],
        _egress: &mut Egress,
    ) {
    }

    /// Seals what was received since the last time for those who receive it, as much as `egress` takes. True when
    /// there is more: send, clear, and call again.
    pub fn poll_egress(&mut self, _now: Instant, _egress: &mut Egress) -> bool {
        false
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, _now: Instant, _egress: &mut Egress) {}

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Participants now.
    #[must_use]
    pub fn participants(&self) -> usize {
        0
    }

    /// Counts since the call began.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// What the API shows of it.
    #[must_use]
    pub fn snapshot(&self, _now: Instant) -> Snapshot {
        Snapshot::default()
    }
}
