//! One call in several places: branches that exchange messages, each with clients of its own.

use std::time::Duration;

use trunkline_relay_proto::event::{EndReason, Mute, Notice, Pin, Request, SourceName};
use trunkline_relay_proto::exchange::{Branch, Message};
use trunkline_relay_proto::media::{Rid, Section};

use crate::client::{Got, Sent, World, usual};

/// Time between two looks at what branches have for each other.
const STEP: Duration = Duration::from_millis(5);

/// Branches of one call. A client is named by its branch and its number there.
pub(crate) struct Branched {
    pub(crate) worlds: Vec<World>,
    /// Messages that passed, media not among them.
    pub(crate) messages: usize,
}

fn branch(at: usize) -> Branch {
    Branch::new(at).expect("few")
}

impl Branched {
    pub(crate) fn new(count: usize) -> Self {
        let mut branched = Self { worlds: Vec::new(), messages: 0 };
        (0..count).for_each(|_| branched.grow());
        branched
    }

    /// One branch more.
    fn grow(&mut self) {
        let at = self.worlds.len();
        let mut world = World::seeded(10, 7 + at as u64);
        let now = self.worlds.first().map_or(world.now, |first| first.now).max(world.now);
        world.now = now;
        for (other, known) in self.worlds.iter_mut().enumerate() {
            known.now = now;
            world.call.attach(now, branch(other));
            known.call.attach(now, branch(at));
        }
        self.worlds.push(world);
        self.exchange();
    }

    /// Hands over all that branches have for each other, until there is nothing more.
    pub(crate) fn exchange(&mut self) {
        loop {
            let mut all = Vec::new();
            for (from, world) in self.worlds.iter_mut().enumerate() {
                while let Some(export) = world.call.poll_export() {
                    self.messages += usize::from(!matches!(export.message, Message::Media(_)));
                    all.push((from, export));
                }
            }
            if all.is_empty() {
                return;
            }
            for (from, export) in all {
                for (to, world) in self.worlds.iter_mut().enumerate() {
                    if export.to.contains(branch(to)) {
                        assert_ne!(from, to, "nobody tells itself");
                        world.call.import(world.now, branch(from), export.message.clone());
                        world.settle();
                    }
                }
            }
        }
    }

    pub(crate) fn pass(&mut self, duration: Duration) {
        let mut left = duration;
        while left > Duration::ZERO {
            let step = left.min(STEP);
            left -= step;
            self.worlds.iter_mut().for_each(|world| world.pass(step));
            self.exchange();
        }
    }

    pub(crate) fn join(&mut self, at: usize, name: &'static str, base: u32) -> usize {
        self.join_with(at, name, usual(base))
    }

    pub(crate) fn join_with(&mut self, at: usize, name: &'static str, sections: Vec<Section>) -> usize {
        let client = self.worlds[at].join(name, sections);
        let id = self.worlds[at].clients[client].id;
        // As when its events connection begins.
        self.worlds[at].call.resend_state(id);
        self.worlds[at].settle();
        let now = self.worlds.iter().map(|world| world.now).max().expect("one at least");
        for world in &mut self.worlds {
            let behind = now.saturating_duration_since(world.now);
            world.pass(behind);
        }
        self.exchange();
        client
    }

    pub(crate) fn media(&mut self, (at, client): (usize, usize), packet: &Sent<'_>) {
        self.worlds[at].media(client, packet);
        self.exchange();
    }

    pub(crate) fn got(&self, (at, client): (usize, usize), mid: &str) -> Vec<Got> {
        let got = self.worlds[at].clients[client].got.iter();
        got.filter(|got| got.mid == mid && !got.rtx).cloned().collect()
    }

    fn payloads(&self, client: (usize, usize), mid: &str) -> Vec<String> {
        let got = self.got(client, mid);
        got.iter().map(|got| String::from_utf8_lossy(&got.payload).into_owned()).collect()
    }

    fn requests(&self, (at, client): (usize, usize)) -> usize {
        self.worlds[at].clients[client].key_frame_requests
    }

    fn shown(&self, (at, client): (usize, usize), mid: &str) -> Option<String> {
        self.worlds[at].clients[client].slot_owner(mid)
    }

