//! The stream counts truly, whatever happens to the queue and whoever dies while it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use torpor_core::dead_letter::{self, LetterStore as _, Redrive};
use torpor_core::gate::{Action, Decide, Decision, GateStore as _};
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Enqueued, Lease, NewRun, Release, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::session::SessionStore as _;
use torpor_core::{Clock as _, RunId};
use torpor_testkit::dice::Dice;
use torpor_testkit::sample::{done, ended, first, further, gate, key, note, progress, write};

use crate::kit::Kit;

const STEPS: usize = 150;
const SEEDS: u64 = 6;
const SESSIONS: u64 = 8;

/// What a worker believes.
#[derive(Default)]
struct World {
    held: Vec<(Lease, u64)>,
    runs: Vec<RunId>,
}

impl World {
    fn take(&mut self, leases: Vec<Lease>) {
        self.held.extend(leases.into_iter().map(|lease| {
            let head = lease.head.position.0;
            (lease, head)
        }));
    }
}

/// One step of somebody, chosen by the dice. What is refused is refused: the counts must be true all the same.
async fn step(kit: &Kit, world: &mut World, dice: &mut Dice) -> &'static str {
    let worker = format!("w{}", dice.below(3));
    let session = format!("s{}", dice.below(SESSIONS));
    match dice.below(16) {
        0..=2 => {
            let new = if dice.below(2) == 0 { first(&session) } else { further(&session) };
            let later = kit.clock.now().after(Duration::from_millis(dice.below(4_000)));
            let new = NewRun {
                priority: i32::try_from(dice.below(3)).unwrap() - 1,
                not_before: (dice.below(4) == 0).then_some(later),
                interrupt: dice.below(6) == 0,
                claim_for: (dice.below(3) == 0).then(|| worker.as_str().into()),
                ..new
            };
            match kit.store.enqueue(new).await.unwrap() {
                Enqueued::Created(record) => world.runs.push(record.run_id),
                Enqueued::Claimed(lease) => {
                    world.runs.push(lease.record.run_id.clone());
                    world.take(vec![*lease]);
                }
                _ => {}
            }
            "enqueue"
        }
        3 | 4 => {
            let leases = kit.claim(&worker, 1 + dice.pick(3)).await;
            world.take(leases);
            "claim"
        }
        5 => {
            // Killed on its way: whether it was carried out or not, nobody holds what it took.
            let (worker, max) = (worker.as_str().into(), 1 + dice.pick(3));
            let claim = kit.store.claim(&worker, max, Duration::ZERO);
            let _ = tokio::time::timeout(Duration::from_micros(dice.below(800)), claim).await;
            "a claim whose caller is killed"
        }
        6 => {
            world.held.truncate(dice.pick(world.held.len() + 1));
            "workers are killed"
        }
        7 => {
            for (lease, _) in &world.held {
                kit.store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap();
            }
            "heartbeats"
        }
        8 | 9 if !world.held.is_empty() => {
            let (lease, head) = world.held.swap_remove(dice.pick(world.held.len()));
            let (body, goes_on) = match dice.below(6) {
                0 => (note(&lease), true),
                1 => (progress(&lease), true),
                2 => (
                    gate(
                        &lease,
                        lease.head.next_gate,
                        Some(kit.clock.now().after(Duration::from_millis(dice.below(9_000)))),
                    ),
                    false,
                ),
                _ => (ended(&lease, done("ok")), false),
            };
            if let (Ok(head), true) = (kit.store.append(write(&lease, head, vec![body])).await, goes_on) {
                world.held.push((lease, head.0));
            }
            "an append"
        }
        10 if !world.held.is_empty() => {
            let (lease, _) = world.held.swap_remove(dice.pick(world.held.len()));
            let after = Duration::from_millis(dice.below(3_000));
            let why = [Release::HandBack, Release::Retry { after }, Release::Wait { after }][dice.pick(3)];
            kit.store.release(&lease.key(), why).await.unwrap();
            "a release"
        }
        11 if !world.runs.is_empty() => {
            let run = world.runs[dice.pick(world.runs.len())].clone();
            if dice.below(2) == 0 {
                let _ = kit.store.cancel(&run).await; // its record may be one that nobody can read
            } else {
                let decision = Decision::new([Action::Approve, Action::Reject, Action::Abort][dice.pick(3)]);
                let _ = kit.store.decide(Decide { run, gate: None, decision }).await;
            }
            "a cancel or a verdict"
        }
        12 if !world.runs.is_empty() => {
            let run = &world.runs[dice.pick(world.runs.len())];
            let exists: u64 = kit.ask(&format!("EXISTS @run:{run}")).await;
            if exists == 1 {
                let _: u64 = kit.ask(&format!("HSET @run:{run} spec spoilt")).await;
            }
            "a run that nobody can read"
        }
        13 => {
            let letters =
                kit.store.letters(&dead_letter::Filter { limit: 200, ..Default::default() }).await.unwrap().letters;
            for letter in letters.into_iter().filter(|_| dice.below(2) == 0) {
                let new_run = RunId::generate();
                let again = Redrive { run: letter.run, tenant: None, new_run: new_run.clone(), trace: None };
                kit.store.redrive(&again).await.unwrap();
                world.runs.push(new_run);
            }
            "dead letters are driven again"
        }
        14 => {
            kit.store.remove(&key(&session)).await.unwrap();
            "a removal"
        }
        _ => {
            kit.clock.advance(Duration::from_millis(dice.below(2_500)));
            "time passes"
        }
    }
}

