//! Envelopes: reading one without copying it, and what makes one acceptable.

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use thiserror::Error;
use trunkline_common::ids::split_address;
use trunkline_common::limits::{CONVERSATION_BYTES_MAX, NETWORK_BYTES_MAX, RECIPIENTS_MAX};

use crate::wire;

/// What an encoded envelope may have beside its payload: addresses, ids, conversation.
pub const ENVELOPE_OVERHEAD_BYTES_MAX: usize = RECIPIENTS_MAX * 324 + 2048;

/// What is wrong with an envelope: always the fault of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not an encoded `Envelope`.
    #[error("not a protobuf Envelope")]
    Encoding,
    /// Not a UUID.
    #[error("`id`: expected 16 bytes, a UUID")]
    Id,
    /// Not an address.
    #[error("`from`: expected local@domain in at most 320 bytes")]
    From,
    /// No recipients, or too many.
    #[error("`to`: expected 1 to {RECIPIENTS_MAX} addresses")]
    RecipientCount,
    /// Not an address.
    #[error("`to`: expected local@domain in at most 320 bytes")]
    To,
    /// None of the known kinds.
    #[error("`kind`: expected message, receipt, call or control")]
    Kind,
    /// Too long.
    #[error("`conversation`: expected at most {CONVERSATION_BYTES_MAX} bytes")]
    Conversation,
    /// Too long or empty.
    #[error("`network`: expected 1 to {NETWORK_BYTES_MAX} bytes")]
    Network,
    /// More than the deployment accepts.
    #[error("`payload`: larger than this deployment accepts")]
    Payload,
}

/// An encoded [`wire::Envelope`], read in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View<'a> {
    /// 16 bytes when valid.
    pub id: &'a [u8],
    /// The sender's address.
    pub from: &'a str,
    /// The recipients' addresses.
    pub to: Vec<&'a str>,
    /// As on the wire.
    pub kind: i32,
    /// Opaque ordering key.
    pub conversation: &'a str,
    /// The origin's network.
    pub network: &'a str,
    /// Whether the sender is a guest.
    pub guest: bool,
    /// How many bytes of payload.
    pub payload_bytes: usize,
}

impl<'a> View<'a> {
    /// Reads an encoded envelope. Unknown fields are passed over, as protobuf wants it.
    ///
    /// # Errors
    /// [`EnvelopeError::Encoding`] when it is none, and the first field beyond its bounds otherwise.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut view = Self::default();
        let mut rest = bytes;
        while rest.has_remaining() {
            let (tag, wire_type) = decode_key(&mut rest).map_err(|_| EnvelopeError::Encoding)?;
            match (tag, wire_type) {
                (1, WireType::LengthDelimited) => view.id = take(&mut rest)?,
                (2, WireType::LengthDelimited) => view.from = text(&mut rest)?,
                (3, WireType::LengthDelimited) => {
                    if view.to.len() == RECIPIENTS_MAX {
                        return Err(EnvelopeError::RecipientCount);
                    }
                    view.to.push(text(&mut rest)?);
                }
                (4, WireType::Varint) => view.kind = i32::try_from(varint(&mut rest)?).unwrap_or(i32::MAX),
                (5, WireType::LengthDelimited) => view.conversation = text(&mut rest)?,
                (6, WireType::LengthDelimited) => view.network = text(&mut rest)?,
                (7, WireType::Varint) => view.guest = varint(&mut rest)? != 0,
                (15, WireType::LengthDelimited) => view.payload_bytes = take(&mut rest)?.len(),
                // Whoever decodes it later refuses this, and would find no way past it in an inbox.
                (1..=7 | 15, _) => return Err(EnvelopeError::Encoding),
                (_, WireType::LengthDelimited) => drop(take(&mut rest)?),
                (_, WireType::Varint) => drop(varint(&mut rest)?),
                (_, WireType::SixtyFourBit) => drop(split(&mut rest, 8)?),
                (_, WireType::ThirtyTwoBit) => drop(split(&mut rest, 4)?),
                (_, WireType::StartGroup | WireType::EndGroup) => return Err(EnvelopeError::Encoding),
            }
        }
        Ok(view)
    }

    /// Checks every field that can be checked without knowing who is who.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self, payload_bytes_max: usize) -> Result<(), EnvelopeError> {
        if self.id.len() != 16 {
            return Err(EnvelopeError::Id);
        }
        split_address(self.from).map_err(|_| EnvelopeError::From)?;
        if self.to.is_empty() || self.to.len() > RECIPIENTS_MAX {
            return Err(EnvelopeError::RecipientCount);
        }
        if self.to.iter().any(|to| split_address(to).is_err()) {
            return Err(EnvelopeError::To);
        }
        match wire::Kind::try_from(self.kind) {
            Ok(wire::Kind::Unspecified) | Err(_) => return Err(EnvelopeError::Kind),
            Ok(_) => {}
        }
        if self.conversation.len() > CONVERSATION_BYTES_MAX {
            return Err(EnvelopeError::Conversation);
        }
        if self.network.is_empty() || self.network.len() > NETWORK_BYTES_MAX {
            return Err(EnvelopeError::Network);
        }
        if self.payload_bytes > payload_bytes_max {
            return Err(EnvelopeError::Payload);
        }
        Ok(())
    }
}

