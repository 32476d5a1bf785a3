//! The messaging server of a deployment: a page for each of its people, and what the page asks for. The thinnest that
//! does it: it keeps sealed bytes and public keys in memory, and knows people by the secret in their links.
//!
//! # Layout
//! - [`super::directory`], [`super::mailbox`]: people, and what waits for them
//! - [`super::courier`]: the gateway's local API
//! - [`super::hosting`]: the relay's API
//! - here: HTTP

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json as Answer, Router};
use futures_util::{Stream, StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, REFERRER_POLICY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use trunkline_common::token::{self, TokenHash};
use trunkline_http::auth::bearer;
use trunkline_http::extract::{Json, Query};
use trunkline_http::problem::{
    FORBIDDEN, MALFORMED, NOT_FOUND, OVERLOADED, Problem, TOO_LARGE, UNAUTHENTICATED, method_not_allowed,
    not_found,
};
use trunkline_http::serve::{self, Stopping};

use super::courier::{Courier, Draft};
use super::directory::{Directory, Person};
use super::hosting::Hosting;
use super::mailbox::{Follower, Next};
use super::pages;
use crate::error::LoadError;
use crate::submit::Api;

/// Largest body of a request: a message of [`PAYLOAD_CHARS_MAX`], and what is around it.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Largest payload in base64.
const PAYLOAD_CHARS_MAX: usize = 192 << 10;

/// Connections at a time. Four pages need a handful each.
const CONNECTIONS_MAX: usize = 128;

/// A comment is sent this often when nothing happens, so that a page notices when its server is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long requests may go on after the order to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Text before the secret in the link of the open call.
const OPEN_CALL_PREFIX: &str = "tlo";

/// A running messaging server. Dropping it ends it.
pub(crate) struct Server {
    /// Where it is.
    pub(crate) address: SocketAddr,
    directory: Arc<Directory>,
    open_call: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// They end with it.
    _tasks: JoinSet<()>,
}

/// What the handlers share.
struct Shared {
    domain: String,
    directory: Arc<Directory>,
    courier: Courier,
    hosting: Arc<Hosting>,
    open_call: TokenHash,
    stopping: Stopping,
}

/// Who asks: the bearer of a person's secret, by the person's place in the directory.
struct Caller(usize);

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invited {
    participant: String,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen, or the relay gives no call.
    pub(crate) async fn start(
        address: SocketAddr,
        domain: &str,
        api: Api,
        hosting: Hosting,
    ) -> Result<Self, LoadError> {
        let listening = TcpListener::bind(address).await;
        let listener = listening.map_err(LoadError::io(format!("listening on {address}")))?;
        hosting.open().await?;
        let directory = Arc::new(Directory::of(domain));
        let (stop, stopping) = watch::channel(false);
        let open_call = token::generate(OPEN_CALL_PREFIX).to_string();
        let courier = Courier::new(domain, api);
        let mut tasks = courier.take(&directory);
        let hosting = Arc::new(hosting);
        let (watching, told) = (Arc::clone(&hosting), Arc::clone(&directory));
        tasks.spawn(async move { watching.watch(&told).await });
        let shared = Shared {
            domain: domain.to_owned(),
            directory: Arc::clone(&directory),
            courier,
            hosting,
            open_call: TokenHash::of(&open_call),
            stopping: stopping.clone(),
        };
        let limits =
            serve::Limits { connections_max: CONNECTIONS_MAX, drain: DRAIN, ..serve::Limits::default() };
        let task = tokio::spawn(serve::serve(listener, None, router(shared), limits, stopping));
        Ok(Self { address, directory, open_call, stop, task, _tasks: tasks })
    }

    /// The people here, and what opens their pages.
    pub(crate) fn people(&self) -> impl Iterator<Item = &Person> {
        self.directory.people.iter()
    }

    /// The link that opens somebody's page. The secret stands where no server sees it.
    pub(crate) fn link(&self, person: &Person) -> String {
        format!("http://{}/{}#{}", self.address, person.name, person.token)
    }

    /// The link to the open call. The key of its media stands where no server sees it.
    pub(crate) fn open_call(&self) -> String {
        format!("http://{}/join/{}#key={}", self.address, self.open_call, media_key())
    }

    /// Ends it, requests included.
    pub(crate) async fn stop(self) {
        // Nobody listening any more is as good.
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// A new key for the media of a call: base64url of 32 random bytes.
pub(crate) fn media_key() -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token::random::<32>())
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/api/me", get(me))
        .route("/api/events", get(events))
        .route("/api/envelopes", post(submit))
        .route("/api/calls", post(start_call))
        .route("/api/calls/{call}", delete(end_call))
        .route("/api/calls/{call}/tokens", post(invite))
        .route("/join/{secret}", get(join_open_call))
        .merge(pages::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(shared))
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let at = bearer(&parts.headers).and_then(|token| shared.directory.by_token(token));
        at.map(Self).ok_or_else(|| {
            Problem::new(UNAUTHENTICATED, "this link opens nobody's page: open one that the demo printed")
        })
    }
}

