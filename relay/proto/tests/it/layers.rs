//! Whatever arrives, what a receiver gets is a decodable sequence: senders with one to three encodings of any layers, packets
//! that come late, twice or never, and a receiver whose line, tiles and wishes change all the time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use trunkline_relay_proto::event::{Pin, Request};
use trunkline_relay_proto::media::{Content, Extension, Kind, Rid, Section};
use trunkline_relay_proto::rtcp;
use trunkline_relay_proto::rtp::descriptor::write::{DESCRIPTOR_LEN_MAX, Pattern};
use trunkline_relay_proto::rtp::descriptor::{Descriptor, Structure};
use trunkline_testkit::rng::Rng;

use crate::client::{DESCRIPTOR, Got, Sent, World, section};

const RIDS: [&str; 3] = ["q", "h", "f"];
const TRANSPORT: u8 = 7;
const TICK: Duration = Duration::from_millis(33);
const TICKS: usize = 300;
/// More of them: `LAYERS_SEEDS=1000`; one alone: `LAYERS_SEED=7`.
const SEEDS: u64 = 40;

/// A frame as its sender knows it.
#[derive(Debug, Default)]
struct Made {
    key: bool,
    packets: u8,
    /// Places in the log of the frames it needs.
    needs: Vec<usize>,
    arrived: HashSet<u8>,
    /// Since when the relay has all of it.
    whole_at: Option<usize>,
    /// A packet of it came without its descriptor, or with another.
    damaged: bool,
}

/// One SSRC of one encoding of a camera.
type Stream = (u8, u8, u8);

/// Which packet it is, as its payload says: stream, place of the frame in the log, packet of the frame.
type Name = (Stream, usize, u8);

fn name(payload: &[u8]) -> Option<Name> {
    let [camera, encoding, generation, a, b, packet, ..] = *payload else { return None };
    Some(((camera, encoding, generation), usize::from(u16::from_be_bytes([a, b])), packet))
}

struct Encoder {
    stream: Stream,
    pattern: Pattern,
    structure: Option<Structure>,
    first_number: u16,
    picture: u32,
    index: u64,
}

struct Camera {
    client: usize,
    encoders: Vec<Encoder>,
    timestamp: u32,
    requests: usize,
    asked: bool,
}

/// On its way to the relay.
struct Flying {
    due: usize,
    camera: usize,
    name: Name,
    sent: Sent<'static>,
}

struct Scene {
    rng: Rng,
    world: World,
    cameras: Vec<Camera>,
    viewer: usize,
    flying: Vec<Flying>,
    log: HashMap<Stream, Vec<Made>>,
    late: HashSet<Name>,
    delivered: HashMap<Stream, u64>,
    tick: usize,
    /// When each of the viewer's packets came.
    came: Vec<usize>,
    loss: f64,
    bare: f64,
    garbage: f64,
    feedback: usize,
}

fn encoder(rng: &mut Rng, stream: Stream) -> Encoder {
    let small = u8::try_from(rng.index(3)).expect("few") + 1;
    let temporal = u8::try_from(rng.index(3)).expect("few") + 1;
    let height = 180_u16 << stream.1;
    Encoder {
        stream,
        pattern: Pattern::new(small, temporal, rng.chance(0.5)).with_resolution(height * 2, height),
        structure: None,
        first_number: u16::try_from(rng.index(65_536)).expect("16 bits"),
        picture: 0,
        index: 1000 + rng.range(0..60_000),
    }
}

fn viewer(feedback: usize) -> Section {
    let mut slot = section("v0", Kind::Video, None, 9000);
    slot.payload_types[0].remb = feedback == 1;
    if feedback == 2 {
        slot.payload_types[0].transport_cc = true;
        slot.extensions.set(Extension::TransportSequence, TRANSPORT);
    }
    slot
}