    /// Names in a client's roster now.
    fn roster(&self, (at, client): (usize, usize)) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for notice in &self.worlds[at].clients[client].events {
            if let Notice::Roster { participants, left, .. } = notice {
                for entry in participants {
                    if !names.iter().any(|name| **name == *entry.participant) {
                        names.push(entry.participant.to_string());
                    }
                }
                names.retain(|name| !left.iter().any(|left| **left == **name));
            }
        }
        names.sort();
        names
    }

    fn pin(&mut self, (at, client): (usize, usize), slot: &str, whom: &str) {
        let pin = Pin { slot: slot.into(), participant: Some(whom.into()), source: None, height: None };
        let world = &mut self.worlds[at];
        let id = world.clients[client].id;
        world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
        world.settle();
        self.exchange();
    }

    /// A picture of a camera, in one packet.
    fn picture(&mut self, client: (usize, usize), number: u16, key: bool, text: &str) {
        let sent = Sent::video(u32::from(number) * 3000, text.as_bytes()).frame(number, key);
        self.media(client, &sent);
    }

    fn counters(&self, at: usize) -> trunkline_relay_proto::counters::Counters {
        self.worlds[at].call.counters()
    }
}

#[test]
fn everybody_sees_everybody_on_every_branch() {
    let mut call = Branched::new(3);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (1, call.join(1, "bob", 2000));
    let eve = (2, call.join(2, "eve", 3000));
    for (client, name) in [(ann, "ann"), (bob, "bob"), (eve, "eve")] {
        call.picture(client, 0, true, &format!("{name} 0"));
    }
    call.pass(Duration::from_millis(500));
    for number in 1..5 {
        for (client, name) in [(ann, "ann"), (bob, "bob"), (eve, "eve")] {
            call.picture(client, number, number == 1, &format!("{name} {number}"));
        }
        call.pass(Duration::from_millis(33));
    }
    for (client, others) in [(ann, ["bob", "eve"]), (bob, ["ann", "eve"]), (eve, ["ann", "bob"])] {
        let mut shown: Vec<_> = ["v0", "v1"].into_iter().filter_map(|mid| call.shown(client, mid)).collect();
        shown.sort();
        assert_eq!(shown, others);
        for mid in ["v0", "v1"] {
            let whose = call.shown(client, mid).expect("is shown");
            let got = call.got(client, mid);
            let last: Vec<String> = call
                .payloads(client, mid)
                .into_iter()
                .rev()
                .take(4)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            assert_eq!(last, (1..5).map(|number| format!("{whose} {number}")).collect::<Vec<_>>());
            assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1), "no hole");
        }
        assert_eq!(call.roster(client), ["ann", "bob", "eve"]);
    }
    assert!(call.worlds.iter().all(|world| (world.call.people(), world.call.participants()) == (3, 1)));
}

#[test]
fn who_speaks_is_heard_everywhere_and_named_everywhere() {
    let mut call = Branched::new(3);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (1, call.join(1, "bob", 2000));
    let eve = (2, call.join(2, "eve", 3000));
    for packet in 0..50_u32 {
        call.media(ann, &Sent::audio(packet * 960, 20));
        call.media(bob, &Sent::audio(packet * 960, 127));
        call.pass(Duration::from_millis(20));
    }
    for listener in [bob, eve] {
        let heard = call.got(listener, "a0");
        // What came before the first two ticks is not.
        assert!(heard.len() > 42, "{} of 50", heard.len());
        assert!(heard.windows(2).all(|two| two[1].index == two[0].index + 1));
        let speakers =
            call.worlds[listener.0].clients[listener.1].events.iter().rev().find_map(|notice| match notice {
                Notice::Speakers { speakers } => Some(speakers.clone()),
                _ => None,
            });
        assert_eq!(
            speakers.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>()),
            Some(vec!["ann".to_owned()])
        );
    }
    assert!(call.got(ann, "a0").is_empty(), "bob is silent, and silence is not handed over");
}

