//! A look at a database that changes nothing, also beside a gateway.

use trunkline_gateway::store::inspect::Found;
use trunkline_gateway::store::postgres::look::{Facts, look, walk};

use super::*;

/// All that rests, but for the lease, which a gateway renews.
fn rows(database: &Database) -> String {
    database.sql(
        "SELECT 'b', part, block, encode(heads || body, 'hex') FROM blocks UNION ALL
         SELECT 's', 0, 0, encode(key || value, 'hex') FROM state UNION ALL
         SELECT 'k', lease, slot, encode(content, 'hex') FROM key_slots UNION ALL
         SELECT 'c', 0, block, encode(stream, 'hex') FROM cursors UNION ALL
         SELECT 'g', part, block, '' FROM gone UNION ALL
         SELECT 't', 0, 0, token::text FROM leases ORDER BY 1, 2, 3, 4",
    )
}

fn seen(database: &Database, key: u8) -> Result<Facts, StoreError> {
    look(&database.options(key))
}

/// What a walk sees, and the blocks that do not open.
fn walked(database: &Database) -> (Model, Vec<(Stream, u64)>) {
    let (mut model, mut damaged) = (Model::default(), Vec::new());
    walk(&database.options(7), &mut |found| match found {
        Found::State { key, value } => drop(model.state.insert(key, value.unwrap())),
        Found::Block { stream, first_seq, records: Some(records) } => {
            let records = records.into_iter().map(|(_, record)| record).collect();
            model.blocks.insert((stream, first_seq), records);
        }
        Found::Block { stream, first_seq, records: None } => damaged.push((stream, first_seq)),
    })
    .unwrap();
    (model, damaged)
}

/// More than a page of blocks, some of them gone, and one larger than a page.
fn filled(store: &Arc<impl Store + ?Sized>) -> Model {
    let mut model = Model::default();
    let mut ask = |now: Time, ops: Vec<Op>| {
        commit_at(store, now, ops.clone()).unwrap();
        model.apply(&ops);
    };
    for n in 0..40_u64 {
        let ops = (0..9).map(|lane| append(outbox(1, lane), n * 2 + 1, 2, 50)).collect();
        // An hour makes a part.
        ask(START + HOUR * u32::try_from(n / 15).unwrap(), ops);
    }
    let later = START + HOUR * 3;
    ask(later, vec![put("a", "1"), put("b", "2"), append(INBOX, 1, 2, 3 << 20), append(INBOX, 3, 1, 9)]);
    ask(later, vec![truncate(outbox(1, 0), 80), truncate(outbox(1, 1), 7), Op::Delete { key: b"b".into() }]);
    ask(later, vec![Op::Remove { stream: outbox(1, 2), first_seq: 5 }]);
    model
}

#[test]
fn a_walk_beside_a_gateway_sees_all_that_is_there_and_changes_nothing() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    let mut model = filled(&store);
    let before = rows(&database);
    assert_eq!(walked(&database), (model.clone(), Vec::new()));
    assert!(seen(&database, 7).unwrap().in_use);
    assert_eq!(rows(&database), before);
    // The gateway is still the one that writes.
    let ops = vec![append(INBOX, 4, 1, 9)];
    commit_at(&store, START + HOUR * 3, ops.clone()).unwrap();
    model.apply(&ops);
    drop(store);
    let before = rows(&database);
    assert_eq!(walked(&database), (model, Vec::new()));
    assert_eq!(rows(&database), before);
    let facts = seen(&database, 7).unwrap();
    assert_eq!((facts.in_use, facts.tables, facts.may_create), (false, Some(facts.tables_known), true));
    // That of the tests has neither.
    assert_eq!((facts.standby, facts.careful), (false, false));
}

#[test]
fn a_walk_does_not_keep_a_gateway_from_dropping_its_parts() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    filled(&store);
    let mut pages = 0;
    walk(&database.options(7), &mut |found| {
        if let Found::Block { .. } = found {
            pages += 1;
            if pages == 1 {
                // The first part is without use now, and is dropped with this.
                let ops = (0..9).map(|lane| truncate(outbox(1, lane), 60)).collect();
                commit_at(&store, START + HOUR * 3, ops).unwrap();
            }
        }
    })
    .unwrap();
    outage::eventually(|| database.sql("SELECT count(*) FROM parts") == "2");
}

#[test]
fn a_block_that_does_not_open_is_told_and_passed() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    let mut model = filled(&store);
    drop(store);
    let _ =
        database.sql("UPDATE blocks SET body = set_byte(body, 3, get_byte(body, 3) # 1) WHERE block = 30");
    let (found, damaged) = walked(&database);
    let [damaged] = damaged.try_into().unwrap();
    assert!(model.blocks.remove(&damaged).is_some());
    assert_eq!(found, model);
}

#[test]
fn a_database_without_a_store_is_seen_as_that_and_stays_so() {
    let database = Database::new();
    assert_eq!(seen(&database, 7).unwrap().tables, None);
    let error = walk(&database.options(7), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("there is no store in it"), "{error}");
    assert_eq!(database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'trunkline'"), "0");
}

#[test]
fn what_keeps_a_gateway_from_starting_is_seen() {
    let database = Database::new();
    drop(PostgresStore::open(&database.options(7)).unwrap());
    let error = seen(&database, 8).unwrap_err();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    let name = &database.name;
    database
        .server
        .query("postgres", &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let error = seen(&database, 7).unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(why) if why.contains("does not allow writes")),
        "{error}"
    );
    database.server.query("postgres", &format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    seen(&database, 7).unwrap();
    let error = look(&postgres_options(&database.server.url("nowhere"), 7)).unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("does not exist")), "{error}");
    let error = look(&postgres_options("postgres://gw@127.0.0.1:9/t", 7)).unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(_)), "{error}");
}

#[test]
fn a_user_that_may_not_make_tables_is_seen() {
    let database = Database::new();
    let role = format!("r_{}", database.name);
    let password = postgres::PASSWORD.replace('\'', "''");
    database.server.query("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'"));
    let url = database.server.url(&database.name).replace(postgres::USER, &role);
    assert!(!look(&postgres_options(&url, 7)).unwrap().may_create);
    database.server.query("postgres", &format!("GRANT CREATE ON DATABASE {} TO {role}", database.name));
    assert!(look(&postgres_options(&url, 7)).unwrap().may_create);
}
