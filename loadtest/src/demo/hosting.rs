//! Calls that a deployment hosts: made at its relay, through the ingress, by its messaging server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, Notify};

use super::directory::Directory;
use crate::error::LoadError;
use crate::fleet;
use crate::http::{Client, Media};

/// People on one call.
const PARTICIPANTS_MAX: u32 = 12;

/// Calls that one person may have at a time; the oldest is ended for the next. More lets somebody who starts them for fun
/// take more of the relay.
const CALLS_OF_ONE_MAX: usize = 8;

/// How often the relay is asked which calls are on, while there are any. More often tells people sooner that one is
/// over.
const LOOK: Duration = Duration::from_secs(2);

/// In how many lists on end a call must be missing to be over. One that goes from node to node may be missing in one.
const MISSED_MAX: u32 = 2;

/// How long a relay may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A call, as who made it is told.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Made {
    /// Its id.
    pub(crate) call_id: String,
    /// Where its media goes, as envelopes of kind `call` say it.
    pub(crate) calluri: String,
    /// The page that joins it.
    pub(crate) page: String,
    /// What lets its maker in.
    pub(crate) token: String,
}

/// The relay of a deployment.
pub(crate) struct Hosting {
    ingress: SocketAddr,
    admin: Mutex<Client>,
    /// Those that are on, as far as is known; the oldest first.
    made: Mutex<Vec<Call>>,
    /// Told when there is one more.
    started: Notify,
    /// Held by whoever makes a call: people do not pass each other between counting and making.
    starting: Mutex<()>,
    open_call: Mutex<OpenCall>,
}

/// A call that is on.
struct Call {
    id: String,
    maker: String,
    missed: u32,
}

/// The call that anybody with its link may join.
#[derive(Default)]
struct OpenCall {
    id: Option<String>,
    guests: u32,
}

impl Hosting {
    /// Behind an ingress, with the node's admin token.
    pub(crate) fn new(ingress: SocketAddr, token: &str) -> Self {
        let admin = Mutex::new(Client::new(ingress, token));
        Self {
            ingress,
            admin,
            made: Mutex::default(),
            started: Notify::new(),
            starting: Mutex::default(),
            open_call: Mutex::default(),
        }
    }

    /// The page that joins calls.
    pub(crate) fn page(&self) -> String {
        format!("http://{}/call", self.ingress)
    }

    /// Makes a call for somebody, who has no more than [`CALLS_OF_ONE_MAX`] then.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn start(&self, directory: &Directory, who: &str) -> Result<Made, LoadError> {
        let _turn = self.starting.lock().await;
        while let Some(oldest) = self.one_too_many(who).await {
            self.end(directory, &oldest).await?;
        }
        let (call_id, calluri) = self.create().await?;
        // From now on it is known, so that it is ended with the others even if nobody gets a token.
        self.made.lock().await.push(Call { id: call_id.clone(), maker: who.to_owned(), missed: 0 });
        self.started.notify_one();
        let token = self.mint(&call_id, who).await?;
        Ok(Made { call_id, calluri, page: self.page(), token })
    }

    /// Who made a call. `None` when there is no such call, or it is over.
    pub(crate) async fn maker_of(&self, call: &str) -> Option<String> {
        self.made.lock().await.iter().find(|made| made.id == call).map(|made| made.maker.clone())
    }

    /// A join token for somebody whom the call's maker invites.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn invite(&self, call: &str, who: &str) -> Result<String, LoadError> {
        self.mint(call, who).await
    }

    /// Ends a call, and tells its maker's page.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn end(&self, directory: &Directory, call: &str) -> Result<(), LoadError> {
        match self.ask(Method::DELETE, &format!("/v1/calls/{call}"), None).await {
            // It may have ended by itself.
            Ok(_) | Err(LoadError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        let mut made = self.made.lock().await;
        if let Some(at) = made.iter().position(|made| made.id == call) {
            tell(directory, &made.remove(at));
        }
        Ok(())
    }

    /// Notices calls that end by themselves or by an operator, and tells their makers' pages, until it is dropped. Asks
    /// nothing while there are none.
    pub(crate) async fn watch(&self, directory: &Directory) {
        loop {
            if self.made.lock().await.is_empty() {
                self.started.notified().await;
                continue;
            }
            tokio::time::sleep(LOOK).await;
            self.look(directory).await;
        }
    }

    async fn look(&self, directory: &Directory) {
        // Before it is asked: a call that is made meanwhile need not be in the answer.
        let known: HashSet<_> = self.made.lock().await.iter().map(|made| made.id.clone()).collect();
        // A relay that does not answer says nothing about its calls.
        let Ok(answer) = self.ask(Method::GET, "/v1/calls", None).await else { return };
        let Some(on) = listed(&answer) else { return };
        let mut made = self.made.lock().await;
        made.iter_mut().filter(|call| known.contains(&call.id)).for_each(|call| call.look(&on));
        for call in made.extract_if(.., |call| call.missed >= MISSED_MAX) {
            tell(directory, &call);
        }
    }

    /// The oldest call of somebody who has as many as one may.
    async fn one_too_many(&self, who: &str) -> Option<String> {
        let made = self.made.lock().await;
        let mut theirs = made.iter().filter(|made| made.maker == who);
        let oldest = theirs.next()?;
        (theirs.count() + 1 >= CALLS_OF_ONE_MAX).then(|| oldest.id.clone())
    }

    /// Where one more guest joins the open call, which is made when there is none, or none any more.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn join_open_call(&self) -> Result<String, LoadError> {
        let mut open = self.open_call.lock().await;
        open.guests = open.guests.wrapping_add(1);
        let name = format!("Guest {}", open.guests);
        if let Some(id) = open.id.clone() {
            match self.mint(&id, &name).await {
                Err(LoadError::Refused { status: 404, .. }) => {}
                token => return Ok(format!("{}?call={id}&token={}", self.page(), token?)),
            }
        }
        let (id, _) = self.create().await?;
        open.id = Some(id.clone());
        let token = self.mint(&id, &name).await?;
        Ok(format!("{}?call={id}&token={token}", self.page()))
    }

    /// Makes the open call, so that it is seen before anybody joins.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn open(&self) -> Result<(), LoadError> {
        let (id, _) = self.create().await?;
        self.open_call.lock().await.id = Some(id);
        Ok(())
    }

    async fn create(&self) -> Result<(String, String), LoadError> {
        let request = json!({ "max_participants": PARTICIPANTS_MAX });
        let made = self.ask(Method::POST, "/v1/calls", Some(&request)).await?;
        Ok((text(&made, "call_id")?, text(&made, "calluri")?))
    }

    async fn mint(&self, call: &str, who: &str) -> Result<String, LoadError> {
        let path = format!("/v1/calls/{call}/tokens");
        text(&self.ask(Method::POST, &path, Some(&json!({ "participant": who }))).await?, "token")
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, LoadError> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let asked = async {
            let mut admin = self.admin.lock().await;
            let answer = admin.call(method, path, Media::Json, body).await?;
            fleet::parse(path, &answer)
        };
        let waited = ANSWERED_WITHIN;
        tokio::time::timeout(waited, asked)
            .await
            .map_err(|_| LoadError::TimedOut { what: "the relay's answer".to_owned(), waited })?
    }
}

