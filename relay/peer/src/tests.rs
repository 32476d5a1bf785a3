//! A peer against the other side's pieces, in memory.

mod simulcast;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::dtls::{DtlsError, Handshake};
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::ice::Agent;
use trunkline_relay_proto::media::{Description, Downstream, IceCredentials, Mid};
use trunkline_relay_proto::path::{Path, Transport};
use trunkline_relay_proto::rtcp::{self, Packet, Writer};
use trunkline_relay_proto::rtp::{self, Header};
use trunkline_relay_proto::srtp::{Opener, Sealer};
use trunkline_relay_proto::stun;

use crate::outgoing::{KEY_DESCRIPTOR_LEN, descriptor};
use crate::peer::DATAGRAM_BYTES_MAX;
use crate::{Answer, AnswerError, Frame, Media, Peer, PeerEvent, Plan, Received, Remote, Settings, stamp};

/// The other side: lite ICE, DTLS server, keys.
struct Host {
    agent: Agent,
    dtls: Handshake,
    ice: IceCredentials,
    keys: Option<(Opener, Sealer)>,
    /// Opened media and feedback of the peer.
    received: Vec<Vec<u8>>,
}

impl Host {
    fn new(now: Instant, settings: &Settings, description: &Description) -> Self {
        let ice = credentials("host");
        Self {
            agent: Agent::new(now, ice.clone(), description.ice.clone()),
            dtls: Handshake::new(now, &settings.dtls, description.fingerprint),
            ice,
            keys: None,
            received: Vec::new(),
        }
    }

    fn handle(&mut self, now: Instant, path: Path, datagram: &mut [u8]) -> Vec<Vec<u8>> {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let mut answers = Vec::new();
        match demux::classify(datagram) {
            Protocol::Stun => {
                let request = stun::Request::parse(datagram).expect("a check");
                let handled = self.agent.handle_request(now, path, &request, &mut out).expect("taken");
                answers.push(out[..handled.len].to_vec());
            }
            Protocol::Dtls => self.dtls.handle_datagram(now, datagram).expect("taken"),
            Protocol::Rtp => {
                let header = Header::parse(datagram).expect("RTP");
                let opener = &mut self.keys.as_mut().expect("keys").0;
                let len = opener.open_rtp(datagram, &header).expect("opened").len;
                self.received.push(datagram[..len].to_vec());
            }
            Protocol::Rtcp => {
                let len = self.keys.as_mut().expect("keys").0.open_rtcp(datagram).expect("opened");
                self.received.push(datagram[..len].to_vec());
            }
            Protocol::Unknown => panic!("garbage from a peer"),
        }
        if let Some(keys) = self.dtls.poll_keys() {
            self.keys = Some((Opener::new(keys.profile, &keys.open), Sealer::new(keys.profile, &keys.seal)));
        }
        while let Some(len) = self.dtls.poll_transmit(&mut out) {
            answers.push(out[..len].to_vec());
        }
        answers
    }

    /// Seals a packet of a stream, as a relay writes it: with the sender's name.
    fn packet(&self, ssrc: u32, index: u64, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x81, 96];
        packet.extend(u16::try_from(index & 0xffff).expect("masked").to_be_bytes());
        packet.extend(3000_u32.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(77_u32.to_be_bytes());
        packet.extend(payload);
        let len = packet.len();
        packet.resize(len + 16, 0);
        let sealed = self.keys.as_ref().expect("keys").1.seal_rtp(&mut packet, 16, len, index);
        packet.truncate(sealed);
        packet
    }

