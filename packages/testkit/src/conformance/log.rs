//! Promises of [`SessionLog`](torpor_core::log::SessionLog).

use std::time::Duration;

use futures::future::join_all;
use torpor_core::entry::Body;
use torpor_core::log::AppendError;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::{Epoch, Position, SessionKey};

use super::{Fixture, soon};
use crate::sample::{checkpoint, claimed, created, done, ended, first, further, key, note, progress, write};

/// A batch is stored at `after + 1`, `after + 2`, … and read back as it was.
pub async fn appends_take_the_next_positions(f: Fixture) {
    let lease = f.running("s").await;
    let bodies = vec![note(&lease), progress(&lease)];
    assert_eq!(f.append(&lease, 0, bodies.clone()).await.unwrap(), Position(2));
    assert_eq!(f.append(&lease, 2, vec![note(&lease)]).await.unwrap(), Position(3));

    let entries = f.log.read(lease.session(), Position(1), 10).await.unwrap();
    assert_eq!(entries.iter().map(|e| e.position.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(entries[..2].iter().map(|e| e.body.clone()).collect::<Vec<_>>(), bodies);
    assert!(entries.iter().all(|e| e.epoch == lease.epoch));
    assert_eq!(entries[0].at, write(&lease, 0, vec![]).at);

    let opened = f.log.open(lease.session()).await.unwrap().unwrap();
    assert_eq!(
        (opened.head.position, opened.head.epoch, opened.head.resume_from),
        (Position(3), lease.epoch, Position(1))
    );
    assert_eq!(opened.tail, entries);
}

/// A session that was never submitted to does not exist; one without entries does.
pub async fn only_submitted_sessions_exist(f: Fixture) {
    assert!(f.log.open(&key("nobody")).await.unwrap().is_none());
    assert_eq!(f.log.read(&key("nobody"), Position(1), 10).await.unwrap(), []);
    f.submit("s").await;
    let opened = f.log.open(&key("s")).await.unwrap().unwrap();
    assert_eq!((opened.head.position, opened.tail.len()), (Position(0), 0));
}

/// Text of any kind and size comes back byte for byte.
pub async fn bodies_come_back_unchanged(f: Fixture) {
    let lease = f.running("s").await;
    let texts = ["", "\0 \u{1} \u{7f}", "ü 漢 🦀 \u{202e}", "'; DROP TABLE entry; --", &"x".repeat(3 << 20)];
    let bodies: Vec<Body> = texts
        .iter()
        .map(|text| Body::Checkpoint { summary: (*text).into(), keep_from: Position(1), open_run: None })
        .collect();
    f.append(&lease, 0, bodies.clone()).await.unwrap();
    let entries = f.log.read(lease.session(), Position(1), 10).await.unwrap();
    assert!(entries.into_iter().map(|e| e.body).eq(bodies));
}

/// Reading is paged by position.
pub async fn reads_are_paged(f: Fixture) {
    let lease = f.running("s").await;
    f.append(&lease, 0, (0..10).map(|_| note(&lease)).collect()).await.unwrap();
    for (from, limit, want) in [(1, 3, vec![1, 2, 3]), (4, 3, vec![4, 5, 6]), (9, 5, vec![9, 10]), (11, 5, vec![])] {
        let page = f.log.read(lease.session(), Position(from), limit).await.unwrap();
        assert_eq!(page.iter().map(|e| e.position.0).collect::<Vec<_>>(), want, "from {from}");
    }
}

/// A page of large entries ends early, and going on from it reads them all.
pub async fn reads_of_large_entries_are_short(f: Fixture) {
    const LARGE: usize = 4 << 20;
    let lease = f.running("s").await;
    let large = || Body::Checkpoint { summary: "x".repeat(LARGE), keep_from: Position(1), open_run: None };
    let mut from = Position(1);
    for n in 0..4 {
        f.append(&lease, n * 2, vec![large(), note(&lease)]).await.unwrap();
    }
    while from <= Position(8) {
        let page = f.log.read(lease.session(), from, 100).await.unwrap();
        assert!((1..=3).contains(&page.len()), "{} entries from {from}", page.len());
        assert!(page.iter().map(|e| e.position.0).eq(from.0..from.0 + page.len() as u64));
        from = Position(from.0 + page.len() as u64);
    }
    assert_eq!(f.log.read(lease.session(), from, 100).await.unwrap(), []);
}

/// Another epoch than the session's is refused, whichever way it differs, and changes nothing.
pub async fn another_epoch_is_fenced_and_changes_nothing(f: Fixture) {
    let old = f.running("s").await;
    f.expire_leases().await;
    let new = f.claim_one("w2").await;
    let before = f.log.open(old.session()).await.unwrap();

    for epoch in [old.epoch, Epoch(new.epoch.0 + 1), Epoch(0)] {
        let mut append = write(&old, 0, vec![ended(&old, done("stale"))]);
        append.epoch = epoch;
        match f.log.append(append).await {
            Err(AppendError::Fenced { mine, current }) => assert_eq!((mine, current), (epoch, new.epoch)),
            other => panic!("expected Fenced for epoch {epoch}, got {other:?}"),
        }
    }
    assert_eq!(f.log.open(old.session()).await.unwrap(), before);
    assert_eq!(f.record(&old.record.run_id).await.status, Status::Running);
    f.append(&new, 0, vec![note(&new)]).await.expect("the owner goes on");
}

/// A session that does not exist has no owner.
pub async fn appending_to_no_session_is_fenced(f: Fixture) {
    let lease = f.running("s").await;
    let mut append = write(&lease, 0, vec![note(&lease)]);
    append.session = key("elsewhere");
    assert!(matches!(f.log.append(append).await, Err(AppendError::Fenced { .. })));
    assert!(f.log.open(&key("elsewhere")).await.unwrap().is_none());
}

/// The same append, asked for again because its reply was lost, is answered again and stored once; also when the
/// writer has gone on since.
pub async fn a_repeated_append_is_stored_once(f: Fixture) {
    let lease = f.running("s").await;
    let append = write(&lease, 0, vec![note(&lease), note(&lease)]);
    for _ in 0..3 {
        assert_eq!(f.log.append(append.clone()).await.unwrap(), Position(2));
    }
    f.append(&lease, 2, vec![note(&lease)]).await.unwrap();
    assert_eq!(f.log.append(append).await.unwrap(), Position(2));
    assert_eq!(f.positions(lease.session()).await, [1, 2, 3]);
}

/// The reply to a run's last append may be lost too.
pub async fn a_repeated_run_end_is_answered_again(f: Fixture) {
    let lease = f.running("s").await;
    let append = write(&lease, 0, vec![ended(&lease, done("ok"))]);
    assert_eq!(f.log.append(append.clone()).await.unwrap(), Position(1));
    let record = f.record(&lease.record.run_id).await;
    assert_eq!(f.log.append(append).await.unwrap(), Position(1));
    assert_eq!(f.record(&lease.record.run_id).await, record);
}

/// A current owner that is wrong about the head is told where it is.
pub async fn a_wrong_head_is_a_conflict(f: Fixture) {
    let lease = f.running("s").await;
    f.append(&lease, 0, vec![note(&lease)]).await.unwrap();
    for wrong in [0, 2, 100] {
        match f.append(&lease, wrong, vec![note(&lease)]).await {
            Err(AppendError::Conflict { head, after }) => assert_eq!((head, after), (Position(1), Position(wrong))),
            other => panic!("expected Conflict after {wrong}, got {other:?}"),
        }
    }
    assert_eq!(f.positions(lease.session()).await, [1]);
}

/// Of many appends at one place exactly one is stored.
pub async fn one_of_racing_appends_wins(f: Fixture) {
    let lease = f.running("s").await;
    let results = join_all((0..20).map(|_| f.append(&lease, 0, vec![note(&lease), note(&lease)]))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(f.positions(lease.session()).await, [1, 2]);
}

/// An empty batch, an entry of a run that is not the owned one, and an entry after a run's end are mistakes of the
/// writer: refused whole.
pub async fn mistaken_batches_are_refused_whole(f: Fixture) {
    let lease = f.running("s").await;
    let other = f.running("other").await;
    for bodies in [
        vec![],
        vec![note(&lease), note(&other)],
        vec![ended(&lease, done("ok")), note(&lease)],
        vec![note(&lease), checkpoint(0)],
        vec![note(&lease), checkpoint(3)],
    ] {
        let refused = f.append(&lease, 0, bodies.clone()).await;
        assert!(matches!(refused, Err(AppendError::Store(_))), "{bodies:?}: {refused:?}");
    }
    assert_eq!(f.positions(lease.session()).await, [] as [u64; 0]);
    assert_eq!(f.record(&lease.record.run_id).await.status, Status::Running);
}

/// A checkpoint moves where a resuming brain begins to read, and nothing else.
pub async fn a_checkpoint_moves_where_resume_begins(f: Fixture) {
    let lease = f.running("s").await;
    f.append(&lease, 0, (0..50).map(|_| note(&lease)).collect()).await.unwrap();
    f.append(&lease, 50, vec![checkpoint(49), note(&lease)]).await.unwrap();

    let opened = f.log.open(lease.session()).await.unwrap().unwrap();
    assert_eq!((opened.head.resume_from, opened.head.position), (Position(49), Position(52)));
    assert_eq!(opened.tail.iter().map(|e| e.position.0).collect::<Vec<_>>(), [49, 50, 51, 52]);
    assert_eq!(f.positions(lease.session()).await.len(), 52, "the log itself is kept");

    f.expire_leases().await;
    assert_eq!(f.claim_one("w2").await.head.resume_from, Position(49));
}

/// With the append of a run's end its record is terminal, its lease and queue entry are gone, and the session's
/// next run can be claimed.
pub async fn the_end_of_a_run_settles_everything_at_once(f: Fixture) {
    let lease = f.running("s").await;
    let next = created(f.enqueue(further("s")).await);
    assert_eq!(f.claim("w2", 10).await.len(), 0);

    let outcome = Outcome::failed(FailReason::Timeout, "too slow");
    f.append(&lease, 0, vec![note(&lease), ended(&lease, outcome.clone())]).await.unwrap();

    let record = f.record(&lease.record.run_id).await;
    assert_eq!((record.status, record.outcome), (Status::Failed, Some(outcome)));
    assert_eq!(record.spent.turns, 3);
    assert!(record.ended_at.is_some());
    assert!(record.version > lease.record.version);
    let backlog = f.queue.backlog().await.unwrap();
    assert_eq!((backlog.ready, backlog.leased, backlog.waiting), (1, 0, 0));
    assert_eq!(f.queue.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), [lease.key()]);

    let claimed = f.claim_one("w2").await;
    assert_eq!(claimed.record.run_id, next.run_id);
    assert!(claimed.epoch > lease.epoch);
    assert_eq!(claimed.head.position, Position(2));
    f.expire_leases().await;
    assert_eq!(f.claim_one("w3").await.record.run_id, next.run_id, "the ended run never comes back");
}

/// Every kind of outcome settles the record under its status.
pub async fn every_outcome_settles_under_its_status(f: Fixture) {
    for outcome in [done("ok"), Outcome::failed(FailReason::Model, "gone"), Outcome::Aborted {}, Outcome::Cancelled {}]
    {
        let lease = f.running(outcome.status().as_str()).await;
        f.append(&lease, 0, vec![ended(&lease, outcome.clone())]).await.unwrap();
        let record = f.record(&lease.record.run_id).await;
        assert_eq!((record.status, record.outcome), (outcome.status(), Some(outcome)));
    }
}

/// A run that was given back or has ended is nobody's: the former owner writes no more, though its epoch is the
/// session's latest.
pub async fn nobody_writes_without_the_lease(f: Fixture) {
    let given = f.running("given").await;
    assert!(f.queue.release(&given.key(), torpor_core::queue::Release::HandBack).await.unwrap());
    let over = f.running("over").await;
    f.finish(&over, 0).await;
    for (lease, head) in [(&given, 0), (&over, 1)] {
        let refused = f.append(lease, head, vec![checkpoint(1)]).await;
        assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
        assert_eq!(f.positions(lease.session()).await.len() as u64, head);
    }
}

/// An expired lease that nobody has claimed still writes: the epoch decides, not the time.
pub async fn an_expired_owner_writes_until_someone_claims(f: Fixture) {
    let lease = f.running("s").await;
    f.expire_leases().await;
    f.append(&lease, 0, vec![note(&lease)]).await.expect("nobody has claimed");
    f.finish(&lease, 1).await;
    assert_eq!(f.claim("w2", 10).await.len(), 0, "it ended");
}

/// Tenants and sessions whose names look alike are never mixed up.
pub async fn sessions_that_look_alike_stay_apart(f: Fixture) {
    let names = [("a", "b/c"), ("a/b", "c"), ("a", "b-c"), ("a-b", "c"), ("A", "b/c"), ("a", "b:c"), ("a", "b%2Fc")];
    let mut leases = Vec::new();
    for (tenant, session) in names {
        let mut new = first("s");
        new.session = SessionKey::new(tenant, session).unwrap();
        new.claim_for = Some("w".into());
        leases.push(claimed(f.enqueue(new).await));
    }
    for (n, lease) in leases.iter().enumerate() {
        f.append(lease, 0, (0..=n).map(|_| note(lease)).collect()).await.unwrap();
    }
    for (n, lease) in leases.iter().enumerate() {
        assert_eq!(f.positions(lease.session()).await.len(), n + 1, "{:?}", lease.session());
    }
}

/// Waiting for a log to grow is answered at once by what is there, by an append as it comes, or by its time.
pub async fn waiting_sees_a_log_grow(f: Fixture) {
    let hour = Duration::from_secs(3600);
    assert_eq!(soon(f.log.wait_beyond(&key("nobody"), Position(0), Duration::ZERO)).await.unwrap(), Position(0));
    let lease = f.running("s").await;
    let session = lease.session();
    let append = f.append(&lease, 0, vec![note(&lease)]);
    let (grown, appended) = tokio::join!(soon(f.log.wait_beyond(session, Position(0), hour)), append);
    assert_eq!((grown.unwrap(), appended.unwrap()), (Position(1), Position(1)));
    assert_eq!(soon(f.log.wait_beyond(session, Position(0), hour)).await.unwrap(), Position(1));
    let nothing_comes = f.log.wait_beyond(session, Position(1), f.lease);
    assert_eq!(f.while_time_passes(nothing_comes).await.unwrap(), Position(1));
}
