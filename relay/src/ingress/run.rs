//! A running ingress: the threads that forward media first, then the front that everybody calls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};
use trunkline_common::shutdown::{self, Reload, Shutdown};
use trunkline_common::telemetry;
use trunkline_http::serve::tls::{Tls, TlsError};

use super::check::tls_files;
use super::config::IngressConfig;
use super::plane::{Plane, StartError};
use crate::key::{self, KeyError};
use crate::metrics;
use crate::tcp::PROTOCOLS;

/// How long stopping may take before what is not finished is cut off.
const STOP_MAX: Duration = Duration::from_secs(10);

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
    Tls(#[from] TlsError),
    /// Logs.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// Runs an ingress until a signal tells it to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &IngressConfig) -> Result<(), RunError> {
    telemetry::init(&config.log)?;
    metrics::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(system("starting the runtime"))?;
    let result = runtime.block_on(async {
        let (_trigger, shutdown, reload) =
            shutdown::on_signals(STOP_MAX).map_err(system("handling signals"))?;
        Box::pin(serve(config, shutdown, Some(reload))).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
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
    let tls = tls_files(&config.media).map(|files| Tls::load_for(files, PROTOCOLS)).transpose()?;
    let key = key::read(&config.media.ufrag_key_file)?;
    let plane = Plane::start(config, *key, tls.as_ref().map(|tls| tls.config()))?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    if let Some(tls) = &tls {
        tasks.spawn(Arc::clone(tls).watch(stopping.clone()));
        if let Some(reload) = reload {
            tasks.spawn(reload_certificates(reload, Arc::clone(tls), stopping));
        }
    }
    info!(nodes = config.nodes.len(), udp_port = config.media.udp_port, "ready");

    shutdown.draining().await;
    let stopped = shutdown.finish(async {
        // A panic in a thread was reported when it happened.
        tokio::task::spawn_blocking(move || plane.stop()).await.ok();
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
    });
    if let Err(cut_short) = stopped.await {
        warn!(%cut_short);
        tasks.shutdown().await;
    }
    info!("stopped");
    Ok(())
}

async fn reload_certificates(mut reload: Reload, tls: Arc<Tls>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = reload.requested() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        match tls.reload() {
            Ok(()) => info!("the certificate was read again"),
            Err(error) => warn!(%error, "the old certificate stays in use"),
        }
    }
}