impl Scene {
    fn new(seed: u64, garbage: f64) -> Self {
        let mut rng = Rng::new(seed);
        let mut world = World::seeded(5, seed);
        let mut cameras = Vec::new();
        for (camera, who) in (0_u8..).zip(["ann", "bob"]) {
            let count = 1 + rng.index(3);
            let mut cam = section("cam", Kind::Video, Some(Content::Main), 100 * (u32::from(camera) + 1));
            let send = cam.send.as_mut().expect("it sends");
            send.ssrcs.clear();
            send.rids = RIDS.iter().take(count).filter_map(|rid| Rid::new(rid)).collect();
            let client = world.join(who, vec![cam]);
            let encoders = (0..3).take(count).map(|at| encoder(&mut rng, (camera, at, 0))).collect();
            let timestamp = u32::try_from(rng.next_u64() >> 32).expect("32 bits");
            cameras.push(Camera { client, encoders, timestamp, requests: 0, asked: false });
        }
        let feedback = rng.index(3);
        let viewer = world.join("eve", vec![viewer(feedback)]);
        let loss = if rng.chance(0.7) { rng.unit() * 0.08 } else { 0.0 };
        let bare = if rng.chance(0.3) { 0.01 } else { 0.0 };
        Self {
            rng,
            world,
            cameras,
            viewer,
            flying: Vec::new(),
            log: HashMap::new(),
            late: HashSet::new(),
            delivered: HashMap::new(),
            tick: 0,
            came: Vec::new(),
            loss,
            bare,
            garbage,
            feedback,
        }
    }

    /// One picture of every encoding.
    fn capture(&mut self) {
        let Self { rng, world, cameras, flying, log, tick, .. } = self;
        for (at, camera) in cameras.iter_mut().enumerate() {
            camera.timestamp = camera.timestamp.wrapping_add(3000);
            let requests = world.clients[camera.client].key_frame_requests;
            camera.asked |= requests > camera.requests;
            camera.requests = requests;
            let answers = camera.asked && rng.chance(0.5);
            camera.asked &= !answers;
            for encoder in &mut camera.encoders {
                if rng.chance(0.003) {
                    let (camera, encoding, generation) = encoder.stream;
                    encoder.stream = (camera, encoding, generation + 1);
                    flying.retain(|flying| (flying.name.0.0, flying.name.0.1) != (camera, encoding));
                    encoder.picture = 0;
                    encoder.structure = None;
                } else if answers || rng.chance(0.01) {
                    encoder.picture = 0;
                }
                let spatial = encoder.pattern.spatial_layers();
                let made = log.entry(encoder.stream).or_default();
                for layer in 0..spatial {
                    let packets = 1 + u8::try_from(rng.index(4)).expect("few");
                    let place = made.len();
                    let number = encoder.first_number.wrapping_add(u16::try_from(place).expect("few"));
                    let mut frame =
                        Made { key: encoder.picture == 0 && layer == 0, packets, ..Made::default() };
                    for packet in 0..packets {
                        let mut value = [0; DESCRIPTOR_LEN_MAX];
                        let ends = (packet == 0, packet + 1 == packets);
                        let len = encoder.pattern.write(&mut value, number, encoder.picture, layer, ends);
                        let mut value = value[..len].to_vec();
                        if packet == 0 {
                            if frame.key {
                                encoder.structure = Structure::parse(&value);
                            }
                            let read =
                                encoder.structure.as_ref().and_then(|s| s.frame(&value)).expect("sound");
                            frame.needs = read
                                .fdiffs
                                .as_slice()
                                .iter()
                                .map(|fdiff| place - usize::from(*fdiff))
                                .collect();
                        }
                        if self.garbage > 0.0 && rng.chance(self.garbage) {
                            frame.damaged = true;
                            value = {
                                let len = 1 + rng.index(20);
                                rng.bytes(len)
                            };
                        }
                        let (a, b, c) = encoder.stream;
                        let mut payload = vec![a, b, c];
                        payload.extend(u16::try_from(place).expect("few").to_be_bytes());
                        payload.push(packet);
                        payload.resize(40 + rng.index(400), 0x55);
                        let mut sent = Sent::video(camera.timestamp, &payload).at(encoder.index);
                        sent.marker = layer + 1 == spatial && ends.1;
                        // The first picture tells that there are descriptors.
                        if place > 2 && rng.chance(self.bare) {
                            frame.damaged = true;
                        } else {
                            sent.extensions.push((DESCRIPTOR, value));
                        }
                        let ssrc = 5000 + 100 * u32::from(a) + 10 * u32::from(b) + 1000 * u32::from(c);
                        let sent = sent.encoding(RIDS[usize::from(b)], ssrc);
                        encoder.index += 1;
                        let name = (encoder.stream, place, packet);
                        if !rng.chance(self.loss) {
                            let late = if rng.chance(self.loss) { rng.index(6) } else { 0 };
                            flying.push(Flying { due: *tick + late, camera: at, name, sent });
                        }
                    }
                    made.push(frame);
                }
                encoder.picture += 1;
            }
        }
        if self.loss > 0.0 {
            for at in 1..flying.len() {
                if rng.chance(0.03) {
                    flying.swap(at - 1, at);
                }
            }
        }
    }

