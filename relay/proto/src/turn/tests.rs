use proptest::prelude::*;

use super::*;

const NOW_S: u64 = 1_700_000_000;
const OWN: &str = "192.0.2.1:16384";
const RELAYED: &str = "192.0.2.1:50000";
const CLIENT: &str = "198.51.100.7:4711";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A client and its session.
struct Client {
    session: Session,
    credentials: Credentials,
    now: Instant,
    nonce: String,
    payloads: Vec<Vec<u8>>,
}

impl Client {
    fn new() -> Self {
        let secret = Secret::derive(&[7; 32]);
        let credentials = secret.issue(NOW_S + 60, [1; 9]);
        let own = vec![address(OWN).ip(), address("[2001:db8::1]:1").ip()];
        let settings = Arc::new(Settings { secret, own });
        let session = Session::new(settings, address(CLIENT), address(RELAYED), [9; 12]);
        Self { session, credentials, now: Instant::now(), nonce: String::new(), payloads: Vec::new() }
    }

    /// One with an allocation.
    fn allocated() -> Self {
        let mut client = Self::new();
        client.learn_nonce();
        assert_eq!(client.ask(message::ALLOCATE, udp), Ok(()));
        client
    }

    /// One that may talk to the relay.
    fn permitted() -> Self {
        let mut client = Self::allocated();
        assert_eq!(client.ask(message::CREATE_PERMISSION, |request| to(request, OWN)), Ok(()));
        client
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, TurnError> {
        let mut replies = Vec::new();
        let payloads = &mut self.payloads;
        let payload = |payload: &mut [u8]| payloads.push(payload.to_vec());
        self.session.handle(self.now, NOW_S, &mut bytes.to_vec(), &mut replies, payload).map(|()| replies)
    }

    fn learn_nonce(&mut self) {
        let mut request = Vec::new();
        udp(Writer::begin(&mut request, message::ALLOCATE, [1; 12])).end(None);
        let answer = self.feed(&request).expect("answered");
        let answer = Message::parse(&answer).expect("a message");
        assert_eq!(code(&answer), Some(401));
        self.nonce = answer.text(message::NONCE).expect("a nonce").to_owned();
    }

    fn request(&self, method: u16, fill: impl FnOnce(Writer<'_>) -> Writer<'_>) -> Vec<u8> {
        let mut request = Vec::new();
        let Credentials { username, password } = &self.credentials;
        let key: [u8; 16] = Md5::digest(format!("{username}:{REALM}:{password}")).into();
        fill(Writer::begin(&mut request, method, [2; 12]))
            .put(message::USERNAME, username.as_bytes())
            .put(message::REALM, REALM.as_bytes())
            .put(message::NONCE, self.nonce.as_bytes())
            .end(Some(&key));
        request
    }

    /// The code of a refusal, if it is one.
    fn ask(&mut self, method: u16, fill: impl FnOnce(Writer<'_>) -> Writer<'_>) -> Result<(), u16> {
        let request = self.request(method, fill);
        let answer = self.feed(&request).expect("answered");
        let answer = Message::parse(&answer).expect("one message");
        assert_eq!(answer.method(), method);
        code(&answer).map_or(Ok(()), Err)
    }

    fn indicate(&mut self, peer: &str, data: &[u8]) {
        let mut indication = Vec::new();
        to(Writer::begin(&mut indication, message::SEND | message::INDICATION, [3; 12]), peer)
            .put(message::DATA_ATTRIBUTE, data)
            .end(None);
        assert_eq!(self.feed(&indication), Ok(Vec::new()));
    }

    fn wrapped(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let wrapping = self.session.wrap(self.now, payload.len())?;
        Some([wrapping.head(), payload, wrapping.pad()].concat())
    }
}

fn udp(request: Writer<'_>) -> Writer<'_> {
    request.put(message::REQUESTED_TRANSPORT, &[PROTOCOL_UDP, 0, 0, 0])
}

fn to<'a>(request: Writer<'a>, peer: &str) -> Writer<'a> {
    request.address(message::XOR_PEER_ADDRESS, address(peer))
}

fn bind<'a>(request: Writer<'a>, number: u16, peer: &str) -> Writer<'a> {
    to(request.put(message::CHANNEL_NUMBER, &(u32::from(number) << 16).to_be_bytes()), peer)
}

fn code(answer: &Message<'_>) -> Option<u16> {
    let [_, _, hundreds, rest] = *answer.get(message::ERROR_CODE)?.first_chunk()?;
    Some(u16::from(hundreds) * 100 + u16::from(rest))
}

