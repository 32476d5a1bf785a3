//! The committed seeds of the relay's shell: offers that clients made, among the data of its tests.

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
        ("aiortc", offer!("aiortc").to_vec()),
        ("firefox", offer!("firefox").to_vec()),
        ("gstreamer_whip", offer!("gstreamer_whip").to_vec()),
        ("pion_whip", offer!("pion_whip").to_vec()),
        ("fragment", fragment.into()),
    ]
}
