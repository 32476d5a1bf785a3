//! A running node: what starts in which order, and what stops in which.
//!
//! Up: keys, records, workers, API, ready. Down, on the first signal: not ready, everybody on a call is told that it
//! ended (`drained`), the API finishes what it has, records are synced. A second signal ends it at once. To let calls
//! end by themselves, drain first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use trunkline_common::secret::{self, SecretError};
use trunkline_common::shutdown::{self, Reload, Shutdown, SystemError, system};
use trunkline_common::telemetry;
use trunkline_common::token::TokenHash;
use trunkline_http::serve::tls::{Tls, TlsError, TlsFiles};
use trunkline_http::serve::{self, Limits};
use trunkline_postgres::settings::SettingsError;

use crate::api::{self, Api, Parts};
use crate::config::Config;
use crate::ingress::config::NodeConfig as Announced;
use crate::key::{self, KeyError as UfragKeyError};
use crate::metrics;
use crate::node::{CallEvent, IngressAccess, Node, NodeConfig, StartError};
use crate::records::{Book, Recorder, RecordsError, Settings as RecordsSettings, Writer};
use crate::registry::node::Registration;
use crate::registry::proof::Prover;
use crate::registry::rows::NodeRow;
use crate::tcp::PROTOCOLS;
use crate::token::{KeyError, Tokens};

/// How long stopping may take before what is not finished is cut off.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long the node may take to say which calls ended, once its workers stopped. Longer only delays the end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long requests that are under way, and events connections that are being told, may take of it.
const API_DRAIN_MAX: Duration = Duration::from_secs(3);

