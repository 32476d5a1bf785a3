//! Which network is calling.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::store::NetworkKey;
use trunkline_http::auth::{bearer, source};
use trunkline_http::problem::Problem;

use super::Api;

/// What whoever sends no token of ours is told.
const NO_TOKEN: &str = "send `Authorization: Bearer <token>` with a token that is in use here; the operator can issue a \
     new one";

/// The network whose token a request carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    pub(super) network: NetworkKey,
    token: TokenHash,
}

impl Tenant {
    /// Whether its token still opens its network.
    pub(super) fn still_valid(&self, api: &Api) -> bool {
        let directory = api.hub.directory();
        directory.network(self.network).is_some_and(|network| network.tokens.contains(&self.token))
    }
}

impl FromRequestParts<Arc<Api>> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        api.hub.knows()?;
        let refused = || api.failed_logins.refuse(source(&parts.extensions), NO_TOKEN);
        let token = bearer(&parts.headers).ok_or_else(refused)?;
        let directory = api.hub.directory();
        let network = directory.network_by_token(token).ok_or_else(refused)?.key;
        let tenant = Self { network, token: TokenHash::of(token) };
        if let Some(budget) = &api.token_budget {
            budget.count(&tenant.token)?;
        }
        Ok(tenant)
    }
}
