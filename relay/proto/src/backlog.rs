//! What waits for one connection: frames in the order they were made, in one buffer, bounded in bytes and in age.
//!
//! Datagrams that a network cannot take are lost by themselves; a connection keeps everything, and a slow one would show
//! its receiver an ever older past. So old media is dropped here, by whole frames (packets of one SSRC and timestamp,
//! which stand in clear in RTP headers), and the SSRCs that lost something are remembered, so that a new picture can be
//! asked for. STUN, DTLS and RTCP are never dropped for their age, and nothing is of which bytes are on their way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::demux::{self, Protocol};

/// Bytes that may wait. The largest key frames have about 200 KB, and several senders may begin one at once. More rides
/// out longer stalls, at a memory cost of twice as much per slow connection.
pub const BYTES_MAX: usize = 512 * 1024;

/// Frames that may wait, whatever their size. More costs 48 bytes each.
pub const FRAMES_MAX: usize = 8192;

/// Media older than this is not worth sending: a conversation has moved on. More makes slow receivers see and hear older
/// things; less drops pictures that a short stall only delayed.
pub const MEDIA_AGE_MAX: Duration = Duration::from_millis(500);

/// How old media may be that is kept when something is dropped for its age. Dropping more at once costs one gap in place
/// of many, and makes room for the new picture that is asked for.
pub const MEDIA_AGE_KEPT: Duration = Duration::from_millis(200);

/// Frames that may wait and are no media (answers to checks, DTLS, RTCP), which are never dropped for their age. A client
/// that does not read has no use for more; less loses answers in a stall.
pub const OTHERS_MAX: usize = 256;

/// SSRCs remembered that lost something: above the slots a participant has.
pub const SSRCS_MAX: usize = 256;

/// Capacity that an empty buffer keeps. Less allocates anew after every short stall.
const CAPACITY_KEPT: usize = 64 * 1024;
const FRAMES_KEPT: usize = 256;

/// One frame in the buffer.
#[derive(Clone, Copy, Debug)]
struct Frame {
    start: usize,
    len: usize,
    at: Instant,
    /// SSRC and timestamp; none for what is not media.
    media: Option<(u32, u32)>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Backlog {
    buffer: Vec<u8>,
    frames: VecDeque<Frame>,
    /// Bytes of `frames`.
    len: usize,
    /// Frames that are no media.
    others: usize,
    /// Bytes of the first frame that are on their way.
    written: usize,
    /// The youngest picture or sound of each SSRC that is not whole any more: what comes of it yet is of no use.
    broken: Vec<(u32, u32)>,
    /// SSRCs that lost something since they were last taken.
    lost: Vec<u32>,
    dropped: u64,
}

impl Backlog {
    /// Adds a frame: what its framing puts in front (`header`), the datagram, and `padding` bytes of zero behind it. Old
    /// media makes room for it. False when it was dropped itself.
    pub fn push(&mut self, now: Instant, header: &[u8], datagram: &[u8], padding: usize) -> bool {
        self.drop_old(now);
        let media = media_of(datagram);
        if let Some((ssrc, timestamp)) = media
            && let Some(at) = self.broken.iter().position(|(broken, _)| *broken == ssrc)
        {
            if self.broken.get(at).is_some_and(|(_, broken)| *broken == timestamp) {
                self.dropped += 1;
                return false;
            }
            self.broken.swap_remove(at);
        }
        let len = header.len() + datagram.len() + padding;
        if (media.is_none() && self.others >= OTHERS_MAX) || !self.make_room(len) {
            self.dropped += 1;
            if let Some(media) = media {
                self.note_lost(media);
            }
            return false;
        }
        if self.buffer.len() + len > 2 * BYTES_MAX {
            self.compact();
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(header);
        self.buffer.extend_from_slice(datagram);
        self.buffer.resize(start + len, 0);
        self.frames.push_back(Frame { start, len, at: now, media });
        self.len += len;
        self.others += usize::from(media.is_none());
        true
    }

    /// Drops media that became too old.
    pub fn drop_old(&mut self, now: Instant) {
        let age = |frame: &Frame| now.saturating_duration_since(frame.at);
        // Frames stand in the order they came, so the first that may be dropped is the oldest.
        let oldest = self.droppable().next();
        if oldest.is_some_and(|frame| age(frame) > MEDIA_AGE_MAX) {
            self.drop_media(|frame| age(frame) > MEDIA_AGE_KEPT);
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len - self.written
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity() + self.frames.capacity() * size_of::<Frame>()
    }

    /// What waits, in stretches that lie together: one, or as many more as frames were dropped in between.
    pub fn stretches(&self) -> impl Iterator<Item = &[u8]> {
        let mut frames = self.frames.iter().peekable();
        let mut written = self.written;
        std::iter::from_fn(move || {
            let first = frames.next()?;
            let start = first.start + std::mem::take(&mut written);
            let mut end = first.start + first.len;
            while let Some(next) = frames.next_if(|next| next.start == end) {
                end += next.len;
            }
            Some(self.buffer.get(start..end).unwrap_or_default())
        })
    }

    /// So many bytes of it are on their way.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.frames.front() {
            let left = first.len - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.len -= first.len;
            self.others -= usize::from(first.media.is_none());
            self.written = 0;
            self.frames.pop_front();
        }
        self.buffer.clear();
        self.buffer.shrink_to(CAPACITY_KEPT);
        self.frames.shrink_to(FRAMES_KEPT);
    }

