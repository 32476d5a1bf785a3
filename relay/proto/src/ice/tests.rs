use super::*;
use crate::path::{Transport, Via};

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: name.to_owned(), pwd: format!("password of {name}") }
}

fn path(port: u16) -> Path {
    Path::new(([192, 0, 2, 1], port).into(), [198, 51, 100, 1].into())
}

/// An agent, its client, and their clock.
struct Pair {
    agent: Agent,
    now: Instant,
    local: IceCredentials,
    remote: IceCredentials,
}

impl Pair {
    fn new() -> Self {
        let (now, local, remote) = (Instant::now(), credentials("relay"), credentials("client"));
        Self { agent: Agent::new(now, local.clone(), remote.clone()), now, local, remote }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn restart(&mut self, name: &str) {
        self.local = credentials(&format!("relay{name}"));
        self.remote = credentials(&format!("client{name}"));
        self.agent.restart(self.now, self.local.clone(), self.remote.clone());
    }

    fn check_as(
        &mut self,
        local: &IceCredentials,
        remote: &IceCredentials,
        path: Path,
        use_candidate: bool,
    ) -> Result<Handled, IceError> {
        let username = format!("{}:{}", local.ufrag, remote.ufrag);
        let mut datagram = [0; 512];
        let len = stun::write_request(&mut datagram, &username, &local.pwd, 1, 2, use_candidate, [3; 12]);
        let request = stun::Request::parse(&datagram[..len.expect("room")]).expect("a request");
        let mut out = [0; stun::ANSWER_BYTES_MAX];
        let handled = self.agent.handle_request(self.now, path, &request, &mut out)?;
        let answer = stun::Response::parse(&out[..handled.len]).expect("an answer");
        assert!(answer.verify(&local.pwd), "the client can trust the answer");
        assert_eq!((answer.mapped(), answer.transaction()), (Some(path.remote), [3; 12]));
        Ok(handled)
    }

    fn check(&mut self, path: Path, use_candidate: bool) -> Option<Change> {
        let (local, remote) = (self.local.clone(), self.remote.clone());
        self.check_as(&local, &remote, path, use_candidate).expect("a good check").change
    }
}

#[test]
fn the_first_authenticated_check_says_where_to_send() {
    let mut pair = Pair::new();
    assert_eq!(pair.agent.path(), None);
    assert_eq!(pair.check(path(1), false), Some(Change::Selected { from: None, to: path(1) }));
    assert_eq!(pair.check(path(2), false), Some(Change::PathAdded));
    assert_eq!(pair.check(path(2), false), None);
    assert_eq!(pair.agent.path(), Some(path(1)));
}

#[test]
fn the_last_nomination_wins() {
    let mut pair = Pair::new();
    pair.check(path(1), false);
    assert_eq!(pair.check(path(2), true), Some(Change::Selected { from: Some(path(1)), to: path(2) }));
    assert_eq!(pair.check(path(2), true), None);
    assert_eq!(pair.check(path(1), false), None);
    assert_eq!(pair.check(path(1), true), Some(Change::Selected { from: Some(path(2)), to: path(1) }));
}

#[test]
fn a_check_of_somebody_else_changes_nothing() {
    let mut pair = Pair::new();
    let (local, remote) = (pair.local.clone(), pair.remote.clone());
    let forged = IceCredentials { pwd: "guessed".to_owned(), ..local.clone() };
    assert_eq!(pair.check_as(&forged, &remote, path(1), true), Err(IceError::Integrity));
    assert_eq!(pair.check_as(&local, &credentials("other"), path(1), true), Err(IceError::Username));
    assert_eq!(pair.check_as(&credentials("other"), &remote, path(1), true), Err(IceError::Username));
    assert_eq!((pair.agent.path(), pair.agent.paths().count()), (None, 0));
    pair.wait(CONNECT);
    assert_eq!(pair.agent.handle_timeout(pair.now), Some(Expired::NeverConnected));
}

#[test]
fn who_believes_that_we_control_is_told_otherwise() {
    let mut pair = Pair::new();
    let id = is::stun::TransId::new();
    let message = is::stun::StunMessage::binding_request("relay:client", id, false, 9, 7, true);
    let hmac = |key: &[u8], parts: &[&[u8]]| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
        *aws_lc_rs::hmac::sign(&key, &parts.concat()).as_ref().first_chunk().expect("20 bytes")
    };
    let mut datagram = [0; 512];
    let len = message.to_bytes(Some(pair.local.pwd.as_bytes()), &mut datagram, hmac).expect("room");
    let request = stun::Request::parse(&datagram[..len]).expect("a request");
    let mut out = [0; stun::ANSWER_BYTES_MAX];
    let handled = pair.agent.handle_request(pair.now, path(1), &request, &mut out).expect("answered");
    let answer = stun::Response::parse(&out[..handled.len]).expect("an answer");
    assert_eq!(answer.error(), Some(stun::ROLE_CONFLICT));
    assert_eq!((handled.change, pair.agent.path()), (None, None));
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    let mut pair = Pair::new();
    let mut datagram = [0; 512];
    let len = stun::write_request(&mut datagram, "relay:client", &pair.local.pwd, 1, 2, true, [3; 12]);
    let request = stun::Request::parse(&datagram[..len.expect("room")]).expect("a request");
    let handled = pair.agent.handle_request(pair.now, path(1), &request, &mut [0; 20]);
    assert_eq!((handled, pair.agent.path()), (Err(IceError::Room), None));
}

