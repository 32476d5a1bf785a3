//! The way in: from a peer's lanes, past watermark and policy, into inboxes. Constant state per lane, no window
//! that forgets: what is at or below the watermark was taken in before.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::admin::Departed;
use crate::core::{After, Core};
use crate::directory::Owner;
use crate::envelope::{self, EnvelopeError, View};
use crate::frame::BLOBS_MAX;
use crate::lane::{LaneIn, lanes};
use crate::link::{LinkId, Phase};
use crate::outbound::lane_named;
use crate::policy::Other;
use crate::receipt::refusal_name;
use crate::state::{Key, StateError};
use crate::store::{Head, Lane, NetworkKey, PeerKey, Record, Stream};
use crate::time::Time;
use crate::wire;

/// Refusals kept for a peer that does not settle them. Beyond it nothing more is taken in from it.
const REFUSALS_MAX: usize = 10_000;

/// A large envelope being put together.
#[derive(Debug, Default)]
pub(crate) struct Blob {
    bytes: BytesMut,
    complete: bool,
}

/// What came from a peer.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The epoch of the peer's store that the watermarks count in.
    pub(crate) epoch: Option<[u8; 16]>,
    lanes: [LaneIn; crate::store::LANES as usize],
    blobs: BTreeMap<u64, Blob>,
    /// Since the link came up: granted, taken in, and durable of that.
    granted: (u64, u64),
    taken: (u64, u64),
    durable: (u64, u64),
}

/// Where an envelope goes, and what is refused of it.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// Networks, with their recipients when these are not all.
    deliver: Vec<(NetworkKey, Vec<String>)>,
    /// The reason, and which recipients; none means all.
    refused: Option<(wire::Refusal, Vec<String>)>,
}

impl Inbound {
    pub(crate) fn lane(&self, lane: Lane) -> &LaneIn {
        self.lanes.get(usize::from(lane.0)).expect("lanes are below LANES")
    }

    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut LaneIn {
        self.lanes.get_mut(usize::from(lane.0)).expect("lanes are below LANES")
    }

    /// The peer has a new store: its sequence numbers start again.
    pub(crate) fn restart(&mut self, epoch: [u8; 16]) {
        *self = Self { epoch: Some(epoch), ..Self::default() };
    }

    /// What is put together or held belongs to the link: it comes again on the next one.
    pub(crate) fn link_down(&mut self) {
        self.blobs.clear();
        for lane in &mut self.lanes {
            lane.held.clear();
        }
        (self.granted, self.taken, self.durable) = ((0, 0), (0, 0), (0, 0));
    }

    /// As the store keeps it: epoch, then watermarks.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = self.epoch.unwrap_or_default().to_vec();
        self.lanes.iter().for_each(|lane| out.extend_from_slice(&lane.received.to_be_bytes()));
        out.into()
    }

    /// From what the store keeps.
    pub(crate) fn recover(&mut self, value: &[u8]) -> Result<(), StateError> {
        let error = StateError { what: "watermarks" };
        let (epoch, rest) = value.split_first_chunk::<16>().ok_or(error)?;
        let marks = crate::state::from_numbers("watermarks", rest)?;
        if marks.len() != self.lanes.len() {
            return Err(error);
        }
        self.epoch = Some(*epoch);
        for (lane, mark) in self.lanes.iter_mut().zip(marks) {
            (lane.received, lane.durable) = (mark, mark);
        }
        Ok(())
    }

    fn refusals(&self) -> usize {
        self.lanes.iter().map(|lane| lane.refusals.len()).sum()
    }

    /// What RESUME claims.
    pub(crate) fn marks(&self) -> Vec<wire::LaneMark> {
        lanes().map(|lane| wire::LaneMark { lane: lane.0.into(), seq: self.lane(lane).durable }).collect()
    }
}

