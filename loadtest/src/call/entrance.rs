//! Joining as a client does: an offer over HTTP, its answer, a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, Method};
use trunkline_relay_peer::{Peer, Plan, Settings};

use super::clients::Joining;
use super::connection::Connection;
use super::publish::Publisher;
use super::site::{Site, Transport};
use crate::error::LoadError;
use crate::http::{Client, Media};

/// What all who join have in common.
#[derive(Clone)]
pub(crate) struct Entrance {
    /// Where offers go.
    pub(crate) api: SocketAddr,
    /// What their peers share.
    pub(crate) settings: Arc<Settings>,
    /// How they connect.
    pub(crate) transport: Transport,
    /// What TLS connections are checked with; nothing where there are none.
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// Who joins.
#[derive(Clone, Debug)]
pub(crate) struct Participant<'a> {
    /// Which call.
    pub(crate) call: &'a str,
    /// With which token.
    pub(crate) token: &'a str,
    /// What it sends and receives.
    pub(crate) plan: Plan,
    /// What its names and numbers follow from.
    pub(crate) seed: u64,
}

/// What came of an offer.
pub(crate) struct Asked {
    /// The peer, which has taken the answer.
    pub(crate) peer: Peer,
    /// When it began to ask.
    pub(crate) started: Instant,
    /// Where its session is.
    pub(crate) location: String,
}

impl Entrance {
    /// Through the site's front door.
    pub(crate) fn new(site: &Site, settings: &Arc<Settings>, transport: Transport) -> Self {
        Self { api: site.api(), settings: Arc::clone(settings), transport, tls: Some(Arc::clone(&site.tls)) }
    }

    /// By any front door, with datagrams.
    pub(crate) fn over_udp(api: SocketAddr, settings: &Arc<Settings>) -> Self {
        Self { api, settings: Arc::clone(settings), transport: Transport::Udp, tls: None }
    }

    /// The same by another door.
    pub(crate) fn at(&self, api: SocketAddr) -> Self {
        Self { api, ..self.clone() }
    }

    /// Makes an offer.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn ask(&self, who: &Participant<'_>) -> Result<Asked, LoadError> {
        let started = Instant::now();
        let mut peer = Peer::new(&self.settings, who.seed);
        let offer = Bytes::from(peer.offer(&who.plan));
        let path = format!("/v1/calls/{}/participants", who.call);
        let mut client = Client::new(self.api, who.token);
        let (status, headers, answer) =
            client.ask(Method::POST, &path, Media::Sdp, HeaderMap::new(), offer).await?;
        if !status.is_success() {
            return Err(LoadError::Refused {
                request: format!("POST {path}"),
                status: status.as_u16(),
                body: String::from_utf8_lossy(&answer).into_owned(),
            });
        }
        let wrong = |why: String| LoadError::Answer { request: format!("POST {path}"), why };
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| wrong("no Location".to_owned()))?.to_owned();
        let answer = String::from_utf8(answer.into()).map_err(|error| wrong(error.to_string()))?;
        let taken = peer.answer_over(Instant::now(), &answer, self.transport.into());
        taken.map_err(|error| wrong(error.to_string()))?;
        Ok(Asked { peer, started, location })
    }

    /// Opens its way to the relay.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn connect(&self, peer: &Peer) -> Result<Connection, LoadError> {
        let relay = peer.remote_address();
        let relay = relay.ok_or_else(|| LoadError::Usage("the answer names no address".to_owned()))?;
        let opened = match self.transport {
            Transport::Udp => Connection::datagrams(relay),
            Transport::Tcp => Connection::stream(relay, None).await,
            Transport::Tls => Connection::stream(relay, self.tls.as_ref()).await,
        };
        opened.map_err(LoadError::io(format!("connecting to {relay}")))
    }

    /// Both.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn enter(
        &self,
        who: &Participant<'_>,
        publisher: Option<Publisher>,
    ) -> Result<Joining, LoadError> {
        let Asked { peer, started, .. } = self.ask(who).await?;
        let connection = self.connect(&peer).await?;
        Ok(Joining { peer, connection, started, publisher })
    }
}
