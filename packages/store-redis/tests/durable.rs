//! Intents that wait until they are on a disk or at a replica.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use std::time::Duration;

use futures::future::join_all;
use support::{Plain, insist, running, store};
use torpor_core::entry::Body;
use torpor_core::log::{AppendError, SessionLog as _};
use torpor_core::queue::{Lease, NewRun, WorkQueue as _};
use torpor_core::{Position, SessionKey};
use torpor_store_redis::{Address, Durability, Options, Store};
use torpor_testkit::redis::{Cluster, Server};
use torpor_testkit::sample::{claimed, first_claimed, note, write};

fn synced(replicas: u16, timeout: Duration) -> Options {
    Options { durability: Durability::Synced { replicas }, timeout, ..Options::default() }
}

/// An entry that is written before something is done.
fn intent(lease: &Lease) -> Body {
    let run = lease.record.run_id.clone();
    Body::ModelRequested { run, fingerprint: "f".into(), estimate: 1, cost: None }
}

/// Whether the server can be asked to wait for its disk; said where it cannot, so that nobody takes that for tested.
async fn knows_waitaof(plain: &mut Plain) -> bool {
    let about: Vec<redis::Value> = plain.ask(&["COMMAND", "INFO", "WAITAOF"]).await;
    let knows = matches!(about.first(), Some(redis::Value::Array(_)));
    if !knows {
        eprintln!("SKIPPED in part: this server has no WAITAOF");
    }
    knows
}

#[tokio::test]
async fn an_intent_waits_for_the_disk_where_the_server_syncs_it_by_itself_once_a_second() {
    for (settings, waits) in [
        (&["--appendfsync", "everysec"][..], true),
        (&["--appendfsync", "always"], false),
        (&["--appendonly", "no"], false),
    ] {
        let Some(server) = Server::with(settings) else { return };
        let mut plain = Plain::to(&server).await;
        let waits = waits && knows_waitaof(&mut plain).await;
        let store = store(&server, synced(0, Duration::from_secs(5))).await;
        let lease = running(&store, "s").await;
        store.append(write(&lease, 0, vec![note(&lease)])).await.unwrap();
        for n in [1, 3, 5] {
            let append = write(&lease, n, vec![intent(&lease)]);
            assert_eq!(store.append(append.clone()).await.unwrap(), Position(n + 1));
            assert_eq!(store.append(append).await.unwrap(), Position(n + 1), "repeated, and waited for again");
            store.append(write(&lease, n + 1, vec![note(&lease)])).await.unwrap();
        }
        assert_eq!(plain.calls("waitaof").await, if waits { 6 } else { 0 }, "{settings:?}: outcomes wait for nothing");
        assert_eq!(plain.calls("wait").await, 0);
        let () = plain.ask(&["SCRIPT", "FLUSH"]).await;
        store.append(write(&lease, 7, vec![intent(&lease)])).await.unwrap();
    }
}

#[tokio::test]
async fn intents_that_come_at_the_same_time_share_a_wait() {
    let Some(server) = Server::start() else { return };
    let mut plain = Plain::to(&server).await;
    if !knows_waitaof(&mut plain).await {
        return;
    }
    let store = store(&server, synced(0, Duration::from_secs(5))).await;
    let mut leases = Vec::new();
    for n in 0..50 {
        leases.push(running(&store, &format!("s{n}")).await);
    }
    let results = join_all(leases.iter().map(|lease| store.append(write(lease, 0, vec![intent(lease)])))).await;
    assert!(results.into_iter().all(|result| result.unwrap() == Position(1)));
    let waits = plain.calls("waitaof").await;
    assert!((1..10).contains(&waits), "{waits} waits for 50 intents");
}

#[tokio::test]
async fn an_intent_waits_for_replicas_and_is_refused_without_them() {
    let Some(primary) = Server::start() else { return };
    let port = primary.port().to_string();
    let replica = || Server::with(&["--replicaof", "127.0.0.1", &port]);
    let store = store(&primary, synced(1, Duration::from_secs(1))).await;
    let lease = running(&store, "s").await;
    let append = write(&lease, 0, vec![intent(&lease)]);
    for _ in 0..2 {
        let refused = store.append(append.clone()).await.unwrap_err();
        assert!(matches!(&refused, AppendError::Store(e) if e.is_retryable()), "{refused}");
    }
    let first = replica();
    let (position, _) = insist(&store, append).await;
    assert_eq!(position, Position(1), "stored once, and now it is there too");
    let mut of_replica = Plain::to(first.as_ref().unwrap()).await;
    let log = of_replica.log_of("s").await;
    let there: u64 = of_replica.ask(&["XLEN", &log]).await;
    assert_eq!(there, 1);
    drop(first);
    let refused = store.append(write(&lease, 1, vec![intent(&lease)])).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Store(e) if e.is_retryable()), "{refused}");
    store.append(write(&lease, 2, vec![note(&lease)])).await.expect("what is no intent waits for nobody");
}

#[tokio::test]
async fn an_intent_waits_for_the_replicas_of_its_own_shard_also_after_a_failover() {
    let Some(cluster) = Cluster::with(1, &[]) else { return };
    let options = Options { shards: 4, ..synced(1, Duration::from_secs(2)) };
    let store = Store::connect(&Address::parse(&cluster.url()).unwrap(), options).await.unwrap();
    let mut leases = Vec::new();
    for n in 0..8 {
        let session = SessionKey::new(&format!("tenant-{n}"), "s").unwrap();
        leases.push(claimed(store.enqueue(NewRun { session, ..first_claimed("s") }).await.unwrap()));
    }
    let (store, leases) = (&store, &leases);
    let intents = |after| {
        let insisted = leases.iter().map(move |lease| insist(store, write(lease, after, vec![intent(lease)])));
        join_all(insisted)
    };
    assert!(intents(0).await.into_iter().all(|(position, _)| position == Position(1)));
    // What was acknowledged is at the replicas: whoever takes over knows the log as its writers do.
    for replica in &cluster.nodes()[3..] {
        replica.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap();
    }
    assert!(intents(1).await.into_iter().all(|(position, _)| position == Position(2)));
}
