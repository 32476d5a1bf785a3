//! What is answered when something is wrong: problem documents, each saying what to do.

use std::time::Duration;

use http::StatusCode;
use trunkline_gateway_proto::admin::AdminError;
use trunkline_gateway_proto::directory::Role;
use trunkline_http::problem::{
    CONFLICT, FORBIDDEN, INTERNAL, MALFORMED, NOT_FOUND, Problem, ProblemType, UNAUTHENTICATED,
};

use super::session::Ended;
use crate::hub::{AdminFailure, HubError};
use crate::identity::IdentityError;
use crate::relays::RelayError;

/// The gateway cannot do its work.
pub const NOT_READY: ProblemType =
    ProblemType::new("not-ready", StatusCode::SERVICE_UNAVAILABLE, "The gateway cannot do its work");
/// The audit log, or another part of the store, does not read as what was written.
pub const DAMAGED: ProblemType =
    ProblemType::new("damaged", StatusCode::INTERNAL_SERVER_ERROR, "What is stored was changed");

/// A request with a session's cookie lacks what only our own pages know.
pub const CSRF: ProblemType =
    ProblemType::new("csrf", StatusCode::FORBIDDEN, "The request was not made by the console's own page");
/// The password is right, a code is needed too.
pub const CODE_NEEDED: ProblemType =
    ProblemType::new("code-needed", StatusCode::UNAUTHORIZED, "A code of the second factor is needed");
/// The session was ended by something else than time.
pub const SESSION_ENDED: ProblemType =
    ProblemType::new("session-ended", StatusCode::UNAUTHORIZED, "This session was ended");
/// The session's time is over.
pub const SESSION_EXPIRED: ProblemType =
    ProblemType::new("session-expired", StatusCode::UNAUTHORIZED, "This session's time is over");
/// Somebody else knows the password.
pub const PASSWORD_CHANGE_NEEDED: ProblemType =
    ProblemType::new("password-change-needed", StatusCode::FORBIDDEN, "The password must be changed first");
/// The settings require a second factor.
pub const TOTP_ENROLMENT_NEEDED: ProblemType =
    ProblemType::new("totp-enrolment-needed", StatusCode::FORBIDDEN, "Two-factor must be set up first");
/// The password that was asked for again is not right. The session goes on.
pub const WRONG_PASSWORD: ProblemType =
    ProblemType::new("wrong-password", StatusCode::FORBIDDEN, "The password is not right");
/// The code that finishes a set-up is not right. The session goes on.
pub const WRONG_CODE: ProblemType =
    ProblemType::new("wrong-code", StatusCode::FORBIDDEN, "The code is not right");
/// A relay of this deployment does not do its part.
pub const RELAY: ProblemType =
    ProblemType::new("relay", StatusCode::BAD_GATEWAY, "A relay did not do what it was asked");

pub(super) fn unauthenticated() -> Problem {
    let detail = "log in, or send `Authorization: Bearer <token>` with an admin token, as `init` or `token add` made it";
    Problem::new(UNAUTHENTICATED, detail)
}

pub(super) fn forbidden(has: Role, needs: Role) -> Problem {
    let (has, needs) = (role(has), role(needs));
    let detail =
        format!("this takes the role {needs}, yours is {has}: use another token or ask an administrator");
    Problem::new(FORBIDDEN, detail)
}

/// The same whether it was the name or the password.
pub(super) fn wrong_login() -> Problem {
    Problem::new(UNAUTHENTICATED, "name or password is not right: try again, or have the password reset")
}

pub(super) fn code_needed() -> Problem {
    Problem::new(CODE_NEEDED, "send a fresh `code` of the second factor too: each is good once")
}

pub(super) fn wrong_password() -> Problem {
    Problem::new(WRONG_PASSWORD, "this is not your password: try again")
}

pub(super) fn wrong_code() -> Problem {
    Problem::new(WRONG_CODE, "send the code that the device shows now; if that fails too, compare the clocks")
}

pub(super) fn csrf() -> Problem {
    Problem::new(CSRF, "send `X-Trunkline-Csrf` with what GET /admin/v1/session answers as `csrf`")
}

pub(super) fn foreign_origin() -> Problem {
    Problem::new(CSRF, "`Origin` is another host than the one asked: open the console where it is served")
}

pub(super) fn password_change_needed() -> Problem {
    Problem::new(PASSWORD_CHANGE_NEEDED, "choose a password of your own: POST /admin/v1/session/password")
}

pub(super) fn totp_enrolment_needed() -> Problem {
    let detail =
        "the settings require a second factor of everybody: set it up with POST /admin/v1/session/totp";
    Problem::new(TOTP_ENROLMENT_NEEDED, detail)
}

pub(super) fn ended(why: Ended) -> Problem {
    match why {
        Ended::Unknown => unauthenticated(),
        Ended::Displaced => Problem::new(
            SESSION_ENDED,
            "you logged in somewhere else, and an administrator has one session at a time: log in again to continue \
             here; if that was not you, change your password",
        ),
        Ended::Password => Problem::new(SESSION_ENDED, "your password was changed: log in with the new one"),
        Ended::Removed => Problem::new(SESSION_ENDED, "you are not an administrator any more"),
        Ended::Idle => Problem::new(SESSION_EXPIRED, "nothing was asked for too long: log in again"),
        Ended::Total => {
            Problem::new(SESSION_EXPIRED, "it was open as long as a session may be: log in again")
        }
    }
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
