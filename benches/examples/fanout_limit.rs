//! The limit of the relay's job on this machine, for the traffic it is held against. Arguments:
//! `[receivers] [repetitions]`.

#![allow(clippy::print_stdout, reason = "it is run to be read")]

use trunkline_benches::fanout::{Plan, measure};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (receivers, repetitions) = (number(99), number(9));
    let video = Plan::video(8, receivers);
    let (single, audio) = (Plan { rounds: 1000, ..Plan::video(1, receivers) }, Plan::audio(receivers));
    let plans = [
        ("video 1200 B, bursts of 8 in trains", video),
        ("the same, receivers take trains whole", Plan { receivers_take_trains: true, ..video }),
        ("the same, receivers sleep", Plan { receivers_sleep: true, ..video }),
        ("video 1200 B, bursts of 8, single datagrams", Plan { trains: false, ..video }),
        ("video 1200 B, one at a time", single),
        ("audio 160 B, one at a time", audio),
        ("the same, receivers sleep", Plan { receivers_sleep: true, ..audio }),
    ];
    println!("{receivers} receivers, median of {repetitions} runs, CPU time per forwarded packet");
    for (name, plan) in plans {
        let limit = measure(plan, repetitions)?;
        let (sent, arrived) =
            limit.samples.iter().fold((0, 0), |(s, a), sample| (s + sample.sent, a + sample.arrived));
        let least = limit.samples.iter().map(|sample| sample.ns_per_packet).fold(f64::MAX, f64::min);
        println!(
            "{name:<50} {:>6.0} ns (least {least:.0}), {arrived} of {sent} arrived",
            limit.ns_per_packet
        );
    }
    Ok(())
}
