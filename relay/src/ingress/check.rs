//! `ingress --check`: everything that can be known before the ingress starts, without starting it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use trunkline_http::cli::check::{Check, Outcome};
use trunkline_http::serve::tls::{Tls, TlsFiles};

use super::config::{ApiConfig, IngressConfig, MediaConfig};
use super::front;
use crate::key;
use crate::registry;
use crate::registry::rows::reaches;
use crate::tcp::PROTOCOLS;

/// Looks at everything. The configuration itself was checked when it was loaded.
#[must_use]
pub fn all(config: &IngressConfig) -> Vec<Check> {
    let check = |what, outcome| Check { what, outcome };
    let media = &config.media;
    vec![
        check("api.listen", api(&config.api)),
        check("api TLS", api_tls_files(&config.api).map_or(Outcome::Fine, |files| Tls::load(files).into())),
        check(
            "api.nodes_ca",
            config.api.nodes_ca.as_deref().map_or(Outcome::Fine, |path| front::authorities(path).into()),
        ),
        check("media.ufrag_key_file", key::read(&media.ufrag_key_file).into()),
        check(
            "media TLS",
            tls_files(media).map_or(Outcome::Fine, |files| Tls::load_for(files, PROTOCOLS).into()),
        ),
        check("media.udp_port", udp(media)),
        check("media.tcp_port", tcp(media)),
        check("tunnel.listen", tunnel(config)),
        check("registry", registry::check::ingress(config)),
    ]
}

/// The files of the certificate for media within TLS, when there is one.
#[must_use]
pub fn tls_files(media: &MediaConfig) -> Option<TlsFiles> {
    let (certificate, key) = (media.tls_certificate.clone()?, media.tls_key.clone()?);
    Some(TlsFiles { certificate, key })
}

/// The files of the API's certificate, when it has one.
#[must_use]
pub fn api_tls_files(api: &ApiConfig) -> Option<TlsFiles> {
    let (certificate, key) = (api.tls_certificate.clone()?, api.tls_key.clone()?);
    Some(TlsFiles { certificate, key })
}

fn api(api: &ApiConfig) -> Outcome {
    match TcpListener::bind(api.listen) {
        Ok(_) if api.tls_certificate.is_none() && !api.listen.ip().is_loopback() => Outcome::Warning(
            "plain HTTP beyond loopback: whoever sees the traffic sees the tokens, and browsers lend no camera".into(),
        ),
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Failed(format!(
            "cannot listen on TCP {} ({error}): is the ingress running already, is the address this machine's?",
            api.listen
        )),
    }
}

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
