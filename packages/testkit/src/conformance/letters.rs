//! Dead letters: listed, driven again, kept for their time.

use std::time::Duration;

use torpor_core::RunId;
use torpor_core::dead_letter::{Again, Filter, Redrive, Redriven};
use torpor_core::envelope::Spec;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::{Backlog, Cancelled, NewRun};
use torpor_core::{SessionKey, trace};

use super::Fixture;
use crate::sample::{claimed, created, ended, first, first_claimed, further, key};

impl Fixture {
    /// A run that failed too often: its end is in the log, its dead letter says so.
    async fn given_up(&self, session: &str) -> RunId {
        let lease = self.running(session).await;
        let end = ended(&lease, Outcome::failed(FailReason::DeadLetter, "given up"));
        self.append(&lease, 0, vec![end]).await.expect("the owner may end its run");
        self.queue.dead_letter(&lease.record.run_id, "given up").await.expect("the store answers");
        lease.record.run_id
    }

    /// A run that a claim could not read.
    async fn set_aside(&self, session: &str) -> RunId {
        let run = self.submit(session).await.run_id;
        (self.spoil)(&run).await;
        assert!(self.claim("w", 1).await.is_empty(), "it cannot be read");
        run
    }

    async fn redrive(&self, run: &RunId) -> Redriven {
        let it = Redrive { run: run.clone(), tenant: None, new_run: RunId::generate(), trace: None };
        self.letters.redrive(&it).await.expect("the store answers")
    }

    /// Drives a dead letter again; the run that does its work.
    async fn again(&self, run: &RunId) -> RunId {
        match self.redrive(run).await {
            Redriven::Queued(Again { run, .. }) => run,
            other => panic!("it should be in the queue, got {other:?}"),
        }
    }
}

/// A list has every dead letter once, the newest first, page by page, and for one tenant only its own.
pub async fn letters_are_listed(f: Fixture) {
    let (a, b) = (f.given_up("a").await, f.set_aside("b").await);
    let session = SessionKey::new("other", "theirs").unwrap();
    let theirs = claimed(f.enqueue(NewRun { session, ..first_claimed("s") }).await);
    f.queue.dead_letter(&theirs.record.run_id, "theirs").await.unwrap();
    assert_eq!(f.letters().await.len(), 2, "it is no dead letter before it has ended");
    f.finish(&theirs, 0).await;

    let mut filter = Filter { limit: 1, ..Filter::default() };
    let mut seen = Vec::new();
    loop {
        let page = f.letters.letters(&filter).await.unwrap();
        assert!(page.letters.len() <= 1);
        seen.extend(page.letters);
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    let got: Vec<_> = seen.iter().map(|l| (&l.run, l.tenant.as_str(), l.session.as_str(), l.unread)).collect();
    let expected =
        [(&theirs.record.run_id, "other", "theirs", false), (&b, "acme", "b", true), (&a, "acme", "a", false)];
    assert_eq!(got, expected);
    assert!(seen[1].reason.contains("cannot be read") && seen[2].reason == "given up", "{seen:?}");
    let mine = Filter { tenant: Some("acme".into()), limit: 10, cursor: None };
    assert_eq!(f.letters.letters(&mine).await.unwrap().letters, seen[1..]);
    let foreign = Filter { limit: 1, cursor: Some("not ours".into()), ..Filter::default() };
    assert!(f.letters.letters(&foreign).await.is_err());
}

/// The work of a run that has ended becomes a further run, once; each names the other.
pub async fn what_was_given_up_is_posted_again(f: Fixture) {
    let old = f.given_up("s").await;
    let before = f.record(&old).await;
    let trace = Some(trace::Context::fresh());
    let it = Redrive { run: old.clone(), tenant: Some("acme".into()), new_run: RunId::generate(), trace };
    let again = Again { run: it.new_run.clone(), session: key("s") };
    assert_eq!(f.letters.redrive(&it).await.unwrap(), Redriven::Queued(again.clone()));
    let repeated = Redrive { new_run: RunId::generate(), ..it.clone() };
    assert_eq!(f.letters.redrive(&repeated).await.unwrap(), Redriven::Before(again));

    assert_eq!(f.letters().await, []);
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { ready: 1, ..Backlog::default() });
    let (record, new) = (f.record(&old).await, f.record(&it.new_run).await);
    assert_eq!((&record.redriven_as, &record.redrive_of), (&Some(it.new_run.clone()), &None));
    assert_eq!((&record.outcome, &record.status), (&before.outcome, &Status::Failed), "how it ended stays");
    assert!(record.version > before.version);
    assert_eq!((&new.redrive_of, &new.redriven_as), (&Some(old.clone()), &None));
    assert_eq!((&new.spec, new.status, new.attempts), (&before.spec, Status::Queued, 0));
    assert_eq!(new.trace, it.trace);
    assert_eq!(f.runs.latest(&key("s")).await.unwrap().unwrap().run_id, new.run_id);

    let lease = f.claim_one("w").await;
    assert_eq!((&lease.record.run_id, lease.attempt, lease.head.position.0), (&new.run_id, 1, 1));
    f.finish(&lease, 1).await;
    f.queue.dead_letter(&old, "a late note").await.unwrap();
    assert_eq!(f.letters().await, [], "it was driven again");
    assert_eq!(f.redrive(&new.run_id).await, Redriven::NotDead);
}