#[test]
fn old_credentials_are_good_until_the_first_check_with_new_ones() {
    let mut pair = Pair::new();
    let (local, remote) = (pair.local.clone(), pair.remote.clone());
    pair.check(path(1), true);
    pair.restart("2");
    assert_eq!(pair.agent.local_ufrags().collect::<Vec<_>>(), ["relay2", "relay"]);
    assert!(pair.check_as(&local, &remote, path(1), false).is_ok());
    assert_eq!(pair.check(path(2), false), Some(Change::PathAdded));
    assert_eq!(pair.agent.local_ufrags().collect::<Vec<_>>(), ["relay2"]);
    assert_eq!(pair.check_as(&local, &remote, path(1), false), Err(IceError::Username));
    assert_eq!(pair.agent.path(), Some(path(1)), "media stays where it is until the new path is nominated");
    assert!(matches!(pair.check(path(2), true), Some(Change::Selected { .. })));
}

#[test]
fn a_nomination_with_old_credentials_does_not_move_media() {
    let mut pair = Pair::new();
    let (local, remote) = (pair.local.clone(), pair.remote.clone());
    pair.check(path(1), true);
    pair.restart("2");
    let handled = pair.check_as(&local, &remote, path(2), true).expect("still good");
    assert_eq!(handled.change, Some(Change::PathAdded));
}

#[test]
fn a_second_restart_keeps_the_credentials_that_are_in_use() {
    let mut pair = Pair::new();
    let (local, remote) = (pair.local.clone(), pair.remote.clone());
    pair.check(path(1), true);
    pair.restart("2");
    pair.restart("3");
    assert_eq!(pair.agent.local_ufrags().collect::<Vec<_>>(), ["relay3", "relay"]);
    assert!(pair.check_as(&local, &remote, path(1), false).is_ok());
}

#[test]
fn media_on_another_path_takes_over_from_a_silent_one() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    pair.check(path(2), false);
    pair.wait(SILENCE_MEDIA);
    assert_eq!(pair.agent.handle_media(pair.now, path(2)), None, "not silent for long enough");
    pair.wait(Duration::from_millis(1));
    assert_eq!(
        pair.agent.handle_media(pair.now, path(2)),
        Some(Change::Selected { from: Some(path(1)), to: path(2) })
    );
}

#[test]
fn media_on_the_selected_path_keeps_it() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    pair.check(path(2), false);
    for _ in 0..10 {
        pair.wait(Duration::from_secs(1));
        assert_eq!(pair.agent.handle_media(pair.now, path(1)), None);
        assert_eq!(pair.agent.handle_media(pair.now, path(2)), None);
    }
    assert_eq!(pair.agent.path(), Some(path(1)));
}

