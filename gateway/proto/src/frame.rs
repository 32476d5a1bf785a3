//! Frames on channels, and their bounds: the same over QUIC and over TCP.
//!
//! A link carries **channels**: one for control, one per lane, and one per large envelope ("blob"). On QUIC a
//! channel is a stream: control is the one bidirectional stream, opened by the dialer; every other channel is a
//! unidirectional stream that starts with the channel number as a varint (RFC 9000, section 16). Frames follow,
//! each as a length (4 bytes, big endian) and an encoded [`wire::Frame`]. Over TCP all channels share one
//! HTTP/2 stream, and each frame is preceded by its channel number as a varint and then its length.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

use crate::store::{LANES, Lane};
use crate::wire;

/// Largest encoded frame in bytes. A receiver buffers one per channel.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Envelopes with an encoding larger than this travel as a blob. Smaller lets other lanes through sooner.
pub const BLOB_BYTES_MIN: usize = 256 * 1024;

/// Blobs that a sender may have under way: sent, and not acknowledged. Part of the protocol: a receiver that is
/// given more to put together closes the link. More lets more large envelopes travel side by side.
pub const BLOBS_MAX: usize = 64;

/// Piece of a blob in one frame. Smaller lets other channels in between sooner over TCP, and costs headers.
pub const BLOB_CHUNK_BYTES: usize = 64 * 1024;

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Everything but envelopes.
    Control,
    /// One lane's envelopes.
    Lane(Lane),
    /// One large envelope.
    Blob(u64),
}

/// What is wrong with received bytes: always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("frame longer than {FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// Not a `Frame`.
    #[error("frame is not valid protobuf")]
    Malformed,
    /// A frame without a body, or with one this version does not know.
    #[error("frame of unknown kind")]
    Unknown,
    /// A frame that does not belong on its channel.
    #[error("frame on the wrong channel")]
    Channel,
}

impl Channel {
    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Control => 0,
            Self::Lane(lane) => 1 + u64::from(lane.0),
            Self::Blob(id) => 1 + u64::from(LANES) + id,
        }
    }

    /// From its number on the wire.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Control,
            n => match u8::try_from(n - 1) {
                Ok(lane) if lane < LANES => Self::Lane(Lane(lane)),
                _ => Self::Blob(n - 1 - u64::from(LANES)),
            },
        }
    }

    /// Whether such a frame may come on this channel.
    fn carries(self, body: &wire::frame::Body) -> bool {
        match self {
            Self::Lane(_) => matches!(body, wire::frame::Body::Data(_)),
            Self::Blob(id) => matches!(body, wire::frame::Body::Blob(blob) if blob.blob_id == id),
            Self::Control => !matches!(body, wire::frame::Body::Data(_) | wire::frame::Body::Blob(_)),
        }
    }
}

/// Appends a frame with its length.
pub fn encode(body: wire::frame::Body, out: &mut BytesMut) {
    let frame = wire::Frame { body: Some(body) };
    let length = frame.encoded_len();
    assert!(length <= FRAME_BYTES_MAX, "the core never makes a frame that its peer must refuse");
    out.reserve(4 + length);
    out.put_u32(u32::try_from(length).expect("bounded above"));
    frame.encode_raw(out);
}

/// Takes one frame off the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// When what is there cannot become a frame of `channel`, however much follows.
pub fn decode(channel: Channel, buffer: &mut BytesMut) -> Result<Option<wire::frame::Body>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    decode_body(channel, buffer.split_to(length).freeze()).map(Some)
}

/// Decodes the frame that `bytes` are, without a length before it. Payloads share `bytes`.
///
/// # Errors
/// When they are none of `channel`.
pub fn decode_body(channel: Channel, bytes: Bytes) -> Result<wire::frame::Body, FrameError> {
    let frame = wire::Frame::decode(bytes).map_err(|_| FrameError::Malformed)?;
    let body = frame.body.ok_or(FrameError::Unknown)?;
    if channel.carries(&body) { Ok(body) } else { Err(FrameError::Channel) }
}

/// Appends a variable-length integer (RFC 9000, section 16). `value` is below 2^62.
#[expect(clippy::cast_possible_truncation, reason = "each arm's range fits the width it writes")]
pub fn put_varint(value: u64, out: &mut BytesMut) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | value as u32),
        _ => {
            assert!(value < 1 << 62, "channel numbers are counted, and never get this far");
            out.put_u64(0xc000_0000_0000_0000 | value);
        }
    }
}

/// Reads a variable-length integer (RFC 9000, section 16) off the front; `None` when more bytes are needed.
#[must_use]
pub fn get_varint(buffer: &mut BytesMut) -> Option<u64> {
    let first = *buffer.first()?;
    let length = 1_usize << (first >> 6);
    if buffer.len() < length {
        return None;
    }
    let value = buffer.get_uint(length);
    Some(value & ((1 << (8 * length - 2)) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_numbers_go_both_ways() {
        for channel in [
            Channel::Control,
            Channel::Lane(Lane(0)),
            Channel::Lane(Lane(15)),
            Channel::Blob(0),
            Channel::Blob(1 << 40),
        ] {
            assert_eq!(Channel::from_number(channel.number()), channel);
        }
    }

    #[test]
    fn varints_of_every_length_go_both_ways() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut buffer = BytesMut::new();
            put_varint(value, &mut buffer);
            for cut in 0..buffer.len() {
                assert_eq!(get_varint(&mut BytesMut::from(&buffer[..cut])), None);
            }
            assert_eq!(get_varint(&mut buffer), Some(value));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_split_at_every_byte_is_read_once_it_is_whole() {
        let body = wire::frame::Body::Ping(wire::Ping { nonce: 7 });
        let mut whole = BytesMut::new();
        encode(body.clone(), &mut whole);
        for cut in 0..whole.len() {
            assert_eq!(decode(Channel::Control, &mut BytesMut::from(&whole[..cut])), Ok(None));
        }
        assert_eq!(decode(Channel::Control, &mut whole), Ok(Some(body)));
    }

    #[test]
    fn a_frame_on_the_wrong_channel_is_refused() {
        let mut bytes = BytesMut::new();
        encode(wire::frame::Body::Ping(wire::Ping { nonce: 7 }), &mut bytes);
        assert_eq!(decode(Channel::Lane(Lane(3)), &mut bytes), Err(FrameError::Channel));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let mut bytes = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(decode(Channel::Control, &mut bytes), Err(FrameError::TooLong));
    }
}
