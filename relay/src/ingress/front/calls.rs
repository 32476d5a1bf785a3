//! Creating and listing calls, and requests about one call or one session.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request as Incoming, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use trunkline_http::auth::source;
use trunkline_http::extract::{announced_length, read_body};
use trunkline_http::problem::{NOT_FOUND, Problem, TIMEOUT};

use super::limits::BODY_MAX;
use super::message::{Answer, Outcome, Request};
use super::{Front, Room, no_node};
use crate::api::limits::JSON_BYTES_MAX;
use crate::node::{CallId, SessionId};
use crate::sdp::OFFER_BYTES_MAX;

/// `/v1/calls`
pub(super) async fn all(State(front): State<Arc<Front>>, request: Incoming) -> Result<Response, Problem> {
    let (request, _room) = front.buffered(request, "/v1/calls".to_owned(), JSON_BYTES_MAX).await?;
    match request.method {
        Method::POST => front.create(&request).await,
        Method::GET => front.list(&request).await,
        _ => front.any_node(&request).await,
    }
}

/// `/v1/calls/{call}`
pub(super) async fn one(
    State(front): State<Arc<Front>>,
    Path(call): Path<String>,
    request: Incoming,
) -> Result<Response, Problem> {
    let call = call_id(&call)?;
    let (request, _room) = front.buffered(request, call_path(&call), JSON_BYTES_MAX).await?;
    let request = request.about_call();
    match request.method {
        Method::DELETE => front.end(&call, &request).await,
        Method::OPTIONS => front.any_node(&request).await,
        _ => front.about(&call, &request).await,
    }
}

/// `/v1/calls/{call}/tokens`
pub(super) async fn tokens(
    State(front): State<Arc<Front>>,
    Path(call): Path<String>,
    request: Incoming,
) -> Result<Response, Problem> {
    let call = call_id(&call)?;
    let path = format!("{}/tokens", call_path(&call));
    let (request, _room) = front.buffered(request, path, JSON_BYTES_MAX).await?;
    if request.method == Method::OPTIONS {
        return front.any_node(&request).await;
    }
    front.about(&call, &request.about_call()).await
}

/// `/v1/calls/{call}/participants/{session}`
pub(super) async fn session(
    State(front): State<Arc<Front>>,
    Path((call, session)): Path<(String, String)>,
    request: Incoming,
) -> Result<Response, Problem> {
    let call = call_id(&call)?;
    let path = session_path(&call, &session_id(&session)?);
    let (request, _room) = front.buffered(request, path, OFFER_BYTES_MAX).await?;
    if request.method == Method::OPTIONS {
        return front.any_node(&request).await;
    }
    front.about(&call, &request.about_call()).await
}

/// A call's id. One that no node gave out names no call.
pub(super) fn call_id(text: &str) -> Result<CallId, Problem> {
    text.parse().map_err(|_| no_call())
}

/// A session's id. It could be anything that stands in a path, so that it must not be passed on unseen.
pub(super) fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse().map_err(|_| Problem::new(NOT_FOUND, "there is no such participant, any more: join again"))
}

pub(super) fn no_call() -> Problem {
    Problem::new(NOT_FOUND, "there is no such call, any more")
}

/// The path of a call at a node. It is made from what was understood, not passed on as it came: the node could
/// understand something else.
pub(super) fn call_path(call: &CallId) -> String {
    format!("/v1/calls/{call}")
}

/// The path of a session at a node.
pub(super) fn session_path(call: &CallId, session: &SessionId) -> String {
    format!("{}/participants/{}", call_path(call), session.expose())
}

