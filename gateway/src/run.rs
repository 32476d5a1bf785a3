//! A running gateway: what starts in which order, and what stops in which.
//!
//! Up: store, core, links, APIs, ready. Down, on the first signal: not ready, APIs take nothing new and finish what
//! they have, peers hear GOAWAY, the last commit is saved, the store is closed. A second signal ends it at once,
//! which loses nothing that was acknowledged.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};
use trunkline_common::shutdown::{self, Reload, Shutdown, SystemError, system};
use trunkline_common::telemetry;
use trunkline_common::token;
use trunkline_gateway_proto::core::Config as CoreConfig;
use trunkline_gateway_proto::settings::Values;
use trunkline_http::cli::client::reachable;
use trunkline_http::serve::tls::{Tls, TlsError, TlsFiles};
use trunkline_http::serve::{self, Limits};

use crate::admin::{About, AdminState, Readiness};
use crate::config::engine::{self, Engine, EngineError};
use crate::config::{ApiConfig, Config, ConfigError, IdentityMode, LogFormat};
use crate::driver::{self, Driver, FreeBytes, Membership, OpenStore};
use crate::hub::Hub;
use crate::identity::{Files, Identity, IdentityError};
use crate::init::{self, BootstrapError, bootstrap};
use crate::link::{LinkConfig, Links, StartError};
use crate::relays::{self, Relays};
use crate::replica::trust::TrustError;
use crate::replica::{Standing, Trust, certificate, lead, pass};
use crate::store::postgres::{LEASE, PostgresStore};
use crate::store::redb::RedbStore;
use crate::store::{StoreError, space};
use crate::{admin, api, console, history, metrics};

/// How often a replica looks whether what `init` left can be carried out.
const BOOTSTRAP_RETRY: Duration = Duration::from_secs(1);

/// How long a replica may seek at its start before that is worth a line. A leader is found within milliseconds.
const SEEKS_WITHIN: Duration = Duration::from_secs(1);

/// How long a drain may take before the process leaves what is not finished to the next start.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Where a running gateway listens, in its data directory: for the CLI, when the configuration says port 0.
const LISTENING_FILE: &str = "listening.json";

/// Where a running gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// UDP and TCP, for peers.
    pub link: SocketAddr,
    /// TCP, for messaging servers.
    pub local_api: SocketAddr,
    /// TCP, for operators.
    pub admin_api: SocketAddr,
}

impl Listening {
    /// What the gateway of a data directory wrote when it started; `None` when it does not run, or never did.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(LISTENING_FILE)).ok()?).ok()
    }

    /// Where everything is, in three lines.
    fn announcement(&self, config: &Config) -> String {
        let url = |api: &ApiConfig, address: SocketAddr| {
            let scheme = if api.tls_certificate.is_some() { "https" } else { "http" };
            format!("{scheme}://{}", reachable(address))
        };
        format!(
            "console          {}/console\nlocal API        {}\nfederation port  {}, UDP and TCP\n",
            url(&config.admin_api, self.admin_api),
            url(&config.local_api, self.local_api),
            self.link
        )
    }

    fn write(&self, data_dir: &Path) -> io::Result<()> {
        std::fs::write(data_dir.join(LISTENING_FILE), serde_json::to_vec(self)?)
    }
}

/// Why a gateway does not start. The text names the setting to change.
#[derive(Debug, Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What opens the store.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What replicas know each other by.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The certificate or its key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The federation port.
    #[error("link.listen: {0}")]
    Links(#[from] StartError),
    /// An API's port.
    #[error("{field}: cannot listen on {address}: {source}; is another process there?")]
    Listen {
        /// Which setting.
        field: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An API's certificate.
    #[error("{field}: {source}")]
    Tls {
        /// Which section.
        field: &'static str,
        /// Why.
        source: Box<TlsError>,
    },
    /// What `init` left for the first start.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Logs.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The task that owns the core ended by itself: a defect.
    #[error(
        "the gateway's core stopped by itself: report the lines above; nothing acknowledged is lost, start it again"
    )]
    Driver,
    /// The operating system.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// What a gateway keeps its store on: the files of its data directory, a database, or in tests something that fails when told.
