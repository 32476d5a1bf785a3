//! What operators ask for: each call changes records and writes its audit entry in one commit.

use trunkline_common::ids::Domain;
use trunkline_common::token;

use crate::admin::{AdminError, AdminOp, AdminReply, Answer, ManualPeer, NetworkSpec};
use crate::administrator::{AdministratorChange, AdministratorOp};
use crate::audit::Entry;
use crate::bundle::Bundle;
use crate::core::{After, Core, Mailbox, Reply, Ticket};
use crate::directory::{
    AdminToken, Invite, LocalDomain, NetworkRecord, Owner, PeerRecord, PeerState, Role, Trust,
};
use crate::key::{ApiKey, KEYS_LIVE_MAX};
use crate::lane::lanes;
use crate::peer::{Alarm, Peer};
use crate::pin::{Pin, PinSet};
use crate::policy::{BLOCKED_MAX, PERMITTED_MAX};
use crate::queue::Queue;
use crate::retire::{Job, Why};
use crate::session::CLAIMS_MAX;
use crate::state::{Key, to_json, to_numbers};
use crate::store::{Head, Lane, NetworkKey, Op, PeerKey, Record, Stream};
use crate::time::Time;
use crate::wire;

/// Audit entries that are kept. Older ones go; the chain of the others still verifies.
const AUDIT_ENTRIES_MAX: u64 = 1_000_000;

/// Peers of one deployment. Each costs some 10 kB of memory.
const PEERS_MAX: usize = 10_000;

type Done = Result<(AdminReply, String), AdminError>;

impl Core {
    /// Carries out what an operator asks for. Answered when it is durable.
    pub fn operate(&mut self, now: Time, ticket: Ticket, actor: &str, op: AdminOp) {
        let (action, target) = describe(&op);
        let done = self.carry_out(now, op);
        let reply = match done {
            Ok((reply, outcome)) => {
                self.audit(now, actor, action, &target, &outcome);
                Ok(reply)
            }
            Err(error) => Err(error),
        };
        self.after_commit(now, After::Reply(ticket, Reply::Admin(reply)));
        self.step_jobs(now);
    }

    /// Appends to the audit log.
    pub(crate) fn audit(&mut self, now: Time, actor: &str, action: &str, target: &str, outcome: &str) {
        let entry = Entry {
            at: now,
            actor: actor.to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
            outcome: outcome.to_owned(),
            previous: self.audit_head.clone(),
        };
        self.audit_head = entry.hash();
        self.put(now, &Key::AuditHead, self.audit_head.clone().into_bytes().into());
        let head = Head { id: [0; 16], network: NetworkKey(0), expires: Time::NEVER, at: now };
        self.append(now, Stream::Audit, Record { head, body: to_json(&entry) });
        let oldest = self.audit.next_seq.saturating_sub(AUDIT_ENTRIES_MAX + 1);
        if oldest > self.audit.acked && oldest.is_multiple_of(1000) {
            self.audit.leave_to(oldest);
            self.audit.ack(oldest);
            self.op(now, Op::Truncate { stream: Stream::Audit, up_to: oldest });
        }
        self.after_commit(now, After::Audited(entry));
    }

    /// The first and the last sequence number of the audit log as it is on the disk; the last is below the first when it
    /// is empty.
    #[must_use]
    pub fn audit_range(&self) -> (u64, u64) {
        (self.audit.acked + 1, self.audit.durable)
    }

    /// Writes the counts of what left the outboxes to the audit log.
    pub(crate) fn flush_tallies(&mut self, now: Time) {
        for ((key, what), count) in std::mem::take(&mut self.tallies) {
            let name = self
                .peers
                .get(&key)
                .map_or_else(|| "removed".to_owned(), |peer| peer.domain.as_str().to_owned());
            self.audit(now, "gateway", what, &name, &count.to_string());
        }
    }

