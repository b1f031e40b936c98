//! Random histories of the queue against a model that is too simple to be wrong.
//!
//! The model knows nothing of tables or transactions: runs in the order they were accepted, and who holds what until
//! when. After every step the store must have answered as the model does; at the end every run must still be there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use torpor_core::entry::{Body, RunTotals};
use torpor_core::log::{Append, AppendError, SessionLog as _};
use torpor_core::outcome::{Outcome, Status};
use torpor_core::queue::{Backlog, Enqueued, Expects, LeaseKey, NewRun, Release, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::{Clock as _, Epoch, Position, RunId, Timestamp, WorkerId, store};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{first, key};

const LEASE_MS: u64 = 1_000;
const SESSIONS: u8 = 4;
const WORKERS: u8 = 3;

/// One step. Indexes are taken modulo what is there.
#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        session: u8,
        priority: i8,
        delay: u16,
        claim: bool,
    },
    Claim {
        worker: u8,
        max: u8,
    },
    Append {
        lease: usize,
        progress: bool,
        end: bool,
    },
    Heartbeat {
        lease: usize,
    },
    Release {
        lease: usize,
        why: u8,
        delay: u16,
    },
    Pass {
        ms: u16,
    },
    /// Makes a run unreadable, wherever it stands.
    Spoil {
        run: usize,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any_lease = any::<usize>();
    let step = prop_oneof![
        4 => (0..SESSIONS, -1..=1i8, prop_oneof![3 => Just(0), 1 => 1..2_000u16], any::<bool>())
            .prop_map(|(session, priority, delay, claim)| Step::Enqueue { session, priority, delay, claim }),
        4 => (0..WORKERS, 1..4u8).prop_map(|(worker, max)| Step::Claim { worker, max }),
        6 => (any_lease, any::<bool>(), prop::bool::weighted(0.4))
            .prop_map(|(lease, progress, end)| Step::Append { lease, progress, end }),
        3 => any::<usize>().prop_map(|lease| Step::Heartbeat { lease }),
        2 => (any::<usize>(), 0..3u8, 0..1_500u16)
            .prop_map(|(lease, why, delay)| Step::Release { lease, why, delay }),
        4 => (1..1_200u16).prop_map(|ms| Step::Pass { ms }),
        1 => any::<usize>().prop_map(|run| Step::Spoil { run }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Debug, Clone)]
struct Run {
    id: RunId,
    session: u8,
    priority: i8,
    due: u64,
    /// Epoch, worker and end of the lease.
    owner: Option<(u64, u8, u64)>,
    attempts: u32,
    progressed: bool,
    ended: bool,
    spoiled: bool,
    set_aside: bool,
}

#[derive(Default)]
struct Model {
    runs: Vec<Run>,
    epochs: BTreeMap<u8, u64>,
    heads: BTreeMap<u8, u64>,
}

impl Model {
    fn is_front(&self, n: usize) -> bool {
        !self.runs[n].ended && !self.runs[..n].iter().any(|r| r.session == self.runs[n].session && !r.ended)
    }

    fn is_claimable(&self, n: usize, now: u64) -> bool {
        let run = &self.runs[n];
        self.is_front(n) && run.due <= now && run.owner.is_none_or(|(_, _, until)| until <= now)
    }

    fn claimable(&self, now: u64) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.runs.len()).filter(|n| self.is_claimable(*n, now)).collect();
        found.sort_by_key(|n| (-self.runs[*n].priority, *n));
        found
    }

    /// What a claim answers, and what it sets aside on its way.
    fn claim_up_to(&mut self, max: usize, worker: u8, now: u64) -> Vec<(usize, u64)> {
        let mut claimed = Vec::new();
        loop {
            let mut found = self.claimable(now);
            found.truncate(max - claimed.len());
            let mut all_readable = true;
            for n in found {
                if self.runs[n].spoiled {
                    (self.runs[n].ended, self.runs[n].set_aside, self.runs[n].owner) = (true, true, None);
                    all_readable = false;
                } else {
                    claimed.push((n, self.claim(n, worker, now)));
                }
            }
            if all_readable {
                return claimed;
            }
        }
    }

    fn claim(&mut self, n: usize, worker: u8, now: u64) -> u64 {
        let run = &mut self.runs[n];
        let epoch = self.epochs.entry(run.session).or_default();
        *epoch += 1;
        run.attempts = if run.progressed { 1 } else { run.attempts + 1 };
        run.progressed = false;
        run.owner = Some((*epoch, worker, now + LEASE_MS));
        *epoch
    }

    fn backlog(&self, now: u64) -> Backlog {
        let dead = self.runs.iter().filter(|run| run.set_aside).count() as u64;
        let mut counts = Backlog { dead, ..Backlog::default() };
        for n in (0..self.runs.len()).filter(|n| !self.runs[*n].ended) {
            if self.is_claimable(n, now) {
                counts.ready += 1;
            } else if self.runs[n].owner.is_some() {
                counts.leased += 1;
            } else {
                counts.waiting += 1;
            }
        }
        counts
    }
}

