//! What happens when the disk or the writer fails, which no caller can bring about from outside.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::dead_letter::{Filter, Letter, LetterStore as _};
use torpor_core::entry::Body;
use torpor_core::log::{Append, AppendError, SessionLog as _};
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::{Backlog, Lease, NewRun, Release, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::{Clock as _, Position, RunId, store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{claimed, created, done, ended, first, first_claimed, further, write};

use crate::{Options, Store};

struct Fixture {
    store: Store,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
        Self { store, clock, _dir: dir }
    }

    async fn running(&self, session: &str) -> Lease {
        claimed(self.store.enqueue(first_claimed(session)).await.unwrap())
    }

    async fn letters(&self) -> Vec<Letter> {
        self.store.letters(&Filter { limit: 10, ..Filter::default() }).await.unwrap().letters
    }

    /// Changes what is stored about a run.
    async fn sql(&self, statement: &str, run: &RunId) {
        let (statement, run) = (statement.to_owned(), run.clone());
        self.store.writer.write(move |b| Ok(b.conn.execute(&statement, [run.as_str()])?)).await.unwrap();
    }

    /// From now on the database may not grow.
    async fn fill_disk(&self) {
        self.store
            .writer
            .write(|b| Ok(b.conn.query_row("PRAGMA max_page_count = 1", [], |r| r.get::<_, i64>(0))?))
            .await
            .unwrap();
    }

    async fn free_disk(&self) {
        self.store
            .writer
            .write(|b| Ok(b.conn.query_row("PRAGMA max_page_count = 1000000", [], |r| r.get::<_, i64>(0))?))
            .await
            .unwrap();
    }
}

/// An append of one entry of some size.
fn sized(lease: &Lease, after: u64, bytes: usize) -> Append {
    let summary = "x".repeat(bytes);
    write(lease, after, vec![Body::Checkpoint { summary, keep_from: Position(1), open_run: None }])
}

#[tokio::test]
async fn a_full_disk_fails_the_call_and_is_survived() {
    let f = Fixture::new();
    let lease = f.running("s").await;
    f.store.append(sized(&lease, 0, 100)).await.unwrap();
    f.fill_disk().await;
    let big = sized(&lease, 1, 100_000);
    match f.store.append(big.clone()).await {
        Err(AppendError::Store(store::Error::Failed(e))) => assert!(e.contains("full"), "{e}"),
        other => panic!("expected a failed store, got {other:?}"),
    }
    // What was acknowledged is there, reads go on, and so do writes that fit.
    let opened = f.store.open(lease.session()).await.unwrap().unwrap();
    assert_eq!((opened.head.position, opened.tail.len()), (Position(1), 1));
    assert_eq!(f.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), []);

    f.free_disk().await;
    assert_eq!(f.store.append(big).await.unwrap(), Position(2), "the same append, repeated");
}

#[tokio::test]
async fn a_failed_command_takes_no_other_with_it() {
    let f = Fixture::new();
    let leases = [f.running("a").await, f.running("b").await];
    let (first, failed, second) = tokio::join!(
        f.store.append(sized(&leases[0], 0, 10)),
        f.store.writer.write(|b| -> Result<(), _> {
            b.conn.execute("DELETE FROM entry", [])?;
            b.conn.execute("DELETE FROM session", [])?;
            Err(store::Error::Failed("on purpose".to_owned()).into())
        }),
        f.store.append(sized(&leases[1], 0, 10)),
    );
    assert_eq!((first.unwrap(), second.unwrap()), (Position(1), Position(1)));
    assert!(matches!(failed, Err(store::Error::Failed(e)) if e == "on purpose"));
    for lease in &leases {
        assert_eq!(f.store.open(lease.session()).await.unwrap().unwrap().tail.len(), 1);
    }
}

