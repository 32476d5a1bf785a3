//! The DTLS handshake of one participant, which gives the keys of its media (RFC 5764).
//!
//! `dimpl` does the protocol; here stands what it leaves to its user: the client's certificate is compared with the
//! fingerprint of its offer before any key leaves, input and output are bounded, and time-outs are short. There is no
//! cookie exchange, which saves a round trip: datagrams only come here from an address that ICE authenticated.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use dimpl::{Config, Dtls, DtlsCertificate, Output};
use thiserror::Error;

mod keys;

pub use keys::Keys;

/// The largest datagram written. What goes through every tunnel people use is about 1200; smaller costs fragments.
pub const MTU: usize = 1200;

/// From the first ClientHello to the end of the handshake. More keeps state of those who give up half-way.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// From joining to the end of the handshake: a client that only ever checks connectivity is not on the call.
pub const CONNECT_MAX: Duration = Duration::from_secs(30);

/// The first retransmission, doubled for each after it. RFC 6347 suggests a second; a lost flight would then be what
/// people notice of joining. Less would send twice to those far away.
pub const RETRANSMIT_FIRST: Duration = Duration::from_millis(200);

/// Retransmissions of one flight: as many as fit into [`HANDSHAKE_MAX`].
const RETRANSMISSIONS: usize = 6;

/// Datagrams one handshake may take. One without loss takes three to five, one through heavy loss some dozens.
pub const DATAGRAMS_MAX: u16 = 256;

/// Bytes that are sent to somebody whose certificate was not compared yet. Our largest flight has about 1500, and is
/// repeated a few times on our own account; the rest answers repetitions.
pub const UNVERIFIED_BYTES_MAX: usize = 32 * 1024;

/// Datagrams a second once the handshake is over: repetitions of the last flight, and the end.
const DATAGRAMS_PER_SECOND: u16 = 16;

/// The largest datagram taken. Together with [`QUEUE_DATAGRAMS`] it bounds what a certificate can be put together of.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// Datagrams kept until those before them arrive. Flights have about three; more helps nobody.
const QUEUE_DATAGRAMS: usize = 24;

/// Room for what `dimpl` hands over, the largest of which is a certificate: it cannot hand over one that does not fit.
const OUTPUT_BYTES: usize = DATAGRAM_BYTES_MAX * QUEUE_DATAGRAMS;

/// Things handed over at a time. There are never more than the queues hold.
const OUTPUTS_MAX: usize = 512;

/// A timer further off than this is none.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DtlsError {
    /// Ours: the certificate or its key cannot be used.
    #[error("the certificate for DTLS cannot be used")]
    Certificate,
    /// The peer's: it showed another certificate than its offer announced.
    #[error("the peer's certificate is not the one its fingerprint announced")]
    Fingerprint,
    /// The peer's: no SRTP profile both know.
    #[error("no SRTP profile was agreed on")]
    Profile,
    /// The peer's, or the network's: it took too long.
    #[error("the DTLS handshake took too long")]
    Timeout,
    /// The peer's: more datagrams than a handshake needs.
    #[error("the DTLS handshake took too many datagrams")]
    Budget,
    /// The peer's: it does not follow the protocol, or refused ours.
    #[error("the DTLS handshake failed: {0}")]
    Protocol(dimpl::Error),
}

/// What all handshakes of a node share.
#[derive(Debug)]
pub struct Settings {
    certificate: DtlsCertificate,
    fingerprint: [u8; 32],
    version_13: bool,
    config: Arc<Config>,
}

impl Settings {
    /// Settings with a certificate made at start-up (ECDSA, P-256 or P-384) and its private key, both DER.
    ///
    /// With `version_13`, DTLS 1.3 is offered too. Chromium then gets its slowest SRTP profile (docs/decisions).
    ///
    /// # Errors
    /// When the certificate or its key cannot be used.
    pub fn new(certificate: DtlsCertificate, version_13: bool) -> Result<Self, DtlsError> {
        let config = Config::builder()
            .mtu(MTU)
            .use_server_cookie(false)
            .handshake_timeout(HANDSHAKE_MAX)
            .flight_start_rto(RETRANSMIT_FIRST)
            .flight_retries(RETRANSMISSIONS)
            .max_queue_rx(QUEUE_DATAGRAMS)
            .build()
            .map_err(|_| DtlsError::Certificate)?;
        // What cannot be loaded would stop the process at the first handshake.
        let keys = config.crypto_provider().key_provider;
        if certificate.certificate.is_empty() || keys.load_private_key(&certificate.private_key).is_err() {
            return Err(DtlsError::Certificate);
        }
        let fingerprint = sha256(&certificate.certificate);
        Ok(Self { certificate, fingerprint, version_13, config: Arc::new(config) })
    }

