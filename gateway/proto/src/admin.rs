//! What an operator can ask of the core. Every call is authorised by role before it comes here, carried out in
//! one commit together with its audit entry, and answered when that is durable.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_common::token::TokenHash;

use crate::administrator::AdministratorOp;
use crate::bundle::Bundle;
use crate::directory::{LocalDomain, PeerState, Role, Webhook};
use crate::identity::PemPair;
use crate::key::ApiKey;
use crate::pin::{Pin, PinEntry};
use crate::policy::Policy;
use crate::settings::SettingsChange;
use crate::store::Lane;
use crate::time::Time;

/// One thing an operator asks for.
#[derive(Clone, Debug)]
pub enum AdminOp {
    /// Issue a key to a peer and remember that it was invited; the shell writes the bundle from the answer.
    PeerInvite {
        /// Its federation domain.
        domain: Domain,
        /// When the invitation ends.
        expires: Time,
    },
    /// Trust a bundle. Its signature and expiry were checked. Answers [`AdminReply::Accepted`].
    PeerAccept {
        /// What the other operator sent.
        bundle: Box<Bundle>,
        /// Whether its private, loopback and link-local addresses may be dialled.
        allow_private_ips: bool,
    },
    /// Add a peer, or replace the details of one, by hand.
    PeerAdd(Box<ManualPeer>),
    /// Stop a peering: links close, envelopes wait.
    PeerPause(Domain),
    /// Continue a peering, also after a watermark alarm: what the peer lost is skipped then.
    PeerResume(Domain),
    /// End a peering: links close, waiting envelopes are purged (with receipts).
    PeerRemove(Domain),
    /// Replace the API key we issued, over the live link. Both are good until the new one was used.
    PeerRotateKey(Domain),
    /// Drop all keys but the newest, at once.
    PeerRetireKeys(Domain),
    /// Never accept this pin again; links that use it close.
    PeerRevokePin(Domain, Pin),
    /// Approve the peer's changed claim of local domains.
    PeerApproveDomains(Domain),
    /// Add a network.
    NetworkAdd(Box<NetworkSpec>),
    /// Change a network: its label, local domains, policy and webhook become these.
    NetworkUpdate(Box<NetworkSpec>),
    /// Remove a network. Its inbox must be empty unless `purge`.
    NetworkRemove {
        /// Which.
        id: NetworkId,
        /// Whether waiting envelopes may be lost.
        purge: bool,
    },
    /// Add a token to a network; the oldest goes when there are two.
    NetworkToken {
        /// Which.
        id: NetworkId,
        /// Of the token that the shell made.
        token: TokenHash,
    },
    /// Add an admin token.
    TokenAdd {
        /// Unique.
        label: String,
        /// Of the token that the shell made.
        token: TokenHash,
        /// What it may do.
        role: Role,
    },
    /// Remove an admin token. The last one of role `admin` stays.
    TokenRemove(String),
    /// Change who may log in to the console.
    Administrator(AdministratorOp),
    /// Change settings.
    Settings(SettingsChange),
    /// Dial a peer now, whatever its back-off says; all of them when `None`.
    OutboxRetry(Option<Domain>),
    /// Throw away what waits for a peer, with receipts.
    OutboxPurge {
        /// For whom.
        domain: Domain,
        /// One lane, or all.
        lane: Option<Lane>,
    },
    /// Announce the certificate that will be used next to all peers.
    IdentityAnnounce {
        /// Its DER.
        certificate: bytes::Bytes,
    },
    /// The same, with the pairs kept in the store, which replicas share. What it has already counts before what is given.
    IdentityKeep {
        /// In use.
        current: PemPair,
        /// Used next.
        next: PemPair,
    },
    /// A line for the audit log about something the shell did itself, such as a lock-out.
    Note {
        /// Verb, for example `login.lockout`.
        action: &'static str,
        /// On what.
        target: String,
    },
    /// The announced certificate is in use from now on, from the store where that keeps the pairs: nothing is announced
    /// any more.
    IdentityActivate {
        /// Its pin.
        pin: Pin,
    },
}

/// A peer added by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualPeer {
    /// Its federation domain.
    pub domain: Domain,
    /// Operator's note.
    #[serde(default)]
    pub label: String,
    /// Pins of its certificates (the shell reads them from PEM): the current one, then perhaps the next.
    #[serde(default)]
    pub pins: Vec<Pin>,
    /// PEM of its authorities: CA mode. Exactly one of `pins` and `ca_pem` is given.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// The API key its operator issued to us, as text.
    #[serde(default)]
    pub api_key: Option<String>,
    /// `host:port`; empty for DNS SRV.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Its users' domains.
    #[serde(default)]
    pub local_domains: Vec<LocalDomain>,
    /// Whether its private, loopback and link-local addresses may be dialled.
    #[serde(default)]
    pub allow_private_ips: bool,
}

/// A network as the operator describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its id.
    pub id: NetworkId,
    /// Operator's note.
    #[serde(default)]
    pub label: String,
    /// Its users' domains.
    #[serde(default)]
    pub local_domains: Vec<Domain>,
    /// Those of them that only administrators of role `admin` see.
    #[serde(default)]
    pub hidden_domains: Vec<Domain>,
    /// Whom it talks to.
    #[serde(default)]
    pub policy: Policy,
    /// Where envelopes are pushed to, when they are.
    #[serde(default)]
    pub webhook: Option<Webhook>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum AdminReply {
    /// Done.
    Done,
    /// An invitation was recorded: what the bundle must carry beside our identity.
    Invited {
        /// Issued to the peer.
        api_key: ApiKey,
        /// The answer repeats it.
        nonce: String,
        /// When it ends.
        expires: Time,
    },
    /// A peer's bundle was trusted.
    Accepted {
        /// When the bundle was an invitation: what the answering bundle must carry.
        answer: Option<Answer>,
    },
    /// A peer was added by hand: the key issued to it, to be handed over.
    Added {
        /// Issued to the peer.
        api_key: ApiKey,
    },
    /// So many were concerned (purged envelopes, peers dialled).
    Count(u64),
}

