//! The store on Redis keeps every promise of the store seams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::{Fixture, Spoil};
use torpor_testkit::redis::Server;

async fn fresh() -> Option<Fixture> {
    let server = Server::shared()?;
    let clock = Arc::new(ManualClock::default());
    let (lease, result_ttl) = (Duration::from_secs(3), Duration::from_secs(3600));
    let (dead_letter_ttl, max_dead_letters) = (result_ttl * 2, 50);
    let prefix = uuid::Uuid::new_v4().simple().to_string();
    let options = Options {
        prefix: prefix.clone(),
        lease,
        result_ttl,
        dead_letter_ttl,
        max_dead_letters: max_dead_letters as u64,
        clock: Some(clock.clone()),
        ..Options::default()
    };
    let store = Arc::new(Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap());
    let plain = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let kind = |from: &'static str, to: &'static str| -> Spoil {
        let (plain, prefix) = (plain.clone(), prefix.clone());
        Box::new(move |run| {
            let (mut plain, key) = (plain.clone(), format!("{prefix}:{{0}}:run:{run}"));
            Box::pin(async move {
                let spec: String = redis::cmd("HGET").arg(&key).arg("spec").query_async(&mut plain).await.unwrap();
                assert!(spec.contains(from), "{spec}");
                let changed = spec.replace(from, to);
                let set = redis::cmd("HSET").arg(&key).arg("spec").arg(changed).to_owned();
                set.query_async::<u64>(&mut plain).await.unwrap();
            })
        })
    };
    Some(Fixture {
        spoil: kind(r#""kind":"prompt""#, r#""kind":"of a newer build""#),
        mend: kind(r#""kind":"of a newer build""#, r#""kind":"prompt""#),
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
        keep: Box::new(server),
    })
}

torpor_testkit::conformance!(fresh);
