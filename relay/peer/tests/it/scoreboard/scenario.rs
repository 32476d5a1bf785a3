//! The calls that are simulated, and what each of them must come up to.

use std::time::Duration;

use super::link::{Bursts, Line};
use super::score::{Score, fits};
use super::world::{Person, Sample, World};

/// Everybody else's line.
const GOOD_BPS: u64 = 20_000_000;

/// Senders are there for so long when the one that is looked at joins.
const BEFORE: Duration = Duration::from_secs(3);

/// One of the calls.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// For tables, files, and to pick it by.
    pub(super) name: &'static str,
    /// How long it lasts, in seconds.
    pub(super) seconds: u64,
    /// Participants with camera and microphone.
    pub(super) publishers: usize,
    /// Slots for pictures of the one that is looked at.
    pub(super) slots: usize,
    /// Its line.
    pub(super) down: Line,
    pub(super) up: Line,
    /// It speaks, too.
    pub(super) speaks: bool,
    /// The senders' lines to the relay.
    pub(super) senders: Line,
    /// Encodings that the senders' lines carry.
    pub(super) encodings: usize,
    /// A download on its line, from and until these seconds.
    pub(super) download: Option<(u64, u64)>,
    /// Somebody else watches on a good line.
    pub(super) other: bool,
    /// The line is bad until then, in seconds.
    pub(super) bad_until: Option<u64>,
    /// What the median of all seeds must come up to.
    pub(super) limits: Limits,
}

/// Worse than this is a regression. The aims of every steady line are the defaults; where a scenario asks for less, it
/// says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) first_picture_ms: f64,
    pub(super) converge_s: f64,
    pub(super) utilisation: f64,
    pub(super) freezes: f64,
    pub(super) freeze_ms: f64,
    pub(super) queue_p95_ms: f64,
    pub(super) ups: f64,
    pub(super) heard: f64,
    pub(super) recovery_s: f64,
}

/// The aims for a steady line.
const STEADY: Limits = Limits {
    first_picture_ms: 1000.0,
    converge_s: 10.0,
    utilisation: 0.85,
    freezes: 0.0,
    freeze_ms: 1000.0,
    queue_p95_ms: 100.0,
    ups: 2.0,
    heard: 0.99,
    recovery_s: 10.0,
};

impl Limits {
    /// Names of the figures that are worse.
    pub(super) fn missed(&self, score: &Score) -> Vec<String> {
        let mut missed = Vec::new();
        let mut hold = |name: &str, holds: bool, is: f64, limit: f64| {
            if !holds {
                missed.push(format!("{name} {is:.2}, limit {limit:.2}"));
            }
        };
        let mut most = |name, is: f64, limit: f64| hold(name, is <= limit, is, limit);
        most("first picture (ms)", score.first_picture_ms, self.first_picture_ms);
        most("converged (s)", score.converge_s, self.converge_s);
        most("freezes", score.freezes, self.freezes);
        most("longest freeze (ms)", score.freeze_ms, self.freeze_ms);
        most("queue p95 (ms)", score.queue_p95_ms, self.queue_p95_ms);
        most("switches up per minute", score.ups, self.ups);
        most("recovery (s)", score.recovery_s, self.recovery_s);
        // Their own first step up may show as one.
        most("freezes of others", score.others, 1.0);
        most("pictures that cannot be decoded", score.broken, 0.0);
        hold("utilisation", score.utilisation >= self.utilisation, score.utilisation, self.utilisation);
        hold("sound heard", score.heard >= self.heard, score.heard, self.heard);
        missed
    }
}

/// One run of a scenario.
pub(super) struct Run {
    pub(super) score: Score,
    pub(super) samples: Vec<Sample>,
}

