//! Sessions on Redis: what is particular to this store about forks, removals, imports and what they leave behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use torpor_core::dead_letter::{LetterStore as _, Redrive, Redriven};
use torpor_core::envelope::Wishes;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{NewRun, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::session::{Filter, Fork, Forked, Import, Importer, Removal, SessionStore as _, Stored};
use torpor_core::{Clock as _, Position, RunId, SessionKey, Timestamp};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::dice::Dice;
use torpor_testkit::forks::{Bench, Stores, play, steps};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{
    checkpoint, claimed, created, done, ended, first, first_claimed, further, key, note, write,
};

/// How many plays of forks and removals there are.
const SEEDS: u64 = 8;

/// What stays of a store that was emptied: facts, the queue's stream and its wake-ups.
const STAYS: &[&str] = &["meta", "q", "q:wake"];

/// A store of a test's own on a shared server.
struct Place {
    server: Arc<Server>,
    prefix: String,
    shards: u16,
    clock: Arc<ManualClock>,
    plain: MultiplexedConnection,
}

impl Place {
    async fn new(shards: u16) -> Option<Self> {
        let server = Server::shared()?;
        let plain = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        let (prefix, clock) = (uuid::Uuid::new_v4().simple().to_string(), Arc::default());
        Some(Self { server, prefix, shards, clock, plain })
    }

    /// One more process that uses it.
    async fn store(&self) -> Arc<Store> {
        let options = Options {
            prefix: self.prefix.clone(),
            shards: self.shards,
            clock: Some(self.clock.clone()),
            ..Options::default()
        };
        Arc::new(Store::connect(&Address::parse(&self.server.url()).unwrap(), options).await.unwrap())
    }

    /// The names of all its keys, without the prefix.
    async fn keys(&mut self) -> Vec<String> {
        let pattern = format!("{}:*", self.prefix);
        let found: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut self.plain).await.unwrap();
        found.iter().map(|key| key.split_once("}:").unwrap().1.to_owned()).collect()
    }

    /// The keys that are left of what was removed.
    async fn left(&mut self) -> Vec<String> {
        self.keys().await.into_iter().filter(|key| !STAYS.contains(&key.as_str())).collect()
    }

    async fn length(&mut self, key: &str) -> u64 {
        let key = format!("{}:{{0}}:{key}", self.prefix);
        redis::cmd("XLEN").arg(key).query_async(&mut self.plain).await.unwrap()
    }
}

#[async_trait]
impl Bench for Place {
    async fn open(&mut self) -> Stores {
        let store = self.store().await;
        Stores { log: store.clone(), queue: store.clone(), sessions: store }
    }

    async fn entries(&mut self) -> u64 {
        let mut entries = 0;
        for key in self.keys().await {
            if key.starts_with("log:") {
                entries += self.length(&key).await;
            }
        }
        entries
    }

    async fn check_empty(&mut self) {
        assert_eq!(self.left().await, Vec::<String>::new());
    }
}

/// A session whose only run has ended, with a log of so many entries.
async fn session(store: &Store, name: &str, entries: usize) {
    let lease = claimed(store.enqueue(first_claimed(name)).await.unwrap());
    let mut bodies = vec![note(&lease); entries - 1];
    bodies.push(ended(&lease, done("ok")));
    store.append(write(&lease, 0, bodies)).await.unwrap();
}

fn import(name: &str) -> Import {
    Import { session: key(name), created_at: Timestamp(7), wishes: Wishes::default() }
}

/// Entries that can be imported.
async fn stored(store: &Store, name: &str) -> Vec<Stored> {
    let life = store.session(&key(name)).await.unwrap().unwrap().life;
    store.stored(&key(name), life, Position(1), 10_000).await.unwrap()
}

#[tokio::test]
async fn forks_and_removals_in_any_order_keep_every_entry_that_somebody_needs() {
    for seed in 0..SEEDS {
        let Some(mut place) = Place::new(1).await else { return };
        play(&mut place, steps(&mut Dice::new(seed))).await;
    }
}

