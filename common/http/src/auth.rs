//! Who is calling: bearer tokens, and budgets for those who guess and for those who ask too much.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::ConnectInfo;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use trunkline_common::redact;

use crate::problem::{Problem, TOO_MANY_REQUESTS, UNAUTHENTICATED};

/// Failed log-ins from one address in a row, and per minute after that.
pub const FAILED_LOGINS_PER_MINUTE: u32 = 10;

/// Callers whose budgets are remembered before those that are full again are forgotten. More costs about 100 bytes
/// each.
pub const CALLERS_MAX: usize = 10_000;

/// A budget for failed log-ins per source address. A token that opens something is never refused because of
/// others that did not: many servers may share one address, and one of them must not lock the others out.
#[derive(Debug)]
pub struct FailedLogins {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
}

/// A budget of requests per second for every caller, whatever tells callers apart: a token's hash, or [`bucket`].
pub struct Budget<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    what: &'static str,
}

impl Default for FailedLogins {
    fn default() -> Self {
        let per_minute = NonZeroU32::new(FAILED_LOGINS_PER_MINUTE).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::keyed(Quota::per_minute(per_minute)) }
    }
}

impl FailedLogins {
    /// Counts a failed log-in, and gives the refusal: 401 with `detail`, or 429 once the source's budget is used up.
    #[must_use]
    pub fn refuse(&self, source: IpAddr, detail: impl Into<String>) -> Problem {
        if self.limiter.len() > CALLERS_MAX {
            self.limiter.retain_recent();
        }
        metrics::counter!("trunkline_failed_logins_total").increment(1);
        match self.limiter.check_key(&bucket(source)) {
            Ok(()) => Problem::new(UNAUTHENTICATED, detail),
            Err(until) => {
                tracing::warn!(source = %redact::ip(&source), "too many failed log-ins from one address");
                too_many(
                    until.wait_time_from(DefaultClock::default().now()),
                    "failed log-ins from this address",
                )
            }
        }
    }
}

impl<K: Hash + Eq + Clone> Budget<K> {
    /// A budget of `per_second` requests, which may come all at once. `what` names them in the refusal, as in
    /// "requests with this token".
    #[must_use]
    pub fn new(per_second: NonZeroU32, what: &'static str) -> Self {
        Self { limiter: RateLimiter::keyed(Quota::per_second(per_second)), what }
    }

    /// The same, of which as many as `burst` may come all at once.
    #[must_use]
    pub fn bursting(per_second: NonZeroU32, burst: NonZeroU32, what: &'static str) -> Self {
        Self { limiter: RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst)), what }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429 once the budget is used up.
    pub fn count(&self, caller: &K) -> Result<(), Problem> {
        if self.limiter.len() > CALLERS_MAX {
            self.limiter.retain_recent();
        }
        self.limiter
            .check_key(caller)
            .map_err(|until| too_many(until.wait_time_from(DefaultClock::default().now()), self.what))
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Budget<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("what", &self.what).finish_non_exhaustive()
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The address a request came from; all that came from nowhere known count as one.
#[must_use]
pub fn source(extensions: &Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

/// Who shares a budget: one IPv4 address, or one IPv6 subnet, of which a single host usually has all addresses.
#[must_use]
pub fn bucket(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn too_many(wait: Duration, what: &str) -> Problem {
    Problem::new(TOO_MANY_REQUESTS, format!("too many {what}: wait as long as `Retry-After` says"))
        .retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_log_ins_from_one_address_run_out_and_others_are_not_concerned() {
        let logins = FailedLogins::default();
        let guesser = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..FAILED_LOGINS_PER_MINUTE {
            assert_eq!(logins.refuse(guesser, "").kind(), UNAUTHENTICATED);
        }
        assert_eq!(logins.refuse(guesser, "").kind(), TOO_MANY_REQUESTS);
        assert_eq!(logins.refuse(IpAddr::from([192, 0, 2, 2]), "").kind(), UNAUTHENTICATED);
    }

    #[test]
    fn addresses_of_one_ipv6_subnet_share_a_budget() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(bucket(address("2001:db8::1")), bucket(address("2001:db8::ffff:1")));
        assert_ne!(bucket(address("2001:db8::1")), bucket(address("2001:db8:0:1::1")));
        assert_eq!(bucket(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn only_a_bearer_header_carries_a_token() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer abc"), Some("abc".into()));
        assert_eq!(with("bearer abc"), Some("abc".into()));
        for bad in ["abc", "Basic abc", "Bearer", "Bearer "] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }
}
