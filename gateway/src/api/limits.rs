//! The bounds of the local API. Each says which way to tune it, and what that costs.

use std::time::Duration;

/// Envelopes in one batch. More spreads one sync over more of them, and makes each wait for the whole batch.
pub const BATCH_ENVELOPES_MAX: usize = 10_000;

/// Bytes of a batch's body. Must have room for one envelope with the largest payload in base64.
pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a single JSON envelope may be long beside its payload: 500 recipients, escaped, and the rest.
pub const ENVELOPE_OVERHEAD_BYTES: usize = 512 * 1024;

/// Bytes of all submitted bodies that are in memory at a time. More takes more memory, less makes callers wait
/// for each other.
pub const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Unit in which [`BODIES_BYTES_MAX`] is counted.
pub const BODIES_UNIT_BYTES: usize = 1024;

/// How long a submission waits for room below [`BODIES_BYTES_MAX`] before it is turned away.
pub const BODIES_WAIT: Duration = Duration::from_secs(5);

/// Bodies above this are parsed off the async threads: JSON of this size takes about a millisecond.
pub const INLINE_PARSE_BYTES_MAX: usize = 256 * 1024;

/// Records of one answer unless the caller asks for another number.
pub const READ_DEFAULT: usize = 256;

/// Records a caller may ask for. More saves round trips, and makes answers larger.
pub const READ_MAX: usize = 4096;

/// Bytes of records in one answer; at least one record is always given. More makes answers larger.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest a poll may wait. Must stay below the server's standstill limit, or polls are cut off.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Pause before a queue is asked again that answered "nothing" to who was ready to wait, as it does when its
/// network was removed or the gateway stops. Shorter finds what comes right then sooner, and asks more often.
pub const EMPTY_PAUSE: Duration = Duration::from_millis(100);

/// Streams open at a time. Each holds up to [`READ_BYTES_MAX`] while its reader is slow.
pub const STREAMS_MAX: usize = 256;

/// Records sent on a stream and not acknowledged yet. More hides a longer round trip, and is handed out again
/// after a break.
pub const STREAM_UNACKED_MAX: usize = 1024;

/// Records read at a time for a stream. Less memory per slow reader against more reads.
pub const STREAM_READ_MAX: usize = 256;

/// Bytes of records in one protobuf frame of a stream, unless a single record is larger.
pub const STREAM_FRAME_BYTES: usize = 256 * 1024;

/// How often a stream is pinged, and its token looked up again.
pub const STREAM_PING: Duration = Duration::from_secs(20);

/// How long a stream may say nothing, not even a pong.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long one write to a stream may take: a reader slower than that is closed.
pub const STREAM_WRITE_MAX: Duration = Duration::from_secs(30);

/// Largest message that a stream's client may send: it only acknowledges.
pub const STREAM_MESSAGE_BYTES_MAX: usize = 4096;
