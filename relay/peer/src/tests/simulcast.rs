//! A source in several encodings, and packets that are numbered across all streams.

use trunkline_relay_proto::media::Extension;

use super::*;

fn adapting() -> Plan {
    Plan::receiver(1, 1).sending(&[SourceName::Microphone, SourceName::Camera]).simulcast().adaptive()
}

/// What an extension says in each packet the other side got.
fn values(pair: &Pair, wanted: u8) -> Vec<Option<Vec<u8>>> {
    let value = |packet: &Vec<u8>| {
        let header = Header::parse(packet).expect("RTP");
        header.elements(packet).find(|(id, _)| *id == wanted).map(|(_, value)| value.to_vec())
    };
    pair.host.received.iter().map(value).collect()
}

#[test]
fn an_offer_names_encodings_and_no_ssrcs() {
    let settings = settings().shared();
    let mut peer = Peer::new(&settings, 1);
    let offer = peer.offer(&adapting());
    assert!(offer.contains("a=simulcast:send q;h;f\r\na=rid:q send\r\na=rid:h send\r\na=rid:f send\r\n"));
    assert!(
        offer.contains("a=rtcp-fb:96 transport-cc\r\n") && offer.contains("a=rtcp-fb:111 transport-cc\r\n")
    );
    assert!(offer.contains(&format!("a=extmap:5 {}\r\n", Extension::Rid.uri())));
    assert!(!offer.contains("a=ssrc-group"), "RIDs tell");
    let camera = peer.description(&adapting()).sections[1].clone();
    let send = camera.send.expect("the camera");
    assert_eq!(send.rids.iter().map(|rid| rid.as_str()).collect::<Vec<_>>(), ["q", "h", "f"]);
    assert!(send.ssrcs.is_empty() && camera.payload_types[0].transport_cc);
}

#[test]
fn a_plan_that_does_not_ask_for_it_offers_nothing_of_it() {
    let settings = settings().shared();
    let offer = Peer::new(&settings, 1).offer(&everything());
    for word in ["rid", "simulcast", "transport"] {
        assert!(!offer.contains(word), "{word}");
    }
}

#[test]
fn encodings_are_streams_of_their_own_and_say_their_names_at_first() {
    let mut pair = Pair::connected(settings(), &adapting());
    pair.host.received.clear();
    for n in 0..30 {
        for encoding in 0..3 {
            assert!(pair.send(SourceName::Camera, &Frame { encoding, ..Frame::new(n, true, &[7; 50]) }));
        }
    }
    assert!(!pair.send(SourceName::Camera, &Frame { encoding: 3, ..Frame::new(0, true, &[7; 50]) }));
    let camera = pair.peer.outgoing(SourceName::Camera).expect("a camera");
    let ssrcs: Vec<u32> = camera.encodings().iter().map(|encoding| encoding.ssrc()).collect();
    let sent: Vec<u32> = pair.host.received.iter().map(|p| Header::parse(p).expect("RTP").ssrc).collect();
    assert_eq!(sent, ssrcs.repeat(30));
    let rids = values(&pair, 5);
    assert_eq!(rids[..3], [Some(b"q".to_vec()), Some(b"h".to_vec()), Some(b"f".to_vec())]);
    assert_eq!(rids.iter().flatten().count(), 60, "as long as others may not know them");
}

#[test]
fn everything_it_sends_is_numbered_across_streams() {
    let mut pair = Pair::connected(settings().like_a_browser(), &adapting());
    pair.host.received.clear();
    pair.send(SourceName::Microphone, &Frame::new(0, true, &[1; 20]));
    pair.send(SourceName::Camera, &Frame { encoding: 1, ..Frame::new(0, true, &[2; 20]) });
    let camera = pair.peer.outgoing(SourceName::Camera).expect("a camera");
    let (media, rtx) = (camera.encodings()[1].ssrc(), camera.encodings()[1].rtx_ssrc());
    let sequence = Header::parse(&pair.host.received[1]).expect("RTP").sequence;
    let mut nack = pair.host.feedback(|writer| {
        writer.receiver_report(9, &[]) && writer.nack(9, media, [sequence]) && writer.pli(9, media)
    });
    pair.peer.handle_datagram(pair.now, &mut nack);
    pair.run(Duration::ZERO, &mut || false);
    pair.send(SourceName::Camera, &Frame { encoding: 2, ..Frame::new(0, true, &[2; 20]) });

    assert_eq!(Some(Header::parse(&pair.host.received[2]).expect("RTP").ssrc), rtx);
    assert_eq!(values(&pair, 6)[2], Some(b"h".to_vec()), "a retransmission says whose it is");
    let numbers = values(&pair, 4).into_iter().map(|value| value.expect("a number"));
    let numbers: Vec<u16> = numbers.map(|value| u16::from_be_bytes([value[0], value[1]])).collect();
    assert!(numbers.is_sorted() && numbers[3] == numbers[0] + 3, "{numbers:?}");
    assert_eq!(pair.peer.poll_event(), Some(PeerEvent::KeyFrameWanted(SourceName::Camera, 1)));
}
