//! Our certificate, and its rotation: the next one is announced to peers before it is used. Of replicas, the one that leads
//! carries this out, and the pairs rest in the store.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::header::{CONTENT_TYPE, HeaderName};
use serde::{Deserialize, Serialize};
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::admin::{AdminOp, Overview};
use trunkline_gateway_proto::directory::PeerState;
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::OptionalJson;

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use crate::config::IdentityMode;
use crate::identity::{IdentityError, KeyPair};
use crate::replica::certificate;

/// Who we are to peers.
#[derive(Debug, Serialize)]
pub(super) struct IdentityView {
    domain: Domain,
    mode: IdentityMode,
    current: PairView,
    next: Option<NextView>,
}

/// A certificate, as far as people look at it.
#[derive(Debug, Serialize)]
struct PairView {
    pin: Pin,
    not_before: Time,
    not_after: Time,
    subject: String,
    issuer: String,
    dns_names: Vec<String>,
    certificate: String,
}

/// The certificate announced next, and who knows of it.
#[derive(Debug, Serialize)]
struct NextView {
    #[serde(flatten)]
    pair: PairView,
    ready: Vec<Domain>,
    not_ready: Vec<Domain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Activate {
    force: bool,
}

pub(super) async fn show(State(state): State<AdminState>) -> Answer<Json<IdentityView>> {
    view(&state).await.map(Json)
}

pub(super) async fn certificate(
    State(state): State<AdminState>,
) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/x-pem-file")], state.identity.current().pem().certificate.clone())
}

pub(super) async fn rotate(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
) -> Answer<Json<IdentityView>> {
    refuse_in_ca_mode(&state)?;
    settle(&state)?;
    let identity = Arc::clone(&state.identity);
    let in_store = is_kept_in_store(&state);
    let make = move || if in_store { identity.next_or_new() } else { identity.make_next() };
    let next = blocking(make).await?.map_err(|error| fail::identity(&error))?;
    announce(&state, &actor, &next).await?;
    view(&state).await.map(Json)
}

pub(super) async fn activate(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    OptionalJson(Activate { force }): OptionalJson<Activate>,
) -> Answer<Json<IdentityView>> {
    refuse_in_ca_mode(&state)?;
    settle(&state)?;
    let next = state.identity.next().ok_or_else(|| fail::identity(&IdentityError::NoNext))?;
    // A crash may have come between making the pair and announcing it: what peers are ready for is then another.
    announce(&state, &actor, &next).await?;
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let (_, not_ready) = readiness(&overview);
    if !not_ready.is_empty() && !force {
        let names = not_ready.iter().map(Domain::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!(
            "{names} did not store the next certificate yet and would refuse us: wait until they are \
             connected, or force it and peer with them again"
        );
        return Err(fail::conflict(detail));
    }
    if !is_kept_in_store(&state) {
        let identity = state.identity.clone();
        blocking(move || identity.promote()).await?.map_err(|error| fail::identity(&error))?;
    }
    state
        .hub
        .admin(&actor.label, AdminOp::IdentityActivate { pin: next.pin() })
        .await
        .map_err(fail::admin)?;
    settle(&state)?;
    view(&state).await.map(Json)
}

/// Announces the pair that comes next.
async fn announce(state: &AdminState, actor: &Actor, next: &KeyPair) -> Answer<()> {
    let op = if is_kept_in_store(state) {
        AdminOp::IdentityKeep { current: state.identity.current().pem().clone(), next: next.pem().clone() }
    } else {
        AdminOp::IdentityAnnounce { certificate: bytes::Bytes::copy_from_slice(next.der()) }
    };
    state.hub.admin(&actor.label, op).await.map_err(fail::admin)?;
    settle(state)
}

/// Whether the store has the pairs, or gets them with the first rotation: so that replicas share them.
fn is_kept_in_store(state: &AdminState) -> bool {
    state.identity.is_kept() || state.about.replica.is_some()
}

/// Uses what the store has, without waiting for who follows that.
fn settle(state: &AdminState) -> Answer<()> {
    certificate::settle(&state.hub, &state.identity).map_err(|error| fail::identity(&error))
}

async fn view(state: &AdminState) -> Answer<IdentityView> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let next = state.identity.next().map(|next| {
        let (ready, not_ready) = readiness(&overview);
        NextView { pair: pair(&next), ready, not_ready }
    });
    Ok(IdentityView {
        domain: state.identity.domain().clone(),
        mode: state.about.identity_mode,
        current: pair(&state.identity.current()),
        next,
    })
}

fn pair(pair: &KeyPair) -> PairView {
    let certificate = &pair.certificate;
    PairView {
        pin: certificate.pin,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        subject: certificate.subject.clone(),
        issuer: certificate.issuer.clone(),
        dns_names: certificate.dns_names.clone(),
        certificate: pair.pem().certificate.clone(),
    }
}

/// Which live peers have stored the next certificate, and which have not.
fn readiness(overview: &Overview) -> (Vec<Domain>, Vec<Domain>) {
    let (ready, not_ready): (Vec<_>, Vec<_>) = overview
        .peers
        .iter()
        .filter(|peer| peer.state != PeerState::Invited)
        .partition(|peer| peer.next_certificate_ready == Some(true));
    let names = |peers: Vec<&trunkline_gateway_proto::admin::PeerView>| {
        peers.into_iter().map(|peer| peer.domain.clone()).collect()
    };
    (names(ready), names(not_ready))
}

fn refuse_in_ca_mode(state: &AdminState) -> Answer<()> {
    match state.about.identity_mode {
        IdentityMode::Pinned => Ok(()),
        IdentityMode::Ca => Err(fail::conflict(
            "identity.mode is \"ca\": replace the certificate and key files, the gateway notices by itself",
        )),
    }
}

/// Makes keys and moves files away from the tasks that serve requests.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| fail::unexpected())
}
