//! Promises of [`WorkQueue`](torpor_core::queue::WorkQueue).

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use torpor_core::log::AppendError;
use torpor_core::outcome::Status;
use torpor_core::queue::{Backlog, LeaseKey, NewRun, Release};
use torpor_core::{Epoch, RunId, store};

use super::{Fixture, soon};
use crate::sample::{claimed, created, first, further, key, note, progress};

/// What was submitted is what is claimed.
pub async fn a_claim_hands_over_the_accepted_run(f: Fixture) {
    let record = f.submit("s").await;
    assert_eq!((record.status, record.attempts, record.started_at), (Status::Queued, 0, None));
    assert_eq!(f.record(&record.run_id).await, record);

    let lease = f.claim_one("w1").await;
    assert_eq!((lease.record.run_id.clone(), lease.record.spec.clone()), (record.run_id.clone(), record.spec));
    assert_eq!((lease.session(), lease.worker.as_str(), lease.attempt), (&key("s"), "w1", 1));
    assert_eq!(lease.head.epoch, lease.epoch);
    assert!(lease.epoch > Epoch(0));
    assert_eq!(lease.record.status, Status::Running);
    assert!(lease.record.started_at.is_some());
    assert!(lease.record.version > record.version);
    assert_eq!(f.record(&record.run_id).await, lease.record);
}

/// Runs of one session are served strictly one after the other, in the order they were accepted, whatever their
/// priority.
pub async fn runs_of_a_session_are_served_in_order(f: Fixture) {
    let mut runs = vec![f.submit("s").await.run_id];
    for priority in [5, 10, 0] {
        runs.push(created(f.enqueue(NewRun { priority, ..further("s") }).await).run_id);
    }
    let mut epoch = Epoch(0);
    for (n, run) in runs.iter().enumerate() {
        let leases = f.claim("w", 10).await;
        assert_eq!(leases.len(), 1, "one active run");
        assert_eq!(&leases[0].record.run_id, run);
        assert!(leases[0].epoch > epoch);
        epoch = leases[0].epoch;
        f.finish(&leases[0], n as u64).await;
    }
    assert_eq!(f.claim("w", 10).await.len(), 0);
}

/// Among claimable runs: higher priority first, then oldest.
pub async fn higher_priority_goes_first_then_the_oldest(f: Fixture) {
    for (session, priority) in [("a", 0), ("b", 5), ("c", -3), ("d", 5), ("e", 0)] {
        created(f.enqueue(NewRun { priority, ..first(session) }).await);
    }
    let mut order = Vec::new();
    for max in [1, 2, 10] {
        order.extend(f.claim("w", max).await.into_iter().map(|l| l.session().session().to_owned()));
    }
    assert_eq!(order, ["b", "d", "a", "e", "c"]);
}

/// A run is not claimed before its time.
pub async fn a_run_waits_for_its_time(f: Fixture) {
    let not_before = Some(f.time.now().after(f.lease * 2));
    created(f.enqueue(NewRun { not_before, claim_for: Some("w".into()), ..first("s") }).await);
    assert_eq!(f.claim("w", 1).await.len(), 0);
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { waiting: 1, ..Backlog::default() });
    f.pass(f.lease * 2).await;
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { ready: 1, ..Backlog::default() });
    f.claim_one("w").await;
}

/// A further run's time is kept while it waits for its session.
pub async fn a_blocked_run_keeps_its_time(f: Fixture) {
    let lease = f.running("s").await;
    let not_before = Some(f.time.now().after(f.lease * 3));
    created(f.enqueue(NewRun { not_before, ..further("s") }).await);
    f.finish(&lease, 0).await;
    assert_eq!(f.claim("w", 1).await.len(), 0);
    f.pass(f.lease * 3).await;
    f.claim_one("w").await;
}

/// With `claim_for` the run is claimed in the same step, unless something of its session stands before it.
pub async fn a_submit_can_claim_in_the_same_step(f: Fixture) {
    let for_w = |new| NewRun { claim_for: Some("w".into()), ..new };
    let lease = claimed(f.enqueue(for_w(first("s"))).await);
    assert_eq!((lease.worker.as_str(), lease.attempt, lease.record.status), ("w", 1, Status::Running));
    assert_eq!(f.record(&lease.record.run_id).await, lease.record);
    assert_eq!(f.claim("w2", 10).await.len(), 0);
    created(f.enqueue(for_w(further("s"))).await);
    f.finish(&lease, 0).await;

    let second = f.claim_one("w2").await;
    f.finish(&second, 1).await;
    let third = claimed(f.enqueue(for_w(further("s"))).await);
    assert!(third.epoch > second.epoch && second.epoch > lease.epoch);
    assert_eq!(third.head.position.0, 2);
    f.append(&third, 2, vec![note(&third)]).await.unwrap();
}

