//! What makes, moves and ends flows, and what does not.

use proptest::prelude::*;

use super::*;

const MINUTE: u32 = 30_000_000;
const ROUTE: Route = Route { node: 7, worker: 2, call: 1, participant: 1, expires_min: MINUTE };
const MEDIA: &[u8] = &[0x80, 96, 0, 1];

fn key() -> Key {
    Key::new([7; 32])
}

fn settings() -> Settings {
    Settings { flows_max: 1000, source_flows_per_s: 10, source_flows_burst: 1000, nodes: vec![3, 7], seed: 5 }
}

struct Table {
    flows: Flows,
    now: Instant,
    minute: u32,
}

impl Table {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self { flows: Flows::new(now, key(), settings), now, minute: MINUTE }
    }

    fn handle(&mut self, client: &str, datagram: &[u8]) -> Result<Target, Refusal> {
        self.flows.handle(self.now, self.minute, client.parse().expect("an address"), 1, datagram)
    }

    fn refused(&self) -> Vec<(&'static str, u64)> {
        let count = |(refusal, name)| (name, self.flows.counters().refused(refusal));
        Refusal::NAMED.map(count).into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn check_with(key: &Key, route: &Route) -> Vec<u8> {
    let mut out = [0; 256];
    let username = format!("{}:client", key.write(route));
    let len = stun::write_request(&mut out, &username, "password", 1, 1, false, [1; 12]).expect("room");
    out[..len].to_vec()
}

fn check(route: &Route) -> Vec<u8> {
    check_with(&key(), route)
}

fn numbered(participant: u32) -> Route {
    Route { participant, ..ROUTE }
}

#[test]
fn a_good_check_makes_a_flow_that_media_follows() {
    let mut table = Table::new(settings());
    let target = Ok(Target { place: 1, worker: 2 });
    assert_eq!(table.handle("192.0.2.1:5000", &check(&ROUTE)), target);
    assert_eq!(table.handle("192.0.2.1:5000", MEDIA), target);
    assert_eq!(table.handle("[2001:db8::1]:5000", &check(&ROUTE)), target);
    assert_eq!((table.flows.len(), table.refused()), (2, vec![]));
}

#[test]
fn what_nobody_vouches_for_makes_no_flow_and_is_counted_by_reason() {
    let mut table = Table::new(settings());
    let mut wrong_tag = check(&ROUTE);
    // The last character of the ufrag, behind the header of the message and that of the attribute.
    wrong_tag[20 + 4 + LEN - 1] ^= 1;
    let strange = {
        let mut out = [0; 256];
        let len = stun::write_request(&mut out, "some:body", "password", 1, 1, false, [1; 12]).expect("room");
        out[..len].to_vec()
    };
    for (datagram, refusal) in [
        (check_with(&Key::new([8; 32]), &ROUTE), Refusal::Forged),
        (wrong_tag, Refusal::Forged),
        (check(&Route { expires_min: MINUTE - 1, ..ROUTE }), Refusal::Expired),
        (check(&Route { node: 8, ..ROUTE }), Refusal::UnknownNode),
        (strange, Refusal::Malformed),
        (vec![0, 1, 0, 0], Refusal::Malformed),
        (MEDIA.to_vec(), Refusal::UnknownFlow),
        (vec![], Refusal::UnknownFlow),
    ] {
        assert_eq!(table.handle("192.0.2.1:5000", &datagram), Err(refusal));
    }
    let expected =
        [("forged", 2), ("expired", 1), ("malformed", 2), ("unknown_node", 1), ("unknown_flow", 2)];
    assert_eq!(table.refused(), expected);
    assert!(table.flows.is_empty());
}

#[test]
fn an_expired_check_that_is_replayed_begins_nothing_while_the_flow_it_began_goes_on() {
    let mut table = Table::new(settings());
    let first = check(&ROUTE);
    table.handle("192.0.2.1:5000", &first).expect("good");
    table.minute += 1;
    assert_eq!(table.handle("198.51.100.1:5000", &first), Err(Refusal::Expired));
    assert!(table.handle("192.0.2.1:5000", &first).is_ok());
}

#[test]
fn after_a_nat_rebinding_media_waits_for_the_next_check() {
    let mut table = Table::new(settings());
    table.handle("192.0.2.1:5000", &check(&ROUTE)).expect("good");
    assert_eq!(table.handle("192.0.2.1:5001", MEDIA), Err(Refusal::UnknownFlow));
    table.handle("192.0.2.1:5001", &check(&ROUTE)).expect("good");
    assert!(table.handle("192.0.2.1:5001", MEDIA).is_ok());
}

#[test]
fn a_check_that_names_another_route_moves_its_flow_once_it_verified() {
    let mut table = Table::new(settings());
    table.handle("192.0.2.1:5000", &check(&ROUTE)).expect("good");
    let forged = check_with(&Key::new([8; 32]), &Route { node: 3, ..ROUTE });
    assert_eq!(table.handle("192.0.2.1:5000", &forged), Err(Refusal::Forged));
    assert_eq!(table.handle("192.0.2.1:5000", MEDIA), Ok(Target { place: 1, worker: 2 }));
    table.handle("192.0.2.1:5000", &check(&Route { node: 3, worker: 0, ..ROUTE })).expect("good");
    assert_eq!(table.handle("192.0.2.1:5000", MEDIA), Ok(Target { place: 0, worker: 0 }));
    assert_eq!((table.flows.len(), table.flows.counters().moved), (1, 1));
}

#[test]
fn one_ufrag_from_many_addresses_takes_one_participants_share() {
    let mut table = Table::new(settings());
    for port in 0..PARTICIPANT_FLOWS_MAX {
        table.handle(&format!("192.0.2.1:{}", 5000 + port), &check(&ROUTE)).expect("within the share");
    }
    assert_eq!(table.handle("192.0.2.9:1", &check(&ROUTE)), Err(Refusal::ParticipantFull));
    assert!(table.handle("192.0.2.9:1", &check(&numbered(2))).is_ok());
    assert!(table.handle("192.0.2.1:5000", MEDIA).is_ok());
}

#[test]
fn a_full_table_takes_no_further_flow_and_keeps_those_it_has() {
    let mut table = Table::new(Settings { flows_max: 2, ..settings() });
    for number in 1..=2 {
        table.handle(&format!("192.0.2.{number}:5000"), &check(&numbered(number))).expect("room");
    }
    assert_eq!(table.handle("192.0.2.3:5000", &check(&numbered(3))), Err(Refusal::Full));
    assert!(table.handle("192.0.2.1:5000", MEDIA).is_ok());
}

#[test]
fn one_address_spends_its_budget_of_new_flows_and_gets_it_back() {
    let mut table = Table::new(Settings { source_flows_burst: 3, ..settings() });
    let begin = |table: &mut Table, number: u32| {
        table.handle(&format!("192.0.2.1:{}", 5000 + number), &check(&numbered(number)))
    };
    for number in 0..3 {
        begin(&mut table, number).expect("within the budget");
    }
    assert_eq!(begin(&mut table, 3), Err(Refusal::Budget));
    assert!(table.handle("198.51.100.1:1", &check(&numbered(4))).is_ok(), "another has its own");
    table.now += Duration::from_millis(100);
    assert!(begin(&mut table, 3).is_ok());
    assert_eq!(begin(&mut table, 5), Err(Refusal::Budget));
}

#[test]
fn forged_checks_spend_nobodys_budget() {
    let mut table = Table::new(Settings { source_flows_burst: 1, ..settings() });
    let forged = check_with(&Key::new([8; 32]), &ROUTE);
    for port in 1..100 {
        assert_eq!(table.handle(&format!("192.0.2.1:{port}"), &forged), Err(Refusal::Forged));
    }
    assert!(table.handle("192.0.2.1:5000", &check(&ROUTE)).is_ok());
}

#[test]
fn idle_flows_are_swept_and_make_room_for_others() {
    let mut table = Table::new(settings());
    for port in 0..PARTICIPANT_FLOWS_MAX {
        table.handle(&format!("192.0.2.1:{}", 5000 + port), &check(&ROUTE)).expect("good");
    }
    table.now += IDLE / 2;
    table.handle("192.0.2.1:5000", MEDIA).expect("known");
    table.now += IDLE / 2;
    table.flows.sweep(table.now);
    assert_eq!(table.flows.len(), 1);
    assert_eq!(table.handle("192.0.2.1:5001", MEDIA), Err(Refusal::UnknownFlow));
    assert!(table.handle("192.0.2.2:5000", &check(&ROUTE)).is_ok(), "its share is free again");
    table.now += IDLE;
    table.flows.sweep(table.now);
    assert!(table.flows.is_empty() && table.flows.participants.is_empty() && table.flows.idle.is_empty());
}

#[test]
fn one_sweep_looks_at_a_bounded_number_of_flows() {
    let mut table = Table::new(Settings { source_flows_burst: u32::MAX, ..settings() });
    for number in 0..600_u32 {
        table.handle(&format!("192.0.2.1:{}", 5000 + number), &check(&numbered(number))).expect("good");
    }
    table.now += IDLE;
    table.flows.sweep(table.now);
    assert_eq!(table.flows.len(), 600 - SWEEP_FLOWS);
}

#[test]
fn the_first_check_of_a_connection_is_verified_without_a_flow() {
    let mut table = Table::new(settings());
    let verified = table.flows.handle_connection(MINUTE, &check(&ROUTE)).expect("good");
    assert_eq!((verified.route, verified.target), (ROUTE, Target { place: 1, worker: 2 }));
    assert_eq!(table.flows.handle_connection(MINUTE, MEDIA), Err(Refusal::Malformed));
    assert!(table.flows.is_empty());
}

proptest! {
    /// Whatever comes in whatever order: limits hold, counts of participants are those of their flows, and every flow
    /// is to be looked at once.
    #[test]
    fn limits_hold_and_the_books_balance(
        steps in proptest::collection::vec((0_u8..4, 0_u32..40, 1_u16..50, 0_u64..20), 1..400),
    ) {
        let mut table = Table::new(Settings { flows_max: 60, ..settings() });
        for (kind, number, port, seconds) in steps {
            let client = format!("192.0.2.1:{port}");
            let _ = match kind {
                0 | 1 => table.handle(&client, &check(&numbered(number))),
                2 => table.handle(&client, MEDIA),
                _ => {
                    table.now += Duration::from_secs(seconds);
                    table.flows.sweep(table.now);
                    Err(Refusal::UnknownFlow)
                }
            };
            let flows = &table.flows;
            prop_assert!(flows.len() <= 60);
            prop_assert_eq!(flows.idle.len(), flows.len());
            prop_assert_eq!(flows.participants.values().sum::<usize>(), flows.len());
            prop_assert!(flows.participants.values().all(|count| (1..=PARTICIPANT_FLOWS_MAX).contains(count)));
        }
    }
}

#[test]
fn nodes_that_come_are_found_and_flows_of_one_that_went_never_reach_who_has_its_place() {
    let mut table = Table::new(settings());
    let client = "192.0.2.1:5000";
    table.handle(client, &check(&ROUTE)).expect("it is there");
    // It went, and another has its place.
    table.flows.set_nodes([Some(3), Some(9)]);
    assert_eq!(table.handle(client, MEDIA), Err(Refusal::UnknownFlow));
    assert_eq!(table.handle(client, &check(&ROUTE)), Err(Refusal::UnknownNode));
    let other = Route { node: 9, ..ROUTE };
    assert_eq!(table.handle("192.0.2.2:5000", &check(&other)), Ok(Target { place: 1, worker: 2 }));
    // It is back, at a place of its own: its flows go on with the next check.
    table.flows.set_nodes([Some(3), None, Some(7)]);
    assert_eq!(table.handle(client, MEDIA), Err(Refusal::UnknownFlow));
    assert_eq!(table.handle(client, &check(&ROUTE)), Ok(Target { place: 2, worker: 2 }));
    assert_eq!(table.handle(client, MEDIA), Ok(Target { place: 2, worker: 2 }));
    assert_eq!(table.handle("192.0.2.2:5000", MEDIA), Err(Refusal::UnknownFlow));
    assert_eq!(table.flows.len(), 2);
}
