//! How many connections each address has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::Limits;
use crate::auth::bucket;

/// The least an address may have, unless it is said otherwise: what a few browsers open. More makes small limits take
/// effect later.
const SHARE_MIN: usize = 16;

/// Counts of connections by address.
pub(super) struct Sources {
    share: usize,
    share_private: usize,
    /// Only those that have connections: no more than there may be.
    counts: Arc<Counts>,
}

type Counts = Mutex<HashMap<IpAddr, usize>>;

/// One connection's place, until it is dropped.
pub(super) struct Place {
    bucket: IpAddr,
    counts: Arc<Counts>,
}

impl Sources {
    pub(super) fn new(limits: &Limits) -> Self {
        let quarter = limits.connections_max / 4;
        let share = limits.per_source_max.unwrap_or(quarter.max(SHARE_MIN));
        let rest = limits.connections_max.saturating_sub(quarter);
        let share_private = limits.per_source_max.unwrap_or(rest.max(SHARE_MIN));
        Self { share, share_private, counts: Arc::default() }
    }

    /// A place for a connection, unless its address has its share.
    pub(super) fn take(&self, source: IpAddr) -> Option<Place> {
        let bucket = bucket(source);
        let share = if is_private(source) { self.share_private } else { self.share };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(bucket).or_default();
        if *count >= share {
            // A share of nothing leaves nothing behind either.
            if *count == 0 {
                counts.remove(&bucket);
            }
            return None;
        }
        *count += 1;
        Some(Place { bucket, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.bucket) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.bucket);
            }
        }
    }
}

/// Whether nobody on the internet has such an address.
fn is_private(source: IpAddr) -> bool {
    match source.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limits: &Limits, source: &str) -> usize {
        let sources = Sources::new(limits);
        std::iter::from_fn(|| sources.take(source.parse().unwrap())).collect::<Vec<_>>().len()
    }

    #[test]
    fn an_address_has_a_quarter_and_a_proxy_three() {
        let limits = Limits { connections_max: 100, ..Limits::default() };
        for source in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            assert_eq!(places(&limits, source), 25, "{source}");
        }
        for source in ["127.0.0.1", "10.0.0.1", "::ffff:192.168.0.1", "::1", "fd00::1", "fe80::1"] {
            assert_eq!(places(&limits, source), 75, "{source}");
        }
        let few = Limits { connections_max: 20, ..limits };
        assert_eq!((places(&few, "192.0.2.1"), places(&few, "::1")), (16, 16));
        let said = Limits { per_source_max: Some(3), ..limits };
        assert_eq!((places(&said, "192.0.2.1"), places(&said, "::1")), (3, 3));
    }

    #[test]
    fn a_share_is_that_of_a_subnet_and_comes_back() {
        let sources = Sources::new(&Limits { per_source_max: Some(1), ..Limits::default() });
        let take = |source: &str| sources.take(source.parse().unwrap());
        let place = take("2001:db8::1");
        assert!(place.is_some() && take("2001:db8::2").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        drop(place);
        assert!(take("2001:db8::2").is_some());
        assert!(sources.counts.lock().unwrap().is_empty());
    }
}
