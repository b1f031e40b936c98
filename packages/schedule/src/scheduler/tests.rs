use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use tempfile::TempDir;
use torpor_core::RunId;
use torpor_core::schedule::CLAIM;
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::crash::{Fuse, Fused};

use super::*;
use crate::file::Format;
use crate::seam::{Refused, Schedules};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Takes envelopes as a server does: a session that is known is its run.
#[derive(Default)]
struct Runs {
    sessions: Mutex<BTreeMap<String, (RunId, Value)>>,
    posts: Mutex<usize>,
    full: AtomicBool,
}

#[async_trait]
impl Submit for Runs {
    async fn submit(&self, envelope: Value) -> Result<Option<RunId>, Refused> {
        *self.posts.lock().unwrap() += 1;
        let refused = |code, passing| Refused { code, detail: "no".into(), passing };
        if self.full.load(Ordering::SeqCst) {
            return Err(refused("unavailable", true));
        }
        if envelope["prompt"] == "refuse me" {
            return Err(refused("envelope_invalid", false));
        }
        let session = envelope["sessionId"].as_str().unwrap().to_owned();
        let mut sessions = self.sessions.lock().unwrap();
        Ok(Some(sessions.entry(session).or_insert_with(|| (RunId::generate(), envelope)).0.clone()))
    }
}

/// Files that a test writes.
#[derive(Default)]
struct Files(Mutex<Loaded>);

impl Source for Files {
    fn look(&self) -> Loaded {
        self.0.lock().unwrap().clone()
    }
}

/// One store, its time, and whoever takes the runs; schedulers come and go.
struct World {
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    runs: Arc<Runs>,
    files: Arc<Files>,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-20T09:30:00Z").unwrap()));
        let store = Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
        Self { clock, store: Arc::new(store), runs: Arc::default(), files: Arc::default(), dir }
    }

    /// Writes the files anew.
    fn write(&self, schedules: &[Value]) {
        let read = |s: &Value| Arc::new(Schedule::parse(&s.to_string(), Format::Json, None).unwrap());
        let all: Schedules = schedules.iter().map(read).map(|s| (s.name.clone(), s)).collect();
        self.files.0.lock().unwrap().schedules = Arc::new(all);
    }

    /// Another process.
    fn scheduler(&self, by: &str) -> Scheduler {
        Scheduler::new(self.deps(by))
    }

    fn deps(&self, by: &str) -> Deps {
        let (store, source) = (self.store.clone(), self.files.clone());
        Deps { store, source, submit: self.runs.clone(), clock: self.clock.clone(), by: by.into() }
    }

    /// The sessions of all runs.
    fn sessions(&self) -> Vec<String> {
        self.runs.sessions.lock().unwrap().keys().cloned().collect()
    }

    async fn state(&self, name: &str) -> State {
        self.store.state(name).await.unwrap().unwrap()
    }

    /// Lets time pass, in such steps, until something is ready.
    async fn while_time_passes<T>(&self, step: Duration, future: impl Future<Output = T>) -> T {
        let passing = async {
            loop {
                self.clock.advance(step);
                tokio::time::sleep(Duration::from_millis(1)).await; // lets the store's own threads answer
            }
        };
        tokio::select! {
            done = future => done,
            never = passing => never,
        }
    }
}

impl Scheduler {
    /// Looks once, and waits until everything is posted.
    async fn once(&self) -> Duration {
        let next = self.tick().await;
        self.0.posting.end().await;
        next
    }
}

fn hourly(name: &str, catch_up: &str) -> Value {
    json!({"name": name, "cron": "0 * * * *", "catchUp": catch_up,
           "items": [{"name": "a", "prompt": "of __FIRE__"}, {"name": "b", "prompt": "go"}]})
}

fn session(hour: u32, item: &str) -> String {
    format!("s/20261120T{hour:02}00Z/{item}")
}

#[tokio::test]
async fn what_is_due_is_fired_once_and_its_items_become_runs() {
    let world = World::new();
    world.write(&[hourly("s", "once")]);
    let scheduler = world.scheduler("one");
    assert_eq!(scheduler.once().await, LOOK, "nothing is due for half an hour");
    assert!(world.sessions().is_empty(), "and nothing is owed from before");
    world.clock.advance(MINUTE * 30 - Duration::from_secs(3));
    assert_eq!(scheduler.once().await, Duration::from_secs(3), "it wakes for what is due");
    world.clock.advance(Duration::from_secs(3));
    scheduler.once().await;
    assert_eq!(world.sessions(), [session(10, "a"), session(10, "b")]);
    let prompt = world.runs.sessions.lock().unwrap()[&session(10, "a")].1["prompt"].clone();
    assert_eq!(prompt, "of 20261120T1000Z");
    scheduler.once().await;
    assert_eq!(*world.runs.posts.lock().unwrap(), 2, "each was posted once");
    let fires = world.state("s").await.fires;
    let report = fires[0].report.as_ref().unwrap();
    assert_eq!((fires.len(), report.accepted, report.refused, report.runs.len()), (1, 2, 0, 2));
    assert_eq!(report.runs[1].item, "b");
    world.clock.advance(HOUR);
    scheduler.once().await;
    assert_eq!(world.sessions().len(), 4);
}

