//! Joining: where the call is, or, when no node has it, where it is made again.

use std::sync::Arc;

use axum::extract::{Path, Request as Incoming, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use trunkline_http::auth::bearer;
use trunkline_http::problem::{Problem, UNAUTHENTICATED};

use super::calls::{call_id, call_path, no_call};
use super::message::{Answer, Outcome, Request};
use super::{Front, no_node};
use crate::node::CallId;
use crate::sdp::OFFER_BYTES_MAX;

/// How the call's own node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// It lives, and does not know the call: it may have been restarted.
    Unknowing,
    /// It lives, and takes nobody new.
    Draining,
    /// It handed the call over, or is not there.
    Left,
}

/// What is known once no node let somebody in.
#[derive(Debug)]
struct Search {
    own: Own,
    /// A node says that the call ended there.
    ended: bool,
    /// A node that may have the call does not answer.
    silent: bool,
    /// The refusal that says most.
    refusal: Option<Answer>,
}

/// `/v1/calls/{call}/participants`
pub(super) async fn participants(
    State(front): State<Arc<Front>>,
    Path(call): Path<String>,
    request: Incoming,
) -> Result<Response, Problem> {
    let call = call_id(&call)?;
    // Nothing is kept of whoever has no token at all; the node would say the same.
    if request.method() == Method::POST && bearer(request.headers()).is_none() {
        let detail = "send `Authorization: Bearer <token>` with a join token for this call";
        return Err(Problem::new(UNAUTHENTICATED, detail));
    }
    let path = format!("{}/participants", call_path(&call));
    let (request, _room) = front.buffered(request, path, OFFER_BYTES_MAX).await?;
    if request.method == Method::POST {
        front.join(&call, &request.about_call()).await
    } else {
        front.any_node(&request).await
    }
}

impl Front {
    async fn join(&self, call: &CallId, request: &Request) -> Result<Response, Problem> {
        let search = match self.search(call, request).await {
            Ok(answer) => return Ok(answer.into_response()),
            Err(search) => search,
        };
        if search.ended {
            return Ok(search.refusal.map_or_else(|| no_call().into_response(), Answer::into_response));
        }
        if search.silent {
            // It may have the call, and two calls would be worse than a moment's delay.
            return Err(no_node("a node that may have this call does not answer"));
        }
        if self.upstreams.table().may_be_unknown(call) {
            return Err(no_node(
                "this call's own node is not known here yet, as the registry does not answer",
            ));
        }
        let request = request.to_recreate();
        let order = self.makers(call, search.own);
        let own = self.upstreams.table().own(call);
        if search.own == Own::Draining
            && !order.is_empty()
            && let Some(own) = own
        {
            // If the call is there, it is handed over now, so that all of it goes on elsewhere.
            self.upstreams.ask(own, &request).await;
        }
        let mut refusal = search.refusal;
        for at in order {
            match self.upstreams.ask(at, &request).await {
                Outcome::Answered(answer) if is_final(answer.status) => {
                    self.joined(at, &answer);
                    return Ok(answer.into_response());
                }
                Outcome::Answered(answer) => refusal = Some(worse(refusal, answer)),
                // It may have made it.
                Outcome::Silent => return Err(no_node("the node that was to take the call does not answer")),
                Outcome::Gone => {}
            }
        }
        refusal.map(Answer::into_response).ok_or_else(|| no_node("no node takes this call now"))
    }

    /// Asks the nodes in the call's order to let somebody in.
    async fn search(&self, call: &CallId, request: &Request) -> Result<Answer, Search> {
        let own = self.upstreams.table().own(call);
        let mut search = Search { own: Own::Left, ended: false, silent: false, refusal: None };
        for at in self.live_for(call) {
            let answer = match self.upstreams.ask(at, request).await {
                Outcome::Answered(answer) if is_final(answer.status) => {
                    self.joined(at, &answer);
                    return Ok(answer);
                }
                Outcome::Answered(answer) => answer,
                Outcome::Gone => continue,
                Outcome::Silent => {
                    search.silent = true;
                    continue;
                }
            };
            search.ended |= answer.stands("ended");
            if own == Some(at) {
                search.own = match () {
                    () if answer.stands("moved") => Own::Left,
                    () if answer.draining => Own::Draining,
                    () => Own::Unknowing,
                };
            }
            search.refusal = Some(worse(search.refusal, answer));
        }
        Err(search)
    }

    /// Who may make the call again, in order.
    fn makers(&self, call: &CallId, own: Own) -> Vec<usize> {
        let table = self.upstreams.table();
        let mut order = table.for_call(call);
        let is_own = |at: usize| table.own(call) == Some(at);
        match own {
            // It alone knows whether it was restarted since.
            Own::Unknowing => order.retain(|at| is_own(*at)),
            Own::Draining => order.retain(|at| !is_own(*at)),
            Own::Left => {}
        }
        order.retain(|at| table.is_live(*at) && !table.drains(*at));
        order
    }

    fn joined(&self, at: usize, answer: &Answer) {
        if answer.status == StatusCode::CREATED {
            self.upstreams.table().gave_join(at);
        }
    }
}

/// Whether a node's answer to a join is the client's: the call is there, or the request is no good anywhere.
fn is_final(status: StatusCode) -> bool {
    status != StatusCode::NOT_FOUND && status != StatusCode::SERVICE_UNAVAILABLE
}

/// Of two refusals the one to pass on: that a call is unknown says less than that a node cannot take it now.
fn worse(first: Option<Answer>, second: Answer) -> Answer {
    match first {
        Some(first) if second.status == StatusCode::NOT_FOUND => first,
        _ => second,
    }
}