    /// Whether some SSRC lost something since the last time that was asked.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// SSRCs that lost something since the last time, each once.
    pub fn take_lost(&mut self) -> impl Iterator<Item = u32> {
        self.lost.drain(..)
    }

    /// Packets dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Frames that may be dropped: media of which nothing is on its way.
    fn droppable(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().skip(usize::from(self.written > 0)).filter(|frame| frame.media.is_some())
    }

    /// Drops the oldest media until so many bytes more may wait. False when that cannot be.
    fn make_room(&mut self, len: usize) -> bool {
        while self.len + len > BYTES_MAX || self.frames.len() >= FRAMES_MAX {
            if self.droppable().next().is_none() {
                return false;
            }
            // Down to half of what may wait: one gap, not many.
            let before = self.frames.len();
            let mut bytes = (self.len + len).saturating_sub(BYTES_MAX / 2);
            let mut frames = self.frames.len().saturating_sub(FRAMES_MAX / 2);
            self.drop_media(|frame| {
                let goes = bytes > 0 || frames > 0;
                bytes = bytes.saturating_sub(frame.len);
                frames = frames.saturating_sub(1);
                goes
            });
            if self.frames.len() == before {
                return false;
            }
        }
        true
    }

    /// Drops media that `goes` names, asked from the oldest to the youngest, and the rest of each of those frames.
    fn drop_media(&mut self, mut goes: impl FnMut(&Frame) -> bool) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut begun = self.written > 0;
        frames.retain(|frame| {
            // Whatever it is, the first frame stays when some of it has been written.
            let is_begun = std::mem::take(&mut begun);
            let Some(media) = frame.media.filter(|_| !is_begun) else { return true };
            if !self.broken.contains(&media) && !goes(frame) {
                return true;
            }
            self.len -= frame.len;
            self.dropped += 1;
            self.note_lost(media);
            false
        });
        self.frames = frames;
    }

    fn note_lost(&mut self, (ssrc, timestamp): (u32, u32)) {
        if let Some(broken) = self.broken.iter_mut().find(|(broken, _)| *broken == ssrc) {
            broken.1 = timestamp;
        } else if self.broken.len() < SSRCS_MAX {
            self.broken.push((ssrc, timestamp));
        }
        if self.lost.len() < SSRCS_MAX && !self.lost.contains(&ssrc) {
            self.lost.push(ssrc);
        }
    }

    /// Moves what waits to the front of the buffer.
    fn compact(&mut self) {
        let mut end = 0;
        for frame in &mut self.frames {
            self.buffer.copy_within(frame.start..frame.start + frame.len, end);
            frame.start = end;
            end += frame.len;
        }
        self.buffer.truncate(end);
    }
}

/// SSRC and timestamp of what is media (RFC 3550, section 5.1).
fn media_of(datagram: &[u8]) -> Option<(u32, u32)> {
    if demux::classify(datagram) != Protocol::Rtp {
        return None;
    }
    let (_, fields) = datagram.split_first_chunk::<4>()?;
    let (timestamp, rest) = fields.split_first_chunk()?;
    let ssrc = rest.first_chunk()?;
    Some((u32::from_be_bytes(*ssrc), u32::from_be_bytes(*timestamp)))
}

#[cfg(test)]
mod tests;
