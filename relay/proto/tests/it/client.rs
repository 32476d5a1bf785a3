//! A client and a call, joined by a wire that loses nothing: for tests of what a call does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use trunkline_relay_proto::call::{Call, Join, JoinError, Settings};
use trunkline_relay_proto::dtls::{self, Handshake};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::event::{Audience, Event, Notice, ParticipantId, Role};
use trunkline_relay_proto::media::{
    Codec, Content, Description, Downstream, Extension, ExtensionIds, IceCredentials, Kind, Mid, PayloadType,
    Section, Upstream,
};
use trunkline_relay_proto::path::Path;
use trunkline_relay_proto::rtp::{self, Header, extension};
use trunkline_relay_proto::srtp::{Opener, Sealer};
use trunkline_relay_proto::{demux, rtcp, stun};

pub(crate) const AUDIO_LEVEL: u8 = 1;
pub(crate) const MID: u8 = 4;
pub(crate) const DESCRIPTOR: u8 = 12;
pub(crate) const RID: u8 = 5;

/// A certificate with its settings.
pub(crate) fn dtls_settings() -> Arc<dtls::Settings> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate =
        CertificateParams::new(Vec::new()).expect("parameters").self_signed(&key).expect("signed");
    let certificate =
        dimpl::DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
    Arc::new(dtls::Settings::new(certificate, false).expect("usable"))
}

/// An RTP packet that a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) mid: String,
    pub(crate) rtx: bool,
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) payload_type: u8,
    pub(crate) csrc: u32,
    pub(crate) extensions: HashMap<u8, Vec<u8>>,
    pub(crate) payload: Vec<u8>,
}

/// One client, connected or not.
pub(crate) struct Client {
    pub(crate) id: ParticipantId,
    pub(crate) path: Path,
    pub(crate) description: Description,
    local: IceCredentials,
    dtls: Handshake,
    pub(crate) sealer: Option<Sealer>,
    opener: Option<Opener>,
    sequences: HashMap<u32, u64>,
    pub(crate) got: Vec<Got>,
    pub(crate) nacks: Vec<(u32, u16)>,
    pub(crate) key_frame_requests: usize,
    pub(crate) reports: usize,
    pub(crate) events: Vec<Notice>,
    checks_answered: usize,
}

/// A call, its clients, and the time.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) call: Call,
    pub(crate) egress: Egress,
    pub(crate) clients: Vec<Client>,
    relay: Arc<dtls::Settings>,
    client_dtls: Arc<dtls::Settings>,
}

fn vp8() -> PayloadType {
    PayloadType {
        number: 96,
        codec: Codec::Vp8,
        rtx: Some(97),
        nack: true,
        pli: true,
        fir: true,
        transport_cc: false,
        remb: false,
        raw: false,
    }
}

fn opus() -> PayloadType {
    PayloadType {
        number: 111,
        codec: Codec::Opus,
        rtx: None,
        nack: false,
        pli: false,
        fir: false,
        transport_cc: false,
        remb: false,
        raw: false,
    }
}

pub(crate) fn section(mid: &str, kind: Kind, send: Option<Content>, ssrc: u32) -> Section {
    let mut extensions = ExtensionIds::default();
    extensions.set(Extension::Mid, MID);
    extensions.set(Extension::AudioLevel, AUDIO_LEVEL);
    extensions.set(Extension::Rid, RID);
    extensions.set(Extension::DependencyDescriptor, DESCRIPTOR);
    let receive =
        send.is_none().then_some(Downstream { ssrc, rtx_ssrc: (kind == Kind::Video).then_some(ssrc + 1) });
    Section {
        mid: Mid::new(mid).expect("a mid"),
        kind,
        payload_types: vec![if kind == Kind::Video { vp8() } else { opus() }],
        extensions,
        send: send.map(|content| Upstream { content, ssrcs: vec![ssrc, ssrc + 1], rids: Vec::new() }),
        receive,
    }
}

/// Microphone and camera, two audio and two video slots.
pub(crate) fn usual(base: u32) -> Vec<Section> {
    vec![
        section("mic", Kind::Audio, Some(Content::Main), base),
        section("cam", Kind::Video, Some(Content::Main), base + 10),
        section("a0", Kind::Audio, None, base + 20),
        section("a1", Kind::Audio, None, base + 30),
        section("v0", Kind::Video, None, base + 40),
        section("v1", Kind::Video, None, base + 50),
    ]
}

