//! The embedded store keeps every promise of the store seams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::conformance::{Fixture, Spoil};

async fn fresh() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (lease, result_ttl) = (Duration::from_secs(3), Duration::from_secs(3600));
    let (dead_letter_ttl, max_dead_letters) = (result_ttl * 2, 50);
    let options = Options {
        lease,
        result_ttl,
        dead_letter_ttl,
        max_dead_letters: max_dead_letters as u64,
        clock: clock.clone(),
        ..Options::default()
    };
    let store = Arc::new(Store::open(dir.path(), options).unwrap());
    let file = dir.path().join("store.db");
    let kind = |kind: &'static str| -> Spoil {
        let file = file.clone();
        Box::new(move |run| {
            let db = rusqlite::Connection::open(&file).unwrap();
            db.busy_timeout(Duration::from_secs(10)).unwrap();
            let change = "UPDATE run SET spec = json_set(spec, '$.work.kind', ?2) WHERE run_id = ?1";
            assert_eq!(db.execute(change, [run.as_str(), kind]).unwrap(), 1);
            Box::pin(std::future::ready(()))
        })
    };
    Fixture {
        log: store.clone(),
        queue: store.clone(),
        runs: store.clone(),
        gates: store.clone(),
        outbox: store.clone(),
        sessions: store.clone(),
        letters: store,
        lease,
        result_ttl,
        dead_letter_ttl,
        max_dead_letters,
        time: clock,
        spoil: kind("of a newer build"),
        mend: kind("prompt"),
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

async fn fresh_schedules() -> Schedules {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
    Schedules { store: Arc::new(store), time: clock, keep: Box::new(dir) }
}

torpor_testkit::schedule_conformance!(fresh_schedules);