    fn feedback(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<u8> {
        let mut out = vec![0; 1200];
        let mut writer = Writer::new(&mut out[..1000]);
        assert!(write(&mut writer));
        let len = writer.len();
        let sealed = self.keys.as_mut().expect("keys").1.seal_rtcp(&mut out, len);
        out.truncate(sealed);
        out
    }
}

/// Both sides and the time.
struct Pair {
    now: Instant,
    peer: Peer,
    host: Host,
    path: Path,
    description: Description,
}

impl Pair {
    fn new(settings: Settings, plan: &Plan) -> Self {
        let now = settings.epoch;
        let settings = Arc::new(settings);
        let mut peer = Peer::new(&settings, 7);
        let description = peer.description(plan);
        let host = Host::new(now, &settings, &description);
        let path = Path::new(([10, 0, 0, 1], 5000).into(), [10, 0, 0, 2].into());
        let fingerprint = settings.dtls.fingerprint();
        let remote = Remote { ice: host.ice.clone(), fingerprint, address: ([10, 0, 0, 2], 16_384).into() };
        peer.connect(now, remote);
        Self { now, peer, host, path, description }
    }

    fn connected(settings: Settings, plan: &Plan) -> Self {
        let mut pair = Self::new(settings, plan);
        pair.run(Duration::from_secs(1), &mut || false);
        assert!(pair.peer.is_connected());
        assert_eq!(pair.peer.poll_event(), Some(PeerEvent::Connected));
        pair
    }

    /// Carries datagrams for a while, except those that are lost.
    fn run(&mut self, time: Duration, lost: &mut dyn FnMut() -> bool) {
        let end = self.now + time;
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            while let Some(len) = self.peer.poll_transmit(self.now, &mut out) {
                if lost() {
                    continue;
                }
                for mut answer in self.host.handle(self.now, self.path, &mut out[..len]) {
                    if !lost() {
                        self.peer.handle_datagram(self.now, &mut answer);
                    }
                }
            }
            let next = self.peer.poll_timeout().into_iter().chain(self.host.dtls.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.peer.handle_timeout(self.now);
            self.host.dtls.handle_timeout(self.now).expect("in time");
            while let Some(len) = self.host.dtls.poll_transmit(&mut out) {
                if !lost() {
                    self.peer.handle_datagram(self.now, &mut out[..len]);
                }
            }
        }
        self.now = end;
    }

    fn send(&mut self, source: SourceName, frame: &Frame<'_>) -> bool {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let len = self.peer.send_media(self.now, &mut out, source, frame);
        if len > 0 {
            self.host.handle(self.now, self.path, &mut out[..len]);
        }
        len > 0
    }

    fn receive(&mut self, mut datagram: Vec<u8>) -> Option<(Media, Vec<u8>)> {
        match self.peer.handle_datagram(self.now, &mut datagram)? {
            Received::Media(media) => {
                let payload = datagram[media.payload.clone()].to_vec();
                Some((media, payload))
            }
            Received::Rtcp(_) => None,
        }
    }

    fn downstream(&self, mid: &str) -> Downstream {
        let mid = Mid::new(mid).expect("a mid");
        let section = self.description.sections.iter().find(|section| section.mid == mid).expect("a section");
        section.receive.expect("a slot")
    }
}

fn settings() -> Settings {
    Settings::new(Instant::now()).expect("settings")
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: format!("{name}ufrag"), pwd: format!("{name}{}", "p".repeat(22)) }
}

fn everything() -> Plan {
    Plan::receiver(2, 3).sending(&[SourceName::Microphone, SourceName::Camera, SourceName::Screen])
}

#[test]
fn it_connects_at_once_where_nothing_is_lost() {
    let mut pair = Pair::new(settings(), &everything());
    pair.run(Duration::ZERO, &mut || false);
    assert!(pair.peer.is_connected());
    assert_eq!(pair.peer.poll_event(), Some(PeerEvent::Connected));
    assert_eq!(pair.peer.poll_event(), None);
}

#[test]
fn it_connects_through_loss() {
    let mut n = 0_u32;
    let mut pair = Pair::new(settings(), &everything());
    pair.run(Duration::from_secs(5), &mut || {
        n += 1;
        n % 3 == 1
    });
    assert!(pair.peer.is_connected());
}

