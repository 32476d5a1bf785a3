//! What the node is asked for, and what it tells.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::mpsc;
use trunkline_relay_proto::call::{JoinError, RequestError};
use trunkline_relay_proto::event::EndReason;
use trunkline_relay_proto::snapshot::Snapshot;
use trunkline_relay_proto::turn;

use super::{CallId, SessionId};
use crate::ports::PortError;
use crate::sdp::OfferError;

/// Why something cannot be done.
#[derive(Debug, Error)]
pub enum NodeError {
    /// No such call, any more.
    #[error("there is no such call")]
    NoSuchCall,
    /// No such session, any more.
    #[error("there is no such session")]
    NoSuchSession,
    /// The node takes no new calls and nobody new.
    #[error("this relay is draining: it takes nobody new")]
    Draining,
    /// The call was handed over.
    #[error("the call goes on at another node: join it there")]
    Moved,
    /// A call over TCP only, and there is no TCP port.
    #[error("this relay takes media over UDP only")]
    NoTcp,
    /// As many calls as it takes.
    #[error("this relay has as many calls as it takes")]
    TooManyCalls,
    /// No port for another call.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The offer is unusable.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The call does not take the participant.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The request cannot be done.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A change was meant for another state of the session.
    #[error("the session's ICE credentials are not those named in If-Match")]
    Precondition,
    /// A worker does not answer.
    #[error("a media worker does not answer")]
    Worker,
}

/// What kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everybody may send; 100 people.
    #[default]
    Conference,
    /// Few send to many; 500 people.
    Broadcast,
}

impl Mode {
    /// Participants, unless the call says fewer.
    #[must_use]
    pub const fn participants_max(self) -> usize {
        match self {
            Self::Conference => 100,
            Self::Broadcast => 500,
        }
    }
}

/// What a call is created with.
#[derive(Clone, Debug, Default)]
pub struct CreateCall {
    /// Fewer participants than the mode takes.
    pub participants_max: Option<usize>,
    /// What kind.
    pub mode: Mode,
    /// Tell clients about TCP only.
    pub force_tcp: bool,
    /// The calling service's own name for it, for records.
    pub meeting_id: Option<String>,
}

/// A call, as its creator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct CallInfo {
    /// Its name in URLs.
    pub call_id: String,
    /// Where its media goes: `host:port`.
    pub calluri: String,
    /// The same over IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calluriipv6: Option<String>,
    /// Where it goes over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcpuri: Option<String>,
    /// What kind.
    pub mode: Mode,
    /// Participants at a time.
    pub max_participants: usize,
    /// When it was created, seconds since the Unix epoch.
    pub created_at: u64,
    /// The calling service's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meeting_id: Option<String>,
}

/// A call with what happens in it.
#[derive(Clone, Debug, Serialize)]
pub struct CallSnapshot {
    /// What it is.
    #[serde(flatten)]
    pub info: CallInfo,
    /// Who is in it.
    #[serde(flatten)]
    pub live: Snapshot,
    /// What was counted.
    pub counters: HashMap<&'static str, u64>,
}

/// A call in a list.
#[derive(Clone, Debug, Serialize)]
pub struct CallSummary {
    /// What it is.
    #[serde(flatten)]
    pub info: CallInfo,
    /// How many are in it.
    pub participants: usize,
    /// Handed over to another node; those who are here have not left yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

/// A TURN server, as clients are told of it.
#[derive(Clone, Debug)]
pub struct IceServer {
    /// A URI of RFC 7065.
    pub url: String,
    /// What to sign requests with.
    pub credentials: turn::Credentials,
}

/// Somebody who just joined.
#[derive(Debug)]
pub struct Joined {
    /// The secret part of the session's URL.
    pub session: SessionId,
    /// The SDP answer.
    pub answer: String,
    /// Names the ICE credentials (RFC 9725, section 4.3.1).
    pub etag: String,
}

/// Who a session belongs to.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The call.
    pub call: CallId,
    /// The participant's name.
    pub participant: Arc<str>,
}

/// What a call's record is made of.
#[derive(Clone, Debug)]
pub enum CallEvent {
    /// A call was created.
    Started {
        /// What it is.
        info: CallInfo,
        /// When.
        at: SystemTime,
    },
    /// A call ended.
    Ended {
        /// What it was.
        info: CallInfo,
        /// When it began,
        started: SystemTime,
        /// and ended.
        at: SystemTime,
        /// Everybody who ever joined.
        participants: Vec<Arc<str>>,
        /// Why.
        reason: EndReason,
    },
}

/// How busy a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WorkerLoad {
    /// Share of the last second that its thread worked, 0 to 1.
    pub busy: f64,
    /// Calls that began on it.
    pub calls: usize,
    /// Branches on it of calls that began on another.
    pub branches: usize,
    /// People on both.
    pub participants: usize,
}

/// What a node has, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Calls,
    pub calls: usize,
    /// and how many it takes.
    pub calls_max: usize,
    /// People in them.
    pub participants: usize,
    /// When the node began, in seconds since the Unix epoch.
    pub started_s: u64,
}

/// A drain in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When calls that are still there end.
    pub deadline: Option<Instant>,
}

/// The events of one session, as JSON texts. Ends when the session does, or its reader falls behind.
#[derive(Debug)]
pub struct EventStream(pub(super) mpsc::Receiver<Arc<str>>);

impl EventStream {
    /// The next one.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        self.0.recv().await
    }
}
