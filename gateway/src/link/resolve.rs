//! Where a peer is: its endpoints, or DNS SRV `_trunkline._udp.<domain>`, resolved and filtered once. Dials go to
//! exactly the addresses that come out, so a name cannot point elsewhere between the check and the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use thiserror::Error;
use trunkline_common::ids::Domain;
use trunkline_common::redact;
use trunkline_gateway_proto::bundle::split_endpoint;
use trunkline_gateway_proto::directory::PeerRecord;

/// Addresses tried in one dial. More lets a peer with many dead ones hold a dial for longer.
pub const ADDRESSES_MAX: usize = 8;

/// How long DNS may take. Longer waits for slow servers, and delays the report of a missing one.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is nowhere to dial. Text for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// An endpoint that is not `host:port`.
    #[error("endpoint `{0}` is not host:port: correct the peer's endpoints")]
    Endpoint(String),
    /// A name without addresses, or an unreachable DNS server.
    #[error(
        "DNS has no address for {name} ({reason}): check the peer's endpoints, and this machine's DNS servers"
    )]
    Name {
        /// Which name.
        name: String,
        /// What DNS said.
        reason: String,
    },
    /// No endpoints, and no SRV record either.
    #[error(
        "{domain} has no endpoints and DNS has no {record} ({reason}): set the peer's endpoints, or ask its operator to publish the record"
    )]
    Srv {
        /// Whom.
        domain: Domain,
        /// Which record.
        record: String,
        /// What DNS said.
        reason: String,
    },
    /// Every address is one that the guard refuses.
    #[error(
        "{name} resolves to {address}, which is {kind}: refused; set allow_private_ips on the peer if that is meant"
    )]
    Private {
        /// Which name.
        name: String,
        /// The first address, when the log detail shows addresses.
        address: String,
        /// What is wrong with it.
        kind: &'static str,
    },
}

/// Asks DNS.
#[derive(Clone)]
pub struct Resolver(Result<TokioResolver, String>);

