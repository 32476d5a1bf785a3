//! Who follows: replicas that have the directory's stream of this one open, as far as they tell who they are.
//!
//! They tell it in headers of their request, which a leader of an older release does not read; a follower of an older
//! release sends none, and is listed without name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::bundle::split_endpoint;
use trunkline_gateway_proto::time::Time;

/// Followers that are listed; more are served all the same. More takes more memory when a replica misbehaves.
const LISTED_MAX: usize = 256;

/// Longest text that a follower may say of itself: a domain name with a port.
const TEXT_BYTES_MAX: usize = 260;

/// Where other replicas reach the one that asks.
const ADDRESS: HeaderName = HeaderName::from_static("trunkline-replica");

/// Its release.
const VERSION: HeaderName = HeaderName::from_static("trunkline-replica-version");

/// A replica of this deployment, as the one that leads knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    /// Where the others reach it; `None` when it does not say.
    pub address: Option<String>,
    /// Its release, likewise.
    pub version: Option<String>,
    /// Whether it leads; the others follow.
    pub leads: bool,
    /// Since when it does so, by the clock of the one that leads.
    pub since: Time,
}

/// Tells a leader who asks for its directory.
pub(super) fn introduce(headers: &mut HeaderMap, address: &str) {
    headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    // The configuration lets no other address pass.
    if let Ok(address) = HeaderValue::try_from(address) {
        headers.insert(ADDRESS, address);
    }
}

/// The replicas that follow this one. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    last: u64,
    followers: BTreeMap<u64, Replica>,
}

/// Keeps a follower listed until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    followers: Followers,
}

impl Followers {
    /// Lists whoever asks with these headers.
    pub(super) fn add(&self, headers: &HeaderMap, since: Time) -> Place {
        let said = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let said = |name: HeaderName| said(name).filter(|text| text.len() <= TEXT_BYTES_MAX);
        let address = said(ADDRESS).filter(|address| split_endpoint(address).is_some());
        let version = said(VERSION).filter(|version| is_version(version));
        let (address, version) = (address.map(str::to_owned), version.map(str::to_owned));
        let mut listed = self.listed();
        listed.last += 1;
        let number = listed.last;
        if listed.followers.len() < LISTED_MAX {
            listed.followers.insert(number, Replica { address, version, leads: false, since });
        }
        Place { number, followers: self.clone() }
    }

    /// All that are listed, by their addresses.
    pub(crate) fn list(&self) -> Vec<Replica> {
        let mut list: Vec<_> = self.listed().followers.values().cloned().collect();
        list.sort();
        list
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.followers.listed().followers.remove(&self.number);
    }
}

/// As Cargo has them (SemVer).
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_unix_ms(1_800_000_000_000);

    /// What is listed of a follower that says this.
    fn listed(said: &[(HeaderName, &[u8])]) -> (Option<String>, Option<String>) {
        let said = said.iter().map(|(name, text)| (name.clone(), HeaderValue::from_bytes(text).unwrap()));
        let followers = Followers::default();
        let _place = followers.add(&HeaderMap::from_iter(said), AT);
        let [Replica { address, version, leads, since }] = followers.list().try_into().unwrap();
        assert_eq!((leads, since), (false, AT));
        (address, version)
    }

    #[test]
    fn a_follower_is_listed_as_it_introduces_itself_for_as_long_as_it_follows() {
        let followers = Followers::default();
        let places = ["gw-2.internal:8442", "10.0.0.1:8442", "[fd00::1]:8442"].map(|address| {
            let mut headers = HeaderMap::new();
            introduce(&mut headers, address);
            followers.add(&headers, AT)
        });
        let addresses: Vec<_> = followers.list().into_iter().filter_map(|found| found.address).collect();
        assert_eq!(addresses, ["10.0.0.1:8442", "[fd00::1]:8442", "gw-2.internal:8442"]);
        let ours = Some(env!("CARGO_PKG_VERSION").to_owned());
        assert!(followers.list().iter().all(|found| found.version == ours));
        drop(places);
        assert_eq!(followers.list(), []);
    }

    #[test]
    fn a_follower_that_does_not_say_who_it_is_or_nonsense_is_listed_as_unknown() {
        assert_eq!(listed(&[]), (None, None));
        for address in [&b"gw"[..], b"gw:0", b"a b:1", b"\xff:1", b"<b>:1", &[b'0'; 9000]] {
            assert_eq!(listed(&[(ADDRESS, address)]), (None, None), "{address:?}");
        }
        for version in [&b""[..], b"1 2", b"<b>", &[b'1'; 9000]] {
            assert_eq!(listed(&[(VERSION, version)]), (None, None), "{version:?}");
        }
    }

    #[test]
    fn the_list_does_not_grow_beyond_its_bound_and_who_was_left_out_takes_nobodys_place() {
        let followers = Followers::default();
        let mut places: Vec<_> = (0..=LISTED_MAX).map(|_| followers.add(&HeaderMap::new(), AT)).collect();
        assert_eq!(followers.list().len(), LISTED_MAX);
        drop(places.pop());
        assert_eq!(followers.list().len(), LISTED_MAX);
    }
}
