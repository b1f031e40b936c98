//! Opening: the folder, the lock, versions, damage, and what a new process finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use torpor_core::dead_letter::{Filter, LetterStore as _};
use torpor_core::gate::GateStore as _;
use torpor_core::key::KeyStore as _;
use torpor_core::log::{AppendError, SessionLog};
use torpor_core::queue::{Cancelled, Enqueued, Lease, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::session::{Fork, Forked, SessionStore as _};
use torpor_core::{Clock as _, Position, Timestamp, store};
use torpor_store_embedded::{Options, Store, holder};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{
    checkpoint, claimed, created, first, first_claimed, further, gate, key, keyed, note, write,
};

fn open(dir: &Path) -> Result<Store, store::Error> {
    Store::open(dir, Options { clock: Arc::new(ManualClock::default()), ..Options::default() })
}

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("store.db")).unwrap()
}

async fn running(store: &Store, session: &str) -> Lease {
    claimed(store.enqueue(first_claimed(session)).await.unwrap())
}

#[test]
fn the_folder_is_made_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("a/b");
    open(&inner).unwrap();
    for folder in [&inner, &dir.path().join("a")] {
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_folder_is_opened_once_and_the_holder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let held = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains(dir.path().to_str().unwrap()), "{refused}");
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    drop(held);
    open(dir.path()).expect("released with the store");
}

/// Set for the child of the next test: the folder to hold.
const HOLD: &str = "TORPOR_TEST_HOLD_FOLDER";

/// The child: holds the store until its standard input ends.
#[test]
fn hold() {
    let Some(dir) = std::env::var_os(HOLD) else { return };
    let _store = open(Path::new(&dir)).unwrap();
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Who holds a folder is a fact about now: not about who wrote a file, and not changed by asking.
#[test]
fn the_holder_of_a_folder_is_known_while_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(holder(dir.path()), None, "a folder that was never used");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "asking leaves nothing behind");

    for kill in [true, false] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hold", "--nocapture"])
            .env(HOLD, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("held")).unwrap().unwrap();
        for _ in 0..3 {
            assert_eq!(holder(dir.path()), Some(child.id()));
        }
        assert!(open(dir.path()).unwrap_err().to_string().contains(&format!("process {}", child.id())));
        if kill {
            child.kill().unwrap();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(holder(dir.path()), None, "its id may still be written down; it holds nothing");
    }

    std::fs::write(dir.path().join("lock"), "4711").unwrap();
    assert_eq!(holder(dir.path()), None);
    let _mine = open(dir.path()).unwrap();
    assert_eq!(holder(dir.path()), None, "no other process");
}

/// Those who look neither take each other for the holder nor keep out a store that is opened in the same moment.
#[test]
fn looking_for_the_holder_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lock"), "4711").unwrap(); // killed, so it is still written down
    let look = |times: usize| {
        for _ in 0..times {
            assert_eq!(holder(dir.path()), None);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| look(5_000));
        scope.spawn(|| look(5_000));
    });

    drop(open(dir.path()).unwrap());
    std::thread::scope(|scope| {
        let lookers = [scope.spawn(|| look(2_000)), scope.spawn(|| look(2_000))];
        while !lookers.iter().all(|looker| looker.is_finished()) {
            drop(open(dir.path()).unwrap());
        }
    });
}

#[test]
fn a_child_process_does_not_hold_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let held = open(dir.path()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    drop(held);
    let opened = open(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    opened.expect("the child was started while the store was open, and lives on");
}

/// What others keep for a store is found again after a restart, and never by the store that took its place.
#[test]
fn a_store_keeps_its_id_and_shares_it_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap().id().to_owned();
    assert_eq!(open(dir.path()).unwrap().id(), first);
    std::fs::remove_file(dir.path().join("store.db")).unwrap();
    let second = open(dir.path()).unwrap().id().to_owned();
    assert!(first != second && !first.is_empty() && !second.is_empty(), "{first} {second}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = open(&file.join("store")).unwrap_err().to_string();
    assert!(refused.contains(file.to_str().unwrap()), "{refused}");
}

#[test]
fn a_newer_layout_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    database(dir.path()).execute("UPDATE meta SET value = '99' WHERE name = 'schema'", []).unwrap();
    match open(dir.path()) {
        Err(store::Error::Unreadable(e)) => assert!(e.contains("version 99") && e.contains("store.db"), "{e}"),
        other => panic!("expected Unreadable, got {other:?}"),
    }
}