#[tokio::test]
async fn two_servers_make_one_run_an_item() {
    let world = World::new();
    world.write(&[hourly("s", "all")]);
    let (one, two) = (world.scheduler("one"), world.scheduler("two"));
    for _ in 0..5 {
        tokio::join!(one.once(), two.once());
        world.clock.advance(HOUR);
    }
    tokio::join!(one.once(), two.once());
    assert_eq!((world.sessions().len(), *world.runs.posts.lock().unwrap()), (10, 10));
    assert!(world.state("s").await.fires.iter().all(|fire| fire.report.is_some()));
}

#[tokio::test]
async fn what_was_missed_while_nothing_ran_is_made_up_for_as_the_file_says() {
    for (catch_up, hours) in [("skip", &[][..]), ("once", &[13]), ("all", &[10, 11, 12, 13])] {
        let world = World::new();
        world.write(&[hourly("s", catch_up)]);
        world.scheduler("one").once().await;
        world.clock.advance(HOUR * 4);
        let next = world.scheduler("two");
        next.once().await;
        let want: Vec<String> = hours.iter().flat_map(|h| [session(*h, "a"), session(*h, "b")]).collect();
        assert_eq!(world.sessions(), want, "{catch_up}");
        next.once().await;
        world.scheduler("three").once().await;
        assert_eq!(world.sessions(), want, "{catch_up}: what was dealt with is not owed again");
        assert_eq!(world.state("s").await.considered, Timestamp::parse_rfc3339("2026-11-20T13:00:00Z").unwrap());
    }
}

/// More than may be under way at once is still made up for, one after the other.
#[tokio::test]
async fn a_long_absence_is_made_up_for_whole() {
    let world = World::new();
    world.write(&[hourly("s", "all")]);
    world.scheduler("one").once().await;
    world.clock.advance(HOUR * 30);
    let next = world.scheduler("two");
    for _ in 0..10 {
        next.once().await;
    }
    assert_eq!(world.sessions().len(), 60);
}

#[tokio::test]
async fn a_pause_holds_what_is_due_and_a_wish_goes_through() {
    let world = World::new();
    world.write(&[hourly("s", "all")]);
    let scheduler = world.scheduler("one");
    let it = scheduler.find("s").unwrap();
    let view = scheduler.pause(&it, true).await.unwrap();
    assert!(view.next.is_empty() && view.state.unwrap().paused.is_some(), "also before it was ever watched");
    world.clock.advance(HOUR * 2);
    scheduler.once().await;
    assert!(world.sessions().is_empty());

    let id = FireId::new("release-7").unwrap();
    for _ in 0..2 {
        let Fired::There(fire) = scheduler.fire(&it, Some(id.clone())).await.unwrap() else { panic!("crowded") };
        assert_eq!(fire.report.unwrap().accepted, 2);
    }
    assert_eq!(world.sessions(), ["s/release-7/a", "s/release-7/b"]);
    let Fired::There(fire) = scheduler.fire(&it, None).await.unwrap() else { panic!("crowded") };
    assert_eq!(fire.id.as_str(), "by-hand-20261120T113000000Z");

    let view = scheduler.pause(&it, false).await.unwrap();
    assert_eq!(view.next.first().map(|at| at.rfc3339()).as_deref(), Some("2026-11-20T12:00:00.000Z"));
    scheduler.once().await;
    assert_eq!(world.sessions().len(), 4, "what was due while it was paused is not made up for");
    world.clock.advance(MINUTE * 30);
    scheduler.once().await;
    assert_eq!(world.sessions().len(), 6);
}

#[tokio::test]
async fn a_refused_item_is_reported_and_the_others_are_posted() {
    let world = World::new();
    let mut schedule = hourly("s", "once");
    schedule["items"][0]["prompt"] = json!("refuse me");
    world.write(&[schedule]);
    let scheduler = world.scheduler("one");
    scheduler.once().await;
    world.clock.advance(HOUR);
    scheduler.once().await;
    assert_eq!(world.sessions(), [session(10, "b")]);
    let report = world.state("s").await.fires[0].report.clone().unwrap();
    assert_eq!((report.accepted, report.refused), (1, 1));
    assert_eq!((report.refusals[0].item.as_str(), report.refusals[0].code.as_str()), ("a", "envelope_invalid"));
}