pub struct Medium {
    /// Opens the store.
    pub open_store: OpenStore,
    /// Looks at the room that is left.
    pub free_bytes: FreeBytes,
    /// Other replicas, when there may be any.
    pub replica: Option<Membership>,
}

impl Medium {
    /// As the configuration says: the data directory, or a database.
    ///
    /// # Errors
    /// When the deployment key, or what opens the database, cannot be had.
    pub fn configured(config: &Config) -> Result<Self, RunError> {
        let data_dir = config.data_dir.clone();
        Ok(match engine::read(config)? {
            Engine::Redb(options) => Self {
                open_store: Box::new(move || Ok(RedbStore::open(&options)?)),
                free_bytes: Box::new(move || space::space(&data_dir).ok().map(|space| space.available_bytes)),
                replica: None,
            },
            Engine::Postgres(options) => {
                let address = config.replica.advertise.clone();
                let (options, replica) = if address.is_empty() {
                    (options, None)
                } else {
                    let trust = Trust::of(options.deployment_key())?;
                    let options = options.among_replicas(address.clone());
                    let seized = options.clone();
                    let seize_store =
                        Box::new(move |term| Ok(PostgresStore::open_or_seize(&seized, Some(term))? as _));
                    (options, Some(Membership { trust, address, seize_store }))
                };
                Self {
                    open_store: Box::new(move || Ok(PostgresStore::open(&options)?)),
                    // What is left on the database's server is its operator's to watch.
                    free_bytes: Box::new(|| None),
                    replica,
                }
            }
        })
    }
}

/// A gateway whose store is open, and that does nothing yet.
pub struct Gateway {
    config: Config,
    hub: Hub,
    driver: Driver,
    /// Where other replicas ask this one.
    replica: Option<(std::net::TcpListener, Trust)>,
    /// Whether somebody at a terminal is told where everything is.
    announce: bool,
}

/// Runs a gateway until a signal tells it to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config) -> Result<(), RunError> {
    telemetry::init(&telemetry::Settings {
        format: config.log.format.into(),
        detail: config.log.detail,
        ..telemetry::Settings::default()
    })?;
    let medium = Medium::configured(&config)?;
    let mut gateway = Gateway::open(config, medium)?;
    gateway.announce = gateway.config.log.format == LogFormat::Text && io::stdout().is_terminal();
    shutdown::until_signal(DRAIN_MAX, async |shutdown, reload| gateway.serve(shutdown, Some(reload)).await)
}