impl World {
    pub(crate) fn new(participants_max: usize) -> Self {
        Self::seeded(participants_max, 7)
    }

    /// The same with other numbers where they only have to differ.
    pub(crate) fn seeded(participants_max: usize, seed: u64) -> Self {
        let now = Instant::now();
        let relay = dtls_settings();
        let settings = Settings { participants_max, dtls: relay.clone(), seed };
        Self {
            now,
            call: Call::new(now, settings),
            egress: Egress::default(),
            clients: Vec::new(),
            relay,
            client_dtls: dtls_settings(),
        }
    }

    /// Joins, without connecting.
    pub(crate) fn try_join(
        &mut self,
        name: &'static str,
        role: Role,
        sections: Vec<Section>,
    ) -> Result<usize, JoinError> {
        let number = u32::try_from(self.clients.len()).expect("few") + 1;
        let description = Description {
            ice: IceCredentials {
                ufrag: format!("c{number:03}"),
                pwd: format!("client-password-{number:08}"),
            },
            fingerprint: self.client_dtls.fingerprint(),
            extmap_allow_mixed: true,
            reduced_size_rtcp: true,
            sections,
        };
        let local =
            IceCredentials { ufrag: format!("relay{number:03}"), pwd: format!("relay-password-{number:09}") };
        let id = ParticipantId(number);
        let join = Join { id, name: name.into(), role, description: description.clone(), ice: local.clone() };
        self.call.join(self.now, join)?;
        let port = u16::try_from(40_000 + number).expect("few");
        self.clients.push(Client {
            id,

            path: Path::new(([127, 0, 0, 1], port).into(), [127, 0, 0, 1].into()),
            description,
            local,
            dtls: Handshake::new_client(self.now, &self.client_dtls, self.relay.fingerprint()),
            sealer: None,
            opener: None,
            sequences: HashMap::new(),
            got: Vec::new(),
            nacks: Vec::new(),
            key_frame_requests: 0,
            reports: 0,
            events: Vec::new(),
            checks_answered: 0,
        });
        self.settle();
        Ok(self.clients.len() - 1)
    }

    /// Joins and connects.
    pub(crate) fn join(&mut self, name: &'static str, sections: Vec<Section>) -> usize {
        let index = self.try_join(name, Role::Presenter, sections).expect("room for one more");
        self.check(index, true);
        for _ in 0..20 {
            self.handshake(index);
            if self.clients[index].sealer.is_some() {
                return index;
            }
            self.pass(Duration::from_millis(50));
        }
        unreachable!("no handshake within a second");
    }

    /// A connectivity check from where the client is now. Whether it was answered.
    pub(crate) fn check(&mut self, index: usize, nominate: bool) -> bool {
        let client = &self.clients[index];
        let before = client.checks_answered;
        let username = format!("{}:{}", client.local.ufrag, client.description.ice.ufrag);
        let mut out = [0; 512];
        let len = stun::write_request(&mut out, &username, &client.local.pwd, 1, 7, nominate, [9; 12])
            .expect("fits");
        self.send_raw(index, &mut out[..len]);
        self.clients[index].checks_answered > before
    }

    fn handshake(&mut self, index: usize) {
        let mut out = [0; 2048];
        while let Some(len) = self.clients[index].dtls.poll_transmit(&mut out) {
            self.send_raw(index, &mut out[..len]);
        }
        let client = &mut self.clients[index];
        if let Some(keys) = client.dtls.poll_keys() {
            client.sealer = Some(Sealer::new(keys.profile, &keys.seal));
            client.opener = Some(Opener::new(keys.profile, &keys.open));
        }
    }

    /// A datagram from a client's address.
    pub(crate) fn send_raw(&mut self, index: usize, datagram: &mut [u8]) {
        let path = self.clients[index].path;
        self.call.handle_datagram(self.now, path, datagram, &mut self.egress);
        self.settle();
    }

