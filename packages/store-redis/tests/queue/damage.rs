//! What is stored is damaged: it stops nobody, and what can be seen of it is.

use std::collections::HashSet;
use std::time::Duration;

use torpor_core::Clock as _;
use torpor_core::envelope::Spec;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Backlog, NewRun, WorkQueue as _};
use torpor_testkit::sample::{created, first, further, gate, write};

use crate::kit::Kit;

/// A run of which anything is damaged becomes a dead letter; the claim goes on with the others, and its session with its
/// next run.
#[tokio::test]
async fn a_damaged_run_is_set_aside() {
    for spoil in [
        "HSET @run:R spec {",
        "HDEL @run:R spec",
        "HSET @run:R status dancing",
        "HSET @run:R created yesterday",
        "HSET @run:R attempts many",
        "HSET @run:R version first",
        "HDEL @run:R version attempts created",
        "HSET @run:R tenant \u{7}",
        "HSET @run:R wishes [",
        "HSET @run:R row first",
    ] {
        let Some(kit) = Kit::manual().await else { return };
        let bad = created(kit.store.enqueue(NewRun { priority: 5, ..first("s") }).await.unwrap()).run_id;
        let next = created(kit.store.enqueue(further("s")).await.unwrap()).run_id;
        let other = created(kit.store.enqueue(first("other")).await.unwrap()).run_id;
        let _: redis::Value = kit.ask(&spoil.replace(":R", &format!(":{bad}"))).await;

        let leases = kit.claim("w", 10).await;
        let claimed: HashSet<_> = leases.iter().map(|l| &l.record.run_id).collect();
        assert_eq!(claimed, HashSet::from([&next, &other]), "{spoil}");
        let backlog = kit.store.backlog().await.unwrap();
        assert_eq!(backlog, Backlog { leased: 2, dead: 1, ..Backlog::default() }, "{spoil}");
        let why: String = kit.ask(&format!("HGET @run:{bad} dead")).await;
        assert!(why.contains(bad.as_str()), "{spoil}: {why}");
        for lease in &leases {
            kit.finish(lease).await;
        }
        assert_eq!(kit.lag_and_pending().await, (Some(0), 0), "{spoil}");
    }
}

/// The same of its session: nobody can work on it, and everybody else goes on.
#[tokio::test]
async fn a_damaged_session_stops_nobody_else() {
    for spoil in ["HDEL @s:D epoch", "HSET @s:D head none", "HSET @s:D gate next", "DEL @s:D"] {
        let Some(kit) = Kit::manual().await else { return };
        let bad = created(kit.store.enqueue(NewRun { priority: 5, ..first("s") }).await.unwrap());
        let other = created(kit.store.enqueue(first("other")).await.unwrap()).run_id;
        let _: redis::Value = kit.ask(&spoil.replace(":D", &format!(":{}", bad.session.digest()))).await;

        let leases = kit.claim("w", 10).await;
        assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), [&other], "{spoil}");
        let backlog = kit.store.backlog().await.unwrap();
        assert_eq!(backlog, Backlog { leased: 1, dead: 1, ..Backlog::default() }, "{spoil}");
        assert_eq!(kit.lag_and_pending().await, (Some(0), 1), "{spoil}");
    }
}

/// A log in which somebody wrote takes no verdict; whose time is over holds up nobody else.
#[tokio::test]
async fn a_log_that_takes_no_verdict_stops_nobody_else() {
    let Some(kit) = Kit::manual().await else { return };
    let lease = kit.running("s").await;
    let expires_at = kit.clock.now().after(Duration::from_secs(1));
    kit.store.append(write(&lease, 0, vec![gate(&lease, 0, Some(expires_at))])).await.unwrap();
    let life: String = kit.ask(&format!("HGET @s:{} life", lease.session().digest())).await;
    let _: String = kit.ask(&format!("XADD @log:{life} 2-0 by hand")).await;
    let other = created(kit.store.enqueue(first("other")).await.unwrap()).run_id;
    kit.clock.advance(Duration::from_secs(2));
    let claimed: HashSet<_> = kit.claim("w", 10).await.into_iter().map(|l| l.record.run_id).collect();
    assert!(claimed.contains(&other), "{claimed:?}");
}

/// A run that somebody deleted is gone, and no look stumbles over it again.
#[tokio::test]
async fn a_deleted_run_is_passed_over() {
    for lease_ended in [false, true] {
        let Some(kit) = Kit::manual().await else { return };
        let gone = created(kit.store.enqueue(first("s")).await.unwrap()).run_id;
        if lease_ended {
            assert_eq!(kit.claim("dead", 1).await.len(), 1);
        }
        let other = created(kit.store.enqueue(first("other")).await.unwrap()).run_id;
        let _: u64 = kit.ask(&format!("DEL @run:{gone}")).await;
        kit.expire_leases();
        for _ in 0..2 {
            for lease in kit.claim("w", 10).await {
                assert_eq!(lease.record.run_id, other);
                kit.finish(&lease).await;
            }
            kit.clock.advance(Duration::from_millis(1_001));
        }
        assert!(kit.claim("w", 10).await.is_empty());
        assert_eq!(kit.lag_and_pending().await, (Some(0), 0), "{lease_ended}");
        assert_eq!(kit.store.backlog().await.unwrap(), Backlog::default(), "{lease_ended}");
    }
}

/// A claim of runs that are large answers fewer than it was asked for; the others stay in line, and are counted.
#[tokio::test]
async fn a_claim_of_large_runs_is_short() {
    let Some(kit) = Kit::manual().await else { return };
    let mut waiting = 10;
    for n in 0..waiting {
        let spec = Spec::prompt("x".repeat(1 << 20));
        created(kit.store.enqueue(NewRun { spec, ..first(&format!("s{n}")) }).await.unwrap());
    }
    let mut held = 0;
    while waiting > 0 {
        let leases = kit.claim("w", 100).await.len() as u64;
        assert!((1..6).contains(&leases), "{leases} runs of 1 MiB in one answer");
        (waiting, held) = (waiting - leases, held + leases);
        assert_eq!(kit.lag_and_pending().await, (Some(waiting), held));
    }
}