    fn carry_out(&mut self, now: Time, op: AdminOp) -> Done {
        match op {
            AdminOp::PeerInvite { domain, expires } => self.invite(now, domain, expires),
            AdminOp::PeerAccept { bundle, allow_private_ips } => {
                self.accept_bundle(now, *bundle, allow_private_ips)
            }
            AdminOp::PeerAdd(peer) => self.add_peer(now, *peer),
            AdminOp::PeerPause(domain) => self.set_state(now, &domain, PeerState::Paused),
            AdminOp::PeerResume(domain) => self.resume_peer(now, &domain),
            AdminOp::PeerRemove(domain) => self.remove_peer(now, &domain),
            AdminOp::PeerRotateKey(domain) => self.rotate_key(now, &domain),
            AdminOp::PeerRetireKeys(domain) => {
                let mut record = self.record(&domain)?;
                let newest = record.keys_issued.pop();
                record.keys_issued = newest.into_iter().collect();
                self.save_peer(now, record);
                done()
            }
            AdminOp::PeerRevokePin(domain, pin) => {
                let mut record = self.record(&domain)?;
                match &mut record.trust {
                    Trust::Pinned { pins } => pins.revoke(pin),
                    Trust::Ca { .. } => {
                        return Err(invalid("this peer is in CA mode: it has no pins to revoke"));
                    }
                };
                self.save_peer(now, record);
                done()
            }
            AdminOp::PeerApproveDomains(domain) => {
                let mut record = self.record(&domain)?;
                let claims = record
                    .claimed_domains
                    .take()
                    .ok_or_else(|| conflict("the peer claims no other domains"))?;
                self.check_claims(record.key, &claims)?;
                record.local_domains = claims;
                self.save_peer(now, record);
                done()
            }
            AdminOp::NetworkAdd(spec) => self.add_network(now, *spec),
            AdminOp::NetworkUpdate(spec) => self.update_network(now, *spec),
            AdminOp::NetworkRemove { id, purge } => self.remove_network(now, id.as_str(), purge),
            AdminOp::NetworkToken { id, token } => {
                let mut record = self.network_record(id.as_str())?;
                record.tokens.push(token);
                let surplus = record.tokens.len().saturating_sub(KEYS_LIVE_MAX);
                record.tokens.drain(..surplus);
                self.save_network(now, record);
                done()
            }
            AdminOp::TokenAdd { label, token, role } => {
                if label.is_empty() || label.len() > 64 || label.chars().any(char::is_control) {
                    return Err(invalid("`label`: expected 1 to 64 printable characters"));
                }
                if self.directory.tokens().any(|entry| entry.label == label) {
                    return Err(conflict(format!(
                        "there is a token `{label}` already: remove it first, or choose another label"
                    )));
                }
                let token = AdminToken { label: label.clone(), hash: token, role, created: now };
                self.put(now, &Key::Token(label), to_json(&token));
                self.directory.put_token(token);
                self.after_commit(now, After::DirectoryChanged);
                done()
            }
            AdminOp::TokenRemove(label) => self.remove_token(now, &label),
            AdminOp::Administrator(op) => self.change_administrators(now, op),
            AdminOp::Settings(change) => {
                let settings = self.directory.settings().changed(&change)?;
                self.put(now, &Key::Settings, to_json(&settings));
                self.directory.set_settings(settings);
                self.after_commit(now, After::DirectoryChanged);
                Ok((AdminReply::Done, change.describe()))
            }
            AdminOp::OutboxRetry(domain) => self.retry(now, domain),
            AdminOp::OutboxPurge { domain, lane } => self.purge(now, &domain, lane),
            AdminOp::IdentityAnnounce { certificate } => {
                self.announce_next(now, certificate)?;
                done()
            }
            AdminOp::IdentityKeep { current, next } => {
                self.keep_next(now, current, next)?;
                done()
            }
            AdminOp::IdentityActivate { pin } => {
                self.activate_next(now, pin)?;
                done()
            }
            AdminOp::Note { .. } => done(),
        }
    }

    // ------------------------------------------------------------ peers

    fn record(&self, domain: &Domain) -> Result<PeerRecord, AdminError> {
        let record = self.directory.peer_by_domain(domain.as_str()).cloned();
        record.ok_or_else(|| AdminError::NotFound { what: "peer", name: domain.as_str().to_owned() })
    }