    fn deliver(&mut self) {
        let tick = self.tick;
        let (due, flying) =
            std::mem::take(&mut self.flying).into_iter().partition(|flying| flying.due <= tick);
        self.flying = flying;
        let due: Vec<Flying> = due;
        for Flying { camera, name, sent, .. } in due {
            let (stream, place, packet) = name;
            let index = sent.index.expect("numbered");
            let newest = self.delivered.entry(stream).or_insert(index);
            if index < *newest {
                self.late.insert(name);
            }
            *newest = (*newest).max(index);
            let frame = &mut self.log.get_mut(&stream).expect("made")[place];
            frame.arrived.insert(packet);
            if frame.arrived.len() == usize::from(frame.packets) && frame.whole_at.is_none() {
                frame.whole_at = Some(tick);
            }
            let client = self.cameras[camera].client;
            self.world.media(client, &sent);
            if self.rng.chance(0.02) {
                self.world.media(client, &sent);
            }
        }
    }

    /// The viewer changes its mind, and its line.
    fn disturb(&mut self) {
        let Self { rng, world, viewer, .. } = self;
        let id = world.clients[*viewer].id;
        if rng.chance(0.03) {
            let participant = ["ann", "bob"].get(rng.index(3)).map(ToString::to_string);
            let height = [None, Some(90), Some(180), Some(360), Some(720)][rng.index(5)];
            let pin = Pin { slot: "v0".into(), participant, source: None, height };
            world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
            world.settle();
        }
        let rate = [1_000, 60_000, 150_000, 300_000, 600_000, 1_500_000, 8_000_000][rng.index(7)];
        let (change, asks, nacks) = (rng.chance(0.05), rng.chance(0.005), rng.chance(0.1));
        let stream = world.clients[*viewer].ssrc("v0");
        let newest = world.clients[*viewer].got.iter().rev().find(|got| !got.rtx).map(|got| got.index);
        let wanted = newest.map(|newest| newest.saturating_sub(rng.range(0..60)));
        let transport: Vec<u16> = match (self.feedback, world.clients[*viewer].got.last()) {
            (2, Some(got)) if rng.chance(0.5) => {
                let newest =
                    u16::from_be_bytes(got.extensions[&TRANSPORT][..2].try_into().expect("two bytes"));
                vec![newest.wrapping_sub(u16::try_from(rng.index(30)).expect("few")), newest]
            }
            _ => Vec::new(),
        };
        let remb = self.feedback == 1 && change;
        world.feedback(*viewer, |writer| {
            assert!(writer.receiver_report(1, &[]));
            if remb {
                writer.remb(1, rate, &[stream]);
            }
            if asks {
                writer.pli(1, stream);
            }
            if let Some(wanted) = wanted.filter(|_| nacks) {
                writer.nack(1, stream, [u16::try_from(wanted & 0xffff).expect("masked")]);
            }
            if let [first, last] = *transport {
                lie(writer, first, last, rate);
            }
        });
    }

