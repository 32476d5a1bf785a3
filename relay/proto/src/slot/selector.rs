//! Which packets belong to what a slot is to show. Layers change where the receiver can follow: to another encoding at a
//! key frame, to fewer layers with any picture, to more with a frame that says so.

use crate::encoding::Encoding;
use crate::history::Meta;
use crate::layers::{Frame, Layer};
use crate::media::Kind;

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is not for this receiver.
    Skip,
    /// It follows what was sent before.
    Follow,
    /// It begins something new: another source, another encoding, or the same one anew.
    Begin,
}

/// What is being shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    generation: u32,
    layer: Layer,
    /// The picture that was decided on last.
    timestamp: u32,
    /// Decode targets that the receiver can go on with, a bit for each: nothing of them was left out that is still needed.
    open: u32,
}

impl Shown {
    fn can_show(&self, encoding: &Encoding, spatial: u8, temporal: u8) -> bool {
        self.open & encoding.layers.target(spatial, temporal) != 0
    }
}

/// Chooses packets of the source that a slot shows.
#[derive(Debug, Default)]
pub(super) struct Selector {
    shown: Option<Shown>,
    /// What is to be shown. None: nothing, for now.
    target: Option<Layer>,
}

impl Selector {
    /// Another source, or the same one anew: the next packet begins.
    pub(super) fn restart(&mut self) {
        self.shown = None;
    }

    /// What is to be shown from now on.
    pub(super) fn aim(&mut self, target: Option<Layer>) {
        self.target = target;
        if target.is_none() {
            self.shown = None;
        }
    }

    /// Whether what is to be shown has to wait for a key frame. `encoding` is the one of that.
    pub(super) fn needs_key_frame(&self, encoding: Option<&Encoding>) -> bool {
        let Some(target) = self.target else { return false };
        self.shown.is_none_or(|shown| {
            let can_show = || {
                encoding.is_some_and(|encoding| {
                    shown.can_show(encoding, target.spatial, target.temporal.min(shown.layer.temporal))
                })
            };
            target.encoding != shown.layer.encoding
                || target.spatial > shown.layer.spatial
                // Where layers do without the smaller ones, these were left out.
                || target.spatial < shown.layer.spatial && !can_show()
        })
    }

    /// What is to be shown.
    pub(super) fn target(&self) -> Option<Layer> {
        self.target
    }

    /// What is shown, once its first packet was forwarded.
    pub(super) fn shown(&self) -> Option<Layer> {
        self.shown.map(|shown| shown.layer)
    }

    /// Whether packets of an encoding are of any interest.
    pub(super) fn cares_for(&self, encoding: u8) -> bool {
        self.target
            .is_some_and(|target| target.encoding == encoding || self.may_begin_below(target, encoding))
            || self.shown.is_some_and(|shown| shown.layer.encoding == encoding)
    }

    /// Whether a smaller picture than the one that is to be shown may come first: while there is none, any is better.
    fn may_begin_below(&self, target: Layer, encoding: u8) -> bool {
        self.shown.is_none() && encoding < target.encoding
    }

    /// Whether an encoding is the one that is shown, from the SSRC it comes with now.
    pub(super) fn shows(&self, at: u8, encoding: &Encoding) -> bool {
        self.shown.is_some_and(|shown| shown.layer.encoding == at && shown.generation == encoding.generation)
    }

