//! The layers of one encoding: which packet belongs to which, what each takes, and which decode target shows what
//! (dependency descriptor, AV1 RTP specification, appendix A). From headers alone: the payload is nobody's here.

use std::time::{Duration, Instant};

use crate::rtp::descriptor::Structure;
use crate::source::Arrival;

/// Spatial and temporal layers that are told apart. Browsers send three of each.
pub(crate) const SPATIAL_MAX: usize = 4;
pub(crate) const TEMPORAL_MAX: usize = 4;

/// The highest of them.
const SPATIAL_HIGHEST: u8 = 3;
const TEMPORAL_HIGHEST: u8 = 3;

const _: () =
    assert!(SPATIAL_HIGHEST as usize + 1 == SPATIAL_MAX && TEMPORAL_HIGHEST as usize + 1 == TEMPORAL_MAX);

/// What a layer takes is counted over so long. Shorter follows sooner, and takes a key frame for the usual.
const RATE_WINDOW: Duration = Duration::from_millis(1000);

/// How much of a new window counts, in percent.
const RATE_SHARE: u64 = 50;

/// Which layers of a source a slot is to show: none above these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Layer {
    /// The place of the encoding among its source's.
    pub encoding: u8,
    /// Size within the encoding.
    pub spatial: u8,
    /// Pictures per second.
    pub temporal: u8,
}

impl Layer {
    /// All of the smallest encoding.
    pub(crate) const ALL: Self = Self { encoding: 0, spatial: SPATIAL_HIGHEST, temporal: TEMPORAL_HIGHEST };

    /// All there is of a source of sound.
    pub(crate) const SOUND: Self = Self { encoding: 0, spatial: 0, temporal: 0 };
}

/// What a packet's descriptor says of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Counts frames of all layers in the order of decoding.
    pub number: u16,
    /// The first packet of the frame.
    pub start: bool,
    /// The last packet of it.
    pub end: bool,
    /// Its spatial layer.
    pub spatial: u8,
    /// The decode targets it belongs to, a bit for each.
    pub present: u32,
    /// The decode targets that can be decoded from here on by who decoded a smaller one, a bit for each.
    pub switch: u32,
}

/// The layers of one encoding.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    structure: Option<Box<Structure>>,
    /// The bit of the decode target for each pair of spatial and temporal layer. Of no meaning without a structure.
    targets: [[u32; TEMPORAL_MAX]; SPATIAL_MAX],
    highest: (u8, u8),
    window: Option<Instant>,
    /// Bytes of everything up to each pair of layers, in this window, and bits per second of that.
    bytes: [[u64; TEMPORAL_MAX]; SPATIAL_MAX],
    rates: [[u64; TEMPORAL_MAX]; SPATIAL_MAX],
    windows: u32,
}

impl Layers {
    /// Reads a packet's descriptor, and counts the packet.
    pub(crate) fn read(&mut self, now: Instant, arrival: &Arrival<'_>) -> Option<Frame> {
        let frame = self.resolve(arrival);
        let present = frame.map_or(u32::MAX, |frame| frame.present);
        let shown_with = self.targets.iter().flatten().zip(self.bytes.iter_mut().flatten());
        for (_, bytes) in shown_with.filter(|(target, _)| frame.is_none() || present & **target != 0) {
            *bytes += arrival.payload.len() as u64;
        }
        self.turn(now);
        frame
    }

    fn resolve(&mut self, arrival: &Arrival<'_>) -> Option<Frame> {
        if arrival.descriptor?.structure {
            let structure = match &mut self.structure {
                Some(structure) => {
                    if !structure.update(arrival.descriptor_bytes) {
                        return None;
                    }
                    structure
                }
                none => none.insert(Box::new(Structure::parse(arrival.descriptor_bytes)?)),
            };
            for (spatial, row) in (0..).zip(&mut self.targets) {
                for (temporal, bits) in (0..).zip(row) {
                    let target = structure.target(spatial, temporal);
                    *bits = target.and_then(|target| 1_u32.checked_shl(u32::from(target))).unwrap_or(0);
                }
            }
            let layers = (0..structure.targets()).filter_map(|target| structure.layers(target));
            self.highest =
                layers.fold((0, 0), |(spatial, temporal), (s, t)| (spatial.max(s), temporal.max(t)));
        }
        let frame = self.structure.as_ref()?.frame(arrival.descriptor_bytes)?;
        Some(Frame {
            number: frame.frame_number,
            start: frame.start_of_frame,
            end: frame.end_of_frame,
            spatial: frame.spatial,
            present: frame.present,
            switch: frame.switch,
        })
    }

    /// The decode target that shows no more than these layers, as a bit. Without a structure, all.
    #[must_use]
    pub(crate) fn target(&self, spatial: u8, temporal: u8) -> u32 {
        if self.structure.is_none() {
            return u32::MAX;
        }
        let (spatial, temporal) = clamp(spatial, temporal);
        self.targets.get(spatial).and_then(|row| row.get(temporal)).copied().unwrap_or(0)
    }

    /// The highest spatial and temporal layer of its structure; zero without one.
    #[must_use]
    pub(crate) fn highest(&self) -> (u8, u8) {
        let (spatial, temporal) = self.highest;
        (spatial.min(SPATIAL_HIGHEST), temporal.min(TEMPORAL_HIGHEST))
    }

    /// Whether its structure is known.
    #[must_use]
    pub(crate) fn are_known(&self) -> bool {
        self.structure.is_some()
    }

    /// The height of the picture up to a spatial layer, where descriptors tell.
    #[must_use]
    pub(crate) fn height(&self, spatial: u8) -> Option<u32> {
        let (_, height) = self.structure.as_ref()?.resolution(spatial)?;
        Some(u32::from(height))
    }

    /// Bits per second of everything up to these layers, as it came lately. None until that was counted once.
    #[must_use]
    pub(crate) fn bits_per_s(&self, spatial: u8, temporal: u8) -> Option<u64> {
        if self.windows == 0 {
            return None;
        }
        let (spatial, temporal) = clamp(spatial, temporal);
        self.rates.get(spatial).and_then(|row| row.get(temporal)).copied()
    }

    /// Ends a window of counting when it is over.
    fn turn(&mut self, now: Instant) {
        let began = *self.window.get_or_insert(now);
        let elapsed = now.saturating_duration_since(began);
        if elapsed < RATE_WINDOW {
            return;
        }
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let pause = elapsed > 4 * RATE_WINDOW;
        for (rate, bytes) in self.rates.iter_mut().flatten().zip(self.bytes.iter_mut().flatten()) {
            let counted = std::mem::take(bytes) * 8000 / elapsed_ms;
            // After a pause the last packets before it say nothing of now.
            if self.windows == 0 {
                *rate = counted;
            } else if !pause {
                *rate = (*rate * (100 - RATE_SHARE) + counted * RATE_SHARE) / 100;
            }
        }
        self.window = Some(now);
        self.windows = self.windows.saturating_add(1);
    }
}

fn clamp(spatial: u8, temporal: u8) -> (usize, usize) {
    (usize::from(spatial).min(SPATIAL_MAX - 1), usize::from(temporal).min(TEMPORAL_MAX - 1))
}