    fn run(&mut self) {
        while self.tick < TICKS {
            self.capture();
            self.deliver();
            self.disturb();
            self.world.pass(TICK);
            let got = self.world.clients[self.viewer].got.len();
            self.came.resize(got, self.tick);
            self.tick += 1;
        }
    }

    /// What the viewer got, in the order of its numbers, and when.
    fn stream(&self) -> Vec<(usize, &Got)> {
        let got = self.came.iter().copied().zip(&self.world.clients[self.viewer].got);
        let by_number: BTreeMap<u64, _> =
            got.filter(|(_, got)| !got.rtx).map(|(at, got)| (got.index, (at, got))).collect();
        by_number.into_values().collect()
    }

    /// Numbers and times go on, and what comes again is the same.
    fn check_numbers(&mut self) {
        let stream = self.stream();
        assert!(stream.len() > if self.garbage > 0.0 { 1 } else { 50 }, "{} packets", stream.len());
        for two in stream.windows(2) {
            let ahead = two[1].1.timestamp.wrapping_sub(two[0].1.timestamp).cast_signed();
            assert!(ahead >= 0, "time goes back by {ahead} at {:?}", name(&two[1].1.payload));
        }
        let by_sequence: HashMap<u64, &Got> =
            stream.iter().map(|(_, got)| (got.index & 0xffff, *got)).collect();
        let viewer = &self.world.clients[self.viewer];
        // Lines are filled with padding, which has no original.
        for again in viewer.got.iter().filter(|got| got.rtx && !got.payload.is_empty()) {
            let (sequence, payload) = again.payload.split_first_chunk::<2>().expect("an original number");
            let sequence = u64::from(u16::from_be_bytes(*sequence));
            let Some(first) = by_sequence.get(&sequence) else { continue };
            assert_eq!(payload, first.payload);
            assert_eq!((again.timestamp, again.csrc), (first.timestamp, first.csrc));
            assert_eq!(again.marker, first.marker, "{:?}", name(payload));
            assert_eq!(again.extensions.get(&DESCRIPTOR), first.extensions.get(&DESCRIPTOR));
        }
        let (first, last) = (stream[0].1.index, stream[stream.len() - 1].1.index);
        let there: HashSet<u64> = stream.iter().map(|(_, got)| got.index).collect();
        let sequences: HashSet<u64> = by_sequence.keys().copied().collect();
        let missing: Vec<u64> = (first..last).filter(|index| !there.contains(index)).collect();
        // Whatever is missing did not come in time: the relay has nothing else to give.
        let before = viewer.got.len();
        let ssrc = viewer.ssrc("v0");
        for missing in missing.iter().rev().take(200) {
            let sequence = u16::try_from(missing & 0xffff).expect("masked");
            self.world.feedback(self.viewer, |writer| {
                assert!(writer.receiver_report(1, &[]) && writer.nack(1, ssrc, [sequence]));
            });
        }
        for again in &self.world.clients[self.viewer].got[before..] {
            if let Some(name) = name(again.payload.get(2..).unwrap_or_default()).filter(|_| again.rtx) {
                let sequence = u64::from(u16::from_be_bytes([again.payload[0], again.payload[1]]));
                let fills = !sequences.contains(&sequence);
                assert!(!fills || self.late.contains(&name), "{name:?} was kept back");
            }
        }
    }