/// A run without an end goes back as it was, to be read by a build that can; set aside again, it can be driven again.
pub async fn what_was_set_aside_goes_back(f: Fixture) {
    let run = f.set_aside("s").await;
    assert_eq!(f.again(&run).await, run);
    let again = Again { run: run.clone(), session: key("s") };
    assert_eq!(f.redrive(&run).await, Redriven::Before(again), "it is in the queue");
    assert_eq!((f.letters().await, f.queue.backlog().await.unwrap().ready), (Vec::new(), 1));
    assert!(f.claim("w", 1).await.is_empty(), "nobody can read it yet");
    assert_eq!(f.letters().await.len(), 1);

    assert_eq!(f.again(&run).await, run);
    (f.mend)(&run).await;
    let record = f.record(&run).await;
    assert_eq!((record.status, &record.outcome, record.ended_at, record.attempts), (Status::Queued, &None, None, 0));
    assert_eq!((record.redriven_as, record.redrive_of), (None, None), "it is the same run");
    let lease = f.claim_one("w").await;
    assert_eq!((&lease.record.run_id, lease.attempt, lease.cancel), (&run, 1, false));
    let end = ended(&lease, Outcome::failed(FailReason::DeadLetter, "given up"));
    f.append(&lease, 0, vec![end]).await.unwrap();
    f.queue.dead_letter(&run, "given up").await.unwrap();
    assert!(!f.letters().await[0].unread, "now it has an end");
    assert!(f.again(&run).await != run);
}

/// What stands before it in its session goes first.
pub async fn what_is_driven_again_waits_its_turn(f: Fixture) {
    let (given_up, set_aside) = (f.given_up("a").await, f.set_aside("b").await);
    let (a, b) = (created(f.enqueue(further("a")).await), created(f.enqueue(further("b")).await));
    let new = f.again(&given_up).await;
    assert_eq!(f.again(&set_aside).await, set_aside);
    (f.mend)(&set_aside).await;
    let backlog = f.queue.backlog().await.unwrap();
    assert_eq!((backlog.ready, backlog.waiting, backlog.dead), (2, 2, 0));
    for expected in [[a.run_id, b.run_id], [set_aside, new]] {
        let leases = f.claim("w", 10).await;
        assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        for lease in leases {
            f.finish(&lease, lease.head.position.0).await;
        }
    }
}