/// What an answering bundle must carry beside our identity.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Issued to the peer.
    pub api_key: ApiKey,
    /// Of the invitation.
    pub in_reply_to: String,
}

/// Why an operator's request was not carried out. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// There is no such thing.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `peer`, `network`, `token`, `administrator`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// It clashes with what is there.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be done as asked.
    #[error("{0}")]
    Invalid(String),
}

/// A peer as the admin API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Its federation domain.
    pub domain: Domain,
    /// Operator's note.
    pub label: String,
    /// How far the peering has come.
    pub state: PeerState,
    /// `down`, `connecting`, `up`, `alarm`.
    pub link: LinkState,
    /// `quic` or `tcp`, when up.
    pub transport: Option<String>,
    /// Since when `link` is what it is.
    pub since: Time,
    /// The last thing that went wrong, and whose fault it was.
    pub last_error: Option<String>,
    /// When it is dialled next, when down.
    pub next_dial: Option<Time>,
    /// `pinned` or `ca`.
    pub trust: String,
    /// Pins and their states.
    pub pins: Vec<PinEntry>,
    /// Ids of the keys we issued, oldest first.
    pub keys_issued: Vec<String>,
    /// Ids of the keys issued to us, oldest first.
    pub keys_held: Vec<String>,
    /// Whether the peer has stored our next certificate; `None` when none is announced.
    pub next_certificate_ready: Option<bool>,
    /// `host:port`.
    pub endpoints: Vec<String>,
    /// Its users' domains, as approved.
    pub local_domains: Vec<LocalDomain>,
    /// A changed claim that waits for approval.
    pub claimed_domains: Option<Vec<LocalDomain>>,
    /// Whether private addresses may be dialled.
    pub allow_private_ips: bool,
    /// What waits for it.
    pub outbox: QueueView,
    /// Envelopes acknowledged by it since this process started.
    pub sent: u64,
    /// Envelopes accepted from it since this process started.
    pub received: u64,
    /// Envelopes it refused, since this process started.
    pub refused: u64,
    /// From submission to acknowledgement, of late, in milliseconds; `None` when nothing was acknowledged for a minute.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Its lanes in which something waits or is under way.
    #[serde(default)]
    pub lanes: Vec<LaneView>,
    /// What left otherwise than by acknowledgement, and what of the peer's was refused, since this process started; the
    /// most recent first.
    #[serde(default)]
    pub departures: Vec<Departure>,
}

/// A lane as the admin API shows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LaneView {
    /// Which.
    pub lane: Lane,
    /// What waits in it.
    #[serde(flatten)]
    pub queue: QueueView,
    /// How many of these were sent and not acknowledged.
    pub in_flight: u64,
}

/// Envelopes that became something else than delivered, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// What became of them.
    pub outcome: Departed,
    /// Why: a name of this program, never content.
    pub reason: Cow<'static, str>,
    /// How many.
    pub count: u64,
    /// When the last of them.
    pub last: Time,
}

/// What becomes of envelopes that are not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Departed {
    /// By the peer.
    Refused,
    /// They waited too long.
    Expired,
    /// By an operator.
    Purged,
    /// The peer's own, by us.
    Rejected,
}

/// State of the link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No connection.
    Down,
    /// Dialled, or connected and not proven yet.
    Connecting,
    /// Envelopes flow.
    Up,
    /// Stopped: a watermark went backwards. Only an operator's resume goes on.
    Alarm,
}

/// A queue as the admin API shows it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct QueueView {
    /// Envelopes.
    pub depth: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was submitted.
    pub oldest: Option<Time>,
}

/// A network as the admin API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkView {
    /// What the operator set.
    #[serde(flatten)]
    pub spec: NetworkSpec,
    /// Live tokens.
    pub tokens: usize,
    /// Envelopes waiting for its messaging server.
    pub inbox: QueueView,
    /// Receipts waiting for its messaging server.
    pub receipts: QueueView,
}

/// Everything the admin API shows of the core at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// Our federation domain.
    pub domain: Domain,
    /// When.
    pub at: Time,
    /// All peers.
    pub peers: Vec<PeerView>,
    /// All networks.
    pub networks: Vec<NetworkView>,
    /// What left or entered, since this process started.
    pub totals: Totals,
}

/// Counters since this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Envelopes queued for peers.
    pub submitted: u64,
    /// Submitted again and recognised.
    pub duplicate_submits: u64,
    /// Left by acknowledgement.
    pub delivered: u64,
    /// Left by expiry.
    pub expired: u64,
    /// Left by a peer's refusal.
    pub refused: u64,
    /// Left by an operator's purge.
    pub purged: u64,
    /// Accepted from peers.
    pub received: u64,
    /// Refused to peers.
    pub rejected: u64,
    /// Received again and dropped by watermark.
    pub duplicates: u64,
    /// Delivered between networks of this deployment.
    pub local: u64,
    /// Commits made.
    pub commits: u64,
}
