//! Messages that scripts make: the form that the program would give them, and shards that know their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use support::store;
use torpor_core::envelope::Spec;
use torpor_core::outcome::Status;
use torpor_core::queue::{NewRun, WorkQueue as _};
use torpor_core::webhook::{Channel, Claimed, Event, Kind, Noted, Outbox, Target};
use torpor_core::{Clock as _, SessionKey, Timestamp};
use torpor_store_redis::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{created, first};

const LEASE: Duration = Duration::from_secs(30);

/// A run of this session that somebody wants to be told of.
fn telling(tenant: &str, session: &str) -> NewRun {
    let target = Target { url: "https://hooks.example/x".into(), secret_ref: None };
    let new = first("any");
    NewRun {
        session: SessionKey::new(tenant, session).unwrap(),
        spec: Spec { webhook: Some(target), ..new.spec },
        ..new
    }
}

async fn take(store: &Store, max: usize) -> Vec<Claimed> {
    Outbox::claim(store, Channel::Webhook, max, LEASE, Duration::ZERO).await.unwrap()
}

/// A script writes the body, because it alone knows the time; every byte is what the core would write.
#[tokio::test]
async fn bodies_are_those_of_the_core() {
    let Some(server) = Server::shared() else { return };
    let days = [
        1,
        951_782_400_123,
        951_868_800_000,
        1_582_934_400_000,
        1_709_164_799_999,
        1_709_251_200_000,
        1_735_689_599_999,
        1_735_689_600_000,
        1_795_173_689_999,
        4_107_542_400_000,
    ];
    for (n, (tenant, session)) in
        [("acme", "s"), (r#"a/"b""#, r"back\slash \n"), ("ü 日本", "\u{2028}'<>&/"), ("{}", "\u{1f600}")]
            .into_iter()
            .enumerate()
    {
        let clock = Arc::new(ManualClock::default());
        let prefix = format!("bodies-{n}");
        let store = store(&server, Options { prefix, clock: Some(clock.clone()), ..Options::default() }).await;
        for (day, at) in days.into_iter().enumerate() {
            clock.set(Timestamp(at));
            let run = created(store.enqueue(telling(tenant, &format!("{session}{day}"))).await.unwrap());
            store.cancel(&run.run_id).await.unwrap();
            let Claimed { message, attempt } = take(&store, 1).await.remove(0);
            assert!(store.note(&message.id, attempt, Noted::Sent { status: Some(204) }).await.unwrap());
            let event = Event {
                kind: Kind::Ended,
                at: clock.now(),
                run: &run.run_id,
                session: &run.session,
                status: Status::Cancelled,
                gate: None,
            };
            assert_eq!(message.body, event.body(&message.id));
        }
    }
}

/// Messages of all shards come in one order, the longest due first, and a note finds the shard of its message.
#[tokio::test]
async fn shards_share_one_outbox() {
    let Some(server) = Server::shared() else { return };
    let clock = Arc::new(ManualClock::default());
    let options = Options { prefix: "outbox".to_owned(), shards: 4, clock: Some(clock.clone()), ..Options::default() };
    let store = store(&server, options).await;
    let mut posted = Vec::new();
    for n in 0..24 {
        clock.advance(Duration::from_millis(1));
        let run = created(store.enqueue(telling(&format!("tenant-{n}"), "s")).await.unwrap());
        store.cancel(&run.run_id).await.unwrap();
        posted.push(run.run_id);
    }
    assert_eq!(store.backlog().await.unwrap().webhooks, 24);
    let (mut runs, mut shards) = (Vec::new(), BTreeSet::new());
    for part in [5, 1, 10, 100] {
        let claimed = take(&store, part).await;
        assert!(claimed.len() <= part);
        let mut batch: Vec<_> = claimed.iter().map(|c| c.message.run.clone()).collect();
        let order = |run: &torpor_core::RunId| posted.iter().position(|other| other == run);
        batch.sort_by_key(order);
        runs.extend(batch);
        for Claimed { message, attempt } in claimed {
            shards.insert(message.id.as_str()[20..24].to_owned());
            assert!(store.note(&message.id, attempt, Noted::Sent { status: Some(200) }).await.unwrap());
            assert!(!store.note(&message.id, attempt, Noted::Sent { status: Some(200) }).await.unwrap());
        }
    }
    assert_eq!(runs, posted);
    assert_eq!(shards.len(), 4, "tenants are spread");
    assert_eq!(store.backlog().await.unwrap().webhooks, 0);
}
