//! A link's life: HELLO proves who is there, RESUME says how far everything came, then envelopes flow until
//! somebody says GOAWAY or nobody says anything.

use std::time::Duration;

use aws_lc_rs::digest;
use trunkline_common::ids::{Domain, NetworkId};

use crate::core::{Action, After, Core};
use crate::directory::{LocalDomain, PeerRecord, PeerState, Trust};
use crate::frame::Channel;
use crate::key::valid_id;
use crate::lane::lanes;
use crate::link::{Link, LinkId, Opened, Phase, Transport};
use crate::outbound::{PROGRESS_CHECK, lane_named};
use crate::peer::{Alarm, Credit};
use crate::pin::{Pin, PinState};
use crate::state::{Key, to_json};
use crate::store::PeerKey;
use crate::time::Time;
use crate::timer::Timer;
use crate::wire::{self, Reason, frame::Body};

/// Version of the link protocol. Both sides name the range they speak; the highest common one is used.
pub(crate) const VERSION: u32 = 1;

/// A link must be proven within this time.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Without a frame for this long a PING asks; without an answer for as long again the link is dead.
const IDLE: Duration = Duration::from_secs(10);

/// A PING is answered no more often than this.
const PONG_PAUSE: Duration = Duration::from_secs(1);

/// KEYS and KEYS_ACK that a peer may send on one link; a rotation takes one or two.
const KEYS_MAX: u32 = 64;

/// Two links that opened within this time may come from both sides dialling at once.
const DIAL_RACE: Duration = Duration::from_secs(2);

/// Local domains that a deployment may claim: its peers refuse a HELLO with more.
pub(crate) const CLAIMS_MAX: usize = 1000;

/// Longest text of a peer's that is kept for the operator.
const DETAIL_BYTES_MAX: usize = 200;

