//! The extension `video-layers-allocation00` (docs/native-code/rtp-hdrext/video-layers-allocation00 of WebRTC): what a
//! sender sends at present, layer by layer, and what each takes.

/// Streams of one source, spatial layers of one stream, temporal layers of one spatial layer: what two bits count.
pub const COUNT_MAX: usize = 4;

/// Bytes of the longest value: a target of five bytes for each layer, and the sizes.
pub const VALUE_LEN_MAX: usize = 1 + 2 + 4 + 64 * LEB128_LEN_MAX + 16 * SIZE_LEN;

/// Bytes of a target rate. Five hold 32 bits, which is as much as is taken.
const LEB128_LEN_MAX: usize = 5;

/// Bytes of a size with its frame rate.
const SIZE_LEN: usize = 5;

/// One spatial layer of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpatialLayer {
    /// Temporal layers, 1 to 4.
    pub temporal_layers: u8,
    /// Target rate in kbit/s up to and with each temporal layer, all that it needs included; zero for those that are
    /// not there.
    pub kbits_per_s: [u32; COUNT_MAX],
    /// Its size, when the sender says so: not in every packet.
    pub size: Option<Size>,
}

/// Size and rate of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In pixels.
    pub width: u16,
    /// In pixels.
    pub height: u16,
    /// Pictures per second at most.
    pub frames_per_s: u8,
}

/// What a sender sends at present in all streams of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayersAllocation {
    /// Which of the streams the packet belongs to, counted from 0: of simulcast encodings in the order of the offer.
    pub stream: u8,
    /// How many streams there are, 0 to 4. 0 when nothing is sent.
    pub streams: u8,
    layers: [[Option<SpatialLayer>; COUNT_MAX]; COUNT_MAX],
}

impl LayersAllocation {
    /// Nothing sent yet in any of `streams` streams (1 to 4), told in a packet of `stream`.
    #[must_use]
    pub fn new(stream: u8, streams: u8) -> Self {
        Self { stream: stream & 3, streams: streams.clamp(1, 4), layers: Default::default() }
    }

    /// Says that a layer is sent. Streams and layers that cannot be told are left out.
    pub fn set(&mut self, stream: u8, spatial: u8, layer: SpatialLayer) {
        let layers = self.layers.get_mut(usize::from(stream)).filter(|_| stream < self.streams);
        if let Some(slot) = layers.and_then(|layers| layers.get_mut(usize::from(spatial))) {
            *slot = (1..=4).contains(&layer.temporal_layers).then_some(layer);
        }
    }

    /// A spatial layer of a stream, when it is sent.
    #[must_use]
    pub fn layer(&self, stream: u8, spatial: u8) -> Option<&SpatialLayer> {
        self.layers.get(usize::from(stream))?.get(usize::from(spatial))?.as_ref()
    }

    /// Whether anything of a stream is sent.
    #[must_use]
    pub fn is_active(&self, stream: u8) -> bool {
        self.layers.get(usize::from(stream)).is_some_and(|layers| layers.iter().any(Option::is_some))
    }

