//! The admin API: what operators see and do, over HTTP. The CLI and the console speak to it.
//!
//! # Layout
//! In the order a request meets them:
//! - [`routes`]: every route with its role, from which the router and the OpenAPI document are both made
//! - `auth`: who asks, and whether they may
//! - [`fail`]: what is answered when something is wrong with a request
//! - `session`: logging in to the console, and what that rests on
//! - `identity`, `peers`, `networks`, `outbox`, `tokens`, `administrators`, `settings`, `audit`, `history`, `relays`,
//!   `events`, `health`, `doctor`: the handlers
//! - [`openapi`]: the document that describes both APIs

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::middleware::from_fn_with_state;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::bundle::BUNDLE_BYTES_MAX;
use trunkline_gateway_proto::settings::Values;
use trunkline_http::extract::Json as JsonBody;
use trunkline_http::lockout::Lockout;
use trunkline_http::problem::{self, Problem};

use crate::clock::now;
use crate::config::{Config, IdentityMode};
use crate::doctor::Patient;
use crate::history::History;
use crate::hub::Hub;
use crate::identity::Identity;
use crate::relays::Relays;

mod administrators;
mod audit;
pub(crate) mod auth;
mod doctor;
mod events;
pub mod fail;
mod health;
mod history;
mod identity;
mod networks;
pub mod openapi;
mod outbox;
mod peers;
mod relays;
pub mod routes;
pub(crate) mod session;
pub(crate) mod settings;
mod tokens;

#[cfg(test)]
pub(crate) mod fake_hub;
#[cfg(test)]
mod tests;

pub use health::Readiness;
pub use networks::NETWORK_TOKEN_PREFIX;
use routes::{Access, ROUTES};
pub use tokens::ADMIN_TOKEN_PREFIX;

/// Largest request body, but for networks and bundles. A peer with all the local domains that one may have needs most of it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Largest body that describes a network: its policy with a full block list needs most of it.
const NETWORK_BODY_BYTES_MAX: usize = 40 * 1024 * 1024;

/// Largest body with a bundle, which is small. It is read as any JSON first: more takes memory before it is refused.
const BUNDLE_BODY_BYTES_MAX: usize = 2 * BUNDLE_BYTES_MAX;

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
    /// What was, for charts; whoever made this samples it.
    pub history: Arc<History>,
    /// The deployment's relays.
    pub relays: Arc<Relays>,
    lockout: Arc<Lockout>,
    logins: Arc<session::Logins>,
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
    /// Where other replicas reach this one, when there may be any.
    pub replica: Option<String>,
    /// What the configuration says of settings that administrators may change while the gateway runs.
    pub configured: Values,
    /// Whether the admin API speaks TLS: then its cookie is for TLS only.
    pub tls: bool,
}

impl AdminState {
    /// State for one running gateway.
    #[must_use]
    pub fn new(hub: Hub, identity: Arc<Identity>, about: About, readiness: Arc<Readiness>) -> Self {
        let logins = Arc::new(session::Logins::new(&about.domain, about.tls));
        let (about, lockout) = (Arc::new(about), Arc::default());
        let (history, relays, doctor) = (Arc::default(), Arc::default(), Arc::default());
        let started = Instant::now();
        Self { hub, identity, about, readiness, history, relays, lockout, logins, started, doctor }
    }

    /// The same with relays.
    #[must_use]
    pub fn with_relays(self, relays: Arc<Relays>) -> Self {
        Self { relays, ..self }
    }

    /// The same, with what the doctor looks at: settings, and where the gateway listens for peers.
    #[must_use]
    pub fn examined(mut self, config: Config, link: SocketAddr) -> Self {
        let (hub, identity) = (self.hub.clone(), Arc::clone(&self.identity));
        self.doctor = Arc::new(doctor::Doctor::of(Patient { hub, identity, config: Arc::new(config), link }));
        self
    }

    /// The settings that count.
    fn settings(&self) -> Values {
        self.hub.directory().settings().over(self.about.configured)
    }
}

/// The admin API. Serve it so that requests carry `ConnectInfo<SocketAddr>`: lock-out counts per source.
pub fn router(state: AdminState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = (route.handler)();
        let handler = match route.access {
            Access::Open => handler,
            access => handler.route_layer(from_fn_with_state((state.clone(), access), auth::require)),
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

/// One that describes a network.
type NetworkBody<T> = JsonBody<T, NETWORK_BODY_BYTES_MAX>;

/// One with a bundle.
type BundleBody<T> = JsonBody<T, BUNDLE_BODY_BYTES_MAX>;

/// What handlers answer.
type Answer<T> = Result<T, Problem>;
