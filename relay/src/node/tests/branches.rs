//! Calls larger than one worker.

use super::*;

/// A node whose calls grow onto another worker with the third who joins.
fn spreading() -> NodeConfig {
    NodeConfig { worker_participants: 2, ..config() }
}

/// The port that an answer says media goes to.
fn port(answer: &str) -> u16 {
    let candidate = answer.lines().find(|line| line.starts_with("a=candidate:")).expect("a candidate");
    candidate.split(' ').nth(5).and_then(|port| port.parse().ok()).expect("a port")
}

async fn names(node: &Node, call: &CallId) -> Vec<String> {
    let live = node.snapshot(call).await.expect("it is there").live;
    live.participants.iter().map(|participant| participant.participant.to_string()).collect()
}

/// Reads events until one has a text in it.
async fn told(events: &mut EventStream, what: &str) {
    let read = async {
        while let Some(text) = events.next().await {
            if text.contains(what) {
                return;
            }
        }
        panic!("the stream ended without {what}");
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time");
}

#[tokio::test]
async fn a_large_call_grows_onto_other_workers_and_is_still_one() {
    let (node, mut records) = start(spreading());
    let (call, info) = create(&node);
    let people = ["ann", "ben", "cid", "dan", "eve"];
    let mut ports = Vec::new();
    for name in people {
        ports.push(port(&join(&node, &call, name).await.answer));
        // In the order of all branches, whichever is told first.
        until(async || names(&node, &call).await.contains(&name.to_owned())).await;
    }
    let home = ports[0];
    assert!(info.calluri.ends_with(&format!(":{home}")));
    assert_eq!(ports[1], home);
    assert_ne!(ports[2], home, "a branch has a port of its own");
    until(async || {
        let load = node.load();
        load.iter().map(|load| load.participants).sum::<usize>() == 5
            && load.iter().all(|load| load.participants > 1)
    })
    .await;
    let load = node.load();
    assert_eq!(load.iter().map(|load| load.calls).sum::<usize>(), 1);
    assert_eq!(load.iter().map(|load| load.branches).sum::<usize>(), 1);
    assert_eq!(names(&node, &call).await.len(), 5);
    let list = node.list();
    assert_eq!((list.len(), list[0].participants), (1, 5));
    assert_eq!(node.totals().participants, 5);
    node.end(&call, EndReason::CallEnded).expect("it is there");
    assert!(matches!(next(&mut records).await, CallEvent::Started { .. }));
    let CallEvent::Ended { participants, .. } = next(&mut records).await else { panic!("a call ends once") };
    assert_eq!(participants.iter().map(|name| &**name).collect::<Vec<_>>(), people);
    // All of its ports are closed.
    until(async || ports.iter().all(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok())).await;
    assert_eq!(node.totals().participants, 0);
    node.shutdown();
}

#[tokio::test]
async fn people_on_one_worker_hear_of_those_on_another() {
    let (node, _records) = start(spreading());
    let (call, _) = create(&node);
    let ann = join(&node, &call, "ann").await;
    let mut at_home = node.events(&ann.session).expect("it is there");
    join(&node, &call, "ben").await;
    let cid = join(&node, &call, "cid").await;
    told(&mut at_home, "\"cid\"").await;
    let mut on_branch = node.events(&cid.session).expect("it is there");
    told(&mut on_branch, "\"roster\"").await;
    join(&node, &call, "dan").await;
    told(&mut on_branch, "\"dan\"").await;
    // Whoever comes later finds everybody: by then the branches know each other's people.
    let mut again = node.events(&cid.session).expect("it is there");
    told(&mut again, "\"ann\"").await;
    node.leave(&cid.session).expect("it is there");
    told(&mut at_home, "\"left\":[\"cid\"]").await;
    node.shutdown();
}

#[tokio::test]
async fn a_call_takes_so_many_people_on_all_workers_together() {
    let (node, _records) = start(spreading());
    let wanted = CreateCall { participants_max: Some(3), ..CreateCall::default() };
    let call: CallId = node.create(wanted).expect("room").call_id.parse().expect("its own id");
    let mut joined = Vec::new();
    for name in ["ann", "ben", "cid"] {
        joined.push(join(&node, &call, name).await);
    }
    let full = node.join(&call, "dan", Role::Presenter, OFFER).await.expect_err("three places");
    assert!(matches!(full, NodeError::Join(_)), "{full}");
    // Who is there already may come again, and whose place is free is not waited for.
    let again = join(&node, &call, "cid").await;
    assert_eq!(port(&again.answer), port(&joined[2].answer), "to be replaced where they are");
    until(async || node.find(&joined[2].session).is_err()).await;
    node.leave(&joined[0].session).expect("it is there");
    join(&node, &call, "dan").await;
    until(async || names(&node, &call).await == ["ben", "cid", "dan"]).await;
    node.shutdown();
}

#[tokio::test]
async fn a_call_goes_on_while_anybody_is_on_any_worker_and_ends_when_nobody_is() {
    let short = Duration::from_millis(1);
    let (node, mut records) = start(NodeConfig { all_left_timeout: short, ..spreading() });
    let (call, _) = create(&node);
    let mut joined = Vec::new();
    for name in ["ann", "ben", "cid"] {
        joined.push(join(&node, &call, name).await);
    }
    let mut events = node.events(&joined[0].session).expect("it is there");
    told(&mut events, "\"cid\"").await;
    let mut events = node.events(&joined[2].session).expect("it is there");
    for gone in &joined[..2] {
        node.leave(&gone.session).expect("it is there");
    }
    told(&mut events, "\"left\":[\"ben\"]").await;
    // Workers look once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(names(&node, &call).await, ["cid"]);
    assert_eq!(node.standing(&call), Standing::Here);
    node.leave(&joined[2].session).expect("it is there");
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
    assert_eq!(node.standing(&call), Standing::Ended);
    node.shutdown();
}

#[tokio::test]
async fn everybody_on_every_worker_is_told_that_the_call_moves_and_that_it_is_over() {
    let (node, _records) = start(NodeConfig { hands_over: true, ..spreading() });
    let (call, _) = create(&node);
    let mut streams = Vec::new();
    for name in ["ann", "ben", "cid", "dan"] {
        let joined = join(&node, &call, name).await;
        streams.push(node.events(&joined.session).expect("it is there"));
    }
    node.hand_over(&call).expect("it is there");
    for stream in &mut streams {
        told(stream, "\"moved\"").await;
    }
    node.end(&call, EndReason::CallEnded).expect("it is there");
    for stream in &mut streams {
        told(stream, "\"ended\"").await;
    }
    node.shutdown();
}

#[tokio::test]
async fn without_a_free_port_a_large_call_stays_where_it_is() {
    let port = Socket::bind(0, None).expect("a port").port();
    let (node, _records) = start(NodeConfig { udp_ports: port..=port, ..spreading() });
    let (call, _) = create(&node);
    for name in ["ann", "ben", "cid", "dan"] {
        join(&node, &call, name).await;
    }
    assert_eq!(names(&node, &call).await, ["ann", "ben", "cid", "dan"]);
    assert!(node.load().iter().all(|load| load.branches == 0));
    node.shutdown();
}

#[tokio::test]
async fn behind_an_ingress_a_branch_needs_no_port() {
    let udp = |_| UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let listen = SocketAddr::from(([127, 0, 0, 1], udp(()) & !1));
    let ingress = IngressAccess {
        listen,
        from: vec![[127, 0, 0, 1].into()],
        advertise: vec![[127, 0, 0, 1].into()],
        udp_port: 4000,
        tcp_port: 0,
    };
    let (node, _records) = start(NodeConfig { ingress: Some(ingress), ..spreading() });
    let (call, _) = create(&node);
    for name in ["ann", "ben", "cid"] {
        assert_eq!(port(&join(&node, &call, name).await.answer), 4000);
    }
    until(async || node.load().iter().map(|load| load.branches).sum::<usize>() == 1).await;
    node.shutdown();
}

#[tokio::test]
async fn shutting_down_tells_people_on_every_worker() {
    let (node, mut records) = start(spreading());
    let (call, _) = create(&node);
    let mut streams = Vec::new();
    for name in ["ann", "ben", "cid"] {
        let joined = join(&node, &call, name).await;
        streams.push(node.events(&joined.session).expect("it is there"));
    }
    node.shutdown();
    for stream in &mut streams {
        told(stream, "\"ended\"").await;
    }
    while !matches!(next(&mut records).await, CallEvent::Ended { .. }) {}
}
