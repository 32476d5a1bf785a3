//! One participant: the transport it comes on, the streams it sends, the slots it receives in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bandwidth::Allocator;
use crate::budget::{Allowance, Budget};
use crate::congestion::uplink::Estimator;
use crate::congestion::{Arrivals, Downlink};
use crate::dtls::{self, Handshake};
use crate::event::{ParticipantId, Quality, QualityCause, Role, RosterEntry};
use crate::ice::Agent;
use crate::line::Line;
use crate::media::{Extension, Kind, Mid, PayloadType, Rid, Section};
use crate::path::Transport;
use crate::quality::{Judged, Steady};
use crate::rng::Rng;
use crate::rtp::Header;
use crate::slot::Slot;
use crate::srtp::{Opener, Profile, Sealer};

/// Streams of one participant at a time: media and retransmissions of every section it could send in.
const STREAMS_MAX: usize = 64;

/// Datagrams taken from one participant per second. A 20 Mbit/s screen share with audio is about 2,500.
const DATAGRAMS_PER_S: u32 = 10_000;

/// Packets sent again to one participant in all its slots: at once, and more each second. That is what 10 % loss of 100 Mbit/s
/// needs, and twice what one slot may take, so that one that is full of holes leaves as much for the others. More lets whoever has
/// many slots be sent that much more than the call sends it.
const REPAIRS: Allowance = Allowance { burst: 512, per_s: 1000 };

/// Loss above which people notice, and above which it disturbs.
const LOSS_FAIR: f64 = 0.03;
const LOSS_POOR: f64 = 0.10;

/// Round-trip times above which talk becomes slow, and hard.
const RTT_FAIR: Duration = Duration::from_millis(300);
const RTT_POOR: Duration = Duration::from_millis(600);

/// SRTP, once DTLS is up.
#[derive(Debug)]
pub(crate) struct Secure {
    /// What the participant sends.
    pub opener: Opener,
    /// What it is sent.
    pub sealer: Sealer,
    /// How.
    pub profile: Profile,
}

/// What an SSRC of a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The SSRC.
    pub ssrc: u32,
    /// Which of the call's sources.
    pub source: usize,
    /// Which of the source's encodings.
    pub encoding: usize,
    /// Which of the participant's sections.
    pub section: usize,
    /// Retransmissions of it.
    pub rtx: bool,
}

/// One participant.
#[derive(Debug)]
pub(crate) struct Participant {
    /// The shell's number for it.
    pub id: ParticipantId,
    /// Its name.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// Order of joining.
    pub order: u64,
    /// Its ICE agent.
    pub ice: Agent,
    /// Its DTLS handshake.
    pub dtls: Handshake,
    /// The certificate it has to show.
    pub fingerprint: [u8; 32],
    /// SRTP, once DTLS is up.
    pub secure: Option<Secure>,
    /// Its media sections.
    pub sections: Vec<Section>,
    /// SSRCs known.
    pub streams: Vec<Stream>,
    /// How its media went when its slots were last begun anew for that.
    pub transport: Option<Transport>,
    /// Indexes of its sources in the call.
    pub sources: Vec<usize>,
    /// What everybody was told of it last.
    pub told: Option<RosterEntry>,
    /// Its slots.
    pub slots: Vec<Slot>,
    /// How much reaches it, when it tells.
    pub downlink: Option<Box<Downlink>>,
    /// Something of its slots waits until its line has room.
    pub waits: bool,
    /// What came from it, to be told, when it wants to know.
    pub arrivals: Option<Box<Arrivals>>,
    /// How much it can send, when it wants to be told that instead.
    pub uplink: Option<Box<Estimator>>,
    /// Chooses layers for its slots.
    pub allocator: Allocator,
    /// When layers are chosen anew.
    pub allocate_at: Instant,
    /// Bits per second that the chosen layers take.
    pub allocated: u64,
    /// When layers were chosen because of feedback, and the estimate then.
    pub adapted: Option<(Instant, u64)>,
    /// Packets that may be sent again in all its slots together.
    pub repairs: Budget,
    /// Slots that show less than they would, for want of bandwidth.
    pub is_short: bool,
    /// Round-trip time as its receiver reports show.
    pub rtt: Option<Duration>,
    /// How good its connection is, as it was told last.
    pub quality: Judged,
    /// When it is told anew.
    steady: Steady,
    /// When reports are due.
    pub report_at: Instant,
    /// When it last spoke, in order of speaking.
    pub spoke: u64,
    /// SSRC of the relay's feedback to it.
    pub feedback_ssrc: u32,
    window: (Instant, u32),
}

