//! Which nodes there are: those of the configuration, and those that the registry tells of. Pure.
//!
//! Data plane and front name nodes by their place, so one keeps its place for as long as it is known, and the place of one
//! that was forgotten goes to another last. The registry adds nodes; it takes none away that answers, and does not move
//! one that answers to another address.

use super::config::{NODES_MAX, NodeConfig};
use crate::registry::rows::{Heard, NodeRow};

/// One place.
#[derive(Clone, Debug)]
struct Place {
    /// Who is or was there.
    number: u16,
    /// Who is there.
    node: Option<NodeConfig>,
    /// The configuration names it.
    fixed: bool,
    /// When it was left: a count of the merges.
    left: u64,
}

/// What changes for those who name nodes by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is there from now on.
    Put(usize, NodeConfig),
    /// Nobody is.
    Forget(usize),
}

/// A row that is good and yet not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The node.
    pub node: u16,
    /// Why.
    pub why: &'static str,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Places {
    places: Vec<Place>,
    merges: u64,
}

impl Places {
    /// The nodes of the configuration, at the places that they have there.
    #[must_use]
    pub fn new(nodes: &[NodeConfig]) -> Self {
        let place =
            |node: &NodeConfig| Place { number: node.node, node: Some(node.clone()), fixed: true, left: 0 };
        Self { places: nodes.iter().map(place).collect(), merges: 0 }
    }

    /// Who is where.
    pub fn nodes(&self) -> impl Iterator<Item = Option<&NodeConfig>> {
        self.places.iter().map(|place| place.node.as_ref())
    }

    /// Takes in what the registry said just now: every row that can be believed. `is_live` says whether the node at a place
    /// may be alive, as far as its own answers tell.
    pub fn merge(
        &mut self,
        rows: &[Heard<NodeRow>],
        is_live: impl Fn(usize) -> bool,
    ) -> (Vec<Change>, Vec<Skipped>) {
        self.merges = self.merges.saturating_add(1);
        let fresh: Vec<_> =
            rows.iter().filter(|heard| heard.is_fresh()).map(|heard| &heard.row.node).collect();
        let mut changes = self.forget(&fresh, &is_live);
        let mut skipped = Vec::new();
        for row in fresh {
            match self.take(row, &is_live) {
                Ok(Some(place)) => changes.push(Change::Put(place, row.clone())),
                Ok(None) => {}
                Err(why) => skipped.push(Skipped { node: row.node, why }),
            }
        }
        (changes, skipped)
    }

    /// Forgets who neither says that it is there nor answers.
    fn forget(&mut self, fresh: &[&NodeConfig], is_live: impl Fn(usize) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        for (at, place) in self.places.iter_mut().enumerate() {
            let says = fresh.iter().any(|row| row.node == place.number);
            if place.node.is_some() && !place.fixed && !says && !is_live(at) {
                place.node = None;
                place.left = self.merges;
                changes.push(Change::Forget(at));
            }
        }
        changes
    }

