//! The way in from a messaging server: checked, split by destination, given a place in a lane, and answered
//! once all of it is on the disk.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use trunkline_common::token;

use crate::core::{After, Core, IdKey, Reply, Ticket};
use crate::directory::{NetworkRecord, Owner, PeerState};
use crate::envelope::{EnvelopeError, View};
use crate::lane::lane_of;
use crate::policy::Other;
use crate::receipt::refusal_name;
use crate::store::{Head, NetworkKey, PeerKey, Record, Stream};
use crate::time::Time;
use crate::wire;

/// Why nothing of a submission was accepted: the problem's name, and a sentence.
struct Problem(&'static str, String);

/// Recipients of one submission that go the same way.
struct Group {
    owner: Destination,
    domain: String,
    to: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    Peer(PeerKey),
    Local(NetworkKey),
}

impl Core {
    /// A messaging server submits envelopes for its network: one result each, when all are durable.
    pub fn submit(&mut self, now: Time, ticket: Ticket, network: NetworkKey, batch: Vec<wire::Submission>) {
        let results = match self.directory.network(network).cloned() {
            Some(record) => {
                batch.into_iter().map(|submission| self.submit_one(now, &record, submission)).collect()
            }
            None => vec![
                rejected(Bytes::new(), &Problem("malformed", "this network was removed".into()));
                batch.len()
            ],
        };
        self.after_commit(now, After::Reply(ticket, Reply::Submitted(results)));
    }

    fn submit_one(
        &mut self,
        now: Time,
        network: &NetworkRecord,
        mut submission: wire::Submission,
    ) -> wire::SubmitResult {
        if submission.id.is_empty() {
            submission.id = Bytes::copy_from_slice(uuid_v4(token::random()).as_slice());
        }
        let id = submission.id.clone();
        match self.place(now, network, submission) {
            Ok(result) => result,
            Err(problem) => rejected(id, &problem),
        }
    }

    fn place(
        &mut self,
        now: Time,
        network: &NetworkRecord,
        submission: wire::Submission,
    ) -> Result<wire::SubmitResult, Problem> {
        self.check(network, &submission)?;
        self.forget_read_ids(now);
        let id = <[u8; 16]>::try_from(&submission.id[..]).expect("checked");
        if self.ids.contains_key(&IdKey::new(network.key, id)) {
            self.totals.duplicate_submits += 1;
            return Ok(wire::SubmitResult {
                id: submission.id,
                duplicate: true,
                ..wire::SubmitResult::default()
            });
        }
        if self.storage_low {
            return Err(Problem(
                "disk-full",
                "free disk space is below the reserve: free some, then submit again".into(),
            ));
        }
        let (groups, refused) = self.group(network, &submission);
        let ttl = match submission.ttl_s {
            0 => self.retention(),
            seconds => Duration::from_secs(seconds).min(self.retention()),
        };
        let key = if submission.conversation.is_empty() {
            submission.from.as_str()
        } else {
            submission.conversation.as_str()
        };
        let lane = lane_of(network.id.as_str(), key);
        let head = Head { id, network: network.key, expires: now + ttl, at: now };
        let mut result = wire::SubmitResult {
            id: submission.id.clone(),
            rejected: refused,
            ..wire::SubmitResult::default()
        };
        for Group { owner, domain, to } in groups {
            let recipients = u32::try_from(to.len()).expect("at most RECIPIENTS_MAX");
            let size = submission.payload.len() as u64;
            let over = match owner {
                Destination::Peer(peer) => self
                    .peers
                    .get(&peer)
                    .is_some_and(|p| p.outbox_bytes() + size > self.config.peer_quota_bytes),
                Destination::Local(local) => self
                    .mailboxes
                    .get(&local)
                    .is_some_and(|m| m.inbox.bytes + size > self.config.inbox_quota_bytes),
            };
            if over {
                result
                    .rejected
                    .extend(to.into_iter().map(|to| wire::Rejected { to, reason: "quota".into() }));
                continue;
            }
            let envelope = wire::Envelope {
                id: submission.id.clone(),
                from: submission.from.clone(),
                to,
                kind: submission.kind,
                conversation: submission.conversation.clone(),
                network: network.id.as_str().to_owned(),
                guest: submission.guest,
                payload: submission.payload.clone(),
            };
            let body = Bytes::from(envelope.encode_to_vec());
            self.remember(network.key, id);
            match owner {
                Destination::Peer(peer) => {
                    self.totals.submitted += 1;
                    self.append(now, Stream::Outbox { peer, lane }, Record { head, body });
                }
                Destination::Local(local) => {
                    self.totals.local += 1;
                    self.append(now, Stream::Inbox { network: local }, Record { head, body });
                    self.receipt(now, network.key, id, envelope.to, wire::State::Delivered, "");
                }
            }
            result.accepted.push(wire::Accepted { domain, recipients });
        }
        if result.accepted.is_empty() {
            let reason =
                result.rejected.first().map_or("unknown-domain", |rejected| problem_named(&rejected.reason));
            result.problem = reason.to_owned();
            result.detail = explain(reason).to_owned();
        }
        Ok(result)
    }

    fn check(&self, network: &NetworkRecord, submission: &wire::Submission) -> Result<(), Problem> {
        let view = View {
            id: &submission.id,
            from: &submission.from,
            to: submission.to.iter().map(String::as_str).collect(),
            kind: submission.kind,
            conversation: &submission.conversation,
            network: network.id.as_str(),
            guest: submission.guest,
            payload_bytes: submission.payload.len(),
        };
        view.check(self.config.payload_bytes_max).map_err(|error| match error {
            EnvelopeError::Payload => Problem(
                "too-large",
                format!("`payload`: at most {} bytes are accepted", self.config.payload_bytes_max),
            ),
            other => Problem("malformed", other.to_string()),
        })?;
        let domain = submission.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        match self.owner_of(domain) {
            Some(Owner::Local(owner)) if *owner == network.key => Ok(()),
            _ => Err(Problem("sender-domain", explain("sender-domain").to_owned())),
        }
    }

    /// Groups recipients by destination, and sorts out those that policy or the directory keeps from it.
    fn group(
        &self,
        network: &NetworkRecord,
        submission: &wire::Submission,
    ) -> (Vec<Group>, Vec<wire::Rejected>) {
        let mut groups: Vec<Group> = Vec::with_capacity(1);
        let mut refused = Vec::new();
        for to in &submission.to {
            match self.route(network, submission, to) {
                Ok((owner, domain)) => match groups.iter_mut().find(|group| group.owner == owner) {
                    Some(group) => group.to.push(to.clone()),
                    None => groups.push(Group { owner, domain, to: vec![to.clone()] }),
                },
                Err(reason) => refused.push(wire::Rejected { to: to.clone(), reason: reason.to_owned() }),
            }
        }
        (groups, refused)
    }

    fn route(
        &self,
        network: &NetworkRecord,
        submission: &wire::Submission,
        to: &str,
    ) -> Result<(Destination, String), &'static str> {
        let domain = to.rsplit_once('@').map_or("", |(_, domain)| domain);
        let guest = submission.guest;
        match self.owner_of(domain).ok_or("unknown-domain")? {
            Owner::Peer(key, remote) => {
                let peer = self.directory.peer(*key).ok_or("unknown-domain")?;
                if peer.state == PeerState::Invited {
                    return Err("unknown-domain");
                }
                let other =
                    Other { domain: peer.domain.as_str(), network: remote.as_str(), address: to, guest };
                network.policy.allows(other).map_err(refusal_name)?;
                Ok((Destination::Peer(*key), peer.domain.as_str().to_owned()))
            }
            Owner::Local(key) => {
                let local = self.directory.network(*key).ok_or("unknown-domain")?;
                let us = self.config.domain.as_str();
                if local.key != network.key {
                    let there = Other { domain: us, network: local.id.as_str(), address: to, guest };
                    network.policy.allows(there).map_err(refusal_name)?;
                    let here =
                        Other { domain: us, network: network.id.as_str(), address: &submission.from, guest };
                    local.policy.allows(here).map_err(refusal_name)?;
                }
                Ok((Destination::Local(*key), us.to_owned()))
            }
        }
    }
}