#[test]
fn it_does_not_talk_to_one_with_another_certificate() {
    let mut pair = Pair::new(settings(), &everything());
    let remote =
        Remote { ice: pair.host.ice.clone(), fingerprint: [1; 32], address: ([10, 0, 0, 2], 16_384).into() };
    pair.peer.connect(pair.now, remote);
    pair.run(Duration::from_millis(100), &mut || false);
    assert_eq!(pair.peer.poll_event(), Some(PeerEvent::Failed(DtlsError::Fingerprint)));
    assert!(!pair.peer.is_connected());
}

#[test]
fn it_checks_for_consent_and_notices_when_there_is_none() {
    let mut pair = Pair::connected(settings(), &everything());
    let before = pair.peer.counters().checks_answered;
    pair.run(Duration::from_secs(10), &mut || false);
    assert!((4..=5).contains(&(pair.peer.counters().checks_answered - before)));
    pair.run(Duration::from_secs(40), &mut || true);
    assert_eq!(pair.peer.poll_event(), Some(PeerEvent::Lost));
}

#[test]
fn the_other_side_follows_to_a_new_address_and_takes_new_credentials() {
    let mut pair = Pair::connected(settings(), &everything());
    pair.path = Path::new(([10, 9, 9, 9], 6000).into(), [10, 0, 0, 2].into());
    pair.peer.roam(pair.now);
    pair.run(Duration::ZERO, &mut || false);
    assert_eq!(pair.host.agent.path(), Some(pair.path));

    let (remote, local) = (pair.peer.restart_ice(), credentials("again"));
    pair.host.agent.restart(pair.now, local.clone(), remote);
    let fingerprint = pair.peer.settings.dtls.fingerprint();
    let address = pair.peer.remote_address().expect("connected");
    pair.peer.connect(pair.now, Remote { ice: local, fingerprint, address });
    let before = pair.peer.counters().checks_answered;
    pair.run(Duration::ZERO, &mut || false);
    assert_eq!(pair.peer.counters().checks_answered, before + 1);
    assert_eq!(pair.host.agent.local_ufrags().count(), 1, "the old credentials are gone");
    assert!(pair.peer.is_connected() && pair.peer.poll_event().is_none());
}

#[test]
fn what_it_sends_is_media_with_its_numbers_and_extensions() {
    let mut pair = Pair::connected(settings(), &everything());
    let mut bytes = [0; KEY_DESCRIPTOR_LEN];
    let len = descriptor(&mut bytes, 9, true, (true, false));
    let frame = Frame { descriptor: Some(&bytes[..len]), ..Frame::new(4000, true, &[5; 100]) };
    assert!(pair.send(SourceName::Camera, &frame));
    assert!(pair.send(SourceName::Camera, &Frame::new(7000, false, &[6; 90])));
    let level = Frame { audio_level: Some((true, 30)), ..Frame::new(960, false, &[7; 80]) };
    assert!(pair.send(SourceName::Microphone, &level));
    assert!(!pair.send(SourceName::ScreenAudio, &Frame::new(0, false, &[])), "it has no such source");

    let headers: Vec<_> =
        pair.host.received.iter().map(|packet| (Header::parse(packet).expect("RTP"), packet)).collect();
    let (first, packet) = &headers[0];
    assert_eq!((first.payload_type, first.marker, first.timestamp), (96, true, 4000));
    let elements: Vec<_> = first.elements(packet).collect();
    assert_eq!(elements, [(2, &b"c"[..]), (3, &bytes[..])]);
    let read = rtp::descriptor::Descriptor::parse(&bytes).expect("a descriptor");
    assert!(read.is_key_frame() && read.start_of_frame && !read.end_of_frame && read.frame_number == 9);
    assert_eq!(headers[1].0.sequence, first.sequence + 1);
    assert_eq!(rtp::payload(headers[1].1, &headers[1].0), Ok(&[6; 90][..]));
    assert_eq!(headers[2].0.elements(headers[2].1).next(), Some((1, &[0x80 | 30][..])));
    let expected = pair.description.sections[1].send.as_ref().map(|send| send.ssrcs[0]);
    assert_eq!(Some(first.ssrc), expected);
}

