//! Making the directory of a new gateway, and handing what `init` decided to the first start.
//!
//! Networks and tokens live in the store, which only a running gateway writes. So `init` leaves
//! `data/bootstrap.json` (hashes of tokens, never tokens), and the first start carries it out through the hub,
//! like any operator's request, and deletes it once that is durable. A crash in between repeats what is missing.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use trunkline_common::config::{quoted, with_setting};
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_common::secret::{self, MakeError};
use trunkline_common::token::{self, TokenHash};
use trunkline_gateway_proto::admin::{AdminOp, NetworkSpec};
use trunkline_gateway_proto::administrator::{AdministratorOp, PasswordHash};
use trunkline_gateway_proto::directory::{Directory, Role};
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::policy::Policy;
use zeroize::Zeroizing;

use crate::admin::session::password;
use crate::admin::{ADMIN_TOKEN_PREFIX, NETWORK_TOKEN_PREFIX};
use crate::config::{Config, ConfigError, EXAMPLE, deployment_key};
use crate::hub::{AdminFailure, Hub};
use crate::identity::{Identity, IdentityError};
use crate::service::{self, SERVICE_FILE};

/// The configuration's name in a gateway's directory.
pub const CONFIG_FILE: &str = "gateway.toml";

/// The first admin token's name in a gateway's directory.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// The name of the file in a gateway's directory that holds its first administrator's first password.
pub const ADMIN_PASSWORD_FILE: &str = "admin.password";

/// The first administrator of the console.
const FIRST_ADMINISTRATOR: &str = "admin";

/// What the first start carries out, in the data directory.
const BOOTSTRAP_FILE: &str = "bootstrap.json";

/// Label of the first admin token.
const FIRST_TOKEN: &str = "root";

/// What a new gateway should be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it will be: a directory that is not there yet, or is empty.
    pub dir: PathBuf,
    /// Its federation domain.
    pub domain: Domain,
    /// Its users' domains; the federation domain when there are none.
    pub local_domains: Vec<Domain>,
    /// Its first network.
    pub network: NetworkId,
    /// Where peers are accepted, when not at the default.
    pub listen: Option<SocketAddr>,
    /// Where the local API is, when not at the default.
    pub local_api: Option<SocketAddr>,
    /// Where the admin API is, when not at the default.
    pub admin_api: Option<SocketAddr>,
    /// `host:port` where peers reach it.
    pub advertise: Vec<String>,
    /// Whether peers at private, loopback and link-local addresses may be dialled.
    pub allow_private_ips: bool,
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Its federation domain.
    pub domain: Domain,
    /// What peers know its certificate by.
    pub pin: Pin,
    /// Its configuration.
    pub config: PathBuf,
    /// Holds the first admin token.
    pub admin_token_file: PathBuf,
    /// The first administrator of the console.
    pub administrator: String,
    /// Holds that administrator's first password, which must be changed at the first log-in.
    pub admin_password_file: PathBuf,
    /// Its first network.
    pub network: NetworkId,
    /// Holds that network's token.
    pub network_token_file: PathBuf,
    /// Runs it as a service.
    pub service_unit: PathBuf,
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
    /// The certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What the first start carries out.
#[derive(Debug, Serialize, Deserialize)]
struct Bootstrap {
    networks: Vec<BootstrapNetwork>,
    tokens: Vec<BootstrapToken>,
    #[serde(default)]
    administrators: Vec<BootstrapAdministrator>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BootstrapNetwork {
    spec: NetworkSpec,
    token: TokenHash,
}

#[derive(Debug, Serialize, Deserialize)]
struct BootstrapToken {
    label: String,
    role: Role,
    token: TokenHash,
}

#[derive(Debug, Serialize, Deserialize)]
struct BootstrapAdministrator {
    name: String,
    role: Role,
    password: PasswordHash,
}

/// Why the first start could not carry it out. It is tried again at the next one.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The file cannot be read or removed.
    #[error("{}: {reason}; remove the file if this gateway is set up already", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The hub refused.
    #[error("what `init` decided could not be stored: {0}")]
    Hub(#[from] AdminFailure),
}

impl Bootstrap {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("invariant: plain data with text keys")
    }
}

/// Makes the directory of a new gateway. What was begun is removed when something fails.
///
/// # Errors
/// When something is there already, or cannot be made.
pub fn init(options: &Options) -> Result<Made, InitError> {
    secret::make_filled(&options.dir, || fill(options))
}

