//! Who is on the call, and what they send.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use trunkline_relay_peer::Plan;

use super::limits::Tiles;
use super::publish::Traffic;
use super::relay::{CONFERENCE_MAX, Mode};
use super::site::{Transport, Via};
use crate::error::LoadError;

/// Turns of relay and limit, of which the median counts. Longer than the relay remembers a silent source would be none.
const TURNS: u32 = 5;
const TURN_MAX: Duration = Duration::from_secs(3);

/// People on a call, as the relay limits them, and so receivers of a packet.
const PARTICIPANTS_MAX: u32 = 500;
pub(super) const RECEIVERS_MAX: usize = 500;

/// Sections that a relay takes in one offer, less those that somebody sends in.
const SLOTS_MAX: usize = 120;

/// Who is on the call, and what they send.
#[derive(Clone, Debug, Args)]
pub(crate) struct CallArgs {
    /// People on the call.
    #[arg(long, default_value_t = 100)]
    pub(super) participants: u32,
    /// How many of them send.
    #[arg(long, default_value_t = 1)]
    pub(super) publishers: u32,
    /// Packets of one picture [default: 8, or none with --audio]
    #[arg(long)]
    pub(super) video_burst: Option<u32>,
    /// Pictures a second.
    #[arg(long, default_value_t = 30)]
    pub(super) fps: u32,
    /// Publishers send sound: 50 packets a second. With --video-burst, pictures too.
    #[arg(long)]
    pub(super) audio: bool,
    /// Audio sections that everybody receives in.
    #[arg(long, default_value_t = 3)]
    pub(super) slots_audio: usize,
    /// Video sections that everybody receives in.
    #[arg(long, default_value_t = 9)]
    pub(super) slots_video: usize,
    /// Small pictures that everybody sees besides a large one. Implies --simulcast: cameras send three encodings at a time.
    #[arg(long, conflicts_with = "slots_video")]
    pub(super) slots: Option<usize>,
    /// Cameras send three encodings at a time. Everybody asks for one picture of 720 lines, and for 180 in the other
    /// slots; encodings nobody wants are not sent.
    #[arg(long)]
    pub(super) simulcast: bool,
    /// Everybody tells when packets arrive, as browsers do, so that the relay adapts to each line.
    #[arg(long)]
    pub(super) adaptive: bool,
    /// What kind of call: a conference has up to 100 people, a broadcast 500 and one publisher [default: as many people
    /// need]
    #[arg(long, value_enum)]
    pub(super) mode: Option<Mode>,
    /// How long the relay is measured, all turns together.
    #[arg(long, default_value_t = 10)]
    pub(super) duration_s: u64,
    /// Joins per second.
    #[arg(long, default_value_t = 20.0)]
    pub(super) joins_per_s: f64,
    /// Share of packets lost between people and relay, each way, for example 0.05. Clients then repair as browsers do.
    #[arg(long, default_value_t = 0.0)]
    pub(super) loss: f64,
    /// Share of packets that others overtake.
    #[arg(long, default_value_t = 0.0)]
    pub(super) reorder: f64,
    /// Share of packets that arrive twice.
    #[arg(long, default_value_t = 0.0)]
    pub(super) duplicate: f64,
    /// What people connect to
    #[arg(long, value_enum, default_value_t = Via::Direct)]
    pub(super) via: Via,
    /// How they connect
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    pub(super) transport: Transport,
    /// Threads of the relay that forward media.
    #[arg(long, default_value_t = 1)]
    pub(super) workers: u16,
    /// People of the call on one of them before it grows onto others.
    #[arg(long, default_value_t = 64)]
    pub(super) worker_participants: u32,
    /// The relay program to run [default: the relay this program was built with]
    #[arg(long)]
    pub(super) relay_bin: Option<PathBuf>,
}

impl CallArgs {
    pub(super) fn traffic(&self) -> Traffic {
        let video_burst = self.video_burst.unwrap_or(if self.audio { 0 } else { 8 });
        Traffic { video_burst, fps: self.fps, audio: self.audio, simulcast: self.simulcast() }
    }

