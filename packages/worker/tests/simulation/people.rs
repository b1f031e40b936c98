//! Those who want something: they post runs and messages, cancel some, and decide at gates, over the same network; and they
//! remember what they were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use torpor_core::RunId;
use torpor_core::envelope::Spec;
use torpor_core::gate::{Action, Decide, Decided, Decision, Filter, Rule};
use torpor_core::queue::{Cancelled, Enqueued, Expects, Idempotency, NewRun, WorkQueue as _};
use torpor_core::run::Record;
use torpor_testkit::sample::first;

use crate::model::plan;
use crate::net::lock;
use crate::remote::Remote;

/// Sessions of a day.
const SESSIONS: u64 = 20;

/// What people were told.
#[derive(Default)]
pub(crate) struct Told {
    /// Runs that were accepted.
    pub(crate) runs: Vec<RunId>,
    /// Runs that somebody asked to be cancelled, whatever the answer.
    pub(crate) cancelled: Vec<RunId>,
    /// Verdicts that stand.
    pub(crate) decided: BTreeMap<(RunId, u64), Action>,
    /// How many of those who post are not done.
    pub(crate) busy: u64,
}

#[derive(Clone)]
pub(crate) struct People {
    pub(crate) remote: Remote,
    pub(crate) told: Arc<Mutex<Told>>,
}

impl People {
    /// Everybody begins.
    pub(crate) fn begin(&self) {
        lock(&self.told).busy = SESSIONS;
        for n in 0..SESSIONS {
            tokio::spawn(self.clone().post(n));
        }
        tokio::spawn(self.clone().decide());
    }

    /// One session: its first run, perhaps a message, perhaps a cancel.
    async fn post(self, n: u64) {
        let session = format!("s{n}");
        let sky = self.remote.process.sky.clone();
        let mut dice = sky.dice("session", n);
        sleep(dice.ms(0, 20_000)).await;
        for i in 0..1 + dice.roll(3) {
            let name = format!("{session}_{i}");
            let prompt = serde_json::to_string(&plan(&name, &mut dice)).unwrap();
            let approvals = vec![Rule { tool: "bash".into(), pattern: Some("hold".into()) }];
            let new = NewRun {
                run_id: RunId::parse(&format!("run_{name}")).unwrap(),
                spec: Spec { approvals, ..Spec::prompt(prompt) },
                expects: if i == 0 { Expects::New } else { Expects::Existing },
                idempotency: Some(Idempotency { key: name, body_hash: "b".into() }),
                interrupt: i > 0 && dice.one_in(3),
                ..first(&session)
            };
            let run = self.submit(new).await;
            if dice.one_in(6) {
                sleep(dice.ms(0, 15_000)).await;
                self.cancel(&run).await;
            }
            sleep(dice.ms(0, 8_000)).await;
        }
        lock(&self.told).busy -= 1;
    }

    async fn submit(&self, new: NewRun) -> RunId {
        loop {
            let record = match self.remote.enqueue(new.clone()).await {
                Ok(Enqueued::Created(record) | Enqueued::Existing(record)) => *record,
                Ok(other) => panic!("{other:?}"),
                Err(_) => continue,
            };
            let Record { run_id, .. } = record;
            lock(&self.told).runs.push(run_id.clone());
            if new.interrupt {
                self.remote.process.sky.count("interrupts");
            }
            return run_id;
        }
    }

    async fn cancel(&self, run: &RunId) {
        lock(&self.told).cancelled.push(run.clone());
        loop {
            match self.remote.cancel(run).await {
                Ok(Cancelled::Unknown) => panic!("{run} was accepted"),
                Ok(Cancelled::Asked(_) | Cancelled::Ended(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// Looks at gates for ever, and decides about most of them.
    async fn decide(self) {
        let sky = self.remote.process.sky.clone();
        let mut seen: BTreeMap<(RunId, u64), Duration> = BTreeMap::new();
        loop {
            sleep(Duration::from_millis(700)).await;
            let filter = Filter { pending: Some(true), limit: 200, ..Filter::default() };
            let Ok(page) = self.remote.gates(filter).await else { continue };
            for gate in page.gates {
                let key = (gate.run.clone(), gate.gate.gate);
                let mut dice = sky.dice(&format!("gate {}", key.0), key.1);
                let (mood, patience) = (dice.roll(100), dice.ms(100, 9_000));
                let left = seen.entry(key.clone()).or_insert(patience);
                *left = left.saturating_sub(Duration::from_millis(700));
                let action = match mood {
                    _ if !left.is_zero() => continue,
                    0..65 => Action::Approve,
                    65..85 => Action::Reject,
                    85..92 => Action::Abort,
                    _ => continue, // nobody ever decides
                };
                let decide = Decide { run: key.0.clone(), gate: Some(key.1), decision: Decision::new(action) };
                if let Ok(Decided::Recorded { .. } | Decided::Repeated { .. }) = self.remote.decide(decide).await {
                    lock(&self.told).decided.insert(key, action);
                }
            }
        }
    }
}