    /// Reads the value of the header extension. `None` when it is malformed.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (&first, rest) = value.split_first()?;
        if first == 0 && rest.is_empty() {
            return Some(Self::default());
        }
        let stream = first >> 6;
        let streams = (first >> 4 & 3).checked_add(1)?;
        let mut allocation = Self { stream, streams, layers: Default::default() };
        let rest = allocation.read_active(first & 0x0f, rest)?;
        let rest = allocation.read_temporal_layers(rest)?;
        let rest = allocation.read_rates(rest)?;
        if !rest.is_empty() {
            let rest = allocation.read_sizes(rest)?;
            rest.is_empty().then_some(())?;
        }
        Some(allocation)
    }

    /// Which spatial layers are sent: the same of all streams, or half a byte for each stream.
    fn read_active<'a>(&mut self, of_all: u8, value: &'a [u8]) -> Option<&'a [u8]> {
        let (masks, rest) = match (of_all, self.streams) {
            (0, ..=2) => {
                let (&byte, rest) = value.split_first()?;
                ([byte >> 4, byte & 0x0f, 0, 0], rest)
            }
            (0, _) => {
                let (&[one, other], rest) = value.split_first_chunk::<2>()?;
                ([one >> 4, one & 0x0f, other >> 4, other & 0x0f], rest)
            }
            (mask, _) => ([mask; COUNT_MAX], value),
        };
        let streams = usize::from(self.streams);
        for (layers, mask) in self.layers.iter_mut().zip(masks).take(streams) {
            for (spatial, layer) in layers.iter_mut().enumerate() {
                *layer = (mask >> spatial & 1 == 1).then(SpatialLayer::default);
            }
        }
        Some(rest)
    }

    /// Two bits for each layer that is sent, in whole bytes.
    fn read_temporal_layers<'a>(&mut self, mut value: &'a [u8]) -> Option<&'a [u8]> {
        let mut byte = 0;
        for (at, layer) in self.sent_mut().enumerate() {
            if at % 4 == 0 {
                let (first, rest) = value.split_first()?;
                (byte, value) = (*first, rest);
            }
            layer.temporal_layers = (byte >> 6).checked_add(1)?;
            byte <<= 2;
        }
        Some(value)
    }

    fn read_rates<'a>(&mut self, mut value: &'a [u8]) -> Option<&'a [u8]> {
        for layer in self.sent_mut() {
            let temporal_layers = usize::from(layer.temporal_layers);
            for rate in layer.kbits_per_s.iter_mut().take(temporal_layers) {
                (*rate, value) = read_leb128(value)?;
            }
        }
        Some(value)
    }

    fn read_sizes<'a>(&mut self, mut value: &'a [u8]) -> Option<&'a [u8]> {
        for layer in self.sent_mut() {
            let (&[w0, w1, h0, h1, frames_per_s], rest) = value.split_first_chunk::<SIZE_LEN>()?;
            value = rest;
            // One less than what is meant. The one size that no number of 16 bits holds becomes the next smaller.
            layer.size = Some(Size {
                width: u16::from_be_bytes([w0, w1]).saturating_add(1),
                height: u16::from_be_bytes([h0, h1]).saturating_add(1),
                frames_per_s,
            });
        }
        Some(value)
    }

    /// Writes the value of the header extension and says how long it is, for simulated senders. Sizes are told when
    /// they are known of every layer. `None` when it does not fit.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let mut len = 0;
        let mut put = |byte: u8| {
            *out.get_mut(len)? = byte;
            len += 1;
            Some(())
        };
        if self.sent().next().is_none() {
            put(0)?;
            return Some(len);
        }
        let streams = usize::from(self.streams);
        let mask = |layers: &[Option<SpatialLayer>; COUNT_MAX]| {
            layers.iter().rev().fold(0_u8, |mask, layer| mask << 1 | u8::from(layer.is_some()))
        };
        let mut masks = [0; COUNT_MAX];
        masks.iter_mut().zip(&self.layers).take(streams).for_each(|(out, layers)| *out = mask(layers));
        let [of_all, ..] = masks;
        let same = masks.iter().take(streams).all(|mask| *mask == of_all);
        put(self.stream << 6 | (self.streams - 1) << 4 | if same { of_all } else { 0 })?;
        if !same {
            let [one, two, three, four] = masks;
            put(one << 4 | two)?;
            if streams > 2 {
                put(three << 4 | four)?;
            }
        }
        let mut byte = 0;
        let mut left = 4;
        for layer in self.sent() {
            byte = byte << 2 | (layer.temporal_layers - 1);
            left -= 1;
            if left == 0 {
                put(byte)?;
                (byte, left) = (0, 4);
            }
        }
        if left < 4 {
            put(byte << (2 * left))?;
        }
        for layer in self.sent() {
            for rate in layer.kbits_per_s.iter().take(usize::from(layer.temporal_layers)) {
                let mut rest = *rate;
                while rest > 0x7f {
                    put(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80)?;
                    rest >>= 7;
                }
                put(u8::try_from(rest).unwrap_or(0))?;
            }
        }
        if self.sent().all(|layer| layer.size.is_some()) {
            for size in self.sent().filter_map(|layer| layer.size) {
                let [w0, w1] = size.width.max(1).wrapping_sub(1).to_be_bytes();
                let [h0, h1] = size.height.max(1).wrapping_sub(1).to_be_bytes();
                for byte in [w0, w1, h0, h1, size.frames_per_s] {
                    put(byte)?;
                }
            }
        }
        Some(len)
    }

    /// The layers that are sent, by stream, then spatial layer.
    fn sent(&self) -> impl Iterator<Item = &SpatialLayer> {
        self.layers.iter().flatten().flatten()
    }

    fn sent_mut(&mut self) -> impl Iterator<Item = &mut SpatialLayer> {
        self.layers.iter_mut().flatten().flatten()
    }
}

