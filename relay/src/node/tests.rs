//! A node with real workers and sockets on loopback, and people who only join: media is for the tests with clients.

use std::net::UdpSocket;

use trunkline_relay_proto::event::{Pin, Request, Role};

use super::*;
use crate::worker::EVENTS_MAX;

mod branches;

/// An offer that sends a microphone and a camera.
const OFFER: &str = include_str!("../../tests/data/offers/chromium_plain.sdp");

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A section of the offer in which pictures are received.
const SLOT: &str = "5";

fn config() -> NodeConfig {
    NodeConfig {
        advertise: vec![[127, 0, 0, 1].into()],
        udp_ports: 20_000..=29_999,
        workers: 2,
        ..NodeConfig::default()
    }
}

fn start(config: NodeConfig) -> (Node, mpsc::Receiver<CallEvent>) {
    Node::start(config).expect("a node on loopback")
}

fn create(node: &Node) -> (CallId, CallInfo) {
    let info = node.create(CreateCall::default()).expect("room for a call");
    (info.call_id.parse().expect("its own id"), info)
}

async fn join(node: &Node, call: &CallId, name: &str) -> Joined {
    node.join(call, name, Role::Presenter, OFFER).await.expect("joins")
}

/// Looks again and again until something is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let look = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("it becomes so");
}

async fn next(records: &mut mpsc::Receiver<CallEvent>) -> CallEvent {
    tokio::time::timeout(PATIENCE, records.recv()).await.expect("in time").expect("the node lives")
}

