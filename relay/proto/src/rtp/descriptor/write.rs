//! Descriptors as encoders with layers make them, for simulated senders.

use super::bits::BitsWriter;

/// Bytes of the longest descriptor that a [`Pattern`] writes: three spatial and three temporal layers take 98.
pub const DESCRIPTOR_LEN_MAX: usize = 128;

/// Pictures until a pattern of one, two or three temporal layers repeats.
const CYCLES: [u32; 3] = [1, 2, 4];

/// A pattern of spatial and temporal layers, named like `L3T3_KEY` in scalability modes (W3C webrtc-svc).
///
/// Pictures are counted from the key frame on, which is picture 0. Each has a frame per spatial layer, the smallest
/// first, and frame numbers go on by one. With three temporal layers pictures are of layers 0 2 1 2, with two 0 1.
/// Decode targets are ordered by spatial, then temporal layer; one chain per spatial layer protects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    spatial: u8,
    temporal: u8,
    key_only: bool,
    template_id_offset: u8,
    resolution: Option<(u16, u16)>,
}

/// A kind of frame within a layer: of the key picture, or of the picture at a place of the cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Key,
    Cycle(u32),
}

impl Pattern {
    /// A pattern of 1 to 3 spatial and 1 to 3 temporal layers; what is out of range is brought into it. With `key_only`
    /// a spatial layer needs the one below it in key frames only.
    #[must_use]
    pub fn new(spatial: u8, temporal: u8, key_only: bool) -> Self {
        Self {
            spatial: spatial.clamp(1, 3),
            temporal: temporal.clamp(1, 3),
            key_only,
            template_id_offset: 0,
            resolution: None,
        }
    }

    /// Also tells how large pictures are: the largest like this, each below half as wide and high.
    #[must_use]
    pub const fn with_resolution(mut self, width: u16, height: u16) -> Self {
        self.resolution = Some((width, height));
        self
    }

    /// Names the templates by numbers from `offset` on, 0 to 63, as encoders do when the structure changes.
    #[must_use]
    pub const fn with_template_id_offset(mut self, offset: u8) -> Self {
        self.template_id_offset = offset & 0x3f;
        self
    }

    /// How many spatial layers there are: frames per picture.
    #[must_use]
    pub const fn spatial_layers(&self) -> u8 {
        self.spatial
    }

    /// How many temporal layers there are.
    #[must_use]
    pub const fn temporal_layers(&self) -> u8 {
        self.temporal
    }

    /// The temporal layer of a picture.
    #[must_use]
    pub fn temporal(&self, picture: u32) -> u8 {
        self.temporal_at(self.place(picture))
    }

    /// Writes the descriptor of a packet and says how long it is. The first packet of a key frame brings the
    /// structure.
    ///
    /// The packet is of the frame of spatial layer `spatial` within a picture, counted from the key frame on; `first`
    /// and `last` say whether it is the first and the last of that frame.
    pub fn write(
        &self,
        out: &mut [u8; DESCRIPTOR_LEN_MAX],
        frame_number: u16,
        picture: u32,
        spatial: u8,
        (first, last): (bool, bool),
    ) -> usize {
        let mut bits = BitsWriter::new(out);
        let place = self.place(picture);
        let spatial = spatial.min(self.spatial - 1);
        let in_layer = self.places().position(|known| known == place).unwrap_or(0);
        let index = usize::from(spatial) * self.places().count() + in_layer;
        let template = u32::from(self.template_id_offset) + u32::try_from(index).unwrap_or(0);
        bits.flag(first);
        bits.flag(last);
        bits.write(template & 0x3f, 6);
        bits.write(u32::from(frame_number), 16);
        if first && spatial == 0 && place == Place::Key {
            bits.write(0x10, 5);
            self.write_structure(&mut bits);
        }
        bits.finish().unwrap_or(0)
    }