impl Front {
    /// The whole request, so that it can go to more than one node, and the room that it takes.
    pub(super) async fn buffered(
        &self,
        request: Incoming,
        path: String,
        bytes_max: usize,
    ) -> Result<(Request, Room<'_>), Problem> {
        let (parts, body) = request.into_parts();
        let client = source(&parts.extensions);
        let kept = parts.clone();
        if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            let room = self.admit(0)?;
            return Ok((Request::new(&kept, path, Bytes::new(), client), room));
        }
        let room = self.admit(announced_length(&parts.headers).unwrap_or(bytes_max).min(bytes_max))?;
        let reading = read_body(Incoming::from_parts(parts, body), bytes_max);
        let body = tokio::time::timeout(BODY_MAX, reading).await.map_err(|_| {
            let detail = format!("the body was not here after {} s: send less at a time", BODY_MAX.as_secs());
            Problem::new(TIMEOUT, detail)
        })??;
        Ok((Request::new(&kept, path, body, client), room))
    }

    /// Asks the least busy node for a call, and the next one when it does not take it.
    async fn create(&self, request: &Request) -> Result<Response, Problem> {
        let order = self.upstreams.table().for_new_call();
        let mut refusal = None;
        for at in order {
            // Counted before the answer is there: others ask at the same time.
            self.upstreams.table().gave_call(at);
            match self.upstreams.ask(at, request).await {
                Outcome::Answered(answer) if !is_full(answer.status) => return Ok(answer.into_response()),
                Outcome::Answered(answer) => refusal = Some(answer),
                Outcome::Gone | Outcome::Silent => {}
            }
        }
        refusal.map(Answer::into_response).ok_or_else(|| no_node("no node takes calls now"))
    }

    /// The calls of all nodes.
    async fn list(&self, request: &Request) -> Result<Response, Problem> {
        let live = self.upstreams.table().live();
        let outcomes = join_all(live.into_iter().map(|at| self.upstreams.ask(at, request))).await;
        let mut lists = Vec::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Answered(answer) if answer.status == StatusCode::OK => {
                    lists.extend(serde_json::from_slice::<Value>(&answer.body).ok());
                }
                // Whoever may not see one node's may see nobody's.
                Outcome::Answered(answer) => return Ok(answer.into_response()),
                Outcome::Gone | Outcome::Silent => {}
            }
        }
        if lists.is_empty() {
            Err(no_node("no node answers"))
        } else {
            Ok(Json(merged(lists)).into_response())
        }
    }

    /// Ends a call wherever it is: it may be at one node while people leave another.
    async fn end(&self, call: &CallId, request: &Request) -> Result<Response, Problem> {
        let order = self.live_for(call);
        let outcomes = join_all(order.into_iter().map(|at| self.upstreams.ask(at, request))).await;
        let mut best: Option<Answer> = None;
        let mut silent = false;
        for outcome in outcomes {
            match outcome {
                Outcome::Answered(answer) => {
                    let better = best.as_ref().is_none_or(|best| {
                        !best.status.is_success()
                            && (answer.status.is_success() || best.status == StatusCode::NOT_FOUND)
                    });
                    if better {
                        best = Some(answer);
                    }
                }
                Outcome::Silent => silent = true,
                Outcome::Gone => {}
            }
        }
        match best {
            Some(answer) if !silent || answer.status != StatusCode::NOT_FOUND => Ok(answer.into_response()),
            _ if silent => Err(no_node("a node that may have this call does not answer")),
            _ => Err(no_call()),
        }
    }

    /// Asks the nodes in the call's order, until one has what is asked for.
    async fn about(&self, call: &CallId, request: &Request) -> Result<Response, Problem> {
        let (mut unknown, mut moved, mut silent) = (None, None, false);
        for at in self.live_for(call) {
            match self.upstreams.ask(at, request).await {
                Outcome::Answered(answer) if answer.status == StatusCode::NOT_FOUND => unknown = Some(answer),
                // What is left of a call there says little of it. A session is only there, and not a matter of this.
                Outcome::Answered(answer) if answer.stands("moved") && is_about_call(request) => {
                    moved = moved.or(Some(answer));
                }
                Outcome::Answered(answer) => return Ok(answer.into_response()),
                Outcome::Silent => silent = true,
                Outcome::Gone => {}
            }
        }
        if let Some(answer) = moved {
            return Ok(answer.into_response());
        }
        if silent {
            return Err(no_node("a node that may have this call does not answer"));
        }
        Ok(unknown.map_or_else(|| no_call().into_response(), Answer::into_response))
    }

    /// Asks whichever node answers: what is asked for is the same at each.
    pub(super) async fn any_node(&self, request: &Request) -> Result<Response, Problem> {
        let live = self.upstreams.table().live();
        for at in live {
            if let Outcome::Answered(answer) = self.upstreams.ask(at, request).await {
                return Ok(answer.into_response());
            }
        }
        Err(no_node("no node answers"))
    }

    /// Live nodes in the call's order.
    pub(super) fn live_for(&self, call: &CallId) -> Vec<usize> {
        let table = self.upstreams.table();
        let mut order = table.for_call(call);
        order.retain(|at| table.is_live(*at));
        order
    }
}

