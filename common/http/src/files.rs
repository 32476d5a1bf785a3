//! Pages that are part of the binary: static files with entity tags and a strict content security policy.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use trunkline_common::digest::sha256;

/// Bytes of a file's SHA-256 that make its entity tag. More makes nothing safer: only our own files are told apart.
const ETAG_BYTES: usize = 12;

/// `text/html`
pub const HTML: &str = "text/html; charset=utf-8";
/// `text/css`
pub const CSS: &str = "text/css; charset=utf-8";
/// `text/javascript`
pub const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// `image/svg+xml`
pub const SVG: &str = "image/svg+xml";

/// One file: its path, its media type, its content.
pub type File = (&'static str, &'static str, &'static str);

/// What the pages of one site may do. Scripts, styles, images and connections come from the site itself, and nothing
/// is inline; this says what is allowed beyond that.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Further directives of the content security policy, such as `media-src 'self' blob:`.
    pub directives: &'static str,
    /// Whether pages open WebSockets to the host they came from.
    pub sockets: bool,
    /// The `Permissions-Policy`.
    pub permissions: &'static str,
}

/// Headers that are the same for all.
const HEADERS: [(HeaderName, &str); 5] = [
    // Kept, but asked about each time: after an update nobody mixes old modules with new ones.
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Addresses of pages may carry tokens.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Serves files.
pub fn router<S: Clone + Send + Sync + 'static>(files: &'static [File], policy: Policy) -> Router<S> {
    files.iter().fold(Router::new(), |router, &(path, media_type, content)| {
        let etag = etag(content);
        router.route(
            path,
            get(async move |headers: HeaderMap| answer(&headers, media_type, &etag, content, policy)),
        )
    })
}

fn answer(
    request: &HeaderMap,
    media_type: &'static str,
    etag: &HeaderValue,
    content: &'static str,
    policy: Policy,
) -> Response {
    let known = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::ETAG, etag.clone());
    let host = request.get(header::HOST).filter(|_| policy.sockets);
    headers.insert(header::CONTENT_SECURITY_POLICY, content_security_policy(policy.directives, host));
    headers
        .insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(policy.permissions));
    for (name, value) in HEADERS {
        headers.insert(name.clone(), HeaderValue::from_static(value));
    }
    response
}

/// Whether a list of entity tags names this one. A weak tag will do for GET.
fn names(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag))
        .any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
}

fn etag(content: &str) -> HeaderValue {
    let hash = sha256(content.as_bytes());
    let tag = URL_SAFE_NO_PAD.encode(hash.get(..ETAG_BYTES).unwrap_or_default());
    HeaderValue::from_str(&format!("\"{tag}\"")).expect("base64 may stand in a header")
}

/// Nothing from elsewhere, nothing inline. Not every browser takes `'self'` to mean WebSockets too, so the host the
/// page was asked from is named where pages open them.
fn content_security_policy(directives: &str, host: Option<&HeaderValue>) -> HeaderValue {
    let sockets = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)))
        .map(|host| format!(" ws://{host} wss://{host}"))
        .unwrap_or_default();
    let further = if directives.is_empty() { String::new() } else { format!("; {directives}") };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{sockets}; img-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'{further}"
    );
    HeaderValue::from_str(&policy).expect("the host was looked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { directives: "worker-src 'self'", sockets: true, permissions: "geolocation=()" };

    fn request(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let tag = etag("content");
        let text = tag.to_str().unwrap();
        for (tags, status) in
            [(text, 304), (&format!("\"x\", W/{text}"), 304), ("*", 304), ("\"other\"", 200)]
        {
            let request = request(&[(header::IF_NONE_MATCH, tags)]);
            assert_eq!(answer(&request, HTML, &tag, "content", POLICY).status().as_u16(), status, "{tags}");
        }
    }

    #[test]
    fn the_policy_names_the_host_for_sockets_unless_it_is_no_host() {
        let policy = |host: &str| {
            let answer = answer(&request(&[(header::HOST, host)]), HTML, &etag(""), "", POLICY);
            answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
        };
        assert!(
            policy("relay.test:8444")
                .contains("connect-src 'self' ws://relay.test:8444 wss://relay.test:8444;")
        );
        assert!(policy("evil; script-src *").contains("connect-src 'self';"));
        assert!(policy("relay.test").ends_with("; worker-src 'self'"));
    }
}
