//! Who is who: the peers, networks and administrators an operator set up, as records that rest in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_common::token::TokenHash;

use crate::administrator::Administrator;
use crate::identity::PemPairs;
use crate::key::ApiKey;
use crate::pin::PinSet;
use crate::policy::Policy;
use crate::settings::Overrides;
use crate::state::{StateError, from_json};
use crate::store::{NetworkKey, PeerKey};
use crate::time::Time;

/// A local domain, and the network its users belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalDomain {
    /// The part after `@`.
    pub domain: Domain,
    /// Whose users these are.
    pub network: NetworkId,
}

/// How a peer's certificate is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Trust {
    /// By its key. Expiry and extended key usage do not matter.
    Pinned {
        /// Which keys. Empty until the peer's bundle was accepted.
        pins: PinSet,
    },
    /// By a chain to these authorities and the federation domain in the subject alternative name.
    Ca {
        /// PEM certificates.
        bundle_pem: String,
    },
}

/// How far a peering has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// We wrote a bundle for them; theirs is not here yet.
    Invited,
    /// Both sides' details are here: links are dialled and accepted.
    Active,
    /// The operator stopped it; envelopes wait.
    Paused,
}

/// A peer deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its number in this store.
    pub key: PeerKey,
    /// Its federation domain.
    pub domain: Domain,
    /// Operator's note.
    #[serde(default)]
    pub label: String,
    /// How far the peering has come.
    pub state: PeerState,
    /// Whose certificate it may show.
    pub trust: Trust,
    /// `host:port`, tried in order. Empty: DNS SRV `_trunkline._udp.<domain>`.
    pub endpoints: Vec<String>,
    /// Counts the times our sequence numbers towards it started anew, because our store had gone back.
    #[serde(default)]
    pub restarts: u32,
    /// Its users' domains, as we approved them.
    pub local_domains: Vec<LocalDomain>,
    /// A changed claim that waits for the operator.
    #[serde(default)]
    pub claimed_domains: Option<Vec<LocalDomain>>,
    /// Keys we issued: the peer proves one of them. At most two live.
    pub keys_issued: Vec<ApiKey>,
    /// Keys issued to us: we prove the last one.
    pub keys_held: Vec<ApiKey>,
    /// Whether private, loopback and link-local addresses may be dialled.
    #[serde(default)]
    pub allow_private_ips: bool,
    /// When the operator added it.
    pub added: Time,
    /// The invitation that is still open.
    #[serde(default)]
    pub invite: Option<Invite>,
    /// Nonce of the bundle that was accepted last: it is good once.
    #[serde(default)]
    pub accepted: Option<String>,
}

impl PeerRecord {
    /// A peer of which only its domain is known.
    #[must_use]
    pub fn new(key: PeerKey, domain: Domain, added: Time) -> Self {
        Self {
            key,
            domain,
            label: String::new(),
            state: PeerState::Invited,
            trust: Trust::Pinned { pins: PinSet::default() },
            endpoints: Vec::new(),
            restarts: 0,
            local_domains: Vec::new(),
            claimed_domains: None,
            keys_issued: Vec::new(),
            keys_held: Vec::new(),
            allow_private_ips: false,
            added,
            invite: None,
            accepted: None,
        }
    }
}

/// An invitation that was written and not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The answering bundle repeats it.
    pub nonce: String,
    /// After this the answer is refused.
    pub expires: Time,
}

/// A network (tenant) of this deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its number in this store.
    pub key: NetworkKey,
    /// Its id.
    pub id: NetworkId,
    /// Operator's note.
    #[serde(default)]
    pub label: String,
    /// Its users' domains.
    pub local_domains: Vec<Domain>,
    /// Those of them that only administrators of role `admin` see.
    #[serde(default)]
    pub hidden_domains: Vec<Domain>,
    /// Tokens that open its local API. Two during a rotation.
    pub tokens: Vec<TokenHash>,
    /// Whom it talks to.
    pub policy: Policy,
    /// Where envelopes are pushed to, when they are.
    #[serde(default)]
    pub webhook: Option<Webhook>,
}

