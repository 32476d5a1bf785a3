//! str0m (Rust).

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use str0m::change::SdpAnswer;
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

use super::{create, participants, request, token};
use crate::process::Relay;

/// For the whole call.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long one client waits for a datagram before the other has its turn.
const TURN: Duration = Duration::from_millis(2);

/// Between two packets of audio; every other time there is a frame of video, too.
const TICK: Duration = Duration::from_millis(20);

/// Several packets.
const VIDEO_BYTES: usize = 3_000;

const AUDIO_BYTES: usize = 90;

/// Frames of each kind that are enough.
const ENOUGH: usize = 25;

/// Louder than what counts as speech, in dBov.
const LEVEL: i8 = -20;

/// A client in a call: sends in the first two sections, receives in the others.
struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    /// Where its session is.
    location: String,
    token: String,
    mids: [Mid; 4],
    connected: bool,
    closed: bool,
    key_frame_requests: Vec<Mid>,
    received: VecDeque<MediaData>,
}

impl Client {
    fn join(relay: &Relay, call: &str, participant: &str) -> Self {
        let token = token(relay, call, participant);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut rtc = Rtc::builder().build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap()).unwrap();
        let mut changes = rtc.sdp_api();
        let sections = [
            (MediaKind::Audio, Direction::SendOnly),
            (MediaKind::Video, Direction::SendOnly),
            (MediaKind::Audio, Direction::RecvOnly),
            (MediaKind::Video, Direction::RecvOnly),
        ];
        let mids = sections.map(|(kind, direction)| changes.add_media(kind, direction, None, None, None));
        let (offer, pending) = changes.apply().unwrap();
        let path = format!("/v1/calls/{call}/participants");
        let (head, answer) = request(relay, "POST", &path, &token, &offer.to_sdp_string());
        assert!(head.starts_with("HTTP/1.1 201"), "{head}\n{answer}");
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
        rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        Self {
            rtc,
            socket,
            address,
            location,
            token,
            mids,
            connected: false,
            closed: false,
            key_frame_requests: Vec::new(),
            received: VecDeque::new(),
        }
    }

    /// Sends what there is, waits a little for a datagram, and handles all that came.
    fn turn(&mut self) {
        let mut wait = TURN;
        loop {
            let wake = self.send();
            wait = wait.min(wake.saturating_duration_since(Instant::now())).max(Duration::from_micros(1));
            self.socket.set_read_timeout(Some(wait)).unwrap();
            let mut datagram = [0; 2_000];
            let received = self.socket.recv_from(&mut datagram);
            let now = Instant::now();
            let Ok((length, source)) = received else {
                self.rtc.handle_input(Input::Timeout(now)).unwrap();
                return;
            };
            let contents = datagram[..length].try_into().unwrap();
            let (proto, destination) = (Protocol::Udp, self.address);
            self.rtc
                .handle_input(Input::Receive(now, Receive { proto, source, destination, contents }))
                .unwrap();
            // What came meanwhile waits no longer: to the relay it would look like a queue on the way.
            wait = Duration::ZERO;
        }
    }

    /// Sends what there is. When to come back.
    fn send(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Transmit(sent) => {
                    self.socket.send_to(&sent.contents, sent.destination).unwrap();
                }
                Output::Event(event) => self.event(event),
                Output::Timeout(wake) => return wake,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::Closed => self.closed = true,
            Event::KeyframeRequest(asked) => self.key_frame_requests.push(asked.mid),
            Event::MediaData(data) => self.received.push_back(data),
            _ => {}
        }
    }

    fn pt(&mut self, mid: Mid, codec: Codec) -> Pt {
        let writer = self.rtc.writer(mid).unwrap();
        writer.payload_params().find(|params| params.spec().codec == codec).unwrap().pt()
    }
}

/// The bytes of a frame: a VP8 frame header (RFC 6386, section 9.1), then a pattern that tells its number.
fn video_frame(number: u32, is_key_frame: bool) -> Vec<u8> {
    let mut frame = vec![0x10 | u8::from(!is_key_frame), 0, 0];
    if is_key_frame {
        frame.extend([0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
    }
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..VIDEO_BYTES).map(|at| pattern(number, at)));
    frame
}

fn is_key_frame(frame: &[u8]) -> bool {
    frame.len() == VIDEO_BYTES && frame[0] & 1 == 0
}

fn audio_frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0x78];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..AUDIO_BYTES).map(|at| pattern(number, at)));
    frame
}

fn pattern(number: u32, at: usize) -> u8 {
    (u32::try_from(at).unwrap().wrapping_mul(31) ^ number.wrapping_mul(2_654_435_761)).to_le_bytes()[1]
}

