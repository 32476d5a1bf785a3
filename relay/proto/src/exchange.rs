//! What the branches of one call tell each other.
//!
//! A call that is larger than one place can carry is a [`Call`](crate::call::Call) in several places: one branch in each.
//! A participant belongs to one branch, which has its transport, its sources and its slots. What others must know of it,
//! and what they show of it, goes to them as [`Message`]s: out of [`Call::poll_export`](crate::call::Call::poll_export) of
//! one, into [`Call::import`](crate::call::Call::import) of the others. Whoever joins the branches carries the messages of
//! one branch to another in their order; those of several may come in any. Nothing here knows whether that is another thread
//! or another machine.

use std::sync::Arc;

use crate::event::{ParticipantId, Quality, QualityCause, Role, SourceName};
use crate::history::{Elements, ElementsBuffer, Packet};
use crate::media::{Extension, Mid, PayloadType, Rid};
use crate::reception::SenderClock;

/// Branches of one call. More would take a wider set in every message.
pub const BRANCHES_MAX: usize = 64;

/// Sources of one participant that others hear of: what its sections can be.
pub(crate) const SOURCES_MAX: usize = 64;

/// One branch of a call, as whoever joins them numbers them: below [`BRANCHES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch(u8);

impl Branch {
    /// The branch that was there first.
    pub const HOME: Self = Self(0);

    /// A branch by its number. `None` when there are no so many.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < BRANCHES_MAX).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> usize {
        self.0.into()
    }
}

/// A set of branches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Branches(u64);

impl Branches {
    /// Just one.
    #[must_use]
    pub fn only(branch: Branch) -> Self {
        Self(1 << branch.0)
    }

    /// Adds one.
    pub fn insert(&mut self, branch: Branch) {
        self.0 |= 1 << branch.0;
    }

    /// Takes one out.
    pub fn remove(&mut self, branch: Branch) {
        self.0 &= !(1 << branch.0);
    }

    /// Whether one is among them.
    #[must_use]
    pub fn contains(self, branch: Branch) -> bool {
        self.0 & (1 << branch.0) != 0
    }

    /// Those of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Something for other branches.
#[derive(Clone, Debug)]
pub struct Export {
    /// Which.
    pub to: Branches,
    /// What. Copies share what is large.
    pub message: Message,
}

/// One message to other branches.
#[derive(Clone, Debug)]
pub enum Message {
    /// A participant as it is now: new, or changed.
    Person(Arc<Person>),
    /// It is no longer in the call.
    Left {
        /// Who.
        id: ParticipantId,
        /// The same person is there anew: nobody is told.
        replaced: bool,
    },
    /// Packets of one encoding of a source.
    Media(Arc<Batch>),
    /// How loud everybody of this branch is whom there is anything to hear of. Those not named are silent.
    Levels(Arc<Levels>),
    /// What a sender says that it sends (the video layers allocation extension).
    Allocation(Allocation),
    /// Where the clock of an encoding stood when, for lip sync.
    Clock(Clock),
    /// Which encodings of a source the branch wants from now on.
    Wanted(Wanted),
    /// Somebody of the branch needs a key frame.
    KeyFrame {
        /// The source's CSRC.
        source: u32,
        /// Which of its encodings.
        encoding: u8,
    },
}

impl Message {
    /// Whether it is of no use when it comes late: who is far behind goes without. All else must arrive.
    #[must_use]
    pub fn is_perishable(&self) -> bool {
        matches!(self, Self::Media(_) | Self::Levels(_) | Self::Clock(_))
    }

    /// Bytes it keeps in memory until it is taken in, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Media(batch) => batch.bytes.len() + batch.packets.len() * size_of::<BatchPacket>(),
            Self::Levels(levels) => levels.levels.len() * size_of::<Level>(),
            Self::Allocation(allocation) => allocation.value.len(),
            Self::Person(_) => size_of::<Person>(),
            Self::Left { .. } | Self::Clock(_) | Self::Wanted(_) | Self::KeyFrame { .. } => size_of::<Self>(),
        }
    }

    /// Packets in it.
    #[must_use]
    pub fn packets(&self) -> usize {
        if let Self::Media(batch) = self { batch.len() } else { 0 }
    }
}

/// A participant, as other branches know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub(crate) id: ParticipantId,
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    /// It understands sound with redundancy.
    pub(crate) redundancy: bool,
    /// When it joined, in the order of all branches.
    pub(crate) order: u64,
    /// When it last spoke, in the order of its branch.
    pub(crate) spoke: u64,
    pub(crate) quality: (Quality, Option<QualityCause>),
    pub(crate) sources: Vec<SourceState>,
}

/// A source, as other branches know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceState {
    pub csrc: u32,
    pub mid: Mid,
    pub name: SourceName,
    pub muted: bool,
    /// Whether it is sending.
    pub live: bool,
    /// What it may be sent with, the preferred one first.
    pub payload_types: Vec<PayloadType>,
    /// What it was ever sent with: packets name theirs by position.
    pub known_types: Vec<PayloadType>,
    /// Names of its encodings, with simulcast.
    pub rids: Vec<Rid>,
}

/// How loud a branch is.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Of how many speakers the branch wants to know.
    pub(crate) places: u8,
    pub(crate) levels: Vec<Level>,
}

/// How loud a source is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Level {
    /// Its CSRC.
    pub source: u32,
    /// Smoothed level, −dBov. None: it does not say.
    pub level: Option<f32>,
    /// Somebody speaks.
    pub speech: bool,
}