    /// The record of a peer that may be new.
    fn record_or_new(&mut self, now: Time, domain: &Domain) -> Result<PeerRecord, AdminError> {
        if *domain == self.config.domain {
            return Err(invalid("this is our own federation domain: a deployment does not peer with itself"));
        }
        if let Some(record) = self.directory.peer_by_domain(domain.as_str()) {
            return Ok(record.clone());
        }
        if self.peers.len() >= PEERS_MAX {
            return Err(conflict(format!("there are {PEERS_MAX} peers already: remove one first")));
        }
        let key = PeerKey(self.next_peer);
        self.next_peer += 1;
        self.save_counters(now);
        self.peers.insert(key, Peer::new(key, domain.clone(), now));
        Ok(PeerRecord::new(key, domain.clone(), now))
    }

    fn save_counters(&mut self, now: Time) {
        self.put(now, &Key::Counters, to_numbers([self.next_peer.into(), self.next_network.into()]));
    }

    fn invite(&mut self, now: Time, domain: Domain, expires: Time) -> Done {
        let mut record = self.record_or_new(now, &domain)?;
        let api_key = issue(&mut record);
        let nonce = token::generate("tln").to_string();
        record.invite = Some(Invite { nonce: nonce.clone(), expires });
        self.save_peer(now, record);
        Ok((AdminReply::Invited { api_key, nonce, expires }, "ok".to_owned()))
    }

    fn accept_bundle(&mut self, now: Time, bundle: Bundle, allow_private_ips: bool) -> Done {
        if bundle.audience != self.config.domain {
            return Err(invalid(format!("this bundle was written for {}, not for us", bundle.audience)));
        }
        let known = self.directory.peer_by_domain(bundle.domain.as_str());
        if known.is_some_and(|record| record.accepted.as_deref() == Some(bundle.nonce.as_str())) {
            return Err(conflict(
                "this bundle was accepted before, and is good once: nothing was changed; if the link does not come \
                 up, ask for a new bundle",
            ));
        }
        if let Some(nonce) = &bundle.in_reply_to {
            let record = self.record(&bundle.domain)?;
            match &record.invite {
                Some(invite) if invite.nonce == *nonce && invite.expires > now => {}
                Some(invite) if invite.nonce == *nonce => {
                    return Err(conflict("the invitation has expired: run `peer invite` again"));
                }
                _ => {
                    return Err(conflict(
                        "this answers another invitation: ask for the answer to the last one",
                    ));
                }
            }
        }
        let mut record = self.record_or_new(now, &bundle.domain)?;
        let mut claims = bundle.local_domains;
        claims.sort_unstable();
        self.check_claims(record.key, &claims)?;
        trust_pin(&mut record.trust, bundle.pin)?;
        record.endpoints = bundle.endpoints;
        record.local_domains = claims;
        record.claimed_domains = None;
        record.keys_held = vec![bundle.api_key];
        record.allow_private_ips = allow_private_ips;
        record.state = PeerState::Active;
        record.invite = None;
        record.accepted = Some(bundle.nonce.clone());
        let answer = match bundle.in_reply_to {
            Some(_) => None,
            None => Some(Answer { api_key: issue(&mut record), in_reply_to: bundle.nonce }),
        };
        let key = record.key;
        self.save_peer(now, record);
        self.schedule_dial(now, key, true);
        Ok((AdminReply::Accepted { answer }, "ok".to_owned()))
    }