/// A suffix that nobody needs goes in steps, and what forks need is there all the time.
#[tokio::test]
async fn a_long_log_goes_little_by_little_down_to_what_a_fork_needs() {
    let Some(mut place) = Place::new(1).await else { return };
    let store = place.store().await;
    session(&store, "long", 2_345).await;
    let life = store.session(&key("long")).await.unwrap().unwrap().life;
    let fork = Fork { from: key("long"), position: Position(10), into: key("fork") };
    assert_eq!(store.fork(&fork).await.unwrap(), Forked::Created);
    let Removal::Removed(removed) = store.remove(&key("long")).await.unwrap() else { panic!("it is idle") };
    assert_eq!((removed.entries, removed.kept), (2_335, 10));
    assert_eq!(place.length(&format!("log:{life}")).await, 10);
    assert_eq!(store.read(&key("fork"), Position(1), 100).await.unwrap().len(), 10);
    store.remove(&key("fork")).await.unwrap();
    place.check_empty().await;
}

/// However many records a session has, all of them go, and each call of the server does a bounded part of it.
#[tokio::test]
async fn a_session_with_many_records_goes_with_all_of_them() {
    let Some(mut place) = Place::new(1).await else { return };
    let store = place.store().await;
    session(&store, "s", 1).await;
    for n in 0..450 {
        let run = created(store.enqueue(further("s")).await.unwrap()).run_id;
        store.cancel(&run).await.unwrap();
        if n % 3 == 0 {
            store.dead_letter(&run, "why").await.unwrap();
        }
    }
    let Removal::Removed(removed) = store.remove(&key("s")).await.unwrap() else { panic!("it is idle") };
    assert_eq!((removed.runs, removed.dead_letters, removed.entries), (451, 150, 1));
    place.check_empty().await;
}

/// Whichever process removes, lists or goes on: all see the same.
#[tokio::test]
async fn processes_see_each_others_sessions() {
    let Some(place) = Place::new(1).await else { return };
    let (one, two) = (place.store().await, place.store().await);
    session(&one, "s", 3).await;
    let fork = Fork { from: key("s"), position: Position(2), into: key("f") };
    let racing = futures::future::join_all([one.fork(&fork), two.fork(&fork)]).await;
    let created = racing.iter().filter(|it| matches!(it, Ok(Forked::Created))).count();
    assert_eq!(created, 1, "{racing:?}");
    assert_eq!(two.session(&key("s")).await.unwrap().unwrap().forks, 1);
    assert!(matches!(two.remove(&key("s")).await.unwrap(), Removal::Removed(_)));
    assert_eq!(one.session(&key("s")).await.unwrap(), None);
    assert_eq!(one.session(&key("f")).await.unwrap().unwrap().forked_from.unwrap().session, "s");
    assert_eq!(one.read(&key("f"), Position(1), 10).await.unwrap().len(), 2);
}

