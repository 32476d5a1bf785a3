//! The DTLS server of one participant.

use dimpl::DtlsCertificate;

/// What all handshakes of a node share.
#[derive(Debug)]
pub struct Settings {
    /// The node's certificate, made at start-up.
    pub certificate: DtlsCertificate,
    /// Offer DTLS 1.3 too. Chromium then gets its slowest SRTP profile (docs/decisions).
    pub version_13: bool,
}
