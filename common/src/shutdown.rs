//! One signal, seen by every task, and a drain that ends.
//!
//! SIGTERM or SIGINT starts the **drain**: stop taking new work, finish what was taken. It ends when the work is
//! done, at its deadline, or at a second signal. SIGHUP asks for a reload.

use std::future::Future;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long what still runs when all is done may take to end. Longer only delays the process's end.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What a task holds to learn of the shutdown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<Phase>,
}

/// What starts the shutdown. Cheap to clone; dropping it starts nothing.
#[derive(Clone, Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    drain_max: Duration,
}

/// Tells of requests to read configuration and certificates again.
#[derive(Debug)]
pub struct Reload {
    requests: watch::Receiver<u64>,
}

/// The drain was cut short: its deadline passed, or somebody was in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "stopped before all work was finished; what was acknowledged is on disk, the rest will be asked for again"
)]
pub struct CutShort;

/// The operating system does not give what a process needs.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct SystemError {
    /// What was tried.
    what: &'static str,
    source: io::Error,
}

/// Says what was tried when the operating system failed.
pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> SystemError {
    move |source| SystemError { what, source }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining { until: Instant },
    Stopping,
}

/// A shutdown that only the [`Trigger`] starts, whose drain lasts `drain_max` at most. For tests, and for processes
/// with other reasons to stop than signals.
#[must_use]
pub fn manual(drain_max: Duration) -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger { phase: sender, drain_max }, Shutdown { phase: receiver })
}

/// Does a process's work on a runtime of its own, with a shutdown that [signals](on_signals) start.
///
/// # Errors
/// When the work fails, or cannot begin.
pub fn until_signal<E: From<SystemError>>(
    drain_max: Duration,
    work: impl AsyncFnOnce(Shutdown, Reload) -> Result<(), E>,
) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(system("starting the runtime"))?;
    let result = runtime.block_on(async {
        let (_trigger, shutdown, reload) = on_signals(drain_max).map_err(system("handling signals"))?;
        work(shutdown, reload).await
    });
    runtime.shutdown_timeout(LEAVE_MAX);
    result
}

/// A shutdown that SIGTERM and SIGINT start as well, the second of them at once. Call it within the runtime, and
/// once per process.
///
/// # Errors
/// When the system does not let signals be handled.
pub fn on_signals(drain_max: Duration) -> io::Result<(Trigger, Shutdown, Reload)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (trigger, shutdown) = manual(drain_max);
    let (requests, receiver) = watch::channel(0);
    let signalled = trigger.clone();
    tokio::spawn(async move {
        loop {
            // `None` means that the runtime is going down, and nobody is left to tell.
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                Some(()) = hang_up.recv() => {
                    info!("reloading: SIGHUP received");
                    requests.send_modify(|requests| *requests += 1);
                    continue;
                }
                else => return,
            };
            if signalled.is_running() {
                info!(
                    signal = name,
                    drain_s_max = signalled.drain_max.as_secs(),
                    "stopping; again to stop at once"
                );
                signalled.drain();
            } else {
                warn!(signal = name, "stopping at once");
                signalled.stop();
            }
        }
    });
    Ok((trigger, shutdown, Reload { requests: receiver }))
}

impl Trigger {
    /// Starts the drain. Later calls change nothing, its deadline included.
    pub fn drain(&self) {
        let until = Instant::now() + self.drain_max;
        self.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            if running {
                *phase = Phase::Draining { until };
            }
            running
        });
    }

    /// Ends the drain at once, or stops without one.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Whether neither was asked for yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Running
    }

    /// Another view of the same shutdown.
    #[must_use]
    pub fn subscribe(&self) -> Shutdown {
        Shutdown { phase: self.phase.subscribe() }
    }
}

