use std::net::TcpListener;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use trunkline_relay_proto::backlog;

use super::*;
use crate::tcp::testing::{self, PATIENCE, Stream};

/// A client and our side of its connection.
fn pair(tls: Option<Arc<ServerConfig>>) -> (SocketAddr, impl FnOnce() -> Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (at, move || {
        let (stream, remote) = listener.accept().unwrap();
        Connection::new(stream, remote, tls, None).unwrap()
    })
}

fn plain() -> (TcpStream, Connection) {
    let (at, accept) = pair(None);
    (testing::tcp(at), accept())
}

/// Waits until there is something to read, or room to write.
fn wait(connection: &Connection, flags: PollFlags) {
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let ready = rustix::event::poll(&mut [PollFd::new(connection, flags)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "fd {}", connection.as_fd().as_raw_fd());
}

/// Reads until so many datagrams came.
fn receive(connection: &mut Connection, count: usize) -> Vec<Vec<u8>> {
    let (mut datagrams, mut scratch) = (Vec::new(), vec![0; 65_536]);
    while datagrams.len() < count {
        wait(connection, PollFlags::IN);
        connection
            .receive(Instant::now(), &mut scratch, |datagram| datagrams.push(datagram.to_vec()))
            .unwrap();
        connection.flush(Instant::now()).unwrap();
    }
    datagrams
}

/// What the first read says.
fn first_word(connection: &mut Connection) -> Result<usize, Closed> {
    wait(connection, PollFlags::IN);
    connection.receive(Instant::now(), &mut vec![0; 4096], |_| panic!("nothing is a datagram"))
}

fn stun(fill: u8) -> Vec<u8> {
    [&[0, 1, 0, 4][..], &MAGIC_COOKIE, &[fill; 16]].concat()
}

fn rtp(ssrc: u32, timestamp: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x80;
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}

#[test]
fn frames_come_and_go_whole() {
    let (mut client, mut connection) = plain();
    testing::send(&mut client, &stun(1));
    testing::send(&mut client, &[9; 2000]);
    assert_eq!(receive(&mut connection, 2), [stun(1), vec![9; 2000]]);
    let now = Instant::now();
    assert!(connection.push(now, &[5; 1200]) && connection.push(now, &[6; 1]));
    assert_eq!(connection.flush(now), Ok(false));
    assert_eq!((testing::next(&mut client), testing::next(&mut client)), (vec![5; 1200], vec![6]));
    assert_eq!((connection.transport(), connection.remote()), (Transport::Tcp, client.local_addr().unwrap()));
}

#[test]
fn a_first_message_may_be_split_at_every_byte() {
    let whole = testing::frame(&stun(1));
    for split in 1..whole.len() {
        let (mut client, mut connection) = plain();
        client.write_all(&whole[..split]).unwrap();
        wait(&connection, PollFlags::IN);
        let mut scratch = [0; 4096];
        assert!(
            connection.receive(Instant::now(), &mut scratch, |_| panic!("split at {split}")).unwrap() > 0
        );
        client.write_all(&whole[split..]).unwrap();
        assert_eq!(receive(&mut connection, 1), [stun(1)], "split at {split}");
    }
}

#[test]
fn who_begins_with_anything_but_stun_is_cut_off() {
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &testing::frame(&[22; 64])] {
        let (mut client, mut connection) = plain();
        client.write_all(first).unwrap();
        assert_eq!(first_word(&mut connection), Err(Closed::Protocol));
    }
}

#[test]
fn a_client_that_closes_says_so() {
    let (client, mut connection) = plain();
    drop(client);
    assert_eq!(first_word(&mut connection), Err(Closed::ByPeer));
}

#[test]
fn nobody_speaks_to_a_client_that_said_nothing() {
    let (_client, mut connection) = plain();
    assert!(!connection.push(Instant::now(), &[1; 100]));
}

