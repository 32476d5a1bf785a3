//! `ingress --check`: everything that can be known before the ingress starts, without starting it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use trunkline_http::cli::check::{Check, Outcome};
use trunkline_http::serve::tls::{Tls, TlsFiles};

use super::config::{IngressConfig, MediaConfig};
use super::front;
use crate::check::api as listens;
use crate::key;
use crate::registry;
use crate::registry::rows::reaches;
use crate::tcp::PROTOCOLS;

/// Looks at everything. The configuration itself was checked when it was loaded.
#[must_use]
pub fn all(config: &IngressConfig) -> Vec<Check> {
    let check = |what, outcome| Check { what, outcome };
    let (api, media) = (&config.api, &config.media);
    let api_tls = TlsFiles::of(&api.tls_certificate, &api.tls_key).map(Tls::load).transpose();
    let media_tls = TlsFiles::of(&media.tls_certificate, &media.tls_key);
    let media_tls = media_tls.map(|files| Tls::load_for(files, PROTOCOLS)).transpose();
    vec![
        check("api.listen", listens(api.listen, api.tls_certificate.is_some(), IN_THE_WAY)),
        check("api TLS", api_tls.into()),
        check(
            "api.nodes_ca",
            api.nodes_ca.as_deref().map_or(Outcome::Fine, |path| front::authorities(path).into()),
        ),
        check("media.ufrag_key_file", key::read(&media.ufrag_key_file).into()),
        check("media TLS", media_tls.into()),
        check("media.udp_port", udp(media)),
        check("media.tcp_port", tcp(media)),
        check("tunnel.listen", tunnel(config)),
        check("registry", registry::check::ingress(config)),
    ]
}

/// What may keep the API from listening.
const IN_THE_WAY: &str = "is the ingress running already, is the address this machine's?";

/// Where the public ports are: all addresses of this machine, if none is named.
fn public(media: &MediaConfig) -> IpAddr {
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let any = if has_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    media.listen.first().copied().unwrap_or(any)
}

fn udp(media: &MediaConfig) -> Outcome {
    let address = SocketAddr::new(public(media), media.udp_port);
    match UdpSocket::bind(address) {
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Failed(format!(
            "cannot listen on UDP {address} ({error}): is the ingress running already, is the address this machine's?"
        )),
    }
}

fn tcp(media: &MediaConfig) -> Outcome {
    if media.tcp_port == 0 {
        return Outcome::Warning("no TCP: people whose networks block UDP cannot join".into());
    }
    let address = SocketAddr::new(public(media), media.tcp_port);
    match TcpListener::bind(address) {
        Ok(_) if media.tls_certificate.is_none() => {
            Outcome::Warning("no certificate: networks that let only TLS through keep people out".into())
        }
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Failed(format!(
            "cannot listen on TCP {address} ({error}): is the ingress running already, may this user bind the port?"
        )),
    }
}

/// Every thread has a port of its own, from which every node can be reached.
fn tunnel(config: &IngressConfig) -> Outcome {
    let threads = config.media.threads();
    for number in 0..threads {
        let Some(address) = config.tunnel.of(number) else {
            let text = format!("no port is left for thread {number} of {threads}: expected a lower port");
            return Outcome::Failed(text);
        };
        if let Err(error) = UdpSocket::bind(address) {
            return Outcome::Failed(format!(
                "cannot listen on UDP {address} ({error}): is the ingress running already, is the address this \
                 machine's?"
            ));
        }
    }
    let from = config.tunnel.listen.ip();
    if let Some(node) = config.nodes.iter().find(|node| !reaches(from, node.tunnel.ip())) {
        return Outcome::Failed(format!(
            "node {} is at {}, which cannot be reached from {from}: expected addresses of one kind",
            node.node,
            node.tunnel.ip()
        ));
    }
    Outcome::Fine
}