/// A live lease keeps everybody else away; an expired one can be claimed, and then its former owner is fenced.
pub async fn an_expired_lease_is_claimed_and_its_owner_fenced(f: Fixture) {
    let old = f.running("s").await;
    assert_eq!(f.claim("w2", 1).await.len(), 0);
    f.expire_leases().await;
    let new = f.claim_one("w2").await;
    assert_eq!(new.record.run_id, old.record.run_id);
    assert!(new.epoch > old.epoch);
    assert_eq!(new.attempt, 2);

    assert_eq!(f.queue.heartbeat(&old.worker, &[old.key()]).await.unwrap(), [old.key()]);
    assert!(!f.queue.release(&old.key(), Release::HandBack).await.unwrap());
    assert!(matches!(f.append(&old, 0, vec![note(&old)]).await, Err(AppendError::Fenced { .. })));
    assert_eq!(f.queue.heartbeat(&new.worker, &[new.key()]).await.unwrap(), []);
    f.finish(&new, 0).await;
}

/// Heartbeats keep a lease for as long as they come.
pub async fn heartbeats_keep_a_lease(f: Fixture) {
    let lease = f.running("s").await;
    for _ in 0..6 {
        f.pass(f.lease / 2).await;
        assert_eq!(f.queue.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), []);
        assert_eq!(f.claim("w2", 1).await.len(), 0);
    }
}

/// A late heartbeat revives its lease as long as nobody has claimed the run, even if others looked for work.
pub async fn a_late_heartbeat_revives_an_unclaimed_lease(f: Fixture) {
    let first = f.running("a").await;
    let second = f.running("b").await;
    f.expire_leases().await;
    let taken = f.claim_one("w2").await; // the other one was on offer as well
    let kept = if taken.record.run_id == first.record.run_id { &second } else { &first };

    assert_eq!(f.queue.heartbeat(&kept.worker, &[kept.key()]).await.unwrap(), []);
    assert_eq!(f.claim("w2", 10).await.len(), 0);
    f.append(kept, 0, vec![note(kept)]).await.unwrap();
    f.expire_leases().await;
    assert_eq!(f.claim("w3", 10).await.len(), 2);
}

/// A heartbeat answers exactly those that are lost: unknown, of another worker, of another epoch, ended.
pub async fn a_heartbeat_names_what_is_lost(f: Fixture) {
    let kept = f.running("kept").await;
    let over = f.running("over").await;
    f.finish(&over, 0).await;
    let unknown = LeaseKey { run: RunId::generate(), epoch: Epoch(1) };
    let wrong = LeaseKey { epoch: Epoch(kept.epoch.0 + 1), ..kept.key() };
    let all = [kept.key(), over.key(), unknown.clone(), wrong.clone()];
    assert_eq!(f.queue.heartbeat(&kept.worker, &all).await.unwrap(), [over.key(), unknown, wrong]);
    assert_eq!(f.queue.heartbeat(&"thief".into(), &[kept.key()]).await.unwrap(), [kept.key()]);
}

/// A run handed back can be claimed at once, and the claim that was given up does not count.
pub async fn handing_back_burns_no_attempt(f: Fixture) {
    let mut lease = f.running("s").await;
    for _ in 0..5 {
        assert_eq!(lease.attempt, 1);
        assert!(f.queue.release(&lease.key(), Release::HandBack).await.unwrap());
        assert!(!f.queue.release(&lease.key(), Release::HandBack).await.unwrap(), "it is held no more");
        let record = f.record(&lease.record.run_id).await;
        assert_eq!((record.status, record.attempts), (Status::Queued, 0));
        let epoch = lease.epoch;
        lease = f.claim_one("w").await;
        assert!(lease.epoch > epoch);
    }
}

/// A retry waits its delay and counts; a wait waits its delay and does not.
pub async fn a_retry_counts_and_a_wait_does_not(f: Fixture) {
    let after = f.lease / 2;
    for (session, why, attempt) in [("r", Release::Retry { after }, 2), ("w", Release::Wait { after }, 1)] {
        let lease = f.running(session).await;
        assert!(f.queue.release(&lease.key(), why).await.unwrap());
        assert_eq!(f.queue.backlog().await.unwrap().waiting, 1);
        assert_eq!(f.claim("w", 1).await.len(), 0);
        f.pass(after).await;
        let again = f.claim_one("w").await;
        assert_eq!((again.record.run_id.clone(), again.attempt), (lease.record.run_id, attempt));
        f.finish(&again, 0).await;
    }
}

