//! The example client: a page at `/call`, its modules and styles under `/call/`. All of it is in the binary.

use axum::Router;
use trunkline_http::files::{self, CSS, File, HTML, JAVASCRIPT, Policy, SVG};

/// Everything that may be asked for.
const FILES: &[File] = &[
    ("/call", HTML, include_str!("../web/index.html")),
    ("/call/style.css", CSS, include_str!("../web/style.css")),
    ("/call/icon.svg", SVG, include_str!("../web/icon.svg")),
    ("/call/call.js", JAVASCRIPT, include_str!("../web/call.js")),
    ("/call/link.js", JAVASCRIPT, include_str!("../web/link.js")),
    ("/call/tiles.js", JAVASCRIPT, include_str!("../web/tiles.js")),
    ("/call/trunkline-client.js", JAVASCRIPT, include_str!("../web/trunkline-client.js")),
    ("/call/api.js", JAVASCRIPT, include_str!("../web/api.js")),
    ("/call/session.js", JAVASCRIPT, include_str!("../web/session.js")),
    ("/call/layers.js", JAVASCRIPT, include_str!("../web/layers.js")),
    ("/call/pins.js", JAVASCRIPT, include_str!("../web/pins.js")),
    ("/call/pulse.js", JAVASCRIPT, include_str!("../web/pulse.js")),
    ("/call/media.js", JAVASCRIPT, include_str!("../web/media.js")),
    ("/call/encryption.js", JAVASCRIPT, include_str!("../web/encryption.js")),
    ("/call/stats.js", JAVASCRIPT, include_str!("../web/stats.js")),
    ("/call/sframe.js", JAVASCRIPT, include_str!("../web/sframe.js")),
    ("/call/sframe-worker.js", JAVASCRIPT, include_str!("../web/sframe-worker.js")),
];

/// Camera, microphone and screen, a worker for encryption, and the events of a call.
const POLICY: Policy = Policy {
    directives: "worker-src 'self'; media-src 'self' blob:",
    sockets: true,
    permissions: "camera=(self), microphone=(self), display-capture=(self), autoplay=(self), fullscreen=(self), \
                  geolocation=(), payment=(), usb=()",
};

/// Serves the example client at `/call`. It finds the API at the same origin.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    files::router(FILES, POLICY)
}
