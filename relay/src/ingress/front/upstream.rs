//! The nodes as the front sees them: polled, and asked (`ask`).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use reqwest::{Certificate, Client, Url};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use trunkline_http::serve::{Stopping, stopped};

use super::limits::{CONNECT_MAX, HEALTH_BYTES_MAX, IDLE_MAX, IDLE_PER_NODE_MAX, POLL_EVERY, POLL_MAX};
use crate::api::Health;
use crate::api::ingress::PRESUMED_DEAD;
use crate::ingress::nodes::{Poll, Table};

mod ask;

use ask::{at_path, is_refused, read};

/// A node behind the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its number.
    pub node: u16,
    /// Where its API is, such as `http://10.0.0.5:8444`.
    pub api: Url,
}

/// All nodes, and what is known of them. They come and go while it is in use; each keeps its place.
#[derive(Debug)]
pub struct Upstreams {
    nodes: RwLock<Vec<Option<Arc<Node>>>>,
    table: Mutex<Table>,
    http: Client,
    /// Set once nodes are polled again and again: until when.
    polling: OnceLock<Stopping>,
}

#[derive(Debug)]
struct Node {
    number: u16,
    api: Url,
    live: watch::Sender<bool>,
    poll_now: Notify,
    /// Somebody polls it.
    watched: AtomicBool,
}

impl Node {
    fn new(Upstream { node, api }: Upstream, is_live: bool) -> Arc<Self> {
        gauge_up(node, is_live);
        let (live, poll_now) = (watch::Sender::new(is_live), Notify::new());
        Arc::new(Self { number: node, api, live, poll_now, watched: AtomicBool::new(false) })
    }
}

