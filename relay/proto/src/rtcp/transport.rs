//! Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1): which packets arrived, and
//! when. Symbols of two bits stand in chunks of two bytes, then come the times of those that arrived.

use super::RtcpError;

/// Ticks of 250 us in one step of the reference time, 64 ms.
pub const TICKS_PER_REFERENCE: i32 = 256;

/// Bytes before the first chunk.
const FIXED_BYTES: usize = 8;

/// What a symbol says. The fourth is reserved.
const NOT_RECEIVED: u16 = 0;
const SMALL: u16 = 1;
const LARGE: u16 = 2;

/// Bytes of a large delta; a small one has one.
pub(super) const DELTA_LARGE_BYTES: usize = 2;

/// Symbols that a chunk can hold.
const RUN_MAX: u16 = 0x1fff;
const ONE_BIT_SYMBOLS: u16 = 14;
const TWO_BIT_SYMBOLS: u16 = 7;

/// Which packets arrived, and when.
#[derive(Clone, Debug)]
pub struct TransportFeedback<'a> {
    /// Who says so.
    pub sender: u32,
    /// A stream of those it speaks of; it means nothing.
    pub media: u32,
    /// The transport-wide sequence number of the first packet.
    pub base_sequence: u16,
    /// How many packets it speaks of.
    pub packet_count: u16,
    /// When it begins on the receiver's clock, in 64 ms: 24 bits with a sign, which wrap around.
    pub reference_time: i32,
    /// The number of this message, which wraps around.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// What follows the two SSRCs. Every packet that is counted has a symbol, and every symbol its delta. The work goes
    /// by the chunks, not by the packets.
    pub(super) fn parse(sender: u32, media: u32, body: &'a [u8]) -> Result<Self, RtcpError> {
        let (fixed, rest) = body.split_first_chunk::<FIXED_BYTES>().ok_or(RtcpError::Count)?;
        let [s0, s1, c0, c1, t0, t1, t2, feedback_count] = *fixed;
        let packet_count = u16::from_be_bytes([c0, c1]);
        let (mut left, mut behind, mut delta_bytes) = (packet_count, rest, 0_usize);
        while left > 0 {
            let (bytes, next) = behind.split_first_chunk().ok_or(RtcpError::Count)?;
            behind = next;
            let chunk = Chunk::read(*bytes);
            let symbols = chunk.left.min(left);
            delta_bytes += chunk.delta_bytes(symbols);
            left -= symbols;
        }
        let chunks = rest.get(..rest.len() - behind.len()).ok_or(RtcpError::Count)?;
        let deltas = behind.get(..delta_bytes).ok_or(RtcpError::Count)?;
        Ok(Self {
            sender,
            media,
            base_sequence: u16::from_be_bytes([s0, s1]),
            packet_count,
            // The shift back carries the sign of the 24 bits along.
            reference_time: i32::from_be_bytes([t0, t1, t2, 0]) >> 8,
            feedback_count,
            chunks,
            deltas,
        })
    }

    /// Every packet's sequence number, and when it arrived, if it did. There are [`packet_count`] of them, which says
    /// nothing about the size of the message: whoever asks has to bound the work.
    ///
    /// [`packet_count`]: Self::packet_count
    #[must_use]
    pub fn packets(&self) -> Arrived<'a> {
        Arrived {
            chunks: self.chunks,
            deltas: self.deltas,
            chunk: Chunk::default(),
            left: self.packet_count,
            sequence: self.base_sequence,
            ticks: 0,
        }
    }
}

/// Sequence numbers, and when the packets arrived: in ticks of 250 us since the reference time. See
/// [`TransportFeedback::packets`].
#[derive(Clone, Debug)]
pub struct Arrived<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: Chunk,
    left: u16,
    sequence: u16,
    ticks: i32,
}

impl Arrived<'_> {
    fn delta(&mut self, symbol: u16) -> Option<i32> {
        if symbol == SMALL {
            let (delta, rest) = self.deltas.split_first()?;
            self.deltas = rest;
            return Some(i32::from(*delta));
        }
        let (delta, rest) = self.deltas.split_first_chunk()?;
        self.deltas = rest;
        Some(i32::from(i16::from_be_bytes(*delta)))
    }
}

impl Iterator for Arrived<'_> {
    type Item = (u16, Option<i32>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // A run may be of nothing.
        while self.chunk.left == 0 {
            let (bytes, rest) = self.chunks.split_first_chunk()?;
            self.chunks = rest;
            self.chunk = Chunk::read(*bytes);
        }
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let symbol = self.chunk.next();
        if symbol != SMALL && symbol != LARGE {
            return Some((sequence, None));
        }
        // 65535 deltas of 16 bits with a sign do not leave 32 bits.
        self.ticks = self.ticks.saturating_add(self.delta(symbol)?);
        Some((sequence, Some(self.ticks)))
    }
}

