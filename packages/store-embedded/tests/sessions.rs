//! Forks and removals in any order, and how many runs a queue holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Enqueued, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::dice::Dice;
use torpor_testkit::forks::{Bench, Stores, play, steps};
use torpor_testkit::sample::{claimed, created, done, ended, first, first_claimed, further, keyed, write};

/// How many plays there are.
const SEEDS: u64 = 24;

struct Folder(PathBuf);

impl Folder {
    fn count(&self, table: &str) -> u64 {
        let db = Connection::open(self.0.join("store.db")).unwrap();
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| Ok(r.get::<_, i64>(0)? as u64)).unwrap()
    }
}

#[async_trait]
impl Bench for Folder {
    async fn open(&mut self) -> Stores {
        let options = Options { clock: Arc::new(ManualClock::default()), ..Options::default() };
        let store = Arc::new(Store::open(&self.0, options).unwrap());
        Stores { log: store.clone(), queue: store.clone(), sessions: store }
    }

    async fn entries(&mut self) -> u64 {
        self.count("entry")
    }

    async fn check_empty(&mut self) {
        for table in
            ["session", "entry", "run", "queue", "gate", "mark", "ancestry", "garbage", "forgetting", "dead_letter"]
        {
            assert_eq!(self.count(table), 0, "{table}");
        }
    }
}

#[tokio::test]
async fn forks_and_removals_in_any_order_keep_every_entry_that_somebody_needs() {
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        play(&mut Folder(dir.path().to_owned()), steps(&mut Dice::new(seed))).await;
    }
}

/// A full queue says so, keeps what it has, recognises what came before, and takes more once there is room.
#[tokio::test]
async fn a_queue_holds_so_many_runs_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = Options { clock: clock.clone(), max_queued: 3, ..Options::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    created(store.enqueue(further("s")).await.unwrap());
    let last = || keyed(first("last"), "k", "h");
    created(store.enqueue(last()).await.unwrap());
    for full in [first("t"), further("s"), first_claimed("u")] {
        assert!(matches!(store.enqueue(full).await.unwrap(), Enqueued::Full));
    }
    assert!(matches!(store.enqueue(last()).await.unwrap(), Enqueued::Existing(_)));
    store.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
    clock.advance(Duration::from_secs(1));
    created(store.enqueue(first("t")).await.unwrap());
    drop(store);
    // The next process counts what it finds.
    let store = Store::open(dir.path(), options).unwrap();
    assert!(matches!(store.enqueue(first("v")).await.unwrap(), Enqueued::Full));
    // As many as it holds go through one after the other, whatever the count was.
    let room = Store::open(
        tempfile::tempdir().unwrap().path(),
        Options { clock: Arc::new(ManualClock::default()), max_queued: 1, ..Options::default() },
    )
    .unwrap();
    for n in 0..5 {
        let lease = claimed(room.enqueue(first_claimed(&n.to_string())).await.unwrap());
        room.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
    }
    room.sweep().await.unwrap();
}
