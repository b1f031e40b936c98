//! Servers and connections that fail in the middle of appends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Plain, append, insist, running, store};
use torpor_core::Position;
use torpor_core::log::{AppendError, SessionLog as _};
use torpor_core::outcome::Status;
use torpor_core::queue::WorkQueue as _;
use torpor_core::run::RunStore as _;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::fault_proxy::{FaultProxy, Rates};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{done, ended, key, note, progress, write};

#[tokio::test]
async fn appends_whose_replies_are_lost_are_stored_once() {
    let Some(server) = Server::start() else { return };
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let rates = Rates { lost_reply: 3, cut: 7, ..Rates::default() };
    let proxy = FaultProxy::start(target, 17, rates).await;
    let address = Address::parse(&format!("redis://{}", proxy.address())).unwrap();
    let store = Store::connect(&address, Options::default()).await.unwrap();
    let lease = running(&store, "s").await;
    let bodies = |n: u64| vec![if n.is_multiple_of(2) { note(&lease) } else { progress(&lease) }; 2];

    proxy.arm(true);
    let mut refused = 0;
    for n in 0..60 {
        let (position, refusals) = insist(&store, write(&lease, 2 * n, bodies(n))).await;
        assert_eq!(position, Position(2 * n + 2));
        refused += refusals;
    }
    let (_, refusals) = insist(&store, write(&lease, 120, vec![ended(&lease, done("ok"))])).await;
    proxy.arm(false);

    assert!(refused + refusals > 5, "{refused} appends were refused at first, by {} faults", proxy.faults());
    let entries = store.read(&key("s"), Position(1), 1_000).await.unwrap();
    assert!(entries.iter().map(|entry| entry.position.0).eq(1..=121), "each is there once");
    assert!(entries.iter().take(120).zip(0..).all(|(entry, n)| bodies(n / 2).first() == Some(&entry.body)));
    assert_eq!(store.get(&lease.record.run_id).await.unwrap().unwrap().status, Status::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_with_the_server() {
    const WRITERS: u64 = 8;
    let Some(mut server) = Server::start() else { return };
    let store = Arc::new(store(&server, Options::default()).await);
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let lease = running(&store, &format!("s{n}")).await;
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        writers.push(tokio::spawn(async move {
            let mut head = 0;
            while !over.load(Ordering::SeqCst) {
                head = insist(&store, write(&lease, head, vec![note(&lease)])).await.0.0;
            }
            (lease, head)
        }));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        tokio::task::block_in_place(|| server.launch()); // kill -9, and again from what is on the disk
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        let (lease, head) = writer.await.unwrap();
        assert!(head > 3, "it went on: {head}");
        let entries = store.read(lease.session(), Position(1), 10_000).await.unwrap();
        let mut read: Vec<u64> = entries.iter().map(|entry| entry.position.0).collect();
        while let Some(last) = read.last().copied().filter(|last| *last < head) {
            let more = store.read(lease.session(), Position(last + 1), 10_000).await.unwrap();
            assert!(!more.is_empty(), "entry {} is gone", last + 1);
            read.extend(more.iter().map(|entry| entry.position.0));
        }
        assert!(read.into_iter().eq(1..=head), "each is there once");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_one_that_comes_back_is_used() {
    let Some(mut server) = Server::start() else { return };
    let store = store(&server, Options { timeout: Duration::from_secs(1), ..Options::default() }).await;
    let lease = running(&store, "s").await;
    append(&store, &lease, 0, vec![note(&lease)]).await;
    server.kill();
    let refused = store.append(write(&lease, 1, vec![note(&lease)])).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Store(e) if e.is_retryable()), "{refused}");
    for refused in [
        store.open(&key("s")).await.map(drop),
        store.read(&key("s"), Position(1), 1).await.map(drop),
        store.wait_beyond(&key("s"), Position(0), Duration::ZERO).await.map(drop),
        store.get(&lease.record.run_id).await.map(drop),
        store.latest(&key("s")).await.map(drop),
        store.ping().await,
        store.sweep().await.map(drop),
    ] {
        assert!(refused.unwrap_err().is_retryable());
    }
    server.launch();
    let (position, _) = insist(&store, write(&lease, 1, vec![note(&lease)])).await;
    assert_eq!(position, Position(2));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_still_answers_reads() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let lease = running(&store, "s").await;
    append(&store, &lease, 0, vec![note(&lease)]).await;
    let mut plain = Plain::to(&server).await;
    let () = plain.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = store.append(write(&lease, 1, vec![note(&lease)])).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Store(e) if e.is_retryable()), "{refused}");
    assert!(store.ping().await.unwrap_err().is_retryable(), "it is not ready");
    assert_eq!(store.open(&key("s")).await.unwrap().unwrap().tail.len(), 1, "nothing of the append is there");
    assert_eq!(store.get(&lease.record.run_id).await.unwrap().unwrap().status, Status::Running);
    let () = plain.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    append(&store, &lease, 1, vec![note(&lease)]).await;
}

/// A worker whose answers are lost hears of every cancel all the same, and only until it has heard.
#[tokio::test]
async fn a_cancel_whose_answer_is_lost_is_told_again() {
    let Some(server) = Server::start() else { return };
    let lasting = Options { lease: Duration::from_secs(60), ..Options::default() };
    let direct = store(&server, lasting.clone()).await;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let proxy = FaultProxy::start(target, 23, Rates { lost_reply: 2, ..Rates::default() }).await;
    let address = Address::parse(&format!("redis://{}", proxy.address())).unwrap();
    let worker = Store::connect(&address, lasting).await.unwrap();
    proxy.arm(true);
    for n in 0..20 {
        let lease = running(&direct, &format!("s{n}")).await;
        direct.cancel(&lease.record.run_id).await.unwrap();
        let told = async {
            loop {
                match worker.to_cancel(&lease.worker, Duration::ZERO).await {
                    Ok(keys) if keys.contains(&lease.key()) => break,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(support::PATIENCE, told).await.expect("it is told");
    }
    proxy.arm(false);
    assert!(proxy.faults() > 5, "{} faults", proxy.faults());
    let worker_id = running(&direct, "last").await.worker;
    let _ = direct.to_cancel(&worker_id, Duration::ZERO).await.unwrap();
    assert_eq!(direct.to_cancel(&worker_id, Duration::ZERO).await.unwrap(), [], "each is told until it was heard");
}

/// A connection that has gone silent costs no lease: the next heartbeat goes over another one, in time.
#[tokio::test]
async fn a_heartbeat_does_not_outwait_its_lease() {
    let Some(server) = Server::start() else { return };
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let proxy = FaultProxy::start(target, 29, Rates { half_open: 1, ..Rates::default() }).await;
    let address = Address::parse(&format!("redis://{}", proxy.address())).unwrap();
    let patient = Options { lease: Duration::from_secs(8), timeout: Duration::from_secs(60), ..Options::default() };
    let lease = patient.lease;
    let store = Store::connect(&address, patient).await.unwrap();
    let held = running(&store, "s").await;
    assert_eq!(store.heartbeat(&held.worker, &[held.key()]).await.unwrap(), []);

    proxy.arm(true);
    let begun = std::time::Instant::now();
    assert!(store.heartbeat(&held.worker, &[held.key()]).await.unwrap_err().is_retryable());
    assert!(begun.elapsed() < lease * 3 / 4, "{:?}", begun.elapsed());
    proxy.arm(false);
    assert_eq!(store.heartbeat(&held.worker, &[held.key()]).await.unwrap(), [], "its lease has not ended");
}
