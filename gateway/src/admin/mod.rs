//! The admin API: what operators see and do, over HTTP. The CLI speaks to it, and so will the console.
//!
//! # Layout
//! In the order a request meets them:
//! - [`routes`]: every route with its role, from which the router and the OpenAPI document are both made
//! - `auth`: who asks, and whether they may
//! - [`fail`]: what is answered when something is wrong with a request
//! - `identity`, `peers`, `networks`, `outbox`, `tokens`, `audit`, `events`, `health`, `doctor`: the handlers
//! - [`openapi`]: the document that describes both APIs

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::middleware::from_fn_with_state;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::Json as JsonBody;
use trunkline_http::lockout::Lockout;
use trunkline_http::problem::{self, Problem};

use crate::config::{Config, IdentityMode};
use crate::doctor::Patient;
use crate::hub::Hub;
use crate::identity::Identity;

mod audit;
pub(crate) mod auth;
mod doctor;
mod events;
pub mod fail;
mod health;
mod identity;
mod networks;
pub mod openapi;
mod outbox;
mod peers;
pub mod routes;
mod tokens;

#[cfg(test)]
pub(crate) mod fake_hub;
#[cfg(test)]
mod tests;

pub use health::Readiness;
pub use networks::NETWORK_TOKEN_PREFIX;
use routes::{Access, ROUTES};
pub use tokens::ADMIN_TOKEN_PREFIX;

/// Largest request body. A network's policy with a full block list needs most of it.
const BODY_BYTES_MAX: usize = 40 * 1024 * 1024;

/// What the handlers need. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// Carries requests out.
    pub hub: Hub,
    /// Our certificate and key.
    pub identity: Arc<Identity>,
    /// What the configuration says about us.
    pub about: Arc<About>,
    /// Whether the process can do its work.
    pub readiness: Arc<Readiness>,
    lockout: Arc<Lockout>,
    started: Instant,
    doctor: Arc<doctor::Doctor>,
}

/// What the configuration says about this deployment, as far as the admin API shows or uses it.
#[derive(Clone, Debug)]
pub struct About {
    /// Our federation domain.
    pub domain: Domain,
    /// `host:port` that bundles tell peers to dial.
    pub advertise: Vec<String>,
    /// How our own certificate is trusted by peers.
    pub identity_mode: IdentityMode,
    /// Whether new peers' private, loopback and link-local addresses may be dialled unless the request says.
    pub allow_private_ips: bool,
}

impl AdminState {
    /// State for one running gateway.
    #[must_use]
    pub fn new(hub: Hub, identity: Arc<Identity>, about: About, readiness: Arc<Readiness>) -> Self {
        let (about, lockout) = (Arc::new(about), Arc::default());
        Self { hub, identity, about, readiness, lockout, started: Instant::now(), doctor: Arc::default() }
    }

    /// The same, with what the doctor looks at: settings, and where the gateway listens for peers.
    #[must_use]
    pub fn examined(mut self, config: Config, link: SocketAddr) -> Self {
        let (hub, identity) = (self.hub.clone(), Arc::clone(&self.identity));
        self.doctor = Arc::new(doctor::Doctor::of(Patient { hub, identity, config: Arc::new(config), link }));
        self
    }
}

/// The admin API. Serve it so that requests carry `ConnectInfo<SocketAddr>`: lock-out counts per source.
pub fn router(state: AdminState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = (route.handler)();
        let handler = match route.access {
            Access::Open => handler,
            Access::Role(role) => {
                handler.route_layer(from_fn_with_state((state.clone(), role), auth::require))
            }
        };
        router = router.route(route.path, handler);
    }
    router
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::not_found)
        .with_state(state)
}

/// A JSON body.
type Body<T> = JsonBody<T, BODY_BYTES_MAX>;

/// What handlers answer.
type Answer<T> = Result<T, Problem>;

/// The machine's clock.
fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
