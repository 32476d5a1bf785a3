//! Serving a router over TCP or TLS, HTTP/1.1 and HTTP/2.
//!
//! Every connection is bounded: how many there are, also of one address, how long the TLS handshake and the first request may take,
//! how long a later request's head may take, and how long a connection may stand still. Handlers find the
//! caller's address as `ConnectInfo<SocketAddr>`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use futures_util::future::{Either, Ready, ready};
use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use trunkline_common::redact;

use crate::problem::{Problem, STOOD_STILL};

pub mod tls;

mod sources;
mod stall;
mod standstill;

use sources::{Place, Sources};
use stall::StallGuard;
use standstill::Standstill;

/// Pause after a failed `accept`, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When to come back after a standstill. Sooner is taken for what waited meanwhile.
const STOOD_STILL_RETRY: Duration = Duration::from_secs(1);

/// Turns true, and stays so, when the process is to stop. A dropped sender means the same.
pub type Stopping = watch::Receiver<bool>;

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the listen queue. Each costs a few tens of kilobytes.
    pub connections_max: usize,
    /// Of these from one address, or one IPv6 /64; further ones are closed at once. `None` is a quarter of all, or three
    /// quarters for loopback and private addresses, where proxies speak for many people; at least 16. More lets fewer
    /// attackers keep everybody else out; less is too little for a large office whose browsers speak HTTP/1.1.
    pub per_source_max: Option<usize>,
    /// Requests of one HTTP/2 connection at a time. More lets one caller take more memory.
    pub streams_max: u32,
    /// From accepting a connection to its first request, TLS handshake included.
    pub first_request: Duration,
    /// From the end of one request to the end of the next one's head: how long an idle connection is kept.
    pub next_request: Duration,
    /// Without a byte in either direction. Above the longest long poll, or that one is cut off.
    pub stall: Duration,
    /// Whether callers on HTTP/2 that say nothing are asked for a sign of life: one that is gone is found out although
    /// there is always something to send to it.
    pub keep_alive: Option<KeepAlive>,
    /// After standing still for longer than this, nothing is carried out that may have waited meanwhile: 503, and the
    /// connection is closed. For one of several replicas, whose callers may have gone to another one.
    pub standstill_max: Option<Duration>,
    /// From the order to stop to cutting off what is still going on.
    pub drain: Duration,
}

/// When the other end of an HTTP/2 connection is asked for a sign of life (RFC 9113, section 6.7).
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// After saying nothing for so long.
    pub every: Duration,
    /// How long the answer may take, or the connection is lost.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            per_source_max: None,
            streams_max: 128,
            first_request: Duration::from_secs(10),
            next_request: Duration::from_secs(75),
            stall: Duration::from_secs(90),
            keep_alive: None,
            standstill_max: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// Waits for the order to stop.
pub async fn stopped(stopping: &mut Stopping) {
    // An error means that the sender is gone, and with it whoever could say otherwise.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Serves `router` until told to stop; returns when the last connection is done, at most `limits.drain` later.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    mut stopping: Stopping,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let sources = Sources::new(&limits);
    let standstill = limits.standstill_max.map(|longest| Arc::new(Standstill::new(longest, Instant::now())));
    let mut watch = pin!(async {
        match &standstill {
            Some(standstill) => standstill.watch().await,
            None => std::future::pending().await,
        }
    });
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => return Some(Err(error)),
            };
            let since = Instant::now();
            // Also when all permits are taken: who has its share must not stand in front of others in the listen queue.
            let Some(place) = sources.take(remote.ip()) else {
                tracing::debug!(remote = %redact::ip(&remote), "an address has too many connections");
                return None;
            };
            // The semaphore is never closed, so this always gives a permit.
            let permit = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some(Ok((stream, remote, since, (place, permit))))
        };
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            // Goes on for as long as this does, whoever comes meanwhile.
            never = watch.as_mut() => never,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            None => {}
            Some(Ok((stream, remote, since, held))) => {
                let (standstill, stopping) = (standstill.clone(), stopping.clone());
                let connection = Connection { remote, since, limits, standstill, stopping };
                connections.spawn(Box::pin(connection.run(stream, tls.clone(), router.clone(), held)));
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection: raise the limit of open files if this stays");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections that did not finish in time");
        connections.shutdown().await;
    }
}

struct Connection {
    remote: SocketAddr,
    /// When it was accepted.
    since: Instant,
    limits: Limits,
    standstill: Option<Arc<Standstill>>,
    stopping: Stopping,
}

impl Connection {
    async fn run(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        router: Router,
        held: (Place, OwnedSemaphorePermit),
    ) {
        // Small answers must not wait for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.http(stream, router).await,
            Some(tls) => {
                let handshake = tls.accept(stream);
                match tokio::time::timeout(self.limits.first_request, handshake).await {
                    Ok(Ok(stream)) => self.http(stream, router).await,
                    Ok(Err(error)) => {
                        tracing::debug!(remote = %redact::ip(&self.remote), %error, "TLS handshake failed");
                    }
                    Err(_) => {
                        tracing::debug!(remote = %redact::ip(&self.remote), "TLS handshake took too long");
                    }
                }
            }
        }
        drop(held);
    }

    async fn http<S>(mut self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoke = Arc::new(AtomicBool::new(false));
        let stale = Arc::new(Notify::new());
        let handler = Handler {
            router: TowerToHyperService::new(router),
            remote: self.remote,
            spoke: Arc::clone(&spoke),
            since: self.since,
            standstill: self.standstill,
            stale: Arc::clone(&stale),
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.next_request);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(self.limits.streams_max);
        if let Some(KeepAlive { every, within }) = self.limits.keep_alive {
            builder.http2().keep_alive_interval(every).keep_alive_timeout(within);
        }
        let io = TokioIo::new(StallGuard::new(stream, self.limits.stall));
        let mut connection = pin!(builder.serve_connection_with_upgrades(io, handler));
        let mut first_request = pin!(tokio::time::sleep(self.limits.first_request));
        let mut waiting = true;
        let mut draining = false;
        loop {
            tokio::select! {
                // How a connection ended is the caller's business.
                _ = connection.as_mut() => return,
                () = first_request.as_mut(), if waiting => {
                    waiting = false;
                    if !spoke.load(Ordering::Relaxed) {
                        tracing::debug!(remote = %redact::ip(&self.remote), "no request came in time");
                        return;
                    }
                }
                () = async { tokio::select! { () = stopped(&mut self.stopping) => {}, () = stale.notified() => {} } },
                    if !draining =>
                {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Tells the router who is calling, and the connection that somebody did.
struct Handler {
    router: TowerToHyperService<Router>,
    remote: SocketAddr,
    spoke: Arc<AtomicBool>,
    /// When the connection was accepted.
    since: Instant,
    standstill: Option<Arc<Standstill>>,
    /// Told that what comes on this connection may have waited for too long.
    stale: Arc<Notify>,
}

impl Service<Request<Incoming>> for Handler {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = Either<
        <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future,
        Ready<Result<Self::Response, Self::Error>>,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.spoke.store(true, Ordering::Relaxed);
        if let Some(standstill) = &self.standstill
            && standstill.is_stale(self.since, Instant::now())
        {
            self.stale.notify_one();
            let why = "this process stood still for a while: send it again";
            let problem = Problem::new(STOOD_STILL, why).retry_after(STOOD_STILL_RETRY);
            return Either::Right(ready(Ok(problem.into_response())));
        }
        request.extensions_mut().insert(ConnectInfo(self.remote));
        Either::Left(self.router.call(request))
    }
}
