//! One client.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::dtls::{DtlsError, Handshake};
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::{Description, Downstream, IceCredentials, Kind, Mid};
use trunkline_relay_proto::rtp::Header;
use trunkline_relay_proto::srtp::{Opener, Profile, Sealer};
use trunkline_testkit::rng::Rng;

use crate::adapt::Adaptation;
use crate::check::Checks;
use crate::incoming::{Incoming, SlotStatistics};
use crate::outgoing::{self, Frame, Outgoing};
use crate::receive::csrc;
use crate::section::{PeerSection, Use, mid_of, payload_type};
use crate::settings::{Plan, Settings};

/// The largest datagram written.
pub const DATAGRAM_BYTES_MAX: usize = 1500;

/// Datagrams (feedback, retransmissions) that wait to be sent. More are dropped, as on any network.
const QUEUE_MAX: usize = 1024;

/// Events that wait to be taken. More are not told.
const EVENTS_MAX: usize = 1024;

/// The other side, as its answer describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its ICE credentials.
    pub ice: IceCredentials,
    /// SHA-256 of the certificate it is to show.
    pub fingerprint: [u8; 32],
    /// Where it is.
    pub address: SocketAddr,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Media flows from now on.
    Connected,
    /// A key frame of a source is wanted, by PLI or FIR: of which of its encodings.
    KeyFrameWanted(SourceName, usize),
    /// The relay ended the session.
    Closed,
    /// The handshake failed.
    Failed(DtlsError),
    /// No check was answered for too long.
    Lost,
}

/// What a datagram was, when it was for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Media, opened in place.
    Media(Media),
    /// Reports and feedback, opened in place: where they are in the datagram. The peer has acted on them.
    Rtcp(Range<usize>),
}

/// A packet of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// The slot's section.
    pub mid: Mid,
    /// It came on the retransmission SSRC.
    pub rtx: bool,
    /// No packet of this number came before.
    pub new: bool,
    /// Its number, extended: the lower 16 bits are the sequence number, of a retransmission the original one.
    pub index: u64,
    /// The header, as it came. Its elements are in the datagram.
    pub header: Header,
    /// Whose packet it is.
    pub csrc: Option<u32>,
    /// Where the payload is in the datagram, without padding and without a retransmission's original number.
    pub payload: Range<usize>,
    /// How long it took, when the payload is stamped.
    pub latency: Option<Duration>,
}

/// Counts of what a peer received that was not media of a slot, or not to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Answers to checks.
    pub checks_answered: u64,
    /// Packets that SRTP had opened before: a network doubled them.
    pub replayed: u64,
    /// Packets that SRTP could not open. On a network that does not damage them, none.
    pub unauthentic: u64,
    /// Media of an SSRC that no answer named. Never of an honest relay.
    pub unknown_ssrc: u64,
    /// What is none of the protocols, or malformed.
    pub malformed: u64,
    /// Media and reports before there were keys.
    pub early: u64,
    /// Packets the other side asked for again.
    pub nacks: u64,
    /// Key frames the other side asked for.
    pub key_frame_requests: u64,
    /// Packets asked of the other side.
    pub nacks_sent: u64,
    /// Sender and receiver reports that came.
    pub reports: u64,
    /// Messages that came on when packets arrived at the other side.
    pub transport_feedback: u64,
    /// Messages sent on when packets arrived here.
    pub transport_feedback_sent: u64,
}

/// What an SSRC of the other side is.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    ssrc: u32,
    pub(crate) section: usize,
    pub(crate) rtx: bool,
}

/// Keys of an established session.
pub(crate) struct Secure {
    pub(crate) opener: Opener,
    pub(crate) sealer: Sealer,
}

