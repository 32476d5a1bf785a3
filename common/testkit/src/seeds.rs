//! Runs one test over many seeds.
//!
//! `TRUNKLINE_SEED=n` runs that seed alone: how to replay a failure. `TRUNKLINE_SEEDS=n` says how many to run.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::rng::Rng;

/// Runs `test` for `count` seeds from 1 on, or for what the environment says.
///
/// # Panics
/// With the test's own panic, after naming the seed on standard error; when a variable holds no number.
#[allow(clippy::print_stderr, reason = "a failing test has to say which seed to replay")]
pub fn run(name: &str, count: u64, mut test: impl FnMut(u64, Rng)) {
    let (first, count) = match (variable("TRUNKLINE_SEED"), variable("TRUNKLINE_SEEDS")) {
        (Some(seed), _) => (seed, 1),
        (None, seeds) => (1, seeds.unwrap_or(count)),
    };
    for seed in first..first.saturating_add(count) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| test(seed, Rng::new(seed)))) {
            eprintln!("{name}: seed {seed} failed; replay it with TRUNKLINE_SEED={seed}");
            resume_unwind(cause);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| unreadable(name, &text)))
}

#[allow(clippy::panic, reason = "only tests call this, and a mistyped seed must not pass for a good run")]
fn unreadable(name: &str, text: &str) -> u64 {
    panic!("{name} is `{text}`: expected a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_seed_stops_the_run_with_the_tests_own_panic() {
        if variable("TRUNKLINE_SEED").or(variable("TRUNKLINE_SEEDS")).is_some() {
            return;
        }
        let mut ran = Vec::new();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            run("three fails", 10, |seed, _| {
                ran.push(seed);
                assert_ne!(seed, 3, "no threes");
            });
        }));
        assert!(failed.is_err());
        assert_eq!(ran, [1, 2, 3]);
    }
}
