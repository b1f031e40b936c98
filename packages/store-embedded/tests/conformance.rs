//! The embedded store keeps every promise of the three store seams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::Fixture;

async fn fresh() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (lease, result_ttl) = (Duration::from_secs(3), Duration::from_secs(3600));
    let store = Store::open(dir.path(), Options { lease, result_ttl, clock: clock.clone() }).unwrap();
    let store = Arc::new(store);
    Fixture {
        log: store.clone(),
        queue: store.clone(),
        runs: store,
        lease,
        result_ttl,
        time: clock,
        keep: Box::new(dir),
    }
}

torpor_testkit::conformance!(fresh);
