//! The example client: a page at `/call`, its modules and styles under `/call/`. All of it is in the binary.

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Bytes of a file's SHA-256 that make its entity tag. More makes nothing safer: only our own files are told apart.
const ETAG_BYTES: usize = 12;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Everything that may be asked for: path, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("/call", HTML, include_str!("../web/index.html")),
    ("/call/style.css", CSS, include_str!("../web/style.css")),
    ("/call/icon.svg", SVG, include_str!("../web/icon.svg")),
    ("/call/call.js", JAVASCRIPT, include_str!("../web/call.js")),
    ("/call/link.js", JAVASCRIPT, include_str!("../web/link.js")),
    ("/call/tiles.js", JAVASCRIPT, include_str!("../web/tiles.js")),
    ("/call/trunkline-client.js", JAVASCRIPT, include_str!("../web/trunkline-client.js")),
    ("/call/api.js", JAVASCRIPT, include_str!("../web/api.js")),
    ("/call/session.js", JAVASCRIPT, include_str!("../web/session.js")),
    ("/call/pulse.js", JAVASCRIPT, include_str!("../web/pulse.js")),
    ("/call/media.js", JAVASCRIPT, include_str!("../web/media.js")),
    ("/call/encryption.js", JAVASCRIPT, include_str!("../web/encryption.js")),
    ("/call/stats.js", JAVASCRIPT, include_str!("../web/stats.js")),
    ("/call/sframe.js", JAVASCRIPT, include_str!("../web/sframe.js")),
    ("/call/sframe-worker.js", JAVASCRIPT, include_str!("../web/sframe-worker.js")),
];

/// Headers that are the same for all.
const HEADERS: [(HeaderName, &str); 6] = [
    // Kept, but asked about each time: after an update nobody mixes old modules with new ones.
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Links to calls carry join tokens.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(self), microphone=(self), display-capture=(self), autoplay=(self), fullscreen=(self), \
         geolocation=(), payment=(), usb=()",
    ),
];

/// Serves the example client at `/call`. It finds the API at the same origin.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, media_type, content)| {
        let etag = etag(content);
        router.route(path, get(async move |headers: HeaderMap| answer(&headers, media_type, &etag, content)))
    })
}

fn answer(
    request: &HeaderMap,
    media_type: &'static str,
    etag: &HeaderValue,
    content: &'static str,
) -> Response {
    let known = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::ETAG, etag.clone());
    headers.insert(header::CONTENT_SECURITY_POLICY, content_security_policy(request.get(header::HOST)));
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
    let hash = digest(&SHA256, content.as_bytes());
    let tag = URL_SAFE_NO_PAD.encode(hash.as_ref().get(..ETAG_BYTES).unwrap_or_default());
    HeaderValue::from_str(&format!("\"{tag}\"")).expect("base64 may stand in a header")
}

/// Nothing from elsewhere, nothing inline. Not every browser takes `'self'` to mean WebSockets too, so the host the
/// page was asked from is named.
fn content_security_policy(host: Option<&HeaderValue>) -> HeaderValue {
    let sockets = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)))
        .map(|host| format!(" ws://{host} wss://{host}"))
        .unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; worker-src 'self'; connect-src 'self'{sockets}; \
         img-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("the host was looked at")
}