fn fill(options: &Options) -> Result<Made, InitError> {
    let dir = &options.dir;
    let config_text = configuration(options);
    let config_file = dir.join(CONFIG_FILE);
    Config::parse(CONFIG_FILE, &config_text)?;
    for name in ["identity", "networks", "data"] {
        let dir = dir.join(name);
        secret::make_dir(&dir).map_err(MakeError::of(&dir))?;
    }
    Identity::create(&dir.join("identity"), &options.domain)?;
    let identity = Identity::open(&dir.join("identity"), options.domain.clone())?;
    write(&dir.join("deployment.key"), deployment_key::generate().as_bytes())?;
    let admin_token_file = dir.join(ADMIN_TOKEN_FILE);
    let admin_token = token::generate(ADMIN_TOKEN_PREFIX);
    write(&admin_token_file, admin_token.as_bytes())?;
    let admin_password_file = dir.join(ADMIN_PASSWORD_FILE);
    let admin_password = password::generate();
    write(&admin_password_file, admin_password.as_bytes())?;
    let network_token_file = dir.join("networks").join(format!("{}.token", options.network));
    let network_token = token::generate(NETWORK_TOKEN_PREFIX);
    write(&network_token_file, network_token.as_bytes())?;
    let local_domains = match options.local_domains.as_slice() {
        [] => vec![options.domain.clone()],
        given => given.to_vec(),
    };
    let spec = NetworkSpec {
        id: options.network.clone(),
        label: String::new(),
        local_domains,
        hidden_domains: Vec::new(),
        policy: Policy::default(),
        webhook: None,
    };
    let bootstrap = Bootstrap {
        networks: vec![BootstrapNetwork { spec, token: TokenHash::of(&network_token) }],
        tokens: vec![BootstrapToken {
            label: FIRST_TOKEN.to_owned(),
            role: Role::Admin,
            token: TokenHash::of(&admin_token),
        }],
        administrators: vec![BootstrapAdministrator {
            name: FIRST_ADMINISTRATOR.to_owned(),
            role: Role::Admin,
            password: password::hash(&admin_password),
        }],
    };
    write(&dir.join("data").join(BOOTSTRAP_FILE), &bootstrap.to_json())?;
    let service_unit = dir.join(SERVICE_FILE);
    service::of_directory(dir)
        .and_then(|unit| fs::write(&service_unit, unit))
        .map_err(MakeError::of(&service_unit))?;
    // Last, because this is what makes the directory a gateway's.
    write(&config_file, config_text.as_bytes())?;
    Ok(Made {
        domain: options.domain.clone(),
        pin: identity.current().pin(),
        config: config_file,
        admin_token_file,
        administrator: FIRST_ADMINISTRATOR.to_owned(),
        admin_password_file,
        network: options.network.clone(),
        network_token_file,
        service_unit,
    })
}

/// Makes an admin token for the next start to take, or for a replica once it leads, when all others are lost: who owns
/// the data directory owns the gateway anyway.
///
/// # Errors
/// When something waits for the next start already, or it cannot be written.
pub fn recover_token(data_dir: &Path) -> Result<(String, Zeroizing<String>), InitError> {
    let token = token::generate(ADMIN_TOKEN_PREFIX);
    // Unique, so that the next start does not take it for one it knows.
    let label = format!("recovered-{}", uuid::Uuid::new_v4().simple());
    let entry = BootstrapToken { label: label.clone(), role: Role::Admin, token: TokenHash::of(&token) };
    let bootstrap = Bootstrap { networks: Vec::new(), tokens: vec![entry], administrators: Vec::new() };
    write(&data_dir.join(BOOTSTRAP_FILE), &bootstrap.to_json())?;
    Ok((label, token))
}

/// Carries out what `init` left for the first start; nothing when there is nothing left.
///
/// # Errors
/// When it cannot be read, or not be stored now.
pub async fn bootstrap(data_dir: &Path, hub: &Hub) -> Result<(), BootstrapError> {
    let path = data_dir.join(BOOTSTRAP_FILE);
    let file = |reason: String| BootstrapError::File { path: path.clone(), reason };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file(error.to_string())),
    };
    let Bootstrap { networks, tokens, administrators } =
        serde_json::from_slice(&text).map_err(|error| file(format!("not what `init` wrote ({error})")))?;
    for BootstrapNetwork { spec, token } in networks {
        let id = spec.id.clone();
        if hub.directory().network_by_id(id.as_str()).is_none() {
            hub.admin("init", AdminOp::NetworkAdd(Box::new(spec))).await?;
        }
        let known = hub.directory().network_by_id(id.as_str()).is_some_and(|n| n.tokens.contains(&token));
        if !known {
            hub.admin("init", AdminOp::NetworkToken { id, token }).await?;
        }
    }
    for BootstrapToken { label, role, token } in tokens {
        if !hub.directory().tokens().any(|known| known.label == label) {
            hub.admin("init", AdminOp::TokenAdd { label, token, role }).await?;
        }
    }
    for BootstrapAdministrator { name, role, password } in administrators {
        if hub.directory().administrator(&name).is_none() {
            let op = AdministratorOp::Add { name, role, password };
            hub.admin("init", AdminOp::Administrator(op)).await?;
        }
    }
    fs::remove_file(&path).and_then(|()| sync_dir(data_dir)).map_err(|error| file(error.to_string()))
}

