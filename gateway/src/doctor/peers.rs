//! Each peer, as the core sees it, and whether anybody fetches what came in. `status` says the same first.

use std::time::Duration;

use trunkline_gateway_proto::admin::{LinkState, NetworkView, Overview, PeerView, QueueView};
use trunkline_gateway_proto::directory::PeerState;
use trunkline_gateway_proto::pin::PinState;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::console::span;

use super::Check;

/// A queue whose oldest entry is older moves too slowly, or not at all. Shorter reports bursts.
const OLD: Duration = Duration::from_secs(600);

/// How long a link may take to come up before that is worth a word: the first dials, and a restart of the peer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything about peers and networks.
#[must_use]
pub fn overview(overview: &Overview, now: Time) -> Vec<Check> {
    let peers = overview.peers.iter().flat_map(|peer| of_peer(peer, now));
    let networks = overview.networks.iter().flat_map(|network| of_network(network, now));
    let mut checks: Vec<_> = peers.chain(networks).collect();
    if overview.peers.is_empty() {
        checks.push(Check::ok(
            "peer",
            "none",
            "There are no peers yet: `peer invite DOMAIN` writes the bundle for the first.",
        ));
    }
    checks
}

/// One peer: its link first, then what else is worth knowing.
#[must_use]
pub fn of_peer(peer: &PeerView, now: Time) -> Vec<Check> {
    let domain = peer.domain.as_str();
    let mut checks = vec![if has_no_good_pin(peer) { distrusted(domain) } else { link(peer, now) }];
    if peer.state == PeerState::Active && peer.keys_held.is_empty() {
        checks.push(Check::failed(
            "peer",
            domain,
            "We hold no API key of it, so no link can be proven.",
            "Accept its bundle, or give the key its operator sent: `peer add … --api-key-file FILE`.",
        ));
    }
    if peer.next_certificate_ready == Some(false) && peer.state != PeerState::Invited {
        checks.push(Check::warning(
            "peer",
            domain,
            "It has not stored our next certificate.",
            "Wait until it is connected before `identity activate`: it would refuse the new certificate.",
        ));
    }
    if peer.claimed_domains.is_some() {
        checks.push(Check::warning(
            "peer",
            domain,
            "It claims other local domains than those that were approved.",
            format!("Ask its operator, then `peer approve-domains {domain}`; until then the old ones count."),
        ));
    }
    if peer.link == LinkState::Up
        && let Some(age) = old(&peer.outbox, now)
    {
        checks.push(Check::warning(
            "peer",
            domain,
            format!(
                "{} for it, the oldest for {age}, though the link is up.",
                waiting_envelopes(peer.outbox.depth)
            ),
            "It takes less than we have: look at its inbox and disk with its operator, and at the line between.",
        ));
    }
    checks
}

/// Whether every pin of it was revoked: then the link is down because we want it to be, whatever went wrong last.
fn has_no_good_pin(peer: &PeerView) -> bool {
    let good = peer.pins.iter().any(|pin| pin.state != PinState::Revoked);
    peer.state == PeerState::Active && !peer.pins.is_empty() && !good
}

fn distrusted(domain: &str) -> Check {
    Check::failed(
        "peer",
        domain,
        "No certificate of it is trusted: all its pins were revoked here.",
        format!(
            "Nothing is taken from it meanwhile, and what is for it waits. Once its operator has made a new identity, \
             exchange bundles again: `peer invite {domain}`, and `peer accept FILE` of the answer."
        ),
    )
}

fn link(peer: &PeerView, now: Time) -> Check {
    let domain = peer.domain.as_str();
    let since = span(now.since(peer.since));
    let waiting = match peer.outbox.depth {
        0 => String::new(),
        depth => format!(" {} for it.", waiting_envelopes(depth)),
    };
    let error = || peer.last_error.as_deref().map(str::trim).filter(|error| !error.is_empty());
    match (peer.state, peer.link) {
        (PeerState::Invited, _) => Check::warning(
            "peer",
            domain,
            "It was invited, and its answer is not here yet.",
            "Ask its operator for the answering bundle, and `peer accept FILE` it; `peer invite` writes a new \
             invitation when the old one has ended.",
        ),
        (PeerState::Paused, _) => Check::warning(
            "peer",
            domain,
            format!("The peering is paused.{waiting}"),
            format!("`peer resume {domain}` goes on."),
        ),
        (PeerState::Active, LinkState::Alarm) => Check::failed(
            "peer",
            domain,
            format!(
                "The link is stopped by an alarm: {}.{waiting}",
                sentence(error().unwrap_or("watermarks disagree"))
            ),
            format!(
                "One side lost part of its store. Find out with its operator which (a restored backup?), then \
                 `peer resume {domain}`."
            ),
        ),
        (PeerState::Active, LinkState::Up) => {
            let over = peer.transport.as_deref().unwrap_or("?");
            Check::ok("peer", domain, format!("The link is up over {over}, for {since}."))
        }
        (PeerState::Active, LinkState::Down | LinkState::Connecting) => match error() {
            Some(error) => Check::failed(
                "peer",
                domain,
                format!("The link is down for {since}: {}.{waiting}", sentence(error)),
                advice(error, domain),
            ),
            None if now.since(peer.since) < PATIENCE => {
                Check::ok("peer", domain, format!("It is being dialled, for {since}."))
            }
            None => Check::warning(
                "peer",
                domain,
                format!("The link is down for {since}, and no dial has failed.{waiting}"),
                "Look again in a minute; if it stays so, `outbox retry` and the log.",
            ),
        },
    }
}