impl Gateway {
    /// Opens the store and reads what it holds. Blocks: outside the async runtime.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub fn open(config: Config, medium: Medium) -> Result<Self, RunError> {
        let limits = &config.limits;
        let core = CoreConfig {
            payload_bytes_max: usize::try_from(limits.payload_bytes_max.0).unwrap_or(usize::MAX),
            retention: limits.retention.0,
            peer_quota_bytes: limits.peer_quota_bytes.0,
            inbox_quota_bytes: limits.inbox_quota_bytes.0,
            fresh_epoch: token::random(),
            seed: u64::from_be_bytes(token::random()),
            ..CoreConfig::new(config.domain.clone())
        };
        // With a database nothing else makes it.
        std::fs::create_dir_all(&config.data_dir).map_err(system("making data_dir"))?;
        // Bound before the store is opened: a replica that nobody listens for counts as gone.
        let replica = match &medium.replica {
            Some(membership) => {
                Some((listen("replica.listen", config.replica.listen)?, membership.trust.clone()))
            }
            None => None,
        };
        let (hub, driver) = Driver::open(driver::Options {
            config: core,
            open_store: medium.open_store,
            free_bytes: medium.free_bytes,
            disk_reserve_bytes: limits.disk_reserve_bytes.0,
            replica: medium.replica,
        })?;
        Ok(Self { config, hub, driver, replica, announce: false })
    }

    /// Listens, links and serves until `shutdown` begins, then finishes what was taken. Needs a runtime with several
    /// threads: opening the store again after a full disk blocks one of them.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn serve(self, shutdown: Shutdown, reload: Option<Reload>) -> Result<(), RunError> {
        let Self { config, hub, driver, replica, announce } = self;
        let identity = open_identity(&config)?;
        let is_pinned = config.identity.mode == IdentityMode::Pinned;
        if is_pinned {
            certificate::settle(&hub, &identity)?;
        }
        let _watch =
            identity.watch(report_reload).inspect_err(|error| warn!(%error, "SIGHUP still reloads")).ok();
        let link_config = LinkConfig {
            listen: config.link.listen,
            congestion: config.link.congestion,
            ..LinkConfig::default()
        };
        let links = Arc::new(
            Links::start(link_config, Arc::clone(&identity), hub.directory_watch(), driver.link_events())
                .await?,
        );
        admin::settings::apply(&hub.directory().settings().over(config.values()));
        let link_events = driver.link_events();
        let (stop_driver, driver_stop) = watch::channel(false);
        let mut driver = tokio::spawn(driver.run(Arc::clone(&links), driver_stop));
        if matches!(hub.standing(), Standing::Leading) {
            bootstrap(&config.data_dir, &hub).await?;
        }

        let (stop_apis, apis_stop) = watch::channel(false);
        let readiness = Arc::new(Readiness::default());
        let (local_listener, local_tls) = bind("local_api", &config.local_api).await?;
        let (admin_listener, admin_tls) = bind("admin_api", &config.admin_api).await?;
        let local_addr =
            |listener: &TcpListener| listener.local_addr().map_err(system("reading a listener's address"));
        let listening = Listening {
            link: links.local_addr(),
            local_api: local_addr(&local_listener)?,
            admin_api: local_addr(&admin_listener)?,
        };
        listening.write(&config.data_dir).map_err(system("writing listening.json into data_dir"))?;

        let mut tasks = JoinSet::new();
        let tls: Vec<Arc<Tls>> = [&local_tls, &admin_tls].into_iter().flatten().cloned().collect();
        for tls in &tls {
            tasks.spawn(Arc::clone(tls).watch(apis_stop.clone()));
        }
        if let Some(reload) = reload {
            tasks.spawn(reload_on_signal(reload, Arc::clone(&identity), tls, apis_stop.clone()));
        }
        tasks.spawn(upkeep(hub.clone(), config.values(), apis_stop.clone()));
        if is_pinned {
            tasks.spawn(certificate::follow(hub.clone(), Arc::clone(&identity), apis_stop.clone()));
        }
        if replica.is_some() {
            tasks.spawn(bootstrap_one(config.data_dir.clone(), hub.clone(), apis_stop.clone()));
        }
        let about = About {
            domain: config.domain.clone(),
            advertise: config.link.advertise.clone(),
            identity_mode: config.identity.mode,
            replica: Some(config.replica.advertise.clone()).filter(|address| !address.is_empty()),
            configured: config.values(),
            tls: admin_tls.is_some(),
        };
        let relays = Arc::new(Relays::new(&config.relays));
        tasks.spawn(relays::run(Arc::clone(&relays), apis_stop.clone()));
        let state = AdminState::new(hub.clone(), Arc::clone(&identity), about, Arc::clone(&readiness))
            .with_relays(relays)
            .examined(config.clone(), listening.link);
        tasks.spawn(history::run(hub.clone(), Arc::clone(&state.history), apis_stop.clone()));
        let admin = admin::router(state).merge(console::router());
        let (stop_replicas, replicas_stop) = watch::channel(false);
        let replicas = match replica {
            Some(replica) => {
                let own = Arc::clone(&identity);
                tasks.spawn(certificate::compare(hub.clone(), Arc::clone(&identity), apis_stop.clone()));
                let parts = lead::Parts {
                    hub: hub.clone(),
                    links: Arc::clone(&links),
                    events: link_events,
                    identity: own,
                };
                let router = lead::router(parts, admin.clone());
                Some(tokio::spawn(serve_replicas(replica, router, replicas_stop)?))
            }
            None => None,
        };
        tasks.spawn(serve::serve(
            admin_listener,
            admin_tls.as_deref().map(Tls::acceptor),
            admin.layer(from_fn_with_state(hub.clone(), pass::pass)),
            Limits::default(),
            apis_stop.clone(),
        ));
        let api_config = api::Config {
            payload_bytes_max: usize::try_from(config.limits.payload_bytes_max.0).unwrap_or(usize::MAX),
            requests_per_s_max: None,
        };
        // Others have gone on without it after a lease.
        let standstill_max = replicas.is_some().then_some(LEASE);
        let api_limits = Limits { standstill_max, ..Limits::default() };
        let router = api::router(hub.clone(), api_config, apis_stop.clone());
        tasks.spawn(serve::serve(
            local_listener,
            local_tls.as_deref().map(Tls::acceptor),
            router,
            api_limits,
            apis_stop.clone(),
        ));
        let webhooks = api::webhook::run(hub.clone(), api::webhook::Config::default(), apis_stop.clone());
        tasks.spawn(async move {
            if let Err(error) = webhooks.await {
                warn!(%error, "webhooks are off");
            }
        });
        readiness.ready();
        let ready = async {
            stands(&hub).await;
            info!(
                domain = %config.domain, link = %listening.link, local_api = %listening.local_api,
                admin_api = %listening.admin_api, "ready"
            );
            if announce {
                // Whoever closed the terminal reads no lines.
                let _ = io::stdout().write_all(listening.announcement(&config).as_bytes());
            }
            std::future::pending::<()>().await;
        };

        tokio::select! {
            () = shutdown.draining() => {}
            // Without it nothing works: whoever supervises the process starts it again, from what the store holds.
            ended = &mut driver => return Err(match ended {
                Ok(Err(in_vain)) => in_vain.into(),
                _ => RunError::Driver,
            }),
            () = ready => {}
        }
        readiness.stopping();
        info!("stopping: finishing what was taken");
        let drained = shutdown.finish(async {
            stop_apis.send_replace(true);
            while tasks.join_next().await.is_some() {}
            stop_driver.send_replace(true);
            // A panic in the driver was reported when it happened.
            driver.await.ok();
            stop_replicas.send_replace(true);
            links.shutdown().await;
            if let Some(replicas) = replicas {
                replicas.await.ok();
            }
        });
        if let Err(cut_short) = drained.await {
            warn!(%cut_short);
        }
        std::fs::remove_file(config.data_dir.join(LISTENING_FILE)).ok();
        info!("stopped");
        Ok(())
    }
}

