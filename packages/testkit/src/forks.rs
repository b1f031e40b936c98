//! Forks and removals in any order, against a model as plain as can be: every session its own list of entries.
//!
//! Owns: the steps, the model, and what must hold after each step. Must not know: which store it is, or how it keeps
//! anything; a [`Bench`] counts what is stored.

// The code of a test suite: a failed expectation is its result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use torpor_core::Position;
use torpor_core::entry::Body;
use torpor_core::log::SessionLog;
use torpor_core::queue::{NewRun, WorkQueue};
use torpor_core::session::{Fork, Forked, Removal, SessionStore};

use crate::dice::Dice;
use crate::sample::{checkpoint, claimed, done, ended, first, further, key, note, write};

/// Names that are used again and again.
const NAMES: usize = 6;

/// Most steps of one play.
const MAX_STEPS: usize = 40;

/// One step.
#[derive(Debug, Clone)]
pub enum Step {
    /// A run that writes so many entries, the first of them after a checkpoint or not.
    Run {
        /// Whose.
        session: usize,
        /// At least 1.
        entries: u64,
        /// One more entry: resume begins there.
        checkpoint: bool,
    },
    /// A fork.
    Fork {
        /// Its origin.
        from: usize,
        /// Its position, modulo the length of the origin.
        at: usize,
        /// The new one.
        into: usize,
    },
    /// A removal.
    Remove {
        /// Of what.
        session: usize,
    },
    /// The store is opened by another process.
    Reopen,
}

/// Steps as they come.
#[must_use]
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let length = 1 + dice.pick(MAX_STEPS);
    let step = |dice: &mut Dice| match dice.below(12) {
        0..4 => Step::Run { session: dice.pick(NAMES), entries: 1 + dice.below(5), checkpoint: dice.below(2) == 1 },
        4..8 => Step::Fork { from: dice.pick(NAMES), at: dice.pick(1_000), into: dice.pick(NAMES) },
        8..11 => Step::Remove { session: dice.pick(NAMES) },
        _ => Step::Reopen,
    };
    (0..length).map(|_| step(dice)).collect()
}

/// A store with its seams, as this process has it open.
#[derive(Clone)]
pub struct Stores {
    /// Its log.
    pub log: Arc<dyn SessionLog>,
    /// Its queue.
    pub queue: Arc<dyn WorkQueue>,
    /// Its sessions.
    pub sessions: Arc<dyn SessionStore>,
}

/// A store under test, seen from outside.
#[async_trait]
pub trait Bench: Send {
    /// Opens the store, anew if it was open.
    async fn open(&mut self) -> Stores;

    /// How many entries are stored, whether or not anybody can read them.
    async fn entries(&mut self) -> u64;

    /// Fails unless nothing is stored any more.
    async fn check_empty(&mut self);
}

/// What a session should hold: its entries, and where resume begins after each.
type Model = BTreeMap<usize, Vec<(Body, u64)>>;

/// Plays the steps; after each of them every session must be what the model says, and no entry stored that nobody needs.
/// In the end everything is removed.
pub async fn play(bench: &mut dyn Bench, steps: Vec<Step>) {
    let mut stores = bench.open().await;
    let mut model = Model::new();
    let mut stored = 0;
    for step in steps {
        match &step {
            Step::Run { session, entries, checkpoint } => {
                run(&stores, &mut model, *session, *entries, *checkpoint).await;
                stored += entries + u64::from(*checkpoint);
            }
            Step::Fork { from, at, into } => fork(&stores, &mut model, *from, *at, *into).await,
            Step::Remove { session } => {
                let removal = stores.sessions.remove(&key(&session.to_string())).await.unwrap();
                match (removal, model.remove(session)) {
                    (Removal::Unknown, None) => {}
                    (Removal::Removed(removed), Some(_)) => stored -= removed.entries,
                    other => panic!("{session}: {other:?}"),
                }
            }
            Step::Reopen => {
                drop(stores); // a folder is opened once
                stores = bench.open().await;
            }
        }
        check(&stores, &model).await;
        // What was counted as removed is removed, and nothing else is.
        assert_eq!(bench.entries().await, stored, "after {step:?}");
    }
    for session in 0..NAMES {
        stores.sessions.remove(&key(&session.to_string())).await.unwrap();
    }
    drop(stores);
    bench.check_empty().await;
}

async fn run(stores: &Stores, model: &mut Model, session: usize, entries: u64, with_checkpoint: bool) {
    let name = session.to_string();
    let new = if model.contains_key(&session) { further(&name) } else { first(&name) };
    let lease = claimed(stores.queue.enqueue(NewRun { claim_for: Some("w".into()), ..new }).await.unwrap());
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
    stores.log.append(write(&lease, head, bodies)).await.unwrap();
}

async fn fork(stores: &Stores, model: &mut Model, from: usize, at: usize, into: usize) {
    let at = at.checked_rem(model.get(&from).map_or(0, Vec::len)).unwrap_or(0) + 1;
    let fork = Fork { from: key(&from.to_string()), position: Position(at as u64), into: key(&into.to_string()) };
    match (stores.sessions.fork(&fork).await.unwrap(), model.get(&from).cloned(), model.contains_key(&into)) {
        (Forked::Unknown, None, _) | (Forked::Taken | Forked::Existing, Some(_), true) => {}
        (Forked::Created, Some(held), false) => drop(model.insert(into, held[..at].to_vec())),
        other => panic!("{fork:?}: {other:?}"),
    }
}

async fn check(stores: &Stores, model: &Model) {
    for session in 0..NAMES {
        let name = key(&session.to_string());
        let read = stores.log.read(&name, Position(1), 1_000).await.unwrap();
        let held = model.get(&session).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(read.iter().map(|e| e.position.0).collect::<Vec<_>>(), (1..=held.len() as u64).collect::<Vec<_>>());
        assert!(read.iter().map(|e| &e.body).eq(held.iter().map(|(body, _)| body)), "session {session}");
        let opened = stores.log.open(&name).await.unwrap();
        let resume_from = opened.map(|o| (o.head.resume_from.0, o.tail.len() as u64));
        let wanted = held.last().map(|(_, from)| (*from, held.len() as u64 + 1 - from));
        assert_eq!(resume_from, wanted, "session {session}");
    }
}