impl Participant {
    /// Somebody who just joined.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one caller, which has each of them at hand")]
    pub(crate) fn new(
        now: Instant,
        id: ParticipantId,
        name: Arc<str>,
        role: Role,
        order: u64,
        ice: Agent,
        settings: &dtls::Settings,
        fingerprint: [u8; 32],
        rng: &mut Rng,
    ) -> Self {
        Self {
            id,
            name,
            role,
            order,
            ice,
            dtls: Handshake::new(now, settings, fingerprint),
            fingerprint,
            secure: None,
            sections: Vec::new(),
            streams: Vec::new(),
            transport: None,
            sources: Vec::new(),
            told: None,
            slots: Vec::new(),
            downlink: None,
            waits: false,
            arrivals: None,
            uplink: None,
            allocator: Allocator::default(),
            allocate_at: now,
            allocated: 0,
            adapted: None,
            repairs: Budget::new(REPAIRS),
            is_short: false,
            rtt: None,
            quality: (Quality::Good, None),
            steady: Steady::default(),
            report_at: now + Duration::from_secs(1),
            spoke: 0,
            feedback_ssrc: rng.next_u32() | 1,
            window: (now, 0),
        }
    }

    /// Whether one more datagram is within its rate.
    pub(crate) fn within_rate(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window.0) >= Duration::from_secs(1) {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        self.window.1 <= DATAGRAMS_PER_S
    }

    /// What sending takes, and the slots. `began` is when the call did.
    pub(crate) fn line_and_slots(&mut self, began: Instant) -> Option<(Line<'_>, &mut [Slot])> {
        let path = self.ice.path()?;
        let sealer = &self.secure.as_ref()?.sealer;
        let downlink = self.downlink.as_deref_mut();
        let repairs = &mut self.repairs;
        Some((Line { sealer, path, downlink, repairs, began }, &mut self.slots))
    }

    /// Agrees on what both sides tell of how much the line carries.
    pub(crate) fn agree_on_feedback(&mut self, now: Instant) {
        let agreed = |section: &Section, extension, feedback: fn(&PayloadType) -> bool| {
            section.extensions.id(extension).is_some() && section.payload_types.iter().any(feedback)
        };
        let mut slots = self.sections.iter().filter(|section| section.receive.is_some());
        let transport_wide = slots.clone().any(|section| {
            agreed(section, Extension::TransportSequence, |payload_type| payload_type.transport_cc)
        });
        let told = transport_wide
            || slots.any(|section| section.payload_types.iter().any(|payload_type| payload_type.remb));
        match (&self.downlink, told) {
            (None, true) => self.downlink = Some(Box::new(Downlink::new(now))),
            (Some(_), false) => self.downlink = None,
            _ => {}
        }
        if let Some(downlink) = self.downlink.as_mut().filter(|_| transport_wide) {
            downlink.agree();
        }
        let sends = |extension, feedback: fn(&PayloadType) -> bool| {
            let mut sections = self.sections.iter().filter(|section| section.send.is_some());
            sections.any(|section| agreed(section, extension, feedback))
        };
        let arrivals = sends(Extension::TransportSequence, |payload_type| payload_type.transport_cc);
        let remote = !arrivals && sends(Extension::AbsoluteSendTime, |payload_type| payload_type.remb);
        self.arrivals =
            arrivals.then(|| self.arrivals.take().unwrap_or_else(|| Box::new(Arrivals::new(now))));
        self.uplink = remote.then(|| self.uplink.take().unwrap_or_else(|| Box::new(Estimator::new(now))));
    }

    /// What an SSRC is, if it is known.
    #[must_use]
    pub(crate) fn stream(&self, ssrc: u32) -> Option<Stream> {
        self.streams.iter().find(|stream| stream.ssrc == ssrc).copied()
    }

