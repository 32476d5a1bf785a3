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

/// How a stream is cut into messages.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    /// Bytes that say how long a message is.
    pub(crate) head_bytes: usize,
    /// How many more there are, of such a head. `None` when no message begins like this: the rest of the stream is lost.
    pub(crate) rest_bytes: fn(&[u8]) -> Option<usize>,
}

/// Cuts a stream into messages, heads included. It keeps only what there is of an unfinished one.
#[derive(Debug)]
pub(crate) struct Splitter {
    format: Format,
    partial: Vec<u8>,
    /// Bytes of an oversized message that are still to come.
    skip: usize,
    /// Messages that were too long.
    pub(crate) oversized: u64,
}

/// What came was no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMessage;

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Format").field("head_bytes", &self.head_bytes).finish_non_exhaustive()
    }
}

impl Splitter {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, partial: Vec::new(), skip: 0, oversized: 0 }
    }

    /// Hands on each message that is complete with these bytes.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        mut handle: impl FnMut(&mut [u8]),
    ) -> Result<(), NoMessage> {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            at += if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                self.skip -= skipped;
                skipped
            } else if self.partial.is_empty()
                && let Some(len) = self.whole(rest)?
            {
                // Most messages are whole in what was read, and are handed on where they lie.
                handle(rest.get_mut(..len).unwrap_or_default());
                len
            } else {
                self.collect(rest, &mut handle)?
            };
        }
        Ok(())
    }

    /// Bytes of the message in front, if it is all there and not too long.
    fn whole(&self, bytes: &[u8]) -> Result<Option<usize>, NoMessage> {
        let Some(head) = bytes.get(..self.format.head_bytes) else { return Ok(None) };
        let rest = (self.format.rest_bytes)(head).ok_or(NoMessage)?;
        let len = head.len() + rest;
        Ok((rest <= FRAME_BYTES_MAX && len <= bytes.len()).then_some(len))
    }

    /// Adds to the unfinished message what belongs to it, and hands it on when that completes it. Bytes taken.
    fn collect(&mut self, bytes: &[u8], handle: &mut impl FnMut(&mut [u8])) -> Result<usize, NoMessage> {
        let end = match self.partial.get(..self.format.head_bytes) {
            Some(head) => head.len() + (self.format.rest_bytes)(head).ok_or(NoMessage)?,
            None => self.format.head_bytes,
        };
        let taken = end.saturating_sub(self.partial.len()).min(bytes.len());
        self.partial.extend(bytes.iter().take(taken));
        let Some(head) = self.partial.get(..self.format.head_bytes) else { return Ok(taken) };
        let rest = (self.format.rest_bytes)(head).ok_or(NoMessage)?;
        if rest > FRAME_BYTES_MAX {
            self.oversized += 1;
            self.skip = rest;
            self.partial.clear();
        } else if self.partial.len() == head.len() + rest {
            handle(&mut self.partial);
            self.partial.clear();
        }
        Ok(taken)
    }
}

/// Two bytes of length; every length is one.
const RFC_4571: Format = Format {
    head_bytes: LENGTH_BYTES,
    rest_bytes: |head| head.first_chunk().copied().map(|length| usize::from(u16::from_be_bytes(length))),
};

/// Finds frames in a stream of bytes. It keeps only what there is of an unfinished frame.
#[derive(Debug)]
pub struct Deframer(Splitter);

impl Default for Deframer {
    fn default() -> Self {
        Self(Splitter::new(RFC_4571))
    }
}

impl Deframer {
    /// Hands on each frame that is complete with these bytes. Frames of length zero say nothing, and are passed over.
    pub fn feed(&mut self, bytes: &mut [u8], mut handle: impl FnMut(&mut [u8])) {
        let frame = |message: &mut [u8]| {
            if let Some(frame) = message.get_mut(LENGTH_BYTES..).filter(|frame| !frame.is_empty()) {
                handle(frame);
            }
        };
        // Two bytes are always a length.
        let _ = self.0.feed(bytes, frame);
    }

    /// Frames that were too long, so far.
    #[must_use]
    pub fn oversized(&self) -> u64 {
        self.0.oversized
    }
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
        assert_eq!(deframer.oversized(), 1);
        assert!(deframer.0.partial.capacity() <= 2 * (FRAME_BYTES_MAX + LENGTH_BYTES));
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
