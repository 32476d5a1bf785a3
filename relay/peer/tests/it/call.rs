//! Peers on a real call, in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay_peer::outgoing::{KEY_DESCRIPTOR_LEN, descriptor};
use trunkline_relay_peer::{Frame, Peer, PeerEvent, Plan, Received, Remote, Settings};
use trunkline_relay_proto::call::{self, Call, Join};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::event::{ParticipantId, Role, SourceName};
use trunkline_relay_proto::media::IceCredentials;
use trunkline_relay_proto::path::Path;

/// A call and its people, each at an address of its own.
struct World {
    now: Instant,
    settings: Arc<Settings>,
    fingerprint: [u8; 32],
    call: Call,
    egress: Egress,
    peers: Vec<Peer>,
    by_path: HashMap<Path, usize>,
}

impl World {
    fn new(now: Instant, settings: Settings) -> Self {
        // The relay has a certificate of its own.
        let dtls = Settings::new(now).expect("a certificate").dtls;
        let fingerprint = dtls.fingerprint();
        let settings = settings.shared();
        let call = call::Settings { participants_max: 100, dtls: Arc::new(dtls), seed: 1 };
        Self {
            now,
            settings,
            fingerprint,
            call: Call::new(now, call),
            egress: Egress::default(),
            peers: Vec::new(),
            by_path: HashMap::new(),
        }
    }

    fn path(index: usize) -> Path {
        let port = 5000 + u16::try_from(index).expect("few");
        Path::new(([10, 0, 0, 1], port).into(), [10, 0, 0, 2].into())
    }

    fn join(&mut self, plan: &Plan) {
        let index = self.peers.len();
        let number = u32::try_from(index).expect("few");
        let mut peer = Peer::new(&self.settings, u64::from(number) + 1);
        let ice = IceCredentials { ufrag: format!("relay{number:03}"), pwd: "p".repeat(24) };
        let join = Join {
            id: ParticipantId(number),
            name: format!("p{number}").into(),
            role: Role::Presenter,
            description: peer.description(plan),
            ice: ice.clone(),
        };
        self.call.join(self.now, join).expect("room");
        peer.connect(
            self.now,
            Remote { ice, fingerprint: self.fingerprint, address: ([10, 0, 0, 2], 16_384).into() },
        );
        self.by_path.insert(Self::path(index), index);
        self.peers.push(peer);
    }

    fn send(&mut self, index: usize, source: SourceName, frame: &Frame<'_>) {
        let mut out = [0; 1500];
        let len = self.peers[index].send_media(self.now, &mut out, source, frame);
        assert!(len > 0, "connected");
        self.call.handle_datagram(self.now, Self::path(index), &mut out[..len], &mut self.egress);
    }

    /// Carries what there is to carry, until there is nothing.
    fn exchange(&mut self) -> Vec<(usize, Received)> {
        let mut received = Vec::new();
        let mut out = [0; 1500];
        loop {
            let mut quiet = true;
            for (index, peer) in self.peers.iter_mut().enumerate() {
                while let Some(len) = peer.poll_transmit(self.now, &mut out) {
                    quiet = false;
                    let path = Self::path(index);
                    self.call.handle_datagram(self.now, path, &mut out[..len], &mut self.egress);
                }
            }
            loop {
                let more = self.call.poll_egress(self.now, &mut self.egress);
                for train in self.egress.trains() {
                    quiet = false;
                    let index = self.by_path[&train.path];
                    for datagram in self.egress.bytes(train).chunks(train.segment) {
                        let mut datagram = datagram.to_vec();
                        received.extend(
                            self.peers[index].handle_datagram(self.now, &mut datagram).map(|r| (index, r)),
                        );
                    }
                }
                assert_eq!(self.egress.clear(), 0);
                if !more {
                    break;
                }
            }
            while self.call.poll_event().is_some() {}
            if quiet {
                return received;
            }
        }
    }

    fn run(&mut self, time: Duration) -> Vec<(usize, Received)> {
        let end = self.now + time;
        let mut received = self.exchange();
        loop {
            let peers = self.peers.iter().filter_map(Peer::poll_timeout);
            let Some(next) = peers.chain(self.call.poll_timeout()).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.call.handle_timeout(self.now, &mut self.egress);
            self.peers.iter_mut().for_each(|peer| peer.handle_timeout(self.now));
            received.extend(self.exchange());
        }
        self.now = end;
        received
    }
}

/// A world of one who sends video and some who watch, connected.
fn world(watchers: usize) -> World {
    let now = Instant::now();
    let mut world = World::new(now, Settings::new(now).expect("settings").like_a_browser());
    world.join(&Plan::receiver(1, 1).sending(&[SourceName::Camera]));
    (0..watchers).for_each(|_| world.join(&Plan::receiver(1, 2)));
    world.run(Duration::from_millis(300));
    assert!(world.peers.iter().all(Peer::is_connected));
    world
}

#[test]
fn what_one_sends_the_others_receive() {
    let mut world = world(3);
    let mut wanted = 0;
    for frame in 0..30_u16 {
        for packet in 0..4_u8 {
            let mut bytes = [0; KEY_DESCRIPTOR_LEN];
            let ends = (packet == 0, packet == 3);
            let len = descriptor(&mut bytes, frame, frame == 0, ends);
            let payload = [packet; 1000];
            let packet = Frame {
                descriptor: Some(&bytes[..len]),
                ..Frame::new(u32::from(frame) * 3000, packet == 3, &payload)
            };
            world.send(0, SourceName::Camera, &packet);
        }
        world.run(Duration::from_millis(33));
    }
    while let Some(event) = world.peers[0].poll_event() {
        wanted += u32::from(event == PeerEvent::KeyFrameWanted(SourceName::Camera, 0));
    }
    assert!(wanted < 4, "{wanted} requests");
    assert!(world.peers[0].slots().all(|(_, slot)| slot.statistics().packets == 0), "not to oneself");
    for peer in &world.peers[1..] {
        let slots: Vec<_> = peer.slots().map(|(_, slot)| slot.statistics()).collect();
        let packets: Vec<_> = slots.iter().map(|slot| slot.packets).collect();
        assert_eq!(packets, [0, 120, 0]);
        assert_eq!((slots[1].missing, slots[1].went_back, slots[1].bytes), (0, 0, 120_000));
        let counters = peer.counters();
        assert_eq!((counters.unknown_ssrc, counters.unauthentic, counters.replayed), (0, 0, 0));
    }
}