fn name(session: u8) -> String {
    format!("s{session}")
}

fn worker(n: u8) -> WorkerId {
    format!("w{n}").as_str().into()
}

struct Test {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Option<Store>,
    model: Model,
    /// Every lease ever given: run, its epoch, its worker.
    given: Vec<(usize, u64, u8)>,
}

impl Test {
    fn new() -> Self {
        // In memory where that is possible: this is about what the store answers, not about its disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Arc::new(ManualClock::default());
        let mut test = Self { dir, clock, store: None, model: Model::default(), given: Vec::new() };
        test.open();
        test
    }

    fn open(&mut self) {
        self.store = None;
        let lease = Duration::from_millis(LEASE_MS);
        let options = Options { lease, clock: self.clock.clone(), ..Options::default() };
        self.store = Some(Store::open(self.dir.path(), options).unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn now(&self) -> u64 {
        self.clock.now().0
    }

    /// A lease that was once given, whether it still holds, and its run.
    fn lease(&self, n: usize) -> Option<(usize, LeaseKey, u8, bool)> {
        let (run, epoch, worker) = *self.given.get(n.checked_rem(self.given.len())?)?;
        let model = &self.model.runs[run];
        let holds = !model.ended && model.owner.is_some_and(|(e, _, _)| e == epoch);
        Some((run, LeaseKey { run: model.id.clone(), epoch: Epoch(epoch) }, worker, holds))
    }

    async fn step(&mut self, step: &Step) {
        let now = self.now();
        match *step {
            Step::Enqueue { session, priority, delay, claim } => self.enqueue(session, priority, delay, claim).await,
            Step::Claim { worker: w, max } => {
                let leases = self.store().claim(&worker(w), max.into(), Duration::ZERO).await.unwrap();
                let want = self.model.claim_up_to(max.into(), w, now);
                assert_eq!(leases.len(), want.len());
                for (lease, (n, epoch)) in leases.iter().zip(want) {
                    assert_eq!((&lease.record.run_id, lease.epoch.0), (&self.model.runs[n].id, epoch));
                    assert_eq!(lease.attempt, self.model.runs[n].attempts);
                    assert_eq!(lease.head.position.0, self.model.heads[&self.model.runs[n].session]);
                    self.given.push((n, epoch, w));
                }
            }
            Step::Append { lease, progress, end } => self.append(lease, progress, end).await,
            Step::Heartbeat { lease } => {
                let Some((run, key, w, holds)) = self.lease(lease) else { return };
                let lost = self.store().heartbeat(&worker(w), std::slice::from_ref(&key)).await.unwrap();
                assert_eq!(lost.is_empty(), holds);
                if holds {
                    self.model.runs[run].owner = Some((key.epoch.0, w, now + LEASE_MS));
                }
            }
            Step::Release { lease, why, delay } => {
                let Some((run, key, _, holds)) = self.lease(lease) else { return };
                let after = Duration::from_millis(delay.into());
                let why = [Release::HandBack, Release::Retry { after }, Release::Wait { after }][usize::from(why)];
                assert_eq!(self.store().release(&key, why).await.unwrap(), holds);
                if holds {
                    let run = &mut self.model.runs[run];
                    run.owner = None;
                    run.due = if why == Release::HandBack { 0 } else { now + u64::from(delay) };
                    run.attempts -= u32::from(!matches!(why, Release::Retry { .. }));
                }
            }
            Step::Spoil { run } => {
                let Some(n) = run.checked_rem(self.model.runs.len()) else { return };
                self.model.runs[n].spoiled = true;
                let db = rusqlite::Connection::open(self.dir.path().join("store.db")).unwrap();
                db.execute("UPDATE run SET spec = '{}' WHERE run_id = ?1", [self.model.runs[n].id.as_str()]).unwrap();
            }
            Step::Pass { ms } => self.clock.advance(Duration::from_millis(ms.into())),
            Step::Reopen => {
                self.open();
                for run in &mut self.model.runs {
                    run.owner = None; // leases of an earlier process are void
                }
            }
        }
    }

    async fn enqueue(&mut self, session: u8, priority: i8, delay: u16, claim: bool) {
        let now = self.now();
        let is_new = !self.model.heads.contains_key(&session);
        let id = RunId::generate();
        let due = if delay == 0 { 0 } else { now + u64::from(delay) };
        let new = NewRun {
            run_id: id.clone(),
            expects: if is_new { Expects::New } else { Expects::Existing },
            not_before: Some(Timestamp(due)),
            priority: priority.into(),
            claim_for: claim.then(|| worker(0)),
            ..first(&name(session))
        };
        let answer = self.store().enqueue(new).await.unwrap();
        self.model.heads.entry(session).or_default();
        let run = Run {
            id,
            session,
            priority,
            due,
            owner: None,
            attempts: 0,
            progressed: false,
            ended: false,
            spoiled: false,
            set_aside: false,
        };
        self.model.runs.push(run);
        let n = self.model.runs.len() - 1;
        match answer {
            Enqueued::Claimed(lease) => {
                assert!(claim && self.model.is_claimable(n, now));
                let epoch = self.model.claim(n, 0, now);
                assert_eq!((lease.epoch.0, lease.attempt), (epoch, 1));
                self.given.push((n, epoch, 0));
            }
            Enqueued::Created(_) => assert!(!claim || !self.model.is_claimable(n, now)),
            other => panic!("{other:?}"),
        }
    }

    async fn append(&mut self, lease: usize, progress: bool, end: bool) {
        let Some((n, key_, _, holds)) = self.lease(lease) else { return };
        let run = &mut self.model.runs[n];
        let head = self.model.heads.get_mut(&run.session).unwrap();
        let mut bodies = vec![if progress {
            Body::Checkpoint { summary: String::new(), keep_from: Position(1), open_run: None }
        } else {
            Body::Takeover { run: run.id.clone(), worker: worker(0) }
        }];
        if end {
            let (run, outcome) = (run.id.clone(), Outcome::Cancelled {});
            bodies.push(Body::RunEnded { run, outcome, spent: RunTotals::default() });
        }
        let count = bodies.len() as u64;
        let append = Append {
            session: key(&name(run.session)),
            epoch: key_.epoch,
            after: Position(*head),
            write_id: uuid::Uuid::new_v4(),
            at: Timestamp(1),
            bodies,
        };
        match self.store.as_ref().unwrap().append(append).await {
            Ok(position) => {
                assert!(holds, "an append without the lease");
                *head += count;
                assert_eq!(position.0, *head);
                run.progressed |= progress;
                run.ended = end;
            }
            Err(AppendError::Fenced { current, .. }) => {
                assert!(!holds, "the owner was fenced");
                assert_eq!(current.0, self.model.epochs[&run.session]);
            }
            Err(e) => panic!("{e}"),
        }
    }

    async fn check(&self) {
        assert_eq!(self.store().backlog().await.unwrap(), self.model.backlog(self.now()));
    }

    async fn check_all(&self) {
        for run in &self.model.runs {
            let record = self.store().get(&run.id).await;
            if run.spoiled {
                assert!(matches!(record, Err(store::Error::Unreadable(_))), "{record:?}");
                continue;
            }
            let record = record.unwrap().expect("no run is lost");
            assert_eq!(record.status == Status::Cancelled, run.ended);
            assert_eq!(record.attempts, run.attempts);
        }
        for (session, head) in &self.model.heads {
            let opened = self.store().open(&key(&name(*session))).await.unwrap().unwrap();
            assert_eq!(opened.head.position.0, *head);
            assert_eq!(opened.tail.len() as u64, *head);
            assert!(opened.tail.windows(2).all(|w| w[0].epoch <= w[1].epoch), "epochs never go back");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut test = Test::new();
            for step in &steps {
                test.step(step).await;
                test.check().await;
            }
            test.check_all().await;
        });
    }
}