/// The next event's name.
async fn event(events: &mut EventStream) -> Option<String> {
    let text = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time")?;
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["event"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_call_is_created_listed_and_ended() {
    let (node, mut records) = start(config());
    let (call, info) = create(&node);
    assert_eq!(call.node(), 1);
    assert!(info.calluri.starts_with("127.0.0.1:2"), "{}", info.calluri);
    assert_eq!((info.calluriipv6.as_ref(), info.max_participants), (None, 100));
    assert!(node.has(&call) && node.list().len() == 1);
    assert!(matches!(next(&mut records).await, CallEvent::Started { .. }));
    join(&node, &call, "ann").await;
    join(&node, &call, "ben").await;
    let live = node.snapshot(&call).await.expect("it is there").live;
    assert_eq!(live.participants.iter().map(|p| &*p.participant).collect::<Vec<_>>(), ["ann", "ben"]);
    node.end(&call, EndReason::CallEnded).expect("it is there");
    let CallEvent::Ended { info, participants, reason, .. } = next(&mut records).await else {
        panic!("a call ends once")
    };
    assert_eq!((info.call_id.as_str(), reason), (call.as_str(), EndReason::CallEnded));
    assert_eq!(participants.iter().map(|name| &**name).collect::<Vec<_>>(), ["ann", "ben"]);
    assert!(!node.has(&call) && node.list().is_empty());
    assert!(matches!(node.end(&call, EndReason::CallEnded), Err(NodeError::NoSuchCall)));
    let late = node.join(&call, "cid", Role::Presenter, OFFER).await;
    assert!(matches!(late, Err(NodeError::NoSuchCall)));
    node.shutdown();
}

#[tokio::test]
async fn calls_are_spread_over_workers() {
    let (node, _records) = start(config());
    for _ in 0..4 {
        create(&node);
    }
    until(async || node.load().iter().all(|load| load.calls == 2)).await;
    node.shutdown();
}

#[tokio::test]
async fn without_a_free_port_there_is_no_further_call() {
    let port = Socket::bind(0, None).expect("a port").port();
    let (node, mut records) = start(NodeConfig { udp_ports: port..=port, ..config() });
    let (call, _) = create(&node);
    let refused = node.create(CreateCall::default()).expect_err("one port, one call");
    assert!(matches!(refused, NodeError::Ports(_)), "{refused}");
    node.end(&call, EndReason::CallEnded).expect("it is there");
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    // The port is closed, and rests before another call gets it.
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
    assert!(matches!(node.create(CreateCall::default()), Err(NodeError::Ports(_))));
    node.shutdown();
}

#[tokio::test]
async fn calls_and_people_beyond_the_limits_are_refused() {
    let (node, _records) = start(NodeConfig { calls_max: 1, ..config() });
    let wanted = CreateCall { participants_max: Some(1), ..CreateCall::default() };
    let info = node.create(wanted).expect("room for a call");
    assert!(matches!(node.create(CreateCall::default()), Err(NodeError::TooManyCalls)));
    let call: CallId = info.call_id.parse().expect("its own id");
    let first = join(&node, &call, "ann").await;
    let full = node.join(&call, "ben", Role::Presenter, OFFER).await.expect_err("one place");
    assert!(matches!(full, NodeError::Join(_)), "{full}");
    // Whoever joins anew takes the place of their former self.
    let again = join(&node, &call, "ann").await;
    until(async || node.find(&first.session).is_err()).await;
    assert_eq!(&*node.find(&again.session).expect("it is there").participant, "ann");
    node.shutdown();
}

#[tokio::test]
async fn garbage_is_counted_and_harms_nobody() {
    let (node, _records) = start(config());
    let (call, info) = create(&node);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for at in 0..200_u32 {
        let garbage: Vec<u8> = (0..at * 7 % 1400).map(|byte| (byte * (at + 31)).to_be_bytes()[2]).collect();
        socket.send_to(&garbage, &info.calluri).expect("sent");
    }
    let dropped = async || {
        let counters = node.snapshot(&call).await.expect("it is there").counters;
        counters.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum::<u64>()
    };
    // Empty datagrams among them are none at all.
    until(async || dropped().await >= 199).await;
    join(&node, &call, "ann").await;
    node.shutdown();
}

#[tokio::test]
async fn events_begin_with_how_things_are_and_end_with_the_session() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    for expected in ["roster", "slots", "speakers", "quality", "layers"] {
        assert_eq!(event(&mut events).await.as_deref(), Some(expected));
    }
    node.leave(&ann.session).expect("it is there");
    assert_eq!(event(&mut events).await.as_deref(), Some("ended"));
    assert_eq!(event(&mut events).await, None);
    until(async || node.find(&ann.session).is_err()).await;
    assert!(matches!(node.events(&ann.session), Err(NodeError::NoSuchSession)));
    assert!(matches!(node.leave(&ann.session), Err(NodeError::NoSuchSession)));
    node.shutdown();
}

#[tokio::test]
async fn who_does_not_read_events_is_cut_off_and_begins_anew() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    for at in 0..EVENTS_MAX + 10 {
        let participant = (at % 2 == 0).then(|| "ben".to_owned());
        let pin = Pin { slot: SLOT.to_owned(), participant, source: None, height: None };
        node.request(&ann.session, Request::Pin(pin)).await.expect("it has such a slot");
    }
    let mut read = 0;
    while event(&mut events).await.is_some() {
        read += 1;
    }
    assert_eq!(read, EVENTS_MAX);
    let mut again = node.events(&ann.session).expect("the session goes on");
    let first = tokio::time::timeout(PATIENCE, again.next()).await.expect("in time").expect("an event");
    assert!(first.contains(r#""complete":true"#), "{first}");
    node.shutdown();
}

#[tokio::test]
async fn more_commands_than_one_turn_takes_are_all_carried_out() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let many: Vec<_> = (0..300)
        .map(|_| {
            let (node, call) = (node.clone(), call.clone());
            tokio::spawn(async move { node.snapshot(&call).await.is_ok() })
        })
        .collect();
    for one in many {
        assert!(one.await.expect("no panic"));
    }
    node.shutdown();
}

#[tokio::test]
async fn an_ice_restart_needs_the_credentials_known_and_gives_new_ones() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let fragment = "a=ice-ufrag:other\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n";
    let stale = node.fragment(&ann.session, Some("\"another\""), fragment).await;
    assert!(matches!(stale, Err(NodeError::Precondition)));
    let restarted = node.fragment(&ann.session, Some(&ann.etag), fragment).await.expect("restarts");
    let (text, etag) = restarted.expect("is answered");
    assert_ne!(etag, ann.etag);
    assert!(text.contains("a=ice-ufrag:"), "{text}");
    // The same again is a trickle without news.
    assert!(node.fragment(&ann.session, Some(&etag), fragment).await.expect("is fine").is_none());
    node.shutdown();
}

