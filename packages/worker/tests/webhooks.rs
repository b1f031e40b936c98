//! What becomes of webhooks: repeats, the last one, those that hang, and those that a shutdown meets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot, watch};
use torpor_core::RunId;
use torpor_core::envelope::Spec;
use torpor_core::log::SessionLog as _;
use torpor_core::observe::{Event, Observer, Posted};
use torpor_core::queue::{NewRun, WorkQueue as _};
use torpor_core::run::{Record, RunStore as _};
use torpor_core::webhook::{Channel, Deliver, Failed, Failure, Id, Message, Outbox, Standing, State, Target};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{claimed, done, ended, first_claimed, write};
use torpor_worker::Deliveries;

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than any pause of the schedule.
const LONG: Duration = Duration::from_secs(12 * 3600);

/// When a time that may have passed too early passes again.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers as it is told, then 204; keeps what it was given.
struct Receiver {
    answers: Mutex<VecDeque<Result<u16, Failed>>>,
    got: watch::Sender<Vec<Id>>,
    /// A permit for every attempt that may end.
    ends: Semaphore,
}

impl Receiver {
    fn new(answers: impl IntoIterator<Item = Result<u16, Failed>>, ends: usize) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, got: watch::Sender::default(), ends: Semaphore::new(ends) })
    }

    async fn wait_for(&self, n: usize) -> Vec<Id> {
        let mut got = self.got.subscribe();
        let found = tokio::time::timeout(LIMIT, got.wait_for(|ids| ids.len() >= n)).await;
        found.expect("the attempts are made").unwrap().clone()
    }
}

#[async_trait]
impl Deliver for Receiver {
    async fn deliver(&self, message: &Message) -> Result<Option<u16>, Failed> {
        self.got.send_modify(|ids| ids.push(message.id.clone()));
        self.ends.acquire().await.unwrap().forget();
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(204)).map(Some)
    }
}

#[derive(Default)]
struct Counts(Mutex<Vec<Posted>>);

impl Observer for Counts {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Webhook { ended, .. } = event {
            self.0.lock().unwrap().push(*ended);
        }
    }
}

struct Rig {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Rig {
    /// Lets time pass until the receiver has got so many. An attempt counts when it begins and is noted when it ends: if
    /// time passes between the two, the pause begins after it, so it may have to pass twice.
    async fn pass_until(&self, by: Duration, receiver: &Receiver, n: usize) {
        let passing = async {
            loop {
                self.clock.advance(by);
                let mut got = receiver.got.subscribe();
                let came = tokio::time::timeout(AGAIN, got.wait_for(|ids| ids.len() >= n)).await;
                if came.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, passing).await.expect("the attempts are made");
    }

    fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let store = open(&dir, &clock);
        Self { dir, clock, store, counts: Arc::default(), stop: None, running: None }
    }