/// One network: whether its messaging server fetches what is there for it.
#[must_use]
pub fn of_network(network: &NetworkView, now: Time) -> Vec<Check> {
    let id = network.spec.id.as_str();
    let mut checks = Vec::new();
    for (queue, what, from) in
        [(&network.inbox, "envelopes", "/v1/inbox"), (&network.receipts, "receipts", "/v1/receipts")]
    {
        if let Some(age) = old(queue, now) {
            checks.push(Check::warning(
                "network",
                id,
                format!(
                    "{} {what} wait for its messaging server, the oldest for {age}: nobody fetches them.",
                    queue.depth
                ),
                format!(
                    "Start the messaging server, and let it read {from} of the local API and acknowledge."
                ),
            ));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok("network", id, "Nothing waits long for its messaging server."));
    }
    checks
}

fn old(queue: &QueueView, now: Time) -> Option<String> {
    queue.oldest.map(|oldest| now.since(oldest)).filter(|age| *age > OLD).map(span)
}

fn waiting_envelopes(count: u64) -> String {
    if count == 1 { "1 envelope waits".to_owned() } else { format!("{count} envelopes wait") }
}

/// A reason without the full stop that the sentence around it has.
fn sentence(reason: &str) -> &str {
    reason.trim_end_matches('.')
}

/// What to do about the last thing that went wrong, by the words that our own errors and a peer's goodbye use.
fn advice(error: &str, domain: &str) -> String {
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if says(&["which is not one of its pins"]) {
        format!(
            "Ask {domain}'s operator over another way for its pin (`identity show`). If it is the one shown, accept a \
             new bundle; if not, somebody is in between: do not."
        )
    } else if says(&[
        "refused our certificate",
        "not the one that was accepted",
        "certificate or API key was revoked",
    ]) {
        format!(
            "{domain} does not know our certificate: compare pins with its operator (`identity show`), then \
             `peer invite {domain}` and let it accept the new bundle."
        )
    } else if says(&["bad-key", "bad_key", "API key is not one", "no API key was issued"]) {
        format!("The API keys do not match: exchange bundles again, beginning with `peer invite {domain}`.")
    } else if says(&["not-peered", "no such peering here", "peering was ended"]) {
        format!("{domain} has no peering with us (any more): ask its operator, then `peer invite {domain}`.")
    } else if says(&["paused by its operator"]) {
        format!("{domain}'s operator paused the peering: ask for how long. Envelopes wait meanwhile.")
    } else if says(&["another deployment answers"]) {
        format!("{domain}'s endpoints lead to another deployment: ask its operator for the right ones.")
    } else if says(&["set allow_private_ips"]) {
        format!(
            "If that address is meant, both operators exchange bundles again (`peer invite {domain}`) and accept them \
             with --allow-private-ips; if not, {domain}'s endpoints or DNS are wrong."
        )
    } else if says(&["DNS has no"]) {
        format!("Ask {domain}'s operator for the right endpoints, and look whether this machine's DNS works.")
    } else if says(&["does not name", "not good under its CA bundle", "holds no usable certificate"]) {
        format!("Ask {domain}'s operator about its certificate, and for the CA bundle that goes with it.")
    } else if says(&["does not speak trunkline/1", "is a gateway listening there"]) {
        format!("Something else answers at {domain}'s endpoints: ask its operator for the right port.")
    } else if says(&["watermark"]) {
        format!(
            "Find out with {domain}'s operator who lost part of a store, then `peer resume {domain}` on both sides."
        )
    } else if says(&["onnection refused"]) {
        format!(
            "Nothing listens at {domain}'s endpoints: ask its operator whether the gateway runs, and on which port."
        )
    } else if says(&["no answer", "timed out", "nothing was heard", "unreachable"]) {
        format!(
            "Ask {domain}'s operator whether its gateway runs; if it does, a firewall on either side drops UDP and TCP \
             to its port."
        )
    } else if says(&["storage", "shutdown", "is being stopped", "stopping"]) {
        format!(
            "{domain} is stopping or cannot write: it is dialled again by itself; ask its operator if it stays so."
        )
    } else {
        format!(
            "It is dialled again by itself. If it stays so, ask {domain}'s operator what its log says at that time."
        )
    }
}

