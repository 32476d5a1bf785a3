//! How often a slot's picture was made larger, smaller or left out as its receiver's line changed.

use crate::layers::Layer;

/// Changes since they were taken last.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// More of the same source was chosen.
    pub up: u64,
    /// Less of it was.
    pub down: u64,
    /// Nothing of it is shown any more, or from the beginning.
    pub pauses: u64,
}

impl Switches {
    /// Other layers were chosen of the source that is shown. From a pause there is no way up: what comes is the first picture.
    pub(crate) fn count(&mut self, before: Option<Layer>, was_paused: bool, layer: Option<Layer>) {
        match (before, layer) {
            (Some(before), Some(layer)) if layer > before => self.up += 1,
            (Some(before), Some(layer)) if layer < before => self.down += 1,
            (_, None) if !was_paused => self.pauses += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(encoding: u8) -> Option<Layer> {
        Some(Layer { encoding, spatial: 0, temporal: 0 })
    }

    #[test]
    fn a_pause_counts_once_and_what_comes_after_it_is_no_switch() {
        let mut switches = Switches::default();
        switches.count(None, false, encoding(1));
        switches.count(encoding(1), false, encoding(2));
        switches.count(encoding(2), false, encoding(0));
        switches.count(encoding(0), false, None);
        switches.count(None, true, None);
        switches.count(None, true, encoding(1));
        assert_eq!((switches.up, switches.down, switches.pauses), (1, 1, 1));
    }
}