#[test]
fn a_mere_check_takes_over_only_after_a_longer_silence() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    pair.check(path(2), false);
    pair.wait(SILENCE_CHECK);
    assert_eq!(pair.check(path(2), false), None);
    pair.wait(Duration::from_millis(1));
    assert!(matches!(pair.check(path(2), false), Some(Change::Selected { .. })));
}

#[test]
fn media_on_a_path_without_a_check_counts_for_nothing() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    pair.wait(CONSENT);
    assert_eq!(pair.agent.handle_media(pair.now, path(9)), None);
    assert!(!pair.agent.knows(path(9)));
    assert_eq!(pair.agent.handle_timeout(pair.now), Some(Expired::Silent));
}

#[test]
fn the_oldest_path_that_is_not_selected_makes_room() {
    let mut pair = Pair::new();
    let (local, remote) = (pair.local.clone(), pair.remote.clone());
    for port in 0..8 {
        pair.check(path(port), port == 0);
        pair.wait(Duration::from_millis(1));
    }
    pair.check(path(1), false);
    let handled = pair.check_as(&local, &remote, path(100), false).expect("a good check");
    assert_eq!((handled.change, handled.evicted), (Some(Change::PathAdded), Some(path(2))));
    assert_eq!(pair.agent.paths().count(), PATHS_MAX);
    assert!(pair.agent.knows(path(0)));
    assert!(!pair.agent.knows(path(2)));
}

#[test]
fn consent_lasts_as_long_as_something_is_heard() {
    let mut pair = Pair::new();
    assert_eq!(pair.agent.poll_timeout(), pair.now + CONNECT);
    pair.check(path(1), true);
    pair.wait(Duration::from_secs(29));
    pair.agent.handle_media(pair.now, path(1));
    assert_eq!(pair.agent.poll_timeout(), pair.now + CONSENT);
    pair.wait(CONSENT - Duration::from_millis(1));
    assert_eq!(pair.agent.handle_timeout(pair.now), None);
    pair.wait(Duration::from_millis(1));
    assert_eq!(pair.agent.handle_timeout(pair.now), Some(Expired::Silent));
}

#[test]
fn a_path_that_went_to_somebody_else_is_forgotten() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    pair.wait(Duration::from_secs(1));
    pair.check(path(2), false);
    pair.agent.forget(path(1));
    assert_eq!((pair.agent.path(), pair.agent.knows(path(1))), (Some(path(2)), false));
    pair.agent.forget(path(2));
    assert_eq!(pair.agent.path(), None);
    assert!(matches!(pair.check(path(1), false), Some(Change::Selected { from: None, .. })));
}

#[test]
fn nothing_that_is_printed_names_credentials_or_addresses() {
    let mut pair = Pair::new();
    pair.check(path(1), true);
    let text = format!("{:?}", pair.agent);
    assert!(!text.contains("relay") && !text.contains("client") && !text.contains("192"), "{text}");
}

#[test]
fn a_client_whose_packets_come_over_another_ingress_is_answered_there_at_once() {
    let over = |port: u16, endpoint: u16, flow: u32| {
        Path::over(([192, 0, 2, 1], port).into(), Via::Ingress { endpoint, transport: Transport::Udp, flow })
    };
    let mut pair = Pair::new();
    pair.check(over(1, 0, 9), true);
    let change = pair.check(over(1, 1, 9), false);
    assert_eq!(change, Some(Change::Selected { from: Some(over(1, 0, 9)), to: over(1, 1, 9) }));
    // Another socket of the client, or another address of the ingress, is for the client to nominate.
    assert_eq!(pair.check(over(2, 1, 9), false), Some(Change::PathAdded));
    assert_eq!(pair.check(over(1, 1, 8), false), Some(Change::PathAdded));
    assert_eq!(pair.agent.path(), Some(over(1, 1, 9)));
}
