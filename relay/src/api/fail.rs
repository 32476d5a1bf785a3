//! The problems that only a relay has, and what its node's refusals become.

use http::StatusCode;
use trunkline_http::problem::{INTERNAL, MALFORMED, NOT_FOUND, OVERLOADED, Problem, ProblemType, STOPPING};
use trunkline_relay_proto::call::JoinError;

use super::limits::{DRAINING_RETRY, FULL_RETRY, MOVED_RETRY};
use crate::node::NodeError;
use crate::ports::PortError;

/// The call takes no more participants.
pub const FULL: ProblemType = ProblemType::new("full", StatusCode::CONFLICT, "The call is full");
/// The offer cannot be answered.
pub const UNUSABLE_OFFER: ProblemType =
    ProblemType::new("unusable-offer", StatusCode::UNPROCESSABLE_ENTITY, "The offer cannot be used");
/// The ICE session is another one by now.
pub const STALE: ProblemType =
    ProblemType::new("stale", StatusCode::PRECONDITION_FAILED, "The ICE session is another one");
/// A fragment without `If-Match`.
pub const NO_PRECONDITION: ProblemType =
    ProblemType::new("no-precondition", StatusCode::PRECONDITION_REQUIRED, "`If-Match` is needed");
/// The node takes nothing new.
pub const DRAINING: ProblemType =
    ProblemType::new("draining", StatusCode::SERVICE_UNAVAILABLE, "The node is draining");
/// The call was handed over to another node.
pub const MOVED: ProblemType =
    ProblemType::new("moved", StatusCode::SERVICE_UNAVAILABLE, "The call goes on at another node");
/// No UDP port is left.
pub const NO_PORT: ProblemType =
    ProblemType::new("no-port", StatusCode::SERVICE_UNAVAILABLE, "No UDP port is free");
/// Records are off, or tokens cannot be minted here.
pub const NOT_CONFIGURED: ProblemType =
    ProblemType::new("not-configured", StatusCode::CONFLICT, "This node is not configured for that");
/// The node does not take calls.
pub const NOT_READY: ProblemType =
    ProblemType::new("not-ready", StatusCode::SERVICE_UNAVAILABLE, "The node takes no calls");

pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(MALFORMED, detail)
}

pub(super) fn no_call() -> Problem {
    Problem::new(NOT_FOUND, "there is no such call, any more")
}

pub(super) fn no_session() -> Problem {
    Problem::new(NOT_FOUND, "there is no such participant, any more: join again")
}

pub(super) fn draining() -> Problem {
    let detail =
        "this node takes no new calls nor participants: use another, or come back when it takes calls again";
    Problem::new(DRAINING, detail).retry_after(DRAINING_RETRY)
}

pub(super) fn node(error: NodeError) -> Problem {
    match error {
        NodeError::NoSuchCall => no_call(),
        NodeError::NoSuchSession => no_session(),
        NodeError::Draining => draining(),
        NodeError::Moved => {
            Problem::new(MOVED, "this node handed the call over: join it through the ingress, which finds it")
                .retry_after(MOVED_RETRY)
        }
        NodeError::NoTcp => malformed(
            "force_tcp: this node takes media over UDP only: leave it out, or ask a node with `media.tcp_port`",
        ),
        NodeError::TooManyCalls => {
            Problem::new(OVERLOADED, "the node has as many calls as it takes: use another")
                .retry_after(FULL_RETRY)
        }
        NodeError::Ports(error @ PortError::Exhausted { .. }) => {
            Problem::new(NO_PORT, error.to_string()).retry_after(FULL_RETRY)
        }
        NodeError::Ports(error @ PortError::Socket(_)) => {
            tracing::error!(%error, "no call can be made");
            Problem::new(INTERNAL, "no UDP socket can be opened: the operator sees why in the log")
        }
        NodeError::Offer(error) => Problem::new(UNUSABLE_OFFER, error.to_string()).with("line", error.line),
        NodeError::Join(JoinError::Full) => {
            Problem::new(FULL, "as many people are on the call as it takes: try again when one left")
        }
        NodeError::Join(JoinError::Gone) => no_session(),
        NodeError::Join(error @ (JoinError::Fingerprint | JoinError::Section(_))) => {
            Problem::new(UNUSABLE_OFFER, error.to_string())
        }
        NodeError::Request(error) => malformed(error.to_string()),
        NodeError::Precondition => Problem::new(
            STALE,
            "the ICE session changed since: `If-Match` must be the last `ETag`, or `*` to restart",
        ),
        NodeError::Worker => {
            Problem::new(STOPPING, "the node is stopping: use another").retry_after(DRAINING_RETRY)
        }
    }
}
