//! Promises of [`RunStore`](torpor_core::run::RunStore).

use std::time::Duration;

use torpor_core::SessionKey;
use torpor_core::envelope::Spec;
use torpor_core::outcome::Status;
use torpor_core::queue::{Enqueued, NewRun};
use torpor_core::run::{Filter, Record};
use torpor_core::{Position, RunId};

use super::{Fixture, soon};
use crate::sample::{claimed, created, first, further, key, keyed};

/// Ids of a list, all pages of it.
async fn listed(f: &Fixture, mut filter: Filter) -> Vec<RunId> {
    let mut all = Vec::new();
    loop {
        let page = f.runs.list(&filter).await.unwrap();
        assert!(page.runs.len() <= filter.limit);
        all.extend(page.runs.into_iter().map(|r| r.run_id));
        match page.next {
            Some(cursor) => filter.cursor = Some(cursor),
            None => return all,
        }
    }
}

fn all(limit: usize) -> Filter {
    Filter { limit, ..Filter::default() }
}

/// A run that was never accepted has no record.
pub async fn an_unknown_run_has_no_record(f: Fixture) {
    assert_eq!(f.runs.get(&RunId::generate()).await.unwrap(), None);
    assert_eq!(f.runs.latest(&key("nobody")).await.unwrap(), None);
    assert_eq!(soon(f.runs.wait(&RunId::generate(), 0, Duration::ZERO)).await.unwrap(), None);
}

/// The record follows the run through its life, and its version rises with every change.
pub async fn a_record_follows_its_run(f: Fixture) {
    let queued = f.submit("s").await;
    f.pass(Duration::from_millis(5)).await;
    let running = f.claim_one("w").await;
    f.pass(Duration::from_millis(5)).await;
    f.finish(&running, 0).await;
    let done = f.record(&queued.run_id).await;
    assert_eq!([queued.status, running.record.status, done.status], [Status::Queued, Status::Running, Status::Done]);
    assert!(queued.version < running.record.version && running.record.version < done.version);
    assert_eq!((done.created_at, done.started_at), (queued.created_at, running.record.started_at));
    assert!(done.started_at > Some(done.created_at) && done.ended_at > done.started_at);
    assert!(done.outcome.is_some() && running.record.outcome.is_none());
    assert_eq!((done.session, done.spec), (queued.session, queued.spec));
}

/// The latest run of a session is the one accepted last.
pub async fn the_latest_run_is_the_one_accepted_last(f: Fixture) {
    let lease = f.running("s").await;
    assert_eq!(f.runs.latest(&key("s")).await.unwrap().unwrap().run_id, lease.record.run_id);
    let second = created(f.enqueue(further("s")).await);
    assert_eq!(f.runs.latest(&key("s")).await.unwrap().unwrap(), second);
    f.finish(&lease, 0).await;
    assert_eq!(f.runs.latest(&key("s")).await.unwrap().unwrap().run_id, second.run_id);
}

/// A list goes from the newest to the oldest, with nothing twice and nothing left out between pages, also when runs
/// are accepted meanwhile.
pub async fn lists_are_paged_from_the_newest(f: Fixture) {
    let mut want = Vec::new();
    for n in 0..7 {
        want.insert(0, f.submit(&format!("s{n}")).await.run_id);
    }
    for limit in [1, 2, 3, 7, 200] {
        assert_eq!(listed(&f, all(limit)).await, want, "pages of {limit}");
    }
    let page = f.runs.list(&all(3)).await.unwrap();
    f.submit("newcomer").await;
    let rest = listed(&f, Filter { cursor: page.next, ..all(3) }).await;
    assert_eq!(rest, want[3..]);
}

