//! A running ingress: the threads that forward media, and the front that everybody calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};
use trunkline_common::shutdown::{self, Reload, Shutdown, SystemError, system};
use trunkline_common::telemetry;
use trunkline_http::serve;
use trunkline_http::serve::tls::{Tls, TlsError, TlsFiles};
use trunkline_postgres::settings::SettingsError;

use super::config::IngressConfig;
use super::front::{self, FrontError, Upstream, Upstreams};
use super::metrics::observe;
use super::plane::{Plane, StartError};
use super::registered::Registered;
use crate::key::{self, KeyError};
use crate::metrics;
use crate::run::reload_on_signal;
use crate::tcp::PROTOCOLS;

/// How long stopping may take before what is not finished is cut off.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long requests that are under way, and events connections that are being told, may take of it.
const API_DRAIN_MAX: Duration = Duration::from_secs(3);

/// How often what the data plane counted is told. It is counted once a second itself.
const METRICS_EVERY: Duration = Duration::from_secs(1);

/// Why an ingress does not start. The text names the setting to change.
#[derive(Debug, Error)]
pub enum RunError {
    /// The key that it shares with its nodes.
    #[error("media.ufrag_key_file: {0}")]
    UfragKey(#[from] KeyError),
    /// The data plane.
    #[error(transparent)]
    Plane(#[from] StartError),
    /// The certificate for media within TLS.
    #[error("media: {0}")]
    MediaTls(TlsError),
    /// The API's certificate.
    #[error("api: {0}")]
    ApiTls(TlsError),
    /// The API's port.
    #[error("api.listen: cannot listen on {address}: {source}; is the ingress running already?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Where a node's API is.
    #[error("nodes[{0}].api: not a URL")]
    NodeApi(usize),
    /// The front.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The registry's files; that it does not answer is no reason.
    #[error(transparent)]
    Registry(#[from] SettingsError),
    /// Logs.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The operating system.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// Runs an ingress until a signal tells it to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &IngressConfig) -> Result<(), RunError> {
    telemetry::init(&config.log)?;
    metrics::install();
    shutdown::until_signal(STOP_MAX, async |shutdown, reload| {
        Box::pin(serve(config, shutdown, Some(reload))).await
    })
}

/// Forwards until `shutdown` begins.
///
/// # Errors
/// When it cannot start.
pub async fn serve(
    config: &IngressConfig,
    shutdown: Shutdown,
    reload: Option<Reload>,
) -> Result<(), RunError> {
    let media_tls = TlsFiles::of(&config.media.tls_certificate, &config.media.tls_key);
    let media_tls = media_tls.map(|files| Tls::load_for(files, PROTOCOLS));
    let media_tls = media_tls.transpose().map_err(RunError::MediaTls)?;
    let api_tls = TlsFiles::of(&config.api.tls_certificate, &config.api.tls_key).map(Tls::load);
    let api_tls = api_tls.transpose().map_err(RunError::ApiTls)?;
    let nodes = config.nodes.iter().enumerate().map(|(at, node)| {
        let api = node.api.parse().map_err(|_| RunError::NodeApi(at))?;
        Ok(Upstream { node: node.node, api })
    });
    let nodes = nodes.collect::<Result<Vec<_>, RunError>>()?;
    let authorities = config.api.nodes_ca.as_deref().map(front::authorities).transpose()?.unwrap_or_default();
    let registry =
        config.registry().map(|database| database.access("trunkline-relay ingress")).transpose()?;
    let address = config.api.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| RunError::Listen { address, source })?;
    let address = listener.local_addr().map_err(system("reading a listener's address"))?;
    let key = key::read(&config.media.ufrag_key_file)?;
    let plane = Plane::start(config, *key, media_tls.as_ref().map(|tls| tls.config()))?;
    let plane = Arc::new(plane);
    // Nodes know their ingresses by one address, for the tunnel and for requests.
    let from = Some(config.tunnel.listen.ip()).filter(|ip| !ip.is_unspecified());
    let upstreams = Arc::new(Upstreams::new(nodes, authorities, from).map_err(FrontError::from)?);

    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let certificates: Vec<_> = media_tls.into_iter().chain(api_tls.clone()).collect();
    for tls in &certificates {
        tasks.spawn(Arc::clone(tls).watch(stopping.clone()));
    }
    if let Some(reload) = reload {
        tasks.spawn(reload_on_signal(reload, certificates, stopping.clone()));
    }
    tasks.spawn(tell_metrics(Arc::clone(&plane), stopping.clone()));
    let limits = serve::Limits {
        connections_max: config.limits.http_connections_max,
        drain: API_DRAIN_MAX,
        ..serve::Limits::default()
    };
    if let Some(access) = registry {
        let (plane, upstreams) = (Arc::clone(&plane), Arc::clone(&upstreams));
        let mut registered = Registered::new(config, access, &key, plane, upstreams);
        let wait = registered.first().await;
        tasks.spawn(registered.run(wait, stopping.clone()));
    }
    let settings = front::Settings { tls: api_tls, limits, metrics: metrics::render_process };
    let mut front = tokio::spawn(front::serve(listener, settings, upstreams, stopping));
    info!(nodes = config.nodes.len(), udp_port = config.media.udp_port, api = %address, "ready");

    tokio::select! {
        () = shutdown.draining() => {}
        ended = &mut front => {
            ended.map_err(|error| system("serving the API")(io::Error::other(error)))?;
        }
    }
    // The front first: whoever is told to come again finds another ingress, while media still flows here.
    stop.send_replace(true);
    let stopped = shutdown.finish(async {
        if !front.is_finished() {
            let _ = (&mut front).await;
        }
        while tasks.join_next().await.is_some() {}
        // A panic in a thread was reported when it happened.
        tokio::task::spawn_blocking(move || plane.stop()).await.ok();
    });
    if let Err(cut_short) = stopped.await {
        warn!(%cut_short);
        tasks.shutdown().await;
        front.abort();
    }
    info!("stopped");
    Ok(())
}

/// What the data plane counted goes where the front's metrics are.
async fn tell_metrics(plane: Arc<Plane>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(METRICS_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                observe(&plane.counters());
                metrics::upkeep();
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