/// However open the folder is, nobody else reads what was said.
#[tokio::test]
async fn files_are_private_in_an_open_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(dir.path()).unwrap();
    created(store.enqueue(first("s")).await.unwrap());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
}

/// A file of each layout before is brought up to date, with everything in it.
#[tokio::test]
async fn an_older_layout_is_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let old = running(&store, "s").await.record.run_id;
    drop(store);
    database(dir.path())
        .execute_batch(&format!("{UNDO_5}{UNDO_4}{UNDO_3}{UNDO_2} DELETE FROM meta WHERE name = 'id';"))
        .unwrap();
    let id = open(dir.path()).unwrap().id().to_owned();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.id(), id);
    assert_eq!(store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap()[0].record.run_id, old);
    assert!(matches!(store.enqueue(keyed(first("s"), "k", "h")).await.unwrap(), Enqueued::Conflict));
    created(store.enqueue(further("s")).await.unwrap());
    created(store.enqueue(keyed(first("new"), "k", "h")).await.unwrap());
}

/// What each version of the layout added, taken away again.
const UNDO_2: &str = "
    ALTER TABLE session DROP COLUMN first_run;
    ALTER TABLE session DROP COLUMN first_hash;
    ALTER TABLE session DROP COLUMN wishes;
    UPDATE meta SET value = '1' WHERE name = 'schema';";
const UNDO_3: &str = "
    ALTER TABLE run DROP COLUMN cancel;
    ALTER TABLE run DROP COLUMN log_from;
    UPDATE meta SET value = '2' WHERE name = 'schema';";
const UNDO_4: &str = "
    DROP TABLE api_key;
    DROP TABLE gate;
    DROP INDEX queue_blocked;
    ALTER TABLE queue DROP COLUMN urgent;
    CREATE INDEX queue_blocked ON queue (session, run) WHERE state = 'blocked';
    DROP VIEW log;
    DROP TABLE ancestry;
    DROP TABLE mark;
    DROP TABLE forgetting;
    DROP TABLE garbage;
    DROP INDEX session_tenant;
    DROP INDEX session_parent;
    DROP INDEX run_session;
    CREATE VIEW log AS SELECT s.tenant, s.session, e.position FROM entry e JOIN session s ON s.id = e.session;
    ALTER TABLE session DROP COLUMN next_gate;
    ALTER TABLE session DROP COLUMN created_ms;
    ALTER TABLE session DROP COLUMN updated_ms;
    ALTER TABLE session DROP COLUMN handed;
    ALTER TABLE session DROP COLUMN parent;
    ALTER TABLE session DROP COLUMN parent_id;
    ALTER TABLE session DROP COLUMN forked_at;
    ALTER TABLE run DROP COLUMN traceparent;
    ALTER TABLE run DROP COLUMN tracestate;
    ALTER TABLE run DROP COLUMN webhook;
    DROP TABLE webhook;
    UPDATE meta SET value = '3' WHERE name = 'schema';";
const UNDO_5: &str = "
    DROP TABLE schedule;
    ALTER TABLE session DROP COLUMN born;
    DROP INDEX message_run;
    DROP INDEX message_pending;
    ALTER TABLE message DROP COLUMN channel;
    ALTER TABLE message DROP COLUMN ended_position;
    ALTER TABLE message RENAME TO webhook;
    CREATE INDEX webhook_pending ON webhook (due_ms) WHERE state = 'pending';
    CREATE INDEX webhook_run ON webhook (run);
    ALTER TABLE run DROP COLUMN files;
    ALTER TABLE run DROP COLUMN aside;
    ALTER TABLE run DROP COLUMN redrive_of;
    ALTER TABLE run DROP COLUMN redriven;
    UPDATE meta SET value = '4' WHERE name = 'schema';";