/// What a sender says that it sends.
#[derive(Clone, Debug)]
pub struct Allocation {
    pub(crate) source: u32,
    /// The extension's value.
    pub(crate) value: Arc<[u8]>,
}

/// Where the clock of an encoding stood when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub(crate) source: u32,
    pub(crate) encoding: u8,
    pub(crate) clock: SenderClock,
}

/// Which encodings of a source a branch wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its CSRC.
    pub(crate) source: u32,
    /// A bit for each.
    pub(crate) encodings: u8,
    /// The largest picture height that anybody there has room and bandwidth for, in pixels. None: as large as it can be.
    pub(crate) height: Option<u32>,
}

/// Packets of one encoding, opened once and copied out once, for all branches.
#[derive(Debug)]
pub struct Batch {
    /// The source's CSRC.
    pub(crate) source: u32,
    /// Which of its encodings.
    pub(crate) encoding: u8,
    /// Sequence numbers of one generation have nothing in common with those of another.
    pub(crate) generation: u32,
    /// It follows nothing that came before: what lies between was not wanted.
    pub(crate) fresh: bool,
    packets: Vec<BatchPacket>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct BatchPacket {
    index: u64,
    timestamp: u32,
    start: u32,
    values_len: u16,
    payload_len: u16,
    marker: bool,
    payload_type: u8,
    elements: Elements,
}

/// One packet of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Shared<'a> {
    /// As its own branch numbered it.
    pub index: u64,
    /// The sender's RTP timestamp.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// Which of the source's known payload types, by position.
    pub payload_type: u8,
    /// Extensions that go on.
    pub elements: ElementsBuffer,
    /// Its dependency descriptor, if it has one.
    pub descriptor: Option<&'a [u8]>,
    /// Payload without padding.
    pub payload: &'a [u8],
}

impl Batch {
    /// An empty one, with room for what is to come.
    #[must_use]
    pub(crate) fn new((source, encoding, generation): (u32, u8, u32), packets: usize, bytes: usize) -> Self {
        Self {
            source,
            encoding,
            generation,
            fresh: false,
            packets: Vec::with_capacity(packets),
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Adds a packet.
    pub(crate) fn push(&mut self, packet: &Packet<'_>) {
        let (Ok(start), Ok(values_len), Ok(payload_len)) = (
            u32::try_from(self.bytes.len()),
            u16::try_from(packet.values.len()),
            u16::try_from(packet.payload.len()),
        ) else {
            return;
        };
        self.bytes.extend_from_slice(packet.values);
        self.bytes.extend_from_slice(packet.payload);
        self.packets.push(BatchPacket {
            index: packet.meta.index,
            timestamp: packet.meta.timestamp,
            start,
            values_len,
            payload_len,
            marker: packet.meta.marker,
            payload_type: packet.meta.payload_type,
            elements: *packet.elements,
        });
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Its packets, in the order they came.
    pub(crate) fn packets(&self) -> impl Iterator<Item = Shared<'_>> {
        self.packets.iter().filter_map(|packet| {
            let start = usize::try_from(packet.start).ok()?;
            let values_end = start + usize::from(packet.values_len);
            let values = self.bytes.get(start..values_end)?;
            let payload = self.bytes.get(values_end..values_end + usize::from(packet.payload_len))?;
            let mut elements = ElementsBuffer::default();
            let mut descriptor = None;
            for (kind, at, len) in packet.elements.iter() {
                let value = values.get(at..at + len)?;
                elements.push(kind, value);
                if kind == Extension::DependencyDescriptor {
                    descriptor = Some(value);
                }
            }
            Some(Shared {
                index: packet.index,
                timestamp: packet.timestamp,
                marker: packet.marker,
                payload_type: packet.payload_type,
                elements,
                descriptor,
                payload,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{AUDIO, History, Meta};

    #[test]
    fn a_branch_is_in_a_set_or_not() {
        let branch = |number| Branch::new(number).expect("one of 64");
        let mut set = Branches::only(branch(63));
        set.insert(Branch::HOME);
        assert!(set.contains(branch(0)) && set.contains(branch(63)) && !set.contains(branch(1)));
        set.remove(branch(63));
        set.remove(branch(0));
        assert!(set.is_empty());
        assert_eq!(Branch::new(BRANCHES_MAX), None);
    }

    #[test]
    fn what_is_put_into_a_batch_comes_out_of_it() {
        let mut history = History::new(AUDIO);
        let mut elements = ElementsBuffer::default();
        elements.push(Extension::AudioLevel, &[0x85]);
        elements.push(Extension::DependencyDescriptor, &[0xc0, 0, 7]);
        let meta = |index| Meta {
            index,
            timestamp: 7,
            marker: true,
            payload_type: 1,
            key_frame: false,
            frame: None,
        };
        assert!(history.insert(meta(1), &elements, b"first"));
        assert!(history.insert(meta(2), &ElementsBuffer::default(), b""));
        let mut batch = Batch::new((9, 0, 1), 2, 64);
        for index in [1, 2] {
            batch.push(&history.get(index).expect("kept"));
        }
        assert_eq!(batch.len(), 2);
        let packets: Vec<_> = batch.packets().collect();
        let [first, second] = &packets[..] else { panic!("two packets") };
        assert_eq!((first.index, first.timestamp, first.payload_type, first.marker), (1, 7, 1, true));
        assert_eq!((first.payload, first.descriptor), (&b"first"[..], Some(&[0xc0, 0, 7][..])));
        assert_eq!((second.index, second.payload, second.descriptor), (2, &b""[..], None));
    }
}
