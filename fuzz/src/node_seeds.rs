//! The committed seeds of the relay's shell: offers that clients made, among the data of its tests, and join tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use trunkline_fuzz::node::{EXPIRES_S, tokens};
use trunkline_relay::token::Grant;
use trunkline_relay_proto::event::Role;

use crate::Seeds;

macro_rules! offer {
    ($name:literal) => {
        include_bytes!(concat!("../../relay/tests/data/offers/", $name, ".sdp"))
    };
}

pub fn sdp() -> Seeds {
    let fragment = "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
        a=ice-ufrag:ysXw\r\na=ice-pwd:vw5LmwG4y/e6dPP/zAP9Gp5k\r\n\
        a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
    let browser = offer!("chromium_datachannel");
    vec![
        ("chromium_datachannel", browser.to_vec()),
        ("cut", browser[..browser.len() / 3].to_vec()),
        ("chromium_simulcast", offer!("chromium_simulcast").to_vec()),
        ("aiortc", offer!("aiortc").to_vec()),
        ("firefox", offer!("firefox").to_vec()),
        ("gstreamer_whip", offer!("gstreamer_whip").to_vec()),
        ("pion_whip", offer!("pion_whip").to_vec()),
        ("fragment", fragment.into()),
    ]
}

pub fn token() -> Seeds {
    let whole = tokens().mint(&grant(), EXPIRES_S).expect("there is a secret");
    let expired = tokens().mint(&grant(), 1).expect("there is a secret");
    let (head, rest) = whole.split_once('.').expect("a header");
    let (claims, signature) = rest.split_once('.').expect("claims");
    let headed = |head: &str| format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(head));
    let seeds = [
        ("none", headed(r#"{"alg":"none","typ":"JWT"}"#)),
        ("eddsa", headed(r#"{"alg":"EdDSA","typ":"JWT"}"#)),
        ("hs512", headed(r#"{"alg":"HS512","typ":"JWT"}"#)),
        ("unsigned", format!("{head}.{claims}.")),
        ("cut", whole[..whole.len() / 2].to_owned()),
        ("dots", "..".to_owned()),
        ("expired", expired),
        ("whole", whole),
    ];
    seeds.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
}

fn grant() -> Grant {
    Grant { participant: "Ann".into(), call: "0001-AAAAAAAAAAAAAAAAAAAAAA".to_owned(), role: Role::Viewer }
}