    /// The place that a node is put at, if it is to be put anywhere.
    fn take(
        &mut self,
        row: &NodeConfig,
        is_live: impl Fn(usize) -> bool,
    ) -> Result<Option<usize>, &'static str> {
        let own = self.places.iter().position(|place| place.number == row.node);
        if let Some((at, place)) = own.and_then(|at| Some((at, self.places.get(at)?))) {
            match &place.node {
                _ if place.fixed => return Ok(None),
                Some(known) if known == row => return Ok(None),
                Some(_) if is_live(at) => {
                    return Err("the node that is known by its number answers elsewhere");
                }
                _ => {}
            }
        }
        let taken = |place: &Place| {
            place.number != row.node && place.node.as_ref().is_some_and(|node| node.tunnel == row.tunnel)
        };
        if self.places.iter().any(taken) {
            return Err("another node has its tunnel's address");
        }
        let at = match own {
            Some(at) => at,
            None if self.places.len() < NODES_MAX => self.places.len(),
            None => self.left_first().ok_or("there are as many nodes as there may be")?,
        };
        let place = Place { number: row.node, node: Some(row.clone()), fixed: false, left: 0 };
        match self.places.get_mut(at) {
            Some(known) => *known = place,
            None => self.places.push(place),
        }
        Ok(Some(at))
    }

    /// The place that was left longest ago.
    fn left_first(&self) -> Option<usize> {
        let left = self.places.iter().enumerate().filter(|(_, place)| place.node.is_none());
        left.min_by_key(|(_, place)| place.left).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::OLD_AFTER;

    const OLD: Duration = OLD_AFTER.saturating_add(Duration::from_secs(1));

    fn node(number: u16, host: u8) -> NodeConfig {
        let tunnel = ([10, 0, number.to_be_bytes()[0], host], 8446).into();
        NodeConfig { node: number, tunnel, api: format!("http://node-{number}-{host}:8444") }
    }

    fn row(node: NodeConfig, age: Duration) -> Heard<NodeRow> {
        Heard { row: NodeRow { node, version: "1".into(), instance: "a".into() }, age }
    }

    fn fresh(number: u16) -> Heard<NodeRow> {
        row(node(number, number.to_be_bytes()[1]), Duration::ZERO)
    }

    fn put(at: usize, number: u16) -> Change {
        Change::Put(at, fresh(number).row.node)
    }

    #[test]
    fn who_registers_is_there_once_and_the_configuration_wins() {
        let mut places = Places::new(&[node(1, 1)]);
        let other = row(node(1, 99), Duration::ZERO);
        let (changes, skipped) = places.merge(&[other, fresh(2), fresh(3)], |_| true);
        assert_eq!((changes, skipped), (vec![put(1, 2), put(2, 3)], vec![]));
        let (changes, _) = places.merge(&[fresh(3), fresh(2)], |_| true);
        assert_eq!(changes, []);
        assert_eq!(places.nodes().next(), Some(Some(&node(1, 1))));
    }

    #[test]
    fn an_old_row_makes_nobody_known() {
        let mut places = Places::new(&[]);
        assert_eq!(places.merge(&[row(node(2, 2), OLD)], |_| true).0, []);
    }

    #[test]
    fn a_node_is_forgotten_once_it_neither_says_that_it_is_there_nor_answers() {
        for rows in [vec![], vec![row(node(2, 2), OLD)]] {
            let mut places = Places::new(&[node(1, 1)]);
            places.merge(&[fresh(2)], |_| true);
            assert_eq!(places.merge(&rows, |_| true).0, [], "it answers");
            assert_eq!(places.merge(&[fresh(2)], |_| false).0, [], "it says that it is there");
            // Of the configuration nobody is forgotten.
            assert_eq!(places.merge(&rows, |_| false).0, [Change::Forget(1)]);
            assert_eq!(places.merge(&rows, |_| false).0, []);
            assert_eq!(places.merge(&[fresh(2)], |_| false).0, [put(1, 2)], "back at its place");
        }
    }

    #[test]
    fn a_node_that_answers_is_not_moved_to_another_address_and_one_that_does_not_is() {
        let mut places = Places::new(&[]);
        places.merge(&[fresh(2)], |_| true);
        let elsewhere = [row(node(2, 77), Duration::ZERO)];
        let (changes, skipped) = places.merge(&elsewhere, |_| true);
        assert_eq!((changes.len(), skipped.len()), (0, 1));
        assert_eq!(places.merge(&elsewhere, |_| false).0, [Change::Put(0, node(2, 77))]);
    }

    #[test]
    fn two_nodes_cannot_have_one_tunnel_unless_the_first_is_forgotten() {
        let mut places = Places::new(&[]);
        places.merge(&[fresh(2)], |_| true);
        let mut copy = node(3, 3);
        copy.tunnel = node(2, 2).tunnel;
        let rows = [row(copy.clone(), Duration::ZERO)];
        let (changes, skipped) = places.merge(&rows, |_| true);
        assert_eq!((changes, skipped[0].node), (vec![], 3));
        assert_eq!(places.merge(&rows, |_| false).0, [Change::Forget(0), Change::Put(1, copy)]);
    }

    #[test]
    fn there_are_no_more_nodes_than_there_may_be_and_the_place_left_first_is_taken_first() {
        let max = u16::try_from(NODES_MAX).unwrap();
        let mut places = Places::new(&[node(1, 1)]);
        let rows: Vec<_> = (1..=max).map(fresh).collect();
        assert_eq!(places.merge(&rows, |_| true).0.len(), NODES_MAX - 1);
        let mut more = rows.clone();
        more.push(fresh(1000));
        let (changes, skipped) = places.merge(&more, |_| true);
        assert_eq!((changes, skipped[0].node), (vec![], 1000));
        // Nodes 5 and then 3 go.
        let without = |gone: &[u16]| -> Vec<_> {
            more.iter().filter(|heard| !gone.contains(&heard.row.node.node)).cloned().collect()
        };
        places.merge(&without(&[5, 1000]), |at| at != 4);
        assert_eq!(places.merge(&without(&[3, 5, 1000]), |at| at != 2).0, [Change::Forget(2)]);
        assert_eq!(places.merge(&without(&[3, 5]), |_| true).0, [put(4, 1000)]);
    }
}