    fn add_peer(&mut self, now: Time, manual: ManualPeer) -> Done {
        let held = manual
            .api_key
            .as_deref()
            .map(ApiKey::parse)
            .transpose()
            .map_err(|e| invalid(format!("`api_key`: {e}")))?;
        let mut record = self.record_or_new(now, &manual.domain)?;
        let mut claims = manual.local_domains;
        claims.sort_unstable();
        self.check_claims(record.key, &claims)?;
        match (manual.pins.as_slice(), manual.ca_pem) {
            ([], Some(bundle_pem)) => record.trust = Trust::Ca { bundle_pem },
            ([current], None) => trust_pin(&mut record.trust, *current)?,
            ([current, next], None) => {
                trust_pin(&mut record.trust, *current)?;
                if let Trust::Pinned { pins } = &mut record.trust {
                    pins.announce(*next).map_err(|error| invalid(error.to_string()))?;
                }
            }
            ([_, _, _, ..], None) => {
                return Err(invalid("`pins`: at most two, the current one and the next"));
            }
            _ => {
                return Err(invalid(
                    "give either `pins` (or a certificate) or `ca_pem`, exactly one of them",
                ));
            }
        }
        if let Some(held) = held {
            record.keys_held = vec![held];
        }
        record.label = manual.label;
        record.endpoints = manual.endpoints;
        record.local_domains = claims;
        record.allow_private_ips = manual.allow_private_ips;
        record.state = if record.keys_held.is_empty() { PeerState::Invited } else { PeerState::Active };
        let api_key = issue(&mut record);
        let key = record.key;
        self.save_peer(now, record);
        self.schedule_dial(now, key, true);
        Ok((AdminReply::Added { api_key }, "ok".to_owned()))
    }

    /// A domain belongs to one deployment: nobody takes one over by claiming it.
    fn check_claims(&self, key: PeerKey, claims: &[LocalDomain]) -> Result<(), AdminError> {
        for claim in claims {
            let owner = Owner::Peer(key, claim.network.clone());
            if self.directory.claimed_by_other(&claim.domain, &owner) {
                return Err(conflict(format!(
                    "{} belongs to another deployment or to one of our networks",
                    claim.domain
                )));
            }
        }
        Ok(())
    }

    fn set_state(&mut self, now: Time, domain: &Domain, state: PeerState) -> Done {
        let mut record = self.record(domain)?;
        if record.state == PeerState::Invited {
            return Err(conflict("this peering is not complete: accept the peer's bundle first"));
        }
        record.state = state;
        self.save_peer(now, record);
        done()
    }

    fn resume_peer(&mut self, now: Time, domain: &Domain) -> Done {
        let reply = self.set_state(now, domain, PeerState::Active)?;
        let key = self.record(domain)?.key;
        let alarm = self.peers.get_mut(&key).and_then(|peer| peer.alarm.take());
        match alarm {
            Some(Alarm::PeerLost(_)) => self.allow_rewind(now, key, true),
            Some(Alarm::WeLost(_)) => self.new_epoch(now, key),
            None => {}
        }
        self.schedule_dial(now, key, true);
        Ok(reply)
    }

    /// Our sequence numbers towards a peer went back: under a new epoch it starts counting anew. Others are not
    /// concerned, whatever that one peer claims.
    fn new_epoch(&mut self, now: Time, key: PeerKey) {
        let Some(mut record) = self.directory.peer(key).cloned() else { return };
        record.restarts = record.restarts.saturating_add(1);
        self.save_peer(now, record);
        self.allow_rewind(now, key, true);
    }

    fn remove_peer(&mut self, now: Time, domain: &Domain) -> Done {
        let record = self.record(domain)?;
        let key = record.key;
        self.directory.remove_peer(key);
        self.delete(now, &Key::Peer(key));
        self.after_commit(now, After::DirectoryChanged);
        self.close_distrusted(now);
        self.timers.cancel(crate::timer::Timer::Dial(key));
        let Some(peer) = self.peers.get_mut(&key) else { return done() };
        peer.leaving = true;
        let waiting = peer.lanes.iter().map(|lane| lane.queue.depth).sum::<u64>();
        let jobs: Vec<_> = peer.lanes.iter().map(|lane| purge_of(&lane.queue)).collect();
        self.start_jobs(now, jobs);
        Ok((AdminReply::Count(waiting), format!("{waiting} purged")))
    }

