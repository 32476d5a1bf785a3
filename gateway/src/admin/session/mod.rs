//! Logging in to the console: a name, a password and perhaps a code become a cookie.
//!
//! # Layout
//! - `book`: who is logged in, pure
//! - `cookie`: the cookie, and whether a request was made by a page of ours
//! - [`password`]: what passwords must be, and their hashes
//! - `totp`: codes of the second factor
//! - this file: the handlers

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use trunkline_common::ids::Domain;
use trunkline_common::token::{self, TokenHash};
use trunkline_gateway_proto::admin::{AdminError, AdminOp};
use trunkline_gateway_proto::administrator::{
    Administrator, AdministratorOp, PasswordHash, Totp, TotpSecret, valid_name,
};
use trunkline_gateway_proto::directory::Role;
use trunkline_gateway_proto::time::Time;
use trunkline_http::auth::source;
use trunkline_http::extract::Json as JsonBody;
use trunkline_http::lockout::{Failed, Outcome, locked_out};

use super::auth::{Actor, By, Mine, count_failure};
use super::{AdminState, Answer, fail, now};
use crate::hub::{AdminFailure, HubError};

mod book;
pub(super) mod cookie;
pub(crate) mod password;
pub(super) mod totp;

pub(crate) use book::Ended;
use book::{Book, Found, Lifetimes};
use password::{Password, Passwords};

/// Text before a session's secret, so that a leaked one can be recognised.
const SESSION_PREFIX: &str = "tls";

/// Text before what requests that change something carry beside the cookie.
const CSRF_PREFIX: &str = "tlx";

/// Largest body of these routes: they take short texts, some of them from anybody.
const BODY_BYTES_MAX: usize = 4096;

type Body<T> = JsonBody<T, BODY_BYTES_MAX>;

