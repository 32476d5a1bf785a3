//! `node --check`: everything that can be known before the node starts, without starting it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use trunkline_common::secret;
use trunkline_http::cli::check::{Check, Outcome, writable};
use trunkline_http::serve::tls::{Tls, TlsFiles};

use crate::config::{Config, MediaConfig};
use crate::key;
use crate::node::{StartError, listen_tcp};
use crate::registry;
use crate::token::Tokens;

/// Looks at everything. The configuration itself was checked when it was loaded.
#[must_use]
pub fn all(config: &Config) -> Vec<Check> {
    let check = |what, outcome| Check { what, outcome };
    let tls = |certificate, key| TlsFiles::of(certificate, key).map(Tls::load).transpose().into();
    let behind_ingress = config.ingress.listen.is_some();
    vec![
        check("api.listen", api(config.api.listen, config.api.tls_certificate.is_some(), IN_THE_WAY)),
        check("api TLS", tls(&config.api.tls_certificate, &config.api.tls_key)),
        check("api.admin_token_file", secret::read(&config.api.admin_token_file).into()),
        check("tokens", Tokens::load(&config.tokens).into()),
        check("media.ufrag_key_file", key::read(&config.media.ufrag_key_file).into()),
        check("media.listen", addresses(&config.media.listen)),
        check("media.udp_ports", if behind_ingress { Outcome::Fine } else { ports(config) }),
        check("media.tcp_port", if behind_ingress { Outcome::Fine } else { tcp_port(&config.media) }),
        check("media TLS", tls(&config.media.tls_certificate, &config.media.tls_key)),
        check("media.advertise", if behind_ingress { Outcome::Fine } else { advertise(&config.media) }),
        check("ingress.listen", config.ingress.listen.map_or(Outcome::Fine, |listen| tunnel(config, listen))),
        check("records.directory", records(config)),
        check("registry", registry::check::node(config)),
    ]
}

/// What may keep the API from listening.
const IN_THE_WAY: &str =
    "is the relay running already, is the address this machine's, may this user bind the port?";

/// Whether an API can listen; `in_the_way` is asked when it cannot.
pub(crate) fn api(listen: SocketAddr, has_tls: bool, in_the_way: &str) -> Outcome {
    match TcpListener::bind(listen) {
        Ok(_) if !has_tls && !listen.ip().is_loopback() => Outcome::Warning(
            "plain HTTP beyond loopback: whoever sees the traffic sees the tokens, and browsers lend no camera".into(),
        ),
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Failed(format!("cannot listen on TCP {listen} ({error}): {in_the_way}")),
    }
}

fn addresses(listen: &[IpAddr]) -> Outcome {
    for address in listen {
        if let Err(error) = UdpSocket::bind(SocketAddr::new(*address, 0)) {
            return Outcome::Failed(format!(
                "cannot take media on {address} ({error}): is it this machine's?"
            ));
        }
    }
    let bindable = |address: IpAddr| UdpSocket::bind(SocketAddr::new(address, 0)).is_ok();
    match (bindable(Ipv4Addr::UNSPECIFIED.into()), bindable(Ipv6Addr::UNSPECIFIED.into())) {
        _ if !listen.is_empty() => Outcome::Fine,
        (true, true) => Outcome::Fine,
        (true, false) => {
            Outcome::Warning("this machine has no IPv6: calls are reached over IPv4 only".into())
        }
        (false, true) => {
            Outcome::Warning("this machine has no IPv4: calls are reached over IPv6 only".into())
        }
        (false, false) => Outcome::Failed("no UDP socket can be made, neither IPv4 nor IPv6".into()),
    }
}

/// Every worker has a port of its own.
fn tunnel(config: &Config, listen: SocketAddr) -> Outcome {
    let workers = config.media.threads();
    for number in 0..workers {
        let port = u16::try_from(number).ok().and_then(|number| listen.port().checked_add(number));
        let Some(port) = port else {
            let text = format!("no port is left for worker {number} of {workers}: expected a lower port");
            return Outcome::Failed(text);
        };
        if let Err(error) = UdpSocket::bind((listen.ip(), port)) {
            return Outcome::Failed(format!(
                "cannot bind UDP {}:{port} ({error}): is the relay running already, is the address this machine's?",
                listen.ip()
            ));
        }
    }
    if listen.ip().is_unspecified() {
        return Outcome::Warning(
            "taken on every address: let nobody but the ingresses reach these ports, or name one address"
                .into(),
        );
    }
    Outcome::Fine
}

