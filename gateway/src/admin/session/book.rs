//! Who is logged in: a pure book of sessions. It reads no clock and makes no secrets: both are handed in.
//!
//! A session is found by the SHA-256 of its cookie, which nobody can guess. Each administrator has at most one; a
//! second log-in takes its place. What ended leaves a note behind for a while, so that whoever had it hears why.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::administrator::TotpSecret;

/// Ended sessions of which the reason is remembered. Beyond it the oldest is told only that it is not logged in.
const ENDED_MAX: usize = 256;

/// How long an unfinished set-up of a second factor waits for its first code.
const ENROLMENT: Duration = Duration::from_secs(600);

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Book {
    live: HashMap<String, Session>,
    ended: VecDeque<(TokenHash, Ended)>,
    /// The time step of the last code of each administrator, also when the store could not be told.
    steps: HashMap<String, u64>,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetimes {
    /// Without a request.
    pub(super) idle: Duration,
    /// In any case.
    pub(super) total: Duration,
}

/// A live session, as the request that shows its cookie sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose.
    pub(super) name: String,
    /// What requests that change something carry beside the cookie.
    pub(super) csrf: String,
    /// How long it still lasts when nothing more is asked.
    pub(super) left: Duration,
}

/// Why a cookie opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Never heard of, or so long ago that it is forgotten.
    Unknown,
    /// The same administrator logged in elsewhere.
    Displaced,
    /// The password was changed or reset.
    Password,
    /// The administrator was removed.
    Removed,
    /// Nothing was asked for too long.
    Idle,
    /// It was open for as long as a session may be.
    Total,
}

#[derive(Debug)]
struct Session {
    secret: TokenHash,
    csrf: String,
    began: Instant,
    used: Instant,
    /// A second factor that is being set up, and since when.
    enrolling: Option<(TotpSecret, Instant)>,
}

impl Session {
    /// How long it still lasts, or why it does not.
    fn left(&self, now: Instant, lifetimes: Lifetimes) -> Result<Duration, Ended> {
        let total = lifetimes.total.saturating_sub(now.saturating_duration_since(self.began));
        let idle = lifetimes.idle.saturating_sub(now.saturating_duration_since(self.used));
        match (total.is_zero(), idle.is_zero()) {
            (true, _) => Err(Ended::Total),
            (_, true) => Err(Ended::Idle),
            _ => Ok(total.min(idle)),
        }
    }
}

impl Book {
    /// Begins a session; the one that `name` had ends.
    pub(super) fn begin(&mut self, now: Instant, name: &str, secret: TokenHash, csrf: String) {
        self.end(name, Ended::Displaced);
        let session = Session { secret, csrf, began: now, used: now, enrolling: None };
        self.live.insert(name.to_owned(), session);
    }