#[test]
fn what_it_receives_is_told_apart_by_slot() {
    let mut pair = Pair::connected(settings(), &everything());
    let slot = pair.downstream("v1");
    let mut stamped = [9; 50];
    stamp::write(&mut stamped, pair.peer.settings.epoch, pair.now);
    let packets = [pair.host.packet(slot.ssrc, 500, &stamped), pair.host.packet(slot.ssrc, 502, &[1])];
    let lost = pair.host.packet(slot.rtx_ssrc.expect("video"), 3, &[0x01, 0xf5, 8, 8]);
    let stranger = pair.host.packet(1, 1, &[0]);
    pair.now += Duration::from_millis(4);

    let (media, payload) = pair.receive(packets[0].clone()).expect("media");
    assert_eq!((media.mid.as_str(), media.csrc, media.rtx, media.new), ("v1", Some(77), false, true));
    assert_eq!((media.latency, payload.as_slice()), (Some(Duration::from_millis(4)), &stamped[..]));
    assert!(pair.peer.count_datagram(pair.now, &packets[1]));
    let (media, payload) = pair.receive(lost).expect("media");
    assert_eq!((media.rtx, media.new, media.index & 0xffff, payload), (true, true, 501, vec![8, 8]));
    assert_eq!(pair.receive(packets[0].clone()), None);
    assert_eq!(pair.receive(stranger), None);

    let statistics = pair.peer.statistics(Mid::new("v1").expect("a mid")).expect("a slot");
    assert_eq!((statistics.packets, statistics.repaired, statistics.missing), (2, 1, 0));
    assert_eq!((statistics.bytes, statistics.stamped), (53, 1));
    let counters = pair.peer.counters();
    assert_eq!((counters.replayed, counters.unknown_ssrc), (1, 1));
}

#[test]
fn it_sends_again_what_is_asked_for_and_tells_of_key_frames_wanted() {
    let mut pair = Pair::connected(settings().like_a_browser(), &everything());
    pair.host.received.clear();
    for n in 0..3 {
        pair.send(SourceName::Camera, &Frame::new(n, false, &[u8::try_from(n).expect("small"); 20]));
    }
    let media = pair.peer.outgoing(SourceName::Camera).expect("a camera").ssrc();
    let second = Header::parse(&pair.host.received[1]).expect("RTP").sequence;
    pair.host.received.clear();
    let mut feedback = pair.host.feedback(|writer| {
        writer.receiver_report(9, &[])
            && writer.nack(9, media, [second, second + 40])
            && writer.pli(9, media)
            && writer.fir(9, &[(media, 1)])
    });
    let received = pair.peer.handle_datagram(pair.now, &mut feedback);
    assert!(matches!(received, Some(Received::Rtcp(_))));
    for _ in 0..2 {
        assert_eq!(pair.peer.poll_event(), Some(PeerEvent::KeyFrameWanted(SourceName::Camera, 0)));
    }
    pair.run(Duration::ZERO, &mut || false);
    assert_eq!(pair.host.received.len(), 1);
    let packet = &pair.host.received[0];
    let header = Header::parse(packet).expect("RTP");
    assert_eq!((header.payload_type, header.timestamp), (97, 1));
    let [high, low] = second.to_be_bytes();
    assert_eq!(rtp::payload(packet, &header), Ok(&[&[high, low], &[1; 20][..]].concat()[..]));
}

