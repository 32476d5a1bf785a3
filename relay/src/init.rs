//! Making the directory of a new relay node: its configuration, and the secrets that it names.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;
use trunkline_common::config::{quoted, with_setting};
use trunkline_common::secret::{self, MakeError};
use trunkline_common::token;

use crate::config::{Config, ConfigError, EXAMPLE, PortRange};
use crate::key;
use crate::token::generate_secret;

/// The configuration's name in a node's directory.
pub const CONFIG_FILE: &str = "relay.toml";

/// How admin tokens begin.
pub const ADMIN_TOKEN_PREFIX: &str = "tlr";

/// What a new node should be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it will be: a directory that is not there yet, or is empty.
    pub dir: PathBuf,
    /// Its number.
    pub node: u16,
    /// Where the API is, when not at the default.
    pub listen: Option<SocketAddr>,
    /// Its UDP ports, when not the default ones.
    pub udp_ports: Option<PortRange>,
    /// Its TCP port of media, when not the default one; 0 for none.
    pub tcp_port: Option<u16>,
    /// Addresses to take media on; all when empty.
    pub media_listen: Vec<IpAddr>,
    /// Addresses that clients are told instead.
    pub advertise: Vec<IpAddr>,
    /// Another node's file with the ufrag key, to be used here too.
    pub ufrag_key: Option<PathBuf>,
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Its number.
    pub node: u16,
    /// Its configuration.
    pub config: PathBuf,
    /// Holds the admin token.
    pub admin_token_file: PathBuf,
    /// Holds the secret of join tokens.
    pub hs256_secret_file: PathBuf,
    /// Holds the key that ingresses need too.
    pub ufrag_key_file: PathBuf,
}

/// Why it could not be made.
#[derive(Debug, Error)]
pub enum InitError {
    /// A file or directory could not be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// An argument makes no valid configuration.
    #[error("the arguments make no valid configuration: {0}")]
    Config(#[from] ConfigError),
    /// The other node's key.
    #[error("--ufrag-key: {0}")]
    UfragKey(#[from] key::KeyError),
}

/// Makes the directory of a new node. What was begun is removed when something fails.
///
/// # Errors
/// When something is there already, or cannot be made.
pub fn init(options: &Options) -> Result<Made, InitError> {
    secret::make_filled(&options.dir, || fill(options))
}

fn fill(options: &Options) -> Result<Made, InitError> {
    let text = configuration(options);
    let config = Config::parse(CONFIG_FILE, &text)?;
    let ufrag_key = match &options.ufrag_key {
        Some(file) => key::encode(&key::read(file)?),
        None => key::encode(&zeroize::Zeroizing::new(token::random())),
    };
    let file = |name: &Path| options.dir.join(name);
    let made = Made {
        node: options.node,
        config: options.dir.join(CONFIG_FILE),
        admin_token_file: file(&config.api.admin_token_file),
        hs256_secret_file: config.tokens.hs256_secret_file.as_deref().map(file).unwrap_or_default(),
        ufrag_key_file: file(&config.media.ufrag_key_file),
    };
    write(&made.admin_token_file, token::generate(ADMIN_TOKEN_PREFIX).as_bytes())?;
    write(&made.hs256_secret_file, generate_secret().as_bytes())?;
    write(&made.ufrag_key_file, ufrag_key.as_bytes())?;
    // Last, because this is what makes the directory a node's.
    write(&made.config, text.trim_end().as_bytes())?;
    Ok(made)
}

/// The example configuration with the given values in place of its defaults.
fn configuration(options: &Options) -> String {
    let list =
        |addresses: &[IpAddr]| format!("[{}]", addresses.iter().map(quoted).collect::<Vec<_>>().join(", "));
    let mut settings = vec![("", "node", options.node.to_string())];
    settings.extend(options.listen.map(|listen| ("api", "listen", quoted(listen))));
    settings.extend(options.udp_ports.map(|ports| ("media", "udp_ports", quoted(ports))));
    settings.extend(options.tcp_port.map(|port| ("media", "tcp_port", port.to_string())));
    for (key, addresses) in [("listen", &options.media_listen), ("advertise", &options.advertise)] {
        if !addresses.is_empty() {
            settings.push(("media", key, list(addresses)));
        }
    }
    settings
        .iter()
        .fold(EXAMPLE.to_owned(), |text, (section, key, value)| with_setting(&text, section, key, value))
}

/// Writes a file that only its owner may read.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), MakeError> {
    secret::create(path, content).map_err(MakeError::of(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::token::Tokens;

    #[test]
    fn what_init_makes_can_be_used_and_is_its_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("relay");
        let options = Options {
            dir: at.clone(),
            node: 7,
            listen: Some("127.0.0.1:1".parse().unwrap()),
            udp_ports: Some("20000-20009".parse().unwrap()),
            tcp_port: Some(8443),
            advertise: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..Options::default()
        };
        let made = init(&options).unwrap();
        let config = Config::load(&made.config).unwrap();
        assert_eq!((config.node, config.api.listen.port(), config.media.tcp_port), (7, 1, 8443));
        assert_eq!((config.media.advertise.len(), config.media.udp_ports.first), (2, 20_000));
        Tokens::load(&config.tokens).unwrap();
        key::read(&config.media.ufrag_key_file).unwrap();
        assert!(secret::read(&config.api.admin_token_file).unwrap().starts_with("tlr_"));
        for entry in fs::read_dir(&at).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
        assert!(matches!(init(&options), Err(InitError::Make(MakeError::Exists(_)))));
    }

    #[test]
    fn a_second_node_takes_over_the_first_ones_ufrag_key() {
        let dir = tempfile::tempdir().unwrap();
        let node = |node: u16, ufrag_key| {
            let dir = dir.path().join(node.to_string());
            init(&Options { dir, node, ufrag_key, ..Options::default() })
        };
        let first = node(1, None).unwrap();
        let second = node(2, Some(first.ufrag_key_file.clone())).unwrap();
        assert_eq!(key::read(&first.ufrag_key_file).unwrap(), key::read(&second.ufrag_key_file).unwrap());
        assert!(matches!(node(3, Some(first.config)), Err(InitError::UfragKey(_))));
        assert_eq!(fs::read_dir(dir.path().join("3")).unwrap().count(), 0);
    }
}