#[cfg(test)]
mod tests {
    use trunkline_common::ids::Domain;
    use trunkline_gateway_proto::pin::Pin;

    use super::super::Outcome;
    use super::*;
    use crate::admin::fake_hub::peer;
    use crate::link::resolve::ResolveError;
    use crate::link::tls::Refusal;

    const NOW: Time = Time::from_unix_ms(1_800_000_000_000);

    fn beta() -> Domain {
        "beta.test".parse().unwrap()
    }

    fn active(link: LinkState, last_error: Option<&str>) -> PeerView {
        PeerView {
            state: PeerState::Active,
            link,
            since: NOW - Duration::from_secs(3600),
            last_error: last_error.map(str::to_owned),
            keys_held: vec!["k".into()],
            next_certificate_ready: None,
            claimed_domains: None,
            outbox: QueueView::default(),
            ..peer("beta.test", None)
        }
    }

    fn down(error: &str) -> Check {
        of_peer(&active(LinkState::Down, Some(error)), NOW).remove(0)
    }

    #[test]
    fn a_link_that_is_up_is_fine_and_says_since_when() {
        let check = of_peer(&active(LinkState::Up, None), NOW).remove(0);
        assert_eq!((check.outcome, check.advice), (Outcome::Ok, None));
        assert!(check.finding.contains("60m"), "{}", check.finding);
    }

    #[test]
    fn a_link_that_is_down_is_told_with_its_error_and_its_time() {
        let check = down("TCP to 192.0.2.1:8443: Connection refused (os error 111)");
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(
            check.finding.contains("60m") && check.finding.contains("Connection refused"),
            "{}",
            check.finding
        );
    }

    #[test]
    fn every_error_of_a_dial_has_an_advice_of_its_own() {
        let pin = Pin::from_bytes([7; 32]);
        let private =
            ResolveError::Private { name: "gw".into(), address: "10.0.0.1".into(), kind: "private" };
        let no_name = ResolveError::Name { name: "gw".into(), reason: "no such record".into() };
        for (error, expected) in [
            (Refusal::Pin { domain: beta(), pin }.to_string(), "somebody is in between"),
            (Refusal::Name(beta()).to_string(), "CA bundle"),
            (private.to_string(), "--allow-private-ips"),
            (no_name.to_string(), "this machine's DNS"),
            ("the peer refused our certificate: its operator must".into(), "does not know our certificate"),
            (
                "the peer closed the link (bad-key): the API key is not one we issued".into(),
                "API keys do not match",
            ),
            ("the peer closed the link (not-peered): no such peering here".into(), "has no peering with us"),
            ("TCP: Connection refused".into(), "Nothing listens"),
            ("QUIC: no answer: UDP is blocked on the way".into(), "firewall"),
            ("the peer does not speak trunkline/1".into(), "Something else answers"),
            ("something new".into(), "dialled again by itself"),
        ] {
            let advice = down(&error).advice.unwrap();
            assert!(advice.contains(expected), "{error}: {advice}");
        }
    }

    #[test]
    fn what_waits_for_an_operator_is_a_warning_with_the_verb_that_ends_it() {
        for (state, verb) in
            [(PeerState::Invited, "peer accept"), (PeerState::Paused, "peer resume beta.test")]
        {
            let check = of_peer(&PeerView { state, ..active(LinkState::Down, None) }, NOW).remove(0);
            assert_eq!(check.outcome, Outcome::Warning);
            assert!(check.advice.as_deref().unwrap().contains(verb), "{check:?}");
        }
    }

    #[test]
    fn an_alarm_is_a_failure_with_both_operators_in_the_advice() {
        let check = of_peer(&active(LinkState::Alarm, Some("the peer lost 3 envelopes")), NOW).remove(0);
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.advice.unwrap().contains("peer resume beta.test"));
    }

    #[test]
    fn an_old_queue_behind_a_link_that_is_up_is_a_warning() {
        let outbox = QueueView { depth: 3, bytes: 30, oldest: Some(NOW - Duration::from_secs(1200)) };
        let checks = of_peer(&PeerView { outbox, ..active(LinkState::Up, None) }, NOW);
        assert!(
            checks.iter().any(|check| check.outcome == Outcome::Warning && check.finding.contains("20m"))
        );
    }

    #[test]
    fn a_missing_key_an_open_claim_and_a_certificate_not_stored_are_each_told() {
        let peer = PeerView {
            keys_held: Vec::new(),
            next_certificate_ready: Some(false),
            claimed_domains: Some(Vec::new()),
            ..active(LinkState::Up, None)
        };
        assert_eq!(of_peer(&peer, NOW).len(), 4);
    }
}
