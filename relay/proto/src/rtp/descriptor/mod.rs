//! The dependency descriptor (AV1 RTP specification, appendix A): what a payload-blind relay knows of a frame,
//! whatever its codec.
//!
//! # Layout
//! - [`Descriptor`]: the fields that need no structure, read from every packet
//! - [`Structure`] (`structure.rs`): which layers and decode targets a stream has, as its key frames say
//! - [`Frame`] (`frame.rs`): what a packet says of its frame, read against the structure
//! - [`mod@write`]: descriptors of simulated senders
//! - `bits.rs`: numbers of any width

mod bits;
mod frame;
mod structure;
#[cfg(test)]
mod tests;
pub mod write;

pub use frame::{Fdiffs, Frame};
pub use structure::Structure;

/// Decode targets of a stream, as many as a descriptor can tell.
pub const TARGETS_MAX: usize = 32;

/// Templates of a structure, as many as a descriptor can name.
pub const TEMPLATES_MAX: usize = 64;

/// Spatial layers of a stream (AV1 RTP specification, appendix A).
pub const SPATIAL_MAX: usize = 4;

/// Temporal layers of a stream (AV1 RTP specification, appendix A).
pub const TEMPORAL_MAX: usize = 8;

/// Frames that one frame needs directly. AV1 refers to seven at most; a stream that says more is not understood.
pub const FDIFFS_MAX: usize = 8;

/// Bytes of the mandatory fields. A longer descriptor has extended ones.
const MANDATORY_LEN: usize = 3;

/// What a descriptor says of the packet and its frame, without the template structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The first packet of a frame of one spatial layer.
    pub start_of_frame: bool,
    /// The last packet of it.
    pub end_of_frame: bool,
    /// Which of the structure's templates the frame follows, 0 to 63, before the structure's offset is taken off.
    pub template_id: u8,
    /// Counts frames of all layers in the order of decoding.
    pub frame_number: u16,
    /// The descriptor brings a template structure: the frame begins a coded video sequence.
    pub structure: bool,
    /// It says which decode targets are produced from here on.
    pub active_decode_targets: bool,
}

impl Descriptor {
    /// Reads the value of the header extension. `None` when it is too short.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (&[first, n0, n1], extended) = value.split_first_chunk::<MANDATORY_LEN>()?;
        let flags = extended.first().copied().unwrap_or(0);
        Some(Self {
            start_of_frame: first & 0x80 != 0,
            end_of_frame: first & 0x40 != 0,
            template_id: first & 0x3f,
            frame_number: u16::from_be_bytes([n0, n1]),
            structure: flags & 0x80 != 0,
            active_decode_targets: flags & 0x40 != 0,
        })
    }

    /// Whether the packet belongs to a key frame: decoding may begin with the frame it starts. Senders put the
    /// structure on the first packet of a key frame only.
    #[must_use]
    pub const fn is_key_frame(&self) -> bool {
        self.structure
    }
}

/// Gives the frame another number. A value too short to be a descriptor is left as it is.
pub fn write_frame_number(value: &mut [u8], frame_number: u16) {
    if let Some(bytes) = value.get_mut(1..MANDATORY_LEN) {
        bytes.copy_from_slice(&frame_number.to_be_bytes());
    }
}
