//! Verdicts, cancels, expiry, interrupts, takeovers and the leaf itself, interleaved step by step as a seed decides.
//! Whatever the order: one outcome per run and one verdict per gate, always in the log, and no command without its
//! approval or twice.
//!
//! `RACE_SEED=n` replays one schedule, `RACE_SEEDS=n` plays so many.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{LEASE, Rig, check_log, rig};
use tokio::task::JoinHandle;
use torpor_core::RunId;
use torpor_core::entry::Body;
use torpor_core::envelope::Spec;
use torpor_core::gate::{Action, Decide, Decided, Decision, GateStore as _, Rule};
use torpor_core::id::WorkerId;
use torpor_core::outcome::{Outcome, Status};
use torpor_core::queue::{Cancelled, Enqueued, Expects, NewRun, WorkQueue as _};
use torpor_harness::{LeafEnd, Stop, StopHandle, run_leaf};
use torpor_testkit::crash::Fuse;
use torpor_testkit::dice::Dice;
use torpor_testkit::fakes::calls;
use torpor_testkit::sample::first;

/// Schedules that a usual run of the tests plays.
const SEEDS: u64 = 120;
/// Moves of a schedule, after which everything is let run to its end.
const MOVES: usize = 60;
/// How long a gate waits.
const GATE: Duration = Duration::from_secs(60);

/// A brain at work, one step at a time.
struct Brain {
    fuse: Arc<Fuse>,
    run: RunId,
    stop: StopHandle,
    leaf: JoinHandle<LeafEnd>,
}

/// What callers were told.
#[derive(Default)]
struct Told {
    recorded: Vec<(u64, Action)>,
    cancels: Vec<RunId>,
    interrupts: Vec<RunId>,
}

struct Play {
    rig: Rig,
    session: String,
    run: RunId,
    brains: Vec<Brain>,
    told: Told,
}

impl Play {
    async fn new() -> Self {
        let mut rig = rig(vec![
            Ok(calls(&[("bash", json!({"command": "push"})), ("bash", json!({"command": "free"}))])),
            Ok(calls(&[("request_approval", json!({"summary": "s", "proposed_action": "p"}))])),
            Ok(calls(&[("bash", json!({"command": "last"}))])),
        ]);
        rig.deps.clock = rig.clock.clone();
        Arc::make_mut(&mut rig.deps.settings).gate_ttl = Some(GATE);
        let spec =
            Spec { approvals: vec![Rule { tool: "bash".into(), pattern: Some("push".into()) }], ..Spec::prompt("go") };
        let session = "s".to_owned();
        let run = rig.submit_to(&session, spec, Expects::New).await;
        Self { rig, session, run, brains: Vec::new(), told: Told::default() }
    }

    async fn step(&mut self, dice: &mut Dice) {
        match dice.pick(20) {
            0 => self.decide(Action::Approve, dice).await,
            1 => self.decide(Action::Reject, dice).await,
            2 if dice.pick(3) == 0 => self.decide(Action::Abort, dice).await,
            3 if dice.pick(4) == 0 => self.cancel().await,
            4 if dice.pick(4) == 0 => self.rig.clock.advance(GATE),
            5 if dice.pick(4) == 0 => self.interrupt().await,
            6 if dice.pick(2) == 0 => self.rig.clock.advance(LEASE + Duration::from_millis(1)),
            7..=9 => self.claim().await,
            10 if dice.pick(3) == 0 => self.hand_back(dice),
            _ => self.think(dice).await,
        }
    }

    async fn decide(&mut self, action: Action, dice: &mut Dice) {
        let gate = dice.pick(2) as u64;
        let decide = Decide { run: self.run.clone(), gate: Some(gate), decision: Decision::new(action) };
        if let Decided::Recorded { gate, .. } = self.rig.store.decide(decide).await.unwrap() {
            self.told.recorded.push((gate, action));
        }
    }

    /// Cancels, and tells the brains of it as their worker would.
    async fn cancel(&mut self) {
        match self.rig.store.cancel(&self.run).await.unwrap() {
            Cancelled::Asked(record) => {
                self.told.cancels.push(record.run_id.clone());
                self.brains.iter().filter(|b| b.run == record.run_id).for_each(|b| b.stop.cancel());
            }
            Cancelled::Ended(record) if record.status == Status::Cancelled => {
                self.told.cancels.push(record.run_id.clone());
            }
            Cancelled::Ended(_) => {}
            Cancelled::Unknown => panic!("the run is there"),
        }
    }

    async fn interrupt(&mut self) {
        // It may use no tool, so what runs is the first run's alone.
        let spec = Spec { tools: Some(Vec::new()), ..Spec::prompt("stop that") };
        let new = NewRun { interrupt: true, expects: Expects::Existing, spec, ..first(&self.session) };
        let Enqueued::Created(record) = self.rig.store.enqueue(new).await.unwrap() else {
            panic!("a message is taken")
        };
        self.told.interrupts.push(record.run_id.clone());
    }

