//! What the admin API shows of the core.

use crate::admin::{LaneView, LinkState, NetworkSpec, NetworkView, Overview, PeerView, QueueView};
use crate::core::Core;
use crate::directory::{NetworkRecord, PeerRecord, Trust};
use crate::lane::{LaneOut, lanes};
use crate::peer::Peer;
use crate::pin::Pin;
use crate::queue::Queue;
use crate::store::Lane;
use crate::time::Time;
use crate::timer::Timer;

impl Core {
    /// Everything there is to see at this moment.
    #[must_use]
    pub fn overview(&self, now: Time) -> Overview {
        let networks = self.directory.networks().map(|record| self.network_view(record)).collect();
        Overview { networks, ..self.pulse(now) }
    }

    /// The same without networks, whose policies may be long: for who looks every few seconds.
    #[must_use]
    pub fn pulse(&self, now: Time) -> Overview {
        let peers = self
            .directory
            .peers()
            .filter_map(|record| Some(self.peer_view(now, record, self.peers.get(&record.key)?)));
        Overview {
            domain: self.config.domain.clone(),
            at: now,
            peers: peers.collect(),
            networks: Vec::new(),
            totals: self.totals,
        }
    }

    fn peer_view(&self, now: Time, record: &PeerRecord, peer: &Peer) -> PeerView {
        let link = match (&peer.alarm, peer.up, peer.dialing || peer.link.is_some()) {
            (Some(_), _, _) => LinkState::Alarm,
            (_, true, _) => LinkState::Up,
            (_, _, true) => LinkState::Connecting,
            _ => LinkState::Down,
        };
        let transport =
            peer.link.and_then(|id| self.links.get(&id)).map(|link| link.opened.transport.name().to_owned());
        let (trust, pins) = match &record.trust {
            Trust::Pinned { pins } => ("pinned", pins.entries().to_vec()),
            Trust::Ca { .. } => ("ca", Vec::new()),
        };
        let announced = self.next_certificate.as_ref().and_then(|der| Pin::of_certificate(der).ok());
        // Most lanes of most peers are empty at any moment: they cost nothing in what is made every few seconds.
        let lanes: Vec<LaneView> =
            lanes().zip(&peer.lanes).filter_map(|(name, lane)| lane_view(name, lane)).collect();
        let outbox = lanes.iter().fold(QueueView::default(), |sum, LaneView { queue, .. }| QueueView {
            depth: sum.depth + queue.depth,
            bytes: sum.bytes + queue.bytes,
            oldest: [sum.oldest, queue.oldest].into_iter().flatten().min(),
        });
        PeerView {
            domain: record.domain.clone(),
            label: record.label.clone(),
            state: record.state,
            link,
            transport: transport.filter(|_| peer.up),
            since: peer.since,
            last_error: peer.last_error.clone(),
            next_dial: self.timers.get(Timer::Dial(record.key)).filter(|_| !peer.up),
            trust: trust.to_owned(),
            pins,
            keys_issued: record.keys_issued.iter().map(|key| key.id.clone()).collect(),
            keys_held: record.keys_held.iter().map(|key| key.id.clone()).collect(),
            next_certificate_ready: announced.map(|pin| peer.ready == Some(pin)),
            endpoints: record.endpoints.clone(),
            local_domains: record.local_domains.clone(),
            claimed_domains: record.claimed_domains.clone(),
            allow_private_ips: record.allow_private_ips,
            outbox,
            sent: peer.sent,
            received: peer.received,
            refused: peer.refused,
            latency_ms: peer.latency.recent_ms(now),
            lanes,
            departures: peer.departures.view(),
        }
    }

    fn network_view(&self, record: &NetworkRecord) -> NetworkView {
        let mailbox = self.mailboxes.get(&record.key);
        NetworkView {
            spec: NetworkSpec {
                id: record.id.clone(),
                label: record.label.clone(),
                local_domains: record.local_domains.clone(),
                hidden_domains: record.hidden_domains.clone(),
                policy: record.policy.clone(),
                webhook: record.webhook.clone(),
            },
            tokens: record.tokens.len(),
            inbox: mailbox.map(|mailbox| queue_view(&mailbox.inbox)).unwrap_or_default(),
            receipts: mailbox.map(|mailbox| queue_view(&mailbox.receipts)).unwrap_or_default(),
        }
    }
}

/// What a lane has, when it has something.
fn lane_view(name: Lane, lane: &LaneOut) -> Option<LaneView> {
    let (queue, in_flight) = (queue_view(&lane.queue), lane.flight.len() as u64);
    (queue.depth > 0 || in_flight > 0).then_some(LaneView { lane: name, queue, in_flight })
}

fn queue_view(queue: &Queue) -> QueueView {
    QueueView { depth: queue.depth, bytes: queue.bytes, oldest: queue.oldest() }
}
