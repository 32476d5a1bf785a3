//! Writes the committed seeds anew. All that looks secret in them is made up; keys of certificates are thrown away.

use std::error::Error;
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use prost::Message;
use rcgen::{CertificateParams, KeyPair, SigningKey};
use trunkline_gateway_proto::bundle::Bundle;
use trunkline_gateway_proto::directory::LocalDomain;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::key::ApiKey;
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::store::Lane;
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire::{self, frame::Body, item};

mod node_seeds;
mod relay_seeds;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let certificate = self_signed("alpha.test")?;
    let targets: [(&str, Seeds); 16] = [
        ("frame", frames()),
        ("bundle", bundles()?),
        ("certificate", certificates(&certificate)?),
        ("envelope", envelopes()),
        ("relay/stun", relay_seeds::stun()),
        ("relay/rtcp", relay_seeds::rtcp()),
        ("relay/transport_feedback", relay_seeds::transport_feedback()),
        ("relay/ufrag", relay_seeds::ufrag()),
        ("relay/rtp", relay_seeds::rtp()),
        ("relay/descriptor", relay_seeds::descriptor()),
        ("relay/layers_allocation", relay_seeds::layers_allocation()),
        ("relay/srtp", relay_seeds::srtp()),
        ("relay/tunnel", relay_seeds::tunnel()),
        ("relay/flow", relay_seeds::flow()),
        ("relay/framing", relay_seeds::framing()),
        ("node/sdp", node_seeds::sdp()),
        ("node/token", node_seeds::token()),
    ];
    for (target, seeds) in targets {
        let folder = root.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

fn self_signed(domain: &str) -> Result<(KeyPair, rcgen::Certificate), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = CertificateParams::new([domain.to_owned()])?.self_signed(&key)?;
    Ok((key, certificate))
}

fn envelope() -> wire::Envelope {
    wire::Envelope {
        id: Bytes::from_static(&[0x11; 16]),
        from: "ann@alpha.test".to_owned(),
        to: vec!["bob@beta.test".to_owned(), "eve@beta.test".to_owned()],
        kind: wire::Kind::Message.into(),
        conversation: "c1".to_owned(),
        network: "main".to_owned(),
        guest: true,
        payload: Bytes::from_static(b"opaque"),
    }
}

fn envelopes() -> Seeds {
    let whole = envelope().encode_to_vec();
    let cut = whole[..whole.len() / 2].to_vec();
    vec![("whole", whole), ("cut", cut), ("empty", Vec::new())]
}

fn on_channel(frames: impl IntoIterator<Item = (Channel, Body)>) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (channel, body) in frames {
        frame::put_varint(channel.number(), &mut out);
        frame::encode(body, &mut out);
    }
    out.to_vec()
}

