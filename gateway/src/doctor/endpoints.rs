//! Whether peers can reach us: what DNS says, who answers at each address, and what is refused there.

use std::net::SocketAddr;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::directory::PeerRecord;
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::reachable;

use super::Check;
use crate::config::Config;
use crate::link::Transport;
use crate::link::knock::{Answer, Stranger};
use crate::link::resolve::{ResolveError, Resolver, refusal};

/// Addresses of one endpoint that are dialled. More looks at every address of a large site, and takes longer.
const ADDRESSES_MAX: usize = 2;

/// Dials at one time: well below what one source may have pending at the listener.
const DIALS_MAX: usize = 16;

const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::Tcp];

/// What was found at one place that peers are told, or at the listener itself.
#[derive(Debug)]
struct Place {
    name: String,
    addresses: Result<Vec<SocketAddr>, ResolveError>,
}

pub(super) async fn examine(config: &Config, pin: Pin, link: SocketAddr, deadline: Instant) -> Vec<Check> {
    let stranger = match Stranger::new(&config.domain, pin) {
        Ok(stranger) => stranger,
        Err(reason) => {
            let finding =
                format!("The gateway could not be dialled from outside its own identity: {reason}.");
            let advice = "This is a mistake of the program: please report it.";
            return vec![Check::failed("listener", link.to_string(), finding, advice)];
        }
    };
    let listener = async {
        let address = reachable(link);
        knock(&stranger, vec![address], deadline).await
    };
    let outside = async {
        let places = places(config, deadline).await;
        let is_private_meant = config.allow_private_ips;
        let checks: Vec<_> =
            places.iter().map(|place| resolved(place, &config.domain, is_private_meant)).collect();
        let dialled = join_all(places.into_iter().map(async |place| {
            let mut addresses = place.addresses.unwrap_or_default();
            addresses.truncate(ADDRESSES_MAX);
            (place.name, knock(&stranger, addresses, deadline).await)
        }));
        (checks, dialled.await)
    };
    let (at_listener, (mut checks, dialled)) = tokio::join!(listener, outside);
    for transport in TRANSPORTS {
        let here = of(&at_listener, transport);
        let Some((_, answer)) = here.first() else { continue };
        checks.push(listening(link, transport, answer));
        for (name, answers) in &dialled {
            let answers = of(answers, transport);
            checks.extend(advertised(name, transport, &answers, *answer == Answer::Refused));
        }
    }
    checks
}

/// All places peers are told, resolved.
async fn places(config: &Config, deadline: Instant) -> Vec<Place> {
    let resolver = Resolver::new(&[]);
    let named = |endpoints: Vec<String>| {
        // Private addresses are looked at as well: they are named, not refused.
        let ourselves = PeerRecord {
            endpoints,
            allow_private_ips: true,
            ..PeerRecord::new(PeerKey(0), config.domain.clone(), Time::default())
        };
        let resolver = &resolver;
        async move {
            let name = ourselves.endpoints.first().cloned().unwrap_or_else(|| record(&config.domain));
            let late =
                || ResolveError::Name { name: name.clone(), reason: "DNS did not answer in time".into() };
            let addresses = timeout_at(deadline, resolver.resolve(&ourselves)).await;
            Place { addresses: addresses.unwrap_or_else(|_| Err(late())), name }
        }
    };
    if config.link.advertise.is_empty() {
        return vec![named(Vec::new()).await];
    }
    join_all(config.link.advertise.iter().map(|endpoint| named(vec![endpoint.clone()]))).await
}

async fn knock(
    stranger: &Stranger,
    addresses: Vec<SocketAddr>,
    deadline: Instant,
) -> Vec<(SocketAddr, Transport, Answer)> {
    let dials = addresses.into_iter().flat_map(|address| TRANSPORTS.map(|transport| (address, transport)));
    let dials = stream::iter(dials).map(|(address, transport)| async move {
        let late = || Answer::Unreachable("there was no time left to dial it".to_owned());
        let answer = timeout_at(deadline, stranger.knock(address, transport)).await;
        (address, transport, answer.unwrap_or_else(|_| late()))
    });
    dials.buffer_unordered(DIALS_MAX).collect().await
}