/// Waits until this gateway leads or follows, as one that is alone does from its start on. Says so when that takes long.
async fn stands(hub: &Hub) {
    let mut standing = hub.standing_watch();
    let stands = standing.wait_for(|(standing, _)| !matches!(standing, Standing::Seeking));
    let mut stands = std::pin::pin!(stands);
    if tokio::time::timeout(SEEKS_WITHIN, &mut stands).await.is_ok() {
        return;
    }
    let why = hub.pulse().await.err().map(|error| error.to_string());
    warn!(why, "not ready yet: this replica listens, and seeks the store or the replica that leads");
    // An error means that the driver ended, which is told elsewhere.
    drop(stands.await);
}

fn open_identity(config: &Config) -> Result<Arc<Identity>, RunError> {
    let current =
        Files { certificate: config.identity.certificate.clone(), key: config.identity.key.clone() };
    let next_to =
        |path: &PathBuf| path.with_file_name("next").with_extension(path.extension().unwrap_or_default());
    let next = Files { certificate: next_to(&current.certificate), key: next_to(&current.key) };
    Ok(Identity::open_files(current, next, config.domain.clone())?)
}

fn report_reload(result: Result<bool, IdentityError>) {
    match result {
        Ok(true) => info!("the certificate was read again: new connections use it"),
        Ok(false) => {}
        Err(error) => warn!(%error, "the old certificate stays in use"),
    }
}