#[test]
fn what_is_lost_on_the_way_to_a_client_is_sent_again_by_its_own_branch() {
    let mut call = Branched::new(2);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (1, call.join(1, "bob", 2000));
    call.picture(ann, 0, true, "0");
    call.pass(Duration::from_millis(200));
    for number in 1..6 {
        call.picture(ann, number, number == 1, &number.to_string());
        call.pass(Duration::from_millis(33));
    }
    let got = call.got(bob, "v0");
    let lost = got.iter().find(|got| got.payload == b"3").expect("it was sent").index;
    let ssrc = call.worlds[1].clients[bob.1].ssrc("v0");
    let sequence = u16::try_from(lost & 0xffff).expect("masked");
    call.worlds[1].feedback(bob.1, |writer| {
        writer.receiver_report(1, &[]);
        writer.nack(1, ssrc, [sequence]);
    });
    call.pass(Duration::from_millis(50));
    let again: Vec<_> = call.worlds[1].clients[bob.1].got.iter().filter(|got| got.rtx).collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].payload, [&sequence.to_be_bytes()[..], b"3"].concat());
    assert!(call.worlds[0].clients[ann.1].nacks.is_empty(), "its sender is not asked");
}

#[test]
fn what_is_lost_on_the_way_from_a_client_is_asked_of_it_once_and_reaches_every_branch() {
    let mut call = Branched::new(3);
    let ann = (0, call.join(0, "ann", 1000));
    let viewers = [(1, call.join(1, "bob", 2000)), (2, call.join(2, "eve", 3000))];
    call.picture(ann, 0, true, "0");
    call.pass(Duration::from_millis(200));
    call.media(ann, &Sent::video(3000, b"1").frame(1, true).at(60_001));
    call.media(ann, &Sent::video(9000, b"3").frame(3, false).at(60_003));
    call.pass(Duration::from_millis(20));
    assert_eq!(call.worlds[0].clients[ann.1].nacks.len(), 1);
    call.media(ann, &Sent::video(6000, b"2").frame(2, false).at(60_002));
    call.pass(Duration::from_millis(50));
    for viewer in viewers {
        let mut got = call.got(viewer, "v0");
        got.sort_by_key(|got| got.index);
        let payloads: Vec<_> = got.iter().map(|got| got.payload.clone()).collect();
        assert!(payloads.ends_with(&[b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]), "{payloads:?}");
        assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1));
    }
}

#[test]
fn many_who_need_a_key_frame_on_every_branch_cost_its_sender_one() {
    let mut call = Branched::new(3);
    let ann = (0, call.join(0, "ann", 1000));
    let viewers: Vec<(usize, usize)> = [(0, "a"), (0, "b"), (1, "c"), (1, "d"), (2, "e"), (2, "f")]
        .into_iter()
        .zip(2..)
        .map(|((at, name), base)| (at, call.join(at, name, base * 1000)))
        .collect();
    call.picture(ann, 0, true, "0");
    call.pass(Duration::from_secs(1));
    call.picture(ann, 1, true, "1");
    call.pass(Duration::from_secs(1));
    let before = call.requests(ann);
    for (at, client) in viewers {
        let ssrc = call.worlds[at].clients[client].ssrc("v0");
        call.worlds[at].feedback(client, |writer| {
            writer.receiver_report(1, &[]);
            writer.pli(1, ssrc);
        });
        call.exchange();
    }
    call.pass(Duration::from_millis(250));
    assert_eq!(call.requests(ann) - before, 1);
    call.picture(ann, 2, true, "2");
    call.pass(Duration::from_secs(3));
    assert_eq!(call.requests(ann) - before, 1, "it was answered");
}

#[test]
fn a_branch_that_begins_to_show_somebody_has_a_picture_without_asking_for_one() {
    let mut call = Branched::new(1);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (0, call.join(0, "bob", 2000));
    for number in 0..6 {
        call.picture(ann, number, number == 2, &number.to_string());
        call.pass(Duration::from_millis(33));
    }
    assert_eq!(call.payloads(bob, "v0"), ["2", "3", "4", "5"]);
    call.pass(Duration::from_secs(1));
    call.picture(ann, 6, false, "6");
    let before = call.requests(ann);
    call.grow();
    let eve = (1, call.join(1, "eve", 3000));
    call.pass(Duration::from_millis(300));
    call.picture(ann, 7, false, "7");
    call.pass(Duration::from_millis(300));
    assert_eq!(call.payloads(eve, "v0"), ["2", "3", "4", "5", "6", "7"]);
    assert_eq!(call.requests(ann), before);
    assert_eq!(call.roster(eve), ["ann", "bob", "eve"]);
}