impl Scenario {
    fn new(name: &'static str, down: Line) -> Self {
        Self {
            name,
            seconds: 60,
            publishers: 1,
            slots: 1,
            down,
            up: Line::steady(GOOD_BPS),
            speaks: false,
            senders: Line::steady(GOOD_BPS),
            encodings: 3,
            download: None,
            other: false,
            bad_until: None,
            limits: STEADY,
        }
    }

    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let line = Line::steady;
        let drop = |bps| Line::steady(bps).then(30, 300_000).then(40, bps);
        // Up in steps for 15 s, then down at once; four times.
        let sawtooth = (0..60).fold(line(500_000), |line, s| line.then(s, 500_000 + s % 15 * 180_000));
        let four = |scenario: Self| Self { publishers: 4, slots: 4, ..scenario };
        // After a drop nothing says how narrow the line is until its queue is full of what was sent for the wide one.
        let dropped = Limits { freezes: 2.0, ups: 4.0, ..STEADY };
        vec![
            Self::new("steady-500k", line(500_000)),
            Self::new("steady-1m", line(1_000_000)),
            Self::new("steady-3m", line(3_000_000)),
            Self {
                seconds: 75,
                other: true,
                bad_until: Some(40),
                limits: Limits { utilisation: 0.75, ..dropped },
                ..Self::new("drop-to-300k", drop(3_000_000))
            },
            Self {
                // At each fall the queue is full of what was sent for six times as wide a line.
                limits: Limits {
                    utilisation: 0.6,
                    freezes: 7.0,
                    freeze_ms: 1700.0,
                    queue_p95_ms: 250.0,
                    ups: 9.0,
                    ..STEADY
                },
                ..Self::new("sawtooth", sawtooth)
            },
            Self {
                limits: Limits { freezes: 3.0, ..STEADY },
                ..Self::new("loss-5", Line { loss: 0.05, ..line(3_000_000) })
            },
            Self {
                other: true,
                // Five of a hundred packets are lost with their first retransmission.
                limits: Limits {
                    utilisation: 0.6,
                    freezes: 15.0,
                    heard: 0.98,
                    first_picture_ms: 1500.0,
                    ..STEADY
                },
                ..Self::new("loss-20", Line { loss: 0.2, ..line(3_000_000) })
            },
            Self {
                limits: Limits { utilisation: 0.7, freezes: 10.0, heard: 0.98, ..STEADY },
                ..Self::new(
                    "loss-bursts",
                    Line { bursts: Some(Bursts { begin: 0.005, end: 0.2 }), ..line(3_000_000) },
                )
            },
            Self {
                limits: Limits { utilisation: 0.7, freezes: 3.0, ..STEADY },
                ..Self::new("jitter-100ms", Line { jitter: Duration::from_millis(100), ..line(3_000_000) })
            },
            Self {
                seconds: 75,
                download: Some((20, 50)),
                bad_until: Some(50),
                other: true,
                // The download fills the queue of 300 ms, whatever others do.
                limits: Limits {
                    utilisation: 0.6,
                    freezes: 9.0,
                    freeze_ms: 1200.0,
                    queue_p95_ms: 310.0,
                    ups: 4.0,
                    heard: 0.98,
                    ..STEADY
                },
                ..Self::new("download", line(3_000_000))
            },
            Self { up: line(100_000), speaks: true, ..Self::new("asymmetric", line(3_000_000)) },
            Self {
                senders: line(1_000_000),
                encodings: 2,
                limits: Limits { converge_s: 15.0, freezes: 2.0, ..STEADY },
                ..Self::new("sender-1m", line(3_000_000))
            },
            // Who is seen changes with who speaks, and layers with it.
            four(Self::new("four-1m", line(1_000_000))),
            four(Self {
                // All four of the middle size leave no headroom.
                limits: Limits { utilisation: 0.8, ..STEADY },
                ..Self::new("four-2m5", line(2_500_000))
            }),
            four(Self {
                seconds: 75,
                bad_until: Some(40),
                // Four pictures do not fit into 300 kbit/s: each is still for a moment before it is said to be paused, and again
                // before it comes back.
                limits: Limits { utilisation: 0.7, freezes: 15.0, ..dropped },
                ..Self::new("four-drop-to-300k", drop(2_500_000))
            }),
        ]
    }

    /// Payload bits per second that fit the line at a time.
    pub(super) fn fits(&self, sample: &Sample) -> f64 {
        // Beside a download, half is a fair part.
        let loaded = self.download.is_some_and(|(from, until)| {
            (Duration::from_secs(from)..Duration::from_secs(until)).contains(&sample.at)
        });
        let bps = sample.rate as f64 * if loaded { 0.5 } else { 1.0 };
        let bursts = self.down.bursts.map_or(0.0, |bursts| bursts.begin / (bursts.begin + bursts.end));
        let loss = self.down.loss + bursts;
        fits(bps, (self.publishers.min(self.slots), self.publishers.min(3)), loss, self.encodings)
    }

    /// Carries it out.
    pub(super) fn run(&self, seed: u64) -> Run {
        let mut world = World::new(seed);
        let good = Line::steady(GOOD_BPS);
        for _ in 0..self.publishers {
            world.join(&Person {
                camera: true,
                microphone: true,
                slots: 0,
                audio_slots: 0,
                // How fast senders find out is another question than how well receivers' lines are used.
                looks_up: self.encodings < 3,
                up: self.senders.clone(),
                down: good.clone(),
            });
        }
        let watcher = |slots, up: &Line, down: &Line| Person {
            camera: false,
            microphone: false,
            slots,
            audio_slots: 3,
            looks_up: false,
            up: up.clone(),
            down: down.clone(),
        };
        let other = self.other.then(|| world.join(&watcher(self.slots, &good, &good)));
        world.run(BEFORE);
        let person = Person { microphone: self.speaks, ..watcher(self.slots, &self.up, &self.down) };
        let watched = world.join(&person);
        if let Some((from, until)) = self.download {
            world.download_for(watched, Duration::from_secs(from)..Duration::from_secs(until));
        }
        world.run(Duration::from_secs(self.seconds));
        world.end();
        let watcher = &world.members[watched].watcher;
        let mut score = Score::of(self, watcher, &sent(&world));
        if let Some(other) = other {
            let players = &world.members[other].watcher.players;
            score.others = players.iter().map(|(_, player)| player.freezes.len()).sum::<usize>() as f64;
        }
        Run { score, samples: watcher.samples.clone() }
    }
}

fn sent(world: &World) -> Vec<u32> {
    world.members.iter().filter_map(|member| Some(member.microphone.as_ref()?.sent)).collect()
}
