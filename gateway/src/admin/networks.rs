//! Networks (tenants) of this deployment. Secrets are answered once, when they are made, and never shown again.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_common::token::{self, TokenHash};
use trunkline_gateway_proto::admin::{AdminOp, NetworkSpec, NetworkView, QueueView};
use trunkline_gateway_proto::directory::{Role, Webhook};
use trunkline_gateway_proto::policy::Policy;
use trunkline_http::extract::Named;
use trunkline_http::extract::Query;

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use super::{JsonBody, NetworkBody};

/// Text before a network's token, so that a leaked one can be recognised.
pub const NETWORK_TOKEN_PREFIX: &str = "tln";

/// Text before a webhook's secret.
const WEBHOOK_SECRET_PREFIX: &str = "tlw";

#[derive(Debug, Serialize)]
pub(super) struct NetworksView {
    networks: Vec<PublicNetwork>,
}

/// A network as it is shown: without its webhook's secret.
#[derive(Debug, Serialize)]
pub(super) struct PublicNetwork {
    id: NetworkId,
    label: String,
    local_domains: Vec<Domain>,
    hidden_domains: Vec<Domain>,
    policy: Policy,
    webhook: Option<PublicWebhook>,
    tokens: usize,
    inbox: QueueView,
    receipts: QueueView,
}

#[derive(Debug, Serialize)]
struct PublicWebhook {
    url: String,
}

/// A network as an operator describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecBody {
    id: NetworkId,
    #[serde(default)]
    label: String,
    #[serde(default)]
    local_domains: Vec<Domain>,
    #[serde(default)]
    hidden_domains: Vec<Domain>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    webhook: Option<WebhookBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    url: String,
    /// Left out: the one it has stays, or one is made and answered once.
    #[serde(default)]
    secret: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkAdded {
    id: NetworkId,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkChanged {
    id: NetworkId,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkTokenView {
    id: NetworkId,
    token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RemoveParams {
    purge: bool,
}

pub(super) async fn list(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
) -> Answer<Json<NetworksView>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let networks = overview.networks.into_iter().map(|network| PublicNetwork::to(actor.role, network));
    Ok(Json(NetworksView { networks: networks.collect() }))
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<NetworkId>,
) -> Answer<Json<PublicNetwork>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let found = overview.networks.into_iter().find(|network| network.spec.id == id);
    let network = found.ok_or_else(|| fail::not_found("network", id.as_str()))?;
    Ok(Json(PublicNetwork::to(actor.role, network)))
}

pub(super) async fn add(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(body): NetworkBody<SpecBody>,
) -> Answer<(StatusCode, Json<NetworkAdded>)> {
    let id = body.id.clone();
    let (spec, webhook_secret) = spec(body, None)?;
    state.hub.admin(&actor.label, AdminOp::NetworkAdd(Box::new(spec))).await.map_err(fail::admin)?;
    let token = add_token(&state, &actor, &id).await?;
    Ok((StatusCode::CREATED, Json(NetworkAdded { id, token, webhook_secret })))
}

pub(super) async fn update(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<NetworkId>,
    JsonBody(body): NetworkBody<SpecBody>,
) -> Answer<Json<NetworkChanged>> {
    if body.id != id {
        return Err(fail::invalid(format!("id: expected `{id}` as in the path; a network keeps its id")));
    }
    let directory = state.hub.directory();
    let known = directory.network_by_id(id.as_str()).and_then(|network| network.webhook.as_ref());
    let (spec, webhook_secret) = spec(body, known)?;
    state.hub.admin(&actor.label, AdminOp::NetworkUpdate(Box::new(spec))).await.map_err(fail::admin)?;
    Ok(Json(NetworkChanged { id, webhook_secret }))
}

pub(super) async fn remove(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<NetworkId>,
    Query(RemoveParams { purge }): Query<RemoveParams>,
) -> Answer<StatusCode> {
    state.hub.admin(&actor.label, AdminOp::NetworkRemove { id, purge }).await.map_err(fail::admin)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn token(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<NetworkId>,
) -> Answer<(StatusCode, Json<NetworkTokenView>)> {
    let token = add_token(&state, &actor, &id).await?;
    Ok((StatusCode::CREATED, Json(NetworkTokenView { id, token })))
}

async fn add_token(state: &AdminState, actor: &Actor, id: &NetworkId) -> Answer<String> {
    let token = token::generate(NETWORK_TOKEN_PREFIX);
    let op = AdminOp::NetworkToken { id: id.clone(), token: TokenHash::of(&token) };
    state.hub.admin(&actor.label, op).await.map_err(fail::admin)?;
    Ok(token.to_string())
}

/// What the hub is asked to make, and the webhook's secret when it had to be made here.
fn spec(body: SpecBody, known: Option<&Webhook>) -> Answer<(NetworkSpec, Option<String>)> {
    let SpecBody { id, label, local_domains, hidden_domains, policy, webhook } = body;
    let (webhook, made) = match webhook {
        None => (None, None),
        Some(WebhookBody { url, .. }) if !(url.starts_with("https://") || url.starts_with("http://")) => {
            return Err(fail::invalid("webhook.url: expected http://… or https://…".to_owned()));
        }
        Some(WebhookBody { url, secret: Some(secret) }) => (Some(Webhook { url, secret }), None),
        Some(WebhookBody { url, secret: None }) => match known {
            Some(known) => (Some(Webhook { url, secret: known.secret.clone() }), None),
            None => {
                let secret = token::generate(WEBHOOK_SECRET_PREFIX).to_string();
                (Some(Webhook { url, secret: secret.clone() }), Some(secret))
            }
        },
    };
    Ok((NetworkSpec { id, label, local_domains, hidden_domains, policy, webhook }, made))
}

impl PublicNetwork {
    /// A network as somebody of this role may see it: below `admin`, as if its hidden domains were not there.
    fn to(role: Role, view: NetworkView) -> Self {
        let NetworkSpec { id, label, mut local_domains, mut hidden_domains, mut policy, webhook } = view.spec;
        if role < Role::Admin && !hidden_domains.is_empty() {
            local_domains.retain(|domain| !hidden_domains.contains(domain));
            let hidden = |text: &str| hidden_domains.iter().any(|domain| domain.as_str() == text);
            policy.blocked.retain(|address| !hidden(address.domain()));
            hidden_domains = Vec::new();
        }
        Self {
            id,
            label,
            local_domains,
            hidden_domains,
            policy,
            webhook: webhook.map(|webhook| PublicWebhook { url: webhook.url }),
            tokens: view.tokens,
            inbox: view.inbox,
            receipts: view.receipts,
        }
    }
}
