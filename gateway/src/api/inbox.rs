//! What an envelope in the inbox looks like.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::BufMut;
use prost::Message;
use serde::{Serialize, Serializer};
use trunkline_common::ids::EnvelopeId;
use trunkline_gateway_proto::store::Record;
use trunkline_gateway_proto::wire;
use trunkline_http::problem::Problem;
use trunkline_http::rfc3339::Utc;

use super::feed::{unreadable, write};
use super::json::{envelope_id, kind_name};
use super::protobuf::{length_delimited_len, put_length, put_uint64, uint64_len};

/// `InboxItem.seq`, `.received_at_ms`, `.envelope`.
const SEQ: u64 = 1;
const RECEIVED_AT_MS: u64 = 2;
const ENVELOPE: u64 = 3;

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    seq: u64,
    id: Option<EnvelopeId>,
    from: &'a str,
    to: &'a [String],
    kind: &'static str,
    conversation: &'a str,
    network: &'a str,
    guest: bool,
    received_at: Utc,
    #[serde(serialize_with = "base64")]
    payload: &'a [u8],
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(bytes, &STANDARD))
}

pub(super) fn write_json(out: &mut Vec<u8>, seq: u64, record: &Record) -> Result<(), Problem> {
    let envelope = wire::Envelope::decode(record.body.clone()).map_err(|_| unreadable())?;
    let shown = EnvelopeOut {
        seq,
        id: envelope_id(&envelope.id),
        from: &envelope.from,
        to: &envelope.to,
        kind: kind_name(envelope.kind()),
        conversation: &envelope.conversation,
        network: &envelope.network,
        guest: envelope.guest,
        received_at: Utc(record.head.at.unix_ms()),
        payload: &envelope.payload,
    };
    write(out, &shown)
}

/// How long the record is as an encoded `InboxItem`.
pub(super) fn item_len(seq: u64, record: &Record) -> usize {
    uint64_len(seq) + uint64_len(record.head.at.unix_ms()) + length_delimited_len(record.body.len())
}

/// Appends the record as an encoded `InboxItem`: the stored body is the encoded `Envelope`.
pub(super) fn put_item(seq: u64, record: &Record, out: &mut Vec<u8>) {
    put_uint64(SEQ, seq, out);
    put_uint64(RECEIVED_AT_MS, record.head.at.unix_ms(), out);
    put_length(ENVELOPE, record.body.len(), out);
    out.put_slice(&record.body);
}