/// One that had begun before, and waits behind another of its session now, is cancelled without disturbing that one.
pub async fn what_waits_its_turn_again_is_cancelled(f: Fixture) {
    let run = f.running("s").await.record.run_id;
    (f.spoil)(&run).await;
    f.expire_leases().await;
    assert!(f.claim("w", 1).await.is_empty(), "it cannot be read");
    created(f.enqueue(further("s")).await);
    let front = f.claim_one("w").await;
    assert_eq!(f.again(&run).await, run);
    (f.mend)(&run).await;

    let cancelled = f.queue.cancel(&run).await.expect("the store answers");
    assert!(matches!(&cancelled, Cancelled::Ended(record) if record.status == Status::Cancelled), "{cancelled:?}");
    assert!(f.claim("other", 10).await.is_empty(), "it is not its turn");
    f.finish(&front, front.head.position.0).await;
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog::default());
}

/// Only what was given up, and only for whom it belongs to.
pub async fn only_dead_letters_are_driven_again(f: Fixture) {
    let lease = f.running("s").await;
    assert_eq!(f.redrive(&RunId::generate()).await, Redriven::Unknown);
    assert_eq!(f.redrive(&lease.record.run_id).await, Redriven::NotDead);
    f.queue.dead_letter(&lease.record.run_id, "noted before its end").await.unwrap();
    assert_eq!(f.redrive(&lease.record.run_id).await, Redriven::NotDead);
    f.finish(&lease, 0).await;
    let of = |tenant: &str| Redrive {
        run: lease.record.run_id.clone(),
        tenant: Some(tenant.into()),
        new_run: RunId::generate(),
        trace: None,
    };
    assert_eq!(f.letters.redrive(&of("other")).await.unwrap(), Redriven::Unknown);
    assert!(matches!(f.letters.redrive(&of("acme")).await.unwrap(), Redriven::Queued(_)));
    let lease = f.claim_one("w").await;
    f.finish(&lease, 1).await;
    f.sessions.remove(&key("s")).await.unwrap();
    assert_eq!(f.letters.redrive(&of("acme")).await.unwrap(), Redriven::Unknown);
}

/// The record of a dead letter is there as long as the letter; driven again, it goes like any other.
pub async fn a_dead_letter_keeps_its_record(f: Fixture) {
    let (kept, driven) = (f.given_up("kept").await, f.given_up("driven").await);
    let again = f.again(&driven).await;
    let lease = f.claim_one("w").await;
    f.finish(&lease, 1).await;
    f.pass(f.result_ttl + Duration::from_millis(1)).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 2);
    assert!(f.runs.get(&driven).await.unwrap().is_none() && f.runs.get(&again).await.unwrap().is_none());
    assert_eq!(f.redrive(&driven).await, Redriven::Unknown);
    assert_eq!(f.letters().await.len(), 1);
    assert_eq!(f.record(&kept).await.status, Status::Failed);
    f.pass(f.dead_letter_ttl - f.result_ttl).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 1);
    assert!(f.letters().await.is_empty() && f.runs.get(&kept).await.unwrap().is_none());
}

/// Of too many the oldest go; their records stay for the time of records.
pub async fn so_many_letters_are_kept_and_no_more(f: Fixture) {
    let mut runs = Vec::new();
    for n in 0..f.max_dead_letters + 2 {
        let new = NewRun { spec: Spec::prompt("p"), ..first(&n.to_string()) };
        runs.push(created(f.enqueue(new).await).run_id);
    }
    for lease in f.claim("w", runs.len()).await {
        f.finish(&lease, 0).await;
    }
    for run in &runs {
        f.queue.dead_letter(run, "why").await.unwrap();
    }
    assert_eq!(f.runs.sweep().await.unwrap(), 0);
    let kept: Vec<_> = f.letters().await.into_iter().map(|l| l.run).rev().collect();
    assert_eq!(kept, runs[2..]);
    assert_eq!(f.redrive(&runs[0]).await, Redriven::NotDead);
    assert_eq!(f.record(&runs[0]).await.status, Status::Done);
    f.pass(f.result_ttl + Duration::from_millis(1)).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 2);
}
