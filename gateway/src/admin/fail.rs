//! What is answered when something is wrong: problem documents, each saying what to do.

use std::time::Duration;

use http::StatusCode;
use trunkline_gateway_proto::admin::AdminError;
use trunkline_gateway_proto::directory::Role;
use trunkline_http::problem::{
    CONFLICT, FORBIDDEN, INTERNAL, MALFORMED, NOT_FOUND, Problem, ProblemType, UNAUTHENTICATED,
};

use crate::hub::{AdminFailure, HubError};
use crate::identity::IdentityError;
use crate::relays::RelayError;

/// The gateway cannot do its work.
pub const NOT_READY: ProblemType =
    ProblemType::new("not-ready", StatusCode::SERVICE_UNAVAILABLE, "The gateway cannot do its work");
/// The audit log, or another part of the store, does not read as what was written.
pub const DAMAGED: ProblemType =
    ProblemType::new("damaged", StatusCode::INTERNAL_SERVER_ERROR, "What is stored was changed");

/// A relay of this deployment does not do its part.
pub const RELAY: ProblemType =
    ProblemType::new("relay", StatusCode::BAD_GATEWAY, "A relay did not do what it was asked");

pub(super) fn unauthenticated() -> Problem {
    let detail = "send `Authorization: Bearer <token>` with an admin token, as `init` or `token add` made it";
    Problem::new(UNAUTHENTICATED, detail)
}

pub(super) fn forbidden(has: Role, needs: Role) -> Problem {
    let (has, needs) = (role(has), role(needs));
    let detail =
        format!("this takes a token of role {needs}, yours is {has}: use another or ask an administrator");
    Problem::new(FORBIDDEN, detail)
}

pub(super) fn not_found(what: &str, name: &str) -> Problem {
    Problem::new(NOT_FOUND, format!("there is no {what} `{name}`"))
}

pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(MALFORMED, detail)
}

pub(super) fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(CONFLICT, detail)
}

pub(super) fn damaged(detail: String) -> Problem {
    Problem::new(DAMAGED, detail)
}

pub(super) fn not_ready(detail: String) -> Problem {
    Problem::new(NOT_READY, detail).retry_after(Duration::from_secs(2))
}

/// Operators may see what the local API's callers may not: which file of this machine is at fault.
pub(super) fn hub(error: HubError) -> Problem {
    let detail = error.to_string();
    let generic = Problem::from(error);
    Problem::new(generic.kind(), detail).retry_after(Duration::from_secs(5))
}

pub(super) fn identity(error: &IdentityError) -> Problem {
    let kind = if matches!(error, IdentityError::NoNext) { CONFLICT } else { INTERNAL };
    Problem::new(kind, error.to_string())
}

pub(super) fn admin(failure: AdminFailure) -> Problem {
    match failure {
        AdminFailure::Refused(AdminError::NotFound { what, name }) => not_found(what, &name),
        AdminFailure::Refused(AdminError::Conflict(detail)) => conflict(detail),
        AdminFailure::Refused(AdminError::Invalid(detail)) => invalid(detail),
        AdminFailure::Hub(error) => hub(error),
    }
}

pub(super) fn relay(error: &RelayError) -> Problem {
    let kind = match error {
        RelayError::NoSuchRelay(_) | RelayError::NoSuchCall(_) => NOT_FOUND,
        RelayError::Ingress(_) => CONFLICT,
        RelayError::Failed { .. } => RELAY,
    };
    Problem::new(kind, error.to_string())
}

/// The hub answered something else than what it was asked.
pub(super) fn unexpected() -> Problem {
    Problem::new(INTERNAL, "the gateway's parts disagree: this is a mistake of the program, please report it")
}

/// A role as tokens and documents write it.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}
