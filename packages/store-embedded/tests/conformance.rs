//! The embedded store keeps every promise of the store seams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::Fixture;
use torpor_testkit::conformance::keys::Keys;

async fn fresh() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (lease, result_ttl) = (Duration::from_secs(3), Duration::from_secs(3600));
    let store =
        Store::open(dir.path(), Options { lease, result_ttl, clock: clock.clone(), ..Options::default() }).unwrap();
    let store = Arc::new(store);
    let file = dir.path().join("store.db");
    let spoil = move |run: &torpor_core::RunId| -> BoxFuture<'static, ()> {
        let db = rusqlite::Connection::open(&file).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        let newer = "UPDATE run SET spec = json_set(spec, '$.work.kind', 'of a newer build') WHERE run_id = ?1";
        assert_eq!(db.execute(newer, [run.as_str()]).unwrap(), 1);
        Box::pin(std::future::ready(()))
    };
    Fixture {
        log: store.clone(),
        queue: store.clone(),
        runs: store.clone(),
        gates: store.clone(),
        outbox: store.clone(),
        sessions: store,
        lease,
        result_ttl,
        time: clock,
        spoil: Box::new(spoil),
        keep: Box::new(dir),
    }
}

torpor_testkit::conformance!(fresh);

async fn fresh_keys() -> Keys {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    Keys { store: Arc::new(store), keep: Box::new(dir) }
}

torpor_testkit::key_conformance!(fresh_keys);