impl Shared {
    fn person(&self, caller: &Caller) -> Result<&Person, Problem> {
        self.directory.people.get(caller.0).ok_or_else(|| Problem::new(NOT_FOUND, "nobody is here"))
    }

    /// Refuses whoever did not start a call.
    async fn is_theirs(&self, person: &Person, call: &str) -> Result<(), Problem> {
        match self.hosting.maker_of(call).await {
            Some(maker) if maker == person.address => Ok(()),
            Some(_) => Err(Problem::new(FORBIDDEN, "only who started a call invites to it and ends it")),
            None => Err(Problem::new(NOT_FOUND, "this call is over: start another one")),
        }
    }
}

async fn me(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Answer<Value>, Problem> {
    let person = shared.person(&caller)?;
    let contacts: Vec<_> =
        shared.directory.everybody.iter().filter(|address| **address != person.address).collect();
    Ok(Answer(json!({
        "address": person.address,
        "domain": shared.domain,
        "contacts": contacts,
        "call_page": shared.hosting.page(),
    })))
}

async fn events(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Query(After { after }): Query<After>,
) -> Result<impl IntoResponse, Problem> {
    let follower = shared.person(&caller)?.mailbox.follow(after);
    let mut stopping = shared.stopping.clone();
    let over = Box::pin(async move { serve::stopped(&mut stopping).await });
    let stream = told(follower).take_until(over);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn told(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(follower, async |mut follower| {
        let event = match follower.next().await? {
            Next::Item(item) => Event::default().event(item.event).data(&*item.data),
            Next::Missed(count) => Event::default().event("missed").data(count.to_string()),
            Next::Replaced => Event::default().event("replaced").data("{}"),
        };
        Some((Ok(event), follower))
    })
}

async fn submit(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Json(draft): Json<Draft, BODY_BYTES_MAX>,
) -> Result<Response, Problem> {
    let person = shared.person(&caller)?;
    if draft.payload.len() > PAYLOAD_CHARS_MAX {
        let detail =
            format!("payload: at most {PAYLOAD_CHARS_MAX} characters are taken: write less at a time");
        return Err(Problem::new(TOO_LARGE, detail));
    }
    draft.check().map_err(|detail| Problem::new(MALFORMED, detail))?;
    match shared.courier.submit(&shared.directory, &person.address, &draft).await {
        Ok(answer) => Ok((StatusCode::ACCEPTED, Answer(answer)).into_response()),
        Err(error) => refused(error, "the gateway"),
    }
}

async fn start_call(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    let person = shared.person(&caller)?;
    match shared.hosting.start(&shared.directory, &person.address).await {
        Ok(made) => Ok((StatusCode::CREATED, Answer(made)).into_response()),
        Err(error) => refused(error, "the relay"),
    }
}

async fn invite(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(call): Path<String>,
    Json(Invited { participant }): Json<Invited, BODY_BYTES_MAX>,
) -> Result<Response, Problem> {
    let person = shared.person(&caller)?;
    if !shared.directory.everybody.contains(&participant) {
        return Err(Problem::new(NOT_FOUND, "participant: nobody has this address"));
    }
    shared.is_theirs(person, &call).await?;
    match shared.hosting.invite(&call, &participant).await {
        Ok(token) => Ok((StatusCode::CREATED, Answer(json!({ "token": token }))).into_response()),
        Err(error) => refused(error, "the relay"),
    }
}

async fn end_call(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(call): Path<String>,
) -> Result<Response, Problem> {
    let person = shared.person(&caller)?;
    shared.is_theirs(person, &call).await?;
    match shared.hosting.end(&shared.directory, &call).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => refused(error, "the relay"),
    }
}

/// Sends a browser on to the open call, as one more guest. The key stays in the link's fragment, which the browser takes
/// along.
async fn join_open_call(
    State(shared): State<Arc<Shared>>,
    Path(secret): Path<String>,
) -> Result<Response, Problem> {
    if !shared.open_call.matches(&secret) {
        return Err(Problem::new(NOT_FOUND, "this link joins no call: open the one that the demo printed"));
    }
    let location = match shared.hosting.join_open_call().await {
        Ok(location) => location,
        Err(error) => return refused(error, "the relay"),
    };
    let mut headers = HeaderMap::new();
    let location = HeaderValue::from_str(&location).map_err(|_| away("the relay"))?;
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

fn away(who: &str) -> Problem {
    Problem::new(OVERLOADED, format!("{who} does not answer: try again in a moment"))
        .retry_after(Duration::from_secs(1))
}

/// Hands on what gateway or relay said.
fn refused(error: LoadError, who: &str) -> Result<Response, Problem> {
    let LoadError::Refused { status, body, .. } = error else { return Err(away(who)) };
    // A refusal of this server's own token is no matter of the page.
    let status = StatusCode::from_u16(status).ok().filter(|status| *status != StatusCode::UNAUTHORIZED);
    let status = status.ok_or_else(|| away(who))?;
    Ok((status, [(CONTENT_TYPE, "application/problem+json")], body).into_response())
}
