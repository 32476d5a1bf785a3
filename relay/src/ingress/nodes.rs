//! Which nodes are alive, how busy they are, and in which order a request goes to them. Pure: polls and requests
//! report what they saw.

use std::cmp::Reverse;

use aws_lc_rs::digest::{SHA256, digest};

use crate::api::Health;
use crate::node::CallId;

/// Polls without an answer, in a row, after which a node is down. More is slower to notice a dead machine, fewer
/// takes a busy one for dead.
pub const MISSED_MAX: u32 = 2;

/// Participants that a call counts for until the next poll says how many came: those it was given out for are on their
/// way. More spreads a burst of calls further, whatever was there before.
const EXPECTED_PARTICIPANTS: usize = 4;

/// What came of asking a node how it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Poll {
    /// It answered.
    Answered(Health),
    /// Its machine says that nobody listens.
    Refused,
    /// Nothing came in time, or nothing that makes sense.
    Missed,
}

/// Whether a node lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Nobody asked yet; it may.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// Polls that a node which left a request without an answer stays behind the others for, though it answers those. More
/// costs fewer requests when only polls work; fewer brings a node that was busy for a moment back sooner.
const SILENT_POLLS: u32 = 30;

/// One node.
#[derive(Clone, Debug, Default)]
struct State {
    number: u16,
    /// It is not there any more. What was known of it stays, for when it comes back.
    forgotten: bool,
    life: Life,
    missed: u32,
    draining: bool,
    /// Polls until it is taken for one that answers requests again.
    silent: u32,
    calls: usize,
    participants: usize,
    /// When its process started, as far as it said so.
    started_at: Option<u64>,
    /// Calls and joins given to it that the last answer does not know of yet,
    given: Given,
    /// and those among them that the answer to the poll that is under way will know of.
    given_before_poll: Given,
}

#[derive(Clone, Copy, Debug, Default)]
struct Given {
    calls: usize,
    joins: usize,
}

/// All nodes, each at its place: first those of the configuration, in its order.
#[derive(Clone, Debug)]
pub struct Table {
    nodes: Vec<State>,
    /// There may be nodes that nobody told of yet.
    incomplete: bool,
}

impl Table {
    /// Nodes of these numbers, of which nothing is known yet.
    #[must_use]
    pub fn new(numbers: impl IntoIterator<Item = u16>) -> Self {
        let nodes = numbers.into_iter().map(|number| State { number, ..State::default() }).collect();
        Self { nodes, incomplete: false }
    }

    /// A node is at a place from now on. One that was there before is known again: it may not know that it was taken for
    /// dead.
    pub fn put(&mut self, at: usize, number: u16) {
        let nobody = State { forgotten: true, ..State::default() };
        if at >= self.nodes.len() {
            self.nodes.resize(at.saturating_add(1), nobody);
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        if node.number != number || (node.forgotten && node.life == Life::Unknown) {
            *node = State { number, ..State::default() };
        }
        node.forgotten = false;
    }

    /// A node is not there any more.
    pub fn forget(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.forgotten = true;
            node.life = Life::Down;
        }
    }

    /// Whether there may be nodes that nobody told of yet.
    pub fn set_incomplete(&mut self, incomplete: bool) {
        self.incomplete = incomplete;
    }

    /// Whether a call may be at a node that is not known yet: its own, of which nobody told so far.
    #[must_use]
    pub fn may_be_unknown(&self, call: &CallId) -> bool {
        self.incomplete && self.own(call).is_none()
    }