/// What one client sent, each kind in order.
struct Sent {
    audio: Vec<Vec<u8>>,
    video: Vec<Vec<u8>>,
    next: Instant,
    ticks: u32,
    /// Key frame requests that were answered.
    answered: usize,
}

impl Sent {
    /// Sends what is due: video only as key frames when somebody asked for one.
    fn tick(&mut self, client: &mut Client) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next += TICK;
        let [audio, video, ..] = client.mids;
        let pt = client.pt(audio, Codec::Opus);
        let frame = audio_frame(self.ticks);
        let time = MediaTime::new(u64::from(self.ticks) * 960, Frequency::FORTY_EIGHT_KHZ);
        let writer = client.rtc.writer(audio).unwrap().audio_level(LEVEL, true);
        writer.write(pt, now, time, frame.clone()).unwrap();
        self.audio.push(frame);
        if self.ticks.is_multiple_of(2) {
            let asked = client.key_frame_requests.len();
            let frame = video_frame(self.ticks, self.video.is_empty() || asked > self.answered);
            self.answered = asked;
            let pt = client.pt(video, Codec::Vp8);
            let time = MediaTime::from_90khz(u64::from(self.ticks) * 1_800);
            client.rtc.writer(video).unwrap().write(pt, now, time, frame.clone()).unwrap();
            self.video.push(frame);
        }
        self.ticks += 1;
    }
}

/// Frames arrive in order with the bytes that were sent, none missing between the first and the last; only at a key frame
/// pictures may begin anew, as they do where this machine is too slow for a while and looks like a slow line.
fn assert_intact(kind: &str, received: &[Vec<u8>], sent: &[Vec<u8>]) {
    let mut expected = 0;
    for (index, frame) in received.iter().enumerate() {
        let skipped = sent[expected..].iter().position(|sent| sent == frame);
        let skipped =
            skipped.unwrap_or_else(|| panic!("{kind}: frame {index} was not sent, or before: {frame:?}"));
        assert!(
            skipped == 0 || index == 0 || is_key_frame(frame),
            "{kind}: {skipped} missing before frame {index} of {}",
            sent.len()
        );
        expected += skipped + 1;
    }
}

#[test]
fn str0m_clients_get_each_others_frames_and_key_frame_requests() {
    str0m::crypto::from_feature_flags().install_process_default();
    let relay = Relay::running();
    let call = create(&relay);
    let mut ann = Client::join(&relay, &call, "Ann");
    let mut bob = Client::join(&relay, &call, "Bob");
    let began = Instant::now();
    let patient = |what: &str| assert!(began.elapsed() < PATIENCE, "no end of waiting for {what}");
    while !(ann.connected && bob.connected) {
        patient("the connections");
        ann.turn();
        bob.turn();
    }

    let mut sent = Sent { audio: Vec::new(), video: Vec::new(), next: Instant::now(), ticks: 0, answered: 0 };
    let (mut audio, mut video): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let [_, ann_video, ..] = ann.mids;
    let [_, _, bob_audio, bob_video] = bob.mids;
    // Key frame requests that came because Bob's slot shows Ann now; then he asks himself.
    let mut before = None;
    loop {
        patient("media and key frames");
        sent.tick(&mut ann);
        ann.turn();
        bob.turn();
        for data in bob.received.drain(..) {
            if data.mid == bob_audio {
                assert_eq!(data.ext_vals.audio_level, Some(LEVEL));
                audio.push(data.data.to_vec());
            } else {
                assert_eq!(data.mid, bob_video);
                video.push(data.data.to_vec());
            }
        }
        let requests = ann.key_frame_requests.len();
        match before {
            None if video.len() >= ENOUGH && audio.len() >= ENOUGH => {
                before = Some(requests);
                let mut writer = bob.rtc.writer(bob_video).unwrap();
                writer.request_keyframe(None, KeyframeRequestKind::Pli).unwrap();
            }
            Some(before) if requests > before && video.len() >= 2 * ENOUGH => break,
            _ => {}
        }
    }
    assert!(ann.key_frame_requests.iter().all(|mid| *mid == ann_video));
    assert_intact("audio", &audio, &sent.audio);
    assert_intact("video", &video, &sent.video);
    assert!(ann.received.is_empty() && bob.key_frame_requests.is_empty(), "nobody gets their own media");

    assert_eq!(participants(&relay, &call), 2);
    let (head, body) = request(&relay, "DELETE", &ann.location, &ann.token, "");
    assert!(head.starts_with("HTTP/1.1 204"), "{head}\n{body}");
    assert_eq!(participants(&relay, &call), 1);
    // Who is still in the call when it ends is told so, by DTLS.
    relay.json(&["call", "end", &call]);
    while !bob.closed {
        patient("Bob to be told that the call is over");
        bob.turn();
    }
}
