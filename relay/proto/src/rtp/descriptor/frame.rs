//! What one packet's descriptor says of its frame.

use super::bits::Bits;
use super::{FDIFFS_MAX, TARGETS_MAX};

/// How far back the frames are that a frame needs directly, in frame numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fdiffs {
    len: u8,
    fdiffs: [u16; FDIFFS_MAX],
}

impl Fdiffs {
    /// None of them: a frame that needs no other.
    pub(super) const NONE: Self = Self { len: 0, fdiffs: [0; FDIFFS_MAX] };

    /// Takes one more, if there is room.
    pub(super) fn push(&mut self, fdiff: u16) -> Option<()> {
        *self.fdiffs.get_mut(usize::from(self.len))? = fdiff;
        self.len = self.len.checked_add(1)?;
        Some(())
    }

    /// All of them, in the sender's order, each 1 or more.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        self.fdiffs.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What a frame is to each decode target: the DTIs of the specification, as one bit per target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Indications {
    pub(super) present: u32,
    pub(super) switch: u32,
    pub(super) discardable: u32,
}

impl Indications {
    /// Reads two bits per target.
    pub(super) fn read(bits: &mut Bits<'_>, targets: u8) -> Option<Self> {
        let mut all = Self::default();
        for target in 0..targets {
            let bit = 1_u32.checked_shl(u32::from(target))?;
            match bits.read(2)? {
                0 => continue,
                1 => all.discardable |= bit,
                2 => all.switch |= bit,
                _ => {}
            }
            all.present |= bit;
        }
        Some(all)
    }
}

/// What a descriptor says of a packet and its frame, with what the structure says of such frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first packet of the frame, which is of one spatial layer.
    pub start_of_frame: bool,
    /// The last packet of it.
    pub end_of_frame: bool,
    /// The descriptor brings the structure: the frame begins a coded video sequence.
    pub structure: bool,
    /// Counts frames of all layers in the order of decoding.
    pub frame_number: u16,
    /// Its spatial layer, 0 to 3.
    pub spatial: u8,
    /// Its temporal layer, 0 to 7.
    pub temporal: u8,
    /// Decode targets that the frame belongs to, one bit each, that of target 0 the lowest.
    pub present: u32,
    /// Those among them whose frames from here on can all be decoded *if this one can*. Whoever comes from another
    /// target may go on with this one from here only when it needs no frame that was not sent: see
    /// [`fdiffs`](Self::fdiffs).
    pub switch: u32,
    /// Those among them of which no later frame needs this one.
    pub discardable: u32,
    /// Which decode targets are produced from here on, when the descriptor says so. A descriptor that brings a
    /// structure without saying so means all.
    pub active: Option<u32>,
    /// The frames that it needs directly.
    pub fdiffs: Fdiffs,
    /// How many chains there are.
    pub(super) chains: u8,
    pub(super) chain_fdiffs: [u8; TARGETS_MAX],
}

impl Frame {
    /// How far back the last frame of a chain is, in frame numbers: when that one came, and everything before it of
    /// the chain, then nothing is missing that matters to the targets it protects. 0 when the chain begins with this
    /// frame or after it. `None` when there is no such chain.
    #[must_use]
    pub fn chain_fdiff(&self, chain: u8) -> Option<u8> {
        self.chain_fdiffs.get(usize::from(chain)).copied().filter(|_| chain < self.chains)
    }

    /// Whether it belongs to a decode target.
    #[must_use]
    pub const fn is_present(&self, target: u8) -> bool {
        is_set(self.present, target)
    }

    /// Whether a decode target can be switched to at it, if it can be decoded. See [`switch`](Self::switch).
    #[must_use]
    pub const fn is_switch(&self, target: u8) -> bool {
        is_set(self.switch, target)
    }

    /// Whether no later frame of a decode target needs it.
    #[must_use]
    pub const fn is_discardable(&self, target: u8) -> bool {
        is_set(self.discardable, target)
    }
}

const fn is_set(mask: u32, target: u8) -> bool {
    target < 32 && mask >> target & 1 == 1
}
