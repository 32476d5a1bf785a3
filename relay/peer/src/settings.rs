//! What all peers of a run share, and what one of them sends and receives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::DtlsCertificate;
use rcgen::{CertificateParams, KeyPair};
use thiserror::Error;
use trunkline_relay_proto::dtls;
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::ENCODINGS_MAX;

/// Between two requests for the same packet, unless set otherwise: for lines with a short round trip.
const REPAIR_RETRY: Duration = Duration::from_millis(40);

/// Why there are no settings.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// No certificate could be made.
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
    /// DTLS does not take it.
    #[error(transparent)]
    Dtls(#[from] dtls::DtlsError),
}

/// What all peers of a run share. One certificate serves them all: making one costs more than a handshake.
#[derive(Debug)]
pub struct Settings {
    /// Certificate and limits of handshakes.
    pub dtls: dtls::Settings,
    /// What times in payloads and reports count from.
    pub epoch: Instant,
    /// Sender and receiver reports once a second.
    pub reports: bool,
    /// Lost packets are asked for again, where a section has retransmissions.
    pub repair: bool,
    /// Between two requests for the same packet. Less than a round trip asks for packets that are on their way.
    pub repair_retry: Duration,
    /// Packets kept per stream to answer such requests with. 0 answers none; each keeps a payload in memory.
    pub history_packets: usize,
}

impl Settings {
    /// Settings with a new certificate: no reports, no repair, nothing kept.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(epoch: Instant) -> Result<Self, SettingsError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateParams::new(Vec::new())?.self_signed(&key)?;
        let certificate =
            DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
        let dtls = dtls::Settings::new(certificate, false)?;
        Ok(Self {
            dtls,
            epoch,
            reports: false,
            repair: false,
            repair_retry: REPAIR_RETRY,
            history_packets: 0,
        })
    }

    /// The same with all that a browser does: reports, repair, and packets to send again.
    #[must_use]
    pub fn like_a_browser(mut self) -> Self {
        self.reports = true;
        self.repair = true;
        self.history_packets = 512;
        self
    }

    /// To be shared.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}

/// What a peer sends, and how many slots it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it sends.
    pub sources: Vec<SourceName>,
    /// Audio sections it receives in.
    pub audio_slots: usize,
    /// Video sections it receives in.
    pub video_slots: usize,
    /// Whether the offer names the SSRCs it sends with. Otherwise `mid` alone tells. Of simulcast, none are named.
    pub names_ssrcs: bool,
    /// Transport-wide sequence numbers and feedback in both directions. Costs an extension of every packet, and a
    /// datagram of feedback every 50 to 100 ms.
    pub adaptive: bool,
    /// Encodings of a camera, at most three. Several have names.
    pub encodings: usize,
}

impl Plan {
    /// One that only receives.
    #[must_use]
    pub fn receiver(audio_slots: usize, video_slots: usize) -> Self {
        Self {
            sources: Vec::new(),
            audio_slots,
            video_slots,
            names_ssrcs: true,
            adaptive: false,
            encodings: 1,
        }
    }

    /// The same that sends these, too.
    #[must_use]
    pub fn sending(mut self, sources: &[SourceName]) -> Self {
        self.sources = sources.to_vec();
        self
    }

    /// The same that adapts to the line, as browsers do.
    #[must_use]
    pub fn adaptive(mut self) -> Self {
        self.adaptive = true;
        self
    }

    /// The same that sends its camera in three encodings at a time.
    #[must_use]
    pub fn simulcast(mut self) -> Self {
        self.encodings = ENCODINGS_MAX;
        self
    }
}
