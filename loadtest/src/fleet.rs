//! Deployments that know each other: directories, ports, processes and peerings of a scenario.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::database::{Database, StoreArgs, StoreKind};
use crate::error::LoadError;
use crate::gateway::{Addresses, Gateway, Launcher};
use crate::http::Media;
use crate::ports::PortBlock;
use crate::replicas::{self, Replicas};

/// How long two gateways that were just introduced may take to find each other.
const LINK_UP_WITHIN: Duration = Duration::from_secs(30);

/// Where a scenario keeps its deployments, and how it starts them.
#[derive(Debug)]
pub(crate) struct Fleet {
    launcher: Launcher,
    ports: PortBlock,
    root: Root,
}

/// The directory of a run: kept when the user named it, removed when not.
#[derive(Debug)]
enum Root {
    Named(PathBuf),
    Temporary(TempDir),
}

impl Fleet {
    /// An empty fleet in a new directory: `dir` itself, or a temporary one.
    ///
    /// # Errors
    /// When `dir` holds something already, or cannot be made.
    pub(crate) fn new(launcher: Launcher, dir: Option<&Path>) -> Result<Self, LoadError> {
        let root = match dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(LoadError::io(format!("making {}", dir.display())))?;
                let mut entries =
                    std::fs::read_dir(dir).map_err(LoadError::io(format!("reading {}", dir.display())))?;
                if entries.next().is_some() {
                    return Err(LoadError::Usage(format!(
                        "{} is not empty: name a new directory, so that nothing of yours is touched",
                        dir.display()
                    )));
                }
                Root::Named(dir.to_owned())
            }
            None => {
                let made = tempfile::Builder::new().prefix("trunkline-").tempdir_in(scratch());
                Root::Temporary(made.map_err(LoadError::io("making a temporary directory"))?)
            }
        };
        Ok(Self { launcher, ports: PortBlock::take()?, root })
    }

    /// The directory all deployments are in.
    pub(crate) fn root(&self) -> &Path {
        match &self.root {
            Root::Named(dir) => dir,
            Root::Temporary(dir) => dir.path(),
        }
    }

    /// How its gateways are started.
    pub(crate) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Addresses that nobody else uses; peers dial the gateway itself.
    ///
    /// # Errors
    /// When there are no ports left.
    pub(crate) fn addresses(&mut self) -> Result<Addresses, LoadError> {
        let federation = self.ports.next()?;
        let (api, admin) = (self.ports.next()?, self.ports.next()?);
        Ok(Addresses { federation, advertised: federation, api, admin })
    }

    /// A port that nobody else uses.
    ///
    /// # Errors
    /// When there are no ports left.
    pub(crate) fn port(&mut self) -> Result<SocketAddr, LoadError> {
        self.ports.next()
    }

    /// So many ports in a row, as `first-last`.
    ///
    /// # Errors
    /// When there are not as many left.
    pub(crate) fn port_range(&mut self, count: u16) -> Result<String, LoadError> {
        self.ports.range(count)
    }

    /// Makes, starts and waits for a deployment.
    ///
    /// # Errors
    /// When one of these fails.
    pub(crate) async fn deploy(&mut self, domain: &str) -> Result<Gateway, LoadError> {
        let addresses = self.addresses()?;
        self.deploy_at(domain, addresses).await
    }

    /// The same with addresses that were chosen before.
    ///
    /// # Errors
    /// When one of these fails.
    pub(crate) async fn deploy_at(&self, domain: &str, addresses: Addresses) -> Result<Gateway, LoadError> {
        let dir = self.root().join(domain);
        let mut gateway = Gateway::init(&self.launcher, dir, domain, addresses).await?;
        gateway.up().await?;
        Ok(gateway)
    }

    /// The database that a scenario's deployments share, when their store is one.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn database(&mut self, store: StoreArgs) -> Result<Option<Database>, LoadError> {
        match store.check()?.store {
            StoreKind::Redb => Ok(None),
            StoreKind::Postgres => {
                let port = self.port()?;
                Database::start(self.root(), port).await.map(Some)
            }
        }
    }

    /// Makes, starts and waits for all gateways of a deployment, the first one at addresses that were chosen before.
    ///
    /// # Errors
    /// When one of these fails.
    pub(crate) async fn deploy_replicas(
        &mut self,
        domain: &str,
        addresses: Addresses,
        replicas: u8,
        database: Option<&Database>,
    ) -> Result<Replicas, LoadError> {
        let dir = self.root().join(domain);
        let first = Gateway::init(&self.launcher, dir.clone(), domain, addresses).await?;
        if let Some(database) = database {
            database.create(domain).await?;
            database.configure(&dir, domain)?;
        }
        let mut gateways = vec![first];
        for number in 1..replicas {
            let addresses = self.addresses()?;
            let to = self.root().join(format!("{domain}-{number}"));
            replicas::copy(&dir, &to, &addresses)?;
            gateways.push(Gateway::existing(&self.launcher, to, domain, addresses));
        }
        if replicas > 1 {
            let advertised: Vec<_> = gateways.iter().map(|gateway| gateway.addresses.advertised).collect();
            for gateway in &gateways {
                replicas::introduce(&gateway.dir, self.port()?, &advertised)?;
            }
        }
        let mut deployment = Replicas::of(gateways);
        deployment.up().await?;
        Ok(deployment)
    }
}

