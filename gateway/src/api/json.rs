//! Envelopes in, results out: the JSON of `POST /v1/envelopes`.

use std::fmt;
use std::num::NonZeroU64;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use trunkline_common::ids::EnvelopeId;
use trunkline_common::limits::RECIPIENTS_MAX;
use trunkline_gateway_proto::wire;

/// One envelope as a caller writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvelopeIn {
    #[serde(default)]
    id: Option<EnvelopeId>,
    from: String,
    to: Recipients,
    kind: Kind,
    #[serde(default)]
    conversation: Option<String>,
    #[serde(default)]
    ttl_s: Option<NonZeroU64>,
    #[serde(default)]
    guest: bool,
    payload: Payload,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Message,
    Receipt,
    Call,
    Control,
}

/// At most [`RECIPIENTS_MAX`] of them: a list of a million empty texts must not become a million allocations.
struct Recipients(Vec<String>);

/// Decoded from base64 while it is read.
struct Payload(Bytes);

/// What came of one submission.
#[derive(Serialize)]
pub(super) struct ResultOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EnvelopeId>,
    accepted: Vec<AcceptedOut<'a>>,
    rejected: Vec<RejectedOut<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

#[derive(Serialize)]
struct AcceptedOut<'a> {
    domain: &'a str,
    recipients: u32,
}

/// A recipient that was turned down.
#[derive(Serialize)]
pub(super) struct RejectedOut<'a> {
    to: &'a str,
    reason: &'a str,
}

impl EnvelopeIn {
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.0.len()
    }

    pub(super) fn into_submission(self) -> wire::Submission {
        wire::Submission {
            id: self.id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
            from: self.from,
            to: self.to.0,
            kind: wire::Kind::from(self.kind).into(),
            conversation: self.conversation.unwrap_or_default(),
            ttl_s: self.ttl_s.map_or(0, NonZeroU64::get),
            guest: self.guest,
            payload: self.payload.0,
        }
    }
}

impl<'a> From<&'a wire::SubmitResult> for ResultOut<'a> {
    fn from(result: &'a wire::SubmitResult) -> Self {
        let accepted =
            |entry: &'a wire::Accepted| AcceptedOut { domain: &entry.domain, recipients: entry.recipients };
        Self {
            id: envelope_id(&result.id),
            accepted: result.accepted.iter().map(accepted).collect(),
            rejected: rejected(result),
            duplicate: result.duplicate,
        }
    }
}

/// The recipients that were turned down.
pub(super) fn rejected(result: &wire::SubmitResult) -> Vec<RejectedOut<'_>> {
    result.rejected.iter().map(|entry| RejectedOut { to: &entry.to, reason: &entry.reason }).collect()
}

/// The id in its 16 bytes, when there is one.
pub(super) fn envelope_id(bytes: &[u8]) -> Option<EnvelopeId> {
    bytes.try_into().ok().map(EnvelopeId::from_bytes)
}

/// What a kind is called in JSON.
pub(super) fn kind_name(kind: wire::Kind) -> &'static str {
    match kind {
        wire::Kind::Unspecified => "unspecified",
        wire::Kind::Message => "message",
        wire::Kind::Receipt => "receipt",
        wire::Kind::Call => "call",
        wire::Kind::Control => "control",
    }
}

impl From<Kind> for wire::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Message => Self::Message,
            Kind::Receipt => Self::Receipt,
            Kind::Call => Self::Call,
            Kind::Control => Self::Control,
        }
    }
}

impl<'de> Deserialize<'de> for Recipients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Recipients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`to` as a list of addresses")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Recipients, A::Error> {
                let mut to = Vec::new();
                while let Some(address) = list.next_element()? {
                    if to.len() == RECIPIENTS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "`to` has more than {RECIPIENTS_MAX} recipients: split the envelope"
                        )));
                    }
                    to.push(address);
                }
                Ok(Recipients(to))
            }
        }

        deserializer.deserialize_seq(List)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;

        impl Visitor<'_> for Base64 {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`payload` as base64 text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Payload, E> {
                let decoded = STANDARD.decode(text).map_err(|_| {
                    E::custom("`payload` is not base64: expected the standard alphabet, with padding")
                })?;
                Ok(Payload(decoded.into()))
            }
        }

        deserializer.deserialize_str(Base64)
    }
}