    /// Another brain looks for work, also while earlier ones still think that they own it.
    async fn claim(&mut self) {
        let worker = WorkerId::generate("race");
        for lease in self.rig.store.claim(&worker, 1, Duration::ZERO).await.unwrap() {
            let fuse = Fuse::stepped();
            let (deps, run) = (self.rig.fused(&fuse), lease.record.run_id.clone());
            let (stop, stopped) = Stop::new();
            let leaf = tokio::spawn(async move { run_leaf(&deps, lease, stopped).await });
            self.brains.push(Brain { fuse, run, stop, leaf });
        }
    }

    fn hand_back(&self, dice: &mut Dice) {
        if !self.brains.is_empty() {
            self.brains[dice.pick(self.brains.len())].stop.hand_back();
        }
    }

    /// One brain takes one step.
    async fn think(&mut self, dice: &mut Dice) {
        if self.brains.is_empty() {
            return;
        }
        let i = dice.pick(self.brains.len());
        let brain = &mut self.brains[i];
        let ended = tokio::select! {
            biased;
            end = &mut brain.leaf => Some(end.unwrap()),
            () = brain.fuse.stands() => None,
        };
        match ended {
            Some(end) => {
                assert!(!matches!(end, LeafEnd::Store(_)), "{end:?}");
                drop(self.brains.swap_remove(i));
            }
            None => brain.fuse.allow_one(),
        }
    }

    /// Nobody decides any more: gates expire, leases lapse, and every run comes to its end.
    async fn finish(&mut self) {
        self.brains.iter().for_each(|b| b.leaf.abort());
        for _ in 0..30 {
            self.rig.clock.advance(GATE + LEASE * 2);
            let worker = WorkerId::generate("last");
            let leases = self.rig.store.claim(&worker, 10, Duration::ZERO).await.unwrap();
            for lease in leases {
                let end = self.rig.run(lease).await;
                assert!(matches!(end, LeafEnd::Ended(_) | LeafEnd::Parked), "{end:?}");
            }
            let mut all = vec![self.run.clone()];
            all.extend(self.told.interrupts.iter().cloned());
            let mut open = 0;
            for run in all {
                open += usize::from(!self.rig.record(&run).await.status.is_terminal());
            }
            if open == 0 {
                return;
            }
        }
        panic!("a run does not end");
    }

    async fn check(&self) {
        let record = self.rig.record(&self.run).await;
        let log = self.rig.log(&record.session).await;
        check_log(&log);
        let outcome = log.iter().find_map(|e| match &e.body {
            Body::RunEnded { run, outcome, .. } if *run == self.run => Some(outcome.clone()),
            _ => None,
        });
        match outcome {
            Some(outcome) => assert_eq!(record.outcome, Some(outcome), "the record says what the log says"),
            None => assert_eq!((record.status, record.log_from), (Status::Cancelled, None), "it never started"),
        }
        let verdict = |gate: u64| {
            log.iter().find_map(|e| match &e.body {
                Body::GateDecided { gate: g, decision, .. } if *g == gate => Some(decision.clone()),
                _ => None,
            })
        };
        for (gate, action) in &self.told.recorded {
            let stands = verdict(*gate).expect("what was acknowledged is in the log");
            assert_eq!((stands.action, stands.expired), (*action, false));
        }
        let ran = |command: &str| self.rig.hands.ran().iter().filter(|(_, i)| i["command"] == json!(command)).count();
        for command in ["push", "free", "last"] {
            assert!(ran(command) <= 1, "{command} ran {} times", ran(command));
        }
        let approved = verdict(0).is_some_and(|d| d.action == Action::Approve);
        assert!(ran("push") == 0 || approved, "a held command ran without its approval");
        match &record.outcome {
            Some(Outcome::Done { .. }) => {
                assert_eq!(ran("push"), usize::from(approved));
                assert_eq!((ran("free"), ran("last")), (1, 1));
                assert!(verdict(1).is_some(), "the question was answered");
            }
            Some(Outcome::Aborted {}) => {
                assert!(self.told.recorded.iter().any(|(_, a)| *a == Action::Abort));
            }
            Some(Outcome::Cancelled {}) => {
                assert!(!self.told.cancels.is_empty() || !self.told.interrupts.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn play(seed: u64) -> Status {
    let mut dice = Dice::new(seed);
    let mut play = Play::new().await;
    for _ in 0..MOVES {
        play.step(&mut dice).await;
    }
    play.finish().await;
    play.check().await;
    play.rig.record(&play.run).await.status
}

#[tokio::test]
async fn one_outcome_whatever_the_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("RACE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("RACE_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let many = seeds.end - seeds.start > 100;
    let mut seen = HashSet::new();
    for seed in seeds {
        let played = tokio::time::timeout(Duration::from_secs(60), tokio::spawn(play(seed))).await;
        let played = played.unwrap_or_else(|_| panic!("RACE_SEED={seed} hangs"));
        seen.insert(played.unwrap_or_else(|_| panic!("replay with RACE_SEED={seed}")));
    }
    let all = HashSet::from([Status::Done, Status::Aborted, Status::Cancelled]);
    assert!(!many || seen == all, "the schedules should meet every outcome: {seen:?}");
}