/// Why a node does not start. The text names the setting to change.
#[derive(Debug, Error)]
pub enum RunError {
    /// The admin token.
    #[error("api.admin_token_file: {0}")]
    AdminToken(#[from] SecretError),
    /// Keys of join tokens.
    #[error(transparent)]
    Tokens(#[from] KeyError),
    /// The registry's files; that it does not answer is no reason.
    #[error(transparent)]
    Registry(#[from] SettingsError),
    /// Where records go.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The key that nodes and ingresses share.
    #[error("media.ufrag_key_file: {0}")]
    UfragKey(#[from] UfragKeyError),
    /// The workers.
    #[error(transparent)]
    Node(#[from] StartError),
    /// The API's port.
    #[error("api.listen: cannot listen on {address}: {source}; is the relay running already?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The API's certificate.
    #[error("api: {0}")]
    Tls(#[from] TlsError),
    /// The certificate of the TCP port.
    #[error("media: {0}")]
    MediaTls(TlsError),
    /// Logs.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The operating system.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// Runs a node until a signal tells it to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &Config) -> Result<(), RunError> {
    telemetry::init(&config.log)?;
    metrics::install();
    shutdown::until_signal(STOP_MAX, async |shutdown, reload| {
        Box::pin(serve(config, shutdown, Some(reload))).await
    })
}

/// Serves calls until `shutdown` begins.
///
/// # Errors
/// When it cannot start.
pub async fn serve(config: &Config, shutdown: Shutdown, reload: Option<Reload>) -> Result<(), RunError> {
    let admin = secret::read(&config.api.admin_token_file)?;
    let tokens = Tokens::load(&config.tokens)?;
    let (recorder, writer) = records(config)?;
    let book = Arc::new(Book::new(recorder));
    let tls = TlsFiles::of(&config.api.tls_certificate, &config.api.tls_key).map(Tls::load).transpose()?;
    let address = config.api.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| RunError::Listen { address, source })?;
    let address = listener.local_addr().map_err(system("reading a listener's address"))?;
    let registration = registration(config, address)?;
    let media_tls = TlsFiles::of(&config.media.tls_certificate, &config.media.tls_key);
    let media_tls = media_tls.map(|files| Tls::load_for(files, PROTOCOLS));
    let media_tls = media_tls.transpose().map_err(RunError::MediaTls)?;
    let node = NodeConfig { tls: media_tls.as_ref().map(|tls| tls.config()), ..node_config(config)? };
    let (node, events) = Node::start(node)?;

    let (stop_api, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let (stop_recording, recording_stops) = watch::channel(false);
    let recording = tokio::spawn(record(Arc::clone(&book), events, recording_stops));
    tasks.spawn(upkeep(stopping.clone()));
    let certificates: Vec<_> = tls.iter().chain(&media_tls).cloned().collect();
    for tls in &certificates {
        tasks.spawn(Arc::clone(tls).watch(stopping.clone()));
    }
    if let Some(registration) = registration {
        tasks.spawn(registration.run(stopping.clone()));
    }
    if let Some(reload) = reload.filter(|_| !certificates.is_empty()) {
        tasks.spawn(reload_on_signal(reload, certificates, stopping.clone()));
    }
    let parts =
        Parts { node: node.clone(), tokens, admin: TokenHash::of(admin.trim()), book: Arc::clone(&book) };
    let router = api::router(Api::new(parts, config, stopping.clone()));
    let limits =
        Limits { connections_max: config.limits.connections_max, drain: API_DRAIN_MAX, ..Limits::default() };
    tasks.spawn(serve::serve(listener, tls.as_deref().map(Tls::acceptor), router, limits, stopping));
    info!(node = config.node, api = %address, "ready");

    shutdown.draining().await;
    info!("stopping: telling everybody who is on a call");
    if config.ingress.is_there() {
        // It finds them another node, or this one when it is back.
        node.hand_over_all();
    }
    let stopped = shutdown.finish(async {
        let workers = node.clone();
        // A panic in a worker was reported when it happened.
        tokio::task::spawn_blocking(move || workers.shutdown()).await.ok();
        stop_api.send_replace(true);
        while tasks.join_next().await.is_some() {}
    });
    if let Err(cut_short) = stopped.await {
        warn!(%cut_short);
        tasks.shutdown().await;
    }
    stop_recording.send_replace(true);
    recording.await.ok();
    // With the last recorder the writer ends.
    drop(book);
    if let Some(writer) = writer {
        // The disk may be slow, and nothing else is left to do.
        let _ = tokio::task::spawn_blocking(move || writer.finish()).await;
    }
    info!("stopped");
    Ok(())
}

fn records(config: &Config) -> Result<(Recorder, Option<Writer>), RecordsError> {
    let Some(directory) = config.records.directory.clone() else { return Ok((Recorder::off(), None)) };
    let settings = RecordsSettings {
        directory,
        prefix: config.records.prefix.clone(),
        size_max: config.records.size_max.0,
    };
    let (recorder, writer) = Recorder::start(settings)?;
    Ok((recorder, Some(writer)))
}

/// Until told to stop; then what the node still says of calls that ended.
async fn record(book: Arc<Book>, mut events: mpsc::Receiver<CallEvent>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => book.note(event),
                None => return,
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    while let Ok(Some(event)) = tokio::time::timeout(LAST_WORDS, events.recv()).await {
        book.note(event);
    }
}

/// What the node says of itself in the registry, if there is one. `api` is where its API listens.
fn registration(config: &Config, api: SocketAddr) -> Result<Option<Registration>, RunError> {
    let Some((database, tunnel)) = config.registry().zip(config.ingress.listen) else { return Ok(None) };
    let access = database.access("trunkline-relay node")?;
    let scheme = if config.api.tls_certificate.is_some() { "https" } else { "http" };
    let api = config.registry_api.clone().unwrap_or_else(|| format!("{scheme}://{api}"));
    let row = NodeRow {
        node: Announced { node: config.node, tunnel, api },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: crate::registry::rows::new_instance(),
    };
    let prover = Prover::derive(&*key::read(&config.media.ufrag_key_file)?);
    Ok(Some(Registration { access, prover, row, ingresses: config.ingress.from.clone() }))
}

fn node_config(config: &Config) -> Result<NodeConfig, RunError> {
    let media = &config.media;
    Ok(NodeConfig {
        node: config.node,
        workers: media.threads(),
        listen: media.listen.clone(),
        advertise: media.advertise.clone(),
        udp_ports: media.udp_ports.ports(),
        tcp_port: media.tcp_port,
        ingress: config.ingress.listen.map(|listen| IngressAccess {
            listen,
            from: config.ingress.from.clone(),
            advertise: config.ingress.advertise.clone(),
            udp_port: config.ingress.udp_port,
            tcp_port: config.ingress.tcp_port,
        }),
        force_tcp: media.force_tcp,
        turn_url: config.turn_url(),
        dtls_13: media.dtls_13,
        codecs: media.codecs.clone(),
        ufrag_key: *key::read(&media.ufrag_key_file)?,
        calls_max: config.limits.calls_max,
        worker_participants: media.worker_participants,
        hands_over: config.ingress.is_there(),
        never_joined_timeout: config.calls.unjoined_timeout.0,
        all_left_timeout: config.calls.empty_timeout.0,
        ..NodeConfig::default()
    })
}

/// Reads certificates again whenever asked to, until told to stop.
pub(crate) async fn reload_on_signal(
    mut reload: Reload,
    certificates: Vec<Arc<Tls>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = reload.requested() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        for tls in &certificates {
            match tls.reload() {
                Ok(()) => info!("a certificate was read again"),
                Err(error) => warn!(%error, "the old certificate stays in use"),
            }
        }
    }
}

async fn upkeep(mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(metrics::UPKEEP_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => metrics::upkeep(),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