    fn send(&mut self, receiver: &Arc<Receiver>, drain: Duration) {
        let webhooks =
            Deliveries::webhooks(self.store.clone(), receiver.clone(), self.clock.clone(), self.counts.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        let shutdown = async {
            let _ = stopped.await;
        };
        self.running = Some(tokio::spawn(async move { webhooks.run(shutdown, drain).await }));
    }

    async fn stopped(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(LIMIT, self.running.take().unwrap()).await.unwrap().unwrap();
    }

    /// A run that has ended, and somebody to tell.
    async fn over(&self, session: &str) -> RunId {
        let webhook = Some(Target { url: "https://hooks.example/".into(), secret_ref: None });
        let new = first_claimed(session);
        let lease = claimed(self.store.enqueue(NewRun { spec: Spec { webhook, ..new.spec }, ..new }).await.unwrap());
        self.store.append(write(&lease, 0, vec![ended(&lease, done("x"))])).await.unwrap();
        lease.record.run_id
    }

    /// How the webhook stands once `wanted` holds of it.
    async fn until(&self, run: &RunId, wanted: impl Fn(&Standing) -> bool) -> Standing {
        let mut seen = 0;
        let changed = async {
            loop {
                let Record { webhook, version, .. } = self.store.wait(run, seen, LONG).await.unwrap().unwrap();
                if let Some(standing) = webhook.filter(&wanted) {
                    return standing;
                }
                seen = version;
            }
        };
        tokio::time::timeout(LIMIT, changed).await.expect("the note is made")
    }
}

fn open(dir: &tempfile::TempDir, clock: &Arc<ManualClock>) -> Arc<Store> {
    Arc::new(Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap())
}

fn refused(status: u16, retry_after: Option<Duration>) -> Result<u16, Failed> {
    let failed = Failed::new(Failure::Status);
    Err(Failed { status: Some(status), retry_after, gone: status == 410, ..failed })
}

#[tokio::test]
async fn a_receiver_that_never_answers_well_is_given_up_after_ten_attempts_under_one_id() {
    let mut rig = Rig::new();
    let receiver = Receiver::new((0..20).map(|_| refused(500, None)), usize::MAX >> 4);
    let run = rig.over("s").await;
    rig.send(&receiver, LIMIT);
    for attempt in 1..=9 {
        let it = rig.until(&run, |s| s.attempts == attempt && s.last_error.is_some()).await;
        assert_eq!((it.state, it.last_status), (State::Pending, Some(500)), "{attempt}");
        assert_eq!(receiver.got.borrow().len(), attempt as usize, "none before its time");
        rig.pass_until(LONG, &receiver, attempt as usize + 1).await;
    }
    let it = rig.until(&run, |s| s.state == State::GivenUp).await;
    assert_eq!((it.attempts, it.last_error), (10, Some(Failure::Status)));
    let ids = receiver.wait_for(10).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(rig.counts.0.lock().unwrap().iter().filter(|p| **p == Posted::Failed).count(), 9);
    rig.stopped().await;
}

#[tokio::test]
async fn a_receiver_says_when_to_come_again_or_never() {
    let mut rig = Rig::new();
    let wait = Duration::from_secs(3_600);
    let receiver = Receiver::new([refused(429, Some(wait)), refused(410, None)], usize::MAX >> 4);
    let run = rig.over("s").await;
    rig.send(&receiver, LIMIT);
    rig.until(&run, |s| s.last_status == Some(429)).await;
    rig.clock.advance(wait - Duration::from_millis(1));
    assert!(
        Outbox::claim(&*rig.store, Channel::Webhook, 9, LIMIT, Duration::ZERO).await.unwrap().is_empty(),
        "it is left alone"
    );
    rig.clock.advance(Duration::from_millis(1));
    let it = rig.until(&run, |s| s.state == State::GivenUp).await;
    assert_eq!((it.attempts, it.last_status), (2, Some(410)));
    rig.stopped().await;
    assert_eq!(*rig.counts.0.lock().unwrap(), [Posted::Failed, Posted::GivenUp]);
}

#[tokio::test]
async fn an_attempt_that_hangs_ends_in_time_and_holds_up_nobody() {
    let mut rig = Rig::new();
    let receiver = Receiver::new([], 0);
    let hangs = rig.over("a").await;
    rig.send(&receiver, LIMIT);
    receiver.wait_for(1).await;
    let other = rig.over("b").await;
    receiver.wait_for(2).await;
    rig.clock.advance(Duration::from_secs(20));
    for run in [&hangs, &other] {
        let it = rig.until(run, |s| s.last_error.is_some()).await;
        assert_eq!((it.last_error, it.last_status), (Some(Failure::Timeout), None));
    }
    receiver.ends.add_permits(9);
    rig.clock.advance(LONG);
    rig.until(&hangs, |s| s.state == State::Sent).await;
    rig.until(&other, |s| s.state == State::Sent).await;
    rig.stopped().await;
}

#[tokio::test]
async fn so_many_are_sent_at_once_and_no_more() {
    let mut rig = Rig::new();
    let receiver = Receiver::new([], 0);
    let mut runs = Vec::new();
    for n in 0..70 {
        runs.push(rig.over(&format!("s{n}")).await);
    }
    rig.send(&receiver, LIMIT);
    assert_eq!(receiver.wait_for(64).await.len(), 64);
    receiver.ends.add_permits(70);
    for run in &runs {
        rig.until(run, |s| s.state == State::Sent).await;
    }
    assert_eq!(receiver.got.borrow().len(), 70);
    rig.stopped().await;
}

#[tokio::test]
async fn a_shutdown_lets_an_attempt_end() {
    let mut rig = Rig::new();
    let receiver = Receiver::new([], 0);
    let run = rig.over("s").await;
    rig.send(&receiver, LIMIT);
    receiver.wait_for(1).await;
    let _ = rig.stop.take().unwrap().send(());
    receiver.ends.add_permits(1);
    tokio::time::timeout(LIMIT, rig.running.take().unwrap()).await.unwrap().unwrap();
    assert_eq!(rig.until(&run, |_| true).await.state, State::Sent);
}

/// Whether the receiver has it is not known: it is sent again, at once, and the receiver knows it by its id.
#[tokio::test]
async fn an_attempt_that_was_cut_off_is_made_again_by_the_next_process() {
    let mut rig = Rig::new();
    let receiver = Receiver::new([], 0);
    let run = rig.over("s").await;
    rig.send(&receiver, Duration::ZERO);
    receiver.wait_for(1).await;
    rig.stopped().await;

    let Rig { dir, clock, store, counts, .. } = rig;
    drop(Arc::into_inner(store).expect("nobody holds the store"));
    let store = open(&dir, &clock);
    let mut rig = Rig { dir, clock, store, counts, stop: None, running: None };
    receiver.ends.add_permits(1);
    rig.send(&receiver, LIMIT);
    let it = rig.until(&run, |s| s.state == State::Sent).await;
    assert_eq!(it.attempts, 2);
    let ids = receiver.wait_for(2).await;
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    rig.stopped().await;
}
