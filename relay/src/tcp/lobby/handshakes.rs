//! How many TLS handshakes are begun: each costs a signature, on a thread that has media to move.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Budgets of addresses. Addresses share them by hash: fewer are shared more, each costs eight bytes.
const BUDGETS: usize = 4096;

/// First reads of TLS connections in one turn; the others wait for the next one. One costs about as much as forwarding a
/// hundred packets: more delays media during a flood, less lets people in more slowly during one.
const FIRST_READS_PER_TURN: usize = 4;

/// What begins handshakes.
pub(super) struct Handshakes {
    per_s: u32,
    burst: u32,
    began: Instant,
    /// Where hashes begin is drawn at random: nobody can aim at another's budget.
    hash: RandomState,
    /// Each a time up to which it is spent (GCRA), in nanoseconds since `began`.
    budgets: Box<[u64]>,
    left: usize,
}

impl Handshakes {
    /// Each address may begin `burst` at once, and `per_s` in the long run.
    pub(super) fn new(now: Instant, per_s: u32, burst: u32) -> Self {
        Self {
            per_s: per_s.max(1),
            burst: burst.max(1),
            began: now,
            hash: RandomState::new(),
            budgets: vec![0; BUDGETS].into(),
            left: FIRST_READS_PER_TURN,
        }
    }

    /// Another turn begins.
    pub(super) fn turn(&mut self) {
        self.left = FIRST_READS_PER_TURN;
    }

    /// Takes one of this turn's first reads, if there is one left.
    pub(super) fn take(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    /// Whether an address, or an IPv6 /64, has nothing left to begin with.
    pub(super) fn is_spent(&mut self, now: Instant, address: IpAddr) -> bool {
        self.after(now, address).is_none()
    }

    /// Takes one out of an address's budget.
    pub(super) fn begin(&mut self, now: Instant, address: IpAddr) {
        if let Some((budget, spent)) = self.after(now, address) {
            *budget = spent;
        }
    }

    /// An address's budget, and what it is after one more, if there is one.
    fn after(&mut self, now: Instant, address: IpAddr) -> Option<(&mut u64, u64)> {
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let each = u64::try_from(Duration::from_secs(1).as_nanos()).ok()? / u64::from(self.per_s);
        let place = usize::try_from(self.hash.hash_one(address) % BUDGETS as u64).ok()?;
        let budget = self.budgets.get_mut(place)?;
        let spent = (*budget).max(now).saturating_add(each);
        (spent - now <= each.saturating_mul(u64::from(self.burst))).then_some((budget, spent))
    }
}