#[test]
fn an_allocation_needs_credentials_and_says_both_addresses() {
    let mut client = Client::new();
    client.learn_nonce();
    let answer = client.feed(&client.request(message::ALLOCATE, udp)).expect("answered");
    let answer = Message::parse(&answer).expect("a message");
    let key = Secret::derive(&[7; 32]).key(&client.credentials.username, NOW_S).expect("good");
    assert!(answer.verify(&key));
    assert_eq!(answer.number(message::LIFETIME), Some(600));
    let read = |kind| {
        let (written, len) = message::write_address(address(kind), &[2; 12]);
        written[..len].to_vec()
    };
    assert_eq!(answer.get(message::XOR_RELAYED_ADDRESS), Some(&read(RELAYED)[..]));
    assert_eq!(answer.get(message::XOR_MAPPED_ADDRESS), Some(&read(CLIENT)[..]));
}

#[test]
fn a_wrong_password_or_one_that_expired_opens_nothing() {
    let mut client = Client::new();
    client.learn_nonce();
    let good = client.credentials.clone();
    client.credentials.password.push('x');
    assert_eq!(client.ask(message::ALLOCATE, udp), Err(401));
    client.credentials = Secret::derive(&[7; 32]).issue(NOW_S - 1, [1; 9]);
    assert_eq!(client.ask(message::ALLOCATE, udp), Err(401));
    client.credentials = Secret::derive(&[8; 32]).issue(NOW_S + 60, [1; 9]);
    assert_eq!(client.ask(message::ALLOCATE, udp), Err(401));
    client.credentials = good;
    assert_eq!(client.ask(message::ALLOCATE, udp), Ok(()));
}

#[test]
fn another_connections_nonce_is_stale() {
    let mut client = Client::new();
    client.nonce = "another".to_owned();
    assert_eq!(client.ask(message::ALLOCATE, udp), Err(438));
}

#[test]
fn only_udp_towards_the_relays_own_addresses_is_relayed() {
    let mut client = Client::new();
    client.learn_nonce();
    assert_eq!(
        client.ask(message::ALLOCATE, |r| r.put(message::REQUESTED_TRANSPORT, &[6, 0, 0, 0])),
        Err(442)
    );
    assert_eq!(client.ask(message::CREATE_PERMISSION, |request| to(request, OWN)), Err(437));
    assert_eq!(client.ask(message::ALLOCATE, udp), Ok(()));
    assert_eq!(client.ask(message::ALLOCATE, udp), Err(437));
    assert_eq!(client.ask(message::CREATE_PERMISSION, |request| to(request, "203.0.113.9:80")), Err(403));
    assert_eq!(client.ask(message::CREATE_PERMISSION, |request| to(request, "[2001:db8::1]:80")), Err(443));
    assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, 0x4000, "127.0.0.1:80")), Err(403));
    // One stranger among the peers spoils it for all.
    let answer = client.ask(message::CREATE_PERMISSION, |request| to(to(request, OWN), "203.0.113.9:80"));
    assert_eq!(answer, Err(403));
    client.indicate(OWN, b"early");
    assert!(client.payloads.is_empty());
}

#[test]
fn an_indication_reaches_the_relay_and_is_answered_from_the_same_peer() {
    let mut client = Client::permitted();
    assert_eq!(client.wrapped(b"nobody asked"), None);
    client.indicate(OWN, b"check");
    assert_eq!(client.payloads, [b"check"]);
    let answer = client.wrapped(b"answer").expect("there is a peer");
    let answer = Message::parse(&answer).expect("a message");
    assert_eq!((answer.method(), answer.class()), (message::DATA, message::INDICATION));
    assert_eq!(answer.peers().next().flatten(), Some(address(OWN)));
    assert_eq!(answer.get(message::DATA_ATTRIBUTE), Some(&b"answer"[..]));
}

#[test]
fn a_channel_carries_both_ways_padded_to_four_bytes() {
    let mut client = Client::allocated();
    assert_eq!(client.ask(message::CHANNEL_BIND, |request| bind(request, 0x4001, OWN)), Ok(()));
    let sent = [&[0x40, 0x01, 0, 5][..], b"hello", &[0; 3]].concat();
    assert_eq!(client.feed(&sent), Ok(Vec::new()));
    assert_eq!(client.payloads, [b"hello"]);
    assert_eq!(client.wrapped(b"world"), Some([&[0x40, 0x01, 0, 5][..], b"world", &[0; 3]].concat()));
    assert_eq!(client.wrapped(b"four").map(|wrapped| wrapped.len()), Some(8));
}