#[test]
fn it_reports_and_asks_for_what_is_missing() {
    let mut pair = Pair::connected(settings().like_a_browser(), &everything());
    let slot = pair.downstream("v0");
    pair.send(SourceName::Camera, &Frame::new(1, false, &[0; 20]));
    pair.host.received.clear();
    for index in [10, 12] {
        let packet = pair.host.packet(slot.ssrc, index, &[0; 30]);
        pair.receive(packet).expect("media");
    }
    pair.run(Duration::from_millis(20), &mut || false);
    let asked: Vec<u16> = feedback(&pair)
        .filter_map(|packet| match packet {
            Packet::Nack { media, lost, .. } if media == slot.ssrc => Some(lost.collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(asked, [11]);
    pair.run(Duration::from_secs(1), &mut || false);
    let report = feedback(&pair).find_map(|packet| match packet {
        Packet::SenderReport { packets, octets, blocks, .. } => Some((packets, octets, blocks)),
        _ => None,
    });
    let (packets, octets, mut blocks) = report.expect("a report");
    assert_eq!((packets, octets), (1, 20));
    assert_eq!(blocks.next().map(|block| (block.ssrc, block.lost)), Some((slot.ssrc, 1)));
}

fn feedback(pair: &Pair) -> impl Iterator<Item = Packet<'_>> {
    pair.host.received.iter().flat_map(|datagram| rtcp::packets(datagram)).flatten()
}

#[test]
fn both_sides_notice_when_one_leaves() {
    let mut pair = Pair::connected(settings(), &everything());
    pair.peer.close();
    pair.run(Duration::ZERO, &mut || false);
    assert!(pair.host.dtls.is_closed());

    let mut pair = Pair::connected(settings(), &everything());
    pair.host.dtls.close();
    let mut out = [0; DATAGRAM_BYTES_MAX];
    let len = pair.host.dtls.poll_transmit(&mut out).expect("good-bye");
    pair.peer.handle_datagram(pair.now, &mut out[..len]);
    assert_eq!(pair.peer.poll_event(), Some(PeerEvent::Closed));
}

#[test]
fn a_new_plan_keeps_sections_and_their_streams() {
    let settings = settings().shared();
    let mut peer = Peer::new(&settings, 1);
    let before = peer.description(&Plan::receiver(1, 1).sending(&[SourceName::Microphone]));
    let after = peer.description(&Plan::receiver(1, 2).sending(&[SourceName::Camera]));
    let mids: Vec<_> = after.sections.iter().map(|section| section.mid.as_str().to_owned()).collect();
    assert_eq!(mids, ["m", "a0", "v0", "c", "v1"]);
    assert_eq!(after.sections[1..3], before.sections[1..3]);
    assert_eq!(after.sections[0].send, None);
    assert_eq!(after.ice, before.ice);
}

#[test]
fn an_offer_says_what_the_description_does() {
    let settings = settings().shared();
    let (mut with, mut without) = (Peer::new(&settings, 1), Peer::new(&settings, 1));
    let description = with.description(&everything());
    let offer = with.offer(&everything());
    assert!(offer.contains("a=group:BUNDLE m c s a0 a1 v0 v1 v2\r\n"));
    assert!(offer.contains(&format!("a=ice-ufrag:{}\r\n", description.ice.ufrag)));
    assert_eq!(offer.matches("a=sendonly\r\n").count(), 3);
    assert_eq!(offer.matches("a=recvonly\r\n").count(), 5);
    assert_eq!(offer.matches("a=content:slides\r\n").count(), 1);
    let ssrcs = &description.sections[1].send.as_ref().expect("the camera").ssrcs;
    assert!(offer.contains(&format!("a=ssrc-group:FID {} {}\r\n", ssrcs[0], ssrcs[1])));
    let unnamed = without.offer(&Plan { names_ssrcs: false, ..everything() });
    assert!(!unnamed.contains("a=ssrc"));
}

const ANSWER: &str = "v=0\r\no=trunkline 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE m a0 v0\r\na=ice-lite\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\na=fingerprint:sha-256 \
    00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:m\r\na=recvonly\r\n\
    a=candidate:1 1 udp 2130706431 127.0.0.1 16384 typ host\r\n\
    a=candidate:2 1 tcp 1518280447 127.0.0.1 443 typ host tcptype passive\r\n\
    a=candidate:3 1 udp 2130706175 ::1 16384 typ host\r\na=end-of-candidates\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a0\r\na=sendonly\r\na=ssrc:11 cname:x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:v0\r\na=sendonly\r\na=ssrc-group:FID 12 13\r\na=ssrc:12 cname:x\r\n\
    m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:v1\r\na=inactive\r\n";

#[test]
fn an_answer_is_read_and_taken() {
    let settings = settings().shared();
    let mut peer = Peer::new(&settings, 1);
    peer.offer(&Plan::receiver(1, 2).sending(&[SourceName::Microphone]));
    let answer = peer.answer(Instant::now(), ANSWER).expect("usable");
    assert_eq!(answer.fingerprint, std::array::from_fn(|n| u8::try_from(n).expect("small")));
    let candidates: Vec<_> = answer.candidates.iter().map(ToString::to_string).collect();
    assert_eq!(candidates, ["127.0.0.1:16384", "[::1]:16384"]);
    assert_eq!(answer.rejected, [Mid::new("v1").expect("a mid")]);
    let slots: Vec<_> = peer.slots().map(|(_, incoming)| incoming.stream()).collect();
    assert_eq!(slots[0], Downstream { ssrc: 11, rtx_ssrc: None });
    assert_eq!(slots[1], Downstream { ssrc: 12, rtx_ssrc: Some(13) });
    assert_eq!(peer.remote_address(), Some(([127, 0, 0, 1], 16_384).into()));
}

#[test]
fn an_answer_that_lacks_something_says_what() {
    assert_eq!(Answer::read(&ANSWER.replace("a=ice-pwd", "a=x")), Err(AnswerError::Ice));
    assert_eq!(Answer::read(&ANSWER.replace("sha-256 00:", "sha-256 ")), Err(AnswerError::Fingerprint));
    // An active TCP candidate takes no connections.
    let nowhere = ANSWER.replace(" udp ", " tcp ").replace("passive", "active");
    assert_eq!(Answer::read(&nowhere), Err(AnswerError::Candidate));
}

#[test]
fn a_peer_goes_to_the_candidate_of_the_transport_it_was_told() {
    let settings = settings().shared();
    let only_tcp = ANSWER.lines().filter(|line| !line.contains(" udp ")).collect::<Vec<_>>().join("\r\n");
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut peer = Peer::new(&settings, 1);
        peer.offer(&Plan::receiver(1, 2));
        let answer = peer.answer_over(Instant::now(), &only_tcp, transport).expect("usable");
        assert_eq!(answer.candidates, []);
        assert_eq!(peer.remote_address(), Some(([127, 0, 0, 1], 443).into()));
    }
    let refused = Peer::new(&settings, 1).answer(Instant::now(), &only_tcp);
    assert_eq!(refused, Err(AnswerError::Candidate));
}

#[test]
fn answers_that_crossed_with_repeated_checks_are_answers_each() {
    let mut pair = Pair::new(settings(), &everything());
    let mut out = [0; DATAGRAM_BYTES_MAX];
    let mut answers = Vec::new();
    for _ in 0..3 {
        let len = pair.peer.poll_transmit(pair.now, &mut out).expect("a check");
        answers.extend(pair.host.handle(pair.now, pair.path, &mut out[..len]));
        pair.now = pair.peer.poll_timeout().expect("it repeats");
    }
    for answer in &mut answers.clone() {
        pair.peer.handle_datagram(pair.now, answer);
    }
    assert_eq!((pair.peer.counters().checks_answered, pair.peer.counters().malformed), (3, 0));
    pair.peer.handle_datagram(pair.now, &mut answers[0]);
    assert_eq!((pair.peer.counters().checks_answered, pair.peer.counters().malformed), (3, 0), "and once");
}
