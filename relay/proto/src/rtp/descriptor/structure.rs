//! The template structure: which layers and decode targets a stream has, and what kinds of frames.

use std::mem;

use super::bits::Bits;
use super::frame::{Fdiffs, Frame, Indications};
use super::{Descriptor, SPATIAL_MAX, TARGETS_MAX, TEMPLATES_MAX, TEMPORAL_MAX};

/// Bits before a structure: the mandatory fields and five flags.
const BITS_BEFORE: usize = 29;

/// Bytes before the first that holds bits of it.
const BYTES_BEFORE: usize = BITS_BEFORE / 8;

/// What all frames of one kind have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Template {
    spatial: u8,
    temporal: u8,
    indications: Indications,
    fdiffs: Fdiffs,
    chain_fdiffs: [u8; TARGETS_MAX],
}

/// A structure as a key frame brought it. An empty one ([`Default`]) understands no frame.
///
/// It takes some kilobytes: keep one per stream, and give it what the stream's key frames bring
/// ([`update`](Self::update)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    template_id_offset: u8,
    targets: u8,
    chains: u8,
    spatial_layers: u8,
    has_resolutions: bool,
    templates: Vec<Template>,
    /// The largest spatial and temporal layer of each target that has frames.
    layers: [Option<(u8, u8)>; TARGETS_MAX],
    protected_by: [u8; TARGETS_MAX],
    resolutions: [(u16, u16); SPATIAL_MAX],
    /// The bits it was read from, those of others in the first and last byte zero: to know it again.
    written: Vec<u8>,
    /// Where in a descriptor it ends.
    end: usize,
}

