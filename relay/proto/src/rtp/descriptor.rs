//! The dependency descriptor (AV1 RTP specification, appendix A): what a payload-blind relay knows of a frame,
//! whatever its codec.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mandatory_fields_are_read() {
        let descriptor = Descriptor::parse(&[0x80 | 5, 0x12, 0x34]).unwrap();
        assert!(descriptor.start_of_frame && !descriptor.end_of_frame && !descriptor.is_key_frame());
        assert_eq!((descriptor.template_id, descriptor.frame_number), (5, 0x1234));
        assert!(Descriptor::parse(&[0x40, 0, 0]).unwrap().end_of_frame);
        assert_eq!(Descriptor::parse(&[0x80, 0]), None);
    }

    #[test]
    fn a_descriptor_with_a_structure_is_a_key_frame_s() {
        assert!(Descriptor::parse(&[0xc0, 0, 1, 0x80, 0]).unwrap().is_key_frame());
        let other = Descriptor::parse(&[0xc0, 0, 1, 0x40, 0]).unwrap();
        assert!(other.active_decode_targets && !other.is_key_frame());
    }

    #[test]
    fn a_frame_gets_another_number_in_place() {
        let mut value = [0xc5, 0, 1, 0x80, 9];
        write_frame_number(&mut value, 0xabcd);
        assert_eq!(value, [0xc5, 0xab, 0xcd, 0x80, 9]);
        let mut short = [0xc5, 0];
        write_frame_number(&mut short, 0xabcd);
        assert_eq!(short, [0xc5, 0]);
    }
}