/// The same envelope for some of its recipients only.
///
/// # Errors
/// [`EnvelopeError::Encoding`] when `bytes` is none.
pub fn for_recipients(bytes: bytes::Bytes, to: Vec<String>) -> Result<bytes::Bytes, EnvelopeError> {
    let envelope = wire::Envelope::decode(bytes).map_err(|_| EnvelopeError::Encoding)?;
    Ok(wire::Envelope { to, ..envelope }.encode_to_vec().into())
}

fn varint(rest: &mut &[u8]) -> Result<u64, EnvelopeError> {
    decode_varint(rest).map_err(|_| EnvelopeError::Encoding)
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], EnvelopeError> {
    let length = usize::try_from(varint(rest)?).map_err(|_| EnvelopeError::Encoding)?;
    split(rest, length)
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], EnvelopeError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(EnvelopeError::Encoding)?;
    *rest = tail;
    Ok(head)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, EnvelopeError> {
    std::str::from_utf8(take(rest)?).map_err(|_| EnvelopeError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> wire::Envelope {
        wire::Envelope {
            id: vec![7; 16].into(),
            from: "ann@alpha.test".into(),
            to: vec!["bob@beta.test".into(), "cid@beta.test".into()],
            kind: wire::Kind::Call.into(),
            conversation: "c1".into(),
            network: "main".into(),
            guest: true,
            payload: vec![1; 100].into(),
        }
    }

    #[test]
    fn a_view_reads_what_prost_wrote() {
        let envelope = envelope();
        let bytes = envelope.encode_to_vec();
        let view = View::parse(&bytes).unwrap();
        assert_eq!(view.check(100), Ok(()));
        assert_eq!((view.id, view.from, view.network), (&envelope.id[..], "ann@alpha.test", "main"));
        assert_eq!((view.to.as_slice(), view.guest), (&["bob@beta.test", "cid@beta.test"][..], true));
        assert_eq!((view.kind, view.payload_bytes), (envelope.kind, 100));
    }

    #[test]
    fn each_field_out_of_bounds_is_named() {
        let check = |change: fn(&mut wire::Envelope)| {
            let mut envelope = envelope();
            change(&mut envelope);
            let bytes = envelope.encode_to_vec();
            View::parse(&bytes).and_then(|view| view.check(100))
        };
        assert_eq!(check(|e| e.id = vec![1; 15].into()), Err(EnvelopeError::Id));
        assert_eq!(check(|e| e.from = "ann".into()), Err(EnvelopeError::From));
        assert_eq!(check(|e| e.to = vec![]), Err(EnvelopeError::RecipientCount));
        assert_eq!(check(|e| e.to = vec!["a@b.c".into(); 501]), Err(EnvelopeError::RecipientCount));
        assert_eq!(check(|e| e.to = vec!["@".into()]), Err(EnvelopeError::To));
        assert_eq!(check(|e| e.kind = 9), Err(EnvelopeError::Kind));
        assert_eq!(check(|e| e.conversation = "x".repeat(257)), Err(EnvelopeError::Conversation));
        assert_eq!(check(|e| e.network = String::new()), Err(EnvelopeError::Network));
        assert_eq!(check(|e| e.payload = vec![0; 101].into()), Err(EnvelopeError::Payload));
    }

    #[test]
    fn what_a_view_accepts_reads_the_same_when_it_is_decoded() {
        let bytes = envelope().encode_to_vec();
        for at in 0..bytes.len() - 100 {
            for value in 0..=255 {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let Ok(view) = View::parse(&bytes) else { continue };
                let envelope = wire::Envelope::decode(&bytes[..]).expect("the view accepted it");
                assert_eq!((view.id, view.from), (&envelope.id[..], envelope.from.as_str()));
                assert_eq!(view.to, envelope.to.iter().map(String::as_str).collect::<Vec<_>>());
                assert_eq!((view.conversation, view.network), (&*envelope.conversation, &*envelope.network));
                assert_eq!((view.guest, view.payload_bytes), (envelope.guest, envelope.payload.len()));
                let known = wire::Kind::try_from(view.kind).is_ok();
                assert!(!known || view.kind == envelope.kind, "{} and {}", view.kind, envelope.kind);
            }
        }
    }

    #[test]
    fn a_cut_envelope_never_reads_as_another_payload() {
        let bytes = envelope().encode_to_vec();
        for cut in 0..bytes.len() {
            // Cut between two fields it is an envelope still, one without the fields behind.
            if let Ok(view) = View::parse(&bytes[..cut]) {
                assert_eq!(view.payload_bytes, 0, "{cut}");
            }
        }
    }
}
