//! The peering bundle: how two operators introduce their deployments to each other.

use serde::{Deserialize, Serialize};
use trunkline_common::ids::Domain;

use crate::directory::LocalDomain;
use crate::key::ApiKey;
use crate::pin::Pin;
use crate::time::Time;

/// What one operator's gateway wrote for the other's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Whose bundle this is.
    pub domain: Domain,
    /// For whom it was written: another gateway refuses it.
    pub audience: Domain,
    /// Its users' domains.
    pub local_domains: Vec<LocalDomain>,
    /// `host:port`, tried in order.
    pub endpoints: Vec<String>,
    /// Its certificate in PEM.
    pub certificate: String,
    /// The certificate's pin, for people to compare.
    pub pin: Pin,
    /// The API key issued to the audience: a secret.
    pub api_key: ApiKey,
    /// When it ends.
    pub expires: Time,
    /// Random; an answer repeats it.
    pub nonce: String,
    /// The invitation's nonce, when this is an answer.
    #[serde(default)]
    pub in_reply_to: Option<String>,
}
