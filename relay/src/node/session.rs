//! Joining a call, and what people in it ask for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::{mpsc, oneshot};
use trunkline_relay_proto::call::Join;
use trunkline_relay_proto::event::{ParticipantId, Request, Role};
use trunkline_relay_proto::media::{Description, IceCredentials};
use trunkline_relay_proto::ufrag;

use super::branches::{Place, Seat};
use super::{
    CallEntry, CallId, EventStream, IceServer, Joined, NAMES_MAX, Node, NodeError, Registry, SessionId,
    SessionInfo, ids,
};
use crate::sdp::{self, Candidate, Fragment, Local, Offer, Transport};
use crate::worker::{Command, EVENTS_MAX};

/// What is known of a session between its requests.
pub(super) struct SessionEntry {
    pub(super) call: CallId,
    pub(super) id: ParticipantId,
    name: Arc<str>,
    role: Role,
    description: Description,
    ice: IceCredentials,
}

impl Registry {
    /// A session, its call, and where that holds it.
    fn seated(&self, session: &SessionId) -> Result<(&SessionEntry, &CallEntry, Place), NodeError> {
        let entry = self.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
        let call = self.calls.get(&entry.call).ok_or(NodeError::NoSuchSession)?;
        let place = call.place_of(entry.id).ok_or(NodeError::NoSuchSession)?;
        Ok((entry, call, place))
    }
}

impl Node {
    /// Answers an offer, and takes the participant into the call.
    ///
    /// # Errors
    /// When the offer is unusable, the call full or gone, or the node drains.
    pub async fn join(
        &self,
        call: &CallId,
        name: &str,
        role: Role,
        offer: &str,
    ) -> Result<Joined, NodeError> {
        let inner = &*self.0;
        let offer = Offer::parse(offer);
        let (place, candidates, offer) = {
            let mut registry = self.registry();
            if registry.drain.is_some() {
                return Err(NodeError::Draining);
            }
            let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
            if entry.moved {
                return Err(NodeError::Moved);
            }
            // Nothing is made for those who cannot join.
            let offer = offer?;
            let place = self.place(&mut registry, call, name)?;
            let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
            (place, self.candidates(entry, place.port), offer)
        };
        let Place { worker, key, .. } = place;
        let id = ParticipantId(inner.next_participant.fetch_add(1, Ordering::Relaxed));
        let ice = self.credentials(worker, key, id.0);
        let fingerprint = inner.dtls.fingerprint();
        let local = self.local(&ice, &fingerprint, &candidates, role);
        let answer = sdp::answer(&offer, None, &local, &mut random_ssrc)?;
        let name: Arc<str> = name.into();
        let session = SessionId::random();
        // Known before the call takes it: it may be gone again before the answer is back.
        {
            let mut registry = self.registry();
            let entry = registry.calls.get_mut(call).ok_or(NodeError::NoSuchCall)?;
            entry.seat(id, Seat::new(session.clone(), name.clone(), place.branch))?;
            registry.sessions.insert(
                session.clone(),
                SessionEntry {
                    call: call.clone(),
                    id,
                    name: name.clone(),
                    role,
                    description: answer.description.clone(),
                    ice: ice.clone(),
                },
            );
        }
        let etag = etag(&ice);
        let join = Join { id, name: name.clone(), role, description: answer.description, ice };
        let (reply, joined) = oneshot::channel();
        let told = self.tell(worker, Command::Join { key, join: Box::new(join), reply });
        let verdict = match told {
            Ok(()) => joined.await.map_err(|_| NodeError::NoSuchCall).and_then(|joined| Ok(joined?)),
            Err(error) => Err(error),
        };
        let mut registry = self.registry();
        if let Err(error) = verdict {
            registry.sessions.remove(&session);
            registry.calls.get_mut(call).and_then(|entry| entry.vacate(id));
            return Err(error);
        }
        if let Some(entry) = registry.calls.get_mut(call)
            && entry.names.len() < NAMES_MAX
            && !entry.names.contains(&name)
        {
            entry.names.push(name);
        }
        Ok(Joined { session, answer: answer.text, etag })
    }