impl Core {
    /// A run of a lane's items.
    ///
    /// # Errors
    /// What the peer did wrong.
    pub(crate) fn handle_data(
        &mut self,
        now: Time,
        link: LinkId,
        lane: Lane,
        data: wire::Data,
    ) -> Result<(), &'static str> {
        let key = self.sender(link)?;
        let mut seq = data.first_seq;
        for item in data.items {
            let (count, bytes) = match &item.body {
                Some(wire::item::Body::Skip(skip)) => (skip.count, 0),
                Some(wire::item::Body::Envelope(body)) => (1, body.len() as u64),
                Some(wire::item::Body::Blob(_)) => (1, 0),
                None => return Err("an item of unknown kind"),
            };
            let is_skip = is_skip_item(&item);
            self.charge(key, bytes, u64::from(!is_skip))?;
            let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
            if peer.inbound.lane(lane).held.is_empty() && peer.inbound.is_complete(&item) {
                self.take_item(now, link, key, lane, seq, item)?;
            } else {
                let held = &mut peer.inbound.lane_mut(lane).held;
                // Skips cost no credit; there is at most one between two envelopes.
                if is_skip && held.back().is_some_and(|(_, item)| is_skip_item(item)) {
                    return Err("two skips in a row");
                }
                held.push_back((seq, item));
            }
            seq = seq.checked_add(count).ok_or("a sequence number beyond 64 bits")?;
        }
        Ok(())
    }

    /// A piece of a large envelope.
    ///
    /// # Errors
    /// What the peer did wrong.
    pub(crate) fn handle_blob(
        &mut self,
        now: Time,
        link: LinkId,
        piece: wire::Blob,
    ) -> Result<(), &'static str> {
        let key = self.sender(link)?;
        self.charge(key, piece.chunk.len() as u64, 0)?;
        let bytes_max = self.config.payload_bytes_max + envelope::ENVELOPE_OVERHEAD_BYTES_MAX;
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if peer.inbound.blobs.len() >= BLOBS_MAX && !peer.inbound.blobs.contains_key(&piece.blob_id) {
            return Err("too many large envelopes at once");
        }
        let blob = peer.inbound.blobs.entry(piece.blob_id).or_default();
        if blob.complete {
            return Err("a large envelope went on after its end");
        }
        if blob.bytes.len() + piece.chunk.len() > bytes_max {
            return Err("an envelope larger than HELLO allowed");
        }
        blob.bytes.extend_from_slice(&piece.chunk);
        blob.complete = piece.last;
        if piece.last {
            self.release_held(now, link, key)?;
        }
        Ok(())
    }

    /// The peer has our refusals up to these marks on its disk.
    ///
    /// # Errors
    /// What the peer did wrong.
    pub(crate) fn handle_settled(
        &mut self,
        now: Time,
        key: PeerKey,
        marks: &[wire::LaneMark],
    ) -> Result<(), &'static str> {
        for mark in marks {
            let lane = lane_named(mark.lane)?;
            let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
            let refusals = &mut peer.inbound.lane_mut(lane).refusals;
            let kept = refusals.split_off(&mark.seq.saturating_add(1));
            for seq in std::mem::replace(refusals, kept).into_keys() {
                self.delete(now, &Key::Refusal(key, lane, seq));
            }
        }
        self.regrant();
        Ok(())
    }

    /// These lanes are durable up to these marks: says so.
    pub(crate) fn acknowledge(&mut self, key: PeerKey, epoch: Option<[u8; 16]>, marks: Vec<wire::LaneMark>) {
        // A new store may have come while these were saved: the same numbers mean other envelopes in it.
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.inbound.epoch == epoch) else { return };
        for mark in &marks {
            if let Ok(lane) = lane_named(mark.lane) {
                let lane = peer.inbound.lane_mut(lane);
                lane.durable = lane.durable.max(mark.seq.min(lane.received));
            }
        }
        if let Some(link) = peer.link {
            self.send(link, wire::frame::Body::Ack(wire::Ack { marks }));
        }
    }

    /// So much of what a link brought is durable: the peer may send as much again.
    pub(crate) fn grant_credit(&mut self, link: LinkId, bytes: u64, messages: u64) {
        let Some(key) = self.links.get(&link).and_then(|l| l.peer) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.link != Some(link) {
            return;
        }
        peer.inbound.durable.0 += bytes;
        peer.inbound.durable.1 += messages;
        self.offer_credit(key, link);
    }

    /// Tells a peer how much it may send in all, when that is worth a frame.
    pub(crate) fn offer_credit(&mut self, key: PeerKey, link: LinkId) {
        let full = self.mailboxes.values().any(|mailbox| mailbox.inbox.bytes > self.config.inbox_quota_bytes);
        let window = (self.config.credit_bytes, self.config.credit_messages);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if full || self.storage_low || peer.inbound.refusals() >= REFUSALS_MAX {
            self.credit_held = true;
            return;
        }
        let inbound = &mut peer.inbound;
        let offer = (inbound.durable.0 + window.0, inbound.durable.1 + window.1);
        let worth =
            offer.0 - inbound.granted.0 >= window.0 / 8 || offer.1 - inbound.granted.1 >= window.1 / 8;
        if worth {
            inbound.granted = offer;
            self.send(link, wire::frame::Body::Credit(wire::Credit { bytes: offer.0, messages: offer.1 }));
        }
    }

    /// Something that held credit back may be over. Costs nothing when nothing did: every acknowledgement of a
    /// messaging server comes here.
    pub(crate) fn regrant(&mut self) {
        if !std::mem::take(&mut self.credit_held) {
            return;
        }
        let up: Vec<_> = self.peers.values().filter_map(|peer| Some((peer.key, peer.link?))).collect();
        for (key, link) in up {
            self.offer_credit(key, link);
        }
    }

    fn sender(&self, link: LinkId) -> Result<PeerKey, &'static str> {
        let link = self.links.get(&link).filter(|link| link.phase != Phase::Hello);
        link.and_then(|link| link.peer).ok_or("envelopes before HELLO")
    }

    /// Holds the peer to what it was granted: it may not make us keep more than that.
    fn charge(&mut self, key: PeerKey, bytes: u64, messages: u64) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let inbound = &mut peer.inbound;
        inbound.taken.0 = inbound.taken.0.saturating_add(bytes);
        inbound.taken.1 = inbound.taken.1.saturating_add(messages);
        if inbound.taken.0 > inbound.granted.0 || inbound.taken.1 > inbound.granted.1 {
            return Err("more envelopes than CREDIT allowed");
        }
        Ok(())
    }

    /// Takes in what waited behind a large envelope that is complete now.
    fn release_held(&mut self, now: Time, link: LinkId, key: PeerKey) -> Result<(), &'static str> {
        for lane in lanes() {
            loop {
                let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
                let ready = peer
                    .inbound
                    .lane(lane)
                    .held
                    .front()
                    .is_some_and(|(_, item)| peer.inbound.is_complete(item));
                if !ready {
                    break;
                }
                let Some((seq, item)) = peer.inbound.lane_mut(lane).held.pop_front() else { break };
                self.take_item(now, link, key, lane, seq, item)?;
            }
        }
        Ok(())
    }

    fn take_item(
        &mut self,
        now: Time,
        link: LinkId,
        key: PeerKey,
        lane: Lane,
        seq: u64,
        item: wire::Item,
    ) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let (body, last) = match item.body {
            Some(wire::item::Body::Skip(skip)) => {
                let last = seq.saturating_add(skip.count).saturating_sub(1);
                (None, last)
            }
            Some(wire::item::Body::Envelope(body)) => (Some(body), seq),
            Some(wire::item::Body::Blob(reference)) => {
                let blob = peer.inbound.blobs.remove(&reference.blob_id).unwrap_or_default();
                (Some(blob.bytes.freeze()), seq)
            }
            None => return Err("an item of unknown kind"),
        };
        let bytes = body.as_ref().map_or(0, |body| body.len() as u64);
        self.took(now, link, bytes, u64::from(body.is_some()));
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let state = peer.inbound.lane_mut(lane);
        if last <= state.received {
            self.totals.duplicates += u64::from(body.is_some());
            return Ok(());
        }
        if seq > state.received + 1 || seq == 0 {
            return Err("a gap in a lane");
        }
        state.received = last;
        self.watermark_moved(now, key, lane);
        if let Some(body) = body {
            self.accept(now, link, key, lane, seq, body, item.ttl_ms);
        }
        Ok(())
    }

    /// Delivers an envelope into inboxes, or refuses it for good.
    #[allow(clippy::too_many_arguments, reason = "where it came from, and what it is: nothing to bundle")]
    fn accept(
        &mut self,
        now: Time,
        link: LinkId,
        key: PeerKey,
        lane: Lane,
        seq: u64,
        body: Bytes,
        ttl_ms: u64,
    ) {
        let verdict = self.judge(key, &body);
        let ttl = std::time::Duration::from_millis(ttl_ms).min(self.retention());
        let mut id = [0; 16];
        if let Ok(view) = View::parse(&body)
            && view.id.len() == 16
        {
            id.copy_from_slice(view.id);
        }
        let delivered = !verdict.deliver.is_empty();
        for (network, recipients) in verdict.deliver {
            let body = match recipients.is_empty() {
                true => body.clone(),
                false => envelope::for_recipients(body.clone(), recipients).unwrap_or_else(|_| body.clone()),
            };
            let head = Head { id, network, expires: now + ttl, at: now };
            self.append(now, Stream::Inbox { network }, Record { head, body });
        }
        if delivered {
            self.totals.received += 1;
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.received += 1;
            }
        }
        if let Some((reason, to)) = verdict.refused {
            self.totals.rejected += 1;
            self.tally(now, key, "inbox.refused", 1);
            let nack = wire::Nack { lane: lane.0.into(), seq, reason: reason.into(), to };
            self.put(now, &Key::Refusal(key, lane, seq), prost::Message::encode_to_vec(&nack).into());
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.inbound.lane_mut(lane).refusals.insert(seq, nack.clone());
                peer.departures.count(now, Departed::Rejected, refusal_name(reason));
            }
            self.after_commit(now, After::Send(link, wire::frame::Body::Nack(nack)));
        }
    }

    /// Decides on an envelope from a peer. Every recipient is looked at on its own.
    fn judge(&self, key: PeerKey, body: &[u8]) -> Verdict {
        let refuse_all = |reason| Verdict { deliver: Vec::new(), refused: Some((reason, Vec::new())) };
        let view = match View::parse(body)
            .and_then(|view| view.check(self.config.payload_bytes_max).map(|()| view))
        {
            Ok(view) => view,
            Err(EnvelopeError::Payload) => return refuse_all(wire::Refusal::TooLarge),
            Err(_) => return refuse_all(wire::Refusal::Malformed),
        };
        let Some(peer) = self.directory.peer(key) else { return refuse_all(wire::Refusal::NotPermitted) };
        // The sender must be one of the peer's own people, in the network it says.
        let from_domain = view.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        match self.owner_of(from_domain) {
            Some(Owner::Peer(owner, network)) if *owner == key && network.as_str() == view.network => {}
            _ => return refuse_all(wire::Refusal::SenderDomain),
        }
        let other = Other {
            domain: peer.domain.as_str(),
            network: view.network,
            address: view.from,
            guest: view.guest,
        };
        let mut deliver: Vec<(NetworkKey, Vec<String>)> = Vec::with_capacity(1);
        let mut refused: Option<(wire::Refusal, Vec<String>)> = None;
        for to in &view.to {
            let domain = to.rsplit_once('@').map_or("", |(_, domain)| domain);
            let allowed = match self.owner_of(domain) {
                Some(Owner::Local(network)) => {
                    let policy = self.directory.network(*network).map(|record| record.policy.allows(other));
                    policy.unwrap_or(Err(wire::Refusal::UnknownRecipientDomain)).map(|()| *network)
                }
                _ => Err(wire::Refusal::UnknownRecipientDomain),
            };
            match allowed {
                Ok(network) => match deliver.iter_mut().find(|(key, _)| *key == network) {
                    Some((_, recipients)) => recipients.push((*to).to_owned()),
                    None => deliver.push((network, vec![(*to).to_owned()])),
                },
                Err(reason) => refused.get_or_insert((reason, Vec::new())).1.push((*to).to_owned()),
            }
        }
        if let [(_, recipients)] = deliver.as_mut_slice()
            && recipients.len() == view.to.len()
        {
            recipients.clear();
        }
        if let Some((_, recipients)) = &mut refused
            && recipients.len() == view.to.len()
        {
            recipients.clear();
        }
        Verdict { deliver, refused }
    }

    /// Who owns a domain, whatever its case.
    pub(crate) fn owner_of(&self, domain: &str) -> Option<&Owner> {
        if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.directory.owner(&domain.to_ascii_lowercase());
        }
        self.directory.owner(domain)
    }
}

fn is_skip_item(item: &wire::Item) -> bool {
    matches!(item.body, Some(wire::item::Body::Skip(_)))
}

impl Inbound {
    fn is_complete(&self, item: &wire::Item) -> bool {
        match &item.body {
            Some(wire::item::Body::Blob(reference)) => {
                self.blobs.get(&reference.blob_id).is_some_and(|blob| blob.complete)
            }
            _ => true,
        }
    }
}