/// Where temporary directories go: on a disk if there is one, because syncing memory costs nothing.
fn scratch() -> PathBuf {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let on_disk = places.iter().find(|place| filesystem(place) != "memory");
    on_disk.cloned().unwrap_or_else(std::env::temp_dir)
}

/// What kind of filesystem a path is on, as far as a measurement depends on it: `disk` or `memory`.
pub(crate) fn filesystem(path: &Path) -> &'static str {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    match rustix::fs::statfs(path) {
        Ok(found) if IN_MEMORY.contains(&(found.f_type as u64)) => "memory",
        Ok(_) => "disk",
        Err(_) => "unknown",
    }
}

/// Introduces two deployments to each other as their operators would: one invites, the other accepts, the answer
/// goes back. Then waits until the link is up on both sides.
///
/// # Errors
/// When a gateway refuses, or the link does not come up.
pub(crate) async fn peer(a: &Gateway, b: &Gateway) -> Result<(), LoadError> {
    let invitation = post(a, "/admin/v1/peers/invite", &json!({ "domain": b.domain })).await?;
    let accept = |bundle: Value| json!({ "bundle": bundle, "allow_private_ips": true });
    let accepted = post(b, "/admin/v1/peers/accept", &accept(invitation)).await?;
    let answer = accepted.get("answer").filter(|answer| answer.is_object()).cloned();
    let answer = answer.ok_or_else(|| LoadError::Answer {
        request: "POST /admin/v1/peers/accept".to_owned(),
        why: "it holds no answering bundle".to_owned(),
    })?;
    post(a, "/admin/v1/peers/accept", &accept(answer)).await?;
    linked(a, &b.domain).await?;
    linked(b, &a.domain).await
}

/// Waits until the link to `peer` is up.
///
/// # Errors
/// When it takes too long; says what the gateway thinks is wrong.
pub(crate) async fn linked(gateway: &Gateway, peer: &str) -> Result<(), LoadError> {
    let deadline = Instant::now() + LINK_UP_WITHIN;
    loop {
        let view = get(gateway, &format!("/admin/v1/peers/{peer}")).await?;
        if view.get("link").and_then(Value::as_str) == Some("up") {
            return Ok(());
        }
        if Instant::now() > deadline {
            let last = view.get("last_error").and_then(Value::as_str).unwrap_or("no error is known");
            let what = format!("the link from {} to {peer} coming up (last error: {last})", gateway.domain);
            return Err(LoadError::TimedOut { what, waited: LINK_UP_WITHIN });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What carries the link to `peer`: `quic` or `tcp`.
///
/// # Errors
/// When the gateway does not say.
pub(crate) async fn transport(gateway: &Gateway, peer: &str) -> Result<String, LoadError> {
    let view = get(gateway, &format!("/admin/v1/peers/{peer}")).await?;
    Ok(view.get("transport").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

/// Reads from a gateway's admin API.
///
/// # Errors
/// When it refuses.
pub(crate) async fn get(gateway: &Gateway, path: &str) -> Result<Value, LoadError> {
    let answer = gateway.admin()?.call(Method::GET, path, Media::Json, Bytes::new()).await?;
    parse(&format!("GET {path}"), &answer)
}

/// Asks a gateway's admin API for something.
///
/// # Errors
/// When it refuses.
pub(crate) async fn post(gateway: &Gateway, path: &str, body: &Value) -> Result<Value, LoadError> {
    let body = Bytes::from(body.to_string());
    let answer = gateway.admin()?.call(Method::POST, path, Media::Json, body).await?;
    parse(&format!("POST {path}"), &answer)
}

/// Asks a gateway's admin API to put something in the place of what is there.
///
/// # Errors
/// When it refuses.
pub(crate) async fn put(gateway: &Gateway, path: &str, body: &Value) -> Result<Value, LoadError> {
    let body = Bytes::from(body.to_string());
    let answer = gateway.admin()?.call(Method::PUT, path, Media::Json, body).await?;
    parse(&format!("PUT {path}"), &answer)
}

/// Asks a gateway's admin API to remove something.
///
/// # Errors
/// When it refuses.
pub(crate) async fn delete(gateway: &Gateway, path: &str) -> Result<(), LoadError> {
    gateway.admin()?.call(Method::DELETE, path, Media::Json, Bytes::new()).await?;
    Ok(())
}

/// Reads an answer; an empty one is null.
///
/// # Errors
/// When it is no JSON.
pub(crate) fn parse(request: &str, answer: &[u8]) -> Result<Value, LoadError> {
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    let wrong =
        |error: serde_json::Error| LoadError::Answer { request: request.to_owned(), why: error.to_string() };
    serde_json::from_slice(answer).map_err(wrong)
}
