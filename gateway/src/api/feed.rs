//! The two queues that a messaging server reads, in both formats. What they share is here; what one record
//! looks like stands in [`super::inbox`] and [`super::receipts`].

use bytes::Bytes;
use http::HeaderMap;
use http::header::ACCEPT;
use serde::Serialize;
use trunkline_gateway_proto::store::{NetworkKey, Record};
use trunkline_http::problem::{INTERNAL, NOT_ACCEPTABLE, Problem};

use super::{inbox, protobuf, receipts};
use crate::hub::Queue;

/// One of the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Inbox,
    Receipts,
}

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Json,
    Protobuf,
}

impl Feed {
    pub(super) fn queue(self, network: NetworkKey) -> Queue {
        match self {
            Self::Inbox => Queue::Inbox(network),
            Self::Receipts => Queue::Receipts(network),
        }
    }

    /// The member of a JSON batch that lists the records.
    fn member(self) -> &'static str {
        match self {
            Self::Inbox => "envelopes",
            Self::Receipts => "receipts",
        }
    }

    /// One record as JSON.
    pub(super) fn json_record(self, seq: u64, record: &Record) -> Result<String, Problem> {
        let mut out = Vec::with_capacity(256 + record.body.len() * 4 / 3);
        self.write_record(&mut out, seq, record)?;
        String::from_utf8(out).map_err(|_| unreadable())
    }

    /// Records as one JSON object.
    pub(super) fn json_batch(self, records: &[(u64, Record)]) -> Result<Vec<u8>, Problem> {
        let bodies: usize = records.iter().map(|(_, record)| 256 + record.body.len() * 4 / 3).sum();
        let mut out = Vec::with_capacity(32 + bodies);
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.member().as_bytes());
        out.extend_from_slice(b"\":[");
        for (index, (seq, record)) in records.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.write_record(&mut out, *seq, record)?;
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// Records as an encoded `InboxBatch` or `ReceiptBatch`. Their bodies are copied once, and never decoded.
    pub(super) fn protobuf_batch(self, records: &[(u64, Record)]) -> Bytes {
        let length = |seq, record| match self {
            Self::Inbox => inbox::item_len(seq, record),
            Self::Receipts => receipts::item_len(seq, record),
        };
        let total = records.iter().map(|(seq, record)| protobuf::length_delimited_len(length(*seq, record)));
        let mut out = Vec::with_capacity(total.sum());
        for (seq, record) in records {
            // Both batches list their records in field 1.
            protobuf::put_length(1, length(*seq, record), &mut out);
            match self {
                Self::Inbox => inbox::put_item(*seq, record, &mut out),
                Self::Receipts => receipts::put_item(*seq, record, &mut out),
            }
        }
        out.into()
    }

    fn write_record(self, out: &mut Vec<u8>, seq: u64, record: &Record) -> Result<(), Problem> {
        match self {
            Self::Inbox => inbox::write_json(out, seq, record),
            Self::Receipts => receipts::write_json(out, seq, record),
        }
    }
}

impl Format {
    /// The format that the caller's `Accept` header likes best.
    pub(super) fn accepted(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut best = None;
        let mut asked = false;
        for value in headers.get_all(ACCEPT) {
            asked = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                let (media, parameters) = range.split_once(';').unwrap_or((range, ""));
                let format = match media.trim() {
                    "application/json" | "application/*" | "*/*" => Self::Json,
                    protobuf::MEDIA_TYPE => Self::Protobuf,
                    _ => continue,
                };
                let quality = quality(parameters);
                if quality > best.map_or(0.0, |(_, best)| best) {
                    best = Some((format, quality));
                }
            }
        }
        match best {
            Some((format, _)) => Ok(format),
            None if !asked => Ok(Self::Json),
            None => Err(Problem::new(
                NOT_ACCEPTABLE,
                "accept application/json or application/x-protobuf: this path answers with these only",
            )),
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// The weight of a media range (RFC 9110, section 12.4.2).
fn quality(parameters: &str) -> f32 {
    let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
    weight.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

/// Writes what a record became.
pub(super) fn write(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Problem> {
    serde_json::to_writer(out, value).map_err(|_| unreadable())
}

/// A stored record does not read as what the core wrote.
pub(super) fn unreadable() -> Problem {
    tracing::error!("a stored record does not decode: please report this as a bug");
    Problem::new(INTERNAL, "a stored record cannot be read: the operator finds this in the gateway's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_with_the_highest_weight_is_answered() {
        let accepted = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, text.parse().unwrap());
            Format::accepted(&headers).ok()
        };
        assert_eq!(Format::accepted(&HeaderMap::new()).ok(), Some(Format::Json));
        assert_eq!(accepted("*/*"), Some(Format::Json));
        assert_eq!(accepted("application/x-protobuf"), Some(Format::Protobuf));
        assert_eq!(accepted("application/json;q=0.5, application/x-protobuf"), Some(Format::Protobuf));
        assert_eq!(accepted("text/html, */*;q=0.1"), Some(Format::Json));
        assert_eq!(accepted("text/html"), None);
        assert_eq!(accepted("application/json;q=0"), None);
    }
}