    /// The same from DER, for those who have nothing else to do with DTLS.
    ///
    /// # Errors
    /// When the certificate or its key cannot be used.
    pub fn from_der(certificate: Vec<u8>, private_key: Vec<u8>, version_13: bool) -> Result<Self, DtlsError> {
        Self::new(DtlsCertificate { certificate, private_key }, version_13)
    }

    /// SHA-256 of the certificate, for `a=fingerprint` of answers.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn dtls(&self, now: Instant) -> Dtls {
        let (config, certificate) = (Arc::clone(&self.config), self.certificate.clone());
        if self.version_13 {
            Dtls::new_auto(config, certificate, now)
        } else {
            Dtls::new_12(config, certificate, now)
        }
    }
}

/// One handshake. After each `handle_*`, send what [`Handshake::poll_transmit`] has, and ask for the keys.
pub struct Handshake {
    dtls: Option<Box<Dtls>>,
    expected: [u8; 32],
    stage: Stage,
    /// The peer's certificate is the expected one.
    verified: bool,
    keys: Option<Keys>,
    out: VecDeque<Vec<u8>>,
    /// Bytes written before the certificate was compared.
    unverified_bytes: usize,
    /// Datagrams that may still come: until the end of the handshake, then until the end of the second.
    budget: u16,
    budget_until: Instant,
    deadline: Instant,
    wake: Option<Instant>,
    now: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Handshaking,
    Connected,
    Closed,
    Failed(DtlsError),
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Handshake {
    /// Waits for the client's first flight. `fingerprint` is what its offer announced.
    #[must_use]
    pub fn new(now: Instant, settings: &Settings, fingerprint: [u8; 32]) -> Self {
        Self::with(now, settings.dtls(now), fingerprint)
    }

    /// The client's side, for tests and load runs: its first flight is there at once.
    #[must_use]
    pub fn new_client(now: Instant, settings: &Settings, fingerprint: [u8; 32]) -> Self {
        let mut dtls = settings.dtls(now);
        dtls.set_active(true);
        let mut handshake = Self::with(now, dtls, fingerprint);
        // A failure shows in whatever is done next.
        let _ = handshake.drive(Dtls::handle_timeout);
        handshake
    }

    fn with(now: Instant, dtls: Dtls, expected: [u8; 32]) -> Self {
        Self {
            dtls: Some(Box::new(dtls)),
            expected,
            stage: Stage::Handshaking,
            verified: false,
            keys: None,
            out: VecDeque::new(),
            unverified_bytes: 0,
            budget: DATAGRAMS_MAX,
            budget_until: now,
            deadline: now + CONNECT_MAX,
            wake: None,
            now,
        }
    }

    /// A datagram of the peer. Garbage, repetitions and what comes after the end are dropped without an error.
    ///
    /// # Errors
    /// When the handshake failed, now or before.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        self.now = self.now.max(now);
        if let Stage::Failed(error) = &self.stage {
            return Err(error.clone());
        }
        if datagram.len() > DATAGRAM_BYTES_MAX || self.dtls.is_none() {
            return Ok(());
        }
        if !self.is_within_budget() {
            return if self.stage == Stage::Handshaking { self.fail(DtlsError::Budget) } else { Ok(()) };
        }
        self.drive(|dtls, now| {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(datagram)
        })
    }

    /// Something is due.
    ///
    /// # Errors
    /// When the handshake failed, now or before.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        self.now = self.now.max(now);
        match &self.stage {
            Stage::Failed(error) => Err(error.clone()),
            Stage::Handshaking if self.now >= self.deadline => self.fail(DtlsError::Timeout),
            _ if self.wake.is_some_and(|at| at <= self.now) => self.drive(Dtls::handle_timeout),
            _ => Ok(()),
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = (self.stage == Stage::Handshaking).then_some(self.deadline);
        [self.wake, deadline].into_iter().flatten().min()
    }

