//! The problems that only this gateway has: what its hub refuses.

use std::time::Duration;

use http::StatusCode;
use trunkline_http::problem::{Problem, ProblemType, STOPPING};

use crate::hub::HubError;
use crate::store::StoreError;

/// When to come back while the gateway stops. Shorter finds the next process sooner, and asks more often.
const STOPPING_RETRY: Duration = Duration::from_secs(2);

/// When to come back while storage is out of order. An operator has to act first.
const STORAGE_RETRY: Duration = Duration::from_secs(10);

/// When to come back while a database, or the replica that leads, is not there. It comes back by itself, or another
/// takes over within a lease.
const TAKEOVER_RETRY: Duration = Duration::from_secs(2);

/// Storage acknowledges nothing.
pub const STORAGE: ProblemType =
    ProblemType::new("storage", StatusCode::SERVICE_UNAVAILABLE, "Nothing can be made durable now");

impl From<HubError> for Problem {
    fn from(error: HubError) -> Self {
        match error {
            // The cause names files of this machine: it is for the operator's log, not for the caller.
            HubError::Store(
                StoreError::Unavailable(_) | StoreError::Held { .. } | StoreError::Locked { .. },
            )
            | HubError::Elsewhere(_) => Self::new(
                STORAGE,
                "storage cannot be reached at the moment: nothing of this request was kept; try again soon",
            )
            .retry_after(TAKEOVER_RETRY),
            HubError::Store(_) => Self::new(
                STORAGE,
                "storage is out of order: nothing of this request was kept; try again later, the \
                 operator sees the cause in the gateway's log",
            )
            .retry_after(STORAGE_RETRY),
            HubError::Stopping => Self::new(STOPPING, error.to_string()).retry_after(STOPPING_RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_storage_failure_tells_the_caller_no_path_of_this_machine() {
        let problem = Problem::from(HubError::Store(StoreError::Full { path: "/var/lib/secret".into() }));
        assert_eq!(problem.kind(), STORAGE);
        assert!(!problem.document().to_string().contains("/var/lib"));
    }
}
