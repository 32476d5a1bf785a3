//! How a link ends, whatever carries it.

use std::time::Duration;

use trunkline_gateway_proto::wire::{Goaway, Reason};

/// How long a close may take to get out what was asked before it.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What a dialler reads when the other side's verifier said no.
pub(super) const CERTIFICATE_REFUSED: &str = "the peer refused our certificate: its operator must accept our bundle, or our new certificate (compare the pins)";

/// How a link ends.
pub(super) enum End {
    /// We want it: after what was asked before, with this GOAWAY.
    Local(Option<Goaway>, String),
    /// The peer said that nothing more will come.
    Peer,
    /// The connection is gone.
    Lost(String),
}

impl End {
    /// Nobody needs it any more.
    pub(super) fn closed(goaway: Option<Goaway>) -> Self {
        Self::Local(goaway, "closed here".to_owned())
    }

    /// This process stops.
    pub(super) fn stopping() -> Self {
        Self::Local(Some(goaway(Reason::Shutdown, "")), "stopping".to_owned())
    }

    /// What the peer sent cannot be.
    pub(super) fn fault(reason: &str) -> Self {
        let told = goaway(Reason::ProtocolError, reason);
        Self::Local(Some(told), format!("closed, it is the peer's fault: {reason}"))
    }
}

fn goaway(reason: Reason, detail: &str) -> Goaway {
    Goaway { reason: reason.into(), retry_after_ms: 0, detail: detail.to_owned() }
}