impl Upstreams {
    /// Nodes at the places that they have in this list. `authorities` vouch for those with `https://`, instead of the
    /// system's when there are any; nodes are asked from the address `from`.
    ///
    /// # Errors
    /// When the HTTP client cannot start.
    pub fn new(
        nodes: Vec<Upstream>,
        authorities: Vec<Certificate>,
        from: Option<IpAddr>,
    ) -> reqwest::Result<Self> {
        // Whoever was first installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder();
        if !authorities.is_empty() {
            builder = builder.tls_certs_only(authorities);
        }
        let http = builder
            .local_address(from)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_NODE_MAX)
            .tcp_nodelay(true)
            .build()?;
        let table = Mutex::new(Table::new(nodes.iter().map(|node| node.node)));
        let nodes = nodes.into_iter().map(|node| Some(Node::new(node, true))).collect();
        Ok(Self { nodes: RwLock::new(nodes), table, http, polling: OnceLock::new() })
    }

    /// A node is at a place from now on, which was nobody's, or its own with another address. It is asked how it is at
    /// once.
    pub fn put(self: &Arc<Self>, at: usize, node: Upstream) {
        let is_live = {
            let mut table = self.table();
            table.put(at, node.node);
            table.is_live(at)
        };
        let node = Node::new(node, is_live);
        self.replace(at, Some(Arc::clone(&node)));
        self.start_watch(at, node);
    }

    /// The node at a place is not there any more.
    pub fn forget(&self, at: usize) {
        self.table().forget(at);
        if let Some(node) = self.replace(at, None) {
            // There is nothing to be alarmed about.
            metrics::gauge!("trunkline_ingress_node_up", "node" => node.number.to_string()).set(f64::NAN);
        }
    }

    /// Whether the node at a place may be alive, as its answers to polls and requests say.
    #[must_use]
    pub fn is_live(&self, at: usize) -> bool {
        self.table().is_live(at)
    }

    /// Says whether there may be nodes that nobody told of yet.
    pub fn set_incomplete(&self, incomplete: bool) {
        self.table().set_incomplete(incomplete);
    }

    fn replace(&self, at: usize, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if at >= nodes.len() {
            nodes.resize(at.saturating_add(1), None);
        }
        let before = nodes.get_mut(at).and_then(|place| std::mem::replace(place, node));
        drop(nodes);
        if let Some(before) = &before {
            // Whoever waits for it waits no longer, and nobody polls it any more.
            before.live.send_replace(false);
            before.poll_now.notify_one();
        }
        before
    }

    fn node(&self, at: usize) -> Option<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(at).cloned().flatten()
    }

    fn all(&self) -> Vec<(usize, Arc<Node>)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().enumerate().filter_map(|(at, node)| Some((at, Arc::clone(node.as_ref()?)))).collect()
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows whether a node lives.
    pub(super) fn life(&self, at: usize) -> Option<watch::Receiver<bool>> {
        Some(self.node(at)?.live.subscribe())
    }

    /// A connection to a node broke: how is it?
    pub(super) fn doubt(&self, at: usize) {
        if let Some(node) = self.node(at) {
            node.poll_now.notify_one();
        }
    }

    /// Asks every node once, together.
    pub(super) async fn poll_all(self: &Arc<Self>) {
        let mut polls = JoinSet::new();
        for (at, _) in self.all() {
            let upstreams = Arc::clone(self);
            polls.spawn(async move { upstreams.poll(at).await });
        }
        while polls.join_next().await.is_some() {}
    }

    /// Asks every node again and again, those that come later too, until told to stop.
    pub(super) fn watch_all(self: &Arc<Self>, stopping: Stopping) {
        let _ = self.polling.set(stopping);
        for (at, node) in self.all() {
            self.start_watch(at, node);
        }
    }

    fn start_watch(self: &Arc<Self>, at: usize, node: Arc<Node>) {
        let Some(stopping) = self.polling.get() else { return };
        if !node.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).watch(at, node, stopping.clone()));
        }
    }

    /// Asks a node again and again, until told to stop, or another is at its place.
    async fn watch(self: Arc<Self>, at: usize, node: Arc<Node>, mut stopping: Stopping) {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = node.poll_now.notified() => {}
                () = stopped(&mut stopping) => return,
            }
            if !self.node(at).is_some_and(|now| Arc::ptr_eq(&now, &node)) {
                return;
            }
            self.poll(at).await;
        }
    }

    async fn poll(&self, at: usize) {
        let Some(node) = self.node(at) else { return };
        self.table().poll_begins(at);
        let mut answer = tokio::time::timeout(POLL_MAX, self.health(&node, false)).await;
        let presumed_dead = match &answer {
            Ok(Ok(Some(health))) => self.table().presumed_dead(at, health),
            _ => false,
        };
        if presumed_dead {
            // It hears of that before anybody is sent to it again.
            answer = tokio::time::timeout(POLL_MAX, self.health(&node, true)).await;
        }
        let poll = match answer {
            Ok(Ok(Some(health))) => {
                if health.node != node.number {
                    let (expected, found) = (node.number, health.node);
                    tracing::error!(
                        expected,
                        found,
                        "another node answers: correct [[nodes]], or the registry"
                    );
                }
                Poll::Answered(health)
            }
            Ok(Err(error)) if is_refused(&error) => Poll::Refused,
            Ok(Ok(None) | Err(_)) | Err(_) => Poll::Missed,
        };
        // Of one that was forgotten meanwhile nothing is to be said of who has its place.
        if self.node(at).is_some_and(|now| Arc::ptr_eq(&now, &node)) {
            self.table().poll_ended(at, poll);
            self.publish(at);
        }
    }

    /// How a node is. It is told when it was taken for dead.
    async fn health(&self, node: &Node, presumed_dead: bool) -> reqwest::Result<Option<Health>> {
        let mut asked = self.http.get(at_path(&node.api, "/healthz"));
        if presumed_dead {
            asked = asked.header(PRESUMED_DEAD, "1");
        }
        let mut response = asked.send().await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = read(&mut response, HEALTH_BYTES_MAX).await?;
        Ok(body.and_then(|body| serde_json::from_slice(&body).ok()))
    }

    fn publish(&self, at: usize) {
        let Some(node) = self.node(at) else { return };
        let is_live = self.table().is_live(at);
        let changed = node.live.send_if_modified(|live| std::mem::replace(live, is_live) != is_live);
        if changed {
            gauge_up(node.number, is_live);
            if is_live {
                tracing::info!(node = node.number, "the node is back");
            } else {
                tracing::warn!(node = node.number, "the node is down");
            }
        }
    }
}

fn gauge_up(node: u16, up: bool) {
    let up = if up { 1.0 } else { 0.0 };
    metrics::gauge!("trunkline_ingress_node_up", "node" => node.to_string()).set(up);
}
