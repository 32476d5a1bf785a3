//! One function per fuzz target: everything that reads bytes from outside. None may panic, whatever it is given.
//! The committed seeds go through the very same functions in an ordinary test.

use bytes::{Buf, BytesMut};
use prost::Message;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::bundle::Bundle;
use trunkline_gateway_proto::certificate::Certificate;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire;

/// A parser that is fed.
pub type Parser = fn(&[u8]);

/// Every target by the name of its folder of seeds.
pub const TARGETS: &[(&str, Parser)] =
    &[("frame", frame), ("bundle", bundle), ("certificate", certificate), ("envelope", envelope)];

/// A run of frames, each on the channel that a number before it names, as they come over TCP. What was read is
/// written and read again: both must be the same.
pub fn frame(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Some(number) = frame::get_varint(&mut buffer) {
        let channel = Channel::from_number(number);
        let Ok(Some(body)) = frame::decode(channel, &mut buffer) else { return };
        let mut again = BytesMut::new();
        frame::encode(body.clone(), &mut again);
        assert_eq!(frame::decode(channel, &mut again), Ok(Some(body)), "a frame survives being passed on");
        assert!(!again.has_remaining(), "a frame is read to its end");
    }
}

/// A bundle file, for beta.test.
pub fn bundle(data: &[u8]) {
    let audience: Domain = "beta.test".parse().expect("a constant that is a domain");
    let _ = Bundle::parse(data, Time::from_unix_ms(1), &audience);
}

/// A certificate in DER, or in PEM. Whatever is shown of it must be of the key that is pinned.
pub fn certificate(data: &[u8]) {
    if let (Ok(certificate), Ok(pin)) = (Certificate::parse(data), Pin::of_certificate(data)) {
        assert_eq!(certificate.pin, pin, "what is shown is what is pinned");
        let _ = certificate.verify(b"message", data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Certificate::parse_pem(text);
    }
}

/// An envelope as it rests and crosses the link.
pub fn envelope(data: &[u8]) {
    if let Ok(envelope) = wire::Envelope::decode(data) {
        let again = wire::Envelope::decode(envelope.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&envelope), "an envelope survives being passed on");
    }
}
