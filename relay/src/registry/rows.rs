//! What nodes and ingresses say of themselves, and what of it is believed. What comes from the database is checked as a
//! configuration is, and more: it is bounded, and the row's proof has to hold. Pure.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use reqwest::Url;

use super::OLD_AFTER;
use super::proof::Prover;
use crate::ingress::config::NodeConfig;
use crate::node::random_bytes;

/// Bytes of a text in a row, the longest of which is the URL of an API.
pub const TEXT_BYTES_MAX: usize = 256;

/// Bytes of a program's version, and of what tells one start of a program from another.
const WORD_BYTES_MAX: usize = 32;

/// Which table a proof is for.
const NODE: &str = "node";
const INGRESS: &str = "ingress";

/// What a node says: what a `[[nodes]]` entry says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its number, tunnel and API.
    pub node: NodeConfig,
    /// Which release it runs.
    pub version: String,
    /// Made up at each start.
    pub instance: String,
}

/// What an ingress says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRow {
    /// Its host and where its tunnel listens.
    pub name: String,
    /// The address that its packets and requests come from; none when the system chooses.
    pub source: Option<IpAddr>,
    /// Which release it runs.
    pub version: String,
    /// Made up at each start.
    pub instance: String,
}

/// A row of nodes as the database gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredNode {
    /// Number of the node.
    pub node: i32,
    /// Where its tunnel listens.
    pub tunnel: String,
    /// The URL of its API.
    pub api: String,
    /// Which release it runs.
    pub version: String,
    /// Made up at each start.
    pub instance: String,
    /// That it has the deployment's key.
    pub proof: Vec<u8>,
    /// Seconds since it was written, by the database's clock.
    pub age_s: f64,
}

/// A row of ingresses as the database gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredIngress {
    /// Its host and where its tunnel listens.
    pub name: String,
    /// The address it sends from; empty when the system chooses.
    pub source: String,
    /// Which release it runs.
    pub version: String,
    /// Made up at each start.
    pub instance: String,
    /// That it has the deployment's key.
    pub proof: Vec<u8>,
    /// Seconds since it was written, by the database's clock.
    pub age_s: f64,
}

/// A row that is believed, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard<T> {
    /// What it says.
    pub row: T,
    /// How long ago it was written.
    pub age: Duration,
}

impl<T> Heard<T> {
    /// Whether it says something of now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.age <= OLD_AFTER
    }
}

impl NodeRow {
    /// The proof that goes with it.
    #[must_use]
    pub fn prove(&self, prover: &Prover) -> Vec<u8> {
        let (node, tunnel) = (self.node.node.to_string(), self.node.tunnel.to_string());
        prover.prove(NODE, &[&node, &tunnel, &self.node.api, &self.version, &self.instance])
    }
}

impl IngressRow {
    /// The proof that goes with it.
    #[must_use]
    pub fn prove(&self, prover: &Prover) -> Vec<u8> {
        prover.prove(INGRESS, &[&self.name, &self.source(), &self.version, &self.instance])
    }

    /// As the database has it.
    #[must_use]
    pub fn source(&self) -> String {
        self.source.map(|source| source.to_string()).unwrap_or_default()
    }
}

impl StoredNode {
    /// What it says, if all of it can be believed. `from` is where this ingress sends to nodes from.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self, prover: &Prover, from: IpAddr) -> Result<Heard<NodeRow>, &'static str> {
        let Self { node, tunnel, api, version, instance, proof, age_s } = self;
        let fields = [&*node.to_string(), &*tunnel, &*api, &*version, &*instance];
        if !prover.holds(NODE, &fields, &proof) {
            return Err("it was not written by somebody with this deployment's ufrag key");
        }
        let age = age(age_s)?;
        words(&version, &instance)?;
        let number = u16::try_from(node).map_err(|_| "its number is none that a node can have")?;
        let address = tunnel.parse().map_err(|_| "its tunnel is not an address and port")?;
        plain_url(&api)?;
        let node = NodeConfig { node: number, tunnel: address, api };
        node.check().map_err(|(_, problem)| problem)?;
        if !reaches(from, address.ip()) {
            return Err("its tunnel has an address of another kind than this ingress's tunnel.listen");
        }
        Ok(Heard { row: NodeRow { node, version, instance }, age })
    }
}

impl StoredIngress {
    /// What it says, if all of it can be believed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self, prover: &Prover) -> Result<Heard<IngressRow>, &'static str> {
        let Self { name, source, version, instance, proof, age_s } = self;
        if !prover.holds(INGRESS, &[&name, &source, &version, &instance], &proof) {
            return Err("it was not written by somebody with this deployment's ufrag key");
        }
        let age = age(age_s)?;
        words(&version, &instance)?;
        if name.len() > TEXT_BYTES_MAX {
            return Err("its name is too long");
        }
        let source = match source.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| "its source is not an address")?),
        };
        if source.is_some_and(|source| source.is_unspecified() || source.is_multicast()) {
            return Err("its source is not the address of one machine");
        }
        Ok(Heard { row: IngressRow { name, source, version, instance }, age })
    }
}

/// Tells this start of a program from every other.
#[must_use]
pub fn new_instance() -> String {
    format!("{:016x}", u64::from_ne_bytes(random_bytes()))
}

