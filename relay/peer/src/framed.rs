//! Datagrams as frames of RFC 4571 on a TCP or TLS connection, whose bytes somebody else reads and writes.

use trunkline_relay_proto::framing::{Deframer, length};

/// Bytes that wait to be written. What comes on top is dropped whole, as on any network. Larger hides a slow network
/// behind latency, smaller drops bursts.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Both directions of one connection.
#[derive(Debug, Default)]
pub struct Framed {
    incoming: Deframer,
    out: Vec<u8>,
    /// How much of it was written.
    written: usize,
    /// Datagrams that found no room.
    pub dropped: u64,
}

impl Framed {
    /// A datagram to send.
    pub fn push(&mut self, datagram: &[u8]) {
        match length(datagram) {
            Some(length) if self.waiting().len() + length.len() + datagram.len() <= WAITING_BYTES_MAX => {
                self.out.extend_from_slice(&length);
                self.out.extend_from_slice(datagram);
            }
            _ => self.dropped += 1,
        }
    }

    /// What is to be written to the connection.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    /// So many of the waiting bytes were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > WAITING_BYTES_MAX / 2 {
            // A connection that never gets empty does not collect what it wrote long ago.
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Hands on each datagram that is complete with the bytes read.
    pub fn feed(&mut self, bytes: &mut [u8], handle: impl FnMut(&mut [u8])) {
        self.incoming.feed(bytes, handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_out_at_the_other_end_however_little_is_written_at_a_time() {
        let (mut here, mut there) = (Framed::default(), Framed::default());
        let datagrams: Vec<Vec<u8>> = (1..50_u8).map(|at| vec![at; usize::from(at) * 20]).collect();
        datagrams.iter().for_each(|datagram| here.push(datagram));
        let mut came = Vec::new();
        while !here.waiting().is_empty() {
            let mut piece = here.waiting().iter().take(7).copied().collect::<Vec<_>>();
            here.wrote(piece.len());
            there.feed(&mut piece, |datagram| came.push(datagram.to_vec()));
        }
        assert_eq!(came, datagrams);
    }

    #[test]
    fn what_waits_is_bounded_and_frames_are_dropped_whole() {
        let mut framed = Framed::default();
        let datagram = [7; 1000];
        (0..2000).for_each(|_| framed.push(&datagram));
        assert!(framed.waiting().len() <= WAITING_BYTES_MAX);
        assert_eq!(framed.waiting().len() % 1002, 0);
        assert_eq!(framed.dropped, 2000 - framed.waiting().len() as u64 / 1002);
    }

    #[test]
    fn a_connection_that_is_never_empty_keeps_only_what_waits() {
        let mut framed = Framed::default();
        for _ in 0..5000 {
            framed.push(&[7; 1000]);
            framed.push(&[8; 10]);
            framed.wrote(1002);
        }
        assert!(framed.out.len() <= 2 * WAITING_BYTES_MAX, "{}", framed.out.len());
    }
}