fn rejected(id: Bytes, problem: &Problem) -> wire::SubmitResult {
    let Problem(name, detail) = problem;
    wire::SubmitResult {
        id,
        problem: (*name).to_owned(),
        detail: detail.clone(),
        ..wire::SubmitResult::default()
    }
}

/// The problem that a rejected recipient's reason makes when nobody was accepted.
fn problem_named(reason: &str) -> &'static str {
    let known = ["quota", "federation-disabled", "not-permitted", "guest", "blocked", "sender-domain"];
    known.into_iter().find(|name| *name == reason).unwrap_or("unknown-domain")
}

fn explain(problem: &str) -> &'static str {
    match problem {
        "quota" => {
            "too much is waiting for this peer already: wait until it is back, or raise `limits.peer_quota`"
        }
        "federation-disabled" => {
            "this network does not federate: its operator can change `policy.federation`"
        }
        "not-permitted" => {
            "federation is restricted, and the other network is not permitted: see `policy.permitted`"
        }
        "guest" => "guests may not write across this border: see `policy.allow_guests`",
        "blocked" => "this address is blocked by the network's policy",
        "sender-domain" => "`from`: its domain is not one of this network's local domains",
        _ => "`to`: no network and no peer has this domain; `peer list` shows the domains of each peer",
    }
}

/// Random bytes as a UUID (RFC 9562, section 5.4).
fn uuid_v4(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}