/// Where a network wants its envelopes pushed to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// `http://` or `https://`.
    pub url: String,
    /// Key of the HMAC-SHA256 signature header.
    pub secret: String,
}

/// What an administrator may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Also pause, resume, retry, purge.
    Operator,
    /// Also change whom this deployment trusts.
    Admin,
}

/// An admin API token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminToken {
    /// What the operator calls it; unique.
    pub label: String,
    /// What it is stored as.
    pub hash: TokenHash,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created: Time,
}

/// Everything above, with the look-ups that submission and acceptance need.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    peers: BTreeMap<PeerKey, PeerRecord>,
    networks: BTreeMap<NetworkKey, NetworkRecord>,
    tokens: BTreeMap<String, AdminToken>,
    administrators: BTreeMap<String, Administrator>,
    settings: Overrides,
    identity: Option<Arc<PemPairs>>,
    /// Whose users have this domain.
    domains: HashMap<Domain, Owner>,
}

/// A directory's content. Fields are only added, with a default: replicas of two releases exchange it.
#[derive(Serialize, Deserialize)]
struct Records {
    peers: Vec<PeerRecord>,
    networks: Vec<NetworkRecord>,
    tokens: Vec<AdminToken>,
    administrators: Vec<Administrator>,
    settings: Overrides,
    #[serde(default)]
    identity: Option<PemPairs>,
}

/// Whose users have a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A network of this deployment.
    Local(NetworkKey),
    /// A network of a peer, by our approval.
    Peer(PeerKey, NetworkId),
}

