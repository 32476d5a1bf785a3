//! A time at the beginning of a payload. The rest of the payload is nobody's business.

use std::time::{Duration, Instant};

/// What tells a stamped payload from others.
const MARKER: [u8; 8] = *b"\xf7trkstmp";

/// Bytes of a stamp.
pub const LEN: usize = 16;

/// Writes when a payload was made. False, and nothing is written, when it is shorter than [`LEN`].
pub fn write(payload: &mut [u8], epoch: Instant, now: Instant) -> bool {
    let Some(stamp) = payload.first_chunk_mut::<LEN>() else { return false };
    let nanos = u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX);
    let (marker, time) = stamp.split_at_mut(MARKER.len());
    marker.copy_from_slice(&MARKER);
    time.copy_from_slice(&nanos.to_be_bytes());
    true
}

/// How long ago a payload was made. `None` when it bears no stamp.
#[must_use]
pub fn age(payload: &[u8], epoch: Instant, now: Instant) -> Option<Duration> {
    let time = payload.strip_prefix(&MARKER)?.first_chunk()?;
    let made = epoch.checked_add(Duration::from_nanos(u64::from_be_bytes(*time)))?;
    Some(now.saturating_duration_since(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_how_old_a_payload_is() {
        let epoch = Instant::now();
        let mut payload = [7; 100];
        assert_eq!(age(&payload, epoch, epoch), None);
        assert!(write(&mut payload, epoch, epoch + Duration::from_millis(40)));
        assert_eq!(age(&payload, epoch, epoch + Duration::from_millis(43)), Some(Duration::from_millis(3)));
        assert_eq!(payload[LEN..], [7; 100 - LEN]);
        assert!(!write(&mut payload[..LEN - 1], epoch, epoch));
    }
}
