//! The scoreboard: calls over lines of all kinds, and how well each of them was used.
//!
//! Every scenario is a whole call in virtual time over the real core: light clients with their keys, cameras whose
//! encodings follow what is wanted of them, lines with queues, losses and competing downloads, and a receiver that
//! plays what can be decoded. It runs with several seeds, and the median of each figure is held against limits.
//!
//! `TRUNKLINE_SCOREBOARD_SEED=n` runs that seed alone, `=n-m` those from one to the other, and each of them is shown; `TRUNKLINE_SCOREBOARD_ONLY=name` the scenarios whose name
//! contains it. With `TRUNKLINE_SCOREBOARD_DIR=…` the table and a plot of each scenario are written there.
//!
//! # Layout
//! - `scenario`: which calls there are, and what they must come up to
//! - `world`: the call, its people, what happens when
//! - `link`, `flow`: lines, and a download on one of them
//! - `camera`: what people send; `player`: what they see and hear
//! - `score`: the figures; `plot`: how they came about

use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use scenario::{Run, Scenario};
use score::Score;

mod camera;
mod flow;
mod link;
mod player;
mod plot;
mod scenario;
mod score;
mod world;

/// Seeds that are run unless the environment says otherwise. More cost time, and say the same.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Which run: scenario and seed, by position.
type Job = (usize, usize);

#[test]
fn every_line_is_used_well() {
    let variable = |name| std::env::var(name).ok();
    let seeds = match variable("TRUNKLINE_SCOREBOARD_SEED") {
        Some(seeds) => {
            let (first, last) = seeds.split_once('-').unwrap_or((&seeds, &seeds));
            (first.parse().expect("a number")..=last.parse().expect("a number")).collect()
        }
        None => SEEDS.to_vec(),
    };
    let only = variable("TRUNKLINE_SCOREBOARD_ONLY").unwrap_or_default();
    let shows_each = variable("TRUNKLINE_SCOREBOARD_SEED").is_some();
    let mut scenarios = Scenario::all();
    scenarios.retain(|scenario| scenario.name.contains(&only));
    let began = Instant::now();
    let runs = run_all(&scenarios, &seeds);
    let (mut table, mut failures) = (String::from(HEADING), Vec::new());
    for (at, scenario) in scenarios.iter().enumerate() {
        let of = runs.iter().filter(|((which, _), _)| *which == at);
        let scores: Vec<Score> = of.map(|(_, run)| run.score).collect();
        let score = Score::median(&scores);
        let missed = scenario.limits.missed(&score);
        if shows_each {
            scores.iter().for_each(|score| eprint!("{}", row(scenario.name, score, true)));
        }
        table.push_str(&row(scenario.name, &score, missed.is_empty()));
        failures.extend(missed.into_iter().map(|what| format!("{}: {what}", scenario.name)));
    }
    eprintln!("{table}");
    eprintln!("{} runs in {:.1} s", runs.len(), began.elapsed().as_secs_f64());
    if let Some(dir) = variable("TRUNKLINE_SCOREBOARD_DIR") {
        write_all(Path::new(&dir), &table, &scenarios, &runs);
    }
    assert!(failures.is_empty(), "worse than the limits:\n{}", failures.join("\n"));
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let all = Scenario::all();
    let scenario = all.iter().find(|scenario| scenario.name == "loss-20").expect("it is there");
    let scenario = Scenario { seconds: 12, ..scenario.clone() };
    let bits = |run: Run| run.samples.iter().map(|sample| sample.bits).collect::<Vec<_>>();
    assert_eq!(bits(scenario.run(1)), bits(scenario.run(1)));
}

/// Runs all scenarios with all seeds, on two threads: what the tests beside leave is shared.
fn run_all(scenarios: &[Scenario], seeds: &[u64]) -> Vec<(Job, Run)> {
    let jobs: Vec<Job> =
        (0..scenarios.len()).flat_map(|at| (0..seeds.len()).map(move |seed| (at, seed))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let run = scenarios[job.0].run(seeds[job.1]);
                    done.lock().expect("whole").push((job, run));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("whole");
    done.sort_by_key(|(job, _)| *job);
    done
}

const HEADING: &str = "\
| line | first picture (ms) | converged (s) | utilisation | of the line | freezes | longest (ms) | queue p95 (ms) \
| up / down per min | sound heard | recovery (s) | |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";

fn row(name: &str, score: &Score, good: bool) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let time = |value: f64, digits: usize| {
        if value.is_finite() { format!("{value:.digits$}") } else { "never".to_owned() }
    };
    let recovery = if score.recovery_s == 0.0 { String::new() } else { time(score.recovery_s, 1) };
    let mut row = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        row,
        "| {name} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.1} / {:.1} | {:.1} % | {recovery} | {} |",
        time(score.first_picture_ms, 0),
        time(score.converge_s, 1),
        percent(score.utilisation),
        percent(score.of_line),
        score.freezes,
        score.freeze_ms,
        score.queue_p95_ms,
        score.ups,
        score.downs,
        score.heard * 100.0,
        if good { "" } else { "missed" },
    );
    row
}

/// The table, and a plot of each scenario's first run.
fn write_all(dir: &Path, table: &str, scenarios: &[Scenario], runs: &[(Job, Run)]) {
    std::fs::create_dir_all(dir).expect("a directory");
    std::fs::write(dir.join("scoreboard.md"), table).expect("the table is written");
    for ((at, _), run) in runs.iter().filter(|((_, seed), _)| *seed == 0) {
        let name = scenarios[*at].name;
        std::fs::write(dir.join(format!("{name}.svg")), plot::draw(name, &run.samples))
            .expect("a plot is written");
    }
}