/// Every run is in one place, and the stream, the counters and the sets agree about how many are where.
async fn check(kit: &Kit, context: &str) {
    kit.store.ping().await.unwrap(); // what was sent before has been carried out
    let now = kit.clock.now().0;
    let ready: BTreeSet<String> = kit.ask("ZRANGE @q:ready 0 -1").await;
    let delayed: BTreeMap<String, u64> = kit.ask("ZRANGE @q:delayed 0 -1 WITHSCORES").await;
    let leases: BTreeMap<String, u64> = kit.ask("ZRANGE @q:leases 0 -1 WITHSCORES").await;
    let paused: BTreeSet<String> = kit.ask("SMEMBERS @q:paused").await;
    let tokens: BTreeMap<String, String> = kit.ask("HGETALL @q:tokens").await;
    let open: BTreeSet<String> = kit.ask("ZRANGE @runs:open 0 -1").await;
    let (blocked, queued): (Option<u64>, Option<u64>) = kit.ask("HMGET @meta blocked queued").await;
    let (blocked, queued) = (blocked.unwrap_or(0), queued.unwrap_or(0));

    let (lag, pending) = kit.lag_and_pending().await;
    assert_eq!((lag, pending), (Some(ready.len() as u64), leases.len() as u64), "{context}");
    let holders: BTreeSet<&String> = tokens.values().collect();
    assert_eq!(holders, leases.keys().collect(), "{context}: an entry for each lease");
    let placed = (ready.len() + delayed.len() + leases.len() + paused.len()) as u64 + blocked;
    assert_eq!((placed, queued), (open.len() as u64, open.len() as u64), "{context}: each run in one place");
    let run_of = |member: &String| member.split_once(':').unwrap().1.to_owned();
    for run in open.iter().map(run_of) {
        let q: Option<String> = kit.ask(&format!("HGET @run:{run} q")).await;
        let is_there = match q.as_deref() {
            Some("ready") => ready.iter().any(|member| run_of(member) == run),
            Some("delayed") => delayed.contains_key(&run),
            Some("leased") => leases.contains_key(&run),
            Some("paused") => paused.contains(&run),
            Some("blocked") => true, // counted above
            other => panic!("{context}: {run} stands {other:?}"),
        };
        assert!(is_there, "{context}: {run} says {q:?}");
    }

    let backlog = kit.store.backlog().await.unwrap();
    let over = |times: &BTreeMap<String, u64>| times.values().filter(|at| **at <= now).count() as u64;
    let (due, ended) = (over(&delayed), over(&leases));
    let gates: Vec<String> = kit.ask(&format!("ZRANGE @gates:due -inf {now} BYSCORE")).await;
    let decided = gates.iter().map(|member| member.split_once(':').unwrap().0).collect::<BTreeSet<_>>().len() as u64;
    assert_eq!(backlog.ready, ready.len() as u64 + due + ended + decided, "{context}");
    assert_eq!(backlog.leased, pending - ended, "{context}");
    assert_eq!(backlog.waiting, delayed.len() as u64 - due + blocked, "{context}");
    assert_eq!(backlog.paused, paused.len() as u64 - decided, "{context}");
}

/// Whatever happens in whatever order, entries that nobody has read are the claimable runs, and pending ones the leases.
#[tokio::test]
async fn the_stream_counts_truly_through_a_random_walk() {
    for seed in 0..SEEDS {
        let Some(kit) = Kit::manual().await else { return };
        let (mut dice, mut world) = (Dice::new(seed), World::default());
        for n in 0..STEPS {
            let what = step(&kit, &mut world, &mut dice).await;
            check(&kit, &format!("seed {seed}, step {n}: {what}")).await;
        }
        // And nothing is stuck: whoever comes last ends everything.
        for round in 0.. {
            kit.clock.advance(Duration::from_secs(10));
            let leases = kit.claim("last", 100).await;
            for lease in &leases {
                kit.finish(lease).await;
            }
            check(&kit, &format!("seed {seed}, round {round}")).await;
            if kit.store.backlog().await.unwrap().ready == 0 {
                break;
            }
        }
        let open: u64 = kit.ask("ZCARD @runs:open").await;
        let paused: u64 = kit.ask("SCARD @q:paused").await;
        let backlog = kit.store.backlog().await.unwrap();
        assert_eq!((open, backlog.paused), (backlog.paused + backlog.waiting, paused), "seed {seed}: {backlog:?}");
    }
}