#[tokio::test]
async fn a_transaction_that_sqlite_gave_up_fails_whole() {
    let f = Fixture::new();
    let lease = f.running("s").await;
    let (first, lost, second) = tokio::join!(
        f.store.append(sized(&lease, 0, 10)),
        f.store.writer.write(|b| -> Result<(), _> {
            b.conn.execute_batch("ROLLBACK")?; // as SQLite does by itself after some I/O errors
            Err(store::Error::Failed("disk I/O error".to_owned()).into())
        }),
        f.store.enqueue(first("t")),
    );
    lost.unwrap_err();
    // Whether they shared the transaction is a matter of timing: what was acknowledged is stored, the rest is not.
    let entries = f.store.open(lease.session()).await.unwrap().unwrap().tail.len();
    assert_eq!(entries, usize::from(first.is_ok()));
    let accepted = f.store.backlog().await.unwrap().ready;
    assert_eq!(accepted, u64::from(second.is_ok()));
    f.store.append(sized(&lease, entries as u64, 10)).await.expect("the writer goes on");
}

#[tokio::test]
async fn a_claim_whose_commit_failed_loses_no_run() {
    let f = Fixture::new();
    f.store.enqueue(first("s")).await.unwrap();
    let failed = f
        .store
        .writer
        .write(|b| -> Result<(), _> {
            let claimed = crate::claim::claim(b, &"w".into(), 1)?;
            assert_eq!(claimed.leases.len(), 1);
            Err(store::Error::Failed("on purpose".to_owned()).into())
        })
        .await;
    assert!(failed.is_err());
    for round in 0..3 {
        let leases = f.store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap();
        assert_eq!(leases.len(), 1, "round {round}");
        assert_eq!(f.store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().len(), 0);
        f.clock.advance(Duration::from_secs(4));
    }
}

/// A set of damage, and what each is called in the dead letter.
const DAMAGE: [(&str, &str); 6] = [
    ("UPDATE run SET spec = json_set(spec, '$.work.kind', 'solve') WHERE run_id = ?1", "unknown variant `solve`"),
    ("UPDATE run SET spec = json_set(spec, '$.work.kind', hex(zeroblob(100000))) WHERE run_id = ?1", "`00000"),
    ("UPDATE run SET status = 'dozing' WHERE run_id = ?1", "\"dozing\" is not known"),
    ("UPDATE run SET attempts = 'many' WHERE run_id = ?1", "Text"),
    ("UPDATE run SET created_ms = -1 WHERE run_id = ?1", "a count is -1"),
    ("UPDATE session SET epoch = -1 WHERE front_run = ?1", "a count is -1"),
];

/// Whatever of a run or of its session's marks is damaged, others are claimed; and a run that can be read again is
/// shown for what became of it.
#[tokio::test]
async fn damage_of_any_kind_stops_nobody() {
    for (damage, why) in DAMAGE {
        let f = Fixture::new();
        let bad = created(f.store.enqueue(first("bad")).await.unwrap());
        let next = created(f.store.enqueue(further("bad")).await.unwrap());
        let good = created(f.store.enqueue(first("good")).await.unwrap());
        f.sql(damage, &bad.run_id).await;
        let claimed = f.store.claim(&"w".into(), 10, Duration::ZERO).await.unwrap();
        let claimed: Vec<_> = claimed.iter().map(|l| &l.record.run_id).collect();
        assert!(claimed.contains(&&good.run_id), "{damage}");
        let stays = damage.contains("session"); // whose marks are damaged for the next run as well
        assert_eq!(claimed.contains(&&next.run_id), !stays, "{damage}");
        let letters = f.letters().await;
        let letter = letters.iter().find(|l| l.run == bad.run_id).expect(damage);
        assert!(letter.reason.contains(why), "{damage}: {}", letter.reason);
        assert!(letter.reason.len() < 1_000, "{damage}: a reason of {} bytes", letter.reason.len());

        let spec = serde_json::to_string(&bad.spec).unwrap().replace('\'', "''");
        let mend = format!("UPDATE run SET spec = '{spec}', attempts = 0, created_ms = 1 WHERE run_id = ?1");
        f.sql(&mend, &bad.run_id).await;
        let record = f.store.get(&bad.run_id).await.unwrap().unwrap();
        assert_eq!(record.status, Status::Failed);
        assert_eq!(record.outcome, Some(Outcome::failed(FailReason::DeadLetter, letter.reason.clone())));
        assert!(record.ended_at.is_some() && record.version > bad.version);
    }
}