/// Filters choose by tenant, status and time, and combine.
pub async fn lists_are_filtered(f: Fixture) {
    let rival = SessionKey::new("rival", "s").unwrap();
    let theirs = created(f.enqueue(NewRun { session: rival, ..first("s") }).await).run_id;
    let theirs_running = f.claim_one("w").await;
    let ended = f.running("ended").await;
    f.finish(&ended, 0).await;
    let ended = ended.record.run_id;
    let midway = f.time.now();
    f.pass(Duration::from_millis(5)).await;
    let running = f.running("running").await.record.run_id;
    let queued = f.submit("queued").await.run_id;
    assert_eq!(theirs_running.record.run_id, theirs);

    let acme = || Filter { tenant: Some("acme".into()), ..all(2) };
    let status = |status, filter: Filter| Filter { status: Some(status), ..filter };
    for (name, filter, want) in [
        ("tenant", acme(), vec![&queued, &running, &ended]),
        ("unknown tenant", Filter { tenant: Some("nobody".into()), ..all(2) }, vec![]),
        ("queued", status(Status::Queued, all(2)), vec![&queued]),
        ("running", status(Status::Running, all(1)), vec![&running, &theirs]),
        ("running of a tenant", status(Status::Running, acme()), vec![&running]),
        ("done", status(Status::Done, all(2)), vec![&ended]),
        ("failed", status(Status::Failed, all(2)), vec![]),
        ("after", Filter { created_after: Some(midway), ..all(1) }, vec![&queued, &running]),
        ("after, running", status(Status::Running, Filter { created_after: Some(midway), ..acme() }), vec![&running]),
        ("after all", Filter { created_after: Some(f.time.now().after(f.lease)), ..all(2) }, vec![]),
    ] {
        assert_eq!(listed(&f, filter).await.iter().collect::<Vec<_>>(), want, "{name}");
    }
}

/// A run that cannot be read spoils no list: neither while it waits nor once it was set aside.
pub async fn lists_leave_out_what_cannot_be_read(f: Fixture) {
    let mut runs = Vec::new();
    for n in 0..6 {
        runs.push(f.submit(&format!("s{n}")).await.run_id);
    }
    for n in [0, 3, 5] {
        (f.spoil)(&runs[n]).await;
    }
    let want = [&runs[4], &runs[2], &runs[1]];
    for set_aside in [false, true] {
        for limit in [1, 2, 3, 200] {
            assert_eq!(listed(&f, all(limit)).await.iter().collect::<Vec<_>>(), want, "{set_aside}, pages of {limit}");
        }
        assert_eq!(f.claim("w", 10).await.len(), if set_aside { 0 } else { want.len() });
    }
    assert!(listed(&f, Filter { status: Some(Status::Failed), ..all(10) }).await.is_empty());
}

/// A page of large records ends early, with a cursor, so that none grows without bound; each still holds something.
pub async fn pages_end_before_they_grow_large(f: Fixture) {
    let mut want = Vec::new();
    for n in 0..12 {
        let spec = Spec::prompt("x".repeat(2 << 20));
        want.insert(0, created(f.enqueue(NewRun { spec, ..first(&format!("s{n}")) }).await).run_id);
    }
    let page = f.runs.list(&all(200)).await.unwrap();
    assert!((1..6).contains(&page.runs.len()), "{} records of 2 MiB on a page", page.runs.len());
    assert!(page.next.is_some());
    for limit in [1, 2, 200] {
        assert_eq!(listed(&f, all(limit)).await, want, "pages of {limit}");
    }
}

/// A cursor of someone else's making is refused.
pub async fn foreign_cursors_are_refused(f: Fixture) {
    f.submit("s").await;
    for cursor in ["", "not a cursor", "-1", "'; --", &"f".repeat(99)] {
        let filter = Filter { cursor: Some(cursor.into()), ..all(10) };
        assert!(f.runs.list(&filter).await.is_err(), "{cursor:?}");
    }
}

/// `wait` answers at once what has changed before.
pub async fn wait_answers_at_once_what_is_new(f: Fixture) {
    let lease = f.running("s").await;
    let (run, version) = (&lease.record.run_id, lease.record.version);
    let wait = |seen| f.runs.wait(run, seen, f.lease * 1_000);
    assert_eq!(soon(wait(version - 1)).await.unwrap().as_ref(), Some(&lease.record));
    f.finish(&lease, 0).await;
    assert_eq!(soon(wait(version)).await.unwrap().map(|r| r.status), Some(Status::Done));
}