impl Resolver {
    /// With the system's configuration, or with these servers instead. A broken configuration is reported when
    /// a name must be resolved: addresses need no DNS.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Self {
        let build = || -> Result<TokioResolver, NetError> {
            let mut builder = if servers.is_empty() {
                TokioResolver::builder_tokio()?
            } else {
                let config =
                    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
                Hickory::builder_with_config(config, TokioRuntimeProvider::default())
            };
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.timeout = DNS_TIMEOUT / 2;
            options.attempts = 1;
            builder.build()
        };
        Self(build().map_err(|error| error.to_string()))
    }

    /// The addresses to dial a peer at, in order, at most [`ADDRESSES_MAX`].
    ///
    /// # Errors
    /// When there is none; says what to do.
    pub async fn resolve(&self, peer: &PeerRecord) -> Result<Vec<SocketAddr>, ResolveError> {
        let targets = if peer.endpoints.is_empty() {
            self.services(&peer.domain).await?
        } else {
            let target = |endpoint: &String| match split_endpoint(endpoint) {
                Some((host, port)) => Ok((host.to_owned(), port)),
                None => Err(ResolveError::Endpoint(endpoint.clone())),
            };
            peer.endpoints.iter().map(target).collect::<Result<_, _>>()?
        };
        let mut found = Vec::new();
        let mut failure = None;
        for (host, port) in targets {
            match self.addresses(&host).await {
                Ok(addresses) => {
                    let checked = guard(&host, addresses, peer.allow_private_ips);
                    match checked {
                        Ok(addresses) => {
                            found.extend(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)));
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                Err(error) => failure = Some(error),
            }
            if found.len() >= ADDRESSES_MAX {
                found.truncate(ADDRESSES_MAX);
                break;
            }
        }
        match failure {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Hosts and ports of the peer's SRV records (RFC 2782), lowest priority first, heavier first.
    async fn services(&self, domain: &Domain) -> Result<Vec<(String, u16)>, ResolveError> {
        let record = format!("_trunkline._udp.{domain}");
        let failed = |reason| ResolveError::Srv { domain: domain.clone(), record: record.clone(), reason };
        let resolver = self.0.as_ref().map_err(|error| failed(error.clone()))?;
        let query = resolver.lookup(format!("{record}."), RecordType::SRV);
        let lookup = match tokio::time::timeout(DNS_TIMEOUT, query).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return Err(failed(explain(&error))),
            Err(_) => return Err(failed("the DNS server did not answer".to_owned())),
        };
        let service = |data: &RData| match data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(srv.clone()),
            _ => None,
        };
        let mut services: Vec<_> = lookup.answers().iter().filter_map(|r| service(&r.data)).collect();
        if services.is_empty() {
            return Err(failed("the answer holds no service".to_owned()));
        }
        services.sort_by_key(|srv| (srv.priority, std::cmp::Reverse(srv.weight)));
        services.truncate(ADDRESSES_MAX);
        Ok(services.iter().map(|srv| (srv.target.to_string(), srv.port)).collect())
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let failed = |reason| ResolveError::Name { name: host.to_owned(), reason };
        let resolver = self.0.as_ref().map_err(|error| failed(error.clone()))?;
        match tokio::time::timeout(DNS_TIMEOUT, resolver.lookup_ip(host)).await {
            Ok(Ok(lookup)) => Ok(lookup.iter().collect()),
            Ok(Err(error)) => Err(failed(explain(&error))),
            Err(_) => Err(failed("the DNS server did not answer".to_owned())),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver(..)")
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn explain(error: &NetError) -> String {
    if error.is_no_records_found() || error.is_nx_domain() {
        "no such record".to_owned()
    } else {
        error.to_string()
    }
}

fn guard(host: &str, addresses: Vec<IpAddr>, allow_private: bool) -> Result<Vec<IpAddr>, ResolveError> {
    if allow_private {
        return Ok(addresses);
    }
    let refused = addresses.iter().find_map(|ip| refusal(*ip).map(|kind| (*ip, kind)));
    let public: Vec<_> = addresses.into_iter().filter(|ip| refusal(*ip).is_none()).collect();
    match refused {
        Some((address, kind)) if public.is_empty() => Err(ResolveError::Private {
            name: host.to_owned(),
            address: redact::ip(&address).to_string(),
            kind,
        }),
        _ => Ok(public),
    }
}

/// Why an address is not dialled without the operator's leave; `None` when it is public.
#[must_use]
pub fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refusal_v4(v4),
        IpAddr::V6(v6) => refusal_v6(v6),
    }
}

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (127, ..) => Some("loopback"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("private"),
        (169, 254, _) => Some("link-local"),
        (100, 64..=127, _) => Some("shared address space (carrier-grade NAT)"),
        (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) | (198, 18 | 19, _) => {
            Some("reserved for documentation or tests")
        }
        (224..=239, ..) => Some("multicast"),
        (240.., ..) => Some("reserved or broadcast"),
        _ => None,
    }
}

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        refusal_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_loopback() => Some("loopback"),
        // Mapped and compatible addresses reach IPv4 around a check of IPv4.
        (0, 0) if (c, d, e) == (0, 0, 0) && (f == 0xffff || f == 0) => Some("an IPv4 address in disguise"),
        // Translators (RFC 6052, RFC 3056) lead to the IPv4 address inside.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => embedded(g, h),
        (0x64, 0xff9b) => Some("private"),
        (0x2002, _) => embedded(b, c),
        (0x2001, 0) => Some("a Teredo tunnel"),
        (0x2001, 0xdb8) => Some("reserved for documentation or tests"),
        (0xfc00..=0xfdff, _) => Some("private (unique local)"),
        (0xfe80..=0xfeff, _) => Some("link-local"),
        (0xff00.., _) => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(refusal(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_dialled() {
        for text in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2600::1", "64:ff9b::808:808", "2002:808:808::"]
        {
            assert_eq!(refusal(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_name_with_both_kinds_of_address_is_dialled_at_the_public_one() {
        let addresses = || vec!["10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap()];
        assert_eq!(guard("x", addresses(), false).unwrap(), ["8.8.8.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(guard("x", addresses(), true).unwrap().len(), 2);
    }
}