/// A whole queue that this build cannot read takes several commits, and still no second look by the caller.
#[tokio::test]
async fn a_long_row_of_unreadable_runs_is_passed_in_one_claim() {
    let f = Fixture::new();
    for n in 0..600 {
        f.store.enqueue(NewRun { priority: 1, ..first(&format!("bad {n}")) }).await.unwrap();
    }
    let good = created(f.store.enqueue(first("good")).await.unwrap());
    f.sql("UPDATE run SET spec = '{}' WHERE run_id <> ?1", &good.run_id).await;
    let claimed = f.store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap();
    assert_eq!(claimed[0].record.run_id, good.run_id);
    assert_eq!(f.store.backlog().await.unwrap(), Backlog { leased: 1, dead: 600, ..Backlog::default() });
}

/// What a claim set aside is undone with the claim, and the waiters for it hear nothing of it.
#[tokio::test]
async fn setting_aside_is_undone_with_its_commit() {
    let f = Fixture::new();
    let lease = f.running("bad").await;
    f.sql(DAMAGE[0].0, &lease.record.run_id).await;
    f.clock.advance(Duration::from_secs(4));
    let failed = f
        .store
        .writer
        .write(|b| -> Result<(), _> {
            assert_eq!(crate::claim::claim(b, &"w2".into(), 1)?.leases.len(), 0);
            Err(store::Error::Failed("on purpose".to_owned()).into())
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(f.store.backlog().await.unwrap(), Backlog { ready: 1, ..Backlog::default() });
    assert_eq!(f.letters().await, []);
    assert_eq!(f.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), [], "its owner may still revive it");

    f.clock.advance(Duration::from_secs(4));
    assert_eq!(f.store.claim(&"w2".into(), 1, Duration::ZERO).await.unwrap().len(), 0);
    assert_eq!(f.store.backlog().await.unwrap(), Backlog { dead: 1, ..Backlog::default() });
    assert_eq!(f.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), [lease.key()]);
    let refused = f.store.append(write(&lease, 0, vec![ended(&lease, done("late"))])).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    assert_eq!(*f.store.signals.due.borrow(), u64::MAX, "nothing is left to wait for");
    let run = lease.record.run_id;
    assert!(f.store.writer.write(move |b| Ok(b.state.leases.of(&run).is_none())).await.unwrap());
}

