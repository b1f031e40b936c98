//! Forks and removals in any order, against a model as plain as can be: every session its own list of entries.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;
use torpor_core::Position;
use torpor_core::entry::Body;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Enqueued, NewRun, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::session::{Fork, Forked, Removal, SessionStore as _};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{
    checkpoint, claimed, created, done, ended, first, first_claimed, further, key, keyed, note, write,
};

/// Names that are used again and again.
const NAMES: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    /// A run that writes so many entries, the first of them a checkpoint or not.
    Run {
        session: usize,
        entries: u64,
        checkpoint: bool,
    },
    Fork {
        from: usize,
        at: prop::sample::Index,
        into: usize,
    },
    Remove {
        session: usize,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..NAMES, 1..6_u64, any::<bool>())
            .prop_map(|(session, entries, checkpoint)| Step::Run { session, entries, checkpoint }),
        4 => (0..NAMES, any::<prop::sample::Index>(), 0..NAMES)
            .prop_map(|(from, at, into)| Step::Fork { from, at, into }),
        3 => (0..NAMES).prop_map(|session| Step::Remove { session }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// What a session should hold: its entries, and where resume begins after each.
type Model = BTreeMap<usize, Vec<(Body, u64)>>;

fn open(dir: &Path) -> Store {
    Store::open(dir, Options { clock: Arc::new(ManualClock::default()), ..Options::default() }).unwrap()
}

async fn run(store: &Store, model: &mut Model, session: usize, entries: u64, with_checkpoint: bool) {
    let name = session.to_string();
    let new = if model.contains_key(&session) { further(&name) } else { first(&name) };
    let lease = claimed(store.enqueue(NewRun { claim_for: Some("w".into()), ..new }).await.unwrap());
    let held = model.entry(session).or_default();
    let head = held.len() as u64;
    let mut resume_from = held.last().map_or(1, |(_, from)| *from);
    let mut bodies = Vec::new();
    if with_checkpoint {
        resume_from = head + 1;
        bodies.push(checkpoint(resume_from));
    }
    bodies.extend((1..entries).map(|_| note(&lease)));
    bodies.push(ended(&lease, done("ok")));
    held.extend(bodies.iter().map(|body| (body.clone(), resume_from)));
    store.append(write(&lease, head, bodies)).await.unwrap();
}

async fn check(store: &Store, model: &Model) {
    for session in 0..NAMES {
        let name = key(&session.to_string());
        let read = store.read(&name, Position(1), 1_000).await.unwrap();
        let held = model.get(&session).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(read.iter().map(|e| e.position.0).collect::<Vec<_>>(), (1..=held.len() as u64).collect::<Vec<_>>());
        assert!(read.iter().map(|e| &e.body).eq(held.iter().map(|(body, _)| body)), "session {session}");
        let opened = store.open(&name).await.unwrap();
        let resume_from = opened.map(|o| (o.head.resume_from.0, o.tail.len() as u64));
        let wanted = held.last().map(|(_, from)| (*from, held.len() as u64 + 1 - from));
        assert_eq!(resume_from, wanted, "session {session}");
    }
}

async fn play(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut model = Model::new();
    let mut entries = 0;
    for step in steps {
        match step {
            Step::Run { session, entries: n, checkpoint } => {
                run(&store, &mut model, session, n, checkpoint).await;
                entries += n + u64::from(checkpoint);
            }
            Step::Fork { from, at, into } => {
                let head = model.get(&from).map_or(0, Vec::len);
                let at = if head == 0 { 1 } else { at.index(head) + 1 };
                let fork =
                    Fork { from: key(&from.to_string()), position: Position(at as u64), into: key(&into.to_string()) };
                match (store.fork(&fork).await.unwrap(), model.get(&from).cloned(), model.contains_key(&into)) {
                    (Forked::Unknown, None, _) | (Forked::Taken | Forked::Existing, Some(_), true) => {}
                    (Forked::Created, Some(held), false) => drop(model.insert(into, held[..at].to_vec())),
                    other => panic!("{fork:?}: {other:?}"),
                }
            }
            Step::Remove { session } => {
                match (store.remove(&key(&session.to_string())).await.unwrap(), model.remove(&session)) {
                    (Removal::Unknown, None) => {}
                    (Removal::Removed(removed), Some(_)) => entries -= removed.entries,
                    other => panic!("{session}: {other:?}"),
                }
            }
            Step::Reopen => {
                drop(store);
                store = open(dir.path());
            }
        }
        check(&store, &model).await;
        // What was counted as removed is removed, and nothing else is.
        let db = Connection::open(dir.path().join("store.db")).unwrap();
        let stored: u64 = db.query_row("SELECT count(*) FROM entry", [], |r| Ok(r.get::<_, i64>(0)? as u64)).unwrap();
        assert_eq!(stored, entries);
    }
    for session in 0..NAMES {
        store.remove(&key(&session.to_string())).await.unwrap();
    }
    drop(store);
    let db = Connection::open(dir.path().join("store.db")).unwrap();
    for table in
        ["session", "entry", "run", "queue", "gate", "mark", "ancestry", "garbage", "forgetting", "dead_letter"]
    {
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn forks_and_removals_in_any_order_keep_every_entry_that_somebody_needs(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(play(steps));
    }
}

/// A full queue says so, keeps what it has, recognises what came before, and takes more once there is room.
#[tokio::test]
async fn a_queue_holds_so_many_runs_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = Options { clock: clock.clone(), max_queued: 3, ..Options::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    created(store.enqueue(further("s")).await.unwrap());
    let last = || keyed(first("last"), "k", "h");
    created(store.enqueue(last()).await.unwrap());
    for full in [first("t"), further("s"), first_claimed("u")] {
        assert!(matches!(store.enqueue(full).await.unwrap(), Enqueued::Full));
    }
    assert!(matches!(store.enqueue(last()).await.unwrap(), Enqueued::Existing(_)));
    store.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
    clock.advance(Duration::from_secs(1));
    created(store.enqueue(first("t")).await.unwrap());
    drop(store);
    // The next process counts what it finds.
    let store = Store::open(dir.path(), options).unwrap();
    assert!(matches!(store.enqueue(first("v")).await.unwrap(), Enqueued::Full));
    // As many as it holds go through one after the other, whatever the count was.
    let room = Store::open(
        tempfile::tempdir().unwrap().path(),
        Options { clock: Arc::new(ManualClock::default()), max_queued: 1, ..Options::default() },
    )
    .unwrap();
    for n in 0..5 {
        let lease = claimed(room.enqueue(first_claimed(&n.to_string())).await.unwrap());
        room.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
    }
    room.sweep().await.unwrap();
}
