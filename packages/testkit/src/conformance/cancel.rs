//! Promises of [`WorkQueue`](torpor_core::queue::WorkQueue) about cancelling.

use std::time::Duration;

use torpor_core::RunId;
use torpor_core::outcome::{Outcome, Status};
use torpor_core::queue::{Cancelled, Release};

use super::{Fixture, soon};
use crate::sample::{created, first, further};

async fn cancel(f: &Fixture, run: &RunId) -> Cancelled {
    f.queue.cancel(run).await.unwrap()
}

/// A run that nobody has is unknown; one that has ended stays as it ended.
pub async fn cancelling_what_is_over_changes_nothing(f: Fixture) {
    assert_eq!(cancel(&f, &RunId::generate()).await, Cancelled::Unknown);
    let lease = f.running("s").await;
    f.finish(&lease, 0).await;
    let before = f.record(&lease.record.run_id).await;
    let Cancelled::Ended(record) = cancel(&f, &lease.record.run_id).await else { panic!("it had ended") };
    assert_eq!(record.outcome, before.outcome);
    assert_eq!(f.record(&lease.record.run_id).await.status, before.status);
}

/// A run that never started ends at once; its neighbours in the session are not touched.
pub async fn an_unstarted_run_is_cancelled_at_once(f: Fixture) {
    let front = f.submit("s").await;
    let middle = created(f.enqueue(further("s")).await);
    let last = created(f.enqueue(further("s")).await);
    for run in [&middle, &front] {
        let Cancelled::Ended(record) = cancel(&f, &run.run_id).await else { panic!("nobody works on it") };
        assert_eq!((record.status, &record.outcome), (Status::Cancelled, &Some(Outcome::Cancelled {})));
        assert!(record.ended_at.is_some());
        assert_eq!(f.record(&run.run_id).await, *record);
    }
    let lease = f.claim_one("w").await;
    assert_eq!(lease.record.run_id, last.run_id);
    assert!(!lease.cancel);
    assert!(f.claim("w", 10).await.is_empty());
}

/// A run that waits for its time is cancelled like any other.
pub async fn a_delayed_run_is_cancelled_at_once(f: Fixture) {
    let later = f.time.now().after(f.lease * 100);
    let run = created(f.enqueue(torpor_core::queue::NewRun { not_before: Some(later), ..first("s") }).await);
    assert!(matches!(cancel(&f, &run.run_id).await, Cancelled::Ended(_)));
    f.pass(f.lease * 101).await;
    assert!(f.claim("w", 10).await.is_empty());
}

/// The owner of a running run hears of it at once; nobody else does.
pub async fn the_owner_hears_of_a_cancel(f: Fixture) {
    let lease = f.running("s").await;
    let somebody = "other".into();
    let other = f.queue.to_cancel(&somebody, Duration::from_secs(3600));
    let owner = f.queue.to_cancel(&lease.worker, Duration::from_secs(3600));
    let asked = async {
        let answer = cancel(&f, &lease.record.run_id).await;
        assert!(matches!(&answer, Cancelled::Asked(r) if r.status == Status::Running), "{answer:?}");
    };
    let heard = async {
        let (heard, ()) = tokio::join!(owner, asked);
        heard.unwrap()
    };
    tokio::select! {
        biased;
        heard = soon(heard) => assert_eq!(heard, [lease.key()]),
        _ = other => panic!("it was told to somebody else"),
    }
}

/// A cancel whose owner died is said again to the next one, at the claim.
pub async fn the_next_owner_hears_of_a_cancel(f: Fixture) {
    let lease = f.running("s").await;
    cancel(&f, &lease.record.run_id).await;
    f.expire_leases().await;
    assert!(f.claim_one("next").await.cancel);
}

/// So is its owner told who was only slow, and revives a lease that had been offered to others.
pub async fn an_owner_that_comes_back_hears_of_a_cancel(f: Fixture) {
    let leases = [f.running("a").await, f.running("b").await];
    f.expire_leases().await;
    let taken = f.claim_one("w2").await.record.run_id; // the other one was on offer as well
    let kept = leases.iter().find(|l| l.record.run_id != taken).unwrap();
    cancel(&f, &kept.record.run_id).await;
    assert_eq!(f.queue.heartbeat(&kept.worker, &[kept.key()]).await.unwrap(), []);
    assert_eq!(soon(f.queue.to_cancel(&kept.worker, Duration::from_secs(3600))).await.unwrap(), [kept.key()]);
}

/// A run that was given back after it had started becomes claimable at once, to be ended.
pub async fn a_started_run_that_waits_is_handed_out_to_be_ended(f: Fixture) {
    let lease = f.running("s").await;
    let after = f.lease * 100;
    assert!(f.queue.release(&lease.key(), Release::Retry { after }).await.unwrap());
    assert!(f.claim("w", 1).await.is_empty());
    assert!(matches!(cancel(&f, &lease.record.run_id).await, Cancelled::Asked(_)));
    assert!(f.claim_one("w").await.cancel);
}

/// Waiting to be told ends when its time is over.
pub async fn waiting_for_cancels_ends_in_time(f: Fixture) {
    let worker = "w".into();
    let waiting = f.queue.to_cancel(&worker, f.lease);
    assert!(f.while_time_passes(waiting).await.unwrap().is_empty());
}