    fn rotate_key(&mut self, now: Time, domain: &Domain) -> Done {
        let mut record = self.record(domain)?;
        let key = record.key;
        let down = || {
            conflict("the link is down: an API key is replaced over the live link; or exchange bundles again")
        };
        let peer = self.peers.get(&key).filter(|peer| peer.up).ok_or_else(down)?;
        let id = peer.link.ok_or_else(down)?;
        let link = self.links.get(&id).ok_or_else(down)?;
        if link.rotated {
            // Were a second one lost on the way, the peer would prove the first one, which is no longer good.
            return Err(conflict("a new API key went over this link already: the next link will use it"));
        }
        let proven =
            record.keys_issued.iter().find(|issued| Some(&issued.id) == link.proven_key.as_ref()).cloned();
        let old = proven.ok_or_else(down)?;
        let next = old.derive(&link.opened.binding.rotation, &ApiKey::generate().id);
        let next_key_id = next.id.clone();
        record.keys_issued = vec![old, next];
        if let Some(link) = self.links.get_mut(&id) {
            link.rotated = true;
        }
        self.save_peer(now, record);
        let keys = wire::Keys { next_certificate: bytes::Bytes::new(), next_key_id };
        self.after_commit(now, After::Send(id, wire::frame::Body::Keys(keys)));
        done()
    }

    fn retry(&mut self, now: Time, domain: Option<Domain>) -> Done {
        let keys = match domain {
            Some(domain) => vec![self.record(&domain)?.key],
            None => self.peers.keys().copied().collect(),
        };
        let mut dialed = 0;
        for key in keys {
            if self.peers.get(&key).is_some_and(|peer| !peer.up) {
                self.schedule_dial(now, key, true);
                dialed += 1;
            }
        }
        Ok((AdminReply::Count(dialed), format!("{dialed} dialled")))
    }

    fn purge(&mut self, now: Time, domain: &Domain, lane: Option<Lane>) -> Done {
        let key = self.record(domain)?.key;
        let mut count = 0;
        let mut jobs = Vec::new();
        for name in lanes().filter(|name| lane.is_none_or(|lane| lane == *name)) {
            let Some(peer) = self.peers.get_mut(&key) else { break };
            let out = peer.lane_mut(name);
            // What is in flight may have arrived: its acknowledgement decides.
            count += out.queue.depth - out.flight.len() as u64;
            jobs.push(purge_of(&out.queue));
        }
        self.start_jobs(now, jobs);
        Ok((AdminReply::Count(count), format!("{count} purged")))
    }

    // ------------------------------------------------------------ networks and tokens

    fn network_record(&self, id: &str) -> Result<NetworkRecord, AdminError> {
        let record = self.directory.network_by_id(id).cloned();
        record.ok_or_else(|| AdminError::NotFound { what: "network", name: id.to_owned() })
    }

    fn save_network(&mut self, now: Time, record: NetworkRecord) {
        self.put(now, &Key::Network(record.key), to_json(&record));
        self.directory.put_network(record);
        self.after_commit(now, After::DirectoryChanged);
    }

    fn add_network(&mut self, now: Time, spec: NetworkSpec) -> Done {
        if self.directory.network_by_id(spec.id.as_str()).is_some() {
            return Err(conflict(format!(
                "there is a network `{}` already: `network update` changes it",
                spec.id
            )));
        }
        let key = NetworkKey(self.next_network);
        let record = self.describe_network(key, spec, Vec::new())?;
        self.next_network += 1;
        self.save_counters(now);
        self.mailboxes.insert(key, Mailbox::new(key));
        self.save_network(now, record);
        done()
    }

    fn update_network(&mut self, now: Time, spec: NetworkSpec) -> Done {
        let old = self.network_record(spec.id.as_str())?;
        let record = self.describe_network(old.key, spec, old.tokens)?;
        self.save_network(now, record);
        done()
    }

