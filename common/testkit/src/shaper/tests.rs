use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
/// Long enough for loopback to have delivered what it will deliver.
const SILENCE: Duration = Duration::from_millis(100);

/// A UDP target, a client, and a shaper between them.
async fn datagrams(seed: u64) -> (UdpSocket, UdpSocket, Shaper) {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let shaper = Shaper::start(target.local_addr().unwrap(), seed).unwrap();
    client.connect(shaper.addr()).await.unwrap();
    (target, client, shaper)
}

/// Both ends of a TCP connection, and the shaper between them.
async fn connected(profile: Profile) -> (TcpStream, TcpStream, Shaper) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shaper = Shaper::start(listener.local_addr().unwrap(), 1).unwrap();
    shaper.set(Which::Tcp, profile);
    let mut client = TcpStream::connect(shaper.addr()).await.unwrap();
    let (mut server, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    // The target's system accepts before the shaper knows of it: one byte proves that the path is up.
    server.write_all(b"!").await.unwrap();
    timeout(DEADLINE, client.read_exact(&mut [0; 1])).await.unwrap().unwrap();
    (client, server, shaper)
}

/// Sends numbered datagrams and returns the numbers that arrive, in order of arrival. No more than a socket buffer
/// of ordinary size holds: nobody reads while this sends.
async fn numbers_through(client: &UdpSocket, target: &UdpSocket, count: u32) -> Vec<u32> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 4];
    for number in 0..count {
        client.send(&number.to_be_bytes()).await.unwrap();
    }
    while let Ok(received) = timeout(SILENCE, target.recv(&mut buffer)).await {
        received.unwrap();
        arrived.push(u32::from_be_bytes(buffer));
    }
    arrived
}

