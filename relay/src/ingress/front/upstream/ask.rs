//! Asking a node, for as long as it may live.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use reqwest::Url;

use super::super::limits::{ANSWER_BYTES_MAX, ANSWER_MAX};
use super::super::message::{Answer, Outcome, Request};
use super::Upstreams;

impl Upstreams {
    fn refused(&self, at: usize) {
        self.table().refused(at);
        self.publish(at);
    }

    /// Asks a node, for as long as it may live.
    pub(in super::super) async fn ask(&self, at: usize, request: &Request) -> Outcome {
        let asking = async |upstreams: &Self| {
            let mut again = true;
            loop {
                match upstreams.ask_once(at, request).await {
                    Ok(Some(answer)) if answer.answers(request) => return Outcome::Answered(answer),
                    Ok(_) => return Outcome::Silent,
                    Err(error) if is_refused(&error) => {
                        upstreams.refused(at);
                        return Outcome::Gone;
                    }
                    // A connection from the pool may have been closed just now; a node that died refuses the next one.
                    // What may have been done must not be done twice.
                    Err(error)
                        if (request.method.is_idempotent() || error.is_connect())
                            && std::mem::take(&mut again) => {}
                    Err(_) => return upstreams.after_break(at).await,
                }
            }
        };
        let outcome = self.while_alive(at, ANSWER_MAX, asking(self)).await.unwrap_or_else(|outcome| outcome);
        self.heard(at, &outcome);
        outcome
    }

    /// A connection broke with a request on it: whether the node went with it.
    async fn after_break(&self, at: usize) -> Outcome {
        self.poll(at).await;
        if self.table().is_live(at) { Outcome::Silent } else { Outcome::Gone }
    }

    /// What came of a request says how the node is, beside what it says when polled.
    fn heard(&self, at: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(_) => self.table().answered(at),
            Outcome::Silent => self.table().was_silent(at),
            Outcome::Gone => {}
        }
    }

    /// Runs something that a node does, for as long as it may live.
    async fn while_alive<T>(
        &self,
        at: usize,
        most: Duration,
        asking: impl Future<Output = T>,
    ) -> Result<T, Outcome> {
        let Some(mut life) = self.life(at) else { return Err(Outcome::Gone) };
        tokio::select! {
            done = asking => Ok(done),
            _ = life.wait_for(|live| !*live) => Err(Outcome::Gone),
            () = tokio::time::sleep(most) => {
                self.doubt(at);
                Err(Outcome::Silent)
            }
        }
    }

    async fn ask_once(&self, at: usize, request: &Request) -> reqwest::Result<Option<Answer>> {
        let Some(node) = self.node(at) else { return Ok(None) };
        let asked = self.http.request(request.method.clone(), at_path(&node.api, &request.target));
        let mut response = asked.headers(request.headers.clone()).body(request.body.clone()).send().await?;
        let status = response.status();
        let body = read(&mut response, ANSWER_BYTES_MAX).await?;
        Ok(body.map(|body| Answer::new(status, response.headers(), body)))
    }

    /// Opens a WebSocket to a node.
    pub(in super::super) async fn upgrade(
        &self,
        at: usize,
        request: &Request,
    ) -> Result<reqwest::Upgraded, Outcome> {
        let Some(node) = self.node(at) else { return Err(Outcome::Gone) };
        let key = tokio_tungstenite::tungstenite::handshake::client::generate_key();
        let opening = async {
            let asked = self.http.get(at_path(&node.api, &request.target)).headers(request.headers.clone());
            let mut response = asked
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_VERSION, "13")
                .header(header::SEC_WEBSOCKET_KEY, key)
                .send()
                .await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Ok(response.upgrade().await?));
            }
            let status = response.status();
            let body = read(&mut response, ANSWER_BYTES_MAX).await?.unwrap_or_default();
            Ok::<_, reqwest::Error>(Err(Answer::new(status, response.headers(), body)))
        };
        let opened =
            self.while_alive(at, ANSWER_MAX, opening).await.inspect_err(|outcome| self.heard(at, outcome))?;
        match opened {
            Ok(Ok(upgraded)) => {
                self.table().answered(at);
                Ok(upgraded)
            }
            Ok(Err(answer)) if answer.answers(request) => Err(Outcome::Answered(answer)),
            Ok(Err(_)) => Err(Outcome::Silent),
            Err(error) if is_refused(&error) => {
                self.refused(at);
                Err(Outcome::Gone)
            }
            Err(_) => {
                self.doubt(at);
                Err(Outcome::Silent)
            }
        }
    }
}

/// The body, unless it is too long.
pub(super) async fn read(
    response: &mut reqwest::Response,
    bytes_max: usize,
) -> reqwest::Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// A path at a node. The configuration gives scheme, host and port only.
pub(super) fn at_path(api: &Url, target: &str) -> Url {
    let mut url = api.clone();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    url.set_path(path);
    url.set_query(query);
    url
}

/// Whether nobody listens there.
pub(super) fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::super::Upstream;
    use super::*;

    /// A node that says how it is, and breaks the connection off at any other request. Tells how often.
    async fn breaking_off() -> (Upstream, watch::Receiver<u32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (broken, asked) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
                if head.starts_with(b"GET /healthz") {
                    let health = r#"{"status":"alive","node":1,"draining":false,"calls":0,"calls_max":1,"participants":0,"busy":0.0,"started_at":1}"#;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{health}",
                        health.len()
                    );
                    socket.write_all(answer.as_bytes()).await.unwrap();
                } else {
                    broken.send_modify(|times| *times += 1);
                }
            }
        });
        (Upstream { node: 1, api }, asked)
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_asked_for_twice() {
        let (node, asked) = breaking_off().await;
        let upstreams = Upstreams::new(vec![node], Vec::new(), None).unwrap();
        let request = |method| Request {
            method,
            target: "/v1/calls".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            about_call: false,
        };
        assert!(matches!(upstreams.ask(0, &request(Method::POST)).await, Outcome::Silent));
        assert_eq!(*asked.borrow(), 1);
        assert!(matches!(upstreams.ask(0, &request(Method::GET)).await, Outcome::Silent));
        assert_eq!(*asked.borrow(), 3);
    }

    #[test]
    fn a_path_is_taken_as_it_stands() {
        let api: Url = "http://127.0.0.1:8444".parse().unwrap();
        let url = at_path(&api, "/v1/calls/a%2Fb?x=1&y=%20");
        assert_eq!(url.as_str(), "http://127.0.0.1:8444/v1/calls/a%2Fb?x=1&y=%20");
    }
}
