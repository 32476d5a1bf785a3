//! What a call tells the people on it, and what they may ask of it. The JSON of these types is the protocol of a
//! participant's events WebSocket (docs/API.md).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::media::{Content, Kind};

/// A participant of a call, as the shell numbers them: unique within the node for as long as the process lives, and
/// part of the participant's ICE ufrag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantId(pub u32);

/// Something to tell.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whom.
    pub to: Audience,
    /// What.
    pub notice: Notice,
}

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody in the call. The shell writes the text once.
    Everyone,
    /// Everybody but one.
    AllBut(ParticipantId),
    /// One participant.
    One(ParticipantId),
}

/// One message to clients: `{"event": "roster", …}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// Who is in the call. The first message after connecting is complete, later ones say what changed.
    Roster {
        /// Forget what was known before.
        complete: bool,
        /// New or changed participants, each in full.
        participants: Vec<RosterEntry>,
        /// Names of those who left.
        left: Vec<Arc<str>>,
    },
    /// What this client's slots show from now on. Slots not named stay as they are.
    Slots {
        /// Changed slots.
        slots: Vec<SlotEntry>,
    },
    /// Who speaks, the loudest first. Empty when nobody does.
    Speakers {
        /// Names of participants.
        speakers: Vec<Arc<str>>,
    },
    /// Which layers of what this client sends anybody wants to see. Those not wanted need not be sent. Sources not
    /// named stay as they are.
    Layers {
        /// Changed sources.
        sources: Vec<WantedLayers>,
    },
    /// How good somebody's connection is: everybody is told of those who send, and each of its own.
    Quality {
        /// Whose.
        participant: Arc<str>,
        /// `good`, `fair` or `poor`.
        quality: Quality,
        /// What is wrong, unless it is good.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<QualityCause>,
    },
    /// The call goes on elsewhere: join again.
    Moved,
    /// It is over for this client. The last message.
    Ended {
        /// Why.
        reason: EndReason,
    },
}

/// A participant as others see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RosterEntry {
    /// The name from the join token.
    pub participant: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// It understands sound with redundancy (RED, RFC 2198), or hears none at all. Who sends that is not heard by others.
    pub redundancy: bool,
    /// What it sends.
    pub sources: Vec<SourceEntry>,
}

/// One source of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SourceEntry {
    /// Which of the participant's sources.
    pub source: SourceName,
    /// Muted by its owner.
    pub muted: bool,
    /// The contributing source (CSRC) that names it in forwarded RTP packets.
    pub csrc: u32,
}

/// A slot as its owner sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotEntry {
    /// The `mid` of the media section.
    pub slot: String,
    /// Who is in it; none while it is empty.
    pub participant: Option<Arc<str>>,
    /// Which source of theirs.
    pub source: Option<SourceName>,
    /// The CSRC of that source.
    pub csrc: Option<u32>,
    /// Whether the client pinned it.
    pub pinned: bool,
    /// Nothing is sent for it: the client's line does not carry it now.
    pub paused: bool,
}

/// What is wanted of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WantedLayers {
    /// Which of the client's sources.
    pub source: SourceName,
    /// The largest picture height that anybody has room and bandwidth for, in pixels. None: as large as it can be.
    pub height: Option<u32>,
    /// Its encodings, the smallest first. Empty when it has one without a name.
    pub encodings: Vec<WantedEncoding>,
}

/// Whether one encoding is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WantedEncoding {
    /// Its name in the offer (`a=rid`).
    pub rid: String,
    /// Whether anybody wants it.
    pub wanted: bool,
}

/// Names of sources, by kind and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// Main audio.
    Microphone,
    /// Main video.
    Camera,
    /// Video of a shared screen.
    Screen,
    /// Sound of a shared screen.
    ScreenAudio,
}

impl SourceName {
    /// The name for what a media section carries.
    #[must_use]
    pub const fn of(kind: Kind, content: Content) -> Self {
        match (kind, content) {
            (Kind::Audio, Content::Main) => Self::Microphone,
            (Kind::Audio, Content::Slides) => Self::ScreenAudio,
            (Kind::Video, Content::Main) => Self::Camera,
            (Kind::Video, Content::Slides) => Self::Screen,
        }
    }

    /// What its media sections carry.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Microphone | Self::ScreenAudio => Kind::Audio,
            Self::Camera | Self::Screen => Kind::Video,
        }
    }
}

/// What a participant may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends and receives.
    #[default]
    Presenter,
    /// Receives only.
    Viewer,
}

/// How good a connection is, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Nothing to notice.
    Good,
    /// Noticeable.
    Fair,
    /// Disturbing.
    Poor,
}

/// What spoils it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityCause {
    /// Packets from the client are lost on their way here.
    UplinkLoss,
    /// Packets to the client are lost.
    DownlinkLoss,
    /// The round trip takes long.
    RoundTripTime,
    /// The line to the client carries less than its slots would show.
    Bandwidth,
}

/// Why it is over for a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It left.
    Left,
    /// The same participant joined anew.
    Replaced,
    /// Nothing was heard from it any more.
    TimedOut,
    /// Its DTLS handshake failed, or was not with whom the offer named.
    Refused,
    /// The call was ended.
    CallEnded,
    /// The node goes down.
    Drained,
}

/// What a client may ask, one JSON object per text frame: `{"pin": {…}}` or `{"mute": {…}}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Shows a participant in a slot, or with neither participant nor source lets the relay choose again.
    Pin(Pin),
    /// Says that a source is silent or dark on purpose.
    Mute(Mute),
}

/// See [`Request::Pin`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The `mid` of the slot.
    pub slot: String,
    /// Whom to show. None: no pin.
    #[serde(default)]
    pub participant: Option<String>,
    /// Which source of theirs. None: their screen if they share one, else their camera.
    #[serde(default)]
    pub source: Option<SourceName>,
    /// Picture height the client has room for, in pixels.
    #[serde(default)]
    pub height: Option<u32>,
}

/// See [`Request::Mute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mute {
    /// Which of one's own sources.
    pub source: SourceName,
    /// Muted from now on, or not.
    pub muted: bool,
}
