//! What a client does that adapts to its line: it tells when packets arrived, and looks what its own way to the relay
//! carries.

use std::time::Instant;

use trunkline_relay_proto::congestion::{Arrivals, Downlink};
use trunkline_relay_proto::rtcp::TransportFeedback;
use trunkline_relay_proto::rtp::Header;

use crate::outgoing::Wire;
use crate::peer::Peer;
use crate::section::TRANSPORT_SEQUENCE;

/// Padding of one packet: more has no room in RTP's count of it.
const PADDING_MAX: usize = 255;

/// What such a client keeps. To the congestion control, the way up is a way down.
pub(crate) struct Adaptation {
    arrivals: Arrivals,
    uplink: Downlink,
    /// Bytes of padding that are to go out now.
    padding: usize,
}

impl Adaptation {
    pub(crate) fn new(epoch: Instant) -> Self {
        let mut uplink = Downlink::new(epoch);
        uplink.agree();
        Self { arrivals: Arrivals::new(epoch), uplink, padding: 0 }
    }
}

impl Peer {
    /// What the way to the relay carries, in bits per second. `None` until anything is known, and where the plan does
    /// not adapt.
    #[must_use]
    pub fn uplink_bps(&self) -> Option<u64> {
        self.adaptation.as_ref()?.uplink.estimate_bps()
    }

    /// The rate of everything that would be sent if the way to the relay carried it: it is probed for, with padding.
    pub fn want_uplink(&mut self, bps: Option<u64>) {
        if let Some(adaptation) = &mut self.adaptation {
            adaptation.uplink.want(bps);
        }
    }

    /// What the next packet has in common with the others.
    pub(crate) fn wire(&self) -> Wire {
        let adaptation = self.adaptation.as_ref();
        Wire {
            adaptive: adaptation.is_some(),
            transport_sequence: adaptation.map_or(0, |adaptation| adaptation.uplink.next_sequence()),
        }
    }

    /// A packet of so many bytes goes out, under the next transport-wide sequence number.
    pub(crate) fn sent(&mut self, now: Instant, len: usize, probe: bool) {
        if let Some(adaptation) = self.adaptation.as_mut().filter(|_| len > 0) {
            adaptation.uplink.sent(now, len, probe);
        }
    }

    /// A media packet arrived.
    pub(crate) fn arrived(&mut self, now: Instant, header: &Header, packet: &[u8]) {
        let Some(adaptation) = &mut self.adaptation else { return };
        let value = header.elements(packet).find(|(found, _)| *found == TRANSPORT_SEQUENCE);
        if let Some(bytes) = value.and_then(|(_, value)| value.first_chunk()) {
            adaptation.arrivals.record(now, u16::from_be_bytes(*bytes));
        }
    }

    /// The relay tells when packets arrived there.
    pub(crate) fn handle_transport_feedback(&mut self, now: Instant, feedback: &TransportFeedback<'_>) {
        if let Some(adaptation) = &mut self.adaptation {
            self.counters.transport_feedback += 1;
            adaptation.uplink.feedback(now, feedback);
        }
    }

    /// Tells when packets arrived, and begins to probe, when it is time to.
    pub(crate) fn adapt(&mut self, now: Instant) {
        let media = self.slots().next().map_or(0, |(_, slot)| slot.stream().ssrc);
        while let Some(mut adaptation) = self.adaptation.take() {
            let due = adaptation.arrivals.poll_timeout().is_some_and(|at| at <= now);
            let told =
                due && self.send_rtcp(|writer, sender| adaptation.arrivals.write(now, writer, sender, media));
            self.counters.transport_feedback_sent += u64::from(told);
            self.adaptation = Some(adaptation);
            if !told {
                break;
            }
        }
        if self.can_probe()
            && let Some(adaptation) = &mut self.adaptation
        {
            adaptation.padding = adaptation.uplink.poll_probe(now);
        }
    }

    /// When something of that is due next.
    pub(crate) fn adapt_at(&self) -> Option<Instant> {
        let adaptation = self.adaptation.as_ref()?;
        let probe = adaptation.uplink.poll_timeout().filter(|_| self.can_probe());
        [adaptation.arrivals.poll_timeout().filter(|_| self.is_connected()), probe]
            .into_iter()
            .flatten()
            .min()
    }

    /// A packet of padding that is due, written to `out`.
    pub(crate) fn poll_padding(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        let padding = self.adaptation.as_ref()?.padding.min(PADDING_MAX);
        if padding == 0 {
            return None;
        }
        let wire = self.wire();
        let secure = self.secure.as_ref()?;
        let mut all = self.sections.iter_mut().filter_map(|section| section.outgoing_mut());
        let len = all.find_map(|outgoing| outgoing.send_padding(padding, wire, &secure.sealer, out));
        if let Some(adaptation) = &mut self.adaptation {
            adaptation.padding = adaptation.padding.saturating_sub(len.unwrap_or(adaptation.padding));
        }
        self.sent(now, len?, true);
        len
    }

    /// Padding goes out on a stream of retransmissions, once its media was sent.
    fn can_probe(&self) -> bool {
        self.is_connected()
            && self
                .sections
                .iter()
                .filter_map(|section| section.outgoing())
                .any(|outgoing| outgoing.rtx_ssrc().is_some() && outgoing.packets() > 0)
    }
}
