//! A day: who is there, what befalls them, and how it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use torpor_core::model::Ref;
use torpor_core::run::{Filter, Record, RunStore as _};
use torpor_core::{RunId, WorkerId};
use torpor_harness::{Deps, Settings};
use torpor_store_embedded::{Options, Store};
use torpor_worker::{Config, Worker};

use crate::check;
use crate::hands::{Hands, Memory, Reach};
use crate::model::Planned;
use crate::net::{Dice, Life, Process, Sky, Tower, Watch, block, lock};
use crate::people::{People, Told};
use crate::remote::Remote;

/// How long things go wrong.
const STORM: Duration = Duration::from_secs(60);
/// How long after that everything must have ended.
const CALM: Duration = Duration::from_secs(600);
/// How long stragglers may still turn up.
const AFTERMATH: Duration = Duration::from_secs(60);
/// Processes that work at a time.
const WORKERS: usize = 3;
const LEASE: Duration = Duration::from_secs(3);
/// How long a gate waits.
const GATE: Duration = Duration::from_secs(30);

/// What came of a day.
pub(crate) struct Day {
    pub(crate) diary: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// A worker's process.
struct Post {
    process: Arc<Process>,
    stop: Option<oneshot::Sender<()>>,
}

pub(crate) struct World {
    pub(crate) sky: Arc<Sky>,
    pub(crate) store: Arc<Store>,
    pub(crate) hands: Arc<Hands>,
    pub(crate) told: Arc<Mutex<Told>>,
    tower: Arc<Tower>,
    posts: Vec<Post>,
    hired: u64,
}

/// Plays a day, with these hands.
pub(crate) fn play(seed: u64, aloud: bool, memory: Memory) -> Day {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        // Nothing outlives the day, so what the store syncs need not meet a disk.
        let memory_disk = std::path::Path::new("/dev/shm");
        let dir = if memory_disk.is_dir() { tempfile::tempdir_in(memory_disk) } else { tempfile::tempdir() }.unwrap();
        let mut world = World::new(Sky::new(seed, STORM, aloud), memory, dir.path());
        world.storm().await;
        world.calm().await;
        sleep(AFTERMATH).await;
        check::check(&world);
        Day { diary: world.sky.diary(), counts: world.sky.counts() }
    })
}

impl World {
    fn new(sky: Arc<Sky>, memory: Memory, dir: &std::path::Path) -> Self {
        let tower = Arc::new(Tower::default());
        let options = Options { lease: LEASE, clock: tower.clone(), ..Options::default() };
        let store = Arc::new(Store::open(dir, options).unwrap());
        let (hands, told) = (Hands::start(&sky, memory), Arc::default());
        let mut world = Self { sky, store, hands, told, tower, posts: Vec::new(), hired: 0 };
        let remote = world.remote(&Process::new("people".into(), &world.sky));
        People { remote, told: world.told.clone() }.begin();
        (0..WORKERS).for_each(|_| world.hire());
        world
    }

    fn remote(&self, process: &Arc<Process>) -> Remote {
        Remote { process: process.clone(), store: self.store.clone(), tower: self.tower.clone() }
    }

    /// Another worker, in a process of its own.
    fn hire(&mut self) {
        self.hired += 1;
        let process = Process::new(format!("w{}", self.hired), &self.sky);
        let mut settings = Settings::new(Ref::parse("fake/model").unwrap());
        settings.gate_ttl = Some(GATE);
        let fast = self.sky.dice("watch", self.hired).ms(0, 90_000);
        let remote = self.remote(&process);
        let deps = Deps {
            observer: Arc::new(torpor_core::observe::Nobody),
            log: Arc::new(remote.clone()),
            models: Arc::new(Planned(process.clone())),
            sandboxes: Some(Reach::new(&self.hands, &process)),
            volume: None,
            live: Default::default(),
            clock: Arc::new(Watch { sky: self.sky.clone(), fast }),
            settings: Arc::new(settings),
        };
        let drain = Duration::from_secs(2);
        // Bad weather is no poison: a run is not given up for having met a lot of it.
        let config = Config { concurrency: 8, lease: LEASE, drain, max_attempts: 50, ..Config::default() };
        let worker = Worker::new(deps, Arc::new(remote), WorkerId::from(process.name.as_str()), config);
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            worker.run(async { drop(stopped.await) }).await;
        });
        self.posts.push(Post { process, stop: Some(stop) });
    }

    /// Things go wrong, one after the other.
    async fn storm(&mut self) {
        let mut dice = self.sky.dice("storm", 0);
        while self.sky.is_stormy() {
            sleep(dice.ms(200, 4_000)).await;
            self.strike(&mut dice);
        }
    }

    fn strike(&mut self, dice: &mut Dice) {
        let n = usize::try_from(dice.roll(self.posts.len() as u64)).unwrap();
        let (process, long) = (self.posts[n].process.clone(), dice.ms(500, 9_000));
        let name = process.name.clone();
        let what = match dice.roll(13) {
            0..3 => {
                process.set(Life::Asleep);
                tokio::spawn(async move {
                    sleep(long).await;
                    process.set(Life::Awake);
                });
                "sleeps"
            }
            3 | 4 => {
                process.set(Life::Dead);
                process.break_channel();
                self.posts.remove(n);
                self.hire();
                "dies"
            }
            5 | 6 => {
                cut(process.store_cut.clone(), long);
                "is cut off from the store"
            }
            7 | 8 => {
                cut(process.hands_cut.clone(), long);
                if dice.one_in(2) {
                    process.break_channel();
                }
                "is cut off from the hands"
            }
            9 => {
                if let Some(stop) = self.posts.remove(n).stop {
                    let _ = stop.send(());
                }
                self.hire();
                "is told to stop"
            }
            10 => {
                let long = dice.ms(2_000, 45_000);
                self.posts.iter().for_each(|post| cut(post.process.store_cut.clone(), long));
                self.sky.count("store away");
                self.sky.note(format_args!("the store is away for {long:?}"));
                return;
            }
            11 => {
                let torn = dice.one_in(2);
                self.hands.restart(torn);
                self.sky.note(format_args!("the hands are started again, torn: {torn}"));
                return;
            }
            _ => return,
        };
        self.sky.note(format_args!("{name} {what}"));
    }

    /// Nothing goes wrong any more: everything ends.
    async fn calm(&self) {
        let until = Instant::now() + CALM;
        loop {
            sleep(Duration::from_secs(1)).await;
            let told = lock(&self.told);
            if told.busy == 0 && told.runs.iter().all(|run| self.record(run).status.is_terminal()) {
                return;
            }
            drop(told);
            assert!(Instant::now() < until, "not everything ends: {:#?}", self.open());
        }
    }

    /// Every run that the store knows.
    pub(crate) fn runs(&self) -> Vec<Record> {
        block(self.store.list(&Filter { limit: 200, ..Filter::default() })).unwrap().runs
    }

    fn open(&self) -> Vec<String> {
        let runs = self.runs();
        let open = runs.iter().filter(|r| !r.status.is_terminal());
        open.map(|r| format!("{} {:?} after {} attempts", r.run_id, r.status, r.attempts)).collect()
    }

    pub(crate) fn record(&self, run: &RunId) -> Record {
        block(self.store.get(run)).unwrap().unwrap()
    }
}

/// Cuts something for a while.
fn cut(what: tokio::sync::watch::Sender<bool>, long: Duration) {
    what.send_replace(true);
    tokio::spawn(async move {
        sleep(long).await;
        what.send_replace(false);
    });
}
