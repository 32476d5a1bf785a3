//! Calls that a deployment hosts: made at its relay, through the ingress, by its messaging server.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::error::LoadError;
use crate::fleet;
use crate::http::{Client, Media};

/// People on one call.
const PARTICIPANTS_MAX: u32 = 12;

/// Calls whose makers are remembered.
const REMEMBERED_MAX: usize = 64;

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
    made: Mutex<VecDeque<(String, String)>>,
    open_call: Mutex<OpenCall>,
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
        Self { ingress, admin, made: Mutex::default(), open_call: Mutex::default() }
    }

    /// The page that joins calls.
    pub(crate) fn page(&self) -> String {
        format!("http://{}/call", self.ingress)
    }

    /// Makes a call for somebody.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn start(&self, who: &str) -> Result<Made, LoadError> {
        let (call_id, calluri) = self.create().await?;
        let token = self.mint(&call_id, who).await?;
        let mut made = self.made.lock().await;
        made.push_back((call_id.clone(), who.to_owned()));
        if made.len() > REMEMBERED_MAX {
            made.pop_front();
        }
        Ok(Made { call_id, calluri, page: self.page(), token })
    }

    /// A join token for somebody whom the call's maker invites. `None` when the call is not that one's.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn invite(
        &self,
        maker: &str,
        call: &str,
        who: &str,
    ) -> Result<Option<String>, LoadError> {
        if self.is_made_by(maker, call).await { self.mint(call, who).await.map(Some) } else { Ok(None) }
    }

    /// Ends a call. False when it is not that maker's.
    ///
    /// # Errors
    /// As the relay says.
    pub(crate) async fn end(&self, maker: &str, call: &str) -> Result<bool, LoadError> {
        if !self.is_made_by(maker, call).await {
            return Ok(false);
        }
        match self.ask(Method::DELETE, &format!("/v1/calls/{call}"), None).await {
            // It may have ended by itself.
            Ok(_) | Err(LoadError::Refused { status: 404, .. }) => Ok(true),
            Err(error) => Err(error),
        }
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

    async fn is_made_by(&self, maker: &str, call: &str) -> bool {
        self.made.lock().await.iter().any(|(id, who)| id == call && who == maker)
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

fn text(answer: &Value, name: &str) -> Result<String, LoadError> {
    let value = answer.get(name).and_then(Value::as_str).map(str::to_owned);
    value.ok_or_else(|| LoadError::Answer { request: "the relay".to_owned(), why: format!("no {name}") })
}