#[tokio::test]
async fn an_offer_repeated_is_answered_with_the_same_credentials() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let (answer, etag) = node.update(&ann.session, OFFER).await.expect("nothing changed");
    assert_eq!(etag, ann.etag);
    let ufrag = |text: &str| text.lines().find(|line| line.starts_with("a=ice-ufrag:")).map(str::to_owned);
    assert_eq!(ufrag(&answer), ufrag(&ann.answer));
    node.shutdown();
}

#[tokio::test]
async fn a_drain_takes_nobody_new_ends_at_its_deadline_and_can_be_undone() {
    let (node, mut records) = start(config());
    let (call, _) = create(&node);
    node.drain(None);
    assert!(matches!(node.create(CreateCall::default()), Err(NodeError::Draining)));
    let late = node.join(&call, "ann", Role::Presenter, OFFER).await;
    assert!(matches!(late, Err(NodeError::Draining)));
    node.undrain();
    join(&node, &call, "ann").await;
    node.drain(Some(Duration::ZERO));
    assert!(matches!(next(&mut records).await, CallEvent::Started { .. }));
    let CallEvent::Ended { reason, .. } = next(&mut records).await else { panic!("a call ends once") };
    assert_eq!(reason, EndReason::Drained);
    node.shutdown();
}

#[tokio::test]
async fn a_call_that_nobody_joins_or_everybody_left_ends() {
    let short = Duration::from_millis(1);
    let (node, mut records) =
        start(NodeConfig { never_joined_timeout: short, all_left_timeout: short, ..config() });
    create(&node);
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    node.shutdown();
    let (node, mut records) = start(NodeConfig { all_left_timeout: short, ..config() });
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    node.leave(&ann.session).expect("it is there");
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    node.shutdown();
}

