//! Web pages of other origins (CORS): who may call the API from a browser, and what it may read of the answers.
//!
//! A layer of our own: the list is known at start, nothing here uses cookies, and what WHIP needs (RFC 9725: `Location`,
//! `ETag` and `Link` to be readable, `PATCH` and `If-Match` to be sent) is the same for every route. Refusals get the
//! same headers, so that a page can read the problem document.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a page may send.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE, OPTIONS");

/// With which headers.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static("Authorization, Content-Type, If-Match");

/// What it may read of an answer, beyond what every page may.
const ANSWER_HEADERS: HeaderValue =
    HeaderValue::from_static("Location, ETag, Accept-Patch, Link, Retry-After, WWW-Authenticate");

/// How many seconds a browser remembers the answer to its preflight. Longer saves requests; a changed list is seen later.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("3600");

/// An origin as browsers send it, such as `https://app.alpha.test`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// The origins that may call the API.
pub(super) type Origins = Arc<[Origin]>;

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b);
        let good = text == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain));
        HeaderValue::from_str(text).ok().filter(|_| good).map(Self).ok_or_else(|| {
            format!(
                "expected an origin in lower case and without a path, such as \"https://app.alpha.test\", or \"*\", \
                 found `{text}`"
            )
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Answers preflights, and lets pages of listed origins read answers.
pub(super) async fn layer(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let allowed = request.headers().get(ORIGIN).and_then(|origin| allowed(&origins, origin));
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        if preflight {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
        }
    }
    response
}

fn allowed(origins: &[Origin], origin: &HeaderValue) -> Option<HeaderValue> {
    let listed = origins.iter().find(|listed| listed.0 == "*" || listed.0 == origin)?;
    Some(listed.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_no_path() {
        for good in ["https://app.alpha.test", "http://localhost:3000", "https://[2001:db8::1]:8443", "*"] {
            assert_eq!(good.parse::<Origin>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "app.alpha.test",
            "https://",
            "https://a.test/",
            "https://A.test",
            "https://a.test b",
            "null",
        ] {
            assert!(bad.parse::<Origin>().unwrap_err().starts_with("expected an origin"), "{bad}");
        }
    }

    #[test]
    fn only_listed_origins_are_allowed_and_a_star_is_any() {
        let origins: Vec<Origin> = vec!["https://a.test".parse().unwrap()];
        let value = HeaderValue::from_static;
        assert_eq!(allowed(&origins, &value("https://a.test")), Some(value("https://a.test")));
        assert_eq!(allowed(&origins, &value("https://a.test.evil.test")), None);
        assert_eq!(allowed(&["*".parse().unwrap()], &value("https://b.test")), Some(value("*")));
        assert_eq!(allowed(&[], &value("https://a.test")), None);
    }
}