fn ports(config: &Config) -> Outcome {
    let range = config.media.udp_ports;
    let any = if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let address = config.media.listen.first().copied().unwrap_or(any);
    let (mut free, mut used) = (0_usize, 0_usize);
    for port in range.ports() {
        match UdpSocket::bind(SocketAddr::new(address, port)) {
            Ok(_) => free += 1,
            Err(error) if error.kind() == ErrorKind::AddrInUse => used += 1,
            Err(error) => {
                return Outcome::Failed(format!(
                    "cannot bind UDP port {port} ({error}): may this user bind ports of {range}?"
                ));
            }
        }
    }
    let calls_max = config.limits.calls_max;
    match (free, used) {
        (0, _) => Outcome::Failed(format!("all UDP ports of {range} are in use: expected other ports")),
        (free, _) if free < calls_max => Outcome::Warning(format!(
            "{free} UDP ports are free, fewer than limits.calls_max = {calls_max}: further calls are refused"
        )),
        (_, 0) => Outcome::Fine,
        (_, used) => {
            Outcome::Warning(format!("{used} UDP ports of {range} are in use elsewhere and are skipped"))
        }
    }
}

fn tcp_port(media: &MediaConfig) -> Outcome {
    match listen_tcp(media.tcp_port, &media.listen) {
        Ok(Some(_)) => Outcome::Fine,
        Ok(None) => Outcome::Warning(
            "media.tcp_port is 0: people whose network blocks UDP cannot take part in calls".into(),
        ),
        Err(StartError::TcpPort { port, source }) => {
            let help = StartError::what_to_do(&source);
            Outcome::Failed(format!("cannot listen on TCP port {port} ({source}): {help}"))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn advertise(media: &MediaConfig) -> Outcome {
    let families =
        |v4: bool| media.listen.is_empty() || media.listen.iter().any(|address| address.is_ipv4() == v4);
    for address in &media.advertise {
        if !families(address.is_ipv4()) {
            return Outcome::Failed(format!(
                "{address} is told to clients, but media.listen has no address of its kind"
            ));
        }
    }
    let private = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    };
    if media.advertise.is_empty() && !media.listen.is_empty() && media.listen.iter().all(private) {
        return Outcome::Warning(
            "media.listen has private addresses only: people elsewhere need media.advertise".into(),
        );
    }
    Outcome::Fine
}

fn records(config: &Config) -> Outcome {
    match &config.records.directory {
        None => Outcome::Fine,
        Some(directory) => writable(directory, "the relay").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{Options, init};

    /// What came of a check on a fresh node whose configuration was changed.
    fn outcomes(change: impl FnOnce(&mut Config)) -> Vec<Check> {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            dir: dir.path().join("relay"),
            node: 1,
            listen: Some("127.0.0.1:0".parse().unwrap()),
            media_listen: vec!["127.0.0.1".parse().unwrap()],
            advertise: vec!["192.0.2.1".parse().unwrap()],
            tcp_port: Some(0),
            ..Options::default()
        };
        let mut config = Config::load(&init(&options).unwrap().config).unwrap();
        config.limits.calls_max = 10;
        change(&mut config);
        all(&config)
    }

    fn said(checks: &[Check], what: &str) -> Outcome {
        checks.iter().find(|check| check.what == what).unwrap().outcome.clone()
    }

    #[test]
    fn a_fresh_node_passes() {
        let checks = outcomes(|_| {});
        assert_eq!(checks.iter().find_map(Check::failure), None);
    }

    #[test]
    fn what_would_fail_at_the_start_fails_here_with_a_sentence() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), "2001:db8::1".parse().unwrap());
        let port = one.local_addr().unwrap().port();
        let checks = outcomes(|config| {
            config.api.listen = held.local_addr().unwrap();
            config.api.admin_token_file = "missing".into();
            config.api.tls_certificate = Some("missing".into());
            config.api.tls_key = Some("missing".into());
            config.media.ufrag_key_file = "missing".into();
            config.tokens.hs256_secret_file = Some("missing".into());
            config.media.udp_ports = format!("{port}-{port}").parse().unwrap();
            config.media.tcp_port = held.local_addr().unwrap().port();
            config.media.tls_certificate = Some("missing".into());
            config.media.tls_key = Some("missing".into());
            config.media.advertise = vec![other];
            config.records.directory = Some("missing".into());
        });
        for check in &checks {
            let fails = !["media.listen", "ingress.listen", "registry"].contains(&check.what);
            assert_eq!(check.failure().is_some(), fails, "{check:?}");
        }
    }

    #[test]
    fn ports_that_others_use_are_counted() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port().min(65_000);
        let range = format!("{port}-{}", port + 20);
        let checks = outcomes(|config| {
            config.media.udp_ports = range.parse().unwrap();
            config.limits.calls_max = 2;
        });
        let Outcome::Warning(text) = said(&checks, "media.udp_ports") else { panic!("{checks:?}") };
        assert!(text.ends_with("are in use elsewhere and are skipped"), "{text}");
    }

    #[test]
    fn behind_an_ingress_the_tunnels_ports_are_looked_at_instead_of_those_of_calls() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let checks = outcomes(|config| {
            config.media.udp_ports = format!("{port}-{port}").parse().unwrap();
            config.ingress.listen = held.local_addr().ok();
        });
        assert_eq!(said(&checks, "media.udp_ports"), Outcome::Fine);
        let Outcome::Failed(text) = said(&checks, "ingress.listen") else { panic!("{checks:?}") };
        assert!(text.contains("cannot bind UDP"), "{text}");
    }
}
