//! What a source sent lately, in clear of SRTP (not of the people's own encryption): kept once, shared by all who
//! receive it, for forwarding and for retransmission.

use crate::layers::Frame;
use crate::media::Extension;

/// Header extensions of one packet that go on to receivers.
pub(crate) const ELEMENTS_MAX: usize = 6;

/// Bytes of their values together. A dependency descriptor with a full structure was seen at 50.
pub(crate) const ELEMENTS_BYTES_MAX: usize = 255;

/// How much a history holds, in packets and in bytes, whichever ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Packets, a power of two. A packet older than half of them is not taken any more.
    pub packets: usize,
    /// Bytes of payloads and extension values.
    pub bytes: usize,
}

/// None at all: what has not sent yet.
pub(crate) const NOTHING: Capacity = Capacity { packets: 1, bytes: 1 };

/// Sound is forwarded at once and not asked for again: what matters is one burst.
pub(crate) const AUDIO: Capacity = Capacity { packets: 256, bytes: 64 * 1024 };

/// Two to three seconds of a camera at 1.5 Mbit/s. More repairs longer outages, and costs memory per camera.
pub(crate) const VIDEO: Capacity = Capacity { packets: 1024, bytes: 512 * 1024 };

/// A shared screen sends little, but a whole picture at once.
pub(crate) const SLIDES: Capacity = Capacity { packets: 2048, bytes: 1024 * 1024 };

/// Header extension values of a packet: which, and where in its value bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    count: u8,
    items: [Option<(Extension, u8, u8)>; ELEMENTS_MAX],
}

impl Elements {
    const NONE: Self = Self { count: 0, items: [None; ELEMENTS_MAX] };

    /// Adds one whose value is at `offset` of the value bytes. One too many is left out.
    fn push(&mut self, extension: Extension, offset: u8, len: u8) {
        if let Some(item) = self.items.get_mut(usize::from(self.count)) {
            *item = Some((extension, offset, len));
            self.count += 1;
        }
    }

    /// What is there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Extension, usize, usize)> + Clone + '_ {
        self.items
            .iter()
            .flatten()
            .map(|(extension, offset, len)| (*extension, usize::from(*offset), usize::from(*len)))
    }
}

/// Collects the extension values of one packet before it is kept.
#[derive(Clone, Debug)]
pub(crate) struct ElementsBuffer {
    elements: Elements,
    len: usize,
    bytes: [u8; ELEMENTS_BYTES_MAX],
}

impl Default for ElementsBuffer {
    fn default() -> Self {
        Self { elements: Elements::default(), len: 0, bytes: [0; ELEMENTS_BYTES_MAX] }
    }
}

impl ElementsBuffer {
    /// Adds a value. One that finds no room is left out.
    pub(crate) fn push(&mut self, extension: Extension, value: &[u8]) {
        let end = self.len + value.len();
        let (Ok(offset), Ok(len)) = (u8::try_from(self.len), u8::try_from(value.len())) else { return };
        let Some(room) = self.bytes.get_mut(self.len..end) else { return };
        room.copy_from_slice(value);
        self.elements.push(extension, offset, len);
        self.len = end;
    }
}

/// What an RTP header says of a packet that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Sequence number, extended: never repeats within a source.
    pub index: u64,
    /// The sender's RTP timestamp.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// Which of the source's known payload types, by position.
    pub payload_type: u8,
    /// The first packet of a key frame, as its dependency descriptor says.
    pub key_frame: bool,
    /// What its dependency descriptor says of its frame, where its structure is known.
    pub frame: Option<Frame>,
}

/// A packet that is still there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// What its header said.
    pub meta: Meta,
    /// Its extensions, values in `values`.
    pub elements: &'a Elements,
    /// Their value bytes.
    pub values: &'a [u8],
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

impl Packet<'_> {
    /// Nothing at all.
    pub(crate) const EMPTY: Packet<'static> = Packet {
        meta: Meta { index: 0, timestamp: 0, marker: false, payload_type: 0, key_frame: false, frame: None },
        elements: &Elements::NONE,
        values: &[],
        payload: &[],
    };

    /// The same without anything in it.
    #[must_use]
    pub(crate) fn hollow(&self) -> Self {
        Self { elements: &Elements::NONE, values: &[], payload: &[], ..*self }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    meta: Meta,
    elements: Elements,
    /// Where its bytes start, counted over all bytes ever written.
    position: u64,
    values_len: u16,
    payload_len: u16,
}

/// A ring of packets over a ring of bytes. Nothing is allocated after it was made.
#[derive(Debug)]
pub(crate) struct History {
    entries: Box<[Option<Entry>]>,
    bytes: Box<[u8]>,
    written: u64,
}