fn frames() -> Seeds {
    let mark = wire::LaneMark { lane: 3, seq: 7 };
    let hello = Body::Hello(wire::Hello {
        version_min: 1,
        version_max: 1,
        domain: "alpha.test".to_owned(),
        store_epoch: Bytes::from_static(&[0x22; 16]),
        key_id: "abcdef012345".to_owned(),
        key_proof: Bytes::from_static(&[0x33; 32]),
        limits: Some(wire::Limits { payload_bytes_max: 1 << 20 }),
        local_domains: vec![wire::LocalDomain {
            domain: "alpha.test".to_owned(),
            network: "main".to_owned(),
        }],
    });
    let resume = wire::Resume { origin_epoch: Bytes::from_static(&[0x44; 16]), marks: vec![mark] };
    let control = [
        ("hello", hello),
        ("resume", Body::Resume(resume)),
        ("ack", Body::Ack(wire::Ack { marks: vec![mark] })),
        (
            "nack",
            Body::Nack(wire::Nack {
                lane: 3,
                seq: 7,
                reason: wire::Refusal::Blocked.into(),
                to: vec!["bob@beta.test".to_owned()],
            }),
        ),
        ("settled", Body::Settled(wire::Settled { marks: vec![mark] })),
        ("credit", Body::Credit(wire::Credit { bytes: 1 << 24, messages: 1 << 14 })),
        (
            "keys",
            Body::Keys(wire::Keys {
                next_certificate: Bytes::from_static(&[0x30, 0x03, 0x02, 0x01, 0x00]),
                next_key_id: "fedcba543210".to_owned(),
            }),
        ),
        (
            "keys_ack",
            Body::KeysAck(wire::KeysAck {
                pin: Bytes::from_static(&[0x55; 32]),
                key_id: "fedcba543210".to_owned(),
            }),
        ),
        ("ping", Body::Ping(wire::Ping { nonce: 7 })),
        (
            "goaway",
            Body::Goaway(wire::Goaway {
                reason: wire::Reason::Shutdown.into(),
                retry_after_ms: 1000,
                detail: "restarting".to_owned(),
            }),
        ),
    ];
    let item = |body| wire::Item { ttl_ms: 60_000, body: Some(body) };
    let data = Body::Data(wire::Data {
        first_seq: 1,
        items: vec![
            item(item::Body::Envelope(envelope().encode_to_vec().into())),
            item(item::Body::Blob(wire::BlobRef { blob_id: 9, bytes: 300_000 })),
            item(item::Body::Skip(wire::Skip { count: 5 })),
        ],
    });
    let blob = Body::Blob(wire::Blob { blob_id: 9, chunk: Bytes::from_static(&[0x66; 100]), last: true });
    let session: Vec<_> = control.iter().map(|(_, body)| (Channel::Control, body.clone())).collect();
    let mut seeds: Seeds =
        control.into_iter().map(|(name, body)| (name, on_channel([(Channel::Control, body)]))).collect();
    seeds.push(("session", on_channel(session)));
    seeds.push(("data", on_channel([(Channel::Lane(Lane(3)), data.clone())])));
    seeds.push(("blob", on_channel([(Channel::Blob(9), blob)])));
    seeds.push(("wrong_channel", on_channel([(Channel::Control, data)])));
    seeds.push(("too_long", vec![0, 0xff, 0xff, 0xff, 0xff]));
    seeds.push(("cut", vec![0, 0, 0, 0, 9, 8]));
    seeds
}

fn bundles() -> Result<Seeds, Box<dyn Error>> {
    let (key, certificate) = self_signed("alpha.test")?;
    let bundle = Bundle {
        domain: "alpha.test".parse()?,
        audience: "beta.test".parse()?,
        local_domains: vec![LocalDomain { domain: "alpha.test".parse()?, network: "main".parse()? }],
        endpoints: vec!["gw.alpha.test:8443".to_owned(), "[2001:db8::1]:8443".to_owned()],
        certificate: certificate.pem(),
        pin: Pin::of_certificate(certificate.der())?,
        // 32 times the byte 0x77.
        api_key: ApiKey::parse("tlk_5eed5eed5eed_d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3c")?,
        expires: Time::from_unix_ms(4_000_000_000_000),
        nonce: "0123456789abcdef0123456789abcdef".to_owned(),
        in_reply_to: None,
    };
    let sign = |message: &[u8]| key.sign(message);
    let invitation = bundle.to_file(sign)?;
    let answer =
        Bundle { in_reply_to: Some("fedcba9876543210".to_owned()), ..bundle.clone() }.to_file(sign)?;
    let elsewhere = Bundle { audience: "gamma.test".parse()?, ..bundle }.to_file(sign)?;
    let changed = invitation.replace("gw.alpha.test", "gw.elsewhere.test");
    let cut = invitation.get(..invitation.len() / 2).unwrap_or_default().to_owned();
    Ok(vec![
        ("invitation", invitation.into_bytes()),
        ("answer", answer.into_bytes()),
        ("for_another", elsewhere.into_bytes()),
        ("changed", changed.into_bytes()),
        ("cut", cut.into_bytes()),
        ("other_json", b"{\"format\":1}".to_vec()),
    ])
}

fn certificates((_, certificate): &(KeyPair, rcgen::Certificate)) -> Result<Seeds, Box<dyn Error>> {
    let der = certificate.der().to_vec();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let other_key = CertificateParams::new(["*.beta.test".to_owned()])?.self_signed(&key)?.der().to_vec();
    let cut = der[..der.len() - 1].to_vec();
    let trailing = [der.as_slice(), &[0]].concat();
    Ok(vec![
        ("p256", der),
        ("p256_pem", certificate.pem().into_bytes()),
        ("ed25519", other_key),
        ("cut", cut),
        ("trailing", trailing),
    ])
}