    /// Decides on a packet that came in order. `after_gap`: the one before it is missing.
    pub(super) fn decide(
        &mut self,
        kind: Kind,
        (at, encoding): (u8, &Encoding),
        meta: &Meta,
        after_gap: bool,
    ) -> Decision {
        let Some(target) = self.target else { return Decision::Skip };
        let (follows, below) = (self.shows(at, encoding), self.may_begin_below(target, at));
        let Some(shown) = self.shown.as_mut().filter(|_| follows) else {
            let can_begin = kind == Kind::Audio || !encoding.has_descriptors || meta.key_frame;
            if !can_begin || at != target.encoding && !(below && meta.key_frame) {
                return Decision::Skip;
            }
            let generation = encoding.generation;
            let layer = if below { Layer { encoding: at, ..Layer::ALL } } else { target };
            self.shown = Some(Shown { generation, layer, timestamp: meta.timestamp, open: u32::MAX });
            return Decision::Begin;
        };
        let Some(frame) = meta.frame else { return Decision::Follow };
        if meta.key_frame {
            shown.open = u32::MAX;
        }
        // A picture whose first packet is missing goes on as the one before.
        let begins = std::mem::replace(&mut shown.timestamp, meta.timestamp) != meta.timestamp;
        if frame.start && (begins || meta.key_frame) {
            shown.layer = follow(shown, target, encoding, after_gap, meta.key_frame);
        }
        if frame.present & encoding.layers.target(shown.layer.spatial, shown.layer.temporal) == 0 {
            shown.open &= !frame.present;
            return Decision::Skip;
        }
        // It is decoded, so what can be switched to at it can be shown from here on.
        shown.open |= frame.switch;
        Decision::Follow
    }

    /// A frame was left out although it came late only.
    pub(super) fn left_out(&mut self, frame: &Frame) {
        if let Some(shown) = &mut self.shown {
            shown.open &= !frame.present;
        }
    }

    /// The layers that are shown now.
    pub(super) fn portion(&self, encoding: &Encoding) -> Portion {
        self.shown.map_or(Portion::ALL, |Shown { layer, .. }| Portion {
            spatial: layer.spatial,
            targets: encoding.layers.target(layer.spatial, layer.temporal),
        })
    }
}

/// What of an encoding a receiver gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portion {
    /// The largest spatial layer.
    spatial: u8,
    /// The decode target, as a bit.
    targets: u32,
}

impl Portion {
    /// Everything.
    pub(super) const ALL: Self = Self { spatial: u8::MAX, targets: u32::MAX };

    /// Whether a packet is of it.
    pub(super) fn has(&self, meta: &Meta) -> bool {
        meta.frame.is_none_or(|frame| frame.present & self.targets != 0)
    }

    /// Whether a packet is the last of a picture as its receiver gets it: it may get less of it than was sent.
    pub(super) fn ends_picture(&self, meta: &Meta) -> bool {
        meta.marker || meta.frame.is_some_and(|frame| frame.end && frame.spatial >= self.spatial)
    }
}

/// The layers to show from this picture on: fewer at once, more where a receiver of fewer can go on with them.
fn follow(shown: &Shown, target: Layer, encoding: &Encoding, after_gap: bool, key_frame: bool) -> Layer {
    let before = shown.layer;
    let wanted = match target.encoding.cmp(&before.encoding) {
        std::cmp::Ordering::Equal => target,
        // The smaller one is on its way, and there is no room for this one.
        std::cmp::Ordering::Less => Layer { temporal: 0, ..before },
        std::cmp::Ordering::Greater => before,
    };
    // What has to wait for a key frame of the smaller picture shows fewer of the larger ones meanwhile.
    let meanwhile = if wanted.spatial < before.spatial { 0 } else { wanted.temporal };
    let candidates = [
        (wanted.spatial, wanted.temporal),
        (wanted.spatial, wanted.temporal.min(before.temporal)),
        (before.spatial, meanwhile),
    ];
    candidates
        .into_iter()
        .find(|(spatial, temporal)| {
            // What is missing may be of a layer that was left out until now.
            let is_more = *spatial > before.spatial || *temporal > before.temporal;
            key_frame || shown.can_show(encoding, *spatial, *temporal) && !(is_more && after_gap)
        })
        .map_or(Layer { temporal: meanwhile.min(before.temporal), ..before }, |(spatial, temporal)| Layer {
            encoding: before.encoding,
            spatial,
            temporal,
        })
}