    /// The session of a cookie, which counts as used now.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        secret: &TokenHash,
        lifetimes: Lifetimes,
    ) -> Result<Found, Ended> {
        let name = self.live(now, secret, lifetimes)?.to_owned();
        let session = self.live.get_mut(&name).ok_or(Ended::Unknown)?;
        session.used = now;
        let left = session.left(now, lifetimes)?;
        Ok(Found { name, csrf: session.csrf.clone(), left })
    }

    /// Whose session a cookie is, without using it.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub(super) fn live(
        &mut self,
        now: Instant,
        secret: &TokenHash,
        lifetimes: Lifetimes,
    ) -> Result<&str, Ended> {
        let found = self.live.iter().find(|(_, session)| session.secret == *secret);
        let Some((name, session)) = found else {
            let note = self.ended.iter().rev().find(|(ended, _)| ended == secret);
            return Err(note.map_or(Ended::Unknown, |(_, why)| *why));
        };
        let name = name.clone();
        if let Err(why) = session.left(now, lifetimes) {
            self.end(&name, why);
            return Err(why);
        }
        self.live.get_key_value(&name).map(|(name, _)| name.as_str()).ok_or(Ended::Unknown)
    }

    /// Ends the session that `name` has, if any.
    pub(super) fn end(&mut self, name: &str, why: Ended) {
        if why == Ended::Removed {
            self.steps.remove(name);
        }
        if let Some(session) = self.live.remove(name) {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back((session.secret, why));
        }
    }

    /// Ends the session that `name` has unless it is this one.
    pub(super) fn end_others(&mut self, name: &str, mine: &TokenHash, why: Ended) {
        if self.live.get(name).is_some_and(|session| session.secret != *mine) {
            self.end(name, why);
        }
    }

    /// Ends a session at its own wish: there is nobody to tell why.
    pub(super) fn log_out(&mut self, secret: &TokenHash) {
        self.live.retain(|_, session| session.secret != *secret);
    }

    /// Whether `name` has a session.
    pub(super) fn is_active(&self, now: Instant, name: &str, lifetimes: Lifetimes) -> bool {
        self.live.get(name).is_some_and(|session| session.left(now, lifetimes).is_ok())
    }

    /// Uses up the code of a time step; `false` when it was used before.
    pub(super) fn use_step(&mut self, name: &str, step: u64) -> bool {
        let last = self.steps.entry(name.to_owned()).or_default();
        let fresh = step > *last;
        *last = step.max(*last);
        fresh
    }

    /// Begins to set up a second factor; one that was begun before is forgotten.
    pub(super) fn enrol(&mut self, now: Instant, secret: &TokenHash, totp: TotpSecret) {
        if let Some(session) = self.live.values_mut().find(|session| session.secret == *secret) {
            session.enrolling = Some((totp, now));
        }
    }

    /// The second factor that a session is setting up.
    pub(super) fn enrolling(&self, now: Instant, secret: &TokenHash) -> Option<TotpSecret> {
        let session = self.live.values().find(|session| session.secret == *secret)?;
        let (totp, since) = session.enrolling.as_ref()?;
        (now.saturating_duration_since(*since) < ENROLMENT).then(|| totp.clone())
    }

    /// The second factor was set up, or is not wanted any more.
    pub(super) fn enrolled(&mut self, secret: &TokenHash) {
        if let Some(session) = self.live.values_mut().find(|session| session.secret == *secret) {
            session.enrolling = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes { idle: Duration::from_secs(60), total: Duration::from_secs(600) };

    fn hash(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    fn book(now: Instant) -> Book {
        let mut book = Book::default();
        book.begin(now, "ann", hash("a1"), "csrf".into());
        book
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_second_log_in_ends_the_first_session_and_nobody_elses() {
        let now = Instant::now();
        let mut book = book(now);
        book.begin(now, "bob", hash("b1"), String::new());
        book.begin(now, "ann", hash("a2"), String::new());
        for _ in 0..2 {
            assert_eq!(book.resume(now, &hash("a1"), LIFETIMES), Err(Ended::Displaced), "each time it asks");
        }
        assert_eq!(book.resume(now, &hash("a2"), LIFETIMES).unwrap().name, "ann");
        assert_eq!(book.resume(now, &hash("b1"), LIFETIMES).unwrap().name, "bob");
        assert_eq!(book.resume(now, &hash("guess"), LIFETIMES), Err(Ended::Unknown));
    }

    #[test]
    fn a_session_ends_when_nothing_is_asked_and_in_any_case_after_its_whole_life() {
        let start = Instant::now();
        let mut book = book(start);
        let mut now = start;
        while now + seconds(59) < start + LIFETIMES.total {
            now += seconds(59);
            let left = book.resume(now, &hash("a1"), LIFETIMES).unwrap().left;
            assert!(left <= LIFETIMES.idle && now + left <= start + LIFETIMES.total);
        }
        now = start + LIFETIMES.total;
        assert_eq!(book.resume(now, &hash("a1"), LIFETIMES), Err(Ended::Total));
        book.begin(now, "ann", hash("a2"), String::new());
        assert!(book.live(now + seconds(59), &hash("a2"), LIFETIMES).is_ok(), "looking is not asking");
        assert_eq!(book.resume(now + seconds(60), &hash("a2"), LIFETIMES), Err(Ended::Idle));
        assert_eq!(
            book.resume(now + seconds(61), &hash("a2"), LIFETIMES),
            Err(Ended::Idle),
            "and stays ended"
        );
    }

    #[test]
    fn a_shorter_life_that_is_set_holds_for_sessions_that_are_open() {
        let now = Instant::now();
        let mut book = book(now);
        let shorter = Lifetimes { idle: seconds(10), ..LIFETIMES };
        assert!(book.is_active(now + seconds(11), "ann", LIFETIMES));
        assert!(!book.is_active(now + seconds(11), "ann", shorter));
        assert_eq!(book.live(now + seconds(11), &hash("a1"), shorter), Err(Ended::Idle));
    }

    #[test]
    fn who_logs_out_is_not_told_that_the_session_ended() {
        let now = Instant::now();
        let mut book = book(now);
        book.log_out(&hash("a1"));
        assert_eq!(book.resume(now, &hash("a1"), LIFETIMES), Err(Ended::Unknown));
        assert!(!book.is_active(now, "ann", LIFETIMES));
    }

    #[test]
    fn others_end_and_mine_stays_when_i_change_my_password() {
        let now = Instant::now();
        let mut book = book(now);
        book.end_others("ann", &hash("a1"), Ended::Password);
        assert!(book.live(now, &hash("a1"), LIFETIMES).is_ok());
        book.end_others("ann", &hash("another"), Ended::Password);
        assert_eq!(book.live(now, &hash("a1"), LIFETIMES), Err(Ended::Password));
    }

    #[test]
    fn a_second_factor_that_is_being_set_up_belongs_to_one_session_and_is_forgotten_in_time() {
        let now = Instant::now();
        let mut book = book(now);
        book.begin(now, "bob", hash("b1"), String::new());
        book.enrol(now, &hash("a1"), TotpSecret([1; 20]));
        assert_eq!(book.enrolling(now, &hash("a1")), Some(TotpSecret([1; 20])));
        assert_eq!(book.enrolling(now, &hash("b1")), None);
        assert_eq!(book.enrolling(now + ENROLMENT, &hash("a1")), None);
        book.enrolled(&hash("a1"));
        assert_eq!(book.enrolling(now, &hash("a1")), None);
    }

    #[test]
    fn a_code_is_used_up_by_whoever_comes_first() {
        let mut book = Book::default();
        assert!(book.use_step("ann", 7));
        assert!(!book.use_step("ann", 7) && !book.use_step("ann", 6));
        assert!(book.use_step("bob", 7) && book.use_step("ann", 8));
    }

    #[test]
    fn what_is_remembered_of_ended_sessions_is_bounded() {
        let now = Instant::now();
        let mut book = Book::default();
        for n in 0..ENDED_MAX + 50 {
            book.begin(now, "ann", hash(&n.to_string()), String::new());
        }
        assert_eq!((book.ended.len(), book.live.len()), (ENDED_MAX, 1));
        assert_eq!(book.resume(now, &hash("0"), LIFETIMES), Err(Ended::Unknown));
        assert_eq!(book.resume(now, &hash("60"), LIFETIMES), Err(Ended::Displaced));
    }
}