/// Removes a replica's copy of what `init` left, once the leader has carried that out.
///
/// # Errors
/// When it cannot be read or removed.
pub fn leave_to_leader(data_dir: &Path, directory: &Directory) -> Result<(), BootstrapError> {
    let path = data_dir.join(BOOTSTRAP_FILE);
    let file = |reason: String| BootstrapError::File { path: path.clone(), reason };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file(error.to_string())),
    };
    let left: Bootstrap =
        serde_json::from_slice(&text).map_err(|error| file(format!("not what `init` wrote ({error})")))?;
    // A recovered token has no network with it, and waits until this replica leads.
    if left.networks.is_empty() || directory.administrators().next().is_none() {
        return Ok(());
    }
    fs::remove_file(&path).and_then(|()| sync_dir(data_dir)).map_err(|error| file(error.to_string()))
}

/// The example configuration with the given values in place of its defaults.
fn configuration(options: &Options) -> String {
    let mut settings = vec![("", "domain", quoted(&options.domain))];
    let listeners =
        [("link", options.listen), ("local_api", options.local_api), ("admin_api", options.admin_api)];
    for (section, listen) in listeners {
        if let Some(listen) = listen {
            settings.push((section, "listen", quoted(listen)));
        }
    }
    if !options.advertise.is_empty() {
        let list = options.advertise.iter().map(quoted).collect::<Vec<_>>().join(", ");
        settings.push(("link", "advertise", format!("[{list}]")));
    }
    if options.allow_private_ips {
        settings.push(("", "allow_private_ips", "true".to_owned()));
    }
    settings
        .iter()
        .fold(EXAMPLE.to_owned(), |text, (section, key, value)| with_setting(&text, section, key, value))
}

fn write(path: &Path, content: &[u8]) -> Result<(), MakeError> {
    secret::create(path, content).map_err(MakeError::of(path))
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn options(dir: &Path) -> Options {
        Options {
            dir: dir.to_owned(),
            domain: "alpha.test".parse().unwrap(),
            local_domains: Vec::new(),
            network: "main".parse().unwrap(),
            listen: Some("127.0.0.1:9443".parse().unwrap()),
            local_api: None,
            admin_api: Some("127.0.0.1:0".parse().unwrap()),
            advertise: vec!["gw.alpha.test:9443".into()],
            allow_private_ips: true,
        }
    }

    #[test]
    fn init_makes_a_directory_whose_configuration_says_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&options(&dir.path().join("alpha"))).unwrap();
        let config = Config::load(&made.config).unwrap();
        assert_eq!(config.domain, made.domain);
        assert_eq!(config.link.listen, "127.0.0.1:9443".parse().unwrap());
        assert_eq!(config.link.advertise, ["gw.alpha.test:9443"]);
        assert_eq!(config.local_api.listen.port(), 8440);
        assert_eq!(config.admin_api.listen.port(), 0);
        assert!(config.allow_private_ips);
        assert!(deployment_key::read(&config).is_ok());
    }

    #[test]
    fn init_refuses_a_directory_that_is_not_empty_and_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        init(&options(dir.path())).unwrap();
        let key = fs::read(dir.path().join("identity/current.key")).unwrap();
        assert!(matches!(init(&options(dir.path())), Err(InitError::Make(MakeError::Exists(_)))));
        assert_eq!(fs::read(dir.path().join("identity/current.key")).unwrap(), key);
    }

    #[test]
    fn init_that_fails_leaves_the_directory_empty() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = Options { advertise: vec!["no \" port".into()], ..options(dir.path()) };
        assert!(matches!(init(&wrong), Err(InitError::Config(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn secrets_are_readable_by_their_owner_only_and_tokens_are_handed_over_as_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&options(dir.path())).unwrap();
        for file in
            ["deployment.key", "admin.token", "admin.password", "networks/main.token", "identity/current.key"]
        {
            let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let bootstrap = fs::read_to_string(dir.path().join("data/bootstrap.json")).unwrap();
        for file in [made.admin_token_file, made.admin_password_file, made.network_token_file] {
            let token = fs::read_to_string(file).unwrap();
            assert!(!bootstrap.contains(token.trim()));
        }
    }
}
