//! What `crash` breaks when deployments share a database: gateways, the database's server, and the choice of its
//! primary, one after the other, each time until everything moves again.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use trunkline_testkit::rng::Rng;

use crate::database::Database;
use crate::error::LoadError;
use crate::flow::now_us;
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::replicas::Replicas;
use crate::resumption::{Pauses, PausesReport};

/// Longest time between everything moving again and the next failure.
const LIFE_MS_MAX: u64 = 600;

/// Longest time that what was killed stays down.
const DOWN_MS_MAX: u64 = 300;

/// Longest time after a gateway's start until another is killed, while the first may still read its store back.
const YOUTH_MS_MAX: u64 = 1000;

/// Of the failures that are no promotion, so many are the database's.
const DATABASE_SHARE: f64 = 0.25;

/// Of the database's failures, so many are long.
const LONG_SHARE: f64 = 0.2;

/// Between these, a database stays down for long: gateways give up and end, and are started again.
const LONG_MS: std::ops::Range<u64> = 6000..8000;

/// Of the killed gateways, after so many another one follows at once.
const PAIR_SHARE: f64 = 0.25;

/// Of the gateways that are not killed in pairs, so many only stand still, longer than a lease, and then go on.
const FROZEN_SHARE: f64 = 0.2;

/// How long they stand still.
const FROZEN_MS: std::ops::Range<u64> = 3500..8000;

/// How long everything may stand still after a failure. A lease, and what a gateway takes to read its store back on a
/// slow machine, lie well below.
const RESUMES_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks whether a gateway has ended by itself, and before it is started again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is broken, and what is watched meanwhile.
#[derive(Debug)]
pub(crate) struct Faults<'a> {
    /// Both deployments.
    pub deployments: &'a mut [Replicas; 2],
    /// Where both keep everything.
    pub database: &'a mut Database,
    /// What flows between them.
    pub ledgers: [&'a Arc<Ledger>; 2],
    /// How often something is killed.
    pub kills: u32,
    /// Every so many kills, the database's standby takes over; 0 for never.
    pub promote_every: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct FaultsReport {
    /// A gateway was killed.
    gateway: Option<PausesReport>,
    /// Another one was killed while the first had just been started again: the pause begins with the second.
    gateway_pair: Option<PausesReport>,
    /// A gateway stood still, as on a machine that hangs, and went on when others had gone on without it.
    gateway_frozen: Option<PausesReport>,
    /// The database's server ended as in a crash, and was started again.
    database: Option<PausesReport>,
    /// The same for longer than gateways wait for it.
    database_long: Option<PausesReport>,
    /// It ended so, and its standby took over.
    promotion: Option<PausesReport>,
    /// Gateways that ended by themselves because the database was away, and were started again.
    gateways_ended: u32,
}

impl FaultsReport {
    /// Gateways that were killed when another one, or they themselves, had just been started.
    pub(crate) fn kills_while_starting(&self) -> u32 {
        self.gateway_pair.map_or(0, |pauses| u32::try_from(pauses.times).unwrap_or(u32::MAX))
    }
}

/// How many kinds of failures there are.
const KINDS: usize = 6;

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gateway,
    GatewayPair,
    GatewayFrozen,
    Database,
    DatabaseLong,
    Promotion,
}