impl Call {
    /// Counts lists on end that it is missing in.
    fn look(&mut self, on: &HashSet<&str>) {
        self.missed = if on.contains(self.id.as_str()) { 0 } else { self.missed.saturating_add(1) };
    }
}

/// The calls in a list of the relay's. `None` when it is no list.
fn listed(answer: &Value) -> Option<HashSet<&str>> {
    let calls = answer.get("calls")?.as_array()?;
    Some(calls.iter().filter_map(|call| call.get("call_id")?.as_str()).collect())
}

/// Tells the page of a call's maker that it is over.
fn tell(directory: &Directory, call: &Call) {
    if let Some(maker) = directory.by_address(&call.maker) {
        let fields = Map::from_iter([("call_id".to_owned(), json!(call.id))]);
        maker.mailbox.put("call-over", fields);
    }
}

fn text(answer: &Value, name: &str) -> Result<String, LoadError> {
    let value = answer.get(name).and_then(Value::as_str).map(str::to_owned);
    value.ok_or_else(|| LoadError::Answer { request: "the relay".to_owned(), why: format!("no {name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_when_it_is_missing_twice_on_end() {
        let (with, without) = (json!({ "calls": [{ "call_id": "a" }] }), json!({ "calls": [] }));
        let mut call = Call { id: "a".to_owned(), maker: "ann@alpha.test".to_owned(), missed: 0 };
        for (answer, missed) in [(&without, 1), (&with, 0), (&without, 1), (&without, MISSED_MAX)] {
            call.look(&listed(answer).expect("it is a list"));
            assert_eq!(call.missed, missed, "{answer}");
        }
        assert_eq!(listed(&json!({ "calls": 7 })), None);
    }

    #[tokio::test]
    async fn everybody_has_a_limit_of_their_own() {
        let hosting = Hosting::new(([127, 0, 0, 1], 9).into(), "");
        for number in 0..CALLS_OF_ONE_MAX {
            assert_eq!(hosting.one_too_many("amir@alpha.test").await, None);
            let call = Call { id: number.to_string(), maker: "amir@alpha.test".to_owned(), missed: 0 };
            hosting.made.lock().await.push(call);
        }
        assert_eq!(hosting.one_too_many("amir@alpha.test").await.as_deref(), Some("0"));
        assert_eq!(hosting.one_too_many("ann@alpha.test").await, None);
    }
}