    /// A node is about to be asked.
    pub fn poll_begins(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.given_before_poll = node.given;
        }
    }

    /// What came of it.
    pub fn poll_ended(&mut self, at: usize, poll: Poll) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        match poll {
            // Somebody else listens there, and must not get this one's calls.
            Poll::Answered(health) if health.node != node.number => node.miss(),
            Poll::Answered(health) => {
                node.life = Life::Up;
                node.missed = 0;
                node.silent = node.silent.saturating_sub(1);
                node.draining = health.draining;
                node.calls = health.calls;
                node.participants = health.participants;
                node.started_at = Some(health.started_at);
                node.given.calls = node.given.calls.saturating_sub(node.given_before_poll.calls);
                node.given.joins = node.given.joins.saturating_sub(node.given_before_poll.joins);
            }
            Poll::Refused => node.life = Life::Down,
            Poll::Missed => node.miss(),
        }
    }

    /// Whether a node that answers now was taken for dead, and was not: it is the same process, as far as is known, and
    /// there are others that may have made its calls again.
    #[must_use]
    pub fn presumed_dead(&self, at: usize, health: &Health) -> bool {
        let Some(node) = self.nodes.get(at) else { return false };
        let others =
            (0..self.nodes.len()).any(|other| other != at && self.is_live(other) && !self.drains(other));
        let is_same = node.started_at.is_none_or(|started_at| started_at == health.started_at);
        node.life == Life::Down && health.node == node.number && is_same && others
    }

    /// A request found nobody listening.
    pub fn refused(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.life = Life::Down;
        }
    }

    /// A request to a node got no answer in time.
    pub fn was_silent(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.silent = SILENT_POLLS;
        }
    }

    /// A node answered a request.
    pub fn answered(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.silent = 0;
        }
    }

    /// A node was given a call.
    pub fn gave_call(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.given.calls += 1;
        }
    }

    /// A node was given a participant.
    pub fn gave_join(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.given.joins += 1;
        }
    }

    /// Whether a node may be alive.
    #[must_use]
    pub fn is_live(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|node| !node.forgotten && node.life != Life::Down)
    }

    /// Whether a node said that it lives.
    #[must_use]
    pub fn is_up(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|node| !node.forgotten && node.life == Life::Up)
    }

    /// Whether a node takes nobody new.
    #[must_use]
    pub fn drains(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|node| node.draining)
    }

    /// Live nodes, in the order of their places, those last that leave requests without answers.
    #[must_use]
    pub fn live(&self) -> Vec<usize> {
        let mut live: Vec<_> = (0..self.nodes.len()).filter(|at| self.is_live(*at)).collect();
        live.sort_by_key(|at| self.is_silent(*at));
        live
    }

    /// Where a new call may go, the least busy node first, and those last that leave requests without answers.
    #[must_use]
    pub fn for_new_call(&self) -> Vec<usize> {
        let mut order = self.live();
        order.retain(|at| !self.drains(*at));
        order.sort_by_key(|at| (self.is_silent(*at), self.nodes.get(*at).map(State::load)));
        order
    }

    /// Where a call is looked for, dead nodes too: its own node, when it is one of these, then the others as every
    /// ingress orders them for this call.
    #[must_use]
    pub fn for_call(&self, call: &CallId) -> Vec<usize> {
        let is_there = |at: &usize| self.nodes.get(*at).is_some_and(|node| !node.forgotten);
        let mut order: Vec<_> = (0..self.nodes.len()).filter(is_there).collect();
        order.sort_by_cached_key(|at| {
            let number = self.nodes.get(*at).map(|node| node.number);
            (number != Some(call.node()), Reverse(rank(call, number.unwrap_or_default())))
        });
        order
    }

    fn is_silent(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|node| node.silent > 0)
    }

    /// The place of a call's own node.
    #[must_use]
    pub fn own(&self, call: &CallId) -> Option<usize> {
        self.nodes.iter().position(|node| !node.forgotten && node.number == call.node())
    }
}

impl State {
    fn miss(&mut self) {
        self.missed = self.missed.saturating_add(1);
        if self.missed >= MISSED_MAX {
            self.life = Life::Down;
        }
    }

    /// Participants first, then calls.
    fn load(&self) -> (usize, usize) {
        let Given { calls, joins } = self.given;
        (self.participants + joins + calls * EXPECTED_PARTICIPANTS, self.calls + calls)
    }
}