    /// Time goes by.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.call.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.call.handle_timeout(self.now, &mut self.egress);
            self.settle();
        }
        self.now = end;
        let now = self.now;
        for client in &mut self.clients {
            if client.dtls.poll_timeout().is_some_and(|at| at <= now) {
                client.dtls.handle_timeout(now).expect("in time");
            }
        }
    }

    /// Delivers all that the call has to say.
    pub(crate) fn settle(&mut self) {
        loop {
            let more = self.call.poll_egress(self.now, &mut self.egress);
            let mut sent = Vec::new();
            for train in self.egress.trains() {
                for datagram in self.egress.bytes(train).chunks(train.segment) {
                    sent.push((train.path, datagram.to_vec()));
                }
            }
            assert_eq!(self.egress.clear(), 0, "nothing was dropped for want of room");
            for (path, mut datagram) in sent {
                if let Some(index) = self.clients.iter().position(|client| client.path == path) {
                    self.deliver(index, &mut datagram);
                }
            }
            if !more {
                break;
            }
        }
        while let Some(Event { to, notice }) = self.call.poll_event() {
            for client in &mut self.clients {
                let meant = match to {
                    Audience::Everyone => true,
                    Audience::AllBut(id) => id != client.id,
                    Audience::One(id) => id == client.id,
                };
                if meant {
                    client.events.push(notice.clone());
                }
            }
        }
    }

    fn deliver(&mut self, index: usize, datagram: &mut [u8]) {
        let now = self.now;
        let client = &mut self.clients[index];
        match demux::classify(datagram) {
            demux::Protocol::Stun => {
                let response = stun::Response::parse(datagram).expect("a response");
                assert!(response.verify(&client.local.pwd), "made with the password");
                client.checks_answered += 1;
            }
            demux::Protocol::Dtls => client.dtls.handle_datagram(now, datagram).expect("a sound handshake"),
            demux::Protocol::Rtp => client.receive(datagram),
            demux::Protocol::Rtcp => {
                let len = client.opener.as_mut().expect("keys").open_rtcp(datagram).expect("authentic");
                for packet in rtcp::packets(&datagram[..len]) {
                    match packet.expect("well formed") {
                        rtcp::Packet::Nack { media, lost, .. } => {
                            client.nacks.extend(lost.map(|lost| (media, lost)))
                        }
                        rtcp::Packet::Pli { .. } | rtcp::Packet::Fir { .. } => client.key_frame_requests += 1,
                        rtcp::Packet::SenderReport { .. } => client.reports += 1,
                        _ => {}
                    }
                }
            }
            demux::Protocol::Unknown => unreachable!("the relay sent what nobody understands"),
        }
        if client.sealer.is_none() {
            self.handshake(index);
        }
    }

    /// Sends a media packet.
    pub(crate) fn media(&mut self, index: usize, packet: &Sent<'_>) {
        let mut datagram = self.clients[index].seal(packet);
        self.send_raw(index, &mut datagram);
    }

    /// Sends feedback.
    pub(crate) fn feedback(&mut self, index: usize, write: impl FnOnce(&mut rtcp::Writer<'_>)) {
        let mut out = [0; 1400];
        let mut writer = rtcp::Writer::new(&mut out[..1300]);
        write(&mut writer);
        let len = writer.len();
        let len = self.clients[index].sealer.as_mut().expect("connected").seal_rtcp(&mut out, len);
        self.send_raw(index, &mut out[..len]);
    }
}

/// A media packet to send.
pub(crate) struct Sent<'a> {
    pub(crate) mid: &'a str,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
    /// Another sequence number than the next.
    pub(crate) index: Option<u64>,
    /// Another SSRC than the section's.
    pub(crate) ssrc: Option<u32>,
    /// Another payload type than the usual.
    pub(crate) payload_type: Option<u8>,
}

impl<'a> Sent<'a> {
    pub(crate) fn video(timestamp: u32, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self {
            mid: "cam",
            timestamp,
            marker: true,
            extensions: Vec::new(),
            payload,
            index: None,
            ssrc: None,
            payload_type: None,
        }
    }