#[tokio::test]
async fn a_due_run_whose_claim_failed_is_found_again() {
    let f = Fixture::new();
    let not_before = Some(f.clock.now().after(Duration::from_secs(1)));
    f.store.enqueue(NewRun { not_before, ..first("s") }).await.unwrap();
    f.clock.advance(Duration::from_secs(1));
    let failed = f
        .store
        .writer
        .write(|b| -> Result<(), _> {
            assert_eq!(crate::claim::claim(b, &"w".into(), 1)?.leases.len(), 1);
            Err(store::Error::Failed("on purpose".to_owned()).into())
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(f.store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().len(), 1);
}

/// A heartbeat that shares its commit with a claim that put the run on offer revives the lease all the same.
#[tokio::test]
async fn a_heartbeat_right_after_an_offer_takes_it_back() {
    let f = Fixture::new();
    let leases = [f.running("a").await, f.running("b").await];
    f.clock.advance(Duration::from_secs(4));
    let keys = [leases[0].key(), leases[1].key()];
    let (taken, lost) = f
        .store
        .writer
        .write(move |b| {
            let taken = crate::claim::claim(b, &"w2".into(), 1)?.leases.remove(0).record.run_id;
            Ok((taken, crate::claim::heartbeat(b, &"w".into(), &keys)?))
        })
        .await
        .unwrap();
    assert_eq!(lost.iter().map(|key| &key.run).collect::<Vec<_>>(), [&taken]);
    assert_eq!(f.store.backlog().await.unwrap(), Backlog { leased: 2, ..Backlog::default() });
    assert!(f.store.claim(&"w3".into(), 10, Duration::ZERO).await.unwrap().is_empty());
}

/// Whoever waits sleeps until something is due, and does not come back for an instant that is past.
#[tokio::test]
async fn waiters_sleep_until_the_true_next_instant() {
    let f = Fixture::new();
    let due = || *f.store.signals.due.borrow();
    let worker = "w".into();
    let look = || f.store.claim(&worker, 1, Duration::ZERO);
    assert_eq!(due(), u64::MAX);
    let lease = f.running("s").await;
    assert_eq!(due(), f.clock.now().after(Duration::from_secs(3)).0, "the end of the lease");
    f.clock.advance(Duration::from_secs(2));
    f.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap();
    f.clock.advance(Duration::from_secs(2));
    assert!(look().await.unwrap().is_empty());
    assert_eq!(due(), f.clock.now().after(Duration::from_secs(1)).0, "the heartbeat moved it");
    assert!(f.store.release(&lease.key(), Release::Wait { after: Duration::from_millis(500) }).await.unwrap());
    assert_eq!(due(), f.clock.now().after(Duration::from_millis(500)).0, "the delay");
    f.clock.advance(Duration::from_millis(500));
    let lease = look().await.unwrap().remove(0);
    f.store.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
    assert!(look().await.unwrap().is_empty());
    assert_eq!(due(), u64::MAX, "nothing is left to wait for");
}

/// `kill -9` cannot tell: only losing power would.
#[tokio::test]
async fn commits_are_synced() {
    let f = Fixture::new();
    let mode = f
        .store
        .writer
        .write(|b| {
            let journal: String = b.conn.query_row("PRAGMA journal_mode", [], |r| r.get(0))?;
            let synchronous: i64 = b.conn.query_row("PRAGMA synchronous", [], |r| r.get(0))?;
            Ok((journal, synchronous))
        })
        .await
        .unwrap();
    assert_eq!(mode, ("wal".to_owned(), 2)); // 2 is FULL
}

#[tokio::test]
async fn a_release_or_end_whose_commit_failed_keeps_the_lease() {
    let f = Fixture::new();
    let lease = f.running("s").await;
    let key = lease.key();
    let failed = f
        .store
        .writer
        .write(move |b| -> Result<(), _> {
            assert!(crate::claim::release(b, &key, Release::HandBack)?);
            Err(store::Error::Failed("on purpose".to_owned()).into())
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(f.store.backlog().await.unwrap(), Backlog { leased: 1, ..Backlog::default() });
    assert_eq!(f.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), []);
    f.clock.advance(Duration::from_secs(4));
    assert_eq!(f.store.claim(&"w2".into(), 1, Duration::ZERO).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dead_writer_is_reported_and_never_waited_for() {
    let f = Fixture::new();
    let lease = f.running("s").await;
    let died = f.store.writer.write(|_| -> Result<(), _> { panic!("on purpose") }).await;
    assert!(matches!(died, Err(store::Error::Unavailable(_))), "{died:?}");
    let append = f.store.append(sized(&lease, 0, 10)).await;
    assert!(matches!(append, Err(AppendError::Store(store::Error::Unavailable(_)))), "{append:?}");
    assert!(f.store.ping().await.is_err());
    assert!(f.store.claim(&"w".into(), 1, Duration::from_secs(60)).await.is_err());
}