#[tokio::test]
async fn shutting_down_tells_everybody() {
    let (node, mut records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.shutdown();
    let mut last = None;
    while let Some(event) = event(&mut events).await {
        last = Some(event);
    }
    assert_eq!(last.as_deref(), Some("ended"));
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    assert!(matches!(node.create(CreateCall::default()), Err(NodeError::Worker)));
}

fn restarted(call: &CallId) -> CallId {
    let settings = CallSettings { created_s: 1_000_000_000, ..call.settings() };
    CallId::new(call.node(), settings)
}

fn admits(node: &Node, call: &CallId, asked: Asked) -> Result<(), NodeError> {
    node.admit(call, asked, 100)
}

#[tokio::test]
async fn a_call_from_before_the_start_is_made_again_at_its_own_node_with_its_settings() {
    let (node, mut records) = start(config());
    let settings = CallSettings {
        mode: Mode::Broadcast,
        force_tcp: false,
        participants_max: 7,
        created_s: 1_000_000_000,
    };
    let call = CallId::new(1, settings);
    admits(&node, &call, Asked::Directly).expect("is made again");
    join(&node, &call, "ann").await;
    let info = node.snapshot(&call).await.expect("it is there").info;
    assert_eq!((info.call_id.as_str(), info.mode), (call.as_str(), Mode::Broadcast));
    assert_eq!((info.max_participants, info.created_at), (7, 1_000_000_000));
    let CallEvent::Started { info, .. } = next(&mut records).await else { panic!("it begins first") };
    assert_eq!(info.call_id, call.as_str());
    // Whoever comes next finds it there.
    admits(&node, &call, Asked::ThroughIngress).expect("it is there");
    assert_eq!(node.list().len(), 1);
    node.shutdown();
}

#[tokio::test]
async fn fewer_people_are_let_in_where_the_node_takes_fewer() {
    let (node, _records) = start(config());
    let call = restarted(&create(&node).0);
    node.admit(&call, Asked::Directly, 3).expect("is made again");
    assert_eq!(node.snapshot(&call).await.expect("it is there").info.max_participants, 3);
    node.shutdown();
}

#[tokio::test]
async fn another_nodes_call_is_made_again_only_when_an_ingress_asks() {
    let (node, _records) = start(config());
    let call = CallId::new(2, create(&node).0.settings());
    for asked in [Asked::Directly, Asked::ThroughIngress] {
        assert!(matches!(admits(&node, &call, asked), Err(NodeError::NoSuchCall)), "{asked:?}");
    }
    admits(&node, &call, Asked::ToRecreate).expect("is made again");
    assert_eq!(node.standing(&call), Standing::Here);
    node.shutdown();
}

#[tokio::test]
async fn behind_an_ingress_a_restarted_node_waits_to_be_asked_because_the_call_may_be_elsewhere() {
    let (node, _records) = start(config());
    let call = restarted(&create(&node).0);
    assert!(matches!(admits(&node, &call, Asked::ThroughIngress), Err(NodeError::NoSuchCall)));
    admits(&node, &call, Asked::ToRecreate).expect("is made again");
    node.shutdown();
}

#[tokio::test]
async fn a_call_that_ended_here_is_never_made_again() {
    let (node, _records) = start(config());
    let (own, _) = create(&node);
    let others = CallId::new(2, own.settings());
    let old = restarted(&own);
    admits(&node, &others, Asked::ToRecreate).expect("is made again");
    admits(&node, &old, Asked::Directly).expect("is made again");
    for call in [&own, &others, &old] {
        node.end(call, EndReason::CallEnded).expect("it is there");
        until(async || !node.has(call)).await;
        for asked in [Asked::Directly, Asked::ThroughIngress, Asked::ToRecreate] {
            assert!(matches!(admits(&node, call, asked), Err(NodeError::NoSuchCall)), "{asked:?}");
        }
        assert_eq!(node.standing(call), Standing::Ended);
    }
    node.shutdown();
}

#[tokio::test]
async fn a_call_is_not_made_again_beyond_the_limit_or_while_draining() {
    let (node, _records) = start(NodeConfig { calls_max: 1, ..config() });
    let call = restarted(&create(&node).0);
    assert!(matches!(admits(&node, &call, Asked::ToRecreate), Err(NodeError::TooManyCalls)));
    node.drain(None);
    assert!(matches!(admits(&node, &call, Asked::ToRecreate), Err(NodeError::Draining)));
    assert_eq!(node.standing(&call), Standing::Unknown);
    node.shutdown();
}

#[tokio::test]
async fn who_is_on_a_call_that_is_handed_over_is_told_and_served_until_they_leave() {
    let (node, mut records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.hand_over(&call).expect("it is there");
    while event(&mut events).await.expect("it is told") != "moved" {}
    let late = node.join(&call, "ben", Role::Presenter, OFFER).await;
    assert!(matches!(late, Err(NodeError::Moved)));
    assert!(matches!(admits(&node, &call, Asked::ToRecreate), Err(NodeError::Moved)));
    // A new events connection hears of it first.
    let mut again = node.events(&ann.session).expect("it is there");
    assert_eq!(event(&mut again).await.as_deref(), Some("moved"));
    assert_eq!(event(&mut again).await.as_deref(), Some("roster"));
    node.leave(&ann.session).expect("it is there");
    // With the last who leaves, it is gone from here, and may come back.
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    assert_eq!(node.standing(&call), Standing::Moved);
    for asked in [Asked::Directly, Asked::ThroughIngress] {
        assert!(matches!(admits(&node, &call, asked), Err(NodeError::Moved)), "{asked:?}");
    }
    admits(&node, &call, Asked::ToRecreate).expect("is made again");
    node.shutdown();
}

#[tokio::test]
async fn a_call_that_is_ended_after_it_was_handed_over_has_ended() {
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.hand_over(&call).expect("it is there");
    node.end(&call, EndReason::CallEnded).expect("it is there");
    while event(&mut events).await.expect("it is told") != "ended" {}
    until(async || node.standing(&call) == Standing::Ended).await;
    node.shutdown();
}

#[tokio::test]
async fn a_drain_behind_an_ingress_hands_calls_over_in_its_first_half_and_undoing_it_keeps_the_rest() {
    tokio::time::pause();
    let (node, _records) = start(NodeConfig { hands_over: true, ..config() });
    let calls: Vec<CallId> = (0..4).map(|_| create(&node).0).collect();
    for call in &calls {
        join(&node, call, "ann").await;
    }
    let moved = || calls.iter().filter(|call| node.standing(call) == Standing::Moved).count();
    let began = Instant::now();
    node.drain(Some(Duration::from_secs(80)));
    // Due at 0, 10, 20 and 30 seconds.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(moved(), 2);
    node.undrain();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((moved(), node.list().len()), (2, 4));
    assert!(began.elapsed() < PATIENCE, "time is virtual");
    for call in calls.iter().filter(|call| node.standing(call) == Standing::Here) {
        join(&node, call, "ben").await;
    }
    node.shutdown();
}

#[tokio::test]
async fn a_drain_without_an_ingress_hands_nothing_over() {
    tokio::time::pause();
    let (node, _records) = start(config());
    let (call, _) = create(&node);
    node.drain(Some(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(node.standing(&call), Standing::Here);
    assert!(matches!(admits(&node, &call, Asked::ToRecreate), Err(NodeError::Draining)));
    node.shutdown();
}

#[tokio::test]
async fn a_draining_node_hands_a_call_over_when_it_is_about_to_be_made_elsewhere() {
    let (node, _records) = start(NodeConfig { hands_over: true, ..config() });
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.drain(None);
    assert!(matches!(admits(&node, &call, Asked::ThroughIngress), Err(NodeError::Draining)));
    assert_eq!(node.standing(&call), Standing::Here);
    assert!(matches!(admits(&node, &call, Asked::ToRecreate), Err(NodeError::Moved)));
    while event(&mut events).await.expect("it is told") != "moved" {}
    node.shutdown();
}

#[tokio::test]
async fn a_node_that_was_taken_for_dead_hands_its_calls_over_once_for_each_time() {
    let (node, _records) = start(NodeConfig { hands_over: true, ..config() });
    let (call, _) = create(&node);
    let now = Instant::now();
    node.presumed_dead(now);
    assert_eq!(node.standing(&call), Standing::Moved);
    // Another ingress says so too, and the call came after.
    let (call, _) = create(&node);
    node.presumed_dead(now + Duration::from_secs(1));
    assert_eq!(node.standing(&call), Standing::Here);
    node.presumed_dead(now + Duration::from_secs(3));
    assert_eq!(node.standing(&call), Standing::Moved);
    node.shutdown();
}

#[tokio::test]
async fn who_was_told_to_join_elsewhere_is_not_told_that_it_is_over() {
    let (node, _records) = start(NodeConfig { hands_over: true, ..config() });
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.hand_over_all();
    node.shutdown();
    let mut told = Vec::new();
    while let Some(event) = event(&mut events).await {
        told.push(event);
    }
    assert_eq!(told.last().map(String::as_str), Some("moved"), "{told:?}");
}

#[tokio::test]
async fn a_drain_without_any_time_still_tells_people_to_join_elsewhere() {
    let (node, mut records) = start(NodeConfig { hands_over: true, ..config() });
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut events = node.events(&ann.session).expect("it is there");
    node.drain(Some(Duration::ZERO));
    let mut told = Vec::new();
    while let Some(event) = event(&mut events).await {
        told.push(event);
    }
    assert_eq!(told.last().map(String::as_str), Some("moved"), "{told:?}");
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    assert_eq!(node.standing(&call), Standing::Moved);
    node.shutdown();
}