/// The symbols of one chunk that are left: a run, or those in `bits` from the highest on.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    bits: u16,
    /// Bits of one symbol, 0 for a run of what `bits` says.
    width: u8,
    left: u16,
}

impl Chunk {
    fn read(bytes: [u8; 2]) -> Self {
        let word = u16::from_be_bytes(bytes);
        if word & 0x8000 == 0 {
            Self { bits: word >> 13, width: 0, left: word & RUN_MAX }
        } else if word & 0x4000 == 0 {
            Self { bits: word << 2, width: 1, left: ONE_BIT_SYMBOLS }
        } else {
            Self { bits: word << 2, width: 2, left: TWO_BIT_SYMBOLS }
        }
    }

    fn next(&mut self) -> u16 {
        self.left = self.left.saturating_sub(1);
        let bits = self.bits;
        match self.width {
            0 => bits,
            1 => {
                self.bits = bits << 1;
                bits >> 15
            }
            _ => {
                self.bits = bits << 2;
                bits >> 14
            }
        }
    }

    /// Bytes of the deltas of its first symbols.
    fn delta_bytes(mut self, symbols: u16) -> usize {
        if self.width == 0 {
            return usize::from(symbols) * symbol_bytes(self.bits);
        }
        (0..symbols).map(|_| symbol_bytes(self.next())).sum()
    }
}

fn symbol_bytes(symbol: u16) -> usize {
    match symbol {
        SMALL => 1,
        LARGE => DELTA_LARGE_BYTES,
        _ => 0,
    }
}

/// Bytes that a delta takes.
pub(super) fn delta_bytes(delta: i16) -> usize {
    if u8::try_from(delta).is_ok() { 1 } else { DELTA_LARGE_BYTES }
}

/// The symbols of packets, from when they arrived. `None` is a delta that no symbol can say.
#[derive(Clone, Debug)]
struct Symbols<I> {
    arrivals: I,
    ticks: i32,
}

impl<I: Iterator<Item = Option<i32>>> Iterator for Symbols<I> {
    type Item = Option<u16>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(ticks) = self.arrivals.next()? else { return Some(Some(NOT_RECEIVED)) };
        let delta = ticks.checked_sub(self.ticks).and_then(|delta| i16::try_from(delta).ok());
        self.ticks = ticks;
        Some(delta.map(|delta| if delta_bytes(delta) == 1 { SMALL } else { LARGE }))
    }
}

/// Chunks for packets, from when they arrived: a run where it says more than single symbols do, else as many symbols as
/// fit. `None` is a delta that cannot be said, and the end.
#[derive(Clone, Debug)]
pub(super) struct Chunks<I> {
    symbols: Symbols<I>,
}

impl<I: Iterator<Item = Option<i32>> + Clone> Chunks<I> {
    pub(super) fn new(arrivals: I) -> Self {
        Self { symbols: Symbols { arrivals, ticks: 0 } }
    }

    /// How many symbols are the same from here on, at most `most`.
    fn run(&self, first: u16, most: u16) -> u16 {
        let same = self.symbols.clone().take(usize::from(most)).take_while(|symbol| *symbol == Some(first));
        u16::try_from(same.count()).unwrap_or(most)
    }
}

impl<I: Iterator<Item = Option<i32>> + Clone> Iterator for Chunks<I> {
    type Item = Option<u16>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(first) = self.symbols.clone().next()? else { return Some(None) };
        let ahead = self.symbols.clone().take(usize::from(ONE_BIT_SYMBOLS));
        let one_bit = ahead.clone().all(|symbol| symbol.is_some_and(|symbol| symbol < LARGE));
        let same = self.run(first, ONE_BIT_SYMBOLS);
        let most = if one_bit { ONE_BIT_SYMBOLS } else { TWO_BIT_SYMBOLS };
        if same >= most || usize::from(same) == ahead.count() {
            let run = self.run(first, RUN_MAX);
            self.symbols.nth(usize::from(run).saturating_sub(1))?;
            return Some(Some(first << 13 | run));
        }
        let (width, mut chunk) = if one_bit { (1, 0x8000) } else { (2, 0xc000) };
        for place in 1..=most {
            match self.symbols.next() {
                Some(Some(symbol)) => chunk |= symbol << (ONE_BIT_SYMBOLS - place * width),
                Some(None) => return Some(None),
                None => break,
            }
        }
        Some(Some(chunk))
    }
}