#[tokio::test]
async fn the_layouts_before_this_one_are_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    for undo in [UNDO_5.to_owned(), format!("{UNDO_5}{UNDO_4}"), format!("{UNDO_5}{UNDO_4}{UNDO_3}")] {
        let store = open(dir.path()).unwrap();
        let waiting = created(store.enqueue(first(&undo.len().to_string())).await.unwrap()).run_id;
        drop(store);
        database(dir.path()).execute_batch(&undo).unwrap();
        let store = open(dir.path()).unwrap();
        assert!(matches!(store.cancel(&waiting).await.unwrap(), Cancelled::Ended(_)));
        assert!(store.gates(&Default::default()).await.unwrap().gates.is_empty());
        assert!(store.keys(None).await.unwrap().unwrap().keys.is_empty());
    }
}

/// Forks find the checkpoints of a file that is older than forks, and its sessions know when they were made.
#[tokio::test]
async fn sessions_of_an_older_layout_can_be_forked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lease = running(&store, "s").await;
    store.append(write(&lease, 0, vec![note(&lease), checkpoint(2), note(&lease)])).await.unwrap();
    drop(store);
    let db = database(dir.path());
    db.execute("UPDATE entry SET body = 'damaged' WHERE position = 1", []).unwrap();
    db.execute_batch(UNDO_5).unwrap();
    db.execute_batch(UNDO_4).unwrap();
    drop(db);
    let store = open(dir.path()).unwrap();
    let it = store.session(lease.session()).await.unwrap().unwrap();
    assert_eq!((it.created_at, it.updated_at, it.head), (Timestamp(AT), Timestamp(AT), Position(3)));
    for (position, resume_from) in [(1, 1), (2, 2), (3, 2)] {
        let fork = Fork { from: key("s"), position: Position(position), into: key(&position.to_string()) };
        assert_eq!(store.fork(&fork).await.unwrap(), Forked::Created);
        let db = database(dir.path());
        let query = "SELECT resume_from FROM session WHERE session = ?1";
        let found: i64 = db.query_row(query, [position.to_string()], |r| r.get(0)).unwrap();
        assert_eq!(found, resume_from, "forked at {position}");
    }
}

/// When the entries of samples are written.
const AT: u64 = 1_790_000_000_000;

#[test]
fn a_damaged_file_is_named() {
    for damage in ["not a database, but long enough to look at the header of one".repeat(100), "short".into()] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("store.db"), damage).unwrap();
        match open(dir.path()) {
            Err(store::Error::Unreadable(e)) => assert!(e.contains("store.db"), "{e}"),
            other => panic!("expected Unreadable, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_entry_of_a_newer_build_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lease = running(&store, "s").await;
    store.append(write(&lease, 0, vec![note(&lease)])).await.unwrap();
    database(dir.path()).execute("UPDATE entry SET schema = 99", []).unwrap();
    match SessionLog::open(&store, lease.session()).await {
        Err(store::Error::Newer(e)) => assert!(e.contains("schema 99"), "{e}"),
        other => panic!("expected Unreadable, got {other:?}"),
    }
}

/// Whoever opens the folder is alone, so nobody waits for leases of the process before; it is fenced all the same.
#[tokio::test]
async fn leases_of_an_earlier_process_are_void() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let old = running(&store, "s").await;
    store.append(write(&old, 0, vec![note(&old)])).await.unwrap();
    drop(store);

    let store = open(dir.path()).unwrap();
    assert_eq!(store.heartbeat(&old.worker, &[old.key()]).await.unwrap(), [old.key()]);
    let refused = store.append(write(&old, 1, vec![note(&old)])).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    let new = store.claim(&"w2".into(), 10, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!((new.record.run_id.clone(), new.attempt), (old.record.run_id.clone(), 2));
    assert!(new.epoch > old.epoch);
    assert_eq!(new.head.position, Position(1));
    store.append(write(&new, 1, vec![note(&new)])).await.unwrap();
}

/// Delays outlive the process, and are waited for in the next one.
#[tokio::test]
async fn delayed_runs_are_still_delayed_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open = || Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
    let store = open();
    let lease = running(&store, "s").await;
    let why = torpor_core::queue::Release::Wait { after: Duration::from_secs(10) };
    assert!(store.release(&lease.key(), why).await.unwrap());
    drop(store);
    let store = open();
    let worker = "w".into();
    assert!(store.claim(&worker, 1, Duration::ZERO).await.unwrap().is_empty());
    let (leases, ()) = tokio::join!(store.claim(&worker, 1, Duration::from_secs(60)), async {
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(10));
    });
    assert_eq!(leases.unwrap().len(), 1);
}