impl Shutdown {
    /// Whether new work is to be refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// How much time is left to finish; `None` while nobody asked to stop.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        match *self.phase.borrow() {
            Phase::Running => None,
            Phase::Draining { until } => Some(until.saturating_duration_since(Instant::now())),
            Phase::Stopping => Some(Duration::ZERO),
        }
    }

    /// Waits until the drain starts: take no new work from then on. Never returns when all triggers are gone
    /// without having been used.
    pub async fn draining(&self) {
        let mut phase = self.phase.clone();
        if phase.wait_for(|phase| *phase != Phase::Running).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the drain is over, whether or not all work is done: leave everything from then on.
    pub async fn stopping(&self) {
        self.draining().await;
        let mut phase = self.phase.clone();
        let until = match *phase.borrow_and_update() {
            Phase::Running | Phase::Stopping => return,
            Phase::Draining { until } => until,
        };
        tokio::select! {
            () = sleep_until(until) => {}
            Ok(_) = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
        }
    }

    /// Waits for work that is to be finished within the drain.
    ///
    /// # Errors
    /// [`CutShort`] when the drain was over first; the work is dropped then.
    pub async fn finish<T>(&self, work: impl Future<Output = T>) -> Result<T, CutShort> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.stopping() => Err(CutShort),
        }
    }
}

impl Reload {
    /// Waits for the next request. Requests that came while nobody waited are one. Never returns when nobody can ask
    /// any more.
    pub async fn requested(&mut self) {
        if self.requests.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command};

    use tokio::time::timeout;

    use super::*;

    const DRAIN_MAX: Duration = Duration::from_secs(10);
    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn every_clone_learns_of_the_drain() {
        let (trigger, shutdown) = manual(DRAIN_MAX);
        let waiting = [shutdown.clone(), trigger.subscribe()].map(|shutdown| {
            tokio::spawn(async move {
                shutdown.draining().await;
                shutdown.is_draining()
            })
        });
        assert!(!shutdown.is_draining());
        assert_eq!(shutdown.time_left(), None);
        trigger.drain();
        for task in waiting {
            assert!(task.await.unwrap());
        }
        assert!(!trigger.is_running());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_lets_work_finish() {
        let (trigger, shutdown) = manual(DRAIN_MAX);
        trigger.drain();
        let work = async {
            tokio::time::sleep(DRAIN_MAX / 2).await;
            7
        };
        assert_eq!(shutdown.finish(work).await, Ok(7));
        assert_eq!(shutdown.time_left(), Some(DRAIN_MAX / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline_which_no_second_request_moves() {
        let (trigger, shutdown) = manual(DRAIN_MAX);
        let started = Instant::now();
        trigger.drain();
        tokio::time::advance(DRAIN_MAX / 2).await;
        trigger.drain();
        assert_eq!(shutdown.finish(std::future::pending::<()>()).await, Err(CutShort));
        assert!((DRAIN_MAX..DRAIN_MAX + Duration::from_millis(10)).contains(&started.elapsed()));
        assert_eq!(shutdown.time_left(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_ends_a_drain_at_once() {
        let (trigger, shutdown) = manual(DRAIN_MAX);
        let started = Instant::now();
        trigger.drain();
        let waiting = tokio::spawn(async move { shutdown.stopping().await });
        tokio::task::yield_now().await;
        trigger.stop();
        waiting.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stops_because_the_trigger_is_gone() {
        let (trigger, shutdown) = manual(DRAIN_MAX);
        drop(trigger);
        assert!(timeout(DEADLINE, shutdown.draining()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_nobody_asked_to_stop_is_not_hurried() {
        let (_trigger, shutdown) = manual(DRAIN_MAX);
        let work = async { tokio::time::sleep(10 * DRAIN_MAX).await };
        assert_eq!(shutdown.finish(work).await, Ok(()));
    }

    /// One test for all signals: they are the whole process's.
    #[tokio::test]
    async fn signals_reload_then_drain_then_stop() {
        let (_trigger, shutdown, mut reload) = on_signals(Duration::from_secs(3600)).unwrap();
        kill("HUP");
        timeout(DEADLINE, reload.requested()).await.unwrap();
        assert!(!shutdown.is_draining());
        kill("TERM");
        timeout(DEADLINE, shutdown.draining()).await.unwrap();
        assert!(shutdown.time_left() > Some(Duration::from_secs(3000)));
        kill("INT");
        timeout(DEADLINE, shutdown.stopping()).await.unwrap();
        assert_eq!(shutdown.time_left(), Some(Duration::ZERO));
    }

    fn kill(signal: &str) {
        let done = Command::new("kill").args(["-s", signal, &process::id().to_string()]).status().unwrap();
        assert!(done.success());
    }
}
