//! Who dies, who is only slow, and who comes first: by the server's own clock, with a process each.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use torpor_core::queue::{Lease, WorkQueue as _};
use torpor_core::{WorkerId, store};
use torpor_store_redis::{Options, Store};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{claimed, created, first, further};

use crate::kit::{Kit, connect};

impl Kit {
    /// Another process on the same store.
    async fn another(&self, options: Options) -> Store {
        connect(&self.server, Options { prefix: self.prefix.clone(), ..options }).await
    }
}

/// With the lease of 3 s that is usual: whoever waits has the run of a dead worker within 5 s.
#[tokio::test]
async fn the_run_of_a_dead_worker_is_taken_over_in_time() {
    let Some(kit) = Kit::alone(Options::default()).await else { return };
    let dead = kit.another(Options::default()).await;
    let lease = claimed(dead.enqueue(torpor_testkit::sample::first_claimed("s")).await.unwrap());
    let since = Instant::now();
    drop(dead);
    let next = kit.store.claim(&"next".into(), 1, Duration::from_secs(30)).await.unwrap().remove(0);
    let took = since.elapsed();
    assert_eq!((&next.record.run_id, next.attempt), (&lease.record.run_id, 2));
    assert!(next.epoch > lease.epoch);
    assert!((Duration::from_millis(2_900)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

/// Any number of processes that look and wait at the same time: every run is handed out once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_run_is_handed_out_twice() {
    const RUNS: usize = 200;
    let Some(kit) = Kit::alone(Options::default()).await else { return };
    let kit = Arc::new(kit);
    let claimed = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for n in 0..8_usize {
        let store = kit.another(Options::default()).await;
        let (kit, claimed) = (Arc::clone(&kit), Arc::clone(&claimed));
        workers.push(tokio::spawn(async move {
            let worker = WorkerId::generate(&format!("w{n}"));
            let mut seen: Vec<Lease> = Vec::new();
            while claimed.load(Ordering::SeqCst) < RUNS {
                for lease in store.claim(&worker, 1 + n % 4, Duration::from_millis(100)).await.unwrap() {
                    claimed.fetch_add(1, Ordering::SeqCst);
                    kit.finish(&lease).await;
                    seen.push(lease);
                }
            }
            seen
        }));
    }
    for n in 0..RUNS {
        created(kit.store.enqueue(first(&format!("s{n}"))).await.unwrap());
    }
    let mut times: HashMap<_, u32> = HashMap::new();
    for worker in workers {
        for lease in worker.await.unwrap() {
            *times.entry(lease.record.run_id).or_default() += 1;
        }
    }
    assert_eq!((times.len(), times.values().max()), (RUNS, Some(&1)));
    assert_eq!(kit.lag_and_pending().await, (Some(0), 0));
}

/// A process that was woken and is not there any more takes the wake-up with it; the run is found all the same, and soon.
#[tokio::test]
async fn a_wake_up_that_a_dead_process_took_costs_little() {
    let Some(kit) = Kit::alone(Options::default()).await else { return };
    let frozen: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut socket = TcpStream::connect(("127.0.0.1", kit.server.port())).unwrap();
            let key = kit.key("q:wake");
            write!(socket, "*3\r\n$5\r\nBLPOP\r\n${}\r\n{key}\r\n$1\r\n0\r\n", key.len()).unwrap();
            socket
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let info: String = kit.ask("INFO clients").await;
        if info.contains("blocked_clients:3") {
            break;
        }
        assert!(Instant::now() < deadline, "they should wait by now");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let worker = "w".into();
    let waiting = kit.store.claim(&worker, 1, Duration::from_secs(30));
    let submitted = async {
        let record = created(kit.store.enqueue(first("s")).await.unwrap());
        (record, Instant::now())
    };
    let (leases, (record, since)) = tokio::join!(waiting, submitted);
    assert_eq!(leases.unwrap()[0].record.run_id, record.run_id);
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    drop(frozen);
}

/// Again until the server is back.
async fn insist<T>(mut ask: impl AsyncFnMut() -> Result<T, store::Error>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match ask().await {
            Err(e) if e.is_retryable() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answer => return answer.unwrap(),
        }
    }
}

/// While the server was away nobody could renew a lease. When it is back, owners come first, for one lease; then whoever
/// is gone is taken over.
#[tokio::test]
async fn owners_come_first_when_the_server_is_back() {
    let lease = Duration::from_secs(2);
    let options = Options { lease, ..Options::default() };
    let Some(mut server) = Server::start() else { return };
    let prefix = "restarted".to_owned();
    let [owner, other] = [(); 2].map(|()| connect(&server, Options { prefix: prefix.clone(), ..options.clone() }));
    let (owner, other) = (owner.await, other.await);
    let kept = claimed(owner.enqueue(torpor_testkit::sample::first_claimed("kept")).await.unwrap());
    let gone = claimed(owner.enqueue(torpor_testkit::sample::first_claimed("gone")).await.unwrap());
    let looked = other.claim(&"other".into(), 10, Duration::ZERO).await.unwrap();
    assert!(looked.is_empty());

    server.kill();
    tokio::time::sleep(lease + Duration::from_millis(100)).await; // both leases end while nobody can renew them
    server.launch();
    let since = Instant::now();
    let looked = insist(async || other.claim(&"other".into(), 10, Duration::ZERO).await).await;
    assert!(looked.is_empty(), "the owners have not had their chance");
    let lost = insist(async || owner.heartbeat(&kept.worker, &[kept.key()]).await).await;
    assert_eq!(lost, []);
    let beats = async {
        loop {
            tokio::time::sleep(lease / 3).await;
            assert_eq!(owner.heartbeat(&kept.worker, &[kept.key()]).await.unwrap(), []);
        }
    };
    let worker = "other".into();
    let taken = tokio::select! {
        taken = other.claim(&worker, 10, Duration::from_secs(30)) => taken.unwrap(),
        never = beats => never,
    };
    assert_eq!(taken.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), [&gone.record.run_id]);
    assert!((lease - Duration::from_millis(500)..lease + Duration::from_secs(3)).contains(&since.elapsed()));
}

