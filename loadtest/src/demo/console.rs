//! The first log-in to a deployment's console, which its administrator does once: the password that `init` made is for
//! that only, and a new one is set.

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use trunkline_common::token;
use trunkline_gateway::init::ADMIN_PASSWORD_FILE;

use crate::error::LoadError;
use crate::fleet;
use crate::gateway::{self, Gateway};
use crate::http::{Client, Media};

/// The administrator that `init` makes.
pub(crate) const ADMINISTRATOR: &str = "admin";

/// Letters and digits of a password made here, without those that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Groups of a password, of [`GROUP_CHARS`] each: 100 bits, and still something that can be typed.
const GROUPS: usize = 5;
const GROUP_CHARS: usize = 4;

/// Where the token against requests from elsewhere goes.
const CSRF: HeaderName = HeaderName::from_static("x-trunkline-csrf");

/// Logs in for the first time and sets a new password, which is answered.
///
/// # Errors
/// When the gateway does not take what `init` wrote.
pub(crate) async fn first_login(gateway: &Gateway) -> Result<String, LoadError> {
    let first = gateway::token(&gateway.dir.join(ADMIN_PASSWORD_FILE))?;
    let client = Client::without_token(gateway.addresses.admin);
    let mut session = Session { client, headers: HeaderMap::new() };
    session.log_in(&first).await?;
    let new = password();
    session.ask(Method::POST, "/admin/v1/session/password", &json!({ "old": first, "new": new })).await?;
    session.ask(Method::DELETE, "/admin/v1/session", &Value::Null).await?;
    Ok(new)
}

struct Session {
    client: Client,
    headers: HeaderMap,
}

impl Session {
    async fn log_in(&mut self, password: &str) -> Result<(), LoadError> {
        let path = "/admin/v1/session";
        let request = json!({ "name": ADMINISTRATOR, "password": password });
        let (headers, answer) = self.ask(Method::POST, path, &request).await?;
        let wrong = |why: &str| LoadError::Answer { request: format!("POST {path}"), why: why.to_owned() };
        let cookie = headers.get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).ok_or_else(|| wrong("no cookie"))?;
        let csrf = answer.get("csrf").and_then(Value::as_str).ok_or_else(|| wrong("no csrf"))?;
        for (name, value) in [(COOKIE, cookie), (CSRF, csrf)] {
            let value = HeaderValue::from_str(value).map_err(|_| wrong("what no header can carry"))?;
            self.headers.insert(name, value);
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(HeaderMap, Value), LoadError> {
        let request = format!("{method} {path}");
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let headers = self.headers.clone();
        let (status, headers, answer) = self.client.ask(method, path, Media::Json, headers, body).await?;
        if status.is_success() && status != StatusCode::ACCEPTED {
            return Ok((headers, fleet::parse(&request, &answer)?));
        }
        let body = String::from_utf8_lossy(&answer).into_owned();
        Err(LoadError::Refused { request, status: status.as_u16(), body })
    }
}

/// A new password: random, and typed without trouble.
fn password() -> String {
    let random = token::random::<{ GROUPS * GROUP_CHARS }>();
    let letters =
        random.map(|byte| ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied().unwrap_or(b'x'));
    let groups = letters.chunks(GROUP_CHARS).map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_long_enough_and_another_each_time() {
        let (one, other) = (password(), password());
        assert!((12..=128).contains(&one.len()));
        assert_ne!(one, other);
    }
}