/// All that logging in needs.
#[derive(Debug)]
pub(super) struct Logins {
    book: Mutex<Book>,
    names: Failed<String>,
    passwords: Passwords,
    cookie: String,
    secure: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogIn {
    name: String,
    password: Password,
    #[serde(default)]
    code: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SessionView {
    name: String,
    role: Role,
    domain: Domain,
    version: &'static str,
    via: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf: Option<String>,
    totp: bool,
    must_change_password: bool,
    must_enable_totp: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordChange {
    old: Password,
    new: Password,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proof {
    password: Password,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Code {
    code: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Enrolment {
    secret: String,
    uri: String,
    qr: Vec<String>,
}

impl Logins {
    /// `secure` when the API speaks TLS.
    pub(super) fn new(domain: &Domain, secure: bool) -> Self {
        Self {
            book: Mutex::default(),
            names: Failed::default(),
            passwords: Passwords::default(),
            cookie: cookie::name(domain),
            secure,
        }
    }

    /// Hashes passwords.
    pub(super) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Ends the session that `name` has, if any.
    pub(super) fn end(&self, name: &str, why: Ended) {
        self.book().end(name, why);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of the cookie that a request carries.
    pub(super) fn cookie_of(&self, headers: &HeaderMap) -> Option<TokenHash> {
        cookie::read(headers, &self.cookie).map(TokenHash::of)
    }
}

impl AdminState {
    fn lifetimes(&self) -> Lifetimes {
        let values = self.settings();
        Lifetimes {
            idle: Duration::from_secs(values.session_idle_s),
            total: Duration::from_secs(values.session_max_s),
        }
    }

    /// The administrator whose session a cookie opens; the session counts as used.
    pub(super) fn resume(&self, secret: &TokenHash) -> Result<(Mine, Administrator), Ended> {
        let Found { name, csrf, left } =
            self.logins.book().resume(Instant::now(), secret, self.lifetimes())?;
        let Some(record) = self.hub.directory().administrator(&name).cloned() else {
            self.logins.end(&name, Ended::Removed);
            return Err(Ended::Removed);
        };
        Ok((Mine { secret: *secret, name, csrf, left }, record))
    }

    /// Whether a cookie still opens a session. It does not count as used.
    pub(super) fn is_logged_in(&self, secret: &TokenHash) -> bool {
        self.logins.book().live(Instant::now(), secret, self.lifetimes()).is_ok()
    }

    /// Whether an administrator has a session.
    pub(super) fn is_active(&self, name: &str) -> bool {
        self.logins.book().is_active(Instant::now(), name, self.lifetimes())
    }

    /// Whether an administrator must set up a second factor before anything else.
    pub(super) fn must_enable_totp(&self, record: &Administrator) -> bool {
        record.totp.is_none() && self.settings().require_totp
    }

    /// Refuses who failed too often, by address or by name.
    fn may_try(&self, source: IpAddr, name: &String) -> Answer<()> {
        let now = Instant::now();
        let waits = [self.lockout.remaining(source, now), self.logins.names.remaining(name, now)];
        waits.into_iter().flatten().max().map_or(Ok(()), |wait| Err(locked_out(wait)))
    }

    /// Counts a wrong password or code against both.
    async fn guessed(&self, source: IpAddr, name: &String) {
        if self.logins.names.failed(name, Instant::now()) == Outcome::LockedOut {
            // Whatever was typed there may be somebody's password: only a name that is one is written down.
            let known = self.hub.directory().administrator(name).is_some();
            let target = if known { name.clone() } else { "an unknown name".to_owned() };
            tracing::warn!(
                "too many failed log-ins to the console: a name was locked out, the audit log says which"
            );
            let note = AdminOp::Note { action: "login.lockout", target };
            if let Err(error) = self.hub.admin("gateway", note).await {
                tracing::warn!(%error, "a lock-out could not be noted in the audit log");
            }
        }
        count_failure(self, source).await;
    }

    /// Whether this is the password of `record`, or of nobody. Costs the same time for nobody.
    async fn proves(
        &self,
        source: IpAddr,
        name: &String,
        password: Password,
        record: Option<&Administrator>,
    ) -> Answer<bool> {
        self.may_try(source, name)?;
        let stored = record.map(|record| record.password.clone());
        let right = self.logins.passwords.verify(password, stored, || self.may_try(source, name)).await?;
        if !right {
            self.guessed(source, name).await;
        }
        Ok(right)
    }
}

pub(super) async fn log_in(
    State(state): State<AdminState>,
    parts: Parts,
    JsonBody(LogIn { name, password, code }): Body<LogIn>,
) -> Answer<Response> {
    // Otherwise another site could log a browser in under a name of its own.
    if !cookie::is_same_origin(&parts.uri, &parts.headers) {
        return Err(fail::foreign_origin());
    }
    let source = source(&parts.extensions);
    let name = name.trim().to_ascii_lowercase();
    // Whatever is no name counts as one and the same, so that the memory of it stays small.
    let name = if valid_name(&name) { name } else { "gateway".to_owned() };
    let record = state.hub.directory().administrator(&name).cloned();
    let right = state.proves(source, &name, password, record.as_ref()).await?;
    let Some(record) = record.filter(|_| right) else { return Err(fail::wrong_login()) };
    let step = check_code(&state, source, &record, code).await?;
    note_log_in(&state, source, &record, step).await?;
    // It may have been removed or given another password while this one was hashed.
    let current = state.hub.directory().administrator(&name).cloned();
    let Some(record) = current.filter(|current| current.password == record.password) else {
        return Err(fail::wrong_login());
    };
    // Its address may still have guessed at others: that count only time takes back.
    state.logins.names.succeeded(&name);
    let (secret, csrf) = (token::generate(SESSION_PREFIX), token::generate(CSRF_PREFIX).to_string());
    let hash = TokenHash::of(&secret);
    state.logins.book().begin(Instant::now(), &name, hash, csrf);
    let (mine, _) = state.resume(&hash).map_err(fail::ended)?;
    let cookie = cookie::set(&state.logins.cookie, &secret, state.logins.secure);
    let view = Json(session_view(&state, &record, &mine));
    Ok(with_cookie(view.into_response(), cookie))
}

/// The time step of a code that is right; `None` when none is needed.
async fn check_code(
    state: &AdminState,
    source: IpAddr,
    record: &Administrator,
    code: Option<String>,
) -> Answer<Option<u64>> {
    let Some(totp) = &record.totp else { return Ok(None) };
    let Some(code) = code.filter(|code| !code.trim().is_empty()) else { return Err(fail::code_needed()) };
    let step = totp::verify(&totp.secret, &code, now().unix_ms() / 1000, totp.used);
    if let Some(step) = step
        && state.logins.book().use_step(&record.name, step)
    {
        return Ok(Some(step));
    }
    state.guessed(source, &record.name).await;
    Err(fail::code_needed())
}

/// Writes the log-in down, with the code that is used up by it.
async fn note_log_in(
    state: &AdminState,
    source: IpAddr,
    record: &Administrator,
    step: Option<u64>,
) -> Answer<()> {
    let name = record.name.clone();
    let op = AdminOp::Administrator(AdministratorOp::LogIn { name: name.clone(), step });
    match state.hub.admin(&label_of(&name), op).await {
        Ok(_) => Ok(()),
        Err(AdminFailure::Refused(AdminError::NotFound { .. })) => Err(fail::wrong_login()),
        Err(AdminFailure::Refused(_)) => {
            state.guessed(source, &name).await;
            Err(fail::code_needed())
        }
        Err(AdminFailure::Hub(HubError::Store(error))) => {
            // With a full disk the console is needed most. The book keeps the code from being used again.
            tracing::warn!(%error, "a log-in could not be noted in the audit log");
            Ok(())
        }
        Err(other) => Err(fail::admin(other)),
    }
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
) -> Answer<Json<SessionView>> {
    match &actor.by {
        By::Session(mine) => Ok(Json(session_view(&state, &record_of(&state, mine)?, mine))),
        By::Token(_) => Ok(Json(SessionView {
            name: actor.label,
            role: actor.role,
            domain: state.about.domain.clone(),
            version: env!("CARGO_PKG_VERSION"),
            via: "token",
            csrf: None,
            totp: false,
            must_change_password: false,
            must_enable_totp: false,
            expires_at: None,
        })),
    }
}

pub(super) async fn log_out(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
) -> Answer<Response> {
    let mine = mine(&actor)?;
    state.logins.book().log_out(&mine.secret);
    let note = AdminOp::Note { action: "logout", target: mine.name.clone() };
    if let Err(error) = state.hub.admin(&actor.label, note).await {
        tracing::warn!(%error, "a log-out could not be noted in the audit log");
    }
    let cookie = cookie::clear(&state.logins.cookie, state.logins.secure);
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), cookie))
}

pub(super) async fn change_password(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    parts: Parts,
    JsonBody(PasswordChange { old, new }): Body<PasswordChange>,
) -> Answer<StatusCode> {
    let mine = mine(&actor)?;
    password::check(&new, &old, &mine.name)?;
    let proven = Some(confirm(&state, &parts, mine, old).await?);
    let password = state.logins.passwords.hash(new).await?;
    let op = AdministratorOp::Password { name: mine.name.clone(), password, proven };
    change(&state, &actor, op).await?;
    state.logins.book().end_others(&mine.name, &mine.secret, Ended::Password);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn enrol(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    parts: Parts,
    JsonBody(Proof { password }): Body<Proof>,
) -> Answer<Json<Enrolment>> {
    let mine = mine(&actor)?;
    if record_of(&state, mine)?.totp.is_some() {
        return Err(fail::conflict("two-factor is on already: switch it off before it is set up anew"));
    }
    confirm(&state, &parts, mine, password).await?;
    let secret = TotpSecret(token::random());
    let uri = totp::uri(&secret, &format!("Trunkline {}", state.about.domain), &mine.name);
    let qr = totp::qr(&uri).ok_or_else(fail::unexpected)?;
    let text = totp::base32(&secret);
    state.logins.book().enrol(Instant::now(), &mine.secret, secret);
    Ok(Json(Enrolment { secret: text, uri, qr }))
}

pub(super) async fn enrol_finish(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    parts: Parts,
    JsonBody(Code { code }): Body<Code>,
) -> Answer<StatusCode> {
    let mine = mine(&actor)?;
    let source = source(&parts.extensions);
    let proven = record_of(&state, mine)?.password;
    state.may_try(source, &mine.name)?;
    let secret = state.logins.book().enrolling(Instant::now(), &mine.secret);
    let secret = secret.ok_or_else(|| {
        fail::conflict("no set-up of two-factor is open: begin it with POST /admin/v1/session/totp")
    })?;
    let Some(step) = totp::verify(&secret, &code, now().unix_ms() / 1000, 0) else {
        state.guessed(source, &mine.name).await;
        return Err(fail::wrong_code());
    };
    let totp = Totp { secret, used: step };
    change(&state, &actor, AdministratorOp::TotpOn { name: mine.name.clone(), totp, proven }).await?;
    state.logins.book().enrolled(&mine.secret);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn totp_off(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    parts: Parts,
    JsonBody(Proof { password }): Body<Proof>,
) -> Answer<StatusCode> {
    let mine = mine(&actor)?;
    if state.settings().require_totp {
        return Err(fail::conflict(
            "the settings require two-factor of everybody: an administrator may switch `require_totp` off first, or \
             set yours up anew with `admin reset-totp`",
        ));
    }
    let proven = Some(confirm(&state, &parts, mine, password).await?);
    change(&state, &actor, AdministratorOp::TotpOff { name: mine.name.clone(), proven }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks for the password again before something that outlives the session, and gives what it was compared with.
async fn confirm(state: &AdminState, parts: &Parts, mine: &Mine, password: Password) -> Answer<PasswordHash> {
    let record = record_of(state, mine)?;
    let source = source(&parts.extensions);
    if state.proves(source, &mine.name, password, Some(&record)).await? {
        state.logins.names.succeeded(&mine.name);
        Ok(record.password)
    } else {
        Err(fail::wrong_password())
    }
}

async fn change(state: &AdminState, actor: &Actor, op: AdministratorOp) -> Answer<()> {
    state.hub.admin(&actor.label, AdminOp::Administrator(op)).await.map_err(fail::admin).map(drop)
}

fn mine(actor: &Actor) -> Answer<&Mine> {
    match &actor.by {
        By::Session(mine) => Ok(mine),
        By::Token(_) => {
            Err(fail::conflict("a token has no session and no password: log in to the console for this"))
        }
    }
}

fn record_of(state: &AdminState, mine: &Mine) -> Answer<Administrator> {
    let record = state.hub.directory().administrator(&mine.name).cloned();
    record.ok_or_else(|| fail::ended(Ended::Removed))
}

fn session_view(state: &AdminState, record: &Administrator, mine: &Mine) -> SessionView {
    SessionView {
        name: record.name.clone(),
        role: record.role,
        domain: state.about.domain.clone(),
        version: env!("CARGO_PKG_VERSION"),
        via: "session",
        csrf: Some(mine.csrf.clone()),
        totp: record.totp.is_some(),
        must_change_password: record.must_change_password,
        must_enable_totp: state.must_enable_totp(record),
        expires_at: Some(now() + mine.left),
    }
}

/// Who the audit log names for a session. Labels of tokens have no colon.
pub(super) fn label_of(name: &str) -> String {
    format!("console:{name}")
}

fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