#[test]
fn a_channel_stays_with_its_peer() {
    let mut client = Client::allocated();
    assert_eq!(client.ask(message::CHANNEL_BIND, |request| bind(request, 0x4001, OWN)), Ok(()));
    assert_eq!(client.ask(message::CHANNEL_BIND, |request| bind(request, 0x4001, OWN)), Ok(()), "refreshed");
    assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, 0x4001, "192.0.2.1:1")), Err(400));
    assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, 0x4002, OWN)), Err(400));
    assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, 0x5000, "192.0.2.1:1")), Err(400));
    for (number, port) in (0x4002..).zip(1..CHANNELS_MAX) {
        let peer = format!("192.0.2.1:{port}");
        assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, number, &peer)), Ok(()));
    }
    assert_eq!(client.ask(message::CHANNEL_BIND, |r| bind(r, 0x4fff, "192.0.2.1:99")), Err(508));
}

#[test]
fn what_is_not_refreshed_ends() {
    let mut client = Client::permitted();
    client.indicate(OWN, b"1");
    client.now += PERMISSION;
    client.indicate(OWN, b"2");
    assert_eq!(client.payloads, [b"1"]);
    assert_eq!(client.wrapped(b"x"), None);
    assert_eq!(client.ask(message::CREATE_PERMISSION, |request| to(request, OWN)), Ok(()));
    client.indicate(OWN, b"3");
    assert_eq!(client.payloads, [b"1", b"3"]);
    client.now += LIFETIME - PERMISSION;
    client.indicate(OWN, b"4");
    assert_eq!(client.payloads.len(), 2);
    assert_eq!(client.ask(message::REFRESH, |request| request), Err(437));
}

#[test]
fn a_refresh_of_zero_ends_the_allocation() {
    let mut client = Client::permitted();
    assert_eq!(client.ask(message::REFRESH, |r| r.put(message::LIFETIME, &7200_u32.to_be_bytes())), Ok(()));
    client.now += Duration::from_secs(3599);
    assert_eq!(client.ask(message::REFRESH, |r| r.put(message::LIFETIME, &[0; 4])), Ok(()));
    assert_eq!(client.ask(message::REFRESH, |request| request), Err(437));
}

#[test]
fn somebody_elses_credentials_do_not_change_an_allocation() {
    let mut client = Client::permitted();
    client.credentials = Secret::derive(&[7; 32]).issue(NOW_S + 60, [2; 9]);
    assert_eq!(client.ask(message::REFRESH, |request| request), Err(441));
}

#[test]
fn an_attribute_that_must_be_understood_is_named() {
    let mut client = Client::new();
    client.learn_nonce();
    const EVEN_PORT: u16 = 0x0018;
    let request = client.request(message::ALLOCATE, |request| udp(request).put(EVEN_PORT, &[0x80]));
    let answer = client.feed(&request).expect("answered");
    let answer = Message::parse(&answer).expect("a message");
    assert_eq!((code(&answer), answer.get(message::UNKNOWN_ATTRIBUTES)), (Some(420), Some(&[0, 0x18][..])));
}

#[test]
fn a_binding_request_is_answered_to_everybody() {
    let mut client = Client::new();
    let mut request = Vec::new();
    Writer::begin(&mut request, message::BINDING, [4; 12]).end(None);
    let answer = client.feed(&request).expect("answered");
    let answer = Message::parse(&answer).expect("a message");
    assert!(answer.get(message::XOR_MAPPED_ADDRESS).is_some() && code(&answer).is_none());
}

#[test]
fn messages_are_found_however_the_stream_is_split() {
    let stream = {
        let client = Client::permitted();
        let mut stream = client.request(message::CHANNEL_BIND, |request| bind(request, 0x4001, OWN));
        stream.extend([&[0x40, 0x01, 0, 5][..], b"hello", &[0; 3]].concat());
        stream
    };
    for split in 0..=stream.len() {
        let mut client = Client::permitted();
        let (head, tail) = stream.split_at(split);
        let replies = [client.feed(head), client.feed(tail)].map(|reply| reply.expect("sound")).concat();
        assert_eq!(code(&Message::parse(&replies).expect("one answer")), None);
        assert_eq!(client.payloads, [b"hello"], "split at {split}");
    }
}

#[test]
fn what_is_no_message_ends_the_connection() {
    assert_eq!(Client::new().feed(&[0xff; 4]), Err(TurnError::Malformed));
    assert_eq!(Client::new().feed(&[0; 20]), Err(TurnError::Malformed));
}

#[test]
fn a_flood_of_requests_ends_the_connection() {
    let mut request = Vec::new();
    Writer::begin(&mut request, message::ALLOCATE, [1; 12]).end(None);
    assert_eq!(Client::new().feed(&request.repeat(3000)), Err(TurnError::Flood));
}

proptest! {
    #[test]
    fn whatever_arrives_nothing_is_handed_on_without_an_allocation(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        piece in 1_usize..500,
    ) {
        let mut client = Client::new();
        for piece in bytes.chunks(piece) {
            let _ = client.feed(piece);
        }
        prop_assert!(client.payloads.is_empty());
    }
}
