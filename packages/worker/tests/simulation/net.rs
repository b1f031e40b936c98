//! What may happen to a message and to a process. Everything is drawn from the seed and the message's own name, so that what
//! one message meets does not depend on which others there are.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};
use torpor_core::store;
use torpor_core::{Clock, Timestamp};

/// How long somebody waits for a reply before it is an error.
const REPLY_WITHIN: Duration = Duration::from_secs(1);
/// When a day begins.
const MORNING: u64 = 1_790_000_000_000;

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers drawn for one purpose.
pub(crate) struct Dice(u64);

impl Dice {
    /// The next number below `sides` (SplitMix64).
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    pub(crate) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from))
    }
}

/// Time, chance, and the diary of a day.
pub(crate) struct Sky {
    seed: u64,
    began: Instant,
    /// Until when things go wrong.
    storm: Duration,
    aloud: bool,
    diary: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    turns: Mutex<BTreeMap<(Instant, String), oneshot::Sender<()>>>,
    queued: Notify,
}

impl Sky {
    pub(crate) fn new(seed: u64, storm: Duration, aloud: bool) -> Arc<Self> {
        let sky = Arc::new(Self {
            seed,
            began: Instant::now(),
            storm,
            aloud,
            diary: Mutex::default(),
            counts: Mutex::default(),
            turns: Mutex::default(),
            queued: Notify::new(),
        });
        tokio::spawn(sky.clone().give_turns());
        sky
    }

    /// Chance for what has this name.
    pub(crate) fn dice(&self, name: &str, n: u64) -> Dice {
        let mut hasher = DefaultHasher::new(); // the same keys in every process
        (self.seed, name, n).hash(&mut hasher);
        Dice(hasher.finish())
    }

    pub(crate) fn is_stormy(&self) -> bool {
        self.began.elapsed() < self.storm
    }

    pub(crate) fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>8.3} {what}", self.began.elapsed().as_secs_f64());
        if self.aloud {
            println!("{line}");
        }
        lock(&self.diary).push(line);
    }

    pub(crate) fn diary(&self) -> Vec<String> {
        lock(&self.diary).clone()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    pub(crate) fn now(&self) -> u64 {
        MORNING + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for the next millisecond. Those who wait for the same one go on in the order of their names, whatever
    /// order they came in.
    pub(crate) async fn turn(&self, name: String) {
        let (go, gone) = oneshot::channel();
        lock(&self.turns).insert((Instant::now(), name), go);
        self.queued.notify_one();
        let _ = gone.await;
    }

    async fn give_turns(self: Arc<Self>) {
        loop {
            self.queued.notified().await;
            while !lock(&self.turns).is_empty() {
                sleep(Duration::from_millis(1)).await;
                let due = std::mem::take(&mut *lock(&self.turns));
                for go in due.into_values() {
                    let _ = go.send(()); // whoever waited may be gone
                }
            }
        }
    }
}

/// A brain's clock, which is wrong by a while.
pub(crate) struct Watch {
    pub(crate) sky: Arc<Sky>,
    pub(crate) fast: Duration,
}

#[async_trait]
impl Clock for Watch {
    fn now(&self) -> Timestamp {
        Timestamp(self.sky.now()).after(self.fast)
    }

    async fn sleep(&self, d: Duration) {
        sleep(d).await;
    }
}

/// The store's clock: set before each step, because its threads know nothing of the day. It is never waited for.
#[derive(Default)]
pub(crate) struct Tower(pub(crate) AtomicU64);

#[async_trait]
impl Clock for Tower {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    async fn sleep(&self, _: Duration) {
        let mut slept = false;
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut slept, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives a step of the store to its end while the day stands still.
pub(crate) fn block<T>(step: impl Future<Output = T>) -> T {
    let mut step = pin!(tokio::task::unconstrained(step));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match step.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Awake,
    Asleep,
    Dead,
}

/// A process, as the rest of the world can tell: its messages leave while it is awake, and reach it then.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) sky: Arc<Sky>,
    life: watch::Sender<Life>,
    /// Whether it is cut off from the store, and from the hands.
    pub(crate) store_cut: watch::Sender<bool>,
    pub(crate) hands_cut: watch::Sender<bool>,
    /// Raised when its connection to the hands breaks.
    broken: watch::Sender<u64>,
    sent: Mutex<HashMap<String, u64>>,
}

impl Process {
    pub(crate) fn new(name: String, sky: &Arc<Sky>) -> Arc<Self> {
        let (life, cut) = (watch::Sender::new(Life::Awake), || watch::Sender::new(false));
        let (store_cut, hands_cut, broken) = (cut(), cut(), watch::Sender::new(0));
        Arc::new(Self { name, sky: sky.clone(), life, store_cut, hands_cut, broken, sent: Mutex::default() })
    }

    pub(crate) fn set(&self, life: Life) {
        self.life.send_if_modified(|l| *l != Life::Dead && std::mem::replace(l, life) != life);
    }

    /// Waits until the process does anything; for ever once it is dead.
    pub(crate) async fn awake(&self) {
        let _ = self.life.subscribe().wait_for(|l| *l == Life::Awake).await;
    }

    /// Waits until messages pass between it and the hands.
    pub(crate) async fn hands_in_reach(&self) {
        let _ = self.hands_cut.subscribe().wait_for(|cut| !cut).await;
    }

    pub(crate) fn break_channel(&self) {
        self.broken.send_modify(|n| *n += 1);
    }

    pub(crate) fn channel_broken(&self) -> watch::Receiver<u64> {
        self.broken.subscribe()
    }

    /// How often something of this name happened before.
    pub(crate) fn nth(&self, name: &str) -> u64 {
        let mut sent = lock(&self.sent);
        let n = sent.entry(name.to_owned()).or_default();
        *n += 1;
        *n
    }

    /// A request to the store: it is carried out once, later than thought, or never, and its reply comes or does not.
    pub(crate) async fn request<T>(
        &self,
        what: &str,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, store::Error> {
        self.awake().await;
        let (sky, name) = (&self.sky, format!("{} {what}", self.name));
        let mut dice = sky.dice(&name, self.nth(what));
        sleep(dice.ms(0, 15)).await;
        sky.turn(name.clone()).await;
        if *self.store_cut.borrow() || (sky.is_stormy() && dice.one_in(40)) {
            return self.unheard().await;
        }
        if sky.is_stormy() && dice.one_in(40) {
            let (later, sky) = (dice.ms(1_000, 8_000), sky.clone());
            sky.count("late");
            tokio::spawn(async move {
                sleep(later).await;
                sky.turn(name.clone()).await;
                sky.note(format_args!("{name} arrives late"));
                step();
            });
            return self.unheard().await;
        }
        let done = step();
        if *self.store_cut.borrow() || (sky.is_stormy() && dice.one_in(40)) {
            sky.count("unheard");
            sky.note(format_args!("{name}: the reply is lost"));
            return self.unheard().await;
        }
        sleep(dice.ms(0, 15)).await;
        self.awake().await;
        Ok(done)
    }

    async fn unheard<T>(&self) -> Result<T, store::Error> {
        sleep(REPLY_WITHIN).await;
        self.awake().await;
        Err(store::Error::Unavailable("no reply in time".into()))
    }
}