/// Why a link is refused: what the other operator reads.
struct Refused(Reason, &'static str);

impl Core {
    /// TLS let a connection in.
    pub fn handle_opened(&mut self, now: Time, id: LinkId, opened: Opened) {
        let dialed = opened.dialed;
        if let Some(peer) = dialed.and_then(|key| self.peers.get_mut(&key)) {
            peer.dialing = false;
        }
        let Ok(pin) = Pin::of_certificate(&opened.certificate) else {
            self.actions.push_back(Action::Close { link: id, goaway: None });
            if let Some(key) = dialed {
                self.handle_dial_failed(now, key, "the peer's certificate cannot be read".to_owned());
            }
            return;
        };
        let phase = Phase::Hello;
        let transport = opened.transport;
        let link = Link {
            opened,
            opened_at: now,
            pin,
            phase,
            peer: dialed,
            proven_key: None,
            rotated: false,
            acked: Vec::new(),
            our_key: None,
            heard: now,
            ponged: None,
            keys: 0,
            pinged: false,
        };
        self.links.insert(id, link);
        if dialed.is_none() && self.stopping {
            self.refuse(now, id, Reason::Shutdown, "the gateway is being stopped");
            return;
        }
        let Some(key) = dialed else {
            self.timers.set(Timer::Handshake(id), now + HANDSHAKE);
            return;
        };
        let active = self.directory.peer(key).is_some_and(|record| record.state == PeerState::Active);
        let useless = self.peers.get(&key).is_some_and(|peer| peer.up && transport == Transport::Tcp);
        if !active || self.stopping || useless {
            self.close(now, id, None, "no longer needed");
            return;
        }
        self.timers.set(Timer::Handshake(id), now + HANDSHAKE);
        if !self.hello(id, key) {
            self.close(now, id, None, "the peer issued no API key to us: accept its bundle first");
        }
    }

    /// A connection is gone, whoever closed it.
    pub fn handle_closed(&mut self, now: Time, id: LinkId, reason: &str) {
        let Some(link) = self.links.remove(&id) else { return };
        for timer in [Timer::Handshake(id), Timer::Idle(id), Timer::Progress(id)] {
            self.timers.cancel(timer);
        }
        let Some(key) = link.peer else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.link == Some(id) {
            self.peer_down(now, key, reason);
        } else if peer.link.is_none() && link.opened.dialed.is_some() {
            peer.last_error = Some(reason.to_owned());
            if self.timers.get(Timer::Dial(key)).is_none() {
                self.schedule_dial(now, key, false);
            }
        }
    }

    /// A frame arrived.
    pub fn handle_frame(&mut self, now: Time, id: LinkId, channel: Channel, body: Body) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.heard = now;
        link.pinged = false;
        let result = match (link.phase, body) {
            (Phase::Hello, Body::Hello(hello)) => match self.handle_hello(now, id, &hello) {
                Ok(()) => Ok(()),
                Err(Refused(reason, detail)) => {
                    self.note_refusal(id, &hello.domain, detail);
                    self.refuse(now, id, reason, detail);
                    return;
                }
            },
            (_, Body::Goaway(goaway)) => {
                self.handle_goaway(now, id, &goaway);
                return;
            }
            (Phase::Hello, _) => Err("the first frame must be HELLO"),
            (_, Body::Ping(ping)) => {
                // One answer a second is enough to live; more would pile up behind a peer that reads nothing.
                if link.ponged.is_none_or(|last| now.since(last) >= PONG_PAUSE) {
                    link.ponged = Some(now);
                    self.send(id, Body::Pong(ping));
                }
                Ok(())
            }
            (_, Body::Pong(_)) => Ok(()),
            (Phase::Resume, Body::Resume(resume)) => self.handle_resume(now, id, &resume),
            (_, body) => self.handle_proven(now, id, channel, body),
        };
        if let Err(detail) = result {
            self.refuse(now, id, Reason::ProtocolError, detail);
        }
    }

    /// Closes a link: what was asked for before is sent first, then the GOAWAY.
    pub(crate) fn close(&mut self, now: Time, id: LinkId, goaway: Option<wire::Goaway>, reason: &str) {
        if self.links.contains_key(&id) {
            self.actions.push_back(Action::Close { link: id, goaway });
            self.handle_closed(now, id, reason);
        }
    }

    /// A link was not proven in time.
    pub(crate) fn handshake_late(&mut self, now: Time, id: LinkId) {
        self.refuse(now, id, Reason::ProtocolError, "HELLO or RESUME did not come in time");
    }

    /// Nothing was heard on a link for a while.
    pub(crate) fn link_idle(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let quiet = now.since(link.heard);
        if quiet < IDLE {
            let next = link.heard + IDLE;
            self.timers.set(Timer::Idle(id), next);
        } else if link.pinged {
            self.close(now, id, None, "the peer went silent");
        } else {
            link.pinged = true;
            self.send(id, Body::Ping(wire::Ping { nonce: now.unix_ms() }));
            self.timers.set(Timer::Idle(id), now + IDLE);
        }
    }

    /// Closes links that rest on a pin, a key or a peering that is no longer good.
    pub(crate) fn close_distrusted(&mut self, now: Time) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get(&id) else { continue };
            let Some(key) = link.peer else { continue };
            let refused = match self.directory.peer(key) {
                None => Some(Refused(Reason::NotPeered, "this peering was ended by its operator")),
                Some(record) if record.state == PeerState::Paused => {
                    Some(Refused(Reason::Paused, "this peering is paused by its operator"))
                }
                Some(record) => {
                    let key_ok = link
                        .proven_key
                        .as_ref()
                        .is_none_or(|id| record.keys_issued.iter().any(|key| key.id == *id));
                    let pin_ok = matches!(&record.trust, Trust::Ca { .. }) || trusts(record, link);
                    (!key_ok || !pin_ok)
                        .then_some(Refused(Reason::Revoked, "this certificate or API key was revoked"))
                }
            };
            if let Some(Refused(reason, detail)) = refused {
                self.refuse(now, id, reason, detail);
            }
        }
    }

    /// What tells a linked peer that has not stored it of our next certificate.
    pub(crate) fn announcement(&self, key: PeerKey) -> Option<(LinkId, Body)> {
        let next_certificate = self.next_certificate.clone()?;
        let peer = self.peers.get(&key).filter(|peer| peer.up)?;
        let link = peer.link?;
        let is_known = peer.ready == Pin::of_certificate(&next_certificate).ok();
        let keys = wire::Keys { next_certificate, next_key_id: String::new() };
        (!is_known).then_some((link, Body::Keys(keys)))
    }

    /// A peer that knocked is refused: our operator sees what the peer's is told. Its certificate must be the peer's,
    /// so that strangers write nothing here.
    fn note_refusal(&mut self, id: LinkId, domain: &str, detail: &str) {
        let Some(link) = self.links.get(&id) else { return };
        let known = self.directory.peer_by_domain(domain).filter(|record| trusts(record, link));
        if let Some(peer) = known.and_then(|record| self.peers.get_mut(&record.key))
            && peer.link.is_none()
        {
            peer.last_error = Some(format!("we refused the peer's link: {detail}"));
        }
    }

    fn refuse(&mut self, now: Time, id: LinkId, reason: Reason, detail: &str) {
        let goaway = wire::Goaway { reason: reason.into(), retry_after_ms: 0, detail: detail.to_owned() };
        let ours = format!("we closed the link: {detail}");
        self.close(now, id, Some(goaway), &ours);
    }

    fn handle_goaway(&mut self, now: Time, id: LinkId, goaway: &wire::Goaway) {
        let detail: String =
            goaway.detail.chars().filter(|c| !c.is_control()).take(DETAIL_BYTES_MAX).collect();
        let name = goaway.reason().as_str_name().to_lowercase().replace('_', "-");
        let peer = self.links.get(&id).and_then(|link| link.peer);
        self.close(now, id, None, &format!("the peer closed the link ({name}): {detail}"));
        // What the peer asks for is a hint: a bounded one.
        let wait = Duration::from_millis(goaway.retry_after_ms.min(60_000));
        if let Some(key) = peer
            && let Some(at) = self.timers.get(Timer::Dial(key))
        {
            self.timers.set(Timer::Dial(key), at.max(now + wait));
        }
    }

    /// What our sequence numbers towards a peer mean something in: this store, and this peer's record in it. One
    /// that was removed and added again starts to count at 1, and must not be taken for the old one.
    fn epoch_for(&self, key: PeerKey) -> [u8; 16] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.epoch);
        context.update(&key.0.to_be_bytes());
        let restarts = self.directory.peer(key).map_or(0, |record| record.restarts);
        context.update(&restarts.to_be_bytes());
        let mut epoch = [0; 16];
        epoch.iter_mut().zip(context.finish().as_ref()).for_each(|(out, byte)| *out = *byte);
        epoch
    }

    /// Sends our HELLO. Answers whether we had a key to prove.
    fn hello(&mut self, id: LinkId, key: PeerKey) -> bool {
        let claims = self.directory.local_domains();
        let epoch = self.epoch_for(key);
        let Some(record) = self.directory.peer(key) else { return false };
        let Some(held) = record.keys_held.last() else { return false };
        let Some(link) = self.links.get_mut(&id) else { return false };
        let dialed = link.opened.dialed.is_some();
        let exporter = if dialed { &link.opened.binding.dialer } else { &link.opened.binding.acceptor };
        let claim = |claim: LocalDomain| wire::LocalDomain {
            domain: claim.domain.as_str().to_owned(),
            network: claim.network.as_str().to_owned(),
        };
        let hello = wire::Hello {
            version_min: VERSION,
            version_max: VERSION,
            domain: self.config.domain.as_str().to_owned(),
            store_epoch: epoch.to_vec().into(),
            key_id: held.id.clone(),
            key_proof: held.prove(exporter).to_vec().into(),
            limits: Some(wire::Limits { payload_bytes_max: self.config.payload_bytes_max as u64 }),
            local_domains: claims.into_iter().map(claim).collect(),
        };
        link.our_key = Some(held.id.clone());
        if let Some(peer) = self.peers.get(&key) {
            link.acked = peer.lanes.iter().map(|lane| lane.queue.acked).collect();
        }
        self.send(id, Body::Hello(hello));
        true
    }

    fn handle_hello(&mut self, now: Time, id: LinkId, hello: &wire::Hello) -> Result<(), Refused> {
        if hello.version_min > VERSION || hello.version_max < VERSION {
            return Err(Refused(Reason::Version, "no common protocol version: upgrade the older gateway"));
        }
        let unknown = || Refused(Reason::NotPeered, "no such peering here: both operators must accept it");
        let record = self.directory.peer_by_domain(&hello.domain).ok_or_else(unknown)?.clone();
        let key = record.key;
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        if link.opened.dialed.is_some_and(|dialed| dialed != key) {
            return Err(Refused(Reason::NotPeered, "another deployment answers at this endpoint"));
        }
        match record.state {
            PeerState::Active => {}
            PeerState::Paused => {
                return Err(Refused(Reason::Paused, "this peering is paused by its operator"));
            }
            PeerState::Invited => return Err(unknown()),
        }
        if !trusts(&record, link) {
            return Err(Refused(Reason::NotPeered, "this certificate is not the one that was accepted"));
        }
        let exporter = match link.opened.dialed {
            Some(_) => &link.opened.binding.acceptor,
            None => &link.opened.binding.dialer,
        };
        let issued = record.keys_issued.iter().find(|issued| issued.id == hello.key_id);
        if !issued.is_some_and(|issued| issued.verify(exporter, &hello.key_proof)) {
            return Err(Refused(Reason::BadKey, "the API key is not one we issued: exchange bundles again"));
        }
        let epoch = <[u8; 16]>::try_from(&hello.store_epoch[..])
            .map_err(|_| Refused(Reason::ProtocolError, "HELLO: store_epoch must be 16 bytes"))?;
        let limits = hello.limits.filter(|limits| limits.payload_bytes_max > 0);
        let limits =
            limits.ok_or(Refused(Reason::ProtocolError, "HELLO: limits.payload_bytes_max is missing"))?;
        let claims = claims_of(hello)?;
        if let Some(alarm) = self.peers.get(&key).and_then(|peer| peer.alarm.as_ref()) {
            let detail = match alarm {
                Alarm::PeerLost(_) | Alarm::WeLost(_) => {
                    "watermarks disagree: the operators must resume the peering"
                }
            };
            return Err(Refused(Reason::Watermark, detail));
        }
        if !self.prefer(now, id, key) {
            return Err(Refused(Reason::DuplicateLink, "there is another link between us"));
        }
        self.note_identity(now, id, &record, &hello.key_id, claims);
        let accepted_by_us = self.links.get(&id).is_some_and(|link| link.opened.dialed.is_none());
        if accepted_by_us && !self.hello(id, key) {
            return Err(Refused(Reason::NotPeered, "no API key was issued to us: send your bundle"));
        }
        self.resume(now, id, key, epoch, limits);
        Ok(())
    }

    /// Two links to one peer. When both sides dialled at once, the one that the smaller domain dialled stays.
    /// Otherwise the newer one: a peer dials only when it has no link, so it knows that the older one is dead.
    fn prefer(&mut self, now: Time, id: LinkId, key: PeerKey) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        let Some(old) = peer.link.filter(|old| *old != id) else { return true };
        let (Some(new_link), Some(old_link)) = (self.links.get(&id), self.links.get(&old)) else {
            return true;
        };
        let (us, them) = (&self.config.domain, &peer.domain);
        let (new_dialer, old_dialer) = (new_link.dialer(us, them), old_link.dialer(us, them));
        let (earlier, later) = match id > old {
            true => (old_link.opened_at, new_link.opened_at),
            false => (new_link.opened_at, old_link.opened_at),
        };
        let race = new_dialer != old_dialer && later.since(earlier) < DIAL_RACE;
        // The answer on a link may come so late that another one was made meanwhile.
        let keeps_old = if race { old_dialer < new_dialer } else { id < old };
        if keeps_old {
            return false;
        }
        // The new link takes the old one's place first, so that closing the old one is no outage.
        if let Some(link) = self.links.get_mut(&old) {
            link.peer = None;
        }
        // What was in flight on the old one is sent again from the watermark on the new one.
        if let Some(peer) = self.peers.get_mut(&key) {
            self.resident_bytes -= peer.unlink();
        }
        self.refuse(now, old, Reason::DuplicateLink, "there is another link between us");
        true
    }

    /// What a proven HELLO changes in the peer's record.
    fn note_identity(
        &mut self,
        now: Time,
        id: LinkId,
        old: &PeerRecord,
        key_id: &str,
        claims: Vec<LocalDomain>,
    ) {
        let mut record = old.clone();
        let Some(link) = self.links.get_mut(&id) else { return };
        link.peer = Some(record.key);
        link.proven_key = Some(key_id.to_owned());
        if let Trust::Pinned { pins } = &mut record.trust
            && pins.used(link.pin)
        {
            self.event("peer.rotated", Some(old.domain.clone()), "its new certificate is in use".to_owned());
        }
        if record.keys_issued.last().is_some_and(|newest| newest.id == key_id) && record.keys_issued.len() > 1
        {
            record.keys_issued.retain(|issued| issued.id == key_id);
        }
        let pending = (claims != record.local_domains).then_some(claims);
        if pending.is_some() && pending != record.claimed_domains {
            let detail = "the peer claims other local domains: approve them, or they stay as they were";
            self.event("peer.claim", Some(old.domain.clone()), detail.to_owned());
        }
        record.claimed_domains = pending;
        if record != *old {
            self.save_peer(now, record);
        }
    }

    /// Tells the peer how far we are.
    fn resume(&mut self, now: Time, id: LinkId, key: PeerKey, epoch: [u8; 16], limits: wire::Limits) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let domain = peer.domain.clone();
        let fresh = peer.inbound.epoch != Some(epoch);
        let known = peer.inbound.epoch.is_some();
        if fresh {
            let stale: Vec<_> = lanes()
                .flat_map(|lane| {
                    peer.inbound.lane(lane).refusals.keys().map(move |seq| (lane, *seq)).collect::<Vec<_>>()
                })
                .collect();
            peer.inbound.restart(epoch);
            for (lane, seq) in stale {
                self.delete(now, &Key::Refusal(key, lane, seq));
            }
            self.watermark_moved(now, key, crate::store::Lane(0));
        }
        if fresh && known {
            let detail = "the peer has a new store: what it had sent before may come again";
            self.event("peer.epoch", Some(domain), detail.to_owned());
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.link = Some(id);
        peer.credit = Credit::default();
        peer.payload_bytes_max = limits.payload_bytes_max;
        peer.inbound.link_down();
        let refusals =
            lanes().flat_map(|lane| peer.inbound.lane(lane).refusals.values().cloned().collect::<Vec<_>>());
        let refusals: Vec<_> = refusals.collect();
        let marks = peer.inbound.marks();
        for nack in refusals {
            self.send(id, Body::Nack(nack));
        }
        self.send(id, Body::Resume(wire::Resume { origin_epoch: epoch.to_vec().into(), marks }));
        if let Some(link) = self.links.get_mut(&id) {
            link.phase = Phase::Resume;
        }
        self.offer_credit(key, id);
    }

    fn handle_resume(&mut self, now: Time, id: LinkId, resume: &wire::Resume) -> Result<(), &'static str> {
        let Some(key) = self.links.get(&id).and_then(|link| link.peer) else { return Ok(()) };
        if resume.origin_epoch[..] != self.epoch_for(key) {
            return Err("RESUME: not the epoch of our HELLO");
        }
        let acked = self.links.get_mut(&id).map(|link| std::mem::take(&mut link.acked)).unwrap_or_default();
        if let Some(alarm) = self.compare(key, &acked, &resume.marks)? {
            self.raise(now, key, id, alarm);
            return Ok(());
        }
        self.timers.cancel(Timer::Handshake(id));
        self.timers.set(Timer::Idle(id), now + IDLE);
        self.timers.set(Timer::Progress(id), now + PROGRESS_CHECK);
        if let Some(link) = self.links.get_mut(&id) {
            link.phase = Phase::Up;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let mut settled = Vec::new();
        for mark in &resume.marks {
            let lane = lane_named(mark.lane)?;
            let out = peer.lane_mut(lane);
            out.sent = out.queue.acked;
            out.told = mark.seq.max(out.queue.acked);
            out.settled_to = mark.seq;
            if acked.get(usize::from(lane.0)).is_some_and(|acked| mark.seq < *acked) {
                out.rewound = true;
                let skip = wire::Skip { count: out.queue.acked - mark.seq };
                let item = wire::Item { ttl_ms: 0, body: Some(wire::item::Body::Skip(skip)) };
                let data = wire::Data { first_seq: mark.seq + 1, items: vec![item] };
                let (channel, body) = (Channel::Lane(lane), Body::Data(data));
                self.actions.push_back(Action::Send { link: id, channel, body });
            }
            if out.refusals_since_settled && mark.seq <= out.queue.acked {
                out.refusals_since_settled = false;
                settled.push(wire::LaneMark { lane: mark.lane, seq: out.queue.acked });
            }
        }
        if !settled.is_empty() {
            self.after_commit(now, After::Send(id, Body::Settled(wire::Settled { marks: settled })));
        }
        self.peer_up(now, key, id);
        self.end_rewind(now, key);
        if let Some((link, keys)) = self.announcement(key) {
            self.send(link, keys);
        }
        self.pump(now, key);
        Ok(())
    }

    /// Holds the peer's watermarks against what we knew it had acknowledged, and against what we sent.
    fn compare(
        &self,
        key: PeerKey,
        acked: &[u64],
        marks: &[wire::LaneMark],
    ) -> Result<Option<Alarm>, &'static str> {
        let Some(peer) = self.peers.get(&key) else { return Ok(None) };
        if marks.len() != peer.lanes.len() {
            return Err("RESUME: expected a mark for each lane");
        }
        for mark in marks {
            let lane = lane_named(mark.lane)?;
            let Some(out) = peer.lanes.get(usize::from(lane.0)) else { continue };
            let acked = acked.get(usize::from(lane.0)).copied().unwrap_or_default();
            // Envelopes submitted since may have taken the numbers of those that the peer has: they must not pass
            // for delivered.
            if mark.seq > out.sent_max {
                let text = format!(
                    "lane {}: the peer has up to {}, we never sent beyond {}: our store went back to an older state. \
                     `peer resume` starts a new epoch; what was sent since then may be delivered twice",
                    lane.0, mark.seq, out.sent_max
                );
                return Ok(Some(Alarm::WeLost(text)));
            }
            if mark.seq < acked && !peer.rewind_allowed {
                let text = format!(
                    "lane {}: the peer had acknowledged up to {acked}, and now says {}: it lost envelopes it had \
                     stored. `peer resume` goes on without them",
                    lane.0, mark.seq
                );
                return Ok(Some(Alarm::PeerLost(text)));
            }
        }
        Ok(None)
    }

    fn raise(&mut self, now: Time, key: PeerKey, id: LinkId, alarm: Alarm) {
        let text = alarm.text().to_owned();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let domain = peer.domain.clone();
        peer.alarm = Some(alarm);
        self.event("alarm.watermark", Some(domain.clone()), text.clone());
        self.audit(now, "gateway", "alarm.watermark", domain.as_str(), &text);
        self.refuse(now, id, Reason::Watermark, "watermarks disagree: the operators must resume the peering");
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.last_error = Some(text);
        }
    }

    /// Frames that only a proven peer may send.
    fn handle_proven(
        &mut self,
        now: Time,
        id: LinkId,
        channel: Channel,
        body: Body,
    ) -> Result<(), &'static str> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let Some(key) = link.peer else { return Ok(()) };
        match (channel, body) {
            (Channel::Lane(lane), Body::Data(data)) => self.handle_data(now, id, lane, data),
            (_, Body::Blob(piece)) => self.handle_blob(now, id, piece),
            (_, Body::Nack(nack)) => self.handle_nack(key, nack),
            (_, Body::Settled(settled)) => self.handle_settled(now, key, &settled.marks),
            (_, Body::Credit(credit)) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.credit.bytes = peer.credit.bytes.max(credit.bytes);
                    peer.credit.messages = peer.credit.messages.max(credit.messages);
                }
                self.pump(now, key);
                Ok(())
            }
            (_, Body::Ack(ack)) if link.phase == Phase::Up => self.handle_ack(now, key, &ack.marks),
            // The commit that this covers was under way when we said RESUME: the peer's RESUME is still to come.
            (_, Body::Ack(_)) => Ok(()),
            (_, Body::Keys(keys)) => self.handle_keys(now, id, key, &keys),
            (_, Body::KeysAck(ack)) => self.handle_keys_ack(now, id, key, &ack),
            _ => Err("a frame that does not belong here"),
        }
    }

    /// The peer announces its next certificate, or replaces the API key it issued to us.
    fn handle_keys(
        &mut self,
        now: Time,
        id: LinkId,
        key: PeerKey,
        keys: &wire::Keys,
    ) -> Result<(), &'static str> {
        self.count_keys(id)?;
        let Some(mut record) = self.directory.peer(key).cloned() else { return Ok(()) };
        let mut ack = wire::KeysAck::default();
        if !keys.next_certificate.is_empty() {
            let pin = Pin::of_certificate(&keys.next_certificate).map_err(|_| "KEYS: not a certificate")?;
            if let Trust::Pinned { pins } = &mut record.trust {
                pins.announce(pin).map_err(|_| "KEYS: this key was revoked")?;
            }
            ack.pin = pin.as_bytes().to_vec().into();
        }
        if !keys.next_key_id.is_empty() {
            if !valid_id(&keys.next_key_id) {
                return Err("KEYS: not a key id");
            }
            let Some(link) = self.links.get(&id) else { return Ok(()) };
            let old = record.keys_held.iter().find(|held| Some(&held.id) == link.our_key.as_ref()).cloned();
            let old = old.ok_or("KEYS: the key of this link is gone")?;
            if record.keys_held.iter().all(|held| held.id != keys.next_key_id) {
                let next = old.derive(&link.opened.binding.rotation, &keys.next_key_id);
                // The one this link was proven with stays until the new one was used.
                record.keys_held = vec![old, next];
            }
            ack.key_id.clone_from(&keys.next_key_id);
        }
        self.save_peer(now, record);
        self.after_commit(now, After::Send(id, Body::KeysAck(ack)));
        Ok(())
    }

    fn handle_keys_ack(
        &mut self,
        now: Time,
        id: LinkId,
        key: PeerKey,
        ack: &wire::KeysAck,
    ) -> Result<(), &'static str> {
        self.count_keys(id)?;
        let announced = self.next_certificate.as_ref().and_then(|der| Pin::of_certificate(der).ok());
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let domain = peer.domain.clone();
        // Only what is news: whatever else a peer says here is neither saved nor told.
        if let Some(pin) =
            announced.filter(|pin| ack.pin[..] == pin.as_bytes()[..] && peer.ready != Some(*pin))
        {
            peer.ready = Some(pin);
            self.put(now, &Key::Ready(key), pin.as_bytes().to_vec().into());
            self.event("peer.ready", Some(domain.clone()), "it has stored our next certificate".to_owned());
        }
        if !ack.key_id.is_empty() {
            self.event("peer.key-ready", Some(domain), "it has stored its next API key".to_owned());
        }
        Ok(())
    }

    /// Each of these frames is saved or told: a peer may not make us do so without end.
    fn count_keys(&mut self, id: LinkId) -> Result<(), &'static str> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.keys += 1;
        if link.keys > KEYS_MAX { Err("KEYS: more than any rotation needs") } else { Ok(()) }
    }

    /// Replaces a peer's record, in memory and with the next commit.
    pub(crate) fn save_peer(&mut self, now: Time, record: PeerRecord) {
        self.put(now, &Key::Peer(record.key), to_json(&record));
        self.directory.put_peer(record);
        self.after_commit(now, After::DirectoryChanged);
        self.close_distrusted(now);
    }
}

/// Whether a peer may show the certificate of this link.
fn trusts(record: &PeerRecord, link: &Link) -> bool {
    match &record.trust {
        Trust::Pinned { pins } => {
            pins.entries().iter().any(|e| e.pin == link.pin && e.state != PinState::Revoked)
        }
        // The chain was checked by TLS, against this very peer's authorities.
        Trust::Ca { .. } => link.opened.vouched.contains(&record.key),
    }
}

fn claims_of(hello: &wire::Hello) -> Result<Vec<LocalDomain>, Refused> {
    let error = Refused(Reason::ProtocolError, "HELLO: local_domains are not domain names and network ids");
    if hello.local_domains.len() > CLAIMS_MAX {
        return Err(error);
    }
    let parse = |claim: &wire::LocalDomain| {
        let domain: Domain = claim.domain.parse().ok()?;
        let network: NetworkId = claim.network.parse().ok()?;
        Some(LocalDomain { domain, network })
    };
    let mut claims = hello.local_domains.iter().map(parse).collect::<Option<Vec<_>>>().ok_or(error)?;
    claims.sort_unstable();
    Ok(claims)
}
