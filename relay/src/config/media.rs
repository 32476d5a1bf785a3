//! Where media goes: ports, addresses and codecs, and ingresses in front.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;

use serde::{Deserialize, Serialize};
use trunkline_http::serve::tls::TlsFiles;

use super::limits::PARTICIPANTS_CEILING;
use super::{Fault, PortRange, short};
use crate::sdp::CodecName;

/// Most workers: the ufrag has one byte for them.
pub const WORKERS_CEILING: usize = 255;

/// UDP ports, addresses and codecs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// One of them for every call.
    pub udp_ports: PortRange,
    /// Addresses to take media on; all of this machine when empty.
    pub listen: Vec<IpAddr>,
    /// Addresses that clients are told, instead of those listened on: behind NAT.
    pub advertise: Vec<IpAddr>,
    /// TCP port of media, which clients are told; none when 0.
    pub tcp_port: u16,
    /// Tell clients of TCP only.
    pub force_tcp: bool,
    /// PEM; without it there is no TLS on the TCP port.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
    /// The name in the certificate of the TCP port's TLS: with it, clients are told of TURN within TLS.
    pub tls_name: Option<String>,
    /// Worker threads; one per core when 0.
    pub workers: usize,
    /// People of a call on one worker before it grows onto others.
    pub worker_participants: usize,
    /// Offer DTLS 1.3.
    pub dtls_13: bool,
    /// Codecs in order of preference; those not named are not agreed on.
    pub codecs: Vec<CodecName>,
    /// Holds the key that nodes and their ingresses share: 32 random bytes in base64.
    pub ufrag_key_file: PathBuf,
}

/// Ingresses in front of the node: with `listen`, it is reached through them, and only through them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressConfig {
    /// UDP; where the first worker takes the tunnel's packets. Each further worker has the next port.
    pub listen: Option<SocketAddr>,
    /// Addresses of ingresses, as their packets and requests come here: only these may speak for clients.
    pub from: Vec<IpAddr>,
    /// Their public addresses, which clients are told.
    pub advertise: Vec<IpAddr>,
    /// Their public UDP port.
    pub udp_port: u16,
    /// Their public TCP port; 0 when they have none.
    pub tcp_port: u16,
}

impl MediaConfig {
    /// Workers, counted when they are one per core.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.workers)
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.listen.len() > 1 {
            return Err(("media.listen", "expected one address, or none for all of this machine".into()));
        }
        for (addresses, field) in [(&self.listen, "media.listen"), (&self.advertise, "media.advertise")] {
            short(field, addresses.len())?;
            if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
                return Err((field, "expected addresses of single machines, found one that is not".into()));
            }
        }
        if self.workers > WORKERS_CEILING {
            return Err(("media.workers", format!("expected 0 (one per core) to {WORKERS_CEILING}")));
        }
        if !(1..=PARTICIPANTS_CEILING).contains(&self.worker_participants) {
            let problem = format!("expected 1 to {PARTICIPANTS_CEILING}, found {}", self.worker_participants);
            return Err(("media.worker_participants", problem));
        }
        let names = ["media.tls_certificate", "media.tls_key"];
        TlsFiles::check(&self.tls_certificate, &self.tls_key, names)?;
        if self.force_tcp && self.tcp_port == 0 {
            return Err(("media.force_tcp", "expected false, or a media.tcp_port that is not 0".into()));
        }
        if self.tls_name.as_deref().is_some_and(|name| !is_host(name)) {
            return Err(("media.tls_name", "expected a host name or an IP address".into()));
        }
        let twice = |(index, codec)| self.codecs.iter().skip(index + 1).any(|other| other == codec);
        if self.codecs.is_empty() || self.codecs.iter().enumerate().any(twice) {
            return Err(("media.codecs", "expected at least one codec, and none of them twice".into()));
        }
        Ok(())
    }
}

impl IngressConfig {
    /// Whether there is one, so that calls can go on at other nodes.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.from.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        for (addresses, field) in [(&self.from, "ingress.from"), (&self.advertise, "ingress.advertise")] {
            short(field, addresses.len())?;
            if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
                return Err((field, "expected addresses of single machines, found one that is not".into()));
            }
            if self.listen.is_some() && addresses.is_empty() {
                return Err((field, "expected at least one address, as ingress.listen is set".into()));
            }
        }
        if self.listen.is_some_and(|listen| listen.port() == 0) {
            return Err(("ingress.listen", "expected a port above 0: ingresses have to know it".into()));
        }
        if self.udp_port == 0 {
            return Err(("ingress.udp_port", "expected a port above 0".into()));
        }
        Ok(())
    }
}

/// Threads of a number that may be 0 for one per core.
pub(crate) fn threads(number: usize) -> usize {
    let number =
        if number > 0 { number } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) };
    number.min(WORKERS_CEILING)
}

/// Whether a text can be the host of a URI: a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            udp_ports: PortRange::default(),
            listen: Vec::new(),
            advertise: Vec::new(),
            tcp_port: 443,
            force_tcp: false,
            tls_certificate: None,
            tls_key: None,
            tls_name: None,
            workers: 0,
            worker_participants: 64,
            dtls_13: false,
            codecs: CodecName::DEFAULT.to_vec(),
            ufrag_key_file: "ufrag.key".into(),
        }
    }
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self { listen: None, from: Vec::new(), advertise: Vec::new(), udp_port: 16_384, tcp_port: 443 }
    }
}