/// `wait` is woken by the change itself: any number of waiters, each with the terminal record.
pub async fn wait_is_woken_by_the_change(f: Fixture) {
    let lease = f.running("s").await;
    let (run, version) = (&lease.record.run_id, lease.record.version);
    let waiters = futures::future::join_all((0..10).map(|_| f.runs.wait(run, version, f.lease * 1_000)));
    let finish = async {
        tokio::time::sleep(Duration::from_millis(20)).await; // lets them wait first
        f.finish(&lease, 0).await;
    };
    let (records, ()) = soon(async { tokio::join!(waiters, finish) }).await;
    let want = f.record(run).await;
    assert_eq!(want.status, Status::Done);
    for record in records {
        assert_eq!(record.unwrap(), Some(want.clone()));
    }
}

/// `wait` sees every kind of change, not only the end.
pub async fn wait_sees_claims_and_releases(f: Fixture) {
    let record = f.submit("s").await;
    let wait = |seen| f.runs.wait(&record.run_id, seen, f.lease * 1_000);
    let (seen, lease) = soon(async { tokio::join!(wait(record.version), f.claim_one("w")) }).await;
    let seen = seen.unwrap().unwrap();
    assert_eq!(seen, lease.record);
    let (key, back) = (lease.key(), torpor_core::queue::Release::HandBack);
    let (seen, _) = soon(async { tokio::join!(wait(seen.version), f.queue.release(&key, back)) }).await;
    assert_eq!(seen.unwrap().unwrap().status, Status::Queued);
}

/// `wait` gives up after `max`, with the record as it is.
pub async fn wait_gives_up_in_time(f: Fixture) {
    let record = f.submit("s").await;
    let wait = f.runs.wait(&record.run_id, record.version, f.lease);
    assert_eq!(f.while_time_passes(wait).await.unwrap(), Some(record));
}

/// Terminal records are gone after their time, with their keys; sessions, logs and runs that have
/// not ended stay.
pub async fn sweep_removes_what_has_ended_long_ago(f: Fixture) {
    let new = NewRun { claim_for: Some("w".into()), ..keyed(first("s"), "k", "h") };
    let old = claimed(f.enqueue(new).await);
    f.finish(&old, 0).await;
    let open = f.submit("open").await;
    assert_eq!(f.runs.sweep().await.unwrap(), 0);
    f.pass(f.result_ttl / 2).await;
    let young = f.running("young").await;
    f.finish(&young, 0).await;
    f.pass(f.result_ttl / 2 + Duration::from_millis(1)).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 1);

    let gone = |r: Option<Record>| r.is_none();
    assert!(gone(f.runs.get(&old.record.run_id).await.unwrap()));
    assert!(gone(f.runs.latest(&key("s")).await.unwrap()));
    assert_eq!(f.record(&open.run_id).await, open);
    assert_eq!(f.record(&young.record.run_id).await.status, Status::Done);
    assert_eq!(f.positions(&key("s")).await, [1], "the log stays");

    // The key is forgotten, the session is not: it still knows the post that made it, and further turns are welcome.
    for key in ["k", "another key"] {
        assert!(matches!(f.enqueue(keyed(first("s"), key, "h")).await, Enqueued::Expired), "{key}");
        assert!(matches!(f.enqueue(keyed(first("s"), key, "other")).await, Enqueued::Conflict), "{key}");
    }
    assert!(matches!(f.enqueue(first("s")).await, Enqueued::Conflict));
    let again = created(f.enqueue(keyed(further("s"), "k", "h")).await);
    assert_eq!(f.runs.latest(&key("s")).await.unwrap().unwrap().run_id, again.run_id);
    let opened = f.log.open(&key("s")).await.unwrap().unwrap();
    assert_eq!(opened.head.position, Position(1));
}

/// A store that works says so.
pub async fn a_working_store_answers_a_ping(f: Fixture) {
    f.runs.ping().await.unwrap();
}
