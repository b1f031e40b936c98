//! The stream stays short, and is put right when somebody spoils it by hand: what can be claimed never depends on it.

use std::time::{Duration, Instant};

use torpor_core::queue::{Backlog, WorkQueue as _};
use torpor_store_redis::Options;
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{created, first};

use crate::kit::Kit;

/// How much of the stream may be left: the server cuts off whole nodes, of 100 entries.
const LEFT: u64 = 250;

impl Kit {
    async fn length(&self) -> u64 {
        self.ask("XLEN @q").await
    }

    /// So many runs come and go.
    async fn through(&self, runs: usize) {
        for n in 0..runs {
            created(self.store.enqueue(first(&uuid::Uuid::new_v4().to_string())).await.unwrap());
            if n % 20 == 19 {
                self.clock.advance(Duration::from_secs(2));
                for lease in self.claim("w", 20).await {
                    self.finish(&lease).await;
                }
            }
        }
    }
}

/// What was read and is over is cut off; what is pending stays, and so does the count.
#[tokio::test]
async fn the_stream_is_cut_off_behind_what_is_pending() {
    let Some(kit) = Kit::manual().await else { return };
    kit.through(600).await;
    assert!(kit.length().await < LEFT, "{} entries", kit.length().await);

    let held = kit.running("held").await;
    let token: String = kit.ask(&format!("HGET @run:{} token", held.record.run_id)).await;
    for _ in 0..30 {
        kit.through(20).await;
        assert_eq!(kit.store.heartbeat(&held.worker, &[held.key()]).await.unwrap(), []);
        assert_eq!(kit.lag_and_pending().await, (Some(0), 1));
    }
    assert!(kit.length().await >= 600, "nothing is cut off behind it");
    let stored: Vec<redis::Value> = kit.ask(&format!("XRANGE @q {token} {token}")).await;
    assert_eq!(stored.len(), 1);

    kit.finish(&held).await;
    kit.through(40).await;
    assert!(kit.length().await < LEFT, "{} entries", kit.length().await);
    assert_eq!(kit.lag_and_pending().await, (Some(0), 0));
}

/// Consumers that are gone are forgotten, but never one that holds something: its entries would be pending for nobody.
#[tokio::test]
async fn consumers_that_hold_nothing_are_forgotten() {
    let Some(server) = Server::shared() else { return };
    let clock = std::sync::Arc::new(torpor_testkit::clock::ManualClock::default());
    let options = Options { lease: Duration::from_millis(20), clock: Some(clock.clone()), ..Options::default() };
    let Some(kit) = Kit::on(server, options, clock).await else { return };
    for n in 0..20 {
        created(kit.store.enqueue(first(&format!("s{n}"))).await.unwrap());
        let lease = kit.claim(&format!("gone {n}"), 1).await.remove(0);
        kit.finish(&lease).await;
    }
    let held = kit.running("held").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let consumers: Vec<redis::Value> = kit.ask("XINFO CONSUMERS @q workers").await;
        if consumers.len() <= 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{} consumers are left", consumers.len());
        tokio::time::sleep(Duration::from_millis(20)).await; // the server's own time decides who is silent
        kit.store.heartbeat(&held.worker, &[held.key()]).await.unwrap();
        kit.clock.advance(Duration::from_secs(2));
        kit.store.heartbeat(&held.worker, &[held.key()]).await.unwrap();
        assert!(kit.claim("looks", 1).await.is_empty());
    }
    assert_eq!(kit.lag_and_pending().await, (Some(0), 1));
    kit.finish(&held).await;
}

/// Whatever was done to the stream: everything can be claimed at once and in order, and some looks later the counts are
/// true again.
#[tokio::test]
async fn a_spoilt_stream_loses_no_run_and_counts_again() {
    for spoil in [
        "DEL @q",
        "XGROUP DESTROY @q workers",
        "XTRIM @q MAXLEN 0",
        "XTRIM @q MAXLEN 2",
        "XGROUP SETID @q workers $",
        "XGROUP SETID @q workers 0",
        "XGROUP DELCONSUMER @q workers w",
        "SET @q nonsense",
        "XDEL @q unread",
        "XACK @q workers token",
    ] {
        let Some(kit) = Kit::manual().await else { return };
        let held = kit.running("held").await;
        let token: String = kit.ask(&format!("HGET @run:{} token", held.record.run_id)).await;
        let mut expected = Vec::new();
        for n in 0..5 {
            expected.push(created(kit.store.enqueue(first(&format!("s{n}"))).await.unwrap()).run_id);
        }
        let unread: Vec<(String, Vec<String>)> = kit.ask("XREVRANGE @q + - COUNT 2").await;
        let _: redis::Value = kit.ask(&spoil.replace("unread", &unread[1].0).replace("token", &token)).await;

        let first_two = kit.claim("w", 2).await;
        let mut claimed: Vec<_> = first_two.iter().map(|l| l.record.run_id.clone()).collect();
        assert_eq!(kit.store.heartbeat(&held.worker, &[held.key()]).await.unwrap(), [], "{spoil}");
        if spoil.starts_with("SET") {
            let _: u64 = kit.ask("DEL @q").await; // somebody takes back what they did
        }
        let keys: Vec<_> = first_two.iter().chain([&held]).map(torpor_core::queue::Lease::key).collect();
        for _ in 0..3 {
            kit.clock.advance(Duration::from_millis(1_001));
            assert_eq!(kit.store.heartbeat(&held.worker, &keys).await.unwrap(), [], "{spoil}");
            let more = kit.claim("w", 1).await;
            kit.store.release(&more[0].key(), torpor_core::queue::Release::HandBack).await.unwrap();
        }
        assert_eq!(kit.lag_and_pending().await, (Some(3), 3), "{spoil}");
        let rest = kit.claim("w", 10).await;
        claimed.extend(rest.iter().map(|l| l.record.run_id.clone()));
        assert_eq!(claimed, expected, "{spoil}");
        for lease in first_two.iter().chain(&rest).chain([&held]) {
            kit.finish(lease).await;
        }
        assert_eq!(kit.store.backlog().await.unwrap(), Backlog::default(), "{spoil}");
        assert_eq!(kit.lag_and_pending().await, (Some(0), 0), "{spoil}");
    }
}