    fn write_structure(&self, bits: &mut BitsWriter<'_>) {
        bits.write(u32::from(self.template_id_offset), 6);
        let targets = self.spatial * self.temporal;
        bits.write(u32::from(targets) - 1, 5);
        let templates = || (0..self.spatial).flat_map(|spatial| self.places().map(move |at| (spatial, at)));
        let mut before = None;
        for (spatial, place) in templates() {
            let layers = (spatial, self.temporal_at(place));
            match before.replace(layers) {
                None => {}
                Some(same) if same == layers => bits.write(0, 2),
                Some((same, _)) if same == spatial => bits.write(1, 2),
                Some(_) => bits.write(2, 2),
            }
        }
        bits.write(3, 2);
        for (spatial, place) in templates() {
            for target in 0..targets {
                bits.write(
                    self.indication(spatial, place, (target / self.temporal, target % self.temporal)),
                    2,
                );
            }
        }
        for (spatial, place) in templates() {
            for fdiff in self.fdiffs(spatial, place).into_iter().flatten() {
                bits.flag(true);
                bits.write(fdiff - 1, 4);
            }
            bits.flag(false);
        }
        bits.below(self.spatial, targets + 1);
        for target in 0..targets {
            bits.below(target / self.temporal, self.spatial);
        }
        for (spatial, place) in templates() {
            for chain in 0..self.spatial {
                bits.write(self.chain_fdiff(spatial, place, chain), 4);
            }
        }
        bits.flag(self.resolution.is_some());
        if let Some((width, height)) = self.resolution {
            for spatial in 0..self.spatial {
                let smaller = self.spatial - 1 - spatial;
                bits.write(u32::from((width >> smaller).max(1)) - 1, 16);
                bits.write(u32::from((height >> smaller).max(1)) - 1, 16);
            }
        }
    }

    fn cycle(&self) -> u32 {
        CYCLES.get(usize::from(self.temporal) - 1).copied().unwrap_or(1)
    }

    fn place(&self, picture: u32) -> Place {
        if picture == 0 { Place::Key } else { Place::Cycle(picture % self.cycle()) }
    }

    /// The templates of one spatial layer, by temporal layer.
    fn places(&self) -> impl Iterator<Item = Place> {
        let places: &[u32] = match self.temporal {
            1 => &[0],
            2 => &[0, 1],
            _ => &[0, 2, 1, 3],
        };
        std::iter::once(Place::Key).chain(places.iter().copied().map(Place::Cycle))
    }

    fn temporal_at(&self, place: Place) -> u8 {
        match (place, self.temporal) {
            (Place::Key | Place::Cycle(0), _) => 0,
            (Place::Cycle(2), _) | (Place::Cycle(_), 2) => 1,
            _ => 2,
        }
    }

    /// What a frame is to a decode target: 0 not present, 1 discardable, 2 switch, 3 required.
    fn indication(&self, spatial: u8, place: Place, target: (u8, u8)) -> u32 {
        let temporal = self.temporal_at(place);
        let is_key = place == Place::Key;
        if spatial > target.0 || temporal > target.1 {
            0
        } else if is_key {
            2
        } else if spatial < target.0 {
            if self.key_only { 0 } else { 3 }
        } else if temporal == target.1 && temporal > 0 {
            1
        } else {
            2
        }
    }

    /// Frames that a frame needs: one of its own layer, one of the layer below.
    fn fdiffs(&self, spatial: u8, place: Place) -> [Option<u32>; 2] {
        let below = Some(1).filter(|_| spatial > 0);
        let Place::Cycle(at) = place else { return [below, None] };
        // The last picture of temporal layer 0, or of the one below this.
        let pictures = match at {
            0 => self.cycle(),
            2 => 2,
            _ => 1,
        };
        [Some(pictures * u32::from(self.spatial)), below.filter(|_| !self.key_only)]
    }

    /// How far back the last frame of a chain is. The chain of a spatial layer holds the frames of temporal layer 0
    /// that its pictures need.
    fn chain_fdiff(&self, spatial: u8, place: Place, chain: u8) -> u32 {
        let (own, last) = (u32::from(spatial), u32::from(chain));
        let layers = u32::from(self.spatial);
        let within = match place {
            Place::Key if spatial == 0 => return 0,
            Place::Key => true,
            Place::Cycle(0) => spatial > 0 && (!self.key_only || spatial > chain),
            Place::Cycle(_) => false,
        };
        match place {
            // A frame of the same picture.
            _ if within => own - last.min(own - 1),
            Place::Cycle(at) if at > 0 => at * layers + own - last,
            _ => self.cycle() * layers + own - last,
        }
    }
}