/// A number in groups of seven bits, the lowest first. `None` when it is longer than 32 bits.
fn read_leb128(value: &[u8]) -> Option<(u32, &[u8])> {
    let mut number = 0_u64;
    for (at, byte) in value.iter().enumerate().take(LEB128_LEN_MAX) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()?, value.get(at.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { width: 1280, height: 720, frames_per_s: 30 };

    fn layer(rates: &[u32], size: Option<Size>) -> SpatialLayer {
        let mut kbits_per_s = [0; COUNT_MAX];
        kbits_per_s[..rates.len()].copy_from_slice(rates);
        SpatialLayer { temporal_layers: u8::try_from(rates.len()).unwrap(), kbits_per_s, size }
    }

    #[test]
    fn simulcast_of_a_browser_is_read() {
        // The first of three streams, each of one spatial and three temporal layers, with sizes.
        let sizes = [[1, 0x3f, 0, 0xb3, 30], [2, 0x7f, 1, 0x67, 30], [4, 0xff, 2, 0xcf, 30]];
        let rates = [60, 90, 0x96, 1, 0xaf, 1, 0xcc, 2, 0xf4, 3, 0xe8, 7, 0xcc, 10, 0xc4, 19];
        let value = [&[0x21, 0xa8], &rates[..], sizes.as_flattened()].concat();
        let allocation = LayersAllocation::parse(&value).unwrap();
        assert_eq!((allocation.stream, allocation.streams), (0, 3));
        let size = Size { width: 320, height: 180, frames_per_s: 30 };
        assert_eq!(allocation.layer(0, 0), Some(&layer(&[60, 90, 150], Some(size))));
        assert_eq!(allocation.layer(1, 0).unwrap().kbits_per_s, [175, 332, 500, 0]);
        let largest = allocation.layer(2, 0).unwrap();
        assert_eq!((largest.kbits_per_s, largest.size), ([1000, 1356, 2500, 0], Some(SIZE)));
        assert_eq!((allocation.layer(0, 1), allocation.is_active(3)), (None, false));
        let without = LayersAllocation::parse(&value[..18]).unwrap();
        assert_eq!(without.layer(2, 0), Some(&layer(&[1000, 1356, 2500], None)));
        assert_eq!(LayersAllocation::parse(&value[..20]), None, "sizes of some layers only");
    }

    #[test]
    fn streams_may_have_different_layers_and_none() {
        // The second of three streams: layers 0 and 1, none, layer 0.
        let value = [0x60, 0x30, 0x10, 0b00_01_00_00, 10, 20, 30, 40];
        let allocation = LayersAllocation::parse(&value).unwrap();
        assert_eq!((allocation.stream, allocation.streams), (1, 3));
        assert_eq!(allocation.layer(0, 0), Some(&layer(&[10], None)));
        assert_eq!(allocation.layer(0, 1), Some(&layer(&[20, 30], None)));
        assert_eq!(allocation.layer(2, 0), Some(&layer(&[40], None)));
        assert!(allocation.is_active(0) && !allocation.is_active(1));
        let mut out = [0; VALUE_LEN_MAX];
        let len = allocation.write(&mut out).unwrap();
        assert_eq!(out[..len], value);
    }

    #[test]
    fn a_single_zero_says_that_nothing_is_sent() {
        let allocation = LayersAllocation::parse(&[0]).unwrap();
        assert_eq!(allocation, LayersAllocation::default());
        assert!((0..4).all(|stream| !allocation.is_active(stream)));
        let mut out = [9; 4];
        assert_eq!((LayersAllocation::new(0, 3).write(&mut out), out[0]), (Some(1), 0));
    }

    #[test]
    fn rates_of_more_than_32_bits_are_refused() {
        let of = |rate: &[u8]| LayersAllocation::parse(&[&[0x01, 0], rate].concat());
        assert_eq!(
            of(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap().layer(0, 0).unwrap().kbits_per_s[0],
            u32::MAX
        );
        assert_eq!(of(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(of(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), None);
        assert_eq!(of(&[0x80]), None);
    }

    fn layers() -> impl Strategy<Value = Option<SpatialLayer>> {
        let size = prop::option::of((1_u16.., 1_u16.., any::<u8>()));
        prop::option::of((prop::collection::vec(any::<u32>(), 1..=4), size).prop_map(|(rates, size)| {
            let size = size.map(|(width, height, frames_per_s)| Size { width, height, frames_per_s });
            layer(&rates, size)
        }))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            stream in 0_u8..4,
            streams in 1_u8..=4,
            sized in any::<bool>(),
            layers in prop::collection::vec((0_u8..4, 0_u8..4, layers()), 1..16),
        ) {
            let mut allocation = LayersAllocation::new(stream, streams);
            for (stream, spatial, layer) in layers {
                let Some(layer) = layer else { continue };
                allocation.set(stream, spatial, SpatialLayer { size: sized.then_some(SIZE), ..layer });
            }
            let mut out = [0xee; VALUE_LEN_MAX];
            let len = allocation.write(&mut out).unwrap();
            let read = LayersAllocation::parse(&out[..len]).unwrap();
            if allocation.sent().next().is_none() {
                prop_assert_eq!(read, LayersAllocation::default());
            } else {
                prop_assert_eq!(read, allocation);
            }
            for short in 0..len {
                prop_assert_eq!(allocation.write(&mut out[..short]), None);
            }
        }

        #[test]
        fn whatever_comes_is_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..255)) {
            if let Some(allocation) = LayersAllocation::parse(&value) {
                let mut out = [0; VALUE_LEN_MAX];
                prop_assert!(allocation.write(&mut out).is_some());
            }
        }
    }
}
