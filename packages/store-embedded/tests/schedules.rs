//! Schedules across processes: a fire that a process left is the next one's at once, and damage stops nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::path::Path;
use std::sync::Arc;

use torpor_core::schedule::{Begin, Begun, FireId, ScheduleStore as _};
use torpor_core::{Timestamp, store};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;

fn open(dir: &Path) -> Store {
    Store::open(dir, Options { clock: Arc::new(ManualClock::default()), ..Options::default() }).unwrap()
}

fn begin(by: &str) -> Begin {
    let due = Timestamp(60_000);
    Begin { fire: FireId::of_minute(due), due: Some(due), by: by.into() }
}

#[tokio::test]
async fn what_a_process_left_is_the_next_ones_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    first.watch("s", "plan", Timestamp(0)).await.unwrap();
    assert!(matches!(first.begin("s", &begin("a")).await.unwrap(), Begun::Yours(_)));
    assert_eq!(first.take_over("s", "b").await.unwrap(), []);
    drop(first);
    let next = open(dir.path());
    assert!(matches!(next.begin("s", &begin("b")).await.unwrap(), Begun::There(_)));
    assert_eq!(next.take_over("s", "b").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_state_that_cannot_be_read_stops_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    for name in ["bad", "good"] {
        first.watch(name, "plan", Timestamp(0)).await.unwrap();
    }
    drop(first);
    let db = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    db.execute("UPDATE schedule SET state = 'damaged' WHERE name = 'bad'", []).unwrap();
    let next = open(dir.path());
    assert_eq!(next.states().await.unwrap().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert!(matches!(next.begin("bad", &begin("a")).await, Err(store::Error::Unreadable(_))));
}
