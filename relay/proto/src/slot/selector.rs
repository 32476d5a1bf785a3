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

    /// What is to be shown from now on. True when that has to wait for a key frame.
    pub(super) fn aim(&mut self, target: Option<Layer>) -> bool {
        self.target = target;
        match (target, self.shown) {
            (None, _) => {
                self.shown = None;
                false
            }
            (Some(_), None) => true,
            (Some(target), Some(shown)) => {
                target.encoding != shown.layer.encoding || target.spatial > shown.layer.spatial
            }
        }
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
        self.target.is_some_and(|target| target.encoding == encoding)
            || self.shown.is_some_and(|shown| shown.layer.encoding == encoding)
    }

    /// Whether an encoding is the one that is shown, from the SSRC it comes with now.
    pub(super) fn shows(&self, at: u8, encoding: &Encoding) -> bool {
        self.shown.is_some_and(|shown| shown.layer.encoding == at && shown.generation == encoding.generation)
    }

    /// Decides on a packet that came in order.
    pub(super) fn decide(&mut self, kind: Kind, at: u8, encoding: &Encoding, meta: &Meta) -> Decision {
        let Some(target) = self.target else { return Decision::Skip };
        let follows = self.shows(at, encoding);
        let Some(shown) = self.shown.as_mut().filter(|_| follows) else {
            let can_begin = kind == Kind::Audio || !encoding.has_descriptors || meta.key_frame;
            if at != target.encoding || !can_begin {
                return Decision::Skip;
            }
            let generation = encoding.generation;
            self.shown = Some(Shown { generation, layer: target, timestamp: meta.timestamp });
            return Decision::Begin;
        };
        let Some(frame) = meta.frame else { return Decision::Follow };
        if frame.start && (meta.timestamp != shown.timestamp || meta.key_frame) {
            shown.timestamp = meta.timestamp;
            shown.layer = follow(shown.layer, target, encoding, &frame, meta.key_frame);
        }
        if self.selects(encoding, &frame) { Decision::Follow } else { Decision::Skip }
    }

    /// Whether a frame of the encoding that is shown belongs to the layers that are.
    pub(super) fn selects(&self, encoding: &Encoding, frame: &Frame) -> bool {
        self.shown.is_none_or(|shown| {
            frame.present & encoding.layers.target(shown.layer.spatial, shown.layer.temporal) != 0
        })
    }

    /// Whether a packet is the last of a picture as this receiver gets it: it may get less of it than was sent.
    pub(super) fn ends_picture(&self, meta: &Meta) -> bool {
        let last =
            |frame: &Frame| frame.end && self.shown.is_some_and(|shown| frame.spatial >= shown.layer.spatial);
        meta.marker || meta.frame.as_ref().is_some_and(last)
    }
}

/// The layers to show from this picture on: fewer at once, more where a receiver of fewer can go on with them.
fn follow(shown: Layer, target: Layer, encoding: &Encoding, frame: &Frame, key_frame: bool) -> Layer {
    let wanted = match target.encoding.cmp(&shown.encoding) {
        std::cmp::Ordering::Equal => target,
        // The smaller one is on its way, and there is no room for this one.
        std::cmp::Ordering::Less => Layer { temporal: 0, ..shown },
        std::cmp::Ordering::Greater => shown,
    };
    let fewer = Layer {
        encoding: shown.encoding,
        spatial: wanted.spatial.min(shown.spatial),
        temporal: wanted.temporal.min(shown.temporal),
    };
    let candidates = [(wanted.spatial, wanted.temporal), (fewer.spatial, wanted.temporal)];
    candidates
        .into_iter()
        .find(|(spatial, temporal)| {
            let switches = frame.switch & encoding.layers.target(*spatial, *temporal) != 0;
            // A frame says that its own layers can be switched to, and means: by who decoded what it builds on. Of
            // more pixels that is certain at a key frame only.
            key_frame || (*spatial <= shown.spatial && switches)
        })
        .map_or(fewer, |(spatial, temporal)| Layer { encoding: shown.encoding, spatial, temporal })
}