    /// Frames are whole, in order, and everything that one needs went before it.
    fn check_frames(&self) {
        let stream = self.stream();
        let mut before: Option<(Stream, usize, u16)> = None;
        let mut forwarded: HashMap<(Stream, usize), (u16, HashSet<u8>)> = HashMap::new();
        for (place, (at, got)) in stream.iter().enumerate() {
            let Some((source, frame, packet)) = name(&got.payload) else { continue };
            let made = &self.log[&source][frame];
            let Some(descriptor) = got.extensions.get(&DESCRIPTOR) else { continue };
            let number = Descriptor::parse(descriptor).expect("long enough").frame_number;
            if let Some((source_before, frame_before, number_before)) = before {
                let ahead = number.wrapping_sub(number_before).cast_signed();
                let same = (source, frame) == (source_before, frame_before);
                let again = source == source_before && frame <= frame_before && made.key && packet == 0;
                assert!(
                    if same && !again { ahead == 0 } else { ahead > 0 || (same && ahead == 0) },
                    "frame {frame} of {source:?} is {ahead} ahead of {frame_before} of {source_before:?}"
                );
                if source != source_before {
                    assert!(made.key && packet == 0, "{source:?} begins with {frame}, packet {packet}");
                }
            } else {
                assert!(made.key && packet == 0, "{source:?} begins with {frame}, packet {packet}");
            }
            before = Some((source, frame, number));
            let entry = forwarded.entry((source, frame)).or_insert_with(|| (number, HashSet::new()));
            if entry.0 != number {
                *entry = (number, HashSet::new());
            }
            entry.1.insert(packet);
            let is_whole = entry.1.len() == usize::from(made.packets);
            if is_whole && !made.damaged {
                for needed in &made.needs {
                    let other = &self.log[&source][*needed];
                    // What came after the frame that needs it may have come too late.
                    if other.damaged || other.whole_at.is_none_or(|whole| whole >= *at) {
                        continue;
                    }
                    let given = forwarded.get(&(source, *needed));
                    assert!(
                        given.is_some_and(|(_, packets)| packets.len() == usize::from(other.packets)),
                        "frame {frame} of {source:?} (tick {at}) needs {needed}, which was left out: {given:?}"
                    );
                    let back = number.wrapping_sub(given.expect("just seen").0);
                    assert_eq!(usize::from(back), frame - needed, "frames are as far apart as they were");
                }
            }
            let next = stream.get(place + 1).map(|(_, next)| *next);
            if let Some(next) = next.filter(|next| next.extensions.contains_key(&DESCRIPTOR)) {
                let (source_next, frame_next, packet_next) = name(&next.payload).expect("not empty");
                if self.late.contains(&(source, frame, packet))
                    || self.late.contains(&(source_next, frame_next, packet_next))
                {
                    continue;
                }
                let ends = next.timestamp != got.timestamp;
                assert!(ends || !got.marker, "frame {frame} of {source:?} goes on after its marker");
                let begins_anew = self.log[&source_next][frame_next].key && packet_next == 0;
                if ends && is_whole && next.index == got.index + 1 && !begins_anew && self.loss <= 0.0 {
                    assert!(got.marker, "frame {frame} of {source:?} ends without a marker");
                }
            }
        }
    }
}

/// Feedback that tells of some packets, as if the line carried so much.
fn lie(writer: &mut rtcp::Writer<'_>, first: u16, last: u16, rate: u64) {
    // Ticks of 250 us for each packet of some 400 bytes.
    let step = i32::try_from((3200 * 4000 / rate).clamp(1, 2000)).expect("clamped");
    let packets = i32::from(last.wrapping_sub(first));
    let arrivals = (0..=packets).map(|at| (at % 7 != 5).then_some(at * step));
    writer.transport_feedback(1, 1, first, 0, 0, arrivals);
}

fn each(seeds: u64, garbage: f64, check: impl Fn(&mut Scene)) {
    let only: Option<u64> = std::env::var("LAYERS_SEED").ok().and_then(|seed| seed.parse().ok());
    let more = std::env::var("LAYERS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in (0..more.unwrap_or(seeds)).filter(|seed| only.is_none_or(|only| only == *seed)) {
        let mut scene = Scene::new(seed, garbage);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scene.run();
            check(&mut scene);
        }));
        if let Err(panic) = outcome {
            eprintln!("replay with LAYERS_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn whatever_arrives_what_a_receiver_gets_can_be_decoded() {
    each(SEEDS, 0.0, |scene| {
        scene.check_numbers();
        scene.check_frames();
    });
}

#[test]
fn whatever_descriptors_say_numbers_and_times_go_on() {
    each(SEEDS / 2, 0.05, Scene::check_numbers);
}