fn of(answers: &[(SocketAddr, Transport, Answer)], transport: Transport) -> Vec<(SocketAddr, Answer)> {
    let answers = answers.iter().filter(|(_, over, _)| *over == transport);
    answers.map(|(address, _, answer)| (*address, answer.clone())).collect()
}

/// The record that peers look for.
fn record(domain: &Domain) -> String {
    format!("_trunkline._udp.{domain}")
}

/// What DNS says of a place, and whether peers may dial what it says.
fn resolved(place: &Place, domain: &Domain, private_is_meant: bool) -> Check {
    let name = place.name.as_str();
    match &place.addresses {
        Err(ResolveError::Srv { reason, .. }) => Check::failed(
            "dns",
            name,
            format!(
                "Peers cannot find this gateway: link.advertise is empty, and DNS has no SRV record ({reason})."
            ),
            format!(
                "Set link.advertise to the host:port where peers reach it, or publish \
                 `{}. SRV 0 0 8443 gw.{domain}.`",
                record(domain)
            ),
        ),
        Err(error) => Check::failed(
            "dns",
            name,
            format!("Peers cannot resolve it: {}.", reason(error)),
            "Publish an A or AAAA record for the name, or correct link.advertise.",
        ),
        Ok(addresses) => {
            let list =
                addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            let private =
                addresses.iter().find_map(|address| refusal(address.ip()).map(|kind| (address, kind)));
            match private {
                None => Check::ok("dns", name, format!("It leads to {list}.")),
                Some((address, kind)) if private_is_meant => Check::ok(
                    "dns",
                    name,
                    format!(
                        "It leads to {list}; {} is {kind}, which allow_private_ips says is meant.",
                        address.ip()
                    ),
                ),
                Some((address, kind)) => Check::warning(
                    "dns",
                    name,
                    format!(
                        "It leads to {list}; {} is {kind}: peers elsewhere cannot reach it, and refuse to dial it.",
                        address.ip()
                    ),
                    "Advertise a public address, or have each peer accept the bundle with --allow-private-ips.",
                ),
            }
        }
    }
}

