//! A gateway whose store is moved to a database and back: its peers and its messaging server notice nothing.

use std::sync::Arc;

use trunkline_gateway::config::engine;
use trunkline_gateway::run::RunError;
use trunkline_gateway::store::migrate::{End, Moved, migrate};
use trunkline_gateway::store::postgres::PostgresStore;
use trunkline_gateway::store::redb::RedbStore;
use trunkline_gateway::store::{Store, StoreError};
use trunkline_gateway_proto::time::Time;
use trunkline_testkit::postgres;

use super::*;

/// Moves a site's store, as `store migrate` does.
pub(super) async fn moved(site: &mut Site, to_database: bool) -> Moved {
    let config = site.config().clone();
    let work = move || {
        let files: Arc<dyn Store> = RedbStore::open(&engine::embedded(&config).unwrap()).unwrap();
        let database: Arc<dyn Store> =
            PostgresStore::open(&engine::database(&config, &config.store).unwrap()).unwrap();
        let files = End { store: &*files, name: "files", engine: "redb" };
        let database = End { store: &*database, name: "database", engine: "postgres" };
        let (from, to) = if to_database { (files, database) } else { (database, files) };
        let now = || Time::from_unix_ms(1_700_000_000_000);
        migrate(from, to, &now, &mut |_, _, _| ()).unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What waits is delivered, once and in order, and what comes after it.
async fn goes_on(alpha: &Site, beta: &Site, waiting: &[Value]) {
    alpha.up(beta).await;
    for id in waiting {
        assert_eq!(beta.api.receive().await["id"], *id);
    }
    for (from, to) in [(alpha, beta), (beta, alpha)] {
        let (status, result) = from.api.submit(&from.user("ann"), &to.user("bob")).await;
        assert_eq!(status, 202, "{result}");
        assert_eq!(to.api.receive().await["id"], result["id"]);
    }
}

async fn submit(alpha: &Site, beta: &Site, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        // One conversation: they stay in order.
        let more = json!({ "conversation": "c" });
        let (status, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), more).await;
        assert_eq!(status, 202, "{result}");
        ids.push(result["id"].clone());
    }
    ids
}

#[tokio::test]
async fn a_gateway_goes_on_in_the_database_that_its_store_was_moved_to_and_in_its_files_again() {
    let (mut alpha, mut beta) = two_sites().await;
    // So that streams do not begin at their beginning.
    let before = submit(&alpha, &beta, 3).await;
    goes_on(&alpha, &beta, &before).await;
    beta.stop().await;
    let waiting = submit(&alpha, &beta, 5).await;
    alpha.stop().await;

    let server = postgres::shared();
    std::fs::write(alpha.path("password"), postgres::PASSWORD).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(alpha.path("password"), permissions).unwrap();
    alpha.config().store_password_file = Some(alpha.path("password"));
    alpha.config().store = server.url(&server.database());
    assert!(moved(&mut alpha, true).await.records >= 5);

    let database = std::mem::replace(&mut alpha.config().store, "redb".to_owned());
    let refused = alpha.try_start().await.unwrap_err();
    assert!(
        matches!(&refused, RunError::Store(StoreError::Moved(why)) if why.contains("moved to the database")),
        "{refused}"
    );
    alpha.config().store = database;
    alpha.start().await;
    beta.start().await;
    goes_on(&alpha, &beta, &waiting).await;
    assert_eq!(alpha.get("/admin/v1/audit/verify").await["ok"], true);

    beta.stop().await;
    let waiting = submit(&alpha, &beta, 4).await;
    alpha.stop().await;
    moved(&mut alpha, false).await;
    let refused = alpha.try_start().await.unwrap_err();
    assert!(matches!(&refused, RunError::Store(StoreError::Moved(_))), "{refused}");
    alpha.config().store = "redb".to_owned();
    alpha.start().await;
    beta.start().await;
    goes_on(&alpha, &beta, &waiting).await;
    assert_eq!(alpha.get("/admin/v1/audit/verify").await["ok"], true);
}
