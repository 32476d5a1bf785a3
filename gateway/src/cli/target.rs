//! Where the gateway is: a directory that `init` made, or a URL and a token.

use std::path::{Path, PathBuf};

use trunkline_http::cli::CliError;
use trunkline_http::cli::client::{Endpoint, reachable};
use zeroize::Zeroizing;

use crate::config::{ApiConfig, Config};
use crate::init::{ADMIN_TOKEN_FILE, CONFIG_FILE};
use crate::run::Listening;

const URL_VARIABLE: &str = "TRUNKLINE_ADMIN_URL";
const TOKEN_VARIABLE: &str = "TRUNKLINE_ADMIN_TOKEN";

/// Which gateway is meant.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// The gateway's directory, as `init` made it [default: the current one, when it is one]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The admin API's URL; its token is read from TRUNKLINE_ADMIN_TOKEN
    #[arg(long, global = true, value_name = "URL", env = URL_VARIABLE)]
    pub(crate) admin_url: Option<String>,
}

impl Target {
    /// The directory that is meant.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let here = || Path::new(CONFIG_FILE).is_file().then(|| PathBuf::from("."));
        self.dir.clone().or_else(here)
    }

    /// How to reach the gateway. A directory that was named goes before the environment.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, CliError> {
        match (&self.dir, &self.admin_url) {
            (Some(dir), _) => from_directory(dir),
            (None, Some(url)) => from_environment(url),
            (None, None) => match self.directory() {
                Some(dir) => from_directory(&dir),
                None => Err(CliError::Usage(format!(
                    "which gateway? Name its directory with --dir DIR, or set {URL_VARIABLE} and {TOKEN_VARIABLE}"
                ))),
            },
        }
    }
}

fn from_environment(url: &str) -> Result<Endpoint, CliError> {
    let token = std::env::var(TOKEN_VARIABLE).map_err(|_| {
        CliError::Usage(format!("set {TOKEN_VARIABLE} to an admin token, as `token add` answers it"))
    })?;
    Ok(Endpoint {
        api: "the admin API",
        program: "gateway",
        url: url.trim_end_matches('/').to_owned(),
        token: Zeroizing::new(token.trim().to_owned()),
        certificate: None,
        start_with: "trunkline-gateway run --config FILE".to_owned(),
    })
}

fn from_directory(dir: &Path) -> Result<Endpoint, CliError> {
    let file = dir.join(CONFIG_FILE);
    let config = Config::load(&file).map_err(CliError::failed)?;
    let token_file = dir.join(ADMIN_TOKEN_FILE);
    let token = match (std::fs::read_to_string(&token_file), std::env::var(TOKEN_VARIABLE)) {
        (Ok(token), _) | (Err(_), Ok(token)) => Zeroizing::new(token),
        (Err(error), Err(_)) => {
            let file = token_file.display();
            return Err(CliError::Failed(format!(
                "cannot read {file} ({error}): run as its owner, or set {TOKEN_VARIABLE}"
            )));
        }
    };
    let ApiConfig { listen, tls_certificate, .. } = &config.admin_api;
    let certificate = match tls_certificate {
        Some(path) => Some(std::fs::read(path).map_err(|error| {
            CliError::Failed(format!("admin_api.tls_certificate: cannot read {}: {error}", path.display()))
        })?),
        None => None,
    };
    // Port 0 means whichever was free: a running gateway writes down what it got.
    let listen = match listen.port() {
        0 => Listening::read(&config.data_dir).map_or(*listen, |listening| listening.admin_api),
        _ => *listen,
    };
    let scheme = if certificate.is_some() { "https" } else { "http" };
    Ok(Endpoint {
        api: "the admin API",
        program: "gateway",
        url: format!("{scheme}://{}", reachable(listen)),
        token: Zeroizing::new(token.trim().to_owned()),
        certificate,
        start_with: format!("trunkline-gateway run --config {}", file.display()),
    })
}