async fn reload_on_signal(
    mut reload: Reload,
    identity: Arc<Identity>,
    tls: Vec<Arc<Tls>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = reload.requested() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        report_reload(identity.reload());
        for tls in &tls {
            if let Err(error) = tls.reload() {
                warn!(%error, "the API's old certificate stays in use");
            }
        }
    }
}

/// What is to be done now and then: metrics, and settings that were changed at another replica.
async fn upkeep(hub: Hub, configured: Values, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(metrics::UPKEEP_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                metrics::upkeep();
                admin::settings::apply(&hub.directory().settings().over(configured));
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Serves the other replicas until told to stop.
fn serve_replicas(
    (listener, trust): (std::net::TcpListener, Trust),
    router: Router,
    stop: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, RunError> {
    listener.set_nonblocking(true).map_err(system("listening for replicas"))?;
    let listener = TcpListener::from_std(listener).map_err(system("listening for replicas"))?;
    Ok(serve::serve(listener, Some(TlsAcceptor::from(trust.server())), router, lead::LIMITS, stop))
}

/// What `init` left for the first start is carried out by the replica that leads first. The others' copies of it are
/// removed: what they say may have been changed since. A token that is recovered later is taken by whoever leads, from
/// its own directory.
async fn bootstrap_one(data_dir: PathBuf, hub: Hub, mut stop: watch::Receiver<bool>) {
    let mut standing = hub.standing_watch();
    loop {
        let (now, _) = standing.borrow_and_update().clone();
        let done = match now {
            Standing::Leading => bootstrap(&data_dir, &hub).await,
            Standing::Following(_) => init::leave_to_leader(&data_dir, &hub.directory()),
            Standing::Seeking => Ok(()),
        };
        if let Err(error) = done {
            warn!(%error, "what `init` or `token recover` left is not carried out yet");
        }
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(BOOTSTRAP_RETRY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn listen(field: &'static str, address: SocketAddr) -> Result<std::net::TcpListener, RunError> {
    std::net::TcpListener::bind(address).map_err(|source| RunError::Listen { field, address, source })
}

async fn bind(field: &'static str, api: &ApiConfig) -> Result<(TcpListener, Option<Arc<Tls>>), RunError> {
    let listener = TcpListener::bind(api.listen).await;
    let listener = listener.map_err(|source| RunError::Listen { field, address: api.listen, source })?;
    let tls = TlsFiles::of(&api.tls_certificate, &api.tls_key).map(Tls::load).transpose();
    Ok((listener, tls.map_err(|source| RunError::Tls { field, source: Box::new(source) })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_at_a_terminal_is_told_in_three_lines_where_everything_is() {
        let config = Config::defaults("alpha.test".parse().unwrap());
        let listening = Listening {
            link: "0.0.0.0:8443".parse().unwrap(),
            local_api: "127.0.0.1:8440".parse().unwrap(),
            admin_api: "0.0.0.0:8441".parse().unwrap(),
        };
        let said = listening.announcement(&config);
        assert_eq!(said.lines().count(), 3);
        for expected in
            ["http://127.0.0.1:8441/console\n", "http://127.0.0.1:8440\n", "0.0.0.0:8443, UDP and TCP\n"]
        {
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
    }
}
