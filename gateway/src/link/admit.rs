//! How many connections may be on their way to being authenticated: strangers get a small, fixed share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Who may begin a handshake.
#[derive(Debug)]
pub(crate) struct Admission {
    total_max: usize,
    per_source_max: usize,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    total: usize,
    sources: HashMap<IpAddr, usize>,
}

/// Held while a handshake goes on.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    pub(crate) fn new(total_max: usize, per_source_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, per_source_max, pending: Mutex::default() })
    }

    /// `None` when there are too many, from everywhere or from this source.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        let source = source_of(source);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = pending.sources.get(&source).copied().unwrap_or(0);
        if pending.total >= self.total_max || of_source >= self.per_source_max {
            return None;
        }
        pending.total += 1;
        pending.sources.insert(source, of_source + 1);
        Some(Permit { admission: Arc::clone(self), source })
    }

    /// Whether so many are pending that a new one should prove its address first.
    pub(crate) fn busy(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).total >= self.total_max / 2
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut pending = self.admission.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.total = pending.total.saturating_sub(1);
        if let Some(count) = pending.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                pending.sources.remove(&self.source);
            }
        }
    }
}

/// One customer of an IPv6 provider holds a whole /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_gets_its_share_and_leaves_room_for_others() {
        let admission = Admission::new(3, 2);
        let first = admission.admit(source("192.0.2.1")).unwrap();
        let _second = admission.admit(source("::ffff:192.0.2.1")).unwrap();
        assert!(admission.admit(source("192.0.2.1")).is_none());
        let _other = admission.admit(source("192.0.2.2")).unwrap();
        assert!(admission.admit(source("192.0.2.3")).is_none());
        drop(first);
        assert!(admission.admit(source("192.0.2.1")).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_source() {
        let admission = Admission::new(9, 1);
        let _held = admission.admit(source("2001:db8::1")).unwrap();
        assert!(admission.admit(source("2001:db8::ffff:2")).is_none());
        assert!(admission.admit(source("2001:db8:0:1::1")).is_some());
    }
}
