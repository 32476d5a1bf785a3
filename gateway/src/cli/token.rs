//! `token`: admin tokens.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::{segment, view};

use super::target::Target;
use super::{Api, CliError, Console, console};
use crate::config::Config;
use crate::init::{self, CONFIG_FILE};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All tokens, without the secrets
    List,
    /// Make a token: it is shown once
    Add {
        /// What it is called in the audit log
        label: String,
        /// What it may do
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleArg,
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Remove a token: it opens nothing from then on
    Remove {
        /// Its label
        label: String,
    },
    /// Make a token of role admin without one: on the gateway's machine, good from its next start on, or, where it is one
    /// of several replicas, when it leads
    Recover {
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    /// Look
    Viewer,
    /// Also pause, resume, retry, purge
    Operator,
    /// Also change whom this deployment trusts
    Admin,
}

impl RoleArg {
    /// As the admin API writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    label: String,
    role: String,
    created: Time,
}

/// `token recover` does without the admin API.
pub(super) fn recover(target: &Target, file: Option<&Path>, out: &mut Console<'_>) -> Result<(), CliError> {
    let dir = target.directory().ok_or_else(|| {
        CliError::Usage("which gateway? Name its directory with --dir DIR, on its own machine".to_owned())
    })?;
    file.map_or(Ok(()), console::vacant)?;
    let config = Config::load(&dir.join(CONFIG_FILE)).map_err(CliError::failed)?;
    let (label, token) = init::recover_token(&config.data_dir).map_err(CliError::failed)?;
    let next = if config.replica.advertise.is_empty() {
        format!("restart the gateway: it takes the token `{label}` then")
    } else {
        format!(
            "the replica of this directory takes the token `{label}` within a second when it leads, which \
             trunkline_gateway_standing at its /metrics says; when another leads, recover one in that one's directory, or \
             stop the others until this one leads"
        )
    };
    if !out.json {
        out.hint(&next);
    }
    let answer = json!({ "label": label, "role": "admin", "token": token.as_str() });
    console::deliver_secret(out, file, answer, "token")
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/tokens").await?;
            let Tokens { tokens } = view(&answer)?;
            out.show(&answer, || {
                let row =
                    |token: &Token| [token.label.clone(), token.role.clone(), console::moment(token.created)];
                console::table(["LABEL", "ROLE", "CREATED"], &tokens.iter().map(row).collect::<Vec<_>>())
            });
        }
        Verb::Add { label, role, out: file } => {
            file.as_deref().map_or(Ok(()), console::vacant)?;
            let body = json!({ "label": label, "role": role.name() });
            let answer = api.post("/admin/v1/tokens", &body).await?;
            console::deliver_secret(out, file.as_deref(), answer, "token")?;
        }
        Verb::Remove { label } => {
            let answer = api.delete(&format!("/admin/v1/tokens/{}", segment(&label))).await?;
            out.show(&answer, || format!("token `{label}` removed"));
        }
        // Carried out before there was an API to call.
        Verb::Recover { .. } => {}
    }
    Ok(())
}