#[test]
fn what_no_other_branch_shows_is_not_handed_over() {
    let mut call = Branched::new(2);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (0, call.join(0, "bob", 2000));
    let eve = (1, call.join(1, "eve", 3000));
    for client in [ann, bob] {
        call.picture(client, 0, true, "x");
    }
    call.pass(Duration::from_millis(200));
    call.pin(eve, "v0", "ann");
    call.pin(eve, "v1", "ann");
    call.pass(Duration::from_millis(200));
    let before = (call.counters(0).shared_out, call.counters(1).shared_in);
    for number in 1..11 {
        call.picture(bob, number, true, "y");
        call.pass(Duration::from_millis(33));
    }
    assert_eq!((call.counters(0).shared_out, call.counters(1).shared_in), before);
    call.picture(ann, 1, true, "z");
    assert_eq!(call.counters(1).shared_in, before.1 + 1);
    // Whom eve sends to does not matter to who sees eve.
    call.picture(eve, 0, true, "e");
    call.pass(Duration::from_millis(200));
    call.picture(eve, 1, true, "e");
    assert!(
        call.payloads(bob, "v1").contains(&"e".to_owned())
            || call.payloads(bob, "v0").contains(&"e".to_owned())
    );
}

#[test]
fn a_call_in_one_place_hands_nothing_over() {
    let mut call = Branched::new(1);
    let ann = (0, call.join(0, "ann", 1000));
    let _ = call.join(0, "bob", 2000);
    for number in 0..10 {
        call.picture(ann, number, number == 0, "x");
        call.media(ann, &Sent::audio(u32::from(number) * 960, 20));
        call.pass(Duration::from_millis(20));
    }
    assert_eq!((call.messages, call.counters(0).shared_out), (0, 0));
}

#[test]
fn who_leaves_one_branch_is_gone_from_all_and_who_mutes_is_muted_on_all() {
    let mut call = Branched::new(2);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (1, call.join(1, "bob", 2000));
    call.picture(ann, 0, true, "0");
    call.pass(Duration::from_millis(100));
    assert_eq!(call.shown(bob, "v0").as_deref(), Some("ann"));
    let mute = |call: &mut Branched, muted| {
        let world = &mut call.worlds[0];
        let request = Request::Mute(Mute { source: SourceName::Camera, muted });
        world.call.request(world.now, world.clients[ann.1].id, request).expect("can be done");
        world.settle();
        call.exchange();
    };
    mute(&mut call, true);
    assert_eq!(call.shown(bob, "v0"), None);
    let muted = call.worlds[1].clients[bob.1].events.iter().rev().find_map(|notice| match notice {
        Notice::Roster { participants, .. } => {
            participants.iter().find(|p| &*p.participant == "ann").cloned()
        }
        _ => None,
    });
    assert!(muted.expect("it is told").sources.iter().any(|s| s.source == SourceName::Camera && s.muted));
    mute(&mut call, false);
    assert_eq!(call.shown(bob, "v0").as_deref(), Some("ann"));
    let world = &mut call.worlds[0];
    world.call.leave(world.now, world.clients[ann.1].id, EndReason::Left);
    world.settle();
    call.exchange();
    assert_eq!(call.shown(bob, "v0"), None);
    assert_eq!(call.roster(bob), ["bob"]);
    assert!(call.worlds.iter().all(|world| world.call.people() == 1));
}

#[test]
fn somebody_who_joins_again_on_another_branch_is_there_once() {
    let mut call = Branched::new(2);
    let first = (0, call.join(0, "ann", 1000));
    let bob = (0, call.join(0, "bob", 2000));
    let again = (1, call.join(1, "ann", 3000));
    let ended = |call: &Branched, (at, client): (usize, usize)| {
        let events = &call.worlds[at].clients[client].events;
        events.iter().find_map(|notice| match notice {
            Notice::Ended { reason } => Some(*reason),
            _ => None,
        })
    };
    assert_eq!(ended(&call, first), Some(EndReason::Replaced));
    assert_eq!(ended(&call, again), None);
    assert_eq!(call.roster(bob), ["ann", "bob"]);
    let left = call.worlds[0].clients[bob.1]
        .events
        .iter()
        .any(|notice| matches!(notice, Notice::Roster { left, .. } if !left.is_empty()));
    assert!(!left, "nobody is told that ann left");
    assert!(call.worlds.iter().all(|world| world.call.people() == 2));
}