#[tokio::test]
async fn a_fire_waits_for_a_full_queue_and_loses_nothing() {
    let world = World::new();
    world.write(&[hourly("s", "once")]);
    let scheduler = world.scheduler("one");
    scheduler.once().await;
    world.clock.advance(MINUTE * 30);
    world.runs.full.store(true, Ordering::SeqCst);
    world.while_time_passes(AGAIN, scheduler.once()).await;
    assert_eq!(world.state("s").await.open(), 1, "it is not finished");
    world.runs.full.store(false, Ordering::SeqCst);
    world.clock.advance(CLAIM);
    world.while_time_passes(AGAIN, scheduler.once()).await;
    assert_eq!(world.sessions(), [session(10, "a"), session(10, "b")]);
    assert_eq!(world.state("s").await.open(), 0);
}

#[tokio::test]
async fn a_file_that_changes_is_followed_from_then_on() {
    let world = World::new();
    world.write(&[hourly("s", "all"), hourly("t", "all")]);
    let scheduler = world.scheduler("one");
    scheduler.once().await;
    let mut changed = hourly("s", "all");
    changed["cron"] = json!("*/10 * * * *");
    world.write(&[changed]);
    scheduler.once().await;
    assert!(world.sessions().is_empty(), "the new plan owes nothing from before");
    world.clock.advance(MINUTE * 30);
    scheduler.once().await;
    assert_eq!(world.sessions().len(), 6, "three fires of s, and none of t, which is gone");
    assert_eq!(world.state("s").await.fires.len(), 3);
}

#[tokio::test]
async fn a_fire_that_was_asked_for_before_it_was_due_is_not_due_any_more() {
    let world = World::new();
    world.write(&[hourly("s", "all")]);
    let scheduler = world.scheduler("one");
    scheduler.once().await;
    let it = scheduler.find("s").unwrap();
    scheduler.fire(&it, Some(FireId::new("20261120T1000Z").unwrap())).await.unwrap();
    world.clock.advance(MINUTE * 30);
    scheduler.once().await;
    assert_eq!((world.sessions().len(), *world.runs.posts.lock().unwrap()), (2, 2));
    let state = world.state("s").await;
    assert_eq!((state.fires.len(), state.considered), (1, world.clock.now()));
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_stops_no_other() {
    let world = World::new();
    world.write(&[hourly("a", "once"), hourly("s", "once")]);
    let scheduler = world.scheduler("one");
    scheduler.once().await;
    let db = rusqlite::Connection::open(world.dir.path().join("store.db")).unwrap();
    db.busy_timeout(HOUR).unwrap();
    db.execute("UPDATE schedule SET state = 'damaged' WHERE name = 'a'", []).unwrap();
    world.clock.advance(MINUTE * 30);
    scheduler.once().await;
    assert_eq!(world.sessions(), [session(10, "a"), session(10, "b")]);
}

/// Dies before and after every single step, and another process finishes the fire: every item is one run, and the
/// fire is whole.
#[tokio::test]
async fn a_scheduler_that_dies_at_any_step_loses_and_doubles_nothing() {
    struct FusedRuns(Arc<Runs>, Arc<Fuse>);

    #[async_trait]
    impl Submit for FusedRuns {
        async fn submit(&self, envelope: Value) -> Result<Option<RunId>, Refused> {
            self.1.around(self.0.submit(envelope)).await
        }
    }

    let mut steps = 0;
    for at in 0.. {
        let world = World::new();
        world.write(&[hourly("s", "once")]);
        world.scheduler("zero").once().await;
        world.clock.advance(MINUTE * 30);
        let fuse = Fuse::at(at);
        let store: Arc<dyn ScheduleStore> = world.store.clone();
        let submit = Arc::new(FusedRuns(world.runs.clone(), fuse.clone()));
        let dying = Scheduler::new(Deps { store: Fused::new(store, &fuse), submit, ..world.deps("one") });
        tokio::select! {
            biased;
            () = fuse.blown() => {}
            _ = dying.once() => steps = fuse.taken(),
        }
        world.clock.advance(CLAIM);
        world.scheduler("two").once().await;
        assert_eq!(world.sessions(), [session(10, "a"), session(10, "b")], "step {at}");
        let state = world.state("s").await;
        assert_eq!((state.fires.len(), state.open()), (1, 0), "step {at}");
        assert_eq!(state.fires[0].report.as_ref().unwrap().accepted, 2, "step {at}");
        if at == steps {
            break;
        }
    }
    assert!(steps >= 12, "watch, state, begin, two items, finish, states: {steps}");
}

/// Every few seconds, for as long as it runs, and until what is posted has ended.
#[tokio::test]
async fn it_runs_until_it_is_told() {
    let world = World::new();
    world.write(&[hourly("s", "once")]);
    let scheduler = world.scheduler("one");
    let posted = async {
        while world.sessions().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    world.while_time_passes(MINUTE, scheduler.run(posted)).await;
    assert_eq!(world.sessions(), [session(10, "a"), session(10, "b"), session(11, "a"), session(11, "b")]);
}