impl Faults<'_> {
    /// Breaks things until it has done so often enough, and leaves everything up.
    ///
    /// # Errors
    /// When something does not come back.
    pub(crate) async fn run(mut self, seed: u64) -> Result<FaultsReport, LoadError> {
        let mut rng = Rng::new(seed);
        let progress = Progress::new("kills", u64::from(self.kills));
        let (mut pauses, mut gateways_ended, mut killed) = (<[Pauses; KINDS]>::default(), 0, 0);
        while killed < self.kills {
            tokio::time::sleep(up_to_ms(&mut rng, LIFE_MS_MAX)).await;
            let broken = Instant::now();
            let promote_every = if self.database.has_standby() { self.promote_every } else { 0 };
            let kind = choose(&mut rng, killed, self.kills - killed, promote_every);
            killed += match kind {
                Kind::Gateway => self.kill(&mut rng).await?,
                Kind::GatewayPair => {
                    let first = self.kill(&mut rng).await?;
                    tokio::time::sleep(up_to_ms(&mut rng, YOUTH_MS_MAX)).await;
                    first + self.kill(&mut rng).await?
                }
                Kind::GatewayFrozen => self.freeze(&mut rng),
                Kind::Database => self.crash(up_to_ms(&mut rng, DOWN_MS_MAX)).await?,
                Kind::DatabaseLong => self.crash(Duration::from_millis(rng.range(LONG_MS))).await?,
                Kind::Promotion => self.promote().await?,
            };
            let thaws = broken + Duration::from_millis(rng.range(FROZEN_MS));
            let thaws = Some(thaws).filter(|_| kind == Kind::GatewayFrozen);
            gateways_ended += self.resumed(&mut pauses, kind, thaws).await?;
            if kind == Kind::Promotion {
                self.database.follow_again().await?;
            }
            // A primary that comes back shows what it had not told its standby yet: were that one promoted now, it
            // would be gone.
            self.database.replicated().await?;
            progress.at(u64::from(killed));
        }
        for gateway in self.deployments.iter_mut().flat_map(Replicas::all) {
            gateways_ended += u32::from(gateway.revive()?);
            gateway.ready().await?;
        }
        let [gateway, gateway_pair, gateway_frozen, database, database_long, promotion] =
            pauses.map(|pauses| pauses.report());
        Ok(FaultsReport {
            gateway,
            gateway_pair,
            gateway_frozen,
            database,
            database_long,
            promotion,
            gateways_ended,
        })
    }

    /// kill -9 of one of the gateways, which is started again after a while.
    async fn kill(&mut self, rng: &mut Rng) -> Result<u32, LoadError> {
        let Some(victim) = victim(self.deployments, rng) else { return Ok(0) };
        let broken_us = now_us();
        victim.kill().await?;
        self.ledgers.iter().for_each(|ledger| ledger.broken(broken_us));
        tokio::time::sleep(up_to_ms(rng, DOWN_MS_MAX)).await;
        victim.start()?;
        Ok(1)
    }

    /// SIGSTOP of one of the gateways.
    fn freeze(&mut self, rng: &mut Rng) -> u32 {
        let Some(victim) = victim(self.deployments, rng) else { return 0 };
        let broken_us = now_us();
        victim.freeze();
        self.ledgers.iter().for_each(|ledger| ledger.broken(broken_us));
        1
    }

    async fn crash(&mut self, down: Duration) -> Result<u32, LoadError> {
        self.end_database().await?;
        tokio::time::sleep(down).await;
        self.database.restart().await?;
        Ok(1)
    }

    async fn promote(&mut self) -> Result<u32, LoadError> {
        self.end_database().await?;
        self.database.promote().await?;
        Ok(1)
    }

    async fn end_database(&mut self) -> Result<(), LoadError> {
        let broken_us = now_us();
        self.database.crash().await?;
        for ledger in self.ledgers {
            ledger.broken(broken_us);
        }
        Ok(())
    }

    /// Waits until both flows move again, and notes how long it took; until `thaws` in any case, when what stands still goes
    /// on. Answers how many gateways ended meanwhile.
    async fn resumed(
        &mut self,
        pauses: &mut [Pauses; KINDS],
        kind: Kind,
        mut thaws: Option<Instant>,
    ) -> Result<u32, LoadError> {
        let deadline = Instant::now() + RESUMES_WITHIN;
        let (mut ended, mut noted) = (0, false);
        loop {
            if thaws.take_if(|thaws| *thaws < Instant::now()).is_some() {
                self.deployments.iter_mut().flat_map(Replicas::all).for_each(|gateway| gateway.thaw());
            }
            let [there, back] = self.ledgers.map(|ledger| ledger.pause());
            if let Some((there, back)) = there.zip(back) {
                if let Some(pauses) = pauses.get_mut(kind as usize).filter(|_| !noted) {
                    pauses.add(there.max(back));
                }
                noted = true;
                if thaws.is_none() {
                    return Ok(ended);
                }
            }
            if Instant::now() > deadline {
                let what = format!("a flow in both directions after the end of a {kind:?}");
                return Err(LoadError::TimedOut { what, waited: RESUMES_WITHIN });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            for gateway in self.deployments.iter_mut().flat_map(Replicas::all) {
                ended += u32::from(gateway.revive()?);
            }
        }
    }
}

/// One of all gateways.
fn victim<'a>(deployments: &'a mut [Replicas; 2], rng: &mut Rng) -> Option<&'a mut Gateway> {
    let mut gateways: Vec<_> = deployments.iter_mut().flat_map(Replicas::all).collect();
    let victim = rng.index(gateways.len());
    (victim < gateways.len()).then(|| gateways.swap_remove(victim))
}

/// What is broken next, when `killed` things were and `left` are to be.
fn choose(rng: &mut Rng, killed: u32, left: u32, promote_every: u32) -> Kind {
    if promote_every > 0 && killed % promote_every == promote_every - 1 {
        return Kind::Promotion;
    }
    // A pair may not step over a promotion's turn.
    let room = promote_every == 0 || killed % promote_every + 2 < promote_every;
    let (database, long) = (rng.chance(DATABASE_SHARE), rng.chance(LONG_SHARE));
    let (pair, frozen) = (rng.chance(PAIR_SHARE), rng.chance(FROZEN_SHARE));
    match (database, pair) {
        (true, _) if long => Kind::DatabaseLong,
        (true, _) => Kind::Database,
        (false, true) if left > 1 && room => Kind::GatewayPair,
        (false, _) if frozen => Kind::GatewayFrozen,
        (false, _) => Kind::Gateway,
    }
}

fn up_to_ms(rng: &mut Rng, max: u64) -> Duration {
    Duration::from_millis(rng.range(0..max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(kills: u32, promote_every: u32) -> Vec<Kind> {
        let (mut rng, mut killed, mut kinds) = (Rng::new(7), 0, Vec::new());
        while killed < kills {
            let kind = choose(&mut rng, killed, kills - killed, promote_every);
            killed += if kind == Kind::GatewayPair { 2 } else { 1 };
            kinds.push(kind);
        }
        assert_eq!(killed, kills);
        kinds
    }

    #[test]
    fn every_tenth_kill_is_a_promotion_and_all_others_happen_too() {
        let kinds = kinds(100, 10);
        let count = |kind| kinds.iter().filter(|its| **its == kind).count();
        assert_eq!(count(Kind::Promotion), 10);
        assert!(count(Kind::Gateway) > 20 && count(Kind::GatewayPair) > 3);
        assert!(count(Kind::GatewayFrozen) > 3);
        assert!(count(Kind::Database) > 10 && count(Kind::DatabaseLong) > 1);
    }

    #[test]
    fn without_a_standby_nothing_is_promoted() {
        assert!(!kinds(100, 0).contains(&Kind::Promotion));
    }
}