    pub(super) fn simulcast(&self) -> bool {
        self.simulcast || self.slots.is_some()
    }

    /// Video sections.
    pub(super) fn slots_video(&self) -> usize {
        self.slots.map_or(self.slots_video, |tiles| tiles + 1)
    }

    pub(super) fn mode(&self) -> Mode {
        let conference = self.participants <= CONFERENCE_MAX;
        self.mode.unwrap_or(if conference { Mode::Conference } else { Mode::Broadcast })
    }

    /// What everybody offers.
    pub(super) fn plan(&self, publishes: bool) -> Plan {
        let sources = if publishes { self.traffic().sources() } else { Vec::new() };
        let plan = Plan::receiver(self.slots_audio, self.slots_video()).sending(&sources);
        let plan = if self.simulcast() { plan.simulcast() } else { plan };
        if self.adaptive { plan.adaptive() } else { plan }
    }

    /// Who sees how many cameras how large.
    pub(super) fn tiles(&self) -> Option<Tiles> {
        let people = |count: u32| usize::try_from(count).unwrap_or(RECEIVERS_MAX);
        let (participants, publishers) = (people(self.participants), people(self.publishers));
        let shown = self.slots_video().min(publishers.saturating_sub(1)).max(1);
        let receivers =
            |pictures: usize| (participants * pictures / publishers.max(1)).clamp(1, RECEIVERS_MAX);
        let tiles = shown - 1;
        self.simulcast().then(|| Tiles { tiles, small: receivers(tiles), large: receivers(1) })
    }

    pub(super) fn turn(&self) -> Duration {
        (Duration::from_secs(self.duration_s.max(1)) / TURNS).min(TURN_MAX)
    }

    pub(super) fn is_shaped(&self) -> bool {
        self.loss > 0.0 || self.reorder > 0.0 || self.duplicate > 0.0
    }

    pub(super) fn check(&self) -> Result<(), LoadError> {
        let usage = |what: &str| Err(LoadError::Usage(what.to_owned()));
        let traffic = self.traffic();
        if !(2..=PARTICIPANTS_MAX).contains(&self.participants)
            || !(1..=self.participants).contains(&self.publishers)
        {
            return usage("--participants: expected 2 to 500, of whom one or more are --publishers");
        }
        if traffic.sources().is_empty() || self.fps == 0 || traffic.video_burst > 1000 {
            return usage("nothing to send: expected --audio, or --video-burst 1 to 1000 at --fps 1 or more");
        }
        if self.workers == 0 || (self.workers > 1 && self.via == Via::Ingress) {
            return usage("--workers: expected 1 or more, and 1 with --via ingress");
        }
        if self.mode() == Mode::Conference && self.participants > CONFERENCE_MAX {
            return usage("--mode conference: expected --participants 2 to 100");
        }
        if self.mode == Some(Mode::Broadcast) && self.publishers != 1 {
            return usage("--mode broadcast: expected --publishers 1");
        }
        if self.simulcast() && traffic.video_burst == 0 {
            return usage(
                "--slots, --simulcast: expected --video-burst 1 or more, --audio alone has no pictures",
            );
        }
        if self.simulcast() && self.slots_video() == 0 || self.slots_video() + self.slots_audio > SLOTS_MAX {
            return usage(
                "--slots, --slots-video, --slots-audio: expected 120 at most, and one for pictures with simulcast",
            );
        }
        if self.joins_per_s <= 0.0 {
            return usage("--joins-per-s: expected more than 0");
        }
        for share in [self.loss, self.reorder, self.duplicate] {
            if !(0.0..1.0).contains(&share) {
                return usage("--loss, --reorder, --duplicate: expected a share, 0 to 0.99");
            }
        }
        if self.is_shaped() && self.transport != Transport::Udp {
            return usage("--loss, --reorder, --duplicate: expected --transport udp, TCP loses nothing");
        }
        Ok(())
    }
}
