//! What a call wants sent: one arena of bytes, cut into trains.
//!
//! A train is what one `sendmsg` with `UDP_SEGMENT` takes: datagrams to one destination, all of one size but for the
//! last, which may be shorter. The core seals straight into the arena; the shell sends and clears it.

use crate::path::Path;

/// Bytes of media sealed before the arena is sent. Sealing much before sending saves 10 to 18 % (the cache keeps one
/// piece of code), until the arena itself no longer fits into the cache.
pub const ARENA_MEDIA_BYTES: usize = 256 * 1024;

/// Room beyond that for what must not wait: STUN, DTLS, RTCP. What does not fit is dropped and counted.
pub const ARENA_CONTROL_BYTES: usize = 128 * 1024;

/// Datagrams of one train. The kernel's limit (`UDP_MAX_SEGMENTS`) is 64 on older kernels.
pub const TRAIN_SEGMENTS_MAX: usize = 64;

/// Bytes of one train: what fits into one UDP datagram over IPv4.
pub const TRAIN_BYTES_MAX: usize = 65_507;

/// The largest datagram the core writes: Ethernet's 1500 less IPv6 and UDP headers.
pub const DATAGRAM_BYTES_MAX: usize = 1452;

/// Datagrams to one destination, back to back in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Where they go, and from which of our addresses.
    pub path: Path,
    /// Where the first one starts.
    pub start: usize,
    /// Bytes of all of them.
    pub len: usize,
    /// Bytes of each but the last.
    pub segment: usize,
}

impl Train {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.len.div_ceil(self.segment.max(1))
    }
}

/// The arena and its trains. One per worker, reused for ever: nothing is allocated per packet.
#[derive(Debug)]
pub struct Egress {
    arena: Vec<u8>,
    len: usize,
    trains: Vec<Train>,
    dropped: u64,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_MEDIA_BYTES + ARENA_CONTROL_BYTES],
            len: 0,
            trains: Vec::with_capacity(1024),
            dropped: 0,
        }
    }
}

impl Egress {
    /// Whether another media datagram of the largest size may be sealed before what is here is sent.
    #[must_use]
    pub fn has_room_for_media(&self) -> bool {
        self.len + DATAGRAM_BYTES_MAX <= ARENA_MEDIA_BYTES
    }

    /// Room for one datagram to write into; [`Egress::commit`] then says how much of it was used. `None`, counted as
    /// dropped, when even the room for control is full.
    pub fn reserve(&mut self) -> Option<&mut [u8]> {
        let room = self.arena.get_mut(self.len..self.len + DATAGRAM_BYTES_MAX);
        if room.is_none() {
            self.dropped += 1;
        }
        room
    }

    /// Sends the first `len` bytes of what [`Egress::reserve`] gave to `path`. A datagram after another one to the
    /// same path extends its train, while sizes and limits allow.
    pub fn commit(&mut self, path: Path, len: usize) {
        if len == 0 || self.len + len > self.arena.len() {
            return;
        }
        let start = self.len;
        self.len += len;
        if let Some(train) = self.trains.last_mut() {
            let whole = train.len % train.segment == 0;
            let room = train.len + len <= TRAIN_BYTES_MAX && train.datagrams() < TRAIN_SEGMENTS_MAX;
            if train.path == path && whole && len <= train.segment && room {
                train.len += len;
                return;
            }
        }
        self.trains.push(Train { path, start, len, segment: len });
    }

    /// Copies a whole datagram in.
    pub fn push(&mut self, path: Path, datagram: &[u8]) {
        let Some(room) = self.reserve().and_then(|room| room.get_mut(..datagram.len())) else { return };
        room.copy_from_slice(datagram);
        self.commit(path, datagram.len());
    }

    /// The trains, in the order they were made.
    #[must_use]
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// The bytes of a train.
    #[must_use]
    pub fn bytes(&self, train: &Train) -> &[u8] {
        self.arena.get(train.start..train.start + train.len).unwrap_or_default()
    }

    /// Bytes in the arena.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Forgets what was sent. How many datagrams found no room since the last time.
    pub fn clear(&mut self) -> u64 {
        self.len = 0;
        self.trains.clear();
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path::new(([127, 0, 0, 1], port).into(), [127, 0, 0, 1].into())
    }

    #[test]
    fn equal_datagrams_to_one_path_make_one_train() {
        let mut egress = Egress::default();
        egress.push(path(1), &[1; 100]);
        egress.push(path(1), &[2; 100]);
        egress.push(path(1), &[3; 40]);
        egress.push(path(1), &[4; 40]);
        egress.push(path(2), &[5; 40]);
        let trains: Vec<_> = egress.trains().iter().map(|train| (train.len, train.segment)).collect();
        assert_eq!(trains, [(240, 100), (40, 40), (40, 40)]);
        assert_eq!(egress.bytes(&egress.trains()[0])[200..], [3; 40]);
    }

    #[test]
    fn a_larger_datagram_starts_a_new_train() {
        let mut egress = Egress::default();
        egress.push(path(1), &[1; 100]);
        egress.push(path(1), &[2; 101]);
        assert_eq!(egress.trains().len(), 2);
    }

    #[test]
    fn a_train_ends_at_the_kernels_limits() {
        let mut egress = Egress::default();
        for _ in 0..100 {
            egress.push(path(1), &[0; 1200]);
        }
        assert!(egress.trains().iter().all(|train| train.len <= TRAIN_BYTES_MAX && train.datagrams() <= 64));
        assert_eq!(egress.trains().iter().map(Train::datagrams).sum::<usize>(), 100);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut egress = Egress::default();
        for _ in 0..400 {
            egress.push(path(1), &[0; 1200]);
        }
        assert!(egress.clear() > 0);
        assert!(egress.is_empty());
    }
}
