//! The `[[relays]]` of the configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Url};
use serde::{Deserialize, Serialize};
use trunkline_common::secret;
use zeroize::Zeroizing;

/// Relays of one deployment that are looked at. More is another deployment's size, and each costs a task.
pub const RELAYS_MAX: usize = 64;

/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;

/// One relay of this deployment: a node, or an ingress in front of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// What operators call it; unique.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// Its admin token.
    pub admin_token_file: PathBuf,
    /// PEM: whom its certificate must be from, instead of the system's authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// What is wrong with a configuration's relays: the field, and what was expected.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(relays: &[RelayConfig]) -> Result<(), (String, String)> {
    if relays.len() > RELAYS_MAX {
        return Err((format!("relays[{RELAYS_MAX}]"), format!("expected at most {RELAYS_MAX} relays")));
    }
    let mut names = BTreeSet::new();
    for (at, relay) in relays.iter().enumerate() {
        let wrong = |field: &str, problem: String| Err((format!("relays[{at}].{field}"), problem));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &relay.name;
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
            let problem =
                format!("expected 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` or `.`, found `{name}`");
            return wrong("name", problem);
        }
        if !names.insert(name) {
            return wrong(
                "name",
                format!("`{name}` is another relay's name already: expected a name of its own"),
            );
        }
        if let Err(problem) = parse_url(&relay.url) {
            return wrong("url", problem);
        }
    }
    Ok(())
}

/// Where an API is, without anything that a request would have to add or leave out.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let expected = "expected the API's address, such as \"http://127.0.0.1:8444\"";
    let url = Url::parse(text).map_err(|error| format!("{expected}, found `{text}` ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{expected}: http or https, and a host, found `{text}`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{expected} without a user or password: the token is in admin_token_file"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{expected} without a path, found `{text}`"));
    }
    Ok(url)
}

impl RelayConfig {
    /// Makes paths count from a directory.
    pub(crate) fn resolve(&mut self, base: &Path) {
        for path in [Some(&mut self.admin_token_file), self.ca_file.as_mut()].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// The token that opens it.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn token(&self) -> Result<Zeroizing<String>, String> {
        let token =
            secret::read(&self.admin_token_file).map_err(|error| format!("admin_token_file: {error}"))?;
        let token = Zeroizing::new(token.trim().to_owned());
        // It goes into a header: a line break would be refused there without a word on why.
        if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
            return Err("admin_token_file: expected the relay's admin token, on one line, as its `admin.token` has it".into());
        }
        Ok(token)
    }

    /// Whom its certificate must be from; `None` for the system's authorities.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn authorities(&self) -> Result<Option<Vec<Certificate>>, String> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let unusable = |error: String| format!("ca_file: cannot use {}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let read = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
        if read.is_empty() {
            return Err(unusable("there is no certificate in it".to_owned()));
        }
        Ok(Some(read))
    }
}
