//! Protobuf by hand where a generated decoder would allocate without bound or an encoder would copy: reading
//! the outer layer of a submitted batch, and wrapping stored records.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use trunkline_common::limits::RECIPIENTS_MAX;
use trunkline_gateway_proto::wire;
use trunkline_http::problem::{MALFORMED, Problem, ProblemType, TOO_LARGE};

use super::limits::BATCH_ENVELOPES_MAX;

/// The body is not protobuf.
pub(super) const INVALID_PROTOBUF: ProblemType =
    ProblemType::new("invalid-protobuf", http::StatusCode::BAD_REQUEST, "The body is not valid protobuf");

/// Media type of both directions.
pub(super) const MEDIA_TYPE: &str = "application/x-protobuf";

/// `SubmitBatch.envelopes`.
const BATCH_ENVELOPES: u64 = 1;
/// `Submission.to`.
const SUBMISSION_TO: u64 = 3;

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_LENGTH: u64 = 2;
const WIRE_FIXED32: u64 = 5;

/// One field of a message: its number, and its bytes when it is length-delimited.
type Field = (u64, Option<usize>);

/// Decodes a [`wire::SubmitBatch`]. Payloads and ids are slices of `body`. The numbers of envelopes and of
/// recipients are bounded before anything is allocated for them: an empty one takes two bytes here, and two
/// hundred in memory.
pub(super) fn decode_batch(body: &Bytes) -> Result<Vec<wire::Submission>, Problem> {
    let mut batch = Vec::new();
    let mut rest = body.clone();
    while rest.has_remaining() {
        match next_field(&mut rest).ok_or_else(|| invalid(batch.len()))? {
            (BATCH_ENVELOPES, Some(length)) => {
                if batch.len() == BATCH_ENVELOPES_MAX {
                    return Err(too_many());
                }
                batch.push(decode_submission(rest.split_to(length), batch.len())?);
            }
            (BATCH_ENVELOPES, None) => return Err(invalid(batch.len())),
            (_, length) => rest.advance(length.unwrap_or(0)),
        }
    }
    Ok(batch)
}

fn decode_submission(bytes: Bytes, index: usize) -> Result<wire::Submission, Problem> {
    let mut recipients = 0;
    let mut rest: &[u8] = &bytes;
    while rest.has_remaining() {
        let (number, length) = next_field(&mut rest).ok_or_else(|| invalid(index))?;
        rest.advance(length.unwrap_or(0));
        recipients += usize::from(number == SUBMISSION_TO);
    }
    if recipients > RECIPIENTS_MAX {
        let detail = format!(
            "the envelope at index {index} has more than {RECIPIENTS_MAX} recipients: split it; nothing of \
             the batch was taken"
        );
        return Err(Problem::new(MALFORMED, detail).with("index", index));
    }
    wire::Submission::decode(bytes).map_err(|_| invalid(index))
}

/// The refusal of a batch with too many envelopes.
pub(super) fn too_many() -> Problem {
    let detail = format!("more than {BATCH_ENVELOPES_MAX} envelopes in one batch: send less at a time");
    Problem::new(TOO_LARGE, detail).with("envelopes_max", BATCH_ENVELOPES_MAX)
}

fn invalid(index: usize) -> Problem {
    let detail =
        format!("the envelope at index {index} does not read as trunkline.v1.Submission: nothing was taken");
    Problem::new(INVALID_PROTOBUF, detail).with("index", index)
}

/// Reads a field's key, and its value unless it is length-delimited: then the length, which `buffer` has.
fn next_field(buffer: &mut impl Buf) -> Option<Field> {
    let key = get_varint(buffer)?;
    let skip = match key & 7 {
        WIRE_VARINT => {
            get_varint(buffer)?;
            0
        }
        WIRE_FIXED64 => 8,
        WIRE_FIXED32 => 4,
        WIRE_LENGTH => {
            let length = usize::try_from(get_varint(buffer)?).ok()?;
            return (length <= buffer.remaining()).then_some((key >> 3, Some(length)));
        }
        _ => return None,
    };
    if skip > buffer.remaining() {
        return None;
    }
    buffer.advance(skip);
    Some((key >> 3, None))
}

/// Reads a base-128 varint.
fn get_varint(buffer: &mut impl Buf) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = buffer.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends a base-128 varint.
pub(super) fn put_varint(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// How many bytes [`put_varint`] appends.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a field of type `uint64`, unless it is zero, which proto3 leaves out.
pub(super) fn put_uint64(field: u64, value: u64, out: &mut impl BufMut) {
    if value != 0 {
        put_varint(field << 3 | WIRE_VARINT, out);
        put_varint(value, out);
    }
}

/// How many bytes [`put_uint64`] appends; the field number is below 16.
pub(super) fn uint64_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Appends the key and the length of a length-delimited field: its bytes follow.
pub(super) fn put_length(field: u64, length: usize, out: &mut impl BufMut) {
    put_varint(field << 3 | WIRE_LENGTH, out);
    put_varint(length as u64, out);
}

/// How many bytes a length-delimited field takes; the field number is below 16.
pub(super) fn length_delimited_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(to: usize) -> wire::Submission {
        wire::Submission {
            id: Bytes::from_static(&[7; 16]),
            from: "ann@alpha.test".into(),
            to: vec!["bob@beta.test".into(); to],
            kind: wire::Kind::Message.into(),
            conversation: "c".into(),
            ttl_s: 60,
            guest: true,
            payload: Bytes::from_static(&[1; 300]),
        }
    }

    fn encoded(envelopes: Vec<wire::Submission>) -> Bytes {
        wire::SubmitBatch { envelopes }.encode_to_vec().into()
    }

    #[test]
    fn a_batch_reads_as_it_was_written_and_payloads_share_the_body() {
        let body = encoded(vec![submission(2), submission(RECIPIENTS_MAX)]);
        let batch = decode_batch(&body).unwrap();
        assert_eq!(batch, [submission(2), submission(RECIPIENTS_MAX)]);
        assert!(body.as_ptr_range().contains(&batch[0].payload.as_ptr()));
    }

    #[test]
    fn one_envelope_too_many_is_refused() {
        assert!(decode_batch(&encoded(vec![wire::Submission::default(); BATCH_ENVELOPES_MAX])).is_ok());
        let problem =
            decode_batch(&encoded(vec![wire::Submission::default(); BATCH_ENVELOPES_MAX + 1])).unwrap_err();
        assert_eq!(problem.kind(), TOO_LARGE);
    }

    #[test]
    fn one_recipient_too_many_is_refused_with_its_index() {
        let problem =
            decode_batch(&encoded(vec![submission(1), submission(RECIPIENTS_MAX + 1)])).unwrap_err();
        assert_eq!((problem.kind(), problem.document()["index"].as_u64()), (MALFORMED, Some(1)));
    }

    #[test]
    fn a_batch_cut_anywhere_is_refused_or_shorter() {
        let body = encoded(vec![submission(1); 3]);
        let one = body.len() / 3;
        for cut in 0..body.len() {
            match decode_batch(&body.slice(..cut)) {
                Ok(batch) => assert_eq!((cut % one, batch.len()), (0, cut / one)),
                Err(problem) => assert_eq!(problem.kind(), INVALID_PROTOBUF),
            }
        }
    }

    #[test]
    fn varints_take_as_many_bytes_as_foretold() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(get_varint(&mut &out[..]), Some(value));
        }
    }
}
