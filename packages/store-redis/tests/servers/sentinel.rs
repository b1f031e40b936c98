//! Sentinels that say where the primary is, and a primary that changes.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::entry::Body;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Lease, WorkQueue as _};
use torpor_core::{Position, WorkerId};
use torpor_store_redis::{Address, Durability, Options, Store};
use torpor_testkit::conformance::Fixture;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::redis::{Sentinels, Server};
use torpor_testkit::sample::{claimed, created, first, first_claimed, key, write};

use crate::cluster::insist;
use crate::place::Place;

fn place() -> Option<Place> {
    let servers = Sentinels::shared()?;
    let ports = vec![servers.primary_port()];
    Some(Place::new(servers.url(), ports, servers))
}

async fn fresh() -> Option<Fixture> {
    Some(place()?.fixture().await)
}

async fn fresh_keys() -> Option<Keys> {
    Some(place()?.keys().await)
}

async fn fresh_schedules() -> Option<Schedules> {
    Some(place()?.schedules().await)
}

torpor_testkit::conformance!(fresh);
torpor_testkit::key_conformance!(fresh_keys);
torpor_testkit::schedule_conformance!(fresh_schedules);

/// Sessions that are written to at the same time.
const WRITERS: u64 = 8;

/// An entry that waits for the replica before it counts as stored.
fn intent(lease: &Lease) -> Body {
    let run = lease.record.run_id.clone();
    Body::ModelRequested { run, fingerprint: "f".into(), estimate: 1, cost: None }
}

/// The primary dies under load. Its writers find the new one by themselves, hear nothing but the truth meanwhile, and nothing
/// that was answered with the replica's word is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_loses_nothing_that_the_replica_had() {
    let Some(mut servers) = Sentinels::start() else { return };
    let options = Options {
        durability: Durability::Synced { replicas: 1 },
        timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let store = Arc::new(Store::connect(&Address::parse(&servers.url()).unwrap(), options).await.unwrap());
    let mut writers = Vec::new();
    let begun = Arc::new(tokio::sync::Barrier::new(WRITERS as usize + 1));
    for n in 0..WRITERS {
        let (store, begun) = (Arc::clone(&store), Arc::clone(&begun));
        writers.push(tokio::spawn(async move {
            let lease = claimed(store.enqueue(first_claimed(&format!("s{n}"))).await.unwrap());
            store.append(write(&lease, 0, vec![intent(&lease)])).await.unwrap();
            begun.wait().await;
            (lease, store)
        }));
    }
    begun.wait().await;
    let mut leases = Vec::new();
    for writer in writers {
        leases.push(writer.await.unwrap().0);
    }
    let writing: Vec<_> = leases
        .iter()
        .cloned()
        .map(|lease| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut refusals = 0;
                let mut head = 1;
                // A replica is a second one, so without the old primary nobody gives a word: then it goes on without.
                while refusals == 0 {
                    let append = write(&lease, head, vec![intent(&lease)]);
                    match store.append(append.clone()).await {
                        Ok(position) => head = position.0,
                        Err(_) => refusals += 1,
                    }
                }
                (lease, head)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await; // the load, of which the failover comes in the middle
    let old = servers.primary_port();
    servers.store(0).kill();
    let mut answered = Vec::new();
    for writer in writing {
        answered.push(writer.await.unwrap());
    }
    // The old one comes back, as the new one's replica; from now on there is a second one again.
    let promoted = async {
        while servers.primary_port() == old {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), promoted).await.expect("the sentinels promote the replica");
    servers.store(0).launch();
    demote(&servers.stores()[0], servers.primary_port());
    for (lease, head) in answered {
        let session = lease.session().clone();
        let stored = store_head(&store, &session).await;
        assert!(stored >= head, "{stored} are stored of {head} that were answered");
        let (position, _) = insist(&store, write(&lease, stored, vec![intent(&lease)])).await;
        assert_eq!(position, Position(stored + 1), "its owner goes on");
        let entries = store.read(&session, Position(1), 100_000).await.unwrap();
        let positions: Vec<u64> = entries.iter().map(|entry| entry.position.0).collect();
        assert_eq!(positions, (1..=stored + 1).collect::<Vec<_>>(), "without a gap");
    }
    // Those who wait for work and news do so at the new primary.
    let worker = WorkerId::from("w");
    let waiting = store.claim(&worker, 1, Duration::from_secs(20));
    let (found, accepted) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.enqueue(first("after")).await
    });
    created(accepted.unwrap());
    assert_eq!(found.unwrap().iter().map(|lease| lease.session()).collect::<Vec<_>>(), [&key("after")]);
}

async fn store_head(store: &Store, session: &torpor_core::SessionKey) -> u64 {
    let found = async {
        loop {
            match store.open(session).await {
                Ok(opened) => return opened.expect("the session is there").head.position.0,
                Err(e) => assert!(e.is_retryable(), "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("the store comes back")
}

/// A primary that was demoted while it lives refuses what it is asked, and whoever asked it goes to the new one.
#[tokio::test]
async fn a_demoted_primary_is_left() {
    let Some(servers) = Sentinels::start() else { return };
    let address = Address::parse(&servers.url()).unwrap();
    let store = Store::connect(&address, Options::default()).await.unwrap();
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    insist(&store, write(&lease, 0, vec![intent(&lease)])).await;
    let [old, new] = [0, 1].map(|n: usize| &servers.stores()[n]);
    crate::cluster::replicated(old);
    swap(&servers, old, new).await;
    let (position, _) = insist(&store, write(&lease, 1, vec![intent(&lease)])).await;
    assert_eq!(position, Position(2));
    assert_eq!(new.ask(&["EXISTS", "torpor:{0}:meta"]).as_deref(), Ok("1"));
    assert!(new.ask(&["ROLE"]).unwrap().starts_with("master"));
}

/// Lets the sentinels swap the two.
async fn swap(servers: &Sentinels, old: &Server, new: &Server) {
    servers.fail_over();
    let promoted = async {
        while servers.primary_port() != new.port() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), promoted).await.expect("the sentinels promote the replica");
    demote(old, new.port());
}

/// Does at once what the sentinels would do after eight seconds.
fn demote(old: &Server, new: u16) {
    old.ask(&["REPLICAOF", "127.0.0.1", &new.to_string()]).unwrap();
}