/// A server that was primary, followed another for a while, and is primary again, is the same process with an older state.
#[tokio::test]
async fn no_epoch_is_given_out_twice_by_a_server_that_was_promoted_again() {
    let Some(kit) = Kit::alone(Options::default()).await else { return };
    let mut highest = kit.running("s").await;
    for round in 0..2 {
        kit.finish(&highest).await;
        let _: redis::Value = kit.ask("REPLICAOF 127.0.0.1 1").await; // nobody is there to follow
        let _: redis::Value = kit.ask("REPLICAOF NO ONE").await;
        let before = torpor_core::Clock::now(&torpor_core::clock::SystemClock).0 / 1_000;
        created(kit.store.enqueue(further("s")).await.unwrap());
        let next = kit.claim("w", 1).await.remove(0);
        assert!(next.epoch > highest.epoch && next.epoch.0 > before << 20, "round {round}: {}", next.epoch);
        highest = next;
    }
}

/// A server that is another process may hold an older state than its clients know: no epoch is given out twice.
#[tokio::test]
async fn no_epoch_is_given_out_twice_by_another_server() {
    let Some(kit) = Kit::manual().await else { return };
    let mut highest = kit.running("s").await;
    kit.finish(&highest).await;
    for round in 0..3 {
        // What a promoted replica may look like: an older epoch, and the name of a process that is gone.
        let _: redis::Value = kit.ask(&format!("HSET @s:{} epoch 1 owned 0", highest.session().digest())).await;
        let _: redis::Value = kit.ask("HSET @meta server 0123").await;
        let before = torpor_core::Clock::now(&*kit.clock).0 / 1_000;
        created(kit.store.enqueue(further("s")).await.unwrap());
        let next = kit.claim("w", 1).await.remove(0);
        assert!(next.epoch > highest.epoch, "round {round}: {} after {}", next.epoch, highest.epoch);
        assert!(next.epoch.0 > before << 20, "round {round}");
        let fresh = kit.running(&format!("new {round}")).await;
        assert!(fresh.epoch.0 > before << 20, "a session that is new to this server may be known to hands");
        kit.finish(&next).await;
        highest = next;
        kit.clock.advance(Duration::from_secs(4));
    }
}
