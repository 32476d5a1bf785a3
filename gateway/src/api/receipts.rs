//! What a receipt looks like: what became of an envelope for some or all of its recipients.

use bytes::BufMut;
use prost::Message;
use serde::Serialize;
use trunkline_common::ids::EnvelopeId;
use trunkline_gateway_proto::store::Record;
use trunkline_gateway_proto::wire;
use trunkline_http::problem::Problem;
use trunkline_http::rfc3339::Utc;

use super::feed::{unreadable, write};
use super::json::envelope_id;
use super::protobuf::{put_uint64, uint64_len};

/// `Receipt.seq`, `.at_ms`.
const SEQ: u64 = 1;
const AT_MS: u64 = 6;

#[derive(Serialize)]
struct ReceiptOut<'a> {
    seq: u64,
    id: Option<EnvelopeId>,
    to: &'a [String],
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    at: Utc,
}

pub(super) fn write_json(out: &mut Vec<u8>, seq: u64, record: &Record) -> Result<(), Problem> {
    let receipt = wire::Receipt::decode(record.body.clone()).map_err(|_| unreadable())?;
    let shown = ReceiptOut {
        seq,
        id: envelope_id(&record.head.id),
        to: &receipt.to,
        state: state_name(receipt.state()),
        reason: &receipt.reason,
        at: Utc(record.head.at.unix_ms()),
    };
    write(out, &shown)
}

fn state_name(state: wire::State) -> &'static str {
    match state {
        wire::State::Unspecified => "unspecified",
        wire::State::Delivered => "delivered",
        wire::State::Refused => "refused",
        wire::State::Expired => "expired",
        wire::State::Purged => "purged",
    }
}

/// How long the record is as an encoded `Receipt`.
pub(super) fn item_len(seq: u64, record: &Record) -> usize {
    uint64_len(seq) + record.body.len() + uint64_len(record.head.at.unix_ms())
}

/// Appends the record as an encoded `Receipt`. The stored body is one without its sequence number, and of a
/// field that comes twice the last one counts: what is known here only goes before and after it.
pub(super) fn put_item(seq: u64, record: &Record, out: &mut Vec<u8>) {
    put_uint64(SEQ, seq, out);
    out.put_slice(&record.body);
    put_uint64(AT_MS, record.head.at.unix_ms(), out);
}