/// Whether a new connection fails, at once or when it is used.
async fn is_refused(shaper: &Shaper) -> bool {
    match TcpStream::connect(shaper.addr()).await {
        Ok(mut client) => timeout(DEADLINE, client.read(&mut [0; 1])).await.unwrap().is_err(),
        Err(_) => true,
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let len = timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(len);
    buffer
}

#[tokio::test]
async fn answers_find_the_client_that_asked() {
    let (target, first, shaper) = datagrams(1).await;
    let second = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    second.connect(shaper.addr()).await.unwrap();
    let mut buffer = [0; 16];
    for (client, word) in [(&first, b"first"), (&second, b"secnd")] {
        client.send(word).await.unwrap();
        let (len, from) = timeout(DEADLINE, target.recv_from(&mut buffer)).await.unwrap().unwrap();
        target.send_to(&buffer[..len], from).await.unwrap();
        assert_eq!(receive(client).await, word);
    }
}

#[tokio::test]
async fn datagrams_keep_their_borders_and_empty_ones_arrive() {
    let (target, client, _shaper) = datagrams(1).await;
    for len in [0, 1, 1_200, 1_200, 1_200, 700, 0, 60_000] {
        client.send(&vec![7; len]).await.unwrap();
        assert_eq!(receive(&target).await.len(), len);
    }
}

#[tokio::test]
async fn a_delay_is_never_shorter_than_it_should_be_and_counts_each_way() {
    let (target, client, shaper) = datagrams(1).await;
    shaper.set(Which::ToTarget, Profile::delayed(Duration::from_millis(30)));
    shaper.set(Which::FromTarget, Profile::delayed(Duration::from_millis(20)));
    let started = Instant::now();
    client.send(b"ask").await.unwrap();
    let mut buffer = [0; 16];
    let (_, from) = timeout(DEADLINE, target.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(30));
    target.send_to(b"answer", from).await.unwrap();
    receive(&client).await;
    assert!(started.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_delay_alone_changes_nothing_and_no_order() {
    let (target, client, shaper) = datagrams(1).await;
    shaper.set(Which::All, Profile::delayed(Duration::from_millis(10)));
    assert!(numbers_through(&client, &target, 200).await.into_iter().eq(0..200));
}

#[tokio::test]
async fn loss_follows_the_seed() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let (target, client, shaper) = datagrams(seed).await;
        shaper.change(Which::All, |profile| profile.loss = 0.3);
        let arrived = numbers_through(&client, &target, 200).await;
        let lost = shaper.stats(Protocol::Udp, Direction::ToTarget).lost;
        assert_eq!(arrived.len(), 200 - usize::try_from(lost).unwrap());
        assert!((30..90).contains(&lost), "{lost} of 200 lost");
        runs.push(arrived);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn reordering_and_duplication_lose_nothing() {
    let (target, client, shaper) = datagrams(1).await;
    shaper.change(Which::All, |profile| {
        profile.reorder = 0.2;
        profile.duplicate = 0.2;
    });
    let mut arrived = numbers_through(&client, &target, 200).await;
    assert!(!arrived.is_sorted());
    let stats = shaper.stats(Protocol::Udp, Direction::ToTarget);
    assert_eq!(arrived.len(), 200 + usize::try_from(stats.duplicated).unwrap());
    assert!(stats.duplicated > 0 && stats.reordered > 0);
    arrived.sort_unstable();
    arrived.dedup();
    assert!(arrived.into_iter().eq(0..200));
}

#[tokio::test]
async fn a_bottleneck_holds_back_and_loses_what_does_not_fit() {
    let (target, client, shaper) = datagrams(1).await;
    let rate = Rate { bytes_per_s: 100_000, queue_bytes: 5_000 };
    shaper.change(Which::All, |profile| profile.rate = Some(rate));
    let started = Instant::now();
    for _ in 0..10 {
        client.send(&[0; 1_000]).await.unwrap();
    }
    for _ in 0..5 {
        receive(&target).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(shaper.stats(Protocol::Udp, Direction::ToTarget).lost > 0);
}

#[tokio::test]
async fn a_cut_takes_datagrams_on_their_way_and_can_be_healed() {
    let (target, client, shaper) = datagrams(1).await;
    shaper.set(Which::Udp, Profile::delayed(Duration::from_millis(50)));
    client.send(b"on its way").await.unwrap();
    shaper.cut(Which::Udp, Cut::Silent);
    client.send(b"too late").await.unwrap();
    assert!(timeout(SILENCE, target.recv(&mut [0; 16])).await.is_err());
    shaper.set(Which::Udp, Profile::default());
    client.send(b"through").await.unwrap();
    assert_eq!(receive(&target).await, b"through");
}

#[tokio::test]
async fn a_target_can_move() {
    let (_old, client, shaper) = datagrams(1).await;
    let new = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    shaper.set_target(new.local_addr().unwrap());
    client.send(b"hello").await.unwrap();
    assert_eq!(receive(&new).await, b"hello");
}

#[tokio::test]
async fn tcp_carries_every_byte_in_order_and_both_ends() {
    let profile = Profile {
        jitter: Duration::from_millis(5),
        loss: 0.05,
        ..Profile::delayed(Duration::from_millis(5))
    };
    let (mut client, mut server, shaper) = connected(profile).await;
    let bytes = Rng::new(1).bytes(3_000_000);
    let sent = bytes.clone();
    let sender = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut received = Vec::new();
    timeout(DEADLINE, server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received == bytes);
    server.write_all(b"got it").await.unwrap();
    drop(server);
    assert_eq!(timeout(DEADLINE, sender).await.unwrap().unwrap(), b"got it");
    let stats = shaper.stats(Protocol::Tcp, Direction::ToTarget);
    assert_eq!(stats.carried_bytes, 3_000_000);
    assert!(stats.lost > 0);
}

#[tokio::test]
async fn sixteen_megabytes_are_under_way_at_once_on_a_long_tcp_path() {
    let (mut client, mut server, shaper) = connected(Profile::default()).await;
    let delay = Duration::from_millis(700);
    shaper.set(Which::Tcp, Profile::delayed(delay));
    let chunk = vec![1; 1_000_000];
    let started = Instant::now();
    for _ in 0..16 {
        timeout(DEADLINE, client.write_all(&chunk)).await.unwrap().unwrap();
    }
    assert!(started.elapsed() < delay, "nothing has arrived yet");
    let mut received = vec![0; 16_000_000];
    timeout(DEADLINE, server.read_exact(&mut received)).await.unwrap().unwrap();
    assert!(started.elapsed() >= delay);
}

#[tokio::test]
async fn tcp_waits_for_a_bottleneck() {
    let rate = Rate { bytes_per_s: 1_000_000, queue_bytes: 20_000 };
    let (mut client, mut server, _shaper) =
        connected(Profile { rate: Some(rate), ..Profile::default() }).await;
    let started = Instant::now();
    client.write_all(&[0; 100_000]).await.unwrap();
    timeout(DEADLINE, server.read_exact(&mut [0; 100_000])).await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_silent_cut_stalls_a_connection_that_goes_on_when_healed() {
    let (mut client, mut server, shaper) = connected(Profile::default()).await;
    shaper.cut(Which::Tcp, Cut::Silent);
    client.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    assert!(timeout(SILENCE, server.read_exact(&mut buffer)).await.is_err());
    shaper.cut(Which::Tcp, Cut::Open);
    timeout(DEADLINE, server.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"hello");
}

#[tokio::test]
async fn a_reset_cut_resets_both_ends_and_refuses_new_connections() {
    let (mut client, mut server, shaper) = connected(Profile::default()).await;
    shaper.cut(Which::Only(Protocol::Tcp, Direction::ToTarget), Cut::Reset);
    for end in [&mut client, &mut server] {
        let error = timeout(DEADLINE, end.read(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(is_refused(&shaper).await);
}

#[tokio::test]
async fn connections_that_are_open_can_be_reset_and_new_ones_get_through() {
    let (mut client, _server, shaper) = connected(Profile::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    shaper.set_target(listener.local_addr().unwrap());
    shaper.reset_connections();
    assert!(timeout(DEADLINE, client.read(&mut [0; 1])).await.unwrap().is_err());
    let _new = TcpStream::connect(shaper.addr()).await.unwrap();
    timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_target_that_does_not_listen_resets_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let shaper = Shaper::start(target, 1).unwrap();
    assert!(is_refused(&shaper).await);
}

#[tokio::test]
async fn dropping_the_shaper_ends_its_connections() {
    let (mut client, _server, shaper) = connected(Profile::default()).await;
    drop(shaper);
    let ended = timeout(DEADLINE, client.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(ended, Ok(1)));
}
