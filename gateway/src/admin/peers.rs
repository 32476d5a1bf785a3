//! Peer deployments: introducing them, and everything an operator does to a peering.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trunkline_common::ids::Domain;
use trunkline_common::token;
use trunkline_gateway_proto::admin::{AdminOp, AdminReply, ManualPeer, PeerView};
use trunkline_gateway_proto::bundle::{Bundle, ENDPOINTS_MAX, split_endpoint};
use trunkline_gateway_proto::certificate::Certificate;
use trunkline_gateway_proto::directory::LocalDomain;
use trunkline_gateway_proto::key::ApiKey;
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::Named;

use super::auth::Actor;
use super::{AdminState, Answer, Body, BundleBody, JsonBody, fail, now};

/// How long an invitation is good unless asked otherwise: a week covers an operator's absence.
const INVITATION_S: u64 = 7 * 86_400;

/// How long an invitation may be good. A longer one is a secret that lies around.
const INVITATION_S_MAX: u64 = 90 * 86_400;

#[derive(Debug, Serialize)]
pub(super) struct PeersView {
    peers: Vec<PeerView>,
}

/// A peer added by hand. Its certificates may be given as PEM, as its operator would send them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerAdd {
    domain: Domain,
    #[serde(default)]
    label: String,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    pins: Vec<Pin>,
    #[serde(default)]
    ca_pem: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default)]
    local_domains: Vec<LocalDomain>,
    #[serde(default)]
    allow_private_ips: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct PeerAdded {
    domain: Domain,
    /// Issued to the peer: hand it to its operator.
    api_key: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    domain: Domain,
    #[serde(default)]
    valid_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewBody {
    bundle: Value,
}

/// What a bundle says, without its secret.
#[derive(Debug, Serialize)]
pub(super) struct Preview {
    domain: Domain,
    pin: Pin,
    local_domains: Vec<LocalDomain>,
    endpoints: Vec<String>,
    expires: Time,
    /// Whether it answers an invitation of ours.
    answer: bool,
    /// Whether this peer is known already.
    known: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accept {
    bundle: Value,
    #[serde(default)]
    allow_private_ips: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    domain: Domain,
    /// The bundle to send back, when the one accepted was an invitation.
    answer: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokePin {
    pin: Pin,
}

pub(super) async fn list(State(state): State<AdminState>) -> Answer<Json<PeersView>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    Ok(Json(PeersView { peers: overview.peers }))
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Named(domain): Named<Domain>,
) -> Answer<Json<PeerView>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let peer = overview.peers.into_iter().find(|peer| peer.domain == domain);
    peer.map(Json).ok_or_else(|| fail::not_found("peer", domain.as_str()))
}

pub(super) async fn add(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(add): Body<PeerAdd>,
) -> Answer<(StatusCode, Json<PeerAdded>)> {
    let domain = add.domain.clone();
    let peer = manual(add, state.settings().allow_private_ips)?;
    match state.hub.admin(&actor.label, AdminOp::PeerAdd(Box::new(peer))).await.map_err(fail::admin)? {
        AdminReply::Added { api_key } => {
            Ok((StatusCode::CREATED, Json(PeerAdded { domain, api_key: api_key.to_text() })))
        }
        _ => Err(fail::unexpected()),
    }
}

pub(super) async fn invite(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(Invite { domain, valid_s }): Body<Invite>,
) -> Answer<(StatusCode, Json<Value>)> {
    let valid_s = valid_s.unwrap_or(INVITATION_S);
    if !(60..=INVITATION_S_MAX).contains(&valid_s) {
        return Err(fail::invalid(format!("valid_s: expected 60 to {INVITATION_S_MAX} (90 days)")));
    }
    let expires = now() + Duration::from_secs(valid_s);
    let op = AdminOp::PeerInvite { domain: domain.clone(), expires };
    match state.hub.admin(&actor.label, op).await.map_err(fail::admin)? {
        AdminReply::Invited { api_key, nonce, expires } => {
            let bundle = signed(&state, domain, api_key, expires, nonce, None)?;
            Ok((StatusCode::CREATED, Json(bundle)))
        }
        _ => Err(fail::unexpected()),
    }
}

pub(super) async fn preview(
    State(state): State<AdminState>,
    JsonBody(PreviewBody { bundle }): BundleBody<PreviewBody>,
) -> Answer<Json<Preview>> {
    let bundle = parse(&state, &bundle)?;
    let known = state.hub.directory().peer_by_domain(bundle.domain.as_str()).is_some();
    let Bundle { domain, pin, local_domains, endpoints, expires, in_reply_to, .. } = bundle;
    Ok(Json(Preview { domain, pin, local_domains, endpoints, expires, answer: in_reply_to.is_some(), known }))
}

pub(super) async fn accept(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(Accept { bundle, allow_private_ips }): BundleBody<Accept>,
) -> Answer<Json<Accepted>> {
    let bundle = parse(&state, &bundle)?;
    let (domain, expires) = (bundle.domain.clone(), bundle.expires);
    let allow_private_ips = allow_private_ips.unwrap_or(state.settings().allow_private_ips);
    let op = AdminOp::PeerAccept { bundle: Box::new(bundle), allow_private_ips };
    let answer = match state.hub.admin(&actor.label, op).await.map_err(fail::admin)? {
        AdminReply::Accepted { answer } => answer,
        _ => return Err(fail::unexpected()),
    };
    // The answer is good for as long as the invitation is.
    let answer = answer
        .map(|answer| {
            let nonce = token::generate("n").to_string();
            signed(&state, domain.clone(), answer.api_key, expires, nonce, Some(answer.in_reply_to))
        })
        .transpose()?;
    Ok(Json(Accepted { domain, answer }))
}

/// Handlers that ask for one thing of one peer.
macro_rules! peer_op {
    ($($name:ident => $op:ident),+ $(,)?) => {
        $(pub(super) async fn $name(
            State(state): State<AdminState>,
            Extension(actor): Extension<Actor>,
            Named(domain): Named<Domain>,
        ) -> Answer<StatusCode> {
            done(&state, &actor, AdminOp::$op(domain)).await
        })+
    };
}

peer_op! {
    pause => PeerPause,
    resume => PeerResume,
    remove => PeerRemove,
    rotate_key => PeerRotateKey,
    retire_keys => PeerRetireKeys,
    approve_domains => PeerApproveDomains,
}

pub(super) async fn revoke_pin(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(domain): Named<Domain>,
    JsonBody(RevokePin { pin }): Body<RevokePin>,
) -> Answer<StatusCode> {
    done(&state, &actor, AdminOp::PeerRevokePin(domain, pin)).await
}

async fn done(state: &AdminState, actor: &Actor, op: AdminOp) -> Answer<StatusCode> {
    state.hub.admin(&actor.label, op).await.map_err(fail::admin)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The signature covers a canonical form, so a bundle survives being a value inside a request.
fn parse(state: &AdminState, bundle: &Value) -> Answer<Bundle> {
    Bundle::parse(bundle.to_string().as_bytes(), now(), &state.about.domain)
        .map_err(|error| fail::invalid(format!("bundle: {error}")))
}

fn signed(
    state: &AdminState,
    audience: Domain,
    api_key: ApiKey,
    expires: Time,
    nonce: String,
    in_reply_to: Option<String>,
) -> Answer<Value> {
    let current = state.identity.current();
    let bundle = Bundle {
        domain: state.about.domain.clone(),
        audience,
        local_domains: state.hub.directory().local_domains(),
        endpoints: state.about.advertise.clone(),
        certificate: current.pem().certificate.clone(),
        pin: current.pin(),
        api_key,
        expires,
        nonce,
        in_reply_to,
    };
    let text =
        bundle.to_file(|message| state.identity.sign(message)).map_err(|error| fail::identity(&error))?;
    serde_json::from_str(&text).map_err(|_| fail::unexpected())
}

fn manual(add: PeerAdd, allow_private_ips: bool) -> Answer<ManualPeer> {
    let mut pins = add.pins;
    for (index, pem) in add.certificates.iter().enumerate() {
        let (certificate, _) = Certificate::parse_pem(pem)
            .map_err(|error| fail::invalid(format!("certificates[{index}]: {error}")))?;
        pins.push(certificate.pin);
    }
    if pins.is_empty() == add.ca_pem.is_none() {
        let detail =
            "give either certificates or pins (pinned mode), or ca_pem (CA mode): exactly one of them";
        return Err(fail::invalid(detail));
    }
    if let Some(pem) = &add.ca_pem {
        Certificate::parse_pem(pem).map_err(|error| fail::invalid(format!("ca_pem: {error}")))?;
    }
    if let Some(key) = &add.api_key {
        ApiKey::parse(key).map_err(|error| fail::invalid(format!("api_key: {error}")))?;
    }
    if add.endpoints.len() > ENDPOINTS_MAX {
        return Err(fail::invalid(format!("endpoints: expected at most {ENDPOINTS_MAX}")));
    }
    if let Some(index) = add.endpoints.iter().position(|endpoint| split_endpoint(endpoint).is_none()) {
        return Err(fail::invalid(format!("endpoints[{index}]: expected host:port")));
    }
    Ok(ManualPeer {
        domain: add.domain,
        label: add.label,
        pins,
        ca_pem: add.ca_pem,
        api_key: add.api_key,
        endpoints: add.endpoints,
        local_domains: add.local_domains,
        allow_private_ips: add.allow_private_ips.unwrap_or(allow_private_ips),
    })
}