    /// Sound at a level in −dBov.
    pub(crate) fn audio(timestamp: u32, level: u8) -> Self {
        let extensions = vec![(AUDIO_LEVEL, vec![level])];
        let payload = b"sound".to_vec();
        Self {
            mid: "mic",
            timestamp,
            marker: false,
            extensions,
            payload,
            index: None,
            ssrc: None,
            payload_type: None,
        }
    }

    pub(crate) fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    /// One encoding of several, under an SSRC of its own.
    pub(crate) fn encoding(mut self, rid: &str, ssrc: u32) -> Self {
        self.extensions.push((MID, self.mid.as_bytes().to_vec()));
        self.extensions.push((RID, rid.as_bytes().to_vec()));
        self.ssrc = Some(ssrc);
        self
    }

    /// With a dependency descriptor: first and last packet of a frame.
    pub(crate) fn frame(mut self, number: u16, key: bool) -> Self {
        let mut value = vec![0xc0];
        value.extend(number.to_be_bytes());
        if key {
            // A structure is present; what it says is not read here.
            value.extend([0x80, 0x00]);
        }
        self.extensions.push((DESCRIPTOR, value));
        self
    }
}

impl Client {
    pub(crate) fn ssrc(&self, mid: &str) -> u32 {
        let section =
            self.description.sections.iter().find(|section| section.mid.as_str() == mid).expect("a section");
        section.send.as_ref().map_or_else(|| section.receive.expect("a slot").ssrc, |send| send.ssrcs[0])
    }

    pub(crate) fn seal(&mut self, packet: &Sent<'_>) -> Vec<u8> {
        let ssrc = packet.ssrc.unwrap_or_else(|| self.ssrc(packet.mid));
        let kind =
            self.description.sections.iter().find(|s| s.mid.as_str() == packet.mid).expect("a section").kind;
        let next = self.sequences.entry(ssrc).or_insert(60_000);
        let index = packet.index.unwrap_or(*next);
        *next = (*next).max(index + 1);
        let mut out = vec![0; 1500];
        out[0] = 0x80 | u8::from(!packet.extensions.is_empty()) << 4;
        let usual = if kind == Kind::Video { 96 } else { 111 };
        out[1] = packet.payload_type.unwrap_or(usual) | u8::from(packet.marker) << 7;
        out[2..4].copy_from_slice(&u16::try_from(index & 0xffff).expect("masked").to_be_bytes());
        out[4..8].copy_from_slice(&packet.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&ssrc.to_be_bytes());
        let elements = packet.extensions.iter().map(|(id, value)| (*id, value.as_slice()));
        let header_len = 12 + extension::write(&mut out[12..], elements).expect("fits");
        let len = header_len + packet.payload.len();
        out[header_len..len].copy_from_slice(&packet.payload);
        let len = self.sealer.as_ref().expect("connected").seal_rtp(&mut out, header_len, len, index);
        out.truncate(len);
        out
    }

    fn receive(&mut self, datagram: &mut [u8]) {
        let header = Header::parse(datagram).expect("RTP");
        let opened =
            self.opener.as_mut().expect("keys").open_rtp(datagram, &header).expect("authentic, and once");
        let packet = &datagram[..opened.len];
        let (mid, rtx) = self
            .description
            .sections
            .iter()
            .find_map(|section| {
                let slot = section.receive?;
                let rtx = slot.rtx_ssrc == Some(header.ssrc);
                (slot.ssrc == header.ssrc || rtx).then(|| (section.mid.as_str().to_owned(), rtx))
            })
            .expect("an SSRC of the answer");
        self.got.push(Got {
            mid,
            rtx,
            index: opened.index,
            timestamp: header.timestamp,
            marker: header.marker,
            payload_type: header.payload_type,
            csrc: u32::from_be_bytes(packet[12..16].try_into().expect("four bytes")),
            extensions: header.elements(packet).map(|(id, value)| (id, value.to_vec())).collect(),
            payload: rtp::payload(packet, &header).expect("a payload").to_vec(),
        });
    }

    pub(crate) fn slot_owner(&self, mid: &str) -> Option<String> {
        self.events.iter().rev().find_map(|notice| match notice {
            Notice::Slots { slots } => slots
                .iter()
                .find(|slot| slot.slot == mid)
                .map(|slot| slot.participant.as_ref().map(ToString::to_string)),
            _ => None,
        })?
    }
}
