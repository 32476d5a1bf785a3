//! The TURN server that clients are told of (RFC 9725, section 4.6), which is the relay itself or its ingress: `Link`
//! headers for whoever may join.

use http::HeaderValue;
use trunkline_http::problem::{INTERNAL, Problem};

use super::Answer;
use crate::node::IceServer;

/// `Link: <turns:…>; rel="ice-server"; …`
pub(super) fn link(server: &IceServer) -> Answer<HeaderValue> {
    let IceServer { url, credentials } = server;
    let text = format!(
        "<{url}>; rel=\"ice-server\"; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
        credentials.username, credentials.password
    );
    let value = HeaderValue::try_from(text);
    let mut value =
        value.map_err(|_| Problem::new(INTERNAL, "the name of the TURN server is no host name"))?;
    value.set_sensitive(true);
    Ok(value)
}
