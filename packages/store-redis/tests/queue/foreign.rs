//! Entries that somebody else put into the queue's stream: they stop nobody, are counted by nobody, and can be seen.

use torpor_core::Position;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::{Backlog, WorkQueue as _};
use torpor_core::run::{Filter, RunStore as _};
use torpor_testkit::sample::{created, first};

use crate::kit::Kit;

/// The records of dead letters, by the way everybody takes.
async fn failed(kit: &Kit) -> Vec<torpor_core::run::Record> {
    let filter = Filter { status: Some(Status::Failed), limit: 200, ..Filter::default() };
    kit.store.list(&filter).await.unwrap().runs
}

/// Whatever it is, it becomes a dead letter with the record of a run that failed, and the claim goes on with the runs.
#[tokio::test]
async fn foreign_entries_become_dead_letters_and_stop_nobody() {
    for (what, fields, quoted) in [
        ("no run", "hello world", "hello world"),
        ("not even a pair of ours", "a 1 b 2", "a 1 b 2"),
        ("an envelope", r#"envelope {"prompt":"hi","tenant":"x"}"#, r#"envelope {"prompt":"hi","tenant":"x"}"#),
        ("a newer schema", "run run_1 schema 99", "run run_1 schema 99"),
        ("no id", "run ../../etc", "run ../../etc"),
        ("a run that is not there", "run run_00000000000000000000000000000000", "run run_0000"),
        ("not UTF-8, escaped", "run ü\u{7}", "run ???"),
    ] {
        let Some(kit) = Kit::manual().await else { return };
        let before = created(kit.store.enqueue(first("before")).await.unwrap()).run_id;
        let _: String = kit.ask(&format!("XADD @q * {fields}")).await;
        let after = created(kit.store.enqueue(first("after")).await.unwrap()).run_id;

        let leases = kit.claim("w", 10).await;
        assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), [&before, &after], "{what}");
        assert_eq!(kit.lag_and_pending().await, (Some(0), 2), "{what}");
        let backlog = kit.store.backlog().await.unwrap();
        assert_eq!(backlog, Backlog { leased: 2, dead: 1, ..Backlog::default() }, "{what}");

        let records = failed(&kit).await;
        let [record] = &records[..] else { panic!("{what}: {records:?}") };
        assert_eq!(kit.store.get(&record.run_id).await.unwrap().as_ref(), Some(record), "{what}");
        let Some(Outcome::Failed { reason: FailReason::DeadLetter, message }) = &record.outcome else {
            panic!("{what}: {:?}", record.outcome)
        };
        assert!(message.contains(quoted) && message.contains("did not write"), "{what}: {message}");
        assert_eq!((record.session.tenant(), record.attempts, record.started_at), ("default", 0, None), "{what}");
    }
}

/// A flood of them delays a claim by one look at most, and their count does not stay.
#[tokio::test]
async fn a_flood_of_foreign_entries_is_worked_off_little_by_little() {
    let Some(kit) = Kit::manual().await else { return };
    for n in 0..1_000 {
        let _: String = kit.ask(&format!("XADD @q * nonsense {n}")).await;
    }
    let run = created(kit.store.enqueue(first("s")).await.unwrap()).run_id;
    let leases = kit.claim("w", 10).await;
    assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), [&run]);
    for _ in 0..8 {
        kit.expire_leases();
        kit.store.heartbeat(&"w".into(), &[leases[0].key()]).await.unwrap();
        assert!(kit.claim("w", 10).await.is_empty());
    }
    assert_eq!(kit.lag_and_pending().await, (Some(0), 1));
    assert_eq!(kit.store.backlog().await.unwrap(), Backlog { leased: 1, dead: 1_000, ..Backlog::default() });
}

/// An entry that names a run that is there asks for nothing that is not under way: it is counted off.
#[tokio::test]
async fn an_entry_that_names_a_known_run_changes_nothing() {
    let Some(kit) = Kit::manual().await else { return };
    let run = created(kit.store.enqueue(first("s")).await.unwrap()).run_id;
    for _ in 0..3 {
        let _: String = kit.ask(&format!("XADD @q * run {run}")).await;
    }
    let lease = kit.claim("w", 10).await.remove(0);
    kit.finish(&lease).await;
    kit.expire_leases();
    assert!(kit.claim("w", 10).await.is_empty());
    assert_eq!(kit.lag_and_pending().await, (Some(0), 0));
    assert_eq!(kit.store.backlog().await.unwrap(), Backlog::default());
}

/// An entry of a run that is gone is no stranger's: priorities let a later run take the entry of an earlier one.
#[tokio::test]
async fn the_entry_of_a_run_that_is_gone_counts_for_another() {
    let Some(kit) = Kit::manual().await else { return };
    let urgent = created(kit.store.enqueue(first("urgent")).await.unwrap()).run_id;
    let patient = created(kit.store.enqueue(first("patient")).await.unwrap()).run_id;
    // The first entry is read for the urgent one, and the second, which names the patient one, is left for it. Swapped:
    let lease = kit.claim("w", 1).await.remove(0);
    assert_eq!(lease.record.run_id, urgent);
    kit.store.release(&lease.key(), torpor_core::queue::Release::HandBack).await.unwrap();
    let lease = kit.claim("w", 1).await.remove(0); // by the entry of the patient one
    assert_eq!(lease.record.run_id, urgent);
    kit.finish(&lease).await;
    let _: u64 = kit.ask(&format!("DEL @run:{urgent}")).await; // its time has come
    let lease = kit.claim("w", 1).await.remove(0); // by the entry of a run that is not there
    assert_eq!(lease.record.run_id, patient);
    assert_eq!(kit.lag_and_pending().await, (Some(0), 1));
    assert_eq!(kit.store.backlog().await.unwrap(), Backlog { leased: 1, ..Backlog::default() });
}

/// Somebody who reads from the group by hand takes nothing away, and what they read is not pending for ever.
#[tokio::test]
async fn what_somebody_reads_by_hand_is_put_right() {
    let Some(kit) = Kit::manual().await else { return };
    for n in 0..3 {
        created(kit.store.enqueue(first(&format!("s{n}"))).await.unwrap());
    }
    let _: String = kit.ask("XADD @q * envelope {}").await;
    let _: redis::Value = kit.ask("XREADGROUP GROUP workers somebody COUNT 10 STREAMS @q >").await;
    assert_eq!(kit.lag_and_pending().await, (Some(0), 4));
    let leases = kit.claim("w", 2).await;
    assert_eq!(leases.len(), 2);
    kit.clock.advance(std::time::Duration::from_millis(1_001));
    kit.claim("w", 0).await;
    let last = kit.claim("w", 1).await;
    assert_eq!((last.len(), last[0].head.position), (1, Position(0)));
    assert_eq!(kit.lag_and_pending().await, (Some(0), 3));
    assert_eq!(kit.store.backlog().await.unwrap(), Backlog { leased: 3, dead: 1, ..Backlog::default() });
}