#[test]
fn what_a_branch_that_is_gone_showed_is_gone_too() {
    let mut call = Branched::new(2);
    let ann = (0, call.join(0, "ann", 1000));
    let bob = (1, call.join(1, "bob", 2000));
    call.picture(bob, 0, true, "0");
    call.picture(ann, 0, true, "0");
    call.pass(Duration::from_millis(100));
    assert_eq!(call.shown(ann, "v0").as_deref(), Some("bob"));
    let world = &mut call.worlds[0];
    world.call.detach(world.now, branch(1));
    world.settle();
    assert_eq!(call.shown(ann, "v0"), None);
    assert_eq!(call.roster(ann), ["ann"]);
    assert_eq!(call.worlds[0].call.people(), 1);
    let shared = call.counters(0).shared_out;
    call.picture(ann, 1, true, "1");
    assert_eq!(call.counters(0).shared_out, shared, "it wants nothing any more");
}

#[test]
fn those_who_joined_are_ordered_over_all_branches() {
    let mut call = Branched::new(2);
    for (at, name, base) in [(0, "ann", 1000), (1, "bob", 2000), (0, "cid", 3000), (1, "dan", 4000)] {
        call.join(at, name, base);
    }
    let now = call.worlds[0].now;
    let mut snapshot = call.worlds[1].call.snapshot(now);
    snapshot.merge(call.worlds[0].call.snapshot(now));
    let names: Vec<_> = snapshot.participants.iter().map(|p| p.participant.to_string()).collect();
    assert_eq!(names, ["ann", "bob", "cid", "dan"]);
}

#[test]
fn of_simulcast_only_what_a_branch_shows_is_handed_over_and_its_sender_is_told_what_all_branches_want() {
    let mut call = Branched::new(2);
    let mut sections = usual(1000);
    let send = sections[1].send.as_mut().expect("the camera");
    send.rids = ["q", "h", "f"].into_iter().filter_map(Rid::new).collect();
    send.ssrcs.clear();
    let ann = (0, call.worlds[0].join("ann", sections));
    let bob = (1, call.join(1, "bob", 2000));
    let number = std::cell::Cell::new(0_u16);
    let send = |call: &mut Branched, key: bool| {
        number.set(number.get() + 1);
        for (rid, ssrc) in [("q", 5001), ("h", 5002), ("f", 5003)] {
            let sent = Sent::video(u32::from(number.get()) * 3000, rid.as_bytes());
            call.media(ann, &sent.frame(number.get(), key).encoding(rid, ssrc));
        }
        call.pass(Duration::from_millis(33));
    };
    let height = |call: &mut Branched, height| {
        let pin =
            Pin { slot: "v0".into(), participant: Some("ann".into()), source: None, height: Some(height) };
        let world = &mut call.worlds[1];
        let id = world.clients[bob.1].id;
        world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
        world.settle();
        call.pass(Duration::from_millis(300));
    };
    let wanted = |call: &Branched| {
        call.worlds[0].clients[ann.1].events.iter().rev().find_map(|notice| match notice {
            Notice::Layers { sources } => {
                let encodings = sources.first()?.encodings.iter();
                Some(encodings.filter(|e| e.wanted).map(|e| e.rid.clone()).collect::<Vec<_>>())
            }
            _ => None,
        })
    };
    (0..10).for_each(|_| send(&mut call, true));
    height(&mut call, 180);
    (0..150).for_each(|at| send(&mut call, at % 10 == 0));
    assert_eq!(call.payloads(bob, "v0").last().map(String::as_str), Some("q"));
    let before = call.counters(1).shared_in;
    (0..3).for_each(|_| send(&mut call, false));
    assert_eq!(call.counters(1).shared_in, before + 3, "one encoding of three");
    assert_eq!(wanted(&call), Some(vec!["q".to_owned()]));
    height(&mut call, 720);
    (0..10).for_each(|at| send(&mut call, at == 5));
    assert_eq!(call.payloads(bob, "v0").last().map(String::as_str), Some("f"));
    let now = wanted(&call).expect("it is told");
    assert!(now.contains(&"f".to_owned()), "{now:?}");
    let got = call.got(bob, "v0");
    assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1), "no hole");
}
