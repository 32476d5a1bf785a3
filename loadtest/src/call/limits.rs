//! The bare jobs with the sizes and bursts of the relay's and the ingress's: to be run in turn with those.

use trunkline_benches::fanout::{BURST_MAX, Fanout, Plan};
use trunkline_benches::forward::Forward;
use trunkline_benches::stream::Streams;

use super::clients::Snapshot;
use super::publish::{AUDIO_BYTES, OVERHEAD_BYTES, SMALL_BYTES, Traffic, VIDEO_BYTES};
use super::site::{Transport, Via};
use crate::error::LoadError;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// What publishers send.
    pub(super) traffic: Traffic,
    /// How it gets to receivers.
    pub(super) transport: Transport,
    /// Whether an ingress forwards it.
    pub(super) via: Via,
    /// How many receivers a packet has.
    pub(super) receivers: usize,
    /// With simulcast: tiles of each receiver, and how many receivers each smallest and each largest encoding has.
    pub(super) tiles: Option<Tiles>,
}

/// Who sees cameras how large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    /// Small pictures of one receiver, besides its large one.
    pub(super) tiles: usize,
    /// Receivers of each small picture.
    pub(super) small: usize,
    /// Receivers of each large one.
    pub(super) large: usize,
}

/// The jobs for each kind of packet.
pub(super) struct Limits(Vec<Part>);

/// One kind.
struct Part {
    /// Its share of all packets.
    share: f64,
    relay: FanOut,
    ingress: Option<Forward>,
}

enum FanOut {
    Trains(Fanout),
    Streams(Streams),
}

impl Limits {
    /// `snapshot`: what clients received of each kind so far.
    pub(super) fn new(job: Job, snapshot: &Snapshot) -> Result<Self, LoadError> {
        let traffic = job.traffic;
        let mean = snapshot.received_bytes as f64 / snapshot.received.max(1) as f64;
        let picture = match job.tiles {
            None => VIDEO_BYTES as f64,
            Some(tiles) => {
                let (small, large) = (tiles.tiles as f64, f64::from(traffic.video_burst));
                (small * SMALL_BYTES as f64 + large * VIDEO_BYTES as f64) / (small + large)
            }
        };
        let video = ((mean - AUDIO_BYTES as f64) / (picture - AUDIO_BYTES as f64)).clamp(0.0, 1.0);
        let (video, audio) = match (traffic.video_burst, traffic.audio) {
            (0, _) => (0.0, 1.0),
            (_, false) => (1.0, 0.0),
            _ => (video, 1.0 - video),
        };
        let burst = usize::try_from(traffic.video_burst).unwrap_or(BURST_MAX).clamp(1, BURST_MAX);
        let mut plans = vec![(Plan::audio(job.receivers), audio)];
        match job.tiles {
            None => plans.push((Plan::video(burst, job.receivers), video)),
            Some(tiles) => {
                let (small, large) = (tiles.tiles as f64, burst as f64);
                let packet_bytes = SMALL_BYTES + OVERHEAD_BYTES;
                let tile = Plan { packet_bytes, rounds: 1000, ..Plan::video(1, tiles.small) };
                plans.push((tile, video * small / (small + large)));
                plans.push((Plan::video(burst, tiles.large), video * large / (small + large)));
            }
        }
        let parts = plans.into_iter().filter(|(_, share)| *share > 0.0).map(|(plan, share)| {
            // The clients here take trains, too.
            let plan = Plan { receivers_take_trains: true, receivers_sleep: true, ..plan };
            let relay = match (job.via, job.transport) {
                // What goes through an ingress goes to it as datagrams.
                (Via::Ingress, _) | (_, Transport::Udp) => Fanout::new(plan).map(FanOut::Trains),
                (_, tcp) => Streams::new(plan, tcp == Transport::Tls).map(FanOut::Streams),
            };
            let forwards = (job.via, job.transport) == (Via::Ingress, Transport::Udp);
            let ingress = forwards.then(|| Forward::new(plan)).transpose();
            relay.and_then(|relay| Ok(Part { share, relay, ingress: ingress? }))
        });
        let parts = parts.collect::<Result<_, _>>();
        parts.map(Self).map_err(LoadError::io("setting the bare jobs up"))
    }

    /// CPU time of one packet that is sent to a receiver, in nanoseconds.
    pub(super) fn relay(&mut self) -> Result<f64, LoadError> {
        self.0.iter_mut().try_fold(0.0, |sum, part| {
            let sample = match &mut part.relay {
                FanOut::Trains(job) => job.run(),
                FanOut::Streams(job) => job.run(),
            };
            let sample = sample.map_err(LoadError::io("doing the bare job"))?;
            Ok(sum + part.share * sample.ns_per_packet)
        })
    }

    /// CPU time of one packet that is received and sent on, in nanoseconds. None where nobody does that.
    pub(super) fn ingress(&mut self) -> Result<Option<f64>, LoadError> {
        let mut sum = None;
        for part in &mut self.0 {
            let Some(job) = &mut part.ingress else { continue };
            let sample = job.run().map_err(LoadError::io("doing the bare job"))?;
            sum = Some(sum.unwrap_or(0.0) + part.share * sample.ns_per_packet);
        }
        Ok(sum)
    }
}
