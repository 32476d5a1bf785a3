//! `identity`: our certificate, and its rotation.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The certificate in use, and the one announced next
    Show,
    /// Make the next key pair and announce it to peers
    Rotate,
    /// Use the announced key pair from now on
    Activate {
        /// Even though peers are not ready: they will refuse us until they accept a new bundle
        #[arg(long)]
        force: bool,
    },
    /// The certificate in use, in PEM
    Export {
        /// Write it to this file instead
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Deserialize)]
struct Identity {
    domain: String,
    mode: String,
    current: Pair,
    next: Option<Next>,
}

#[derive(Deserialize)]
struct Pair {
    pin: String,
    not_after: Time,
    subject: String,
}

#[derive(Deserialize)]
struct Next {
    pin: String,
    ready: Vec<String>,
    not_ready: Vec<String>,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = match verb {
        Verb::Show => api.get("/admin/v1/identity").await?,
        Verb::Rotate => api.post("/admin/v1/identity/rotate", &json!({})).await?,
        Verb::Activate { force } => {
            api.post("/admin/v1/identity/activate", &json!({ "force": force })).await?
        }
        Verb::Export { out: file } => return export(api, file, out).await,
    };
    let identity: Identity = view(&answer)?;
    out.show(&answer, || text(&identity));
    Ok(())
}

async fn export(api: &Api, file: Option<PathBuf>, out: &mut Console<'_>) -> Result<(), CliError> {
    let pem = api.get_text("/admin/v1/identity/certificate").await?;
    let Some(file) = file else {
        let value = json!({ "certificate": pem });
        out.show(&value, || pem);
        return Ok(());
    };
    std::fs::write(&file, &pem)
        .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", file.display())))?;
    let value: Value = json!({ "written": file });
    out.show(&value, || format!("certificate written to {}", file.display()));
    Ok(())
}

fn text(identity: &Identity) -> String {
    let Identity { domain, mode, current, next } = identity;
    let mut fields = vec![
        ("domain", domain.clone()),
        ("mode", mode.clone()),
        ("pin", current.pin.clone()),
        ("subject", current.subject.clone()),
        ("not after", console::moment(current.not_after)),
    ];
    if let Some(Next { pin, ready, not_ready }) = next {
        fields.push(("next pin", pin.clone()));
        fields.push(("ready for it", console::or_dash(Some(ready.join(", ")))));
        fields.push(("not ready", console::or_dash(Some(not_ready.join(", ")))));
        let then =
            if not_ready.is_empty() { "`identity activate`" } else { "wait, then `identity activate`" };
        fields.push(("then", then.to_owned()));
    }
    console::fields(&fields)
}