/// Whether a request is about a call itself, and not about a session in it.
fn is_about_call(request: &Request) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    !path.contains("/participants/")
}

/// Whether a node's refusal of a call says that another may take it.
fn is_full(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::CONFLICT
}

/// One list of calls. One that is being handed over is at two nodes: it is listed once, with the people at both.
fn merged(lists: Vec<Value>) -> Value {
    let mut calls: BTreeMap<String, Value> = BTreeMap::new();
    let (mut participants, mut draining, mut workers) = (0_u64, true, Vec::new());
    for mut list in lists {
        participants = list["participants"].as_u64().unwrap_or_default().saturating_add(participants);
        draining &= list["draining"].as_bool().unwrap_or_default();
        workers.extend(list["workers"].as_array().into_iter().flatten().cloned());
        // What is no list of objects is nothing that a node says.
        let Some(listed) = list.get_mut("calls").and_then(Value::as_array_mut) else { continue };
        for mut call in listed.drain(..).filter(Value::is_object) {
            let id = call["call_id"].as_str().unwrap_or_default().to_owned();
            let here = call["participants"].as_u64().unwrap_or_default();
            match calls.get_mut(&id) {
                None => {
                    calls.insert(id, call);
                }
                Some(other) => {
                    let there = other["participants"].as_u64().unwrap_or_default();
                    if other["moved"] == true {
                        std::mem::swap(other, &mut call);
                    }
                    other["participants"] = json!(here.saturating_add(there));
                }
            }
        }
    }
    let calls: Vec<Value> = calls.into_values().collect();
    json!({ "calls": calls, "participants": participants, "draining": draining, "workers": workers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_of_calls_is_left_out_of_the_list_of_all() {
        let call = json!({ "call_id": "a", "participants": u64::MAX });
        let good = json!({ "calls": [call], "participants": 3, "draining": false, "workers": [] });
        let worse = json!({ "calls": [1, null, [], "b", call], "participants": u64::MAX, "workers": 7 });
        let lists = vec![json!([]), json!("x"), json!(7), Value::Null, json!({ "calls": 1 }), good, worse];
        let list = merged(lists);
        assert_eq!(list["calls"], json!([call]));
        assert_eq!(list["participants"], json!(u64::MAX));
    }

    #[test]
    fn a_call_at_two_nodes_is_listed_once_with_all_its_people() {
        let call = |id: &str, participants: u64| json!({ "call_id": id, "participants": participants });
        let mut shell = call("b", 2);
        shell["moved"] = json!(true);
        let first = json!({
            "calls": [call("a", 1), shell], "participants": 3, "draining": true, "workers": [0.5] });
        let second =
            json!({ "calls": [call("b", 4)], "participants": 4, "draining": false, "workers": [0.25] });
        for lists in [[first.clone(), second.clone()], [second, first]] {
            let list = merged(lists.into());
            assert_eq!(list["calls"], json!([call("a", 1), call("b", 6)]));
            assert_eq!((&list["participants"], &list["draining"]), (&json!(7), &json!(false)));
        }
    }
}
