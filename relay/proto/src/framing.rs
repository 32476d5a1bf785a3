//! Frames on a TCP connection (RFC 4571, section 2, as RFC 6544 uses it): two bytes of length, then as many bytes of
//! what would be a datagram over UDP.

/// Bytes in front of every frame.
pub const LENGTH_BYTES: usize = 2;

/// The largest frame that is handed on: more than any datagram the relay forwards. Longer ones are skipped as they come,
/// without being kept. Larger costs memory per connection.
pub const FRAME_BYTES_MAX: usize = 2048;

/// What goes in front of a frame. `None` when the frame is too long for the format.
#[must_use]
pub fn length(frame: &[u8]) -> Option<[u8; LENGTH_BYTES]> {
    u16::try_from(frame.len()).ok().map(u16::to_be_bytes)
}

/// Finds frames in a stream of bytes. It keeps only what there is of an unfinished frame.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The beginning of a frame, its length first.
    partial: Vec<u8>,
    /// Bytes of an oversized frame that are still to come.
    skip: usize,
    /// Frames that were too long.
    pub oversized: u64,
}

impl Deframer {
    /// Hands on each frame that is complete with these bytes. Frames of length zero say nothing, and are passed over.
    pub fn feed(&mut self, bytes: &mut [u8], mut handle: impl FnMut(&mut [u8])) {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            at += if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                self.skip -= skipped;
                skipped
            } else if self.partial.is_empty()
                && let Some(frame) = whole(rest)
            {
                // Most frames are whole in what was read, and are handed on where they lie.
                handle(frame);
                LENGTH_BYTES + frame.len()
            } else {
                self.collect(rest, &mut handle)
            };
        }
    }

    /// Adds to the unfinished frame what belongs to it, and hands it on when that completes it. Bytes taken.
    fn collect(&mut self, rest: &[u8], handle: &mut impl FnMut(&mut [u8])) -> usize {
        let end = match self.partial.first_chunk() {
            Some(length) => LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)),
            None => LENGTH_BYTES,
        };
        let taken = (end - self.partial.len()).min(rest.len());
        self.partial.extend(rest.iter().take(taken));
        let Some((length, frame)) = self.partial.split_first_chunk_mut() else { return taken };
        let len = usize::from(u16::from_be_bytes(*length));
        if len > FRAME_BYTES_MAX {
            self.oversized += 1;
            self.skip = len;
            self.partial.clear();
        } else if frame.len() == len {
            if len > 0 {
                handle(frame);
            }
            self.partial.clear();
        }
        taken
    }
}

/// The frame that these bytes begin with, if it is all there, says something, and is not too long.
fn whole(bytes: &mut [u8]) -> Option<&mut [u8]> {
    let (length, body) = bytes.split_first_chunk_mut()?;
    let len = usize::from(u16::from_be_bytes(*length));
    if (1..=FRAME_BYTES_MAX).contains(&len) { body.get_mut(..len) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.iter().flat_map(|frame| [&length(frame).expect("fits")[..], frame].concat()).collect()
    }

    /// What comes out when the stream arrives in these pieces.
    fn frames_of<'a>(deframer: &mut Deframer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for piece in pieces {
            deframer.feed(&mut piece.to_vec(), |frame| out.push(frame.to_vec()));
        }
        out
    }

    #[test]
    fn frames_come_out_however_the_stream_is_split() {
        let frames = [vec![1; 20], vec![2; 1], vec![3; 300]];
        let stream = stream(&frames);
        for split in 0..=stream.len() {
            let (head, tail) = stream.split_at(split);
            assert_eq!(frames_of(&mut Deframer::default(), [head, tail]), frames, "split at {split}");
        }
        assert_eq!(frames_of(&mut Deframer::default(), stream.chunks(1)), frames);
    }

    #[test]
    fn a_frame_of_length_zero_says_nothing() {
        let stream = stream(&[vec![], vec![1; 3], vec![]]);
        assert_eq!(frames_of(&mut Deframer::default(), [&stream[..]]), [[1; 3]]);
    }

    #[test]
    fn a_frame_of_maximal_length_is_skipped_without_being_kept() {
        let stream = stream(&[vec![9; 65_535], vec![1; 3], vec![8; FRAME_BYTES_MAX]]);
        let mut deframer = Deframer::default();
        let frames = frames_of(&mut deframer, stream.chunks(1000));
        assert_eq!(frames, [vec![1; 3], vec![8; FRAME_BYTES_MAX]]);
        assert_eq!(deframer.oversized, 1);
        assert!(deframer.partial.capacity() <= 2 * (FRAME_BYTES_MAX + LENGTH_BYTES));
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_framed_the_same_in_one_piece_and_in_many(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            piece in 1_usize..100,
        ) {
            let whole = frames_of(&mut Deframer::default(), [&bytes[..]]);
            prop_assert_eq!(frames_of(&mut Deframer::default(), bytes.chunks(piece)), whole);
        }
    }
}
