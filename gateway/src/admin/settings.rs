//! Settings that are changed while the gateway runs. They take effect at once and outlive a restart.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use trunkline_common::redact::{self, Detail};
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::settings::{SettingsChange, Values};

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use super::{Body, JsonBody};

#[derive(Debug, Serialize)]
pub(super) struct SettingsView {
    allow_private_ips: Setting<bool>,
    retention_s: Setting<u64>,
    log_detail: Setting<Detail>,
    session_idle_s: Setting<u64>,
    session_max_s: Setting<u64>,
    require_totp: Setting<bool>,
}

/// One setting: what counts, what the configuration file says, and whether that was overridden.
#[derive(Debug, Serialize)]
struct Setting<T> {
    value: T,
    configured: T,
    overridden: bool,
}

/// Takes over what rests outside of the core and of requests.
pub(crate) fn apply(values: &Values) {
    redact::set_detail(values.log_detail);
}

pub(super) async fn show(State(state): State<AdminState>) -> Json<SettingsView> {
    Json(view(&state))
}

pub(super) async fn change(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(change): Body<SettingsChange>,
) -> Answer<Json<SettingsView>> {
    if change != SettingsChange::default() {
        state.hub.admin(&actor.label, AdminOp::Settings(change)).await.map_err(fail::admin)?;
        apply(&state.settings());
    }
    Ok(Json(view(&state)))
}

fn view(state: &AdminState) -> SettingsView {
    let configured = state.about.configured;
    let overrides = *state.hub.directory().settings();
    fn setting<T>(overridden: Option<T>, configured: T) -> Setting<T>
    where
        T: Copy,
    {
        Setting { value: overridden.unwrap_or(configured), configured, overridden: overridden.is_some() }
    }
    SettingsView {
        allow_private_ips: setting(overrides.allow_private_ips, configured.allow_private_ips),
        retention_s: setting(overrides.retention_s, configured.retention_s),
        log_detail: setting(overrides.log_detail, configured.log_detail),
        session_idle_s: setting(overrides.session_idle_s, configured.session_idle_s),
        session_max_s: setting(overrides.session_max_s, configured.session_max_s),
        require_totp: setting(overrides.require_totp, configured.require_totp),
    }
}
