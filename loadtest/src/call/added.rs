//! The latency that an ingress adds. Two small calls carry the same traffic, one through the ingress, one on a node that
//! no ingress knows; they take turns, so that whatever else the machine does meets both alike, and every packet is
//! opened. What counts is the difference within each pair of turns, and of those the median.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::sleep;
use trunkline_relay_peer::Plan;

use super::clients::Clients;
use super::entrance::{Entrance, Participant};
use super::measure::{LEAD, median, settle};
use super::publish::{Publisher, Traffic};
use super::relay::{Relay, create_call, mint};
use super::site::Site;
use super::{JOINED_WITHIN, Percentiles, everybody_joined};
use crate::error::LoadError;
use crate::http::Client;
use crate::report::round;

/// People on each call, of whom one sends. More load the machine, and measure that instead.
const PARTICIPANTS: u32 = 10;

/// Pairs of turns.
const PAIRS: usize = 5;

/// How long a turn is at most: with pictures of eight packets, 4,000 latencies. Longer says no more.
const TURN_MAX: Duration = Duration::from_secs(2);

/// Most pictures a second, and packets of one: a moderate rate.
const FPS_MAX: u32 = 30;
const BURST_MAX: u32 = 8;

/// The median differences of the percentiles.
///
/// # Errors
/// When one of the calls fails.
pub(super) async fn latency(
    entrance: &Entrance,
    site: &Site,
    twin: &Relay,
    traffic: Traffic,
    turn: Duration,
) -> Result<Percentiles, LoadError> {
    let turn = turn.min(TURN_MAX);
    let traffic =
        Traffic { video_burst: traffic.video_burst.min(BURST_MAX), fps: traffic.fps.min(FPS_MAX), ..traffic };
    let traffic = Traffic { simulcast: false, ..traffic };
    let through = Probe::start(entrance, site.admin(), traffic).await?;
    let direct = Probe::start(&entrance.at(twin.api), twin.admin(), traffic).await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    // The first pair warms both up.
    for pair in 0..=PAIRS {
        let (with, without) = (through.turn(turn).await?, direct.turn(turn).await?);
        if pair > 0 {
            p50.push(with.p50 - without.p50);
            p99.push(with.p99 - without.p99);
        }
    }
    let middle = |values| round(median(values).unwrap_or_default());
    Ok(Percentiles { p50: middle(p50), p99: middle(p99) })
}

/// A small call.
struct Probe(Clients);

impl Probe {
    async fn start(entrance: &Entrance, mut admin: Client, traffic: Traffic) -> Result<Self, LoadError> {
        let call = create_call(&mut admin, PARTICIPANTS).await?;
        let clients = Clients::start(entrance.settings.epoch, true)?;
        for number in 0..PARTICIPANTS {
            let publishes = number == 0;
            let role = if publishes { "presenter" } else { "viewer" };
            let token = mint(&mut admin, &call, &format!("probe{number}"), role).await?;
            let sources = if publishes { traffic.sources() } else { Vec::new() };
            let plan = Plan::receiver(1, 1).sending(&sources);
            let who = Participant { call: &call, token: &token, plan, seed: u64::from(number) + 1001 };
            let publisher = publishes.then(|| Publisher::new(traffic, 0, 1));
            clients.join(entrance.enter(&who, publisher).await?);
        }
        let everybody = usize::try_from(PARTICIPANTS).unwrap_or(usize::MAX);
        everybody_joined(&clients, everybody, JOINED_WITHIN).await?;
        Ok(Self(clients))
    }

    /// Its latencies in one turn.
    async fn turn(&self, time: Duration) -> Result<Percentiles, LoadError> {
        self.0.publish();
        sleep(LEAD).await;
        let before: Histogram<u64> = self.0.snapshot().await?.latency_us;
        sleep(time).await;
        let mut latencies = self.0.snapshot().await?.latency_us;
        settle(&self.0).await;
        latencies.subtract(before).map_err(|error| LoadError::Usage(error.to_string()))?;
        Ok(Percentiles::of_us(&latencies))
    }
}
