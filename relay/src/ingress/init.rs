//! Making the directory of a new ingress: its configuration, and the key that it shares with its nodes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;
use trunkline_common::config::{quoted, with_setting};
use trunkline_common::secret;

use super::config::{EXAMPLE, IngressConfig};
use crate::init::{InitError, write};
use crate::key;

/// The configuration's name in an ingress's directory.
pub const CONFIG_FILE: &str = "ingress.toml";

/// A node as the command line names it: `7=10.0.0.3:8446,http://10.0.0.3:8444`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeArg {
    /// Its number.
    pub node: u16,
    /// Its `ingress.listen`.
    pub tunnel: SocketAddr,
    /// The URL of its API.
    pub api: String,
}

impl FromStr for NodeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (node, rest) = text.split_once('=')?;
            let (tunnel, api) = rest.split_once(',')?;
            Some(Self { node: node.parse().ok()?, tunnel: tunnel.parse().ok()?, api: api.to_owned() })
        };
        parts().ok_or_else(|| {
            format!("expected NUMBER=ADDRESS:PORT,URL, such as `7=10.0.0.3:8446,http://10.0.0.3:8444`, found `{text}`")
        })
    }
}

/// What a new ingress should be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it will be: a directory that is not there yet, or is empty.
    pub dir: PathBuf,
    /// A node's file with the ufrag key.
    pub ufrag_key: PathBuf,
    /// Its nodes, one at least.
    pub nodes: Vec<NodeArg>,
    /// The public address, when not all.
    pub media_listen: Option<IpAddr>,
    /// Its UDP port, when not the default one.
    pub udp_port: Option<u16>,
    /// Its TCP port, when not the default one.
    pub tcp_port: Option<u16>,
    /// Where it takes packets from nodes, when not at the default.
    pub tunnel_listen: Option<SocketAddr>,
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Its configuration.
    pub config: PathBuf,
    /// Holds the key that its nodes have too.
    pub ufrag_key_file: PathBuf,
}

/// Makes the directory of a new ingress. What was begun is removed when something fails.
///
/// # Errors
/// When something is there already, or cannot be made.
pub fn init(options: &Options) -> Result<Made, InitError> {
    secret::make_filled(&options.dir, || {
        let text = configuration(options);
        let config = IngressConfig::parse(CONFIG_FILE, &text)?;
        let key = key::encode(&key::read(&options.ufrag_key)?);
        let made = Made {
            config: options.dir.join(CONFIG_FILE),
            ufrag_key_file: options.dir.join(&config.media.ufrag_key_file),
        };
        write(&made.ufrag_key_file, key.as_bytes())?;
        // Last, because this is what makes the directory an ingress's.
        write(&made.config, text.trim_end().as_bytes())?;
        Ok(made)
    })
}

/// The example configuration with the given values in place of its defaults, and the nodes at its end.
fn configuration(options: &Options) -> String {
    let mut settings = Vec::new();
    settings.extend(options.media_listen.map(|ip| ("media", "listen", format!("[{}]", quoted(ip)))));
    settings.extend(options.udp_port.map(|port| ("media", "udp_port", port.to_string())));
    settings.extend(options.tcp_port.map(|port| ("media", "tcp_port", port.to_string())));
    settings.extend(options.tunnel_listen.map(|listen| ("tunnel", "listen", quoted(listen))));
    let text = settings
        .iter()
        .fold(EXAMPLE.to_owned(), |text, (section, key, value)| with_setting(&text, section, key, value));
    let Some((first, others)) = options.nodes.split_first() else { return text };
    let of = |node: &NodeArg| {
        [("node", node.node.to_string()), ("tunnel", quoted(node.tunnel)), ("api", quoted(&node.api))]
    };
    // The example's own node, setting by setting with what explains them; further ones behind it.
    let mut in_nodes = false;
    let mut lines = String::with_capacity(text.len());
    for line in text.lines() {
        if line.starts_with('[') {
            in_nodes = line == "[[nodes]]";
        }
        let value = of(first).into_iter().find(|(key, _)| in_nodes && line.starts_with(&format!("{key} = ")));
        match &value {
            Some((key, value)) => lines.push_str(&format!("{key} = {value}")),
            None => lines.push_str(line),
        }
        lines.push('\n');
        if value.is_some_and(|(key, _)| key == "api") {
            for node in others {
                lines.push_str("\n[[nodes]]\n");
                of(node).iter().for_each(|(key, value)| lines.push_str(&format!("{key} = {value}\n")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn node(text: &str) -> NodeArg {
        text.parse().unwrap()
    }

    #[test]
    fn what_init_makes_can_be_used_and_is_its_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let relay = crate::init::Options { dir: dir.path().join("relay"), node: 7, ..Default::default() };
        let relay = crate::init::init(&relay).unwrap();
        let options = Options {
            dir: dir.path().join("ingress"),
            ufrag_key: relay.ufrag_key_file.clone(),
            nodes: vec![
                node("7=10.0.0.3:8446,http://10.0.0.3:8444"),
                node("8=[2001:db8::8]:8446,https://relay.test"),
            ],
            media_listen: Some([192, 0, 2, 1].into()),
            udp_port: Some(3478),
            tcp_port: Some(0),
            tunnel_listen: Some("10.0.0.2:9000".parse().unwrap()),
        };
        let made = init(&options).unwrap();
        let config = IngressConfig::load(&made.config).unwrap();
        assert_eq!(
            key::read(&config.media.ufrag_key_file).unwrap(),
            key::read(&relay.ufrag_key_file).unwrap()
        );
        assert_eq!((config.media.udp_port, config.media.tcp_port), (3478, 0));
        assert_eq!(config.tunnel.of(2), Some("10.0.0.2:9002".parse().unwrap()));
        let nodes: Vec<_> = config.nodes.iter().map(|node| (node.node, node.tunnel, &*node.api)).collect();
        let expected =
            options.nodes.iter().map(|node| (node.node, node.tunnel, &*node.api)).collect::<Vec<_>>();
        assert_eq!(nodes, expected);
        for file in [&made.config, &made.ufrag_key_file] {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0);
        }
        assert!(matches!(init(&options), Err(InitError::Make(secret::MakeError::Exists(_)))));
    }

    #[test]
    fn what_is_no_node_is_refused_with_an_example() {
        for text in ["7", "7=10.0.0.3:8446", "x=10.0.0.3:8446,http://a", "7=10.0.0.3,http://a"] {
            let said = text.parse::<NodeArg>().unwrap_err();
            assert!(said.contains("7=10.0.0.3:8446,http"), "{said}");
        }
    }
}
