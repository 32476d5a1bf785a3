//! The modes of the driver: with the store, behind the replica that has it, or seeking either.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use trunkline_gateway_proto::core::{Core, LoadFor};
use trunkline_gateway_proto::link::LinkId;
use trunkline_gateway_proto::store::{Record, Stream};

use super::seek::{Found, Seeking};
use crate::link::LinkEvent;
use crate::replica::Relay;
use crate::replica::follow::{Leader, News};
use crate::store::{Store, StoreError, StoreFuture};

/// Who has the store.
pub(super) enum Mode {
    Leading(Box<Leading>),
    Following(Following),
    Seeking(Seeking),
}

/// Another replica has the store.
pub(super) struct Following {
    pub(super) leader: Leader,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) relays: HashMap<LinkId, Relay>,
}

/// We have the store.
pub(super) struct Leading {
    pub(super) core: Core,
    pub(super) store: Arc<dyn Store>,
    pub(super) commit: Option<Saving>,
    pub(super) loads: FuturesUnordered<Load>,
}

/// A commit under way.
pub(super) struct Saving {
    pub(super) future: StoreFuture<()>,
    pub(super) since: Instant,
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// What the store answered, or whoever stands for it.
pub(super) enum Stored {
    Committed(Result<(), StoreError>),
    Loaded(Stream, LoadFor, Result<Vec<(u64, Record)>, StoreError>),
    /// An attempt ended.
    Sought(Result<Found, StoreError>),
    /// The leader has news.
    Heard(News),
}

type Load =
    std::pin::Pin<Box<dyn Future<Output = (Stream, LoadFor, Result<Vec<(u64, Record)>, StoreError>)> + Send>>;

impl Following {
    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened { link, .. } => {
                if let Some(relay) = self.leader.relay(event) {
                    self.relays.insert(link, relay);
                }
            }
            LinkEvent::Frame { link, channel, body } => {
                if let Some(relay) = self.relays.get(&link) {
                    relay.frame(channel, body);
                }
            }
            LinkEvent::Closed { link, reason } => {
                if let Some(relay) = self.relays.remove(&link) {
                    relay.closed(reason);
                }
            }
            // Of a time when we led.
            LinkEvent::DialFailed { .. } => {}
        }
    }
}

/// Waits for the next answer of the store, or of whoever stands for it.
pub(super) async fn stored(mode: &mut Mode) -> Stored {
    let leading = match mode {
        Mode::Leading(leading) => leading,
        Mode::Following(following) => {
            let lost = || News::Lost("it is gone".to_owned());
            return Stored::Heard(following.news.recv().await.unwrap_or_else(lost));
        }
        Mode::Seeking(Seeking { attempt: Some(attempt), .. }) => {
            let ended = |_| Err(StoreError::Failed("opening the store ended in a defect".to_owned()));
            return Stored::Sought(attempt.await.unwrap_or_else(ended));
        }
        Mode::Seeking(_) => return std::future::pending().await,
    };
    let Leading { commit, loads, .. } = &mut **leading;
    let saved = async {
        match commit {
            Some(saving) => (&mut saving.future).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = saved => Stored::Committed(result),
        Some((stream, purpose, result)) = loads.next() => Stored::Loaded(stream, purpose, result),
    }
}
