//! Administrators of the console, as those of role `admin` manage them.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::administrator::{AdministratorOp, PasswordHash};
use trunkline_gateway_proto::directory::Role;
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::Named;

use super::auth::Actor;
use super::session::{Ended, password};
use super::{AdminState, Answer, fail};
use super::{Body, JsonBody};

#[derive(Debug, Serialize)]
pub(super) struct AdministratorsView {
    administrators: Vec<AdministratorView>,
}

#[derive(Debug, Serialize)]
struct AdministratorView {
    name: String,
    role: Role,
    totp: bool,
    must_change_password: bool,
    created: Time,
    active: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdministratorAdd {
    name: String,
    role: Role,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdministratorRole {
    role: Role,
}

#[derive(Debug, Serialize)]
pub(super) struct AdministratorAdded {
    name: String,
    role: Role,
    password: String,
}

#[derive(Debug, Serialize)]
pub(super) struct AdministratorPassword {
    name: String,
    password: String,
}

pub(super) async fn list(State(state): State<AdminState>) -> Json<AdministratorsView> {
    let directory = state.hub.directory();
    let administrators = directory.administrators().map(|record| AdministratorView {
        name: record.name.clone(),
        role: record.role,
        totp: record.totp.is_some(),
        must_change_password: record.must_change_password,
        created: record.created,
        active: state.is_active(&record.name),
    });
    Json(AdministratorsView { administrators: administrators.collect() })
}

pub(super) async fn add(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(AdministratorAdd { name, role }): Body<AdministratorAdd>,
) -> Answer<(StatusCode, Json<AdministratorAdded>)> {
    let (first, password) = first_password(&state).await?;
    change(&state, &actor, AdministratorOp::Add { name: name.clone(), role, password }).await?;
    Ok((StatusCode::CREATED, Json(AdministratorAdded { name, role, password: first.to_string() })))
}

pub(super) async fn set_role(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
    JsonBody(AdministratorRole { role }): Body<AdministratorRole>,
) -> Answer<StatusCode> {
    change(&state, &actor, AdministratorOp::Role { name, role }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
) -> Answer<StatusCode> {
    change(&state, &actor, AdministratorOp::Remove(name.clone())).await?;
    state.logins.end(&name, Ended::Removed);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn reset_password(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
) -> Answer<Json<AdministratorPassword>> {
    if state.hub.directory().administrator(&name).is_none() {
        return Err(fail::not_found("administrator", &name));
    }
    let (first, password) = first_password(&state).await?;
    change(&state, &actor, AdministratorOp::Password { name: name.clone(), password, proven: None }).await?;
    state.logins.end(&name, Ended::Password);
    Ok(Json(AdministratorPassword { name, password: first.to_string() }))
}

pub(super) async fn totp_off(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
) -> Answer<StatusCode> {
    change(&state, &actor, AdministratorOp::TotpOff { name, proven: None }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn first_password(state: &AdminState) -> Answer<(password::Password, PasswordHash)> {
    let first = password::generate();
    let hash = state.logins.passwords().hash(first.clone()).await?;
    Ok((first, hash))
}

async fn change(state: &AdminState, actor: &Actor, op: AdministratorOp) -> Answer<()> {
    state.hub.admin(&actor.label, AdminOp::Administrator(op)).await.map_err(fail::admin).map(drop)
}
