//! The committed seeds of the relay's parsers.

use trunkline_fuzz::relay::{KEY, PWD};
use trunkline_relay_proto::rtcp::{Block, Writer};
use trunkline_relay_proto::stun::{ANSWER_BYTES_MAX, Request, write_request};
use trunkline_relay_proto::ufrag::{Key, Route};

use crate::Seeds;

pub fn stun() -> Seeds {
    let request = |use_candidate| {
        let mut out = [0; 256];
        let username = format!("{}:client", ufrag_text());
        let len = write_request(&mut out, &username, PWD, 0x6e00_01ff, 9, use_candidate, *b"seed of stun");
        out[..len.expect("room")].to_vec()
    };
    let check = request(false);
    let parsed = Request::parse(&check).expect("a request");
    let mut out = [0; ANSWER_BYTES_MAX];
    let len = parsed.write_success(&mut out, ([192, 0, 2, 1], 50_000).into(), PWD).expect("room");
    let success = out[..len].to_vec();
    let len = parsed.write_role_conflict(&mut out, PWD).expect("room");
    let conflict = out[..len].to_vec();
    let cut = check[..check.len() / 2].to_vec();
    let mut forged = check.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    vec![
        ("nomination", request(true)),
        ("check", check),
        ("success", success),
        ("role_conflict", conflict),
        ("cut", cut),
        ("wrong_fingerprint", forged),
    ]
}

pub fn rtcp() -> Seeds {
    let written = |write: &dyn Fn(&mut Writer<'_>) -> bool| {
        let mut out = [0; 1500];
        let mut writer = Writer::new(&mut out);
        assert!(write(&mut writer), "a seed fits");
        let len = writer.len();
        out[..len].to_vec()
    };
    let block =
        Block { ssrc: 7, fraction_lost: 3, lost: -2, highest: 70_000, jitter: 5, last_sr: 9, delay: 11 };
    let report =
        written(&|writer| writer.sender_report(1, 2, 3, 4, 5, &[block]) && writer.sdes_cname(1, "name"));
    let feedback = written(&|writer| {
        writer.receiver_report(1, &[block, block])
            && writer.nack(1, 2, [65_535, 0, 15, 40])
            && writer.pli(1, 2)
            && writer.fir(1, &[(2, 3), (4, 5)])
            && writer.bye(1)
    });
    let cut = feedback[..feedback.len() - 5].to_vec();
    let mut padded = feedback.clone();
    padded.extend_from_slice(&[0xa0, 201, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4]);
    let miscounted = [&[0x9f, 201, 0, 1, 0, 0, 0, 1][..], &report].concat();
    vec![
        ("report", report),
        ("feedback", feedback),
        ("cut", cut),
        ("padded", padded),
        ("miscounted", miscounted),
    ]
}

pub fn ufrag() -> Seeds {
    let good = ufrag_text();
    let mut forged = good.clone();
    forged.replace_range(31..32, if good.ends_with('A') { "B" } else { "A" });
    vec![
        ("good", good.clone().into_bytes()),
        ("forged", forged.into_bytes()),
        ("cut", good[..31].to_owned().into_bytes()),
        ("of_somebody_else", b"Zm9v".to_vec()),
    ]
}

fn ufrag_text() -> String {
    let route = Route { node: 1, worker: 2, call: 3, participant: 4, expires_min: u32::MAX };
    Key::new(KEY).write(&route)
}