#[tokio::test]
async fn everything_can_be_read_with_plain_sql_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lease = running(&store, "s").await;
    store.append(write(&lease, 0, vec![note(&lease)])).await.unwrap();
    let db = database(dir.path());
    let line: String = db
        .query_row("SELECT tenant || ' ' || session || ' ' || position || ' ' || at || ' ' || type FROM log", [], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!(line, "acme s 1 2026-09-21T14:13:20.000Z takeover");
    let prompt: String = db.query_row("SELECT spec ->> '$.work.prompt' FROM run", [], |r| r.get(0)).unwrap();
    assert_eq!(prompt, "work of s");
    let state: String = db.query_row("SELECT state || ' ' || worker FROM queue", [], |r| r.get(0)).unwrap();
    assert_eq!(state, "leased w");
}

/// What the queries touch is bounded by an index: no table that grows is ever read whole.
#[tokio::test]
async fn a_long_log_is_opened_by_its_tail() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lease = running(&store, "s").await;
    store.append(write(&lease, 0, vec![note(&lease); 5_000])).await.unwrap();
    store.append(write(&lease, 5_000, vec![checkpoint(5_000)])).await.unwrap();
    // Entries before the checkpoint are not even decoded: damage there does not stop a resume.
    database(dir.path()).execute("UPDATE entry SET body = 'damaged' WHERE position < 5000", []).unwrap();
    let opened = SessionLog::open(&store, lease.session()).await.unwrap().unwrap();
    assert_eq!(opened.tail.len(), 2);
    assert!(store.get(&lease.record.run_id).await.unwrap().is_some());
}

/// A gate of a run that cannot be read expires like any other, and takes no claim with it.
#[tokio::test]
async fn a_gate_that_cannot_be_decided_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open = || Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
    let mut runs = Vec::new();
    let store = open();
    for session in ["spoilt", "good"] {
        let lease = running(&store, session).await;
        let end = clock.now().after(Duration::from_secs(60));
        store.append(write(&lease, 0, vec![gate(&lease, 0, Some(end))])).await.unwrap();
        runs.push(lease.record.run_id);
    }
    drop(store);
    database(dir.path()).execute("UPDATE session SET session = '' WHERE session = 'spoilt'", []).unwrap();
    let store = open();
    clock.advance(Duration::from_secs(61));
    let leases = store.claim(&"w".into(), 10, Duration::ZERO).await.unwrap();
    assert_eq!(leases.iter().map(|l| &l.record.run_id).collect::<Vec<_>>(), [&runs[1]]);
    let letters = store.letters(&Filter { limit: 10, ..Filter::default() }).await.unwrap().letters;
    assert_eq!(letters.iter().map(|l| &l.run).collect::<Vec<_>>(), [&runs[0]], "it is set aside");
}
