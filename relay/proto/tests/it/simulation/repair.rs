//! How much of what is lost comes again, in both directions.

use std::time::Duration;

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Content, Kind};
use trunkline_testkit::rng::Rng;

use super::world::{Weather, World};
use super::{CLIENT, RELAY, STEP};

/// Share of a camera's packets that reaches its receivers in time to be of use.
fn repaired(seed: u64, loss: f64) -> f64 {
    let mut world = World::new(seed, 1, RELAY.clone(), CLIENT.clone());
    let join = |world: &mut World, name: &str| {
        let path = world.new_path();
        let joined = world.join(0, name, Role::Presenter, path, |dialect, base| {
            let camera =
                (name == "ann").then(|| dialect.section("cam", Kind::Video, Some(Content::Main), base));
            camera.into_iter().chain([dialect.section("v0", Kind::Video, None, base + 10)]).collect()
        });
        joined.expect("room for all")
    };
    let ann = join(&mut world, "ann");
    // One who understands all that anybody sends.
    let codecs = world.peers[ann].dialect.codecs.clone();
    let mut receivers = Vec::new();
    while receivers.len() < 4 {
        let name = format!("r{}", world.peers.len());
        let index = join(&mut world, &name);
        if world.peers[index].dialect.codecs.contains(&codecs[0]) {
            receivers.push(index);
        } else {
            world.leave(index, false);
        }
    }
    world.pass(Duration::from_secs(2), STEP);
    let first = world.peers[ann].tracks[0].count;
    let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(15));
    world.weather = Weather { loss, duplicates: 0.02, delay, jitter };
    world.pass(Duration::from_secs(60), STEP);
    let last = world.peers[ann].tracks[0].count;
    world.pass(Duration::from_secs(2), STEP);
    let sent = f64::from(last - first);
    assert!(sent > 3000.0, "{sent} packets were sent");
    let worst = receivers.into_iter().map(|index| {
        let slot = &world.peers[index].slots["v0"];
        let got = slot.received.iter().filter(|label| (first..last).contains(&label.count)).count();
        got as f64 / sent
    });
    worst.fold(1.0, f64::min)
}

#[test]
fn at_least_999_of_1000_video_packets_arrive_over_lossy_networks() {
    for loss in [0.05, 0.1] {
        for seed in 1..4 {
            let share = repaired(Rng::new(seed).next_u64() % 1000, loss);
            assert!(share >= 0.999, "seed {seed}: {share} arrive at a loss of {loss}");
        }
    }
}