/// One client. See the crate's text on how to drive it.
pub struct Peer {
    pub(crate) settings: Arc<Settings>,
    pub(crate) rng: Rng,
    pub(crate) local: IceCredentials,
    pub(crate) remote: Option<Remote>,
    pub(crate) checks: Option<Checks>,
    pub(crate) dtls: Option<Handshake>,
    pub(crate) secure: Option<Secure>,
    pub(crate) names_ssrcs: bool,
    pub(crate) adaptation: Option<Box<Adaptation>>,
    pub(crate) sections: Vec<PeerSection>,
    streams: Vec<Stream>,
    queue: VecDeque<Box<[u8]>>,
    events: VecDeque<PeerEvent>,
    pub(crate) counters: PeerCounters,
    pub(crate) feedback_ssrc: u32,
    pub(crate) report_at: Option<Instant>,
    pub(crate) offers: u64,
    pub(crate) fir: u8,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer that has not offered anything. All that it draws (names, SSRCs, first numbers) follows from the seed.
    #[must_use]
    pub fn new(settings: &Arc<Settings>, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            settings: Arc::clone(settings),
            local: credentials(&mut rng),
            remote: None,
            checks: None,
            dtls: None,
            secure: None,
            names_ssrcs: true,
            adaptation: None,
            sections: Vec::new(),
            streams: Vec::new(),
            queue: VecDeque::new(),
            events: VecDeque::new(),
            counters: PeerCounters::default(),
            feedback_ssrc: outgoing::ssrc(&mut rng),
            report_at: None,
            offers: 0,
            fir: 0,
            rng,
        }
    }

    /// What a relay agrees on that takes all of a plan: for tests that drive [`trunkline_relay_proto::call::Call`]
    /// without SDP. The relay's SSRCs are drawn here. Given again with another plan, it is a new offer: sections stay
    /// where they are, those the plan leaves out send and receive nothing, new ones come last.
    pub fn description(&mut self, plan: &Plan) -> Description {
        self.plan(plan);
        self.learn_streams();
        Description {
            ice: self.local.clone(),
            fingerprint: self.settings.dtls.fingerprint(),
            extmap_allow_mixed: true,
            reduced_size_rtcp: true,
            sections: self
                .sections
                .iter()
                .map(|section| section.agreed(plan.names_ssrcs, plan.adaptive))
                .collect(),
        }
    }

    /// Begins to connect, or goes on with other credentials (an ICE restart) or another address of the other side.
    pub fn connect(&mut self, now: Instant, remote: Remote) {
        match &mut self.checks {
            Some(checks) if self.remote.as_ref().is_none_or(|before| before.ice != remote.ice) => {
                checks.restart(now, &self.local, &remote.ice);
            }
            Some(checks) => checks.hurry(now),
            None => self.checks = Some(Checks::new(now, &self.local, &remote.ice, &mut self.rng)),
        }
        self.remote = Some(remote);
    }

    /// New ICE credentials, to be offered: [`Peer::connect`] with the relay's new ones completes the restart.
    pub fn restart_ice(&mut self) -> IceCredentials {
        self.local = credentials(&mut self.rng);
        self.local.clone()
    }

    /// The peer's own address changed: it checks at once. From where datagrams leave is the caller's business.
    pub fn roam(&mut self, now: Instant) {
        if let Some(checks) = &mut self.checks {
            checks.hurry(now);
        }
    }

    /// Says good-bye: what [`Peer::poll_transmit`] still has is to be sent.
    pub fn close(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close();
        }
        self.checks = None;
        self.secure = None;
        self.report_at = None;
    }

    /// One datagram, opened in place.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) -> Option<Received> {
        match demux::classify(datagram) {
            Protocol::Stun => self.handle_stun(now, datagram),
            Protocol::Dtls => self.handle_dtls(now, datagram),
            Protocol::Rtp => return self.handle_rtp(now, datagram).map(Received::Media),
            Protocol::Rtcp => return self.handle_rtcp_datagram(now, datagram),
            Protocol::Unknown => self.counters.malformed += 1,
        }
        None
    }

    /// Counts a datagram with media by its header, without opening it: for load runs, in which opening every packet
    /// would cost more than the relay does. At least one of 10,000 packets of a stream has to be opened, or roll-overs
    /// are missed. False when it is no media of a slot: then it is for [`Peer::handle_datagram`].
    pub fn count_datagram(&mut self, now: Instant, datagram: &[u8]) -> bool {
        if demux::classify(datagram) != Protocol::Rtp {
            return false;
        }
        let Ok(header) = Header::parse(datagram) else { return false };
        let Some(stream) = self.stream(header.ssrc).filter(|stream| !stream.rtx) else { return false };
        let Some(profile) = self.profile() else { return false };
        let repair = self.settings.repair;
        let Some(incoming) = self.incoming_at(stream.section) else { return false };
        let len = datagram.len().saturating_sub(header.len + profile.tag_len());
        incoming.media(now, header.sequence, len, repair);
        incoming.note(csrc(&header, datagram), None);
        self.arrived(now, &header, datagram);
        true
    }

    /// The next datagram to send to [`Peer::remote_address`], written to the front of `out`, which has room for
    /// [`DATAGRAM_BYTES_MAX`].
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if let Some(len) =
            self.checks.as_mut().and_then(|checks| checks.poll_transmit(now, &mut self.rng, out))
        {
            return Some(len);
        }
        if let Some(len) = self.dtls.as_mut().and_then(|dtls| dtls.poll_transmit(out)) {
            return Some(len);
        }
        let Some(datagram) = self.queue.pop_front() else { return self.poll_padding(now, out) };
        out.get_mut(..datagram.len())?.copy_from_slice(&datagram);
        Some(datagram.len())
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.checks.as_ref().is_some_and(|checks| checks.is_lost(now)) {
            self.checks = None;
            self.tell(PeerEvent::Lost);
        }
        if let Some(Err(error)) = self.dtls.as_mut().map(|dtls| dtls.handle_timeout(now)) {
            self.fail(error);
        }
        self.report(now);
        self.ask_again(now);
        self.adapt(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let checks = self.checks.as_ref().map(Checks::poll_timeout);
        let dtls = self.dtls.as_ref().and_then(Handshake::poll_timeout);
        let repair = self.sections.iter().filter_map(|section| section.incoming()?.repair_at()).min();
        [checks, dtls, self.report_at, repair, self.adapt_at()].into_iter().flatten().min()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// Whether media can flow.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.secure.is_some()
    }

    /// The SRTP profile that was agreed on.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        self.secure.as_ref().map(|secure| secure.sealer.profile())
    }

    /// Where datagrams go.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref().map(|remote| remote.address)
    }

    /// Where datagrams go from now on: a shaper before the relay, for one.
    pub fn set_remote_address(&mut self, address: SocketAddr) {
        if let Some(remote) = &mut self.remote {
            remote.address = address;
        }
    }

    /// Seals one packet of a source into `out`: the datagram's length. 0 when there are no keys, no such source, or
    /// no room.
    pub fn send_media(
        &mut self,
        now: Instant,
        out: &mut [u8],
        source: SourceName,
        frame: &Frame<'_>,
    ) -> usize {
        let (history_packets, wire) = (self.settings.history_packets, self.wire());
        let Some(secure) = &self.secure else { return 0 };
        let outgoing = self
            .sections
            .iter_mut()
            .find_map(|section| section.outgoing_mut().filter(|outgoing| outgoing.source() == source));
        let len = outgoing
            .map_or(0, |outgoing| outgoing.send(now, frame, (wire, history_packets), &secure.sealer, out));
        self.sent(now, len, false);
        len
    }

    /// A stream it sends.
    #[must_use]
    pub fn outgoing(&self, source: SourceName) -> Option<&Outgoing> {
        let mut all = self.sections.iter().filter_map(PeerSection::outgoing);
        all.find(|outgoing| outgoing.source() == source)
    }

    /// What each slot received, in the offer's order.
    pub fn slots(&self) -> impl Iterator<Item = (Mid, &Incoming)> {
        self.sections.iter().filter_map(|section| Some((section.mid, section.incoming()?)))
    }

    /// What one slot received.
    #[must_use]
    pub fn statistics(&self, mid: Mid) -> Option<SlotStatistics> {
        self.slots().find(|(known, _)| *known == mid).map(|(_, incoming)| incoming.statistics())
    }

    /// Counts of everything else.
    #[must_use]
    pub fn counters(&self) -> PeerCounters {
        self.counters
    }

    /// Makes sections of a plan; those that are there keep their place and streams.
    pub(crate) fn plan(&mut self, plan: &Plan) {
        self.names_ssrcs = plan.names_ssrcs;
        if self.adaptation.is_some() != plan.adaptive {
            self.adaptation = plan.adaptive.then(|| Box::new(Adaptation::new(self.settings.epoch)));
        }
        self.sections.iter_mut().for_each(|section| section.active = false);
        for source in plan.sources.iter().copied() {
            let mid = Mid::new(mid_of(source)).expect("a valid mid");
            if !self.activate(mid) {
                let encodings = if source == SourceName::Camera { plan.encodings } else { 1 };
                let usage = Use::Send(Outgoing::new(source, mid, encodings, &mut self.rng));
                self.sections.push(PeerSection { mid, kind: source.kind(), usage, active: true });
            }
        }
        for (kind, letter, count) in
            [(Kind::Audio, 'a', plan.audio_slots), (Kind::Video, 'v', plan.video_slots)]
        {
            for slot in 0..count {
                let mid = Mid::new(&format!("{letter}{slot}")).expect("a valid mid");
                if self.activate(mid) {
                    continue;
                }
                // The relay's, unless an answer says other ones.
                let ssrc = outgoing::ssrc(&mut self.rng);
                let rtx_ssrc = payload_type(kind, plan.adaptive).rtx.map(|_| outgoing::ssrc(&mut self.rng));
                let usage = Use::Receive(Box::new(Incoming::new(Downstream { ssrc, rtx_ssrc }, kind)));
                self.sections.push(PeerSection { mid, kind, usage, active: true });
            }
        }
    }

    fn activate(&mut self, mid: Mid) -> bool {
        let known = self.sections.iter_mut().find(|section| section.mid == mid);
        known.map(|section| section.active = true).is_some()
    }

    /// The relay's SSRCs, as an answer names them.
    pub(crate) fn set_streams(&mut self, streams: &[(Mid, Downstream)]) {
        for section in &mut self.sections {
            let stream = streams.iter().find(|(mid, _)| *mid == section.mid);
            if let (Some((_, stream)), Some(incoming)) = (stream, section.incoming_mut()) {
                incoming.set_stream(*stream);
            }
        }
        self.learn_streams();
    }

    fn learn_streams(&mut self) {
        let incoming =
            self.sections.iter().enumerate().filter_map(|(at, section)| Some((at, section.incoming()?)));
        let streams = incoming.flat_map(|(section, incoming)| {
            let Downstream { ssrc, rtx_ssrc } = incoming.stream();
            let rtx = rtx_ssrc.map(|ssrc| Stream { ssrc, section, rtx: true });
            [Some(Stream { ssrc, section, rtx: false }), rtx]
        });
        self.streams = streams.flatten().collect();
    }

    pub(crate) fn stream(&self, ssrc: u32) -> Option<Stream> {
        self.streams.iter().find(|stream| stream.ssrc == ssrc).copied()
    }

    fn incoming_at(&mut self, section: usize) -> Option<&mut Incoming> {
        self.sections.get_mut(section)?.incoming_mut()
    }

    pub(crate) fn tell(&mut self, event: PeerEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    pub(crate) fn enqueue(&mut self, datagram: &[u8]) {
        if !datagram.is_empty() && self.queue.len() < QUEUE_MAX {
            self.queue.push_back(datagram.into());
        }
    }

    pub(crate) fn fail(&mut self, error: DtlsError) {
        self.dtls = None;
        self.checks = None;
        self.tell(PeerEvent::Failed(error));
    }
}

/// Credentials of 8 and 24 letters and digits (RFC 8445, section 5.3).
fn credentials(rng: &mut Rng) -> IceCredentials {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut draw = |len| -> String {
        (0..len).map(|_| char::from(*CHARACTERS.get(rng.index(64)).unwrap_or(&b'A'))).collect()
    };
    IceCredentials { ufrag: draw(8), pwd: draw(24) }
}
