//! What a participant sends in a media section: a camera, a microphone, a screen; in one encoding or several.

use std::time::{Duration, Instant};

use crate::bandwidth::Layer as Offer;
use crate::elsewhere::{Elsewhere, Owner};
use crate::encoding::Encoding;
use crate::event::{SourceName, WantedEncoding, WantedLayers};
use crate::history::{self, ElementsBuffer};
use crate::layers::{Layer, SPATIAL_MAX};
use crate::media::{ENCODINGS_MAX, Kind, Mid, PAYLOAD_TYPES_MAX, PayloadType, Rid};
use crate::rtp::descriptor::Descriptor;
use crate::rtp::layers_allocation::LayersAllocation;
use crate::snapshot::{EncodingSnapshot, LayerSnapshot};
use crate::speaker::Meter;

/// Payload types of all offers. More only serves those who make up codecs.
const KNOWN_TYPES_MAX: usize = 2 * PAYLOAD_TYPES_MAX;

/// A source that sends nothing for so long shows nothing. Shorter empties tiles on a short outage.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a sender says of its layers holds for so long. It says so with key frames and changes, and once in a while.
const TOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// What headers and tags add to payloads, in percent.
const HEADERS_PERCENT: u64 = 6;

/// The height of the largest encoding while nobody says how large it is. Each smaller one has half.
const USUAL_HEIGHT: u32 = 720;

/// What a picture takes in a second while nobody says, by height: the first entry that is as high.
const USUAL_BITS_PER_S: [(u32, u64); 4] =
    [(180, 150_000), (360, 500_000), (720, 1_700_000), (u32::MAX, 3_000_000)];

/// An encoding that is wanted and does not come for so long is not expected any more: a larger one takes its place, if there is
/// one.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Senders are told of a smaller height when nobody had room for more for so long.
const LESS_AFTER: Duration = Duration::from_secs(3);

fn usual_bits_per_s(height: Option<u32>) -> u64 {
    let height = height.unwrap_or(USUAL_HEIGHT);
    USUAL_BITS_PER_S.iter().find(|(up_to, _)| height <= *up_to).map_or(0, |(_, bits)| *bits)
}

/// A packet as it came, opened.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    /// Its SSRC.
    pub ssrc: u32,
    /// Its extended sequence number under that SSRC.
    pub index: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Its marker bit.
    pub marker: bool,
    /// Which of the source's known payload types, by position.
    pub payload_type: u8,
    /// Extensions that go on.
    pub elements: &'a ElementsBuffer,
    /// Payload without padding.
    pub payload: &'a [u8],
    /// Level as the extension says, where it came: −dBov, 0 (loud) to 127.
    pub audio_level: Option<u8>,
    /// What its dependency descriptor says, where one came.
    pub descriptor: Option<Descriptor>,
    /// The descriptor itself.
    pub descriptor_bytes: &'a [u8],
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits to be forwarded.
    Pending,
    /// Silence: kept from receivers.
    Withheld,
    /// It came before, or is too old to tell.
    Duplicate,
    /// Larger than is forwarded, or more at once than is.
    Overflow,
}

/// Who receives a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    /// Index of the participant.
    pub receiver: usize,
    /// Index of its slot.
    pub slot: usize,
}

/// One source.
#[derive(Debug)]
pub(crate) struct Source {
    /// The number that names it in forwarded packets; never used again in this call.
    pub csrc: u32,
    /// Whose it is.
    pub owner: Owner,
    /// Its section.
    pub mid: Mid,
    /// Which of its owner's sources.
    pub name: SourceName,
    /// Muted by its owner.
    pub muted: bool,
    /// What it may be sent with, the preferred one first.
    pub payload_types: Vec<PayloadType>,
    /// What it was ever sent with: positions stay when an offer changes the order, since packets kept go by them.
    pub known_types: Vec<PayloadType>,
    /// Its encodings, the smallest picture first. At least one.
    pub encodings: Vec<Encoding>,
    /// How loud it is, if it is sound.
    pub meter: Meter,
    /// Who receives it.
    pub subscribers: Vec<Subscriber>,
    /// What other branches of the call have to do with it.
    pub elsewhere: Elsewhere,
    /// What its sender says that it sends.
    told: Option<(Instant, LayersAllocation)>,
    /// Picture heights of its encodings' spatial layers, as its sender said once; zero where it did not.
    heights: [[u32; SPATIAL_MAX]; ENCODINGS_MAX],
    /// What can be had of it, the cheapest first, and what each takes.
    layers: Vec<Layer>,
    offers: Vec<Offer>,
    /// The largest height anybody wants, as its sender was told, and since when it is less.
    height_wanted: u32,
    height_less: Option<(Instant, u32)>,
}

