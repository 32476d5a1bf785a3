//! `admin`: administrators of the console.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::{segment, view};

use super::token::RoleArg;
use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All administrators
    List,
    /// Add one: the first password is shown once, and must be changed at the first log-in
    Add {
        /// Their name: lower-case letters, digits, `-`, `_`, `.` and `@`
        name: String,
        /// What they may do
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleArg,
        /// Write the password to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Change what one may do
    Role {
        /// Their name
        name: String,
        /// What they may do from now on
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// Remove one: their session ends
    Remove {
        /// Their name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Make a new first password: their session ends, and it must be changed at the next log-in
    ResetPassword {
        /// Their name
        name: String,
        /// Write the password to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Switch off the second factor of somebody who lost it
    ResetTotp {
        /// Their name
        name: String,
    },
}

#[derive(Deserialize)]
struct Administrators {
    administrators: Vec<Administrator>,
}

#[derive(Deserialize)]
struct Administrator {
    name: String,
    role: String,
    totp: bool,
    must_change_password: bool,
    created: Time,
    active: bool,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/administrators").await?;
            let Administrators { administrators } = view(&answer)?;
            out.show(&answer, || {
                let rows: Vec<_> = administrators.iter().map(row).collect();
                console::table(["NAME", "ROLE", "TWO-FACTOR", "PASSWORD", "LOGGED IN", "CREATED"], &rows)
            });
        }
        Verb::Add { name, role, out: file } => {
            file.as_deref().map_or(Ok(()), console::vacant)?;
            let body = json!({ "name": name, "role": role.name() });
            let answer = api.post("/admin/v1/administrators", &body).await?;
            console::deliver_secret(out, file.as_deref(), answer, "password")?;
        }
        Verb::Role { name, role } => {
            let answer = api.put(&path(&name), &json!({ "role": role.name() })).await?;
            out.show(&answer, || format!("`{name}` is of role {} now", role.name()));
        }
        Verb::Remove { name, yes } => {
            out.confirm(yes, &format!("Remove the administrator {name}?"))?;
            let answer = api.delete(&path(&name)).await?;
            out.show(&answer, || format!("administrator `{name}` removed"));
        }
        Verb::ResetPassword { name, out: file } => {
            file.as_deref().map_or(Ok(()), console::vacant)?;
            let answer = api.post(&format!("{}/password", path(&name)), &json!({})).await?;
            console::deliver_secret(out, file.as_deref(), answer, "password")?;
        }
        Verb::ResetTotp { name } => {
            let answer = api.post(&format!("{}/totp/off", path(&name)), &json!({})).await?;
            out.show(&answer, || format!("the second factor of `{name}` is off"));
        }
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/admin/v1/administrators/{}", segment(name))
}

fn row(administrator: &Administrator) -> [String; 6] {
    let Administrator { name, role, totp, must_change_password, created, active } = administrator;
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    [
        name.clone(),
        role.clone(),
        if *totp { "on" } else { "off" }.to_owned(),
        if *must_change_password { "to be changed" } else { "their own" }.to_owned(),
        yes(*active),
        console::moment(*created),
    ]
}