impl Directory {
    /// All of it, for another process of the same deployment: with secrets.
    ///
    /// # Panics
    /// Never: records have string keys only.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let records = Records {
            peers: self.peers.values().cloned().collect(),
            networks: self.networks.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            administrators: self.administrators.values().cloned().collect(),
            settings: self.settings,
            identity: self.identity.as_deref().cloned(),
        };
        serde_json::to_vec(&records).expect("records have string keys only")
    }

    /// From what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(json: &[u8]) -> Result<Self, StateError> {
        let Records { peers, networks, tokens, administrators, settings, identity } =
            from_json("directory", json)?;
        let mut directory = Self { settings, identity: identity.map(Arc::new), ..Self::default() };
        peers.into_iter().for_each(|peer| directory.recover_peer(peer));
        networks.into_iter().for_each(|network| directory.recover_network(network));
        tokens.into_iter().for_each(|token| directory.put_token(token));
        administrators.into_iter().for_each(|administrator| directory.put_administrator(administrator));
        directory.index_domains();
        Ok(directory)
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = &PeerRecord> {
        self.peers.values()
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkRecord> {
        self.networks.values()
    }

    /// All admin tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &AdminToken> {
        self.tokens.values()
    }

    /// All administrators of the console.
    pub fn administrators(&self) -> impl Iterator<Item = &Administrator> {
        self.administrators.values()
    }

    /// An administrator by name.
    #[must_use]
    pub fn administrator(&self, name: &str) -> Option<&Administrator> {
        self.administrators.get(name)
    }

    /// What takes the place of the configuration file's settings.
    #[must_use]
    pub fn settings(&self) -> &Overrides {
        &self.settings
    }

    /// Our own key pairs, once replicas share them; else each gateway has them in files.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<PemPairs>> {
        self.identity.as_ref()
    }

    /// A peer by number.
    #[must_use]
    pub fn peer(&self, key: PeerKey) -> Option<&PeerRecord> {
        self.peers.get(&key)
    }

    /// A peer by federation domain.
    #[must_use]
    pub fn peer_by_domain(&self, domain: &str) -> Option<&PeerRecord> {
        self.peers.values().find(|peer| peer.domain.as_str() == domain)
    }

    /// A network by number.
    #[must_use]
    pub fn network(&self, key: NetworkKey) -> Option<&NetworkRecord> {
        self.networks.get(&key)
    }

    /// A network by id.
    #[must_use]
    pub fn network_by_id(&self, id: &str) -> Option<&NetworkRecord> {
        self.networks.values().find(|network| network.id.as_str() == id)
    }

    /// The network whose token this is.
    #[must_use]
    pub fn network_by_token(&self, token: &str) -> Option<&NetworkRecord> {
        let hash = TokenHash::of(token);
        self.networks.values().find(|network| network.tokens.contains(&hash))
    }

    /// The admin token of this hash.
    #[must_use]
    pub fn token_by_hash(&self, hash: &TokenHash) -> Option<&AdminToken> {
        self.tokens.values().find(|entry| entry.hash == *hash)
    }

    /// Whose users have this domain; it must be in lower case.
    #[must_use]
    pub fn owner(&self, domain: &str) -> Option<&Owner> {
        self.domains.get(domain)
    }

    /// What this deployment claims in its HELLO and bundles.
    #[must_use]
    pub fn local_domains(&self) -> Vec<LocalDomain> {
        let of = |network: &NetworkRecord| {
            let id = network.id.clone();
            network
                .local_domains
                .iter()
                .map(move |domain| LocalDomain { domain: domain.clone(), network: id.clone() })
                .collect::<Vec<_>>()
        };
        self.networks.values().flat_map(of).collect()
    }

    /// Adds or replaces a peer.
    pub fn put_peer(&mut self, peer: PeerRecord) {
        self.peers.insert(peer.key, peer);
        self.index_domains();
    }

    /// Takes over a peer that the store holds; [`Directory::index_domains`] follows when all are there.
    pub(crate) fn recover_peer(&mut self, peer: PeerRecord) {
        self.peers.insert(peer.key, peer);
    }

    /// Takes over a network that the store holds, likewise.
    pub(crate) fn recover_network(&mut self, network: NetworkRecord) {
        self.networks.insert(network.key, network);
    }

    /// Removes a peer.
    pub fn remove_peer(&mut self, key: PeerKey) -> Option<PeerRecord> {
        let removed = self.peers.remove(&key);
        self.index_domains();
        removed
    }

    /// Adds or replaces a network.
    pub fn put_network(&mut self, network: NetworkRecord) {
        self.networks.insert(network.key, network);
        self.index_domains();
    }

    /// Removes a network.
    pub fn remove_network(&mut self, key: NetworkKey) -> Option<NetworkRecord> {
        let removed = self.networks.remove(&key);
        self.index_domains();
        removed
    }

    /// Adds or replaces an admin token.
    pub fn put_token(&mut self, token: AdminToken) {
        self.tokens.insert(token.label.clone(), token);
    }

    /// Removes an admin token.
    pub fn remove_token(&mut self, label: &str) -> Option<AdminToken> {
        self.tokens.remove(label)
    }

    /// Adds or replaces an administrator.
    pub fn put_administrator(&mut self, administrator: Administrator) {
        self.administrators.insert(administrator.name.clone(), administrator);
    }

    /// Removes an administrator.
    pub fn remove_administrator(&mut self, name: &str) -> Option<Administrator> {
        self.administrators.remove(name)
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Overrides) {
        self.settings = settings;
    }

    /// Replaces our own key pairs.
    pub(crate) fn set_identity(&mut self, identity: Arc<PemPairs>) {
        self.identity = Some(identity);
    }

    /// Who owns a domain other than the one asking, as text for an error.
    #[must_use]
    pub fn claimed_by_other(&self, domain: &Domain, except: &Owner) -> bool {
        match (self.domains.get(domain), except) {
            (None, _) => false,
            (Some(Owner::Local(a)), Owner::Local(b)) => a != b,
            (Some(Owner::Peer(a, _)), Owner::Peer(b, _)) => a != b,
            _ => true,
        }
    }

    /// A local network wins over a peer, an older peer over a newer one: nobody can take a domain over by
    /// claiming it later.
    pub(crate) fn index_domains(&mut self) {
        self.domains.clear();
        for peer in self.peers.values().rev() {
            for claim in &peer.local_domains {
                self.domains.insert(claim.domain.clone(), Owner::Peer(peer.key, claim.network.clone()));
            }
        }
        for network in self.networks.values() {
            for domain in &network.local_domains {
                self.domains.insert(domain.clone(), Owner::Local(network.key));
            }
        }
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("url", &self.url).finish_non_exhaustive()
    }
}