impl Source {
    /// A source that has not sent yet.
    #[must_use]
    pub(crate) fn new(
        csrc: u32,
        owner: Owner,
        mid: Mid,
        name: SourceName,
        payload_types: Vec<PayloadType>,
        rids: &[Rid],
    ) -> Self {
        let capacity = match name {
            SourceName::Microphone | SourceName::ScreenAudio => history::AUDIO,
            SourceName::Camera => history::VIDEO,
            SourceName::Screen => history::SLIDES,
        };
        let encoding = |rid| Encoding::new(rid, name.kind(), capacity);
        let encodings = if rids.is_empty() {
            vec![encoding(None)]
        } else {
            rids.iter().map(|rid| encoding(Some(*rid))).collect()
        };
        Self {
            csrc,
            owner,
            mid,
            name,
            muted: false,
            known_types: payload_types.clone(),
            payload_types,
            encodings,
            meter: Meter::default(),
            subscribers: Vec::new(),
            elsewhere: Elsewhere::default(),
            told: None,
            heights: Default::default(),
            layers: Vec::new(),
            offers: Vec::new(),
            height_wanted: u32::MAX,
            height_less: None,
        }
    }

    /// A new offer was agreed on. True when receivers have to look at its payload types anew.
    pub(crate) fn renegotiate(&mut self, name: SourceName, payload_types: &[PayloadType]) -> bool {
        self.name = name;
        if self.payload_types == payload_types {
            return false;
        }
        self.payload_types = payload_types.to_vec();
        for agreed in payload_types {
            if let Some(known) = self.known_types.iter_mut().find(|known| known.means(agreed)) {
                *known = *agreed;
            } else if self.known_types.len() < KNOWN_TYPES_MAX {
                self.known_types.push(*agreed);
            }
        }
        true
    }

    /// Whether it is sent in these encodings.
    #[must_use]
    pub(crate) fn has_rids(&self, rids: &[Rid]) -> bool {
        self.encodings.iter().filter_map(|encoding| encoding.rid).eq(rids.iter().copied())
    }

    /// Which of the known payload types one is.
    #[must_use]
    pub(crate) fn position(&self, payload_type: &PayloadType) -> Option<u8> {
        let position = self.known_types.iter().position(|known| known.means(payload_type))?;
        u8::try_from(position).ok()
    }

