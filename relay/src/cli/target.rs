//! Where the node is: a directory that `init` made, or a URL and a token.

use std::path::{Path, PathBuf};

use trunkline_common::secret;
use trunkline_http::cli::CliError;
use trunkline_http::cli::client::{Endpoint, reachable};
use zeroize::Zeroizing;

use crate::init::CONFIG_FILE;

const URL_VARIABLE: &str = "TRUNKLINE_RELAY_URL";
const TOKEN_VARIABLE: &str = "TRUNKLINE_RELAY_TOKEN";

/// Which node is meant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// The node's directory, as `init` made it [default: the current one, when it is one]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// The API's URL; its admin token is read from TRUNKLINE_RELAY_TOKEN
    #[arg(long, global = true, value_name = "URL", env = URL_VARIABLE)]
    pub(super) url: Option<String>,
}

impl Target {
    /// The directory that is meant.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let here = || Path::new(CONFIG_FILE).is_file().then(|| PathBuf::from("."));
        self.dir.clone().or_else(here)
    }

    /// How to reach the node. A URL that was named goes before the current directory.
    pub(super) fn endpoint(&self) -> Result<Endpoint, CliError> {
        match (&self.dir, &self.url) {
            (Some(dir), url) => from_directory(dir, url.as_deref()),
            (None, Some(url)) => from_environment(url),
            (None, None) => match self.directory() {
                Some(dir) => from_directory(&dir, None),
                None => Err(CliError::Usage(format!(
                    "which node? Name its directory with --dir DIR, or set {URL_VARIABLE} and {TOKEN_VARIABLE}"
                ))),
            },
        }
    }
}

fn from_environment(url: &str) -> Result<Endpoint, CliError> {
    let token = std::env::var(TOKEN_VARIABLE)
        .map_err(|_| CliError::Usage(format!("set {TOKEN_VARIABLE} to the node's admin token")))?;
    Ok(endpoint(url.to_owned(), Zeroizing::new(token), None, "trunkline-relay node --config FILE".to_owned()))
}

/// With the directory's token; at its address, unless a URL says otherwise.
fn from_directory(dir: &Path, url: Option<&str>) -> Result<Endpoint, CliError> {
    let file = dir.join(CONFIG_FILE);
    let config = super::load(&file)?;
    let token = secret::read(&config.api.admin_token_file)
        .map_err(|error| CliError::failed(format!("api.admin_token_file: {error}")))?;
    let certificate = match &config.api.tls_certificate {
        Some(path) => Some(std::fs::read(path).map_err(|error| {
            CliError::Failed(format!("api.tls_certificate: cannot read {}: {error}", path.display()))
        })?),
        None => None,
    };
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let here = || format!("{scheme}://{}", reachable(config.api.listen));
    let start = format!("trunkline-relay node --config {}", file.display());
    Ok(endpoint(url.map_or_else(here, str::to_owned), token, certificate, start))
}

fn endpoint(
    url: String,
    token: Zeroizing<String>,
    certificate: Option<Vec<u8>>,
    start_with: String,
) -> Endpoint {
    Endpoint {
        api: "the relay's API",
        program: "relay",
        url: url.trim_end_matches('/').to_owned(),
        token: Zeroizing::new(token.trim().to_owned()),
        certificate,
        start_with,
    }
}