    fn describe_network(
        &self,
        key: NetworkKey,
        spec: NetworkSpec,
        tokens: Vec<token::TokenHash>,
    ) -> Result<NetworkRecord, AdminError> {
        let NetworkSpec { id, label, mut local_domains, mut hidden_domains, mut policy, webhook } = spec;
        if policy.blocked.len() > BLOCKED_MAX {
            return Err(invalid(format!("`policy.blocked`: at most {BLOCKED_MAX} addresses")));
        }
        if policy.permitted.len() > PERMITTED_MAX {
            return Err(invalid(format!("`policy.permitted`: at most {PERMITTED_MAX} pairs")));
        }
        if let Some(webhook) = &webhook
            && !webhook.url.starts_with("https://")
            && !webhook.url.starts_with("http://")
        {
            return Err(invalid("`webhook.url`: expected http:// or https://"));
        }
        for domain in &local_domains {
            if self.directory.claimed_by_other(domain, &Owner::Local(key)) {
                return Err(conflict(format!("{domain} belongs to a peer or to another network")));
            }
        }
        local_domains.sort_unstable();
        local_domains.dedup();
        hidden_domains.sort_unstable();
        hidden_domains.dedup();
        if let Some(other) = hidden_domains.iter().find(|domain| local_domains.binary_search(domain).is_err())
        {
            return Err(invalid(format!(
                "`hidden_domains`: {other} is none of the network's local domains: add it to `local_domains`, or do not \
                 hide it"
            )));
        }
        let others = self.directory.networks().filter(|network| network.key != key);
        if others.map(|network| network.local_domains.len()).sum::<usize>() + local_domains.len() > CLAIMS_MAX
        {
            return Err(invalid(format!(
                "`local_domains`: at most {CLAIMS_MAX} in all networks: peers accept no more"
            )));
        }
        policy.normalise();
        Ok(NetworkRecord { key, id, label, local_domains, hidden_domains, tokens, policy, webhook })
    }

    fn remove_network(&mut self, now: Time, id: &str, purge: bool) -> Done {
        let record = self.network_record(id)?;
        let key = record.key;
        let waiting = self.mailboxes.get(&key).map_or(0, |mailbox| mailbox.inbox.depth);
        if waiting > 0 && !purge {
            return Err(conflict(format!(
                "{waiting} envelopes wait in its inbox: read them, or ask to purge them"
            )));
        }
        self.directory.remove_network(key);
        self.delete(now, &Key::Network(key));
        self.after_commit(now, After::DirectoryChanged);
        for stream in [Stream::Inbox { network: key }, Stream::Receipts { network: key }] {
            self.pending_appends(stream);
            let marks = self.queue_mut(stream).map(|queue| queue.marks()).unwrap_or_default();
            for first_seq in marks {
                self.delete(now, &Key::Gone(stream, first_seq));
            }
            self.op(now, Op::Clear { stream });
            self.delete(now, &Key::Position(stream));
        }
        if let Some(mailbox) = self.mailboxes.remove(&key) {
            self.resident_bytes -= mailbox.inbox.tail_bytes() + mailbox.receipts.tail_bytes();
            for waiting in mailbox.waiting {
                self.actions
                    .push_back(crate::core::Action::Reply(waiting.ticket, Reply::Records(Vec::new())));
            }
        }
        self.ids.retain(|id, _| !id.belongs_to(key));
        self.regrant();
        Ok((AdminReply::Count(waiting), format!("{waiting} purged")))
    }

    fn change_administrators(&mut self, now: Time, op: AdministratorOp) -> Done {
        let outcome = match &op {
            AdministratorOp::Add { role, .. } | AdministratorOp::Role { role, .. } => format!("ok, {role:?}"),
            _ => "ok".to_owned(),
        };
        match op.change(&self.directory, now)? {
            AdministratorChange::Put(record) => {
                self.put(now, &Key::Administrator(record.name.clone()), to_json(&record));
                self.directory.put_administrator(record);
            }
            AdministratorChange::Remove(name) => {
                self.directory.remove_administrator(&name);
                self.delete(now, &Key::Administrator(name));
            }
            AdministratorChange::Nothing => return Ok((AdminReply::Done, outcome)),
        }
        self.after_commit(now, After::DirectoryChanged);
        Ok((AdminReply::Done, outcome.to_lowercase()))
    }