    /// The next datagram to send, written to the front of `out`, which has room for [`MTU`] bytes.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        let datagram = self.out.pop_front()?;
        if self.out.is_empty() {
            self.out = VecDeque::new();
        }
        out.get_mut(..datagram.len())?.copy_from_slice(&datagram);
        Some(datagram.len())
    }

    /// The keys, once: the handshake is complete, and the peer is who its offer said.
    pub fn poll_keys(&mut self) -> Option<Keys> {
        self.keys.take()
    }

    /// The handshake is complete.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// One side said that it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Says to the peer that it is over. Before the handshake is complete there is nobody to say it to.
    pub fn close(&mut self) {
        if matches!(self.stage, Stage::Handshaking | Stage::Connected) {
            // What matters is the datagram, if there is one.
            let _ = self.drive(|dtls, _| dtls.close());
            self.end(Stage::Closed);
        }
    }

    /// Does something with the machine and takes out what comes of it.
    fn drive(
        &mut self,
        act: impl FnOnce(&mut Dtls, Instant) -> Result<(), dimpl::Error>,
    ) -> Result<(), DtlsError> {
        let Some(mut dtls) = self.dtls.take() else { return Ok(()) };
        let acted = act(&mut dtls, self.now).map_err(|error| match error {
            dimpl::Error::Timeout(_) => DtlsError::Timeout,
            error => DtlsError::Protocol(error),
        });
        // What it has to send is good for the peer even after an error, and a certificate was perhaps seen.
        let drained = self.drain(&mut dtls);
        self.dtls = Some(dtls);
        match drained.and(acted) {
            Ok(()) => {
                if self.stage == Stage::Closed {
                    self.end(Stage::Closed);
                }
                Ok(())
            }
            Err(error) if self.stage == Stage::Handshaking => self.fail(error),
            // The keys are out and do not depend on what comes later: media goes on, and ICE knows when it ends.
            Err(_) => {
                self.end(self.stage.clone());
                Ok(())
            }
        }
    }

    fn drain(&mut self, dtls: &mut Dtls) -> Result<(), DtlsError> {
        let mut buffer = vec![0; if self.verified { DATAGRAM_BYTES_MAX } else { OUTPUT_BYTES }];
        let mut connected = false;
        for _ in 0..OUTPUTS_MAX {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    if !self.verified {
                        self.unverified_bytes += datagram.len();
                        if self.unverified_bytes > UNVERIFIED_BYTES_MAX {
                            return Err(DtlsError::Budget);
                        }
                    }
                    self.out.push_back(datagram.to_vec());
                }
                Output::PeerCert(certificate) => {
                    verify_slices_are_equal(&sha256(certificate), &self.expected)
                        .map_err(|_| DtlsError::Fingerprint)?;
                    self.verified = true;
                }
                Output::KeyingMaterial(material, profile) => {
                    if !self.verified {
                        return Err(DtlsError::Fingerprint);
                    }
                    self.keys =
                        Some(Keys::split(&material, profile, dtls.is_active()).ok_or(DtlsError::Profile)?);
                }
                Output::Connected => connected = true,
                Output::CloseNotify => self.stage = Stage::Closed,
                Output::Timeout(at) => {
                    self.wake = (at < self.now + IDLE).then_some(at);
                    return if connected { self.connected() } else { Ok(()) };
                }
                // Nobody agreed on data. What is too large for the buffer cannot be there, nor what is not known.
                _ => {}
            }
        }
        Err(DtlsError::Budget)
    }

    fn connected(&mut self) -> Result<(), DtlsError> {
        if !self.verified {
            return Err(DtlsError::Fingerprint);
        }
        if self.keys.is_none() {
            return Err(DtlsError::Profile);
        }
        if self.stage == Stage::Handshaking {
            self.stage = Stage::Connected;
            self.budget = 0;
            self.budget_until = self.now;
        }
        Ok(())
    }

    fn is_within_budget(&mut self) -> bool {
        if self.stage != Stage::Handshaking && self.now >= self.budget_until {
            self.budget = DATAGRAMS_PER_SECOND;
            self.budget_until = self.now + Duration::from_secs(1);
        }
        let left = self.budget.checked_sub(1);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }

    fn fail(&mut self, error: DtlsError) -> Result<(), DtlsError> {
        self.keys = None;
        self.end(Stage::Failed(error.clone()));
        Err(error)
    }

    /// Lets go of all that the machine holds.
    fn end(&mut self, stage: Stage) {
        self.stage = stage;
        self.dtls = None;
        self.wake = None;
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    *digest::digest(&digest::SHA256, bytes).as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