#[test]
fn a_run_of_datagrams_is_one_system_call() {
    let (mut client, mut connection) = plain();
    testing::send(&mut client, &stun(1));
    receive(&mut connection, 1);
    let now = Instant::now();
    for _ in 0..8 {
        connection.push(now, &rtp(1, 1, 1200));
    }
    assert_eq!(connection.flush(now), Ok(false));
    assert_eq!(connection.writes, 1);
    (0..8).for_each(|_| assert_eq!(testing::next(&mut client), rtp(1, 1, 1200)));
}

/// A client that does not read, a stream to it of so many milliseconds, and what is told of it meanwhile.
fn stall(connection: &mut Connection, from: Instant, ms: u32) {
    for at in 0..ms {
        let now = from + Duration::from_millis(at.into());
        // 100 Mbit/s: more than loopback keeps for somebody who does not read.
        for _ in 0..10 {
            connection.push(now, &rtp(7, at, 1200));
        }
        connection.flush(now).unwrap();
        connection.dropped().count();
    }
    // What the network swallowed at first is no progress.
    let later = from + Duration::from_millis(ms.into()) + backlog::MEDIA_AGE_MAX;
    connection.flush(later).unwrap();
    connection.push(later, &rtp(7, ms, 1200));
    connection.flush(later + backlog::MEDIA_AGE_MAX * 2).unwrap();
    assert_eq!(connection.dropped().count(), 0);
}

#[test]
fn a_stalled_receiver_costs_bounded_memory_and_is_told_of_when_it_reads_again() {
    let (mut client, mut connection) = plain();
    testing::send(&mut client, &stun(1));
    receive(&mut connection, 1);
    let now = Instant::now();
    stall(&mut connection, now, 10_000);
    assert!(connection.backlog_bytes() < 4 * backlog::BYTES_MAX, "{}", connection.backlog_bytes());
    assert!(connection.dropped_packets() > 50_000, "{}", connection.dropped_packets());
    assert_eq!(resume(&mut connection, &mut client, now + Duration::from_secs(12)), [7]);
}

fn timestamp(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

#[test]
fn within_tls_frames_come_and_go_whole_and_what_waits_is_bounded_too() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, trusted) = testing::server(dir.path());
    let (at, accept) = pair(Some(tls.config()));
    let client = std::thread::spawn(move || {
        let mut client = testing::tls(at, &trusted);
        testing::send(&mut client, &stun(1));
        testing::send(&mut client, &[9; 2000]);
        assert_eq!(testing::next(&mut client), [5; 1200]);
        client
    });
    let mut connection = accept();
    assert_eq!(receive(&mut connection, 2), [stun(1), vec![9; 2000]]);
    assert_eq!(connection.transport(), Transport::Tls);
    let now = Instant::now();
    connection.push(now, &[5; 1200]);
    connection.flush(now).unwrap();
    let mut client = client.join().unwrap();
    stall(&mut connection, now, 3000);
    assert!(connection.dropped_packets() > 10_000, "{}", connection.dropped_packets());
    assert_eq!(resume(&mut connection, &mut client, now + Duration::from_secs(5)), [7]);
}

/// The client reads again, up to what is sent to it now. What is told of meanwhile.
fn resume(connection: &mut Connection, client: &mut dyn Stream, now: Instant) -> Vec<u32> {
    connection.push(now, &rtp(7, u32::MAX, 1200));
    let mut lost = Vec::new();
    loop {
        connection.flush(now).unwrap();
        lost.extend(connection.dropped());
        let packet = testing::next(client);
        assert_eq!((packet.len(), packet[0]), (1200, 0x80));
        if timestamp(&packet) == u32::MAX {
            return lost;
        }
    }
}

#[test]
fn a_broken_handshake_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, _) = testing::server(dir.path());
    let (at, accept) = pair(Some(tls.config()));
    let mut client = testing::tcp(at);
    client.write_all(&[22, 3, 1, 0, 5, 1, 2, 3, 4, 5]).unwrap();
    let mut connection = accept();
    assert_eq!(first_word(&mut connection), Err(Closed::Tls));
}