/// Whether packets from one address can go to another.
#[must_use]
pub fn reaches(from: IpAddr, to: IpAddr) -> bool {
    from.is_ipv4() == to.is_ipv4() || from == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)
}

/// Whether a URL is scheme, host and port, and nothing else.
///
/// # Errors
/// When it is not.
pub fn plain_url(text: &str) -> Result<Url, &'static str> {
    let problem = "its API is not a URL of scheme, host and port alone";
    let uri: Uri = text.parse().map_err(|_| problem)?;
    let url: Url = text.parse().map_err(|_| problem)?;
    let bare = text.len() <= TEXT_BYTES_MAX
        && matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.fragment().is_none();
    if bare { Ok(url) } else { Err(problem) }
}

fn words(version: &str, instance: &str) -> Result<(), &'static str> {
    let plain =
        |text: &str| (1..=WORD_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if plain(version) && plain(instance) { Ok(()) } else { Err("its version or instance is no plain word") }
}

/// A row may be a little younger than now: a failover can put the clock back.
fn age(seconds: f64) -> Result<Duration, &'static str> {
    let problem = "it was written in the future";
    // `max` would make something of what is no number.
    if !seconds.is_finite() || seconds < -OLD_AFTER.as_secs_f64() {
        return Err(problem);
    }
    Duration::try_from_secs_f64(seconds.max(0.0)).map_err(|_| problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    fn prover() -> Prover {
        Prover::derive(&[3; 32])
    }

    fn good() -> StoredNode {
        let text = str::to_owned;
        let (tunnel, api) = (text("10.0.0.3:8446"), text("https://node-3.test:8444"));
        let (version, instance) = (text("0.1.0"), text("abc"));
        StoredNode { node: 3, tunnel, api, version, instance, proof: Vec::new(), age_s: 2.5 }
    }

    /// A row as somebody with the key would write it, whatever it says.
    fn proven(row: StoredNode) -> StoredNode {
        let fields = [&*row.node.to_string(), &*row.tunnel, &*row.api, &*row.version, &*row.instance];
        let proof = prover().prove(NODE, &fields);
        StoredNode { proof, ..row }
    }

    #[test]
    fn what_a_node_wrote_is_read_as_it_was_meant() {
        let heard = proven(good()).check(&prover(), FROM).unwrap();
        assert_eq!((heard.row.node.node, heard.age), (3, Duration::from_millis(2500)));
        assert_eq!(heard.row.prove(&prover()), proven(good()).proof);
        assert!(heard.is_fresh());
        let old = proven(StoredNode { age_s: 41.0, ..good() }).check(&prover(), FROM).unwrap();
        assert!(!old.is_fresh());
    }

    #[test]
    fn a_row_without_the_deployments_key_is_not_believed_whatever_it_says() {
        let elsewhere = StoredNode { api: "http://192.0.2.66:80".into(), ..proven(good()) };
        for row in [good(), elsewhere, StoredNode { node: 4, ..proven(good()) }] {
            assert!(row.check(&prover(), FROM).unwrap_err().contains("ufrag key"));
        }
        assert!(proven(good()).check(&Prover::derive(&[4; 32]), FROM).is_err());
    }

    #[test]
    fn what_no_configuration_may_say_no_row_may_say_either() {
        let text = str::to_owned;
        let api = |api: &str| StoredNode { api: text(api), ..good() };
        let tunnel = |tunnel: &str| StoredNode { tunnel: text(tunnel), ..good() };
        let age = |age_s| StoredNode { age_s, ..good() };
        for row in [
            StoredNode { node: -1, ..good() },
            StoredNode { node: 65_536, ..good() },
            tunnel("10.0.0.3:0"),
            tunnel("0.0.0.0:8446"),
            tunnel("239.0.0.1:8446"),
            tunnel("[2001:db8::3]:8446"),
            tunnel("node-3:8446"),
            api("ftp://node-3"),
            api("http://user@node-3:8444"),
            api("http://node-3:8444/path"),
            api("http://node-3:8444/?query"),
            api("http://node-3:8444/#fragment"),
            api("node-3"),
            api(""),
            api(&format!("http://{}", "a".repeat(TEXT_BYTES_MAX))),
            StoredNode { version: text("two words"), ..good() },
            StoredNode { instance: String::new(), ..good() },
            StoredNode { instance: "x".repeat(33), ..good() },
            age(f64::NAN),
            age(f64::INFINITY),
            age(f64::NEG_INFINITY),
            age(-60.0),
            age(1e300),
        ] {
            let said = row.clone();
            assert!(proven(row).check(&prover(), FROM).is_err(), "{said:?}");
        }
    }

    #[test]
    fn an_ingresses_row_holds_with_and_without_an_address() {
        for source in [None, Some(IpAddr::from([10, 0, 0, 2]))] {
            let name = "edge 10.0.0.2:8700".to_owned();
            let row = IngressRow { name, source, version: "1".into(), instance: "a".into() };
            let proof = row.prove(&prover());
            let IngressRow { name, version, instance, .. } = row.clone();
            let stored = StoredIngress { name, source: row.source(), version, instance, proof, age_s: -0.2 };
            assert_eq!(stored.clone().check(&prover()).unwrap(), Heard { row, age: Duration::ZERO });
            assert!(StoredIngress { source: "10.0.0.9".into(), ..stored }.check(&prover()).is_err());
        }
    }
}