    fn remove_token(&mut self, now: Time, label: &str) -> Done {
        let Some(entry) = self.directory.tokens().find(|entry| entry.label == label) else {
            return Err(AdminError::NotFound { what: "token", name: label.to_owned() });
        };
        let admins = self.directory.tokens().filter(|entry| entry.role == Role::Admin).count();
        if entry.role == Role::Admin && admins == 1 {
            return Err(conflict("this is the last token of role admin: add another one first"));
        }
        self.directory.remove_token(label);
        self.delete(now, &Key::Token(label.to_owned()));
        self.after_commit(now, After::DirectoryChanged);
        done()
    }
}

/// A pass that purges what is in a queue now.
fn purge_of(queue: &Queue) -> Job {
    Job { stream: queue.stream, why: Why::Purged, from: 0, to: queue.next_seq - 1 }
}

/// Issues a key to a peer; the oldest goes when there are too many.
fn issue(record: &mut PeerRecord) -> ApiKey {
    let key = ApiKey::generate();
    record.keys_issued.push(key.clone());
    let surplus = record.keys_issued.len().saturating_sub(KEYS_LIVE_MAX);
    record.keys_issued.drain(..surplus);
    key
}

/// Trusts a pin as the current one; a peer in CA mode becomes pinned.
fn trust_pin(trust: &mut Trust, pin: Pin) -> Result<(), AdminError> {
    if let Trust::Ca { .. } = trust {
        *trust = Trust::Pinned { pins: PinSet::default() };
    }
    if let Trust::Pinned { pins } = trust {
        if pins.accepts(pin) {
            return Ok(());
        }
        pins.replace(pin).map_err(|error| invalid(error.to_string()))?;
    }
    Ok(())
}

/// Verb and target of a request, for the audit log.
fn describe(op: &AdminOp) -> (&'static str, String) {
    let (action, target) = match op {
        AdminOp::PeerInvite { domain, .. } => ("peer.invite", domain.as_str()),
        AdminOp::PeerAccept { bundle, .. } => ("peer.accept", bundle.domain.as_str()),
        AdminOp::PeerAdd(peer) => ("peer.add", peer.domain.as_str()),
        AdminOp::PeerPause(domain) => ("peer.pause", domain.as_str()),
        AdminOp::PeerResume(domain) => ("peer.resume", domain.as_str()),
        AdminOp::PeerRemove(domain) => ("peer.remove", domain.as_str()),
        AdminOp::PeerRotateKey(domain) => ("peer.rotate-key", domain.as_str()),
        AdminOp::PeerRetireKeys(domain) => ("peer.retire-keys", domain.as_str()),
        AdminOp::PeerRevokePin(domain, _) => ("peer.revoke-pin", domain.as_str()),
        AdminOp::PeerApproveDomains(domain) => ("peer.approve-domains", domain.as_str()),
        AdminOp::NetworkAdd(spec) => ("network.add", spec.id.as_str()),
        AdminOp::NetworkUpdate(spec) => ("network.update", spec.id.as_str()),
        AdminOp::NetworkRemove { id, .. } => ("network.remove", id.as_str()),
        AdminOp::NetworkToken { id, .. } => ("network.token", id.as_str()),
        AdminOp::TokenAdd { label, .. } => ("token.add", label.as_str()),
        AdminOp::TokenRemove(label) => ("token.remove", label.as_str()),
        AdminOp::Administrator(op) => op.describe(),
        AdminOp::Settings(_) => ("settings.change", "console"),
        AdminOp::OutboxRetry(domain) => ("outbox.retry", domain.as_ref().map_or("all", Domain::as_str)),
        AdminOp::OutboxPurge { domain, .. } => ("outbox.purge", domain.as_str()),
        AdminOp::IdentityAnnounce { .. } | AdminOp::IdentityKeep { .. } => ("identity.announce", "all"),
        AdminOp::Note { action, target } => (*action, target.as_str()),
        AdminOp::IdentityActivate { pin } => return ("identity.activate", pin.to_string()),
    };
    (action, target.to_owned())
}

fn done() -> Done {
    Ok((AdminReply::Done, "ok".to_owned()))
}

fn invalid(text: impl Into<String>) -> AdminError {
    AdminError::Invalid(text.into())
}

fn conflict(text: impl Into<String>) -> AdminError {
    AdminError::Conflict(text.into())
}
