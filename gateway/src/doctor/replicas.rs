//! The replicas that share the store, as the one that leads knows them.

use std::collections::BTreeSet;

use super::Check;
use crate::config::Config;
use crate::hub::Hub;
use crate::replica::Replica;

const CHECK: &str = "replicas";

/// Nothing to say of a gateway that can be the only one, or does not lead.
pub(super) fn examine(config: &Config, hub: &Hub) -> Vec<Check> {
    let own = config.replica.advertise.as_str();
    let known = if own.is_empty() { Vec::new() } else { hub.replicas(own) };
    match known.split_first() {
        Some((leader, followers)) if leader.leads => vec![judge(own, leader, followers)],
        _ => Vec::new(),
    }
}

fn judge(own: &str, leader: &Replica, followers: &[Replica]) -> Check {
    if followers.is_empty() {
        return Check::warning(
            CHECK,
            own,
            "It leads, and no other replica follows: nobody takes over when it goes.",
            "Start another; where one runs, its log says why it does not find this one. Is this one meant to be alone, \
             leave replica.advertise empty.",
        );
    }
    let mut seen = BTreeSet::from([own]);
    let mut addresses = followers.iter().filter_map(|follower| follower.address.as_deref());
    if let Some(twice) = addresses.find(|address| !seen.insert(address)) {
        return Check::warning(
            CHECK,
            own,
            format!("Two replicas say that they are reached at {twice}."),
            "Give each a replica.advertise of its own. After an interruption of the network it may be one that came \
             back: look again in ten seconds.",
        );
    }
    let verb = if followers.len() == 1 { "follows" } else { "follow" };
    let named: Vec<_> = followers.iter().map(|follower| name(follower, leader)).collect();
    let finding = format!("Of {} replicas it leads; {} {verb}.", followers.len() + 1, named.join(", "));
    Check::ok(CHECK, own, finding)
}

/// With its release, where that is another one.
fn name(follower: &Replica, leader: &Replica) -> String {
    let address = follower.address.as_deref().unwrap_or("one that does not say who it is");
    match &follower.version {
        version if *version == leader.version => address.to_owned(),
        Some(version) => format!("{address} (release {version})"),
        None => format!("{address} (an older release)"),
    }
}

#[cfg(test)]
mod tests {
    use trunkline_gateway_proto::time::Time;

    use super::super::Outcome;
    use super::*;

    fn replica(address: Option<&str>, version: Option<&str>) -> Replica {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Replica { address: text(address), version: text(version), leads: false, since: Time::default() }
    }

    fn judged(followers: &[Replica]) -> Check {
        let leader = Replica { leads: true, ..replica(Some("gw-1:8442"), Some("2.0.0")) };
        judge("gw-1:8442", &leader, followers)
    }

    #[test]
    fn who_follows_is_named_with_its_release_where_that_is_another_one() {
        let second = replica(Some("gw-2:8442"), Some("2.0.0"));
        let check = judged(std::slice::from_ref(&second));
        assert_eq!(
            (check.outcome, &*check.finding),
            (Outcome::Ok, "Of 2 replicas it leads; gw-2:8442 follows.")
        );
        let check = judged(&[second, replica(Some("gw-3:8442"), Some("1.9.0")), replica(None, None)]);
        let expected = "Of 4 replicas it leads; gw-2:8442, gw-3:8442 (release 1.9.0), one that does not say who it is \
                        (an older release) follow.";
        assert_eq!((check.outcome, &*check.finding), (Outcome::Ok, expected));
    }

    #[test]
    fn a_leader_without_followers_and_an_address_that_two_have_are_warnings() {
        assert_eq!(judged(&[]).outcome, Outcome::Warning);
        let followers =
            [replica(Some("gw-2:8442"), Some("2.0.0")), replica(Some("gw-2:8442"), Some("2.0.0"))];
        assert!(judged(&followers).finding.contains("reached at gw-2:8442"));
        assert_eq!(judged(&followers[..1]).outcome, Outcome::Ok);
        let ours = replica(Some("gw-1:8442"), Some("2.0.0"));
        assert_eq!(judged(&[ours]).outcome, Outcome::Warning);
    }
}