/// Attempts are counted since the last progress: a run that gets on survives any number of takeovers.
pub async fn attempts_are_counted_since_the_last_progress(f: Fixture) {
    f.submit("s").await;
    let attempts = [(1, false), (2, false), (3, true), (1, true), (1, false), (2, false)];
    for ((attempt, gets_on), head) in attempts.into_iter().zip(0..) {
        let lease = f.claim_one("w").await;
        assert_eq!(lease.attempt, attempt);
        let body = if gets_on { progress(&lease) } else { note(&lease) };
        f.append(&lease, head, vec![body]).await.unwrap();
        f.expire_leases().await;
    }
}

/// A waiting claim is woken by a new run.
pub async fn a_waiting_claim_gets_a_new_run(f: Fixture) {
    let (worker, wait) = ("w".into(), f.lease * 1_000);
    let (leases, record) = soon(async {
        tokio::join!(f.queue.claim(&worker, 10, wait), async {
            tokio::time::sleep(Duration::from_millis(20)).await; // lets the claim find nothing first
            f.submit("s").await
        })
    })
    .await;
    assert_eq!(leases.unwrap()[0].record.run_id, record.run_id);
}

/// A waiting claim is woken by the end of the run before, and by a hand-back.
pub async fn a_waiting_claim_gets_what_becomes_free(f: Fixture) {
    let lease = f.running("s").await;
    let next = created(f.enqueue(further("s")).await);
    let (worker, wait) = ("w".into(), f.lease * 1_000);
    let (leases, ()) = soon(async { tokio::join!(f.queue.claim(&worker, 10, wait), f.finish(&lease, 0)) }).await;
    let lease = leases.unwrap().remove(0);
    assert_eq!(lease.record.run_id, next.run_id);
    let (key, back) = (lease.key(), Release::HandBack);
    let (leases, released) =
        soon(async { tokio::join!(f.queue.claim(&worker, 10, wait), f.queue.release(&key, back)) }).await;
    assert!(released.unwrap());
    assert_eq!(leases.unwrap()[0].record.run_id, next.run_id);
}

/// A waiting claim is woken when a run's time comes and when a lease ends, with nobody calling.
pub async fn a_waiting_claim_is_woken_by_time(f: Fixture) {
    let not_before = Some(f.time.now().after(f.lease));
    created(f.enqueue(NewRun { not_before, ..first("s") }).await);
    for worker in ["w1", "w2"] {
        let worker = worker.into();
        let claim = f.queue.claim(&worker, 10, f.lease * 1_000);
        assert_eq!(f.while_time_passes(claim).await.unwrap().len(), 1, "{worker:?}");
    }
}

/// A claim that finds nothing answers so when its wait is over.
pub async fn a_claim_gives_up_when_its_wait_is_over(f: Fixture) {
    let worker = "w".into();
    assert!(f.while_time_passes(f.queue.claim(&worker, 1, f.lease)).await.unwrap().is_empty());
}

/// Every waiting worker gets one of as many runs.
pub async fn every_waiting_worker_is_served(f: Fixture) {
    let workers: Vec<_> = (0..8).map(|n| format!("w{n}").as_str().into()).collect();
    let claims = join_all(workers.iter().map(|w| f.queue.claim(w, 1, f.lease * 1_000)));
    let submits = join_all((0..8).map(|n| f.enqueue(first(&format!("s{n}")))));
    let (claims, _) = soon(async { tokio::join!(claims, submits) }).await;
    let runs: HashSet<_> = claims.into_iter().flat_map(Result::unwrap).map(|l| l.record.run_id).collect();
    assert_eq!(runs.len(), 8);
}

/// Claims in parallel never share a run, and none answers more than asked.
pub async fn parallel_claims_never_share_a_run(f: Fixture) {
    join_all((0..30).map(|n| f.enqueue(first(&format!("s{n}"))))).await;
    let workers: Vec<_> = (0..20).map(|n| format!("w{n}").as_str().into()).collect();
    let claims = join_all(workers.iter().map(|w| f.queue.claim(w, 2, Duration::ZERO))).await;
    let mut runs = Vec::new();
    for claim in claims {
        let leases = claim.unwrap();
        assert!(leases.len() <= 2);
        runs.extend(leases.into_iter().map(|l| l.record.run_id));
    }
    assert_eq!((runs.len(), runs.into_iter().collect::<HashSet<_>>().len()), (30, 30));
}