    /// Sound or pictures.
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        self.name.kind()
    }

    /// Whether it is sending.
    #[must_use]
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        let comes = || self.encodings.iter().any(|encoding| encoding.came_within(now, LIVE_TIMEOUT));
        self.elsewhere.live.unwrap_or_else(comes)
    }

    /// Whether anything of it ever came.
    #[must_use]
    pub(crate) fn has_sent(&self) -> bool {
        self.encodings.iter().any(|encoding| encoding.ssrc().is_some())
    }

    /// An encoding by its place.
    #[must_use]
    pub(crate) fn encoding(&self, at: u8) -> Option<&Encoding> {
        self.encodings.get(usize::from(at))
    }

    /// What can be had of it, the cheapest first, as of the last [`Source::refresh`], as far as a slot of a height has use for it: none larger than the smallest encoding that is large enough, also while that
    /// one does not come. Who cannot send a small picture is not to be asked for a larger one instead.
    #[must_use]
    pub(crate) fn offers_for(&self, now: Instant, height_max: Option<u32>) -> &[Offer] {
        let Some((fitting, height)) = self.fitting(height_max) else { return &self.offers };
        let is_gone = self.encoding(fitting).is_some_and(|encoding| encoding.is_missing(now, GONE_AFTER));
        let larger = |offer: &Offer| !is_gone && offer.height.is_some_and(|offered| offered > height);
        let end = self.offers.iter().position(larger).unwrap_or(self.offers.len());
        // Something is always better than nothing.
        self.offers.get(..end.max(1)).unwrap_or(&self.offers)
    }

    /// What it offers, where that is one thing and never more.
    #[must_use]
    pub(crate) fn only_offer(&self) -> Option<&Offer> {
        if let ([_], [only]) = (&self.encodings[..], &self.offers[..]) { Some(only) } else { None }
    }

    /// The encoding that a slot of a height was to show and does not come, within so many bits per second: it stays wanted, so that it
    /// comes as soon as its sender can.
    #[must_use]
    pub(crate) fn missed(&self, now: Instant, height_max: Option<u32>, bits_per_s: u64) -> Option<u8> {
        let largest = self.encodings.len().checked_sub(1).and_then(|at| u8::try_from(at).ok())?;
        let at = self.fitting(height_max).map_or(largest, |(at, _)| at);
        let takes = usual_bits_per_s(self.height_of(at));
        (at > 0 && takes <= bits_per_s && !self.encoding(at)?.can_be_had(now)).then_some(at)
    }

    /// The smallest of several encodings that is large enough for a height, and how high it is.
    fn fitting(&self, height_max: Option<u32>) -> Option<(u8, u32)> {
        let height_max = height_max.filter(|_| self.encodings.len() > 1)?;
        let places = (0..self.encodings.len()).filter_map(|at| u8::try_from(at).ok());
        let heights = places.filter_map(|at| Some((at, self.height_of(at)?)));
        heights.filter(|(_, height)| *height >= height_max).min_by_key(|(_, height)| *height)
    }

    /// Height of an encoding's largest pictures.
    fn height_of(&self, at: u8) -> Option<u32> {
        let (spatial, temporal) = self.encoding(at)?.layers.highest();
        self.height(Layer { encoding: at, spatial, temporal })
    }

    /// One of them.
    #[must_use]
    pub(crate) fn layer(&self, offer: usize) -> Option<Layer> {
        self.layers.get(offer).copied()
    }

    /// The best of them that shows no more than these layers of the same encoding.
    #[must_use]
    pub(crate) fn offer_of(&self, shown: Layer) -> Option<usize> {
        self.layers.iter().rposition(|layer| *layer <= shown)
    }

    /// Its sender says what it sends (the video layers allocation extension).
    pub(crate) fn told(&mut self, now: Instant, value: &[u8]) {
        if let Some(allocation) = LayersAllocation::parse(value) {
            for (stream, heights) in (0..).zip(&mut self.heights) {
                for (spatial, height) in (0..).zip(heights) {
                    // Sizes do not come every time.
                    let size = allocation.layer(stream, spatial).and_then(|layer| layer.size);
                    *height = size.map_or(*height, |size| u32::from(size.height));
                }
            }
            self.told = Some((now, allocation));
        }
    }

    /// Looks at what can be had of it.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let (mut layers, mut offers) = (std::mem::take(&mut self.layers), std::mem::take(&mut self.offers));
        layers.clear();
        offers.clear();
        for (at, encoding) in (0_u8..).zip(&self.encodings) {
            if at > 0 && !encoding.can_be_had(now) {
                continue;
            }
            let (spatial_max, temporal_max) = encoding.layers.highest();
            if !encoding.layers.are_known() {
                // All of it, whatever that will turn out to be.
                let layer = Layer { encoding: at, ..Layer::ALL };
                let before = offers.last().map_or(0, |offer: &Offer| offer.bits_per_s);
                let bits_per_s = self.bits_per_s(now, layer).max(before + 1);
                layers.push(layer);
                offers.push(Offer { bits_per_s, height: self.height(layer) });
                continue;
            }
            for spatial in 0..=spatial_max {
                // Fewer pictures are better than none, but not better than more pixels.
                let temporal_min = if at == 0 && spatial == 0 { 0 } else { temporal_max.saturating_sub(1) };
                for temporal in temporal_min..=temporal_max {
                    let layer = Layer { encoding: at, spatial, temporal };
                    let before = offers.last().map_or(0, |offer: &Offer| offer.bits_per_s);
                    let bits_per_s = self.bits_per_s(now, layer).max(before + 1);
                    layers.push(layer);
                    offers.push(Offer { bits_per_s, height: self.height(layer) });
                }
            }
        }
        (self.layers, self.offers) = (layers, offers);
    }

    /// Bits per second that a layer takes, with headers: as it was counted, as its sender says, or as is usual.
    fn bits_per_s(&self, now: Instant, layer: Layer) -> u64 {
        let counted = self
            .encoding(layer.encoding)
            .filter(|encoding| encoding.is_live(now))
            .and_then(|encoding| encoding.layers.bits_per_s(layer.spatial, layer.temporal));
        let told = || {
            let (_, told) =
                self.told.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < TOLD_TIMEOUT)?;
            let layers = told.layer(layer.encoding, layer.spatial)?;
            let temporal = usize::from(layer.temporal.min(layers.temporal_layers.saturating_sub(1)));
            layers.kbits_per_s.get(temporal).map(|kbits| u64::from(*kbits) * 1000).filter(|bits| *bits > 0)
        };
        let usual = || usual_bits_per_s(self.height(layer));
        let payload = counted.filter(|bits| *bits > 0).or_else(told).unwrap_or_else(usual);
        payload + payload * HEADERS_PERCENT / 100
    }

    /// Picture height of a layer: as descriptors or its sender say, or as its place among the encodings lets one guess.
    fn height(&self, layer: Layer) -> Option<u32> {
        let described =
            self.encoding(layer.encoding).and_then(|encoding| encoding.layers.height(layer.spatial));
        let told = || {
            let heights = self.heights.get(usize::from(layer.encoding))?;
            heights.get(usize::from(layer.spatial)).copied().filter(|height| *height > 0)
        };
        let guessed = || {
            let below_best = self.encodings.len().checked_sub(1 + usize::from(layer.encoding))?;
            (self.encodings.len() > 1).then(|| USUAL_HEIGHT >> below_best)
        };
        described.or_else(told).or_else(guessed)
    }

    /// What anybody wants of it, when that is not what its sender was told. `height` is the largest anybody has room for.
    pub(crate) fn wanted(&mut self, now: Instant, height: u32) -> Option<WantedLayers> {
        if self.kind() == Kind::Audio {
            return None;
        }
        let mut changed = self.want_height(now, height);
        for (at, encoding) in self.encodings.iter_mut().enumerate() {
            // The smallest is always sent: whoever begins to speak is seen at once.
            let is_wanted = at == 0 || encoding.is_wanted_at(now);
            changed |= is_wanted != encoding.is_wanted;
            encoding.is_wanted = is_wanted;
        }
        changed.then(|| self.wanted_layers())
    }

    /// More is wanted at once. Less only when that lasts: senders may make their encoders anew for it.
    fn want_height(&mut self, now: Instant, height: u32) -> bool {
        if height >= self.height_wanted {
            self.height_less = None;
        } else {
            let (since, most) = self.height_less.get_or_insert((now, height));
            *most = height.max(*most);
            if now.saturating_duration_since(*since) < LESS_AFTER {
                return false;
            }
        }
        let lasting = self.height_less.take().map_or(height, |(_, most)| most);
        std::mem::replace(&mut self.height_wanted, lasting) != lasting
    }

    /// What anybody wants of it, as its sender was told.
    #[must_use]
    pub(crate) fn wanted_layers(&self) -> WantedLayers {
        let encodings = self.encodings.iter().filter_map(|encoding| {
            Some(WantedEncoding { rid: encoding.rid?.as_str().to_owned(), wanted: encoding.is_wanted })
        });
        WantedLayers {
            source: self.name,
            height: Some(self.height_wanted).filter(|height| *height < u32::MAX),
            encodings: encodings.collect(),
        }
    }

    /// Its encodings, for operators.
    #[must_use]
    pub(crate) fn describe_encodings(&self, now: Instant) -> Vec<EncodingSnapshot> {
        let describe = |(at, encoding): (u8, &Encoding)| {
            let (spatial, temporal) = encoding.layers.highest();
            EncodingSnapshot {
                rid: encoding.rid.map(|rid| rid.as_str().to_owned()),
                live: encoding.is_live(now),
                wanted: encoding.is_wanted,
                height: self.height(Layer { encoding: at, spatial, temporal }),
                bits_per_s: encoding
                    .layers
                    .bits_per_s(spatial, temporal)
                    .filter(|_| encoding.is_live(now))
                    .unwrap_or(0),
            }
        };
        (0..).zip(&self.encodings).map(describe).collect()
    }

    /// One of its layers, for operators.
    #[must_use]
    pub(crate) fn describe_layer(&self, layer: Layer) -> Option<LayerSnapshot> {
        let encoding = self.encoding(layer.encoding)?;
        let (spatial_max, temporal_max) = encoding.layers.highest();
        let (spatial, temporal) = (layer.spatial.min(spatial_max), layer.temporal.min(temporal_max));
        Some(LayerSnapshot {
            rid: encoding.rid.map(|rid| rid.as_str().to_owned()),
            spatial,
            temporal,
            height: self.height(Layer { spatial, temporal, ..layer }),
            bits_per_s: encoding.layers.bits_per_s(spatial, temporal).unwrap_or(0),
        })
    }

    /// Whether lost packets can be asked for.
    fn repairs(&self) -> bool {
        self.payload_types.first().is_some_and(|payload_type| payload_type.nack)
    }

    /// Takes a packet of one of its encodings that came on the media's own SSRC.
    pub(crate) fn receive(&mut self, now: Instant, at: usize, arrival: &Arrival<'_>) -> Taken {
        if let Some(level) = arrival.audio_level {
            self.meter.level(now, level);
        }
        let is_silence = self.kind() == Kind::Audio && self.meter.is_silent(now);
        let how = (self.repairs(), is_silence);
        self.encodings.get_mut(at).map_or(Taken::Duplicate, |encoding| encoding.receive(now, arrival, how))
    }
}