impl Structure {
    /// Reads the structure that the value of a header extension brings. `None` when it brings none, or one that is
    /// not to be understood.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut structure = Self::default();
        structure.update(value).then_some(structure)
    }

    /// Takes the structure that a value brings in the place of this one, in the memory of this one. False when it
    /// brings none, and this one stays; or one that is not to be understood, and then this one understands nothing
    /// either, since what follows would be taken for what it is not.
    pub fn update(&mut self, value: &[u8]) -> bool {
        if !Descriptor::parse(value).is_some_and(|descriptor| descriptor.structure) {
            return false;
        }
        if self.is_brought_by(value) {
            return true;
        }
        self.clear();
        let understood = self.read(value).is_some();
        if !understood {
            self.clear();
        }
        understood
    }

    /// Forgets all but the memory.
    fn clear(&mut self) {
        let (mut templates, mut written) = (mem::take(&mut self.templates), mem::take(&mut self.written));
        templates.clear();
        written.clear();
        *self = Self { templates, written, ..Self::default() };
    }

    /// Whether the structure that a value brings is this one.
    #[must_use]
    pub fn is_brought_by(&self, value: &[u8]) -> bool {
        let brings = Descriptor::parse(value).is_some_and(|descriptor| descriptor.structure);
        brings && self.end > 0 && structure_bytes(value, self.end).eq(self.written.iter().copied())
    }

    /// Reads what a packet's descriptor says of its frame. `None` when it cannot be understood with this structure:
    /// it is cut short, names a template that is not there, or brings another structure, which is to be taken
    /// first.
    #[must_use]
    pub fn frame(&self, value: &[u8]) -> Option<Frame> {
        let descriptor = Descriptor::parse(value)?;
        let index = (descriptor.template_id | 0x40).wrapping_sub(self.template_id_offset) & 0x3f;
        let template = self.templates.get(usize::from(index))?;
        let mut frame = Frame {
            start_of_frame: descriptor.start_of_frame,
            end_of_frame: descriptor.end_of_frame,
            structure: descriptor.structure,
            frame_number: descriptor.frame_number,
            spatial: template.spatial,
            temporal: template.temporal,
            present: template.indications.present,
            switch: template.indications.switch,
            discardable: template.indications.discardable,
            active: None,
            fdiffs: template.fdiffs,
            chains: self.chains,
            chain_fdiffs: template.chain_fdiffs,
        };
        if value.len() == BYTES_BEFORE {
            return Some(frame);
        }
        let flags = Bits::new(value, BYTES_BEFORE * 8).byte(5)?;
        let mut at = BITS_BEFORE;
        if descriptor.structure {
            if !self.is_brought_by(value) {
                return None;
            }
            at = self.end;
        }
        let mut bits = Bits::new(value, at);
        if descriptor.active_decode_targets {
            frame.active = Some(read_mask(&mut bits, self.targets)?);
        }
        if flags & 0x04 != 0 {
            let custom = Indications::read(&mut bits, self.targets)?;
            (frame.present, frame.switch, frame.discardable) =
                (custom.present, custom.switch, custom.discardable);
        }
        if flags & 0x02 != 0 {
            frame.fdiffs = read_fdiffs(&mut bits)?;
        }
        if flags & 0x01 != 0 {
            for fdiff in frame.chain_fdiffs.iter_mut().take(usize::from(self.chains)) {
                *fdiff = bits.byte(8)?;
            }
        }
        Some(frame)
    }

    /// How many decode targets there are, 0 to 32.
    #[must_use]
    pub const fn targets(&self) -> u8 {
        self.targets
    }

    /// How many spatial layers there are, 0 to 4.
    #[must_use]
    pub const fn spatial_layers(&self) -> u8 {
        self.spatial_layers
    }

    /// The largest spatial and temporal layer that a decode target has frames of. `None` for one without frames, or
    /// that is not there.
    #[must_use]
    pub fn layers(&self, target: u8) -> Option<(u8, u8)> {
        self.layers.get(usize::from(target)).copied().flatten()
    }

    /// The best decode target whose layers are at most these: the one of the largest spatial layer, then of the largest
    /// temporal one. `None` when there is none.
    #[must_use]
    pub fn target(&self, spatial_max: u8, temporal_max: u8) -> Option<u8> {
        let mut best: Option<(u8, (u8, u8))> = None;
        for target in 0..self.targets {
            let Some(layers) = self.layers(target) else { continue };
            let fits = layers.0 <= spatial_max && layers.1 <= temporal_max;
            if fits && best.is_none_or(|(_, known)| layers > known) {
                best = Some((target, layers));
            }
        }
        best.map(|(target, _)| target)
    }

    /// The chain that tells whether a decode target can still be decoded. `None` when the sender made no chains.
    #[must_use]
    pub fn protected_by(&self, target: u8) -> Option<u8> {
        let chain = self.protected_by.get(usize::from(target)).copied();
        chain.filter(|_| target < self.targets && self.chains > 0)
    }

    /// Width and height of a spatial layer's pictures, when the sender said so.
    #[must_use]
    pub fn resolution(&self, spatial: u8) -> Option<(u16, u16)> {
        let resolution = self.resolutions.get(usize::from(spatial)).copied();
        resolution.filter(|_| self.has_resolutions && spatial < self.spatial_layers)
    }

    /// Reads the structure of a value that brings one into an empty one. When that fails, what it holds is undefined.
    fn read(&mut self, value: &[u8]) -> Option<()> {
        let mut bits = Bits::new(value, BITS_BEFORE);
        self.template_id_offset = bits.byte(6)?;
        self.targets = bits.byte(5)?.checked_add(1)?;
        self.read_layers(&mut bits)?;
        for template in &mut self.templates {
            template.indications = Indications::read(&mut bits, self.targets)?;
        }
        for template in &mut self.templates {
            while bits.flag()? {
                template.fdiffs.push(bits.read(4)?.checked_add(1)?)?;
            }
        }
        self.read_chains(&mut bits)?;
        self.find_target_layers();
        self.has_resolutions = bits.flag()?;
        if self.has_resolutions {
            for resolution in self.resolutions.iter_mut().take(usize::from(self.spatial_layers)) {
                // One less than what is meant. Nothing is lost with the one size that no number of 16 bits holds.
                *resolution = (bits.read(16)?.saturating_add(1), bits.read(16)?.saturating_add(1));
            }
        }
        self.end = bits.position();
        self.written.extend(structure_bytes(value, self.end));
        Some(())
    }

    /// Reads which layers the templates are of: all of one layer stand together, the lowest layer first.
    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let (mut spatial, mut temporal) = (0_u8, 0_u8);
        loop {
            if self.templates.len() >= TEMPLATES_MAX {
                return None;
            }
            self.templates.push(Template {
                spatial,
                temporal,
                indications: Indications::default(),
                fdiffs: Fdiffs::NONE,
                chain_fdiffs: [0; TARGETS_MAX],
            });
            match bits.read(2)? {
                0 => {}
                1 => temporal = temporal.checked_add(1)?,
                2 => (spatial, temporal) = (spatial.checked_add(1)?, 0),
                _ => break,
            }
            if usize::from(spatial) >= SPATIAL_MAX || usize::from(temporal) >= TEMPORAL_MAX {
                return None;
            }
        }
        self.spatial_layers = spatial.checked_add(1)?;
        Some(())
    }

    fn read_chains(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        self.chains = bits.below(self.targets.checked_add(1)?)?;
        if self.chains == 0 {
            return Some(());
        }
        for chain in self.protected_by.iter_mut().take(usize::from(self.targets)) {
            *chain = bits.below(self.chains)?;
        }
        for template in &mut self.templates {
            for fdiff in template.chain_fdiffs.iter_mut().take(usize::from(self.chains)) {
                *fdiff = bits.byte(4)?;
            }
        }
        Some(())
    }

    fn find_target_layers(&mut self) {
        for (layers, target) in self.layers.iter_mut().zip(0..self.targets) {
            let of_target =
                self.templates.iter().filter(|template| template.indications.present >> target & 1 == 1);
            for template in of_target {
                let (spatial, temporal) = layers.unwrap_or_default();
                *layers = Some((spatial.max(template.spatial), temporal.max(template.temporal)));
            }
        }
    }
}

/// The bytes that hold a structure which ends at a bit, those of others in the first and last byte zero.
fn structure_bytes(value: &[u8], end: usize) -> impl Iterator<Item = u8> + '_ {
    let last = end.saturating_sub(1) / 8;
    let unused = (8 - end % 8) % 8;
    value.iter().copied().enumerate().take(last.saturating_add(1)).skip(BYTES_BEFORE).map(
        move |(at, byte)| {
            let first_mask = if at == BYTES_BEFORE { 0x07 } else { 0xff };
            let last_mask = if at == last { 0xff_u8 << unused } else { 0xff };
            byte & first_mask & last_mask
        },
    )
}

/// One bit per target, that of target 0 the last.
fn read_mask(bits: &mut Bits<'_>, targets: u8) -> Option<u32> {
    let mut mask = 0;
    for _ in 0..targets {
        mask = mask << 1 | u32::from(bits.flag()?);
    }
    Some(mask)
}

/// Frames that a frame needs, when they are others than the template says: each after a number of half bytes.
fn read_fdiffs(bits: &mut Bits<'_>) -> Option<Fdiffs> {
    let mut fdiffs = Fdiffs::NONE;
    loop {
        let size = bits.byte(2)?;
        if size == 0 {
            return Some(fdiffs);
        }
        fdiffs.push(bits.read(size.checked_mul(4)?)?.checked_add(1)?)?;
    }
}