    /// Answers a new offer of a session: more sections, other directions, an ICE restart. Gives the answer and its
    /// ETag.
    ///
    /// # Errors
    /// When the session is gone, or the offer changes what cannot change.
    pub async fn update(&self, session: &SessionId, offer: &str) -> Result<(String, String), NodeError> {
        let offer = Offer::parse(offer)?;
        let (worker, key, id, description, text, ice, restarts) = {
            let registry = self.registry();
            let (entry, call, place) = registry.seated(session)?;
            let restarts = offer.ice().ufrag != entry.description.ice.ufrag;
            let ice = if restarts {
                self.credentials(place.worker, place.key, self.restart_number())
            } else {
                entry.ice.clone()
            };
            let (fingerprint, candidates) = (self.0.dtls.fingerprint(), self.candidates(call, place.port));
            let local = self.local(&ice, &fingerprint, &candidates, entry.role);
            let answer = sdp::answer(&offer, Some(&entry.description), &local, &mut random_ssrc)?;
            (place.worker, place.key, entry.id, answer.description, answer.text, ice, restarts)
        };
        let (reply, updated) = oneshot::channel();
        let new_ice = restarts.then(|| ice.clone());
        let sent = Box::new(description.clone());
        self.tell(worker, Command::Update { key, id, description: sent, ice: new_ice, reply })?;
        updated.await.map_err(|_| NodeError::NoSuchSession)??;
        let tag = etag(&ice);
        if let Some(entry) = self.registry().sessions.get_mut(session) {
            entry.description = description;
            entry.ice = ice;
        }
        Ok((text, tag))
    }

    /// Takes a trickle fragment (RFC 8840). Candidates are of no use to an ICE-lite agent; new credentials restart ICE
    /// and are answered with a fragment and its ETag. `if_match` names the credentials the client knows, `*` any.
    ///
    /// # Errors
    /// When the session is gone, the fragment unusable, or meant for other credentials.
    pub async fn fragment(
        &self,
        session: &SessionId,
        if_match: Option<&str>,
        fragment: &str,
    ) -> Result<Option<(String, String)>, NodeError> {
        let fragment = Fragment::parse(fragment)?;
        let (worker, key, id, remote, local_ice, text) = {
            let registry = self.registry();
            let (entry, call, place) = registry.seated(session)?;
            if if_match.is_some_and(|tag| tag != "*" && tag != etag(&entry.ice)) {
                return Err(NodeError::Precondition);
            }
            let Some(remote) = fragment.restart(&entry.description.ice).cloned() else { return Ok(None) };
            let ice = self.credentials(place.worker, place.key, self.restart_number());
            let (fingerprint, candidates) = (self.0.dtls.fingerprint(), self.candidates(call, place.port));
            let local = self.local(&ice, &fingerprint, &candidates, entry.role);
            let text = sdp::fragment_answer(&entry.description, &local);
            (place.worker, place.key, entry.id, remote, ice, text)
        };
        let (reply, restarted) = oneshot::channel();
        let command =
            Command::RestartIce { key, id, remote: remote.clone(), local: local_ice.clone(), reply };
        self.tell(worker, command)?;
        restarted.await.map_err(|_| NodeError::NoSuchSession)??;
        let tag = etag(&local_ice);
        if let Some(entry) = self.registry().sessions.get_mut(session) {
            entry.description.ice = remote;
            entry.ice = local_ice;
        }
        Ok(Some((text, tag)))
    }