    /// Learns what an SSRC is from an authenticated packet: from the offer's SSRCs or the section's name in the
    /// packet (RFC 8843, section 9.2). `source_of` says which source a section feeds. An SSRC that no section claims
    /// is not this participant's to use.
    pub(crate) fn learn(
        &mut self,
        header: &Header,
        packet: &[u8],
        source_of: impl Fn(Mid) -> Option<usize>,
    ) -> Option<Stream> {
        if self.streams.len() >= STREAMS_MAX {
            return None;
        }
        let by_ssrc = self
            .sections
            .iter()
            .position(|section| section.send.as_ref().is_some_and(|send| send.ssrcs.contains(&header.ssrc)));
        let section_index = by_ssrc.or_else(|| {
            self.sections.iter().position(|section| {
                section.send.is_some()
                    && element(section, header, packet, Extension::Mid)
                        .is_some_and(|value| value == section.mid.as_bytes())
            })
        })?;
        let section = self.sections.get(section_index)?;
        let rtx =
            section.payload_types.iter().any(|payload_type| payload_type.rtx == Some(header.payload_type));
        let rids = section.send.as_ref().map_or(&[][..], |send| &send.rids);
        let encoding = if rids.is_empty() {
            0
        } else {
            // With simulcast only the packet itself tells which encoding it is of (RFC 8852).
            let name = if rtx { Extension::RepairedRid } else { Extension::Rid };
            let rid = Rid::from_bytes(element(section, header, packet, name)?)?;
            rids.iter().position(|known| *known == rid)?
        };
        let source = source_of(section.mid)?;
        let stream = Stream { ssrc: header.ssrc, source, encoding, section: section_index, rtx };
        // What an offer named holds against what only says so itself: that is late, from an SSRC of before.
        let named = section.send.as_ref().map_or(&[][..], |send| &send.ssrcs);
        let in_use = |known: &Stream| known.source == source && named.contains(&known.ssrc);
        if by_ssrc.is_none() && named.len() > usize::from(rtx) && self.streams.iter().any(in_use) {
            return None;
        }
        // An encoding sends one stream of each kind; a new SSRC takes the old one's place. Retransmissions go with their
        // media: they name packets by its sequence numbers.
        self.streams
            .retain(|known| known.source != source || known.encoding != encoding || (rtx && !known.rtx));
        self.streams.push(stream);
        Some(stream)
    }

    /// Judges the connection. True when there is something to tell.
    pub(crate) fn judge(&mut self, now: Instant, uplink_loss: f64) -> bool {
        let downlink_loss = self.downlink_loss();
        let rtt = self.rtt.unwrap_or_default();
        let paused = self.slots.iter().any(|slot| slot.paused);
        let judged = if uplink_loss > LOSS_POOR {
            (Quality::Poor, Some(QualityCause::UplinkLoss))
        } else if downlink_loss > LOSS_POOR {
            (Quality::Poor, Some(QualityCause::DownlinkLoss))
        } else if rtt > RTT_POOR {
            (Quality::Poor, Some(QualityCause::RoundTripTime))
        } else if paused {
            (Quality::Poor, Some(QualityCause::Bandwidth))
        } else if uplink_loss > LOSS_FAIR {
            (Quality::Fair, Some(QualityCause::UplinkLoss))
        } else if downlink_loss > LOSS_FAIR {
            (Quality::Fair, Some(QualityCause::DownlinkLoss))
        } else if rtt > RTT_FAIR {
            (Quality::Fair, Some(QualityCause::RoundTripTime))
        } else if self.is_short {
            (Quality::Fair, Some(QualityCause::Bandwidth))
        } else {
            (Quality::Good, None)
        };
        let news = self.steady.follow(now, self.quality, judged);
        self.quality = news.unwrap_or(self.quality);
        news.is_some()
    }

    /// Share of packets lost on their way to it: the worst of its slots that show something.
    #[must_use]
    pub(crate) fn downlink_loss(&self) -> f64 {
        self.slots
            .iter()
            .filter(|slot| slot.source.is_some())
            .map(|slot| slot.fraction_lost)
            .fold(0.0, f64::max)
    }

    /// Whether all its slots for sound take it with redundancy.
    pub(crate) fn takes_redundancy(&self) -> bool {
        self.slots_of(Kind::Audio).all(|(_, slot)| slot.takes_redundancy())
    }

    /// Slots of a kind.
    pub(crate) fn slots_of(&self, kind: Kind) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(move |(_, slot)| slot.kind == kind)
    }
}

/// The value of an extension in a packet.
#[must_use]
pub(crate) fn element<'a>(
    section: &Section,
    header: &Header,
    packet: &'a [u8],
    wanted: Extension,
) -> Option<&'a [u8]> {
    let id = section.extensions.id(wanted)?;
    header.elements(packet).find(|(found, _)| *found == id).map(|(_, value)| value)
}