impl History {
    /// An empty one.
    #[must_use]
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            entries: vec![None; capacity.packets.next_power_of_two()].into(),
            bytes: vec![0; capacity.bytes].into(),
            written: 0,
        }
    }

    /// How far behind the newest a packet may be and still be told from one that was there.
    #[must_use]
    pub(crate) fn window(&self) -> u64 {
        self.entries.len() as u64 / 2
    }

    /// Whether a packet came, even if its bytes are overwritten by now. Certain within [`History::window`].
    #[must_use]
    pub(crate) fn contains(&self, index: u64) -> bool {
        self.entry(index).is_some()
    }

    /// A packet, while its bytes are there.
    #[must_use]
    pub(crate) fn get(&self, index: u64) -> Option<Packet<'_>> {
        let entry = self.entry(index)?;
        if self.written - entry.position > self.bytes.len() as u64 {
            return None;
        }
        let start = usize::try_from(entry.position % self.bytes.len() as u64).ok()?;
        let values_end = start + usize::from(entry.values_len);
        let values = self.bytes.get(start..values_end)?;
        let payload = self.bytes.get(values_end..values_end + usize::from(entry.payload_len))?;
        Some(Packet { meta: entry.meta, elements: &entry.elements, values, payload })
    }

    /// Keeps a packet; older ones make room. False when it is larger than a datagram can be.
    pub(crate) fn insert(&mut self, meta: Meta, elements: &ElementsBuffer, payload: &[u8]) -> bool {
        let capacity = self.bytes.len();
        let len = elements.len + payload.len();
        let (Ok(values_len), Ok(payload_len)) = (u16::try_from(elements.len), u16::try_from(payload.len()))
        else {
            return false;
        };
        if len > capacity {
            return false;
        }
        // A packet never wraps around the end: what is left there is skipped.
        let Ok(mut start) = usize::try_from(self.written % capacity as u64) else { return false };
        if start + len > capacity {
            self.written += (capacity - start) as u64;
            start = 0;
        }
        let (values_end, end) = (start + elements.len, start + len);
        let (Some(from), Some(values)) =
            (elements.bytes.get(..elements.len), self.bytes.get_mut(start..values_end))
        else {
            return false;
        };
        values.copy_from_slice(from);
        if let Some(room) = self.bytes.get_mut(values_end..end) {
            room.copy_from_slice(payload);
        }
        let position = self.written;
        self.written += len as u64;
        let elements = elements.elements;
        let slot = self.slot(meta.index);
        if let Some(entry) = self.entries.get_mut(slot) {
            *entry = Some(Entry { meta, elements, position, values_len, payload_len });
        }
        true
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(self.slot(index))?.as_ref().filter(|entry| entry.meta.index == index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to the number of entries")]
    fn slot(&self, index: u64) -> usize {
        (index & (self.entries.len() as u64 - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64) -> Meta {
        Meta { index, timestamp: 7, marker: false, payload_type: 0, key_frame: false, frame: None }
    }

    #[test]
    fn a_packet_comes_back_with_its_extensions() {
        let mut history = History::new(AUDIO);
        let mut elements = ElementsBuffer::default();
        elements.push(Extension::AudioLevel, &[0x85]);
        elements.push(Extension::VideoOrientation, &[1]);
        assert!(history.insert(meta(70_000), &elements, b"payload"));
        let packet = history.get(70_000).expect("kept");
        assert_eq!(packet.payload, b"payload");
        let values: Vec<_> =
            packet.elements.iter().map(|(e, at, len)| (e, &packet.values[at..at + len])).collect();
        assert_eq!(values, [(Extension::AudioLevel, &[0x85][..]), (Extension::VideoOrientation, &[1][..])]);
    }

    #[test]
    fn what_was_overwritten_is_known_to_have_come_but_is_not_given_out() {
        let mut history = History::new(Capacity { packets: 64, bytes: 5000 });
        for index in 0..20 {
            assert!(history.insert(
                meta(index),
                &ElementsBuffer::default(),
                &[u8::try_from(index).unwrap_or(0); 1000]
            ));
        }
        assert!(history.contains(2) && history.get(2).is_none());
        for index in 15..20 {
            let packet = history.get(index).expect("among the newest");
            assert!(packet.payload.iter().all(|byte| u64::from(*byte) == index));
        }
    }

    #[test]
    fn an_index_that_shares_a_place_is_not_taken_for_another() {
        let mut history = History::new(Capacity { packets: 64, bytes: 5000 });
        assert!(history.insert(meta(1), &ElementsBuffer::default(), b"x"));
        assert!(!history.contains(65));
        assert!(history.insert(meta(65), &ElementsBuffer::default(), b"y"));
        assert!(!history.contains(1));
    }

    #[test]
    fn more_extensions_than_there_is_room_for_are_left_out() {
        let mut elements = ElementsBuffer::default();
        for _ in 0..10 {
            elements.push(Extension::ColorSpace, &[0; 30]);
        }
        let mut history = History::new(AUDIO);
        assert!(history.insert(meta(1), &elements, &[]));
        assert_eq!(history.get(1).expect("kept").elements.iter().count(), ELEMENTS_MAX);
    }
}
