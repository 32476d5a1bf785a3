//! Connectivity checks of a controlling client: to one address, nominated from the first one on (RFC 8445, section
//! 8.1.1, allows it to who is sure), repeated until answered, and then now and then as consent (RFC 7675).

use std::time::{Duration, Instant};

use trunkline_relay_proto::media::IceCredentials;
use trunkline_relay_proto::stun;
use trunkline_testkit::rng::Rng;

/// The first repetition, doubled for each after it. Less makes up for a lost check sooner and sends more.
const REPEAT_FIRST: Duration = Duration::from_millis(50);

/// The slowest repetition.
const REPEAT_MAX: Duration = Duration::from_millis(1600);

/// Between checks once one was answered, as browsers do it.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);

/// Without an answer for so long, the other side is gone.
const CONSENT: Duration = Duration::from_secs(30);

/// Checks that may be answered at a time. An answer later than that many is no answer.
const PENDING_MAX: usize = 16;

/// A host candidate's priority (RFC 8445, section 5.1.2.1), as the peer-reflexive candidate it would become.
const PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

pub(crate) struct Checks {
    username: String,
    pwd: String,
    tie_breaker: u64,
    pending: [[u8; 12]; PENDING_MAX],
    next: usize,
    repeat: Duration,
    at: Instant,
    answered_at: Option<Instant>,
    began: Instant,
}

impl Checks {
    pub(crate) fn new(now: Instant, local: &IceCredentials, remote: &IceCredentials, rng: &mut Rng) -> Self {
        Self {
            username: format!("{}:{}", remote.ufrag, local.ufrag),
            pwd: remote.pwd.clone(),
            tie_breaker: rng.next_u64(),
            pending: [[0; 12]; PENDING_MAX],
            next: 0,
            repeat: REPEAT_FIRST,
            at: now,
            answered_at: None,
            began: now,
        }
    }

    /// Credentials after a restart: the next check, at once, is made with them.
    pub(crate) fn restart(&mut self, now: Instant, local: &IceCredentials, remote: &IceCredentials) {
        self.username = format!("{}:{}", remote.ufrag, local.ufrag);
        self.pwd.clone_from(&remote.pwd);
        self.pending = [[0; 12]; PENDING_MAX];
        self.hurry(now);
    }

    /// Checks at once: the network changed.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.at = now;
        self.repeat = REPEAT_FIRST;
    }

    /// Whether nothing was answered for too long.
    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.answered_at.unwrap_or(self.began)) > CONSENT
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.at
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant, rng: &mut Rng, out: &mut [u8]) -> Option<usize> {
        if now < self.at {
            return None;
        }
        self.at = now + self.repeat;
        self.repeat = (self.repeat * 2).min(REPEAT_MAX);
        let mut transaction = [0; 12];
        let (low, high) = transaction.split_at_mut(8);
        low.copy_from_slice(&rng.next_u64().to_be_bytes());
        high.copy_from_slice(rng.next_u64().to_be_bytes().get(..4)?);
        if let Some(place) = self.pending.get_mut(self.next % PENDING_MAX) {
            *place = transaction;
        }
        self.next = self.next.wrapping_add(1);
        stun::write_request(out, &self.username, &self.pwd, PRIORITY, self.tie_breaker, true, transaction)
    }

    /// Takes an answer; whether it is the first to its check. `None` when it is none, or not made with the password.
    pub(crate) fn handle_response(&mut self, now: Instant, datagram: &[u8]) -> Option<bool> {
        let response = stun::Response::parse(datagram).ok()?;
        let transaction = response.transaction();
        if response.mapped().is_none() || !response.verify(&self.pwd) {
            return None;
        }
        // Repetitions that crossed with an answer are answered, too.
        let place =
            self.pending.iter_mut().find(|pending| **pending == transaction && transaction != [0; 12]);
        let Some(place) = place else { return Some(false) };
        *place = [0; 12];
        self.answered_at = Some(now);
        self.at = now + CONSENT_INTERVAL;
        self.repeat = REPEAT_FIRST;
        Some(true)
    }
}