/// Rendezvous hashing: each call has an order of nodes of its own, and a node that comes or goes moves only its calls.
fn rank(call: &CallId, node: u16) -> [u8; 8] {
    let digest = digest(&SHA256, &[call.as_str().as_bytes(), &node.to_be_bytes()].concat());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{CallSettings, Mode};

    fn health(node: u16) -> Health {
        Health {
            status: "alive".into(),
            node,
            draining: false,
            calls: 0,
            calls_max: 10,
            participants: 0,
            busy: 0.0,
            started_at: 1,
        }
    }

    fn table() -> Table {
        let mut table = Table::new([1, 2, 3]);
        for (at, node) in (0..).zip([1, 2, 3]) {
            table.poll_begins(at);
            table.poll_ended(at, Poll::Answered(health(node)));
        }
        table
    }

    fn call(node: u16) -> CallId {
        let settings =
            CallSettings { mode: Mode::Conference, force_tcp: false, participants_max: 2, created_s: 7 };
        CallId::new(node, settings)
    }

    #[test]
    fn a_node_is_down_once_it_refuses_or_misses_two_polls_and_up_again_when_it_answers() {
        let mut table = table();
        table.poll_ended(0, Poll::Missed);
        assert!(table.is_live(0));
        table.poll_ended(0, Poll::Missed);
        table.poll_ended(1, Poll::Refused);
        table.refused(2);
        assert!(table.live().is_empty());
        table.poll_ended(0, Poll::Answered(health(1)));
        table.poll_ended(0, Poll::Missed);
        assert_eq!(table.live(), [0]);
    }

    #[test]
    fn a_node_that_nobody_asked_yet_may_be_alive_but_is_not_known_to_be() {
        let table = Table::new([1]);
        assert!(table.is_live(0) && !table.is_up(0));
    }

    #[test]
    fn another_node_at_a_nodes_address_is_not_taken_for_it() {
        let mut table = table();
        for _ in 0..MISSED_MAX {
            table.poll_ended(0, Poll::Answered(health(9)));
        }
        assert!(!table.is_live(0));
    }

    #[test]
    fn a_new_call_goes_to_whoever_has_fewest_participants_then_calls_and_does_not_drain() {
        let mut table = table();
        table.poll_ended(0, Poll::Answered(Health { participants: 5, calls: 1, ..health(1) }));
        table.poll_ended(1, Poll::Answered(Health { participants: 2, calls: 2, ..health(2) }));
        table.poll_ended(2, Poll::Answered(Health { participants: 2, calls: 1, ..health(3) }));
        assert_eq!(table.for_new_call(), [2, 1, 0]);
        table.poll_ended(2, Poll::Answered(Health { draining: true, ..health(3) }));
        table.poll_ended(1, Poll::Refused);
        assert_eq!(table.for_new_call(), [0]);
    }

    #[test]
    fn a_node_that_answers_polls_alone_is_behind_the_others_until_it_answers_or_time_has_passed() {
        let mut table = table();
        table.poll_ended(1, Poll::Answered(Health { participants: 50, ..health(2) }));
        table.poll_ended(2, Poll::Answered(Health { participants: 60, ..health(3) }));
        table.was_silent(0);
        table.poll_ended(0, Poll::Answered(health(1)));
        assert_eq!((table.for_new_call(), table.live()), (vec![1, 2, 0], vec![1, 2, 0]));
        table.answered(0);
        assert_eq!(table.for_new_call(), [0, 1, 2]);
        table.was_silent(0);
        for _ in 0..SILENT_POLLS {
            assert_eq!(table.for_new_call(), [1, 2, 0]);
            table.poll_ended(0, Poll::Answered(health(1)));
        }
        assert_eq!(table.for_new_call(), [0, 1, 2]);
    }

    #[test]
    fn a_node_was_taken_for_dead_if_it_was_down_and_is_the_same_process_and_others_live() {
        let mut table = table();
        assert!(!table.presumed_dead(0, &health(1)));
        table.refused(0);
        assert!(table.presumed_dead(0, &health(1)));
        assert!(!table.presumed_dead(0, &health(9)));
        assert!(!table.presumed_dead(0, &Health { started_at: 2, ..health(1) }));
        table.refused(1);
        assert!(table.presumed_dead(0, &health(1)));
        table.poll_ended(2, Poll::Answered(Health { draining: true, ..health(3) }));
        assert!(!table.presumed_dead(0, &health(1)));
        table.poll_ended(0, Poll::Answered(health(1)));
        table.poll_ended(2, Poll::Answered(health(3)));
        assert!(!table.presumed_dead(0, &health(1)));
    }

    #[test]
    fn a_burst_between_two_polls_spreads() {
        let mut table = table();
        let mut given = [0; 3];
        for _ in 0..30 {
            let at = table.for_new_call()[0];
            table.gave_call(at);
            given[at] += 1;
        }
        assert_eq!(given, [10; 3]);
    }

    #[test]
    fn what_was_given_out_counts_until_a_poll_that_began_later_answers() {
        let mut table = table();
        table.gave_join(0);
        table.poll_begins(0);
        table.gave_join(0);
        table.poll_ended(0, Poll::Answered(Health { participants: 1, ..health(1) }));
        assert_eq!(table.nodes[0].load(), (2, 0));
        table.poll_begins(0);
        table.poll_ended(0, Poll::Answered(Health { participants: 2, ..health(1) }));
        assert_eq!(table.nodes[0].load(), (2, 0));
    }

    #[test]
    fn a_call_is_looked_for_at_its_own_node_and_then_in_an_order_of_its_own() {
        let (table, reversed) = (table(), Table::new([3, 2, 1]));
        let mut seconds = [0; 3];
        for _ in 0..300 {
            let call = call(2);
            let order = table.for_call(&call);
            assert_eq!((order[0], order.len()), (1, 3));
            // Whatever the configuration's order is.
            let other: Vec<_> = reversed.for_call(&call).iter().map(|at| 2 - at).collect();
            assert_eq!(order, other);
            seconds[order[1]] += 1;
        }
        assert!(seconds[0] > 90 && seconds[2] > 90, "{seconds:?}");
        assert_eq!((table.own(&call(2)), table.own(&call(8))), (Some(1), None));
        assert_eq!(table.for_call(&call(8)).len(), 3);
    }

    #[test]
    fn a_node_that_comes_later_takes_calls_and_one_that_is_forgotten_is_asked_for_none() {
        let mut table = table();
        table.put(4, 9);
        assert_eq!((table.own(&call(9)), table.is_live(4), table.is_live(3)), (Some(4), true, false));
        assert_eq!(table.for_new_call(), [0, 1, 2, 4]);
        table.refused(1);
        table.forget(1);
        assert_eq!((table.own(&call(2)), table.live()), (None, vec![0, 2, 4]));
        assert!(!table.for_call(&call(2)).contains(&1));
        table.put(1, 5);
        assert_eq!((table.own(&call(2)), table.own(&call(5))), (None, Some(1)));
    }

    #[test]
    fn a_node_that_was_forgotten_and_comes_back_is_told_that_it_was_taken_for_dead() {
        let mut table = table();
        table.refused(1);
        table.forget(1);
        table.put(1, 2);
        assert!(!table.is_live(1), "nobody is sent to it before it knows");
        assert!(table.presumed_dead(1, &health(2)));
        assert!(!table.presumed_dead(1, &Health { started_at: 2, ..health(2) }), "a new process");
        table.poll_ended(1, Poll::Answered(health(2)));
        assert!(table.is_up(1));
    }

    #[test]
    fn while_nodes_may_be_missing_a_call_whose_node_is_not_known_may_be_there() {
        let mut table = table();
        assert!(!table.may_be_unknown(&call(9)));
        table.set_incomplete(true);
        assert!(table.may_be_unknown(&call(9)) && !table.may_be_unknown(&call(2)));
    }

    #[test]
    fn a_node_that_goes_moves_no_other_nodes_calls() {
        let (all, fewer) = (table(), Table::new([1, 2]));
        for _ in 0..100 {
            let call = call(9);
            let without: Vec<_> = all.for_call(&call).into_iter().filter(|at| *at != 2).collect();
            assert_eq!(without, fewer.for_call(&call));
        }
    }
}
