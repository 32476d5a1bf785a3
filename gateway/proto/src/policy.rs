//! Who may write to whom. The sender's gateway asks at submission, the receiver's at acceptance, with the same
//! two questions: may this network send this, and may that network have it.

use serde::{Deserialize, Serialize};
use trunkline_common::ids::{Address, Domain, NetworkId};

use crate::wire::Refusal;

/// Blocked addresses of one network. Each envelope is looked up in them.
pub const BLOCKED_MAX: usize = 100_000;

/// Permitted pairs of one network.
pub const PERMITTED_MAX: usize = 10_000;

/// How far a network federates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Federation {
    /// Not at all.
    Disabled,
    /// With every network of every peer.
    #[default]
    Open,
    /// With the permitted networks only, and these must permit it too.
    Restricted,
}

/// A network of another deployment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permitted {
    /// Its deployment's federation domain.
    pub domain: Domain,
    /// Its id there.
    pub network: NetworkId,
}

/// A network's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How far it federates.
    pub federation: Federation,
    /// With whom, when restricted.
    pub permitted: Vec<Permitted>,
    /// Whether guests may write to it, and its own guests to others.
    pub allow_guests: bool,
    /// Addresses that may neither write to it nor be written to from it.
    pub blocked: Vec<Address>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { federation: Federation::Open, permitted: Vec::new(), allow_guests: true, blocked: Vec::new() }
    }
}

/// The network at the other end, seen from the one whose policy is asked.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Its deployment's federation domain; our own for another network of this deployment.
    pub domain: &'a str,
    /// Its id there.
    pub network: &'a str,
    /// The address at that end.
    pub address: &'a str,
    /// Whether the sender, at whichever end, is a guest.
    pub guest: bool,
}

impl Policy {
    /// Whether this network may exchange an envelope with `other`, in either direction.
    ///
    /// # Errors
    /// The reason it may not.
    pub fn allows(&self, other: Other<'_>) -> Result<(), Refusal> {
        match self.federation {
            Federation::Disabled => return Err(Refusal::FederationDisabled),
            Federation::Open => {}
            Federation::Restricted => {
                let listed = |pair: &Permitted| {
                    pair.domain.as_str() == other.domain && pair.network.as_str() == other.network
                };
                if !self.permitted.iter().any(listed) {
                    return Err(Refusal::NotPermitted);
                }
            }
        }
        if other.guest && !self.allow_guests {
            return Err(Refusal::Guest);
        }
        if self.blocked.binary_search_by(|address| address.as_str().cmp(other.address)).is_ok() {
            return Err(Refusal::Blocked);
        }
        Ok(())
    }

    /// Brings the lists into the order that look-ups need. Call after any change from outside.
    pub fn normalise(&mut self) {
        self.blocked.sort_unstable();
        self.blocked.dedup();
        self.permitted.sort_unstable();
        self.permitted.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: Other<'static> =
        Other { domain: "beta.test", network: "main", address: "bob@beta.test", guest: false };

    #[test]
    fn a_disabled_network_exchanges_nothing() {
        let policy = Policy { federation: Federation::Disabled, ..Policy::default() };
        assert_eq!(policy.allows(BOB), Err(Refusal::FederationDisabled));
    }

    #[test]
    fn a_restricted_network_exchanges_with_permitted_networks_only() {
        let permitted = Permitted { domain: "beta.test".parse().unwrap(), network: "main".parse().unwrap() };
        let policy =
            Policy { federation: Federation::Restricted, permitted: vec![permitted], ..Policy::default() };
        assert_eq!(policy.allows(BOB), Ok(()));
        assert_eq!(policy.allows(Other { network: "lab", ..BOB }), Err(Refusal::NotPermitted));
        assert_eq!(policy.allows(Other { domain: "gamma.test", ..BOB }), Err(Refusal::NotPermitted));
    }

    #[test]
    fn guests_and_blocked_addresses_are_refused() {
        let mut policy = Policy { allow_guests: false, ..Policy::default() };
        policy.blocked = ["zoe@x.y", "bob@beta.test"].iter().map(|a| a.parse().unwrap()).collect();
        policy.normalise();
        assert_eq!(policy.allows(Other { guest: true, ..BOB }), Err(Refusal::Guest));
        assert_eq!(policy.allows(BOB), Err(Refusal::Blocked));
        assert_eq!(policy.allows(Other { address: "ann@beta.test", ..BOB }), Ok(()));
    }
}