/// Dead letters are kept newest first, once a run.
pub async fn dead_letters_are_kept(f: Fixture) {
    assert_eq!(f.letters().await, []);
    let mut runs = Vec::new();
    for session in ["a", "b", "c"] {
        let lease = f.running(session).await;
        f.queue.dead_letter(&lease.record.run_id, &format!("reason {session}")).await.unwrap();
        f.queue.dead_letter(&lease.record.run_id, "again").await.unwrap();
        f.finish(&lease, 0).await;
        runs.push(lease.record.run_id);
    }
    let letters = f.letters().await;
    let got: Vec<_> = letters.iter().map(|l| (&l.run, l.reason.as_str())).collect();
    assert_eq!(got, [(&runs[2], "reason c"), (&runs[1], "reason b"), (&runs[0], "reason a")]);
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { dead: 3, ..Backlog::default() });
}

/// A run that cannot be read is set aside by the claim that meets it, with a reason; the claim goes on with the
/// others, and the session with its next run.
pub async fn an_unreadable_run_is_set_aside(f: Fixture) {
    let bad = created(f.enqueue(NewRun { priority: 5, ..first("s") }).await).run_id;
    let next = created(f.enqueue(further("s")).await).run_id;
    let others = [f.submit("a").await.run_id, f.submit("b").await.run_id];
    (f.spoil)(&bad).await;

    let leases = f.claim("w", 2).await;
    assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<HashSet<_>>().len(), 2, "as many as were asked for");
    let leases: Vec<_> = leases.into_iter().chain(f.claim("w", 10).await).collect();
    let got: HashSet<_> = leases.iter().map(|l| &l.record.run_id).collect();
    assert_eq!(got, others.iter().chain([&next]).collect());
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { leased: 3, dead: 1, ..Backlog::default() });

    let letters = f.letters().await;
    assert_eq!(letters.iter().map(|l| &l.run).collect::<Vec<_>>(), [&bad]);
    assert!(letters[0].reason.contains(bad.as_str()), "{}", letters[0].reason);
    let read = f.runs.get(&bad).await;
    assert!(matches!(read, Err(store::Error::Unreadable(_))), "{read:?}");

    // It stays aside, its session is as good as any, and its record goes with its dead letter.
    for lease in &leases {
        f.finish(lease, 0).await;
    }
    assert_eq!(f.claim("w", 10).await.len(), 0);
    let again = claimed(f.enqueue(NewRun { claim_for: Some("w".into()), ..further("s") }).await);
    f.finish(&again, 1).await;
    f.pass(f.result_ttl + Duration::from_millis(1)).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 4);
    f.pass(f.dead_letter_ttl).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 1);
    assert_eq!(f.runs.get(&bad).await.unwrap(), None);
    assert_eq!(f.letters().await, []);
}

/// However many runs cannot be read, and whether they are new or were taken over, a claim gets to those that can.
pub async fn unreadable_runs_keep_no_claim_waiting(f: Fixture) {
    for n in 0..20 {
        let lease = f.running(&format!("taken {n}")).await;
        (f.spoil)(&lease.record.run_id).await;
    }
    for n in 0..20 {
        (f.spoil)(&f.submit(&format!("new {n}")).await.run_id).await;
    }
    let good = f.submit("good").await;
    f.expire_leases().await;
    assert_eq!(f.claim_one("w").await.record.run_id, good.run_id);
    assert_eq!(f.claim("w", 100).await.len(), 0);
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { leased: 1, dead: 40, ..Backlog::default() });
}

/// The backlog counts every run in exactly one place, by the store's clock.
pub async fn the_backlog_counts_every_run_once(f: Fixture) {
    f.submit("ready").await;
    let not_before = Some(f.time.now().after(f.lease * 100));
    created(f.enqueue(NewRun { not_before, ..first("later") }).await);
    let lease = f.running("leased").await;
    created(f.enqueue(further("leased")).await);
    assert_eq!(
        f.queue.backlog().await.unwrap(),
        Backlog { ready: 1, waiting: 2, leased: 1, dead: 0, ..Backlog::default() }
    );
    f.expire_leases().await;
    assert_eq!(
        f.queue.backlog().await.unwrap(),
        Backlog { ready: 2, waiting: 2, leased: 0, dead: 0, ..Backlog::default() }
    );
    assert_eq!(f.queue.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), []);
    assert_eq!(
        f.queue.backlog().await.unwrap(),
        Backlog { ready: 1, waiting: 2, leased: 1, dead: 0, ..Backlog::default() }
    );
    f.queue.dead_letter(&lease.record.run_id, "poison").await.unwrap();
    assert_eq!(
        f.queue.backlog().await.unwrap(),
        Backlog { ready: 1, waiting: 2, leased: 1, dead: 0, ..Backlog::default() }
    );
    f.finish(&lease, 0).await;
    assert_eq!(
        f.queue.backlog().await.unwrap(),
        Backlog { ready: 2, waiting: 1, leased: 0, dead: 1, ..Backlog::default() }
    );
}
