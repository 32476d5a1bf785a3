//! The limits of the relay's and the ingress's jobs on this machine, for the traffic they are held against. Arguments:
//! `[receivers] [repetitions]`.

#![allow(clippy::print_stdout, reason = "it is run to be read")]

use std::io;

use trunkline_benches::fanout::{Fanout, Plan, Sample, median};
use trunkline_benches::forward::Forward;
use trunkline_benches::stream::Streams;

fn main() -> io::Result<()> {
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
        let mut job = Fanout::new(plan)?;
        show(name, repetitions, || job.run())?;
    }
    let sleepy = Plan { receivers_sleep: true, receivers_take_trains: true, ..video };
    for (name, tls) in [("video 1200 B, bursts of 8 over TCP", false), ("the same over TLS", true)] {
        let mut job = Streams::new(sleepy, tls)?;
        show(name, repetitions, || job.run())?;
    }
    let mut job = Forward::new(sleepy)?;
    show("video 1200 B, trains of 8 out of a tunnel", repetitions, || job.run())
}

fn show(name: &str, repetitions: usize, mut run: impl FnMut() -> io::Result<Sample>) -> io::Result<()> {
    let samples = (0..repetitions.max(1)).map(|_| run()).collect::<io::Result<Vec<_>>>()?;
    let (sent, arrived) = samples.iter().fold((0, 0), |(s, a), sample| (s + sample.sent, a + sample.arrived));
    let times: Vec<_> = samples.iter().map(|sample| sample.ns_per_packet).collect();
    let least = times.iter().copied().fold(f64::MAX, f64::min);
    println!("{name:<50} {:>6.0} ns (least {least:.0}), {arrived} of {sent} arrived", median(times));
    Ok(())
}
