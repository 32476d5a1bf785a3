//! What operators are shown of relays and calls. Times are milliseconds since the Unix epoch.

use serde::Serialize;

use super::Relay;

/// Whether a relay answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Up,
    /// It does not, or not as it should.
    Down,
    /// It was not asked yet.
    #[default]
    Unknown,
}

/// What a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One node.
    Node,
    /// An address in front of nodes.
    Ingress,
}

/// A relay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RelayView {
    /// Its name in the configuration.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// What it is; `None` before it answered.
    pub kind: Option<Kind>,
    /// Whether it answers.
    pub state: State,
    /// What is wrong, and what to do.
    pub error: Option<String>,
    /// Since when `state` is what it is; `None` when it was not asked yet.
    pub since: Option<u64>,
    /// The node's number; `None` for an ingress.
    pub node: Option<u16>,
    /// It takes nobody new.
    pub draining: bool,
    /// Calls on it,
    pub calls: u64,
    /// and how many it takes; `None` for an ingress.
    pub calls_max: Option<u64>,
    /// People in them.
    pub participants: u64,
    /// Share of its time that its media threads work, 0 to 1.
    pub busy: Option<f64>,
    /// When it started; `None` for an ingress.
    pub started_at: Option<u64>,
}

impl Relay {
    pub(super) fn view(&self) -> RelayView {
        let seen = self.seen();
        let facts = seen.facts;
        RelayView {
            name: self.name.clone(),
            url: self.url.clone(),
            kind: facts.kind,
            state: seen.state,
            error: seen.error.clone(),
            since: (seen.state != State::Unknown).then_some(seen.since),
            node: facts.node,
            draining: facts.draining,
            calls: facts.calls,
            calls_max: facts.calls_max,
            participants: facts.participants,
            busy: facts.busy,
            started_at: facts.started_at,
        }
    }
}

/// How people's packets cross the network, by count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transports {
    /// Datagrams.
    pub udp: u64,
    /// ICE-TCP.
    pub tcp: u64,
    /// The same, or TURN, within TLS.
    pub tls: u64,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallView {
    /// On which relay.
    pub relay: String,
    /// Its id.
    pub call_id: String,
    /// `conference` or `broadcast`.
    pub mode: String,
    /// When it was created.
    pub created_at: u64,
    /// People in it.
    pub participants: u64,
    /// How many it takes.
    pub max_participants: u64,
    /// The calling service's own name for it.
    pub meeting_id: Option<String>,
    /// It was handed over to another node, and those who are here have not left yet.
    pub moved: bool,
    /// `None` when the call was not looked at in detail; so are those below.
    pub transports: Option<Transports>,
    /// Mean share of packets lost on the way from people, 0 to 1.
    pub uplink_loss: Option<f64>,
    /// Mean share of packets lost on the way to people, 0 to 1.
    pub downlink_loss: Option<f64>,
    /// Mean round trip.
    pub rtt_ms: Option<f64>,
}

/// All calls.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallsView {
    /// Of all relays that answer.
    pub calls: Vec<CallView>,
    /// Why those of others are missing.
    pub errors: Vec<CallsError>,
}

/// A relay that does not tell its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallsError {
    /// Which.
    pub relay: String,
    /// What is wrong, and what to do.
    pub error: String,
}

/// One moment of all relays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub at: u64,
    /// Calls on relays that answer.
    pub calls: u64,
    /// People in them.
    pub participants: u64,
    /// Mean share of their time that nodes' media threads work, 0 to 1.
    pub busy: Option<f64>,
    /// Mean of the worse of both directions' losses of calls that were looked at, by people, 0 to 1.
    pub loss: Option<f64>,
}