fn reason(error: &ResolveError) -> String {
    match error {
        ResolveError::Name { reason, .. } | ResolveError::Srv { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn label(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "QUIC (UDP)",
        Transport::Tcp => "TCP",
    }
}

const SHOWS_OURS: &str = "shows our certificate, and refuses one that nobody trusts";

/// Who answers at our own listener.
fn listening(link: SocketAddr, transport: Transport, answer: &Answer) -> Check {
    let subject = format!("{} at {link}", label(transport));
    match answer {
        Answer::Refused => Check::ok("listener", subject, format!("The gateway answers, {SHOWS_OURS}.")),
        Answer::LetIn => let_in("listener", subject),
        Answer::Another(pin) => Check::failed(
            "listener",
            subject,
            format!("Another program answers at our own port: it shows a certificate with pin {pin}."),
            "Find out which (`ss -tulpn`), stop it or change link.listen, and restart the gateway.",
        ),
        Answer::Unreachable(reason) => Check::failed(
            "listener",
            subject,
            format!("The gateway does not answer at its own port: {reason}."),
            "Look whether a firewall on this machine drops it, and into the log; then restart the gateway.",
        ),
    }
}

/// Who answers at an advertised place. Nothing to say about one that has no address: DNS said it.
fn advertised(
    name: &str,
    transport: Transport,
    answers: &[(SocketAddr, Answer)],
    listener_answers: bool,
) -> Option<Check> {
    let subject = format!("{} at {name}", label(transport));
    let bad = answers.iter().find(|(_, answer)| *answer != Answer::Refused);
    let good = answers.iter().any(|(_, answer)| *answer == Answer::Refused);
    let Some((address, answer)) = bad else {
        return good
            .then(|| Check::ok("endpoint", subject, format!("This gateway answers there, {SHOWS_OURS}.")));
    };
    Some(match answer {
        Answer::Refused | Answer::LetIn => let_in("endpoint", subject),
        Answer::Another(pin) => Check::failed(
            "endpoint",
            subject,
            format!("Another certificate than ours is shown at {address}, with pin {pin}: peers refuse it."),
            "Correct link.advertise, DNS or the port forwarding: another gateway or a TLS proxy answers there.",
        ),
        Answer::Unreachable(reason) => {
            let finding = format!("It cannot be reached at {address}: {reason}.");
            let advice = if listener_answers {
                format!(
                    "The gateway itself answers, so look at what is between: the port in link.advertise, the firewall \
                     for {}, port forwarding. A router may also keep a machine from its own outside address: a peer's \
                     `doctor` tells.",
                    label(transport)
                )
            } else {
                "The gateway does not answer at its own port either: begin there.".to_owned()
            };
            // Peers find their way around one dead address, and around a blocked transport of one.
            if good {
                Check::warning("endpoint", subject, finding, advice)
            } else {
                Check::failed("endpoint", subject, finding, advice)
            }
        }
    })
}

fn let_in(check: &str, subject: String) -> Check {
    Check::failed(
        check,
        subject,
        "A certificate that nobody trusts was not refused within two seconds.",
        "If the gateway is very busy, look again later; if not, this is a mistake of the program: close the port and \
         report it.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn domain() -> Domain {
        "alpha.test".parse().unwrap()
    }

    fn place(addresses: &[&str]) -> Place {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Place { name: "gw.alpha.test:8443".into(), addresses: Ok(addresses) }
    }

    fn at(answer: Answer) -> Vec<(SocketAddr, Answer)> {
        vec![("192.0.2.7:8443".parse().unwrap(), answer)]
    }

    fn unreachable() -> Answer {
        Answer::Unreachable("connection refused".into())
    }

    #[test]
    fn a_private_address_is_named_and_is_wrong_only_where_it_is_not_meant() {
        let place = place(&["10.0.0.7:8443"]);
        let check = resolved(&place, &domain(), false);
        assert_eq!(check.outcome, Outcome::Warning);
        assert!(check.finding.contains("10.0.0.7 is private"), "{}", check.finding);
        let meant = resolved(&place, &domain(), true);
        assert_eq!(meant.outcome, Outcome::Ok);
        assert!(meant.finding.contains("10.0.0.7 is private"), "{}", meant.finding);
    }

    #[test]
    fn a_public_address_is_fine() {
        assert_eq!(resolved(&place(&["8.8.8.8:8443"]), &domain(), false).outcome, Outcome::Ok);
    }

    #[test]
    fn without_endpoints_the_missing_record_is_given_to_publish() {
        let error = ResolveError::Srv {
            domain: domain(),
            record: record(&domain()),
            reason: "no such record".into(),
        };
        let check = resolved(&Place { name: record(&domain()), addresses: Err(error) }, &domain(), false);
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.advice.unwrap().contains("_trunkline._udp.alpha.test. SRV"));
    }

    #[test]
    fn a_stranger_that_sees_our_certificate_and_is_refused_is_what_should_happen() {
        let check = advertised("gw:8443", Transport::Quic, &at(Answer::Refused), true).unwrap();
        assert_eq!((check.outcome, check.advice), (Outcome::Ok, None));
    }

    #[test]
    fn a_stranger_that_is_let_in_is_a_failure() {
        let check = advertised("gw:8443", Transport::Tcp, &at(Answer::LetIn), true).unwrap();
        assert_eq!(check.outcome, Outcome::Failed);
    }

    #[test]
    fn another_certificate_is_named_by_its_pin() {
        let pin = Pin::from_bytes([7; 32]);
        let check = advertised("gw:8443", Transport::Tcp, &at(Answer::Another(pin)), true).unwrap();
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.finding.contains(&pin.to_string()), "{}", check.finding);
    }

    #[test]
    fn what_to_look_at_depends_on_whether_the_listener_itself_answers() {
        let advice =
            |answers| advertised("gw:8443", Transport::Tcp, &at(unreachable()), answers).unwrap().advice;
        assert!(advice(true).unwrap().contains("firewall"));
        assert!(advice(false).unwrap().contains("begin there"));
    }

    #[test]
    fn one_dead_address_of_two_is_a_warning() {
        let answers = [at(unreachable()), at(Answer::Refused)].concat();
        let check = advertised("gw:8443", Transport::Quic, &answers, true).unwrap();
        assert_eq!(check.outcome, Outcome::Warning);
    }

    #[test]
    fn a_place_without_addresses_is_not_reported_twice() {
        assert_eq!(advertised("gw:8443", Transport::Quic, &[], true), None);
    }
}
