//! The front's part of the ingress's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Url};
use serde::{Deserialize, Serialize};
use trunkline_http::serve::Limits;
use trunkline_http::serve::tls::{Tls, TlsFiles};

use super::{FrontError, Settings, Upstream};

/// Most HTTP connections at a time that can be configured.
const CONNECTIONS_CEILING: usize = 1_000_000;

/// `[api]` of `ingress.toml`: the nodes' API at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// TCP.
    pub listen: SocketAddr,
    /// PEM; without it the front speaks plain HTTP.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
    /// PEM: authorities of nodes whose API is `https://`, instead of the system's.
    pub nodes_ca: Option<PathBuf>,
    /// HTTP connections at a time, events connections among them.
    pub connections_max: usize,
}

impl ApiConfig {
    /// What types alone do not say: the setting that is wrong, and what is wrong with it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => return Err(("api.tls_certificate", "expected api.tls_key with it".into())),
            (None, Some(_)) => return Err(("api.tls_key", "expected api.tls_certificate with it".into())),
            _ => {}
        }
        if !(1..=CONNECTIONS_CEILING).contains(&self.connections_max) {
            let problem = format!("expected 1 to {CONNECTIONS_CEILING}, found {}", self.connections_max);
            return Err(("api.connections_max", problem));
        }
        Ok(())
    }

    /// Makes relative paths count from a directory.
    pub fn resolve(&mut self, base: &Path) {
        let paths = [&mut self.tls_certificate, &mut self.tls_key, &mut self.nodes_ca];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// The certificate's files, when it speaks TLS.
    #[must_use]
    pub fn tls_files(&self) -> Option<TlsFiles> {
        Some(TlsFiles { certificate: self.tls_certificate.clone()?, key: self.tls_key.clone()? })
    }

    /// How to serve. The caller watches the certificate, which it has read.
    ///
    /// # Errors
    /// When the authorities of the nodes cannot be read.
    pub fn settings(
        &self,
        tls: Option<std::sync::Arc<Tls>>,
        metrics: fn() -> String,
    ) -> Result<Settings, FrontError> {
        let limits = Limits { connections_max: self.connections_max, ..Limits::default() };
        let authorities = match &self.nodes_ca {
            Some(path) => {
                let unreadable = |problem: String| FrontError::Authorities { path: path.clone(), problem };
                let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
                let read = Certificate::from_pem_bundle(&pem);
                let read = read.map_err(|error| unreadable(error.to_string()))?;
                Some(read)
                    .filter(|read| !read.is_empty())
                    .ok_or_else(|| unreadable("no certificate".into()))?
            }
            None => Vec::new(),
        };
        Ok(Settings { tls, limits, authorities, metrics })
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8444)),
            tls_certificate: None,
            tls_key: None,
            nodes_ca: None,
            connections_max: 16_384,
        }
    }
}

impl Upstream {
    /// A node whose API is at a URL, such as `http://10.0.0.3:8444`: scheme, host and port, and nothing more.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(node: u16, api: &str) -> Result<Self, String> {
        let wrong = || format!("expected a URL such as \"http://10.0.0.3:8444\", found `{api}`");
        let url: Url = api.parse().map_err(|_| wrong())?;
        let plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
            return Err(wrong());
        }
        Ok(Self { node, api: url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_url_has_a_scheme_a_host_and_nothing_behind() {
        for good in ["http://10.0.0.3:8444", "https://relay-1.internal/", "http://[2001:db8::1]:8444"] {
            assert!(Upstream::new(1, good).is_ok(), "{good}");
        }
        for bad in
            ["", "10.0.0.3:8444", "ftp://a.test", "http://a.test/v1", "http://u:p@a.test", "http://a.test/?x"]
        {
            assert!(Upstream::new(1, bad).unwrap_err().contains("expected a URL"), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |config: ApiConfig| config.check().unwrap_err().0;
        let key = Some(PathBuf::from("k"));
        assert_eq!(wrong(ApiConfig { tls_key: key, ..ApiConfig::default() }), "api.tls_key");
        assert_eq!(wrong(ApiConfig { connections_max: 0, ..ApiConfig::default() }), "api.connections_max");
        assert!(ApiConfig::default().check().is_ok());
    }
}