    /// A participant leaves.
    ///
    /// # Errors
    /// When it already has.
    pub fn leave(&self, session: &SessionId) -> Result<(), NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        self.registry().leaving(session);
        self.tell(worker, Command::Leave { key, id })
    }

    /// Everything that happens from now on, beginning with how things are. A second stream ends the first.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn events(&self, session: &SessionId) -> Result<EventStream, NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        let (to, events) = mpsc::channel(EVENTS_MAX);
        self.tell(worker, Command::Events { key, id, to })?;
        Ok(EventStream(events))
    }

    /// What a participant asks for.
    ///
    /// # Errors
    /// When it cannot be done.
    pub async fn request(&self, session: &SessionId, request: Request) -> Result<(), NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        let (reply, done) = oneshot::channel();
        self.tell(worker, Command::Request { key, id, request, reply })?;
        Ok(done.await.map_err(|_| NodeError::NoSuchSession)??)
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn find(&self, session: &SessionId) -> Result<SessionInfo, NodeError> {
        let registry = self.registry();
        let entry = registry.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
        Ok(SessionInfo { call: entry.call.clone(), participant: entry.name.clone() })
    }

    /// The TURN server for somebody who joins, if there is one. Its credentials are good for as long as the ICE user names
    /// of a join: clients show them again whenever they refresh.
    #[must_use]
    pub fn ice_server(&self) -> Option<IceServer> {
        let inner = &*self.0;
        let url = inner.config.turn_url.clone()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires_s = (now + inner.config.ufrag_lifetime).as_secs();
        Some(IceServer { url, credentials: inner.turn_secret.issue(expires_s, ids::random()) })
    }

    fn locate_session(&self, session: &SessionId) -> Result<(usize, u32, ParticipantId), NodeError> {
        let registry = self.registry();
        let (entry, _, place) = registry.seated(session)?;
        Ok((place.worker, place.key, entry.id))
    }

    /// The relay's side of a description for somebody.
    fn local<'a>(
        &'a self,
        ice: &'a IceCredentials,
        fingerprint: &'a [u8; 32],
        candidates: &'a [Candidate],
        role: Role,
    ) -> Local<'a> {
        Local { ice, fingerprint, candidates, role, codecs: &self.0.config.codecs }
    }

    fn candidates(&self, call: &CallEntry, port: u16) -> Vec<Candidate> {
        let at = |port: u16, transport| {
            let addresses = self.0.addresses.iter().filter(move |_| port != 0);
            addresses.map(move |ip| Candidate { address: SocketAddr::new(*ip, port), transport })
        };
        let udp = at(if call.force_tcp { 0 } else { port }, Transport::Udp);
        udp.chain(at(self.0.config.public_tcp_port(), Transport::TcpPassive)).collect()
    }

    /// A number for the user name of an ICE restart, which must differ from the one before (RFC 8445, section 9).
    fn restart_number(&self) -> u32 {
        self.0.next_participant.fetch_add(1, Ordering::Relaxed)
    }

    /// The relay's side of ICE for a participant: a user name that routes, and a random password.
    fn credentials(&self, worker: usize, call: u32, participant: u32) -> IceCredentials {
        let config = &self.0.config;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let minutes = (now + config.ufrag_lifetime).as_secs() / 60;
        let route = ufrag::Route {
            node: config.node,
            worker: u8::try_from(worker).unwrap_or(u8::MAX),
            call,
            participant,
            expires_min: u32::try_from(minutes).unwrap_or(u32::MAX),
        };
        IceCredentials {
            ufrag: self.0.ufrag_key.write(&route),
            pwd: STANDARD_NO_PAD.encode(ids::random::<18>()),
        }
    }
}

fn random_ssrc() -> u32 {
    // Zero is what some clients take for "none".
    u32::from_ne_bytes(ids::random()) | 1
}

/// An entity tag for a session's ICE credentials. The password is part of it, because the user name says the same again
/// when ICE restarts within a minute; twelve bytes of a hash give none of its 144 random bits away.
fn etag(ice: &IceCredentials) -> String {
    let text = format!("{}:{}", ice.ufrag, ice.pwd);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("\"{}\"", STANDARD_NO_PAD.encode(digest.as_ref().get(..12).unwrap_or_default()))
}