/// Lists of everybody go from the newest to the oldest also where tenants are on different shards, and idle sessions are
/// found on all of them.
#[tokio::test]
async fn lists_and_sweeps_go_over_all_shards() {
    let Some(mut place) = Place::new(5).await else { return };
    let store = place.store().await;
    let mut made = Vec::new();
    for n in 0..20 {
        let session = SessionKey::new(&format!("tenant {n}"), "s").unwrap();
        let new = NewRun { session: session.clone(), claim_for: Some("w".into()), ..first("s") };
        let lease = claimed(store.enqueue(new).await.unwrap());
        store.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
        place.clock.advance(Duration::from_millis(1));
        made.push(session);
    }
    let mut filter = Filter { limit: 3, ..Filter::default() };
    let mut seen = Vec::new();
    loop {
        let page = store.sessions(&filter).await.unwrap();
        seen.extend(page.sessions.into_iter().map(|s| s.session));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert!(seen.iter().rev().eq(&made), "{seen:?}");
    let now = place.clock.now();
    assert_eq!(store.remove_idle(now, 7).await.unwrap(), 7, "no more than were asked for");
    assert_eq!(store.remove_idle(now, 100).await.unwrap(), 13);
    place.check_empty().await;
}

/// An import that rests is still there, one whose importer died is swept up, and neither is ever seen.
#[tokio::test]
async fn an_import_that_died_is_swept_up_and_a_slow_one_is_not() {
    let Some(mut place) = Place::new(1).await else { return };
    let (store, other) = (place.store().await, place.store().await);
    session(&store, "s", 4).await;
    let entries = stored(&store, "s").await;
    store.remove(&key("s")).await.unwrap();

    let mut slow = store.import(import("slow")).await.unwrap();
    let mut dead = store.import(import("dead")).await.unwrap();
    dead.push(entries.clone()).await.unwrap();
    drop(dead);
    for entry in &entries {
        slow.push(vec![entry.clone()]).await.unwrap();
        place.clock.advance(Duration::from_secs(3_000));
        other.sweep().await.unwrap();
        assert!(other.session(&key("slow")).await.unwrap().is_none());
    }
    assert_eq!(place.entries().await, 4, "what the dead one left is gone");
    assert_eq!(slow.finish().await.unwrap(), Position(4));
    assert_eq!(stored(&other, "slow").await, entries);

    let mut late: Box<dyn Importer> = store.import(import("late")).await.unwrap();
    late.push(entries.clone()).await.unwrap();
    place.clock.advance(Duration::from_secs(3_601));
    other.sweep().await.unwrap();
    assert!(late.push(Vec::new()).await.is_ok(), "nothing was sent");
    let refused = late.finish().await.unwrap_err().to_string();
    assert!(refused.contains("begin it again"), "{refused}");
    other.remove(&key("slow")).await.unwrap();
    place.check_empty().await;
}

/// What is large or long is sent in pieces; its marks are where they belong.
#[tokio::test]
async fn a_long_import_is_sent_in_pieces() {
    let Some(place) = Place::new(1).await else { return };
    let store = place.store().await;
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    let mut bodies = vec![note(&lease); 1_199];
    bodies[599] = checkpoint(600);
    bodies.push(ended(&lease, done(&"x".repeat(2 << 20))));
    store.append(write(&lease, 0, bodies)).await.unwrap();
    let mut entries = Vec::new();
    while entries.len() < 1_200 {
        let life = store.session(&key("s")).await.unwrap().unwrap().life;
        entries.extend(store.stored(&key("s"), life, Position(entries.len() as u64 + 1), 10_000).await.unwrap());
    }
    let mut importer = store.import(import("copy")).await.unwrap();
    importer.push(entries.clone()).await.unwrap();
    assert_eq!(importer.finish().await.unwrap(), Position(1_200));
    let opened = store.open(&key("copy")).await.unwrap().unwrap();
    assert_eq!((opened.head.resume_from, opened.tail.len()), (Position(600), 601));
    let fork = Fork { from: key("copy"), position: Position(599), into: key("fork") };
    assert_eq!(store.fork(&fork).await.unwrap(), Forked::Created);
    assert_eq!(store.open(&key("fork")).await.unwrap().unwrap().head.resume_from, Position(1));
}

/// An entry that somebody else put into the queue is a dead letter without work.
#[tokio::test]
async fn what_was_no_run_cannot_be_driven_again() {
    let Some(mut place) = Place::new(1).await else { return };
    let store = place.store().await;
    let queue = format!("{}:{{0}}:q", place.prefix);
    let add = redis::cmd("XADD").arg(queue).arg("*").arg("what").arg("ever").to_owned();
    let _: String = add.query_async(&mut place.plain).await.unwrap();
    assert!(store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().is_empty());
    let letters = store.letters(&torpor_core::dead_letter::Filter { limit: 10, ..Default::default() }).await.unwrap();
    let [letter] = letters.letters.as_slice() else { panic!("one letter was expected: {letters:?}") };
    assert!(letter.reason.contains("did not write"), "{}", letter.reason);
    let it = Redrive { run: letter.run.clone(), tenant: None, new_run: RunId::generate(), trace: None };
    assert_eq!(store.redrive(&it).await.unwrap(), Redriven::NoWork);
}
