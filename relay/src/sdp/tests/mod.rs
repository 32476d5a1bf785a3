//! Offers of real clients, their answers, and what is refused.

mod answers;
mod offers;
mod peer;
mod properties;
mod refusals;
mod renegotiation;

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Description, IceCredentials, Section};

use super::{Answer, Candidate, CodecName, Local, Offer, OfferError, Transport, answer};

/// The committed offers.
const OFFERS: [(&str, &str); 8] = [
    ("chromium_plain", CHROMIUM_PLAIN),
    ("chromium_descriptor", CHROMIUM_DESCRIPTOR),
    ("chromium_simulcast", CHROMIUM_SIMULCAST),
    ("chromium_datachannel", CHROMIUM_DATACHANNEL),
    ("aiortc", AIORTC),
    ("firefox", FIREFOX),
    ("gstreamer_whip", GSTREAMER_WHIP),
    ("pion_whip", PION_WHIP),
];

const CHROMIUM_PLAIN: &str = include_str!("../../../tests/data/offers/chromium_plain.sdp");
const CHROMIUM_DESCRIPTOR: &str = include_str!("../../../tests/data/offers/chromium_descriptor.sdp");
const CHROMIUM_SIMULCAST: &str = include_str!("../../../tests/data/offers/chromium_simulcast.sdp");
const CHROMIUM_DATACHANNEL: &str = include_str!("../../../tests/data/offers/chromium_datachannel.sdp");
const AIORTC: &str = include_str!("../../../tests/data/offers/aiortc.sdp");
const FIREFOX: &str = include_str!("../../../tests/data/offers/firefox.sdp");
const GSTREAMER_WHIP: &str = include_str!("../../../tests/data/offers/gstreamer_whip.sdp");
const PION_WHIP: &str = include_str!("../../../tests/data/offers/pion_whip.sdp");

/// The smallest offer: sends and receives Opus. Its lines are numbered in `refusals`.
const SMALL: &str = "v=0
o=- 7 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=mid:0
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F
a=setup:actpass
a=rtcp-mux
a=rtpmap:111 opus/48000/2
";

/// The relay's side, in every test.
fn with_local<T>(role: Role, then: impl FnOnce(&Local<'_>) -> T) -> T {
    let ice = IceCredentials { ufrag: "relay-ufrag".to_owned(), pwd: "relay-password".to_owned() };
    let candidates = [
        Candidate { address: "192.0.2.7:16384".parse().unwrap(), transport: Transport::Udp },
        Candidate { address: "[2001:db8::7]:16384".parse().unwrap(), transport: Transport::Udp },
        Candidate { address: "192.0.2.7:443".parse().unwrap(), transport: Transport::TcpPassive },
    ];
    then(&Local {
        ice: &ice,
        fingerprint: &[0xab; 32],
        candidates: &candidates,
        role,
        codecs: &CodecName::DEFAULT,
    })
}

/// Answers, with SSRCs counted from 1 on.
fn try_answer(text: &str, previous: Option<&Description>, role: Role) -> Result<Answer, OfferError> {
    let mut last = 0;
    let mut draw = || {
        last += 1;
        last
    };
    with_local(role, |local| answer(&Offer::parse(text)?, previous, local, &mut draw))
}

fn answered(text: &str) -> Answer {
    try_answer(text, None, Role::Presenter).unwrap()
}

/// The sections of a text, each from its `m=` on, without line ends.
fn sections(text: &str) -> Vec<Vec<&str>> {
    let mut sections: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("m=") {
            sections.push(Vec::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push(line);
        }
    }
    sections
}

/// `sendonly` and the like, of a section.
fn direction<'a>(section: &[&'a str]) -> &'a str {
    let names = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let mut found =
        section.iter().filter_map(|line| line.strip_prefix("a=")).filter(|name| names.contains(name));
    found.next().unwrap_or("sendrecv")
}

fn numbers(section: &Section) -> Vec<u8> {
    section.payload_types.iter().map(|payload_type| payload_type.number).collect()
}

/// Copies of the last section with names of their own, until there are `count`.
fn grown(offer: &str, count: usize) -> String {
    let last = offer.rfind("m=").unwrap();
    let (start, section) = offer.split_at(last);
    let mid = section.lines().find(|line| line.starts_with("a=mid:")).unwrap();
    let mut out = start.to_owned();
    let mut group = offer.lines().find(|line| line.starts_with("a=group:")).unwrap().to_owned();
    let old_group = group.clone();
    let present = sections(offer).len();
    out.push_str(section);
    for number in present..count {
        out.push_str(&section.replace(mid, &format!("a=mid:n{number}")));
        group.push_str(&format!(" n{number}"));
    }
    out.replace(&old_group, &group)
}
