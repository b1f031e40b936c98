//! Promises of [`GateStore`](torpor_core::gate::GateStore), and of the queue about runs that wait for people.

use std::time::Duration;

use torpor_core::entry::Body;
use torpor_core::gate::{Action, Decide, Decided, Decision, Filter, Standing};
use torpor_core::outcome::Status;
use torpor_core::queue::{Backlog, Cancelled, Enqueued, Expects, Lease, NewRun, Release};
use torpor_core::{Position, RunId, Timestamp};

use super::{Fixture, soon};
use crate::sample::{created, further, gate, key, note, write};

async fn decide(f: &Fixture, run: &RunId, gate: Option<u64>, action: Action) -> Decided {
    f.gates.decide(Decide { run: run.clone(), gate, decision: Decision::new(action) }).await.unwrap()
}

/// A run of `s` that waits at so many gates, after one entry.
async fn parked(f: &Fixture, gates: u64) -> Lease {
    let lease = f.running("s").await;
    let bodies = std::iter::once(note(&lease)).chain((0..gates).map(|n| gate(&lease, n, None))).collect();
    f.append(&lease, 0, bodies).await.unwrap();
    lease
}

async fn pending(f: &Fixture) -> Vec<u64> {
    let page = f.gates.gates(&Filter { pending: Some(true), limit: 200, ..Filter::default() }).await.unwrap();
    page.gates.iter().map(|g| g.gate.gate).collect()
}

/// The entry of a gate parks the run in the same step: paused, owned by nobody, with its question beside it.
pub async fn a_gate_parks_its_run(f: Fixture) {
    let lease = parked(&f, 1).await;
    let record = f.record(&lease.record.run_id).await;
    assert_eq!((record.status, record.gates.len(), record.gates[0].gate), (Status::Paused, 1, 0));
    assert_eq!(record.gates[0].question.summary, "gate 0");
    assert!(f.claim("w", 10).await.is_empty());
    f.expire_leases().await;
    assert!(f.claim("w", 10).await.is_empty(), "there is no lease that could expire");
    assert!(f.append(&lease, 2, vec![note(&lease)]).await.is_err(), "it is owned by nobody");
    assert!(!f.queue.release(&lease.key(), Release::HandBack).await.unwrap());
    assert_eq!(f.queue.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), [lease.key()]);
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { paused: 1, ..Backlog::default() });
}

/// A batch in which something follows a gate, whose numbers do not follow on, or that brings its own verdict is
/// refused whole.
pub async fn mistaken_gates_are_refused_whole(f: Fixture) {
    let lease = f.running("s").await;
    let verdict =
        Body::GateDecided { run: lease.record.run_id.clone(), gate: 0, decision: Decision::new(Action::Approve) };
    for batch in [
        vec![gate(&lease, 0, None), note(&lease)],
        vec![gate(&lease, 1, None)],
        vec![gate(&lease, 0, None), gate(&lease, 0, None)],
        vec![verdict],
    ] {
        assert!(f.append(&lease, 0, batch).await.is_err());
    }
    assert!(f.positions(&key("s")).await.is_empty());
    assert_eq!(f.record(&lease.record.run_id).await.status, Status::Running);
}

/// A verdict is an entry at the head, and the run can be claimed at once, with a fresh count of attempts.
pub async fn a_verdict_is_an_entry_and_wakes_the_run(f: Fixture) {
    let lease = parked(&f, 1).await;
    let run = &lease.record.run_id;
    let decision =
        Decision { feedback: Some("go".into()), approver: Some("ann".into()), ..Decision::new(Action::Approve) };
    let asked = Decide { run: run.clone(), gate: Some(0), decision: decision.clone() };
    let Decided::Recorded { gate: 0, position, record } = f.gates.decide(asked).await.unwrap() else {
        panic!("it was pending")
    };
    assert_eq!((position, record.status, record.gates.len()), (Position(3), Status::Queued, 0));
    let entries = f.log.read(&key("s"), position, 10).await.unwrap();
    assert_eq!(entries[0].body, Body::GateDecided { run: run.clone(), gate: 0, decision });
    let next = f.claim_one("w2").await;
    assert_eq!((&next.record.run_id, next.attempt, next.head.position), (run, 1, position));
    assert_eq!((next.head.next_gate, next.epoch > lease.epoch), (1, true));
    let opened = f.log.open(&key("s")).await.unwrap().unwrap();
    assert_eq!((opened.head, opened.tail.len()), (next.head, 3));
    assert!(f.append(&lease, 3, vec![note(&lease)]).await.is_err(), "who parked it owns it no more");
    f.append(&next, 3, vec![gate(&next, 1, None)]).await.unwrap();
    assert_eq!(f.record(run).await.gates[0].gate, 1);
}

/// Who waits for a claim or follows the log hears of a verdict at once.
pub async fn a_verdict_wakes_those_who_wait(f: Fixture) {
    let lease = parked(&f, 1).await;
    let (worker, session) = ("w2".into(), key("s"));
    let long = Duration::from_secs(3600);
    let seen = f.record(&lease.record.run_id).await.version;
    let (leases, head, record, _) = soon(async {
        tokio::join!(
            f.queue.claim(&worker, 1, long),
            f.log.wait_beyond(&session, Position(2), long),
            f.runs.wait(&lease.record.run_id, seen, long),
            decide(&f, &lease.record.run_id, None, Action::Approve),
        )
    })
    .await;
    assert_eq!((leases.unwrap().len(), head.unwrap()), (1, Position(3)));
    assert!(record.unwrap().unwrap().version > seen);
}

/// With several gates each takes its own verdict; the run waits for the last.
pub async fn several_gates_are_decided_one_by_one(f: Fixture) {
    let lease = parked(&f, 3).await;
    let run = &lease.record.run_id;
    assert_eq!(decide(&f, run, None, Action::Approve).await, Decided::Several(vec![0, 1, 2]));
    for (gate, action) in [(1, Action::Reject), (0, Action::Approve)] {
        let Decided::Recorded { record, .. } = decide(&f, run, Some(gate), action).await else { panic!("{gate}") };
        assert_eq!(record.status, Status::Paused);
        assert!(f.claim("w", 1).await.is_empty());
    }
    assert_eq!(f.record(run).await.gates.iter().map(|g| g.gate).collect::<Vec<_>>(), [2]);
    assert!(matches!(decide(&f, run, None, Action::Approve).await, Decided::Recorded { gate: 2, .. }));
    assert_eq!(f.claim("w", 1).await.len(), 1);
}

/// The same verdict again changes nothing; another one is refused and told which stands.
pub async fn a_second_verdict_has_no_effect(f: Fixture) {
    let lease = parked(&f, 1).await;
    let run = &lease.record.run_id;
    assert!(matches!(decide(&f, run, Some(0), Action::Reject).await, Decided::Recorded { .. }));
    for gate in [Some(0), None] {
        assert!(matches!(decide(&f, run, gate, Action::Reject).await, Decided::Repeated { gate: 0, .. }));
        let other = decide(&f, run, gate, Action::Approve).await;
        assert!(matches!(&other, Decided::Conflict { earlier, .. } if earlier.action == Action::Reject), "{other:?}");
    }
    assert_eq!(f.positions(&key("s")).await, [1, 2, 3]);
    assert_eq!(decide(&f, run, Some(7), Action::Approve).await, Decided::Unknown);
    assert_eq!(decide(&f, &RunId::generate(), None, Action::Approve).await, Decided::Unknown);
}

/// Of racing verdicts and a cancel one stands, and the log says which.
pub async fn one_of_racing_verdicts_stands(f: Fixture) {
    for _ in 0..20 {
        let f = &f;
        let session = uuid::Uuid::new_v4().to_string();
        let lease = f.running(&session).await;
        f.append(&lease, 0, vec![gate(&lease, 0, None)]).await.unwrap();
        let run = &lease.record.run_id;
        let (a, b, c, _) = tokio::join!(
            decide(f, run, None, Action::Approve),
            decide(f, run, None, Action::Reject),
            decide(f, run, None, Action::Abort),
            f.queue.cancel(run),
        );
        let stands = [a, b, c].iter().filter(|d| matches!(d, Decided::Recorded { .. })).count();
        let entries = f.log.read(&key(&session), Position(2), 10).await.unwrap();
        assert_eq!(entries.len(), stands, "a verdict is in the log if and only if it stands");
        assert!(stands <= 1);
        let next = f.claim_one("w").await;
        assert!(next.cancel);
        f.finish(&next, 1 + stands as u64).await;
    }
}

/// An abort needs no further verdicts.
pub async fn an_abort_closes_the_other_gates(f: Fixture) {
    let lease = parked(&f, 2).await;
    let run = &lease.record.run_id;
    assert!(matches!(decide(&f, run, Some(1), Action::Abort).await, Decided::Recorded { .. }));
    assert_eq!(decide(&f, run, Some(0), Action::Approve).await, Decided::Closed);
    assert!(pending(&f).await.is_empty());
    assert_eq!(f.claim("w", 1).await.len(), 1);
}

/// An abort that is said again without its gate is the same abort, though gates were closed by it.
pub async fn an_abort_is_recognised_without_its_gate(f: Fixture) {
    let lease = parked(&f, 2).await;
    let run = &lease.record.run_id;
    decide(&f, run, Some(0), Action::Abort).await;
    assert!(matches!(decide(&f, run, None, Action::Abort).await, Decided::Repeated { gate: 0, .. }));
    assert!(matches!(decide(&f, run, None, Action::Approve).await, Decided::Conflict { gate: 0, .. }));
}

/// What is asked has no bound that a page could rely on, so pages of gates, and of runs that wait at them, end early.
pub async fn pages_with_gates_end_before_they_grow_large(f: Fixture) {
    for n in 0..8 {
        let lease = f.running(&format!("s{n}")).await;
        let mut body = gate(&lease, 0, None);
        if let Body::GateRequested { question, .. } = &mut body {
            question.summary = "x".repeat(2 << 20);
        }
        f.append(&lease, 0, vec![body]).await.unwrap();
    }
    let (mut sizes, mut cursor) = (Vec::new(), None);
    loop {
        let page = f.gates.gates(&Filter { limit: 200, cursor, ..Filter::default() }).await.unwrap();
        sizes.push(page.gates.len());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(sizes.iter().all(|n| (1..6).contains(n)) && sizes.iter().sum::<usize>() == 8, "{sizes:?}");
    let runs = f.runs.list(&torpor_core::run::Filter { limit: 200, ..Default::default() }).await.unwrap();
    assert!((1..6).contains(&runs.runs.len()) && runs.next.is_some(), "{} paused runs on a page", runs.runs.len());
}

/// Gates go with the record of their run; their numbers do not come again.
pub async fn gates_go_with_their_record(f: Fixture) {
    let lease = parked(&f, 1).await;
    let run = lease.record.run_id.clone();
    f.pass(f.result_ttl * 2).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 0);
    assert_eq!(pending(&f).await, [0], "a gate that waits has no end");
    decide(&f, &run, None, Action::Approve).await;
    let ending = f.claim_one("w").await;
    f.finish(&ending, 3).await;
    f.pass(f.result_ttl * 2).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 1);
    assert!(f.gates.gates(&Filter { limit: 200, ..Filter::default() }).await.unwrap().gates.is_empty());
    for action in [Action::Approve, Action::Reject] {
        assert_eq!(decide(&f, &run, Some(0), action).await, Decided::Unknown);
    }
    created(f.enqueue(further("s")).await);
    assert_eq!(f.claim_one("w").await.head.next_gate, 1);
}

/// What nobody decides in time is rejected by the store itself, by its own clock, and wakes whoever waits for work.
pub async fn a_gate_expires_by_itself(f: Fixture) {
    let lease = f.running("s").await;
    let soon_over = f.time.now().after(f.lease * 4);
    f.append(&lease, 0, vec![gate(&lease, 0, Some(soon_over)), gate(&lease, 1, None)]).await.unwrap();
    assert!(f.claim("w", 1).await.is_empty());
    f.pass(f.lease * 5).await;
    assert_eq!(f.queue.backlog().await.unwrap().ready, 1, "somebody has to see to it");
    assert!(f.claim("w", 1).await.is_empty(), "the other gate still waits");
    assert_eq!(f.record(&lease.record.run_id).await.gates.len(), 1);
    let entries = f.log.read(&key("s"), Position(3), 10).await.unwrap();
    let expired = Body::GateDecided { run: lease.record.run_id.clone(), gate: 0, decision: Decision::expiry() };
    assert_eq!(entries[0].body, expired);
    let late = decide(&f, &lease.record.run_id, Some(0), Action::Approve).await;
    assert!(matches!(&late, Decided::Conflict { earlier, .. } if earlier.expired), "{late:?}");

    let other = f.running("other").await;
    let due = f.time.now().after(f.lease);
    f.append(&other, 0, vec![gate(&other, 0, Some(due))]).await.unwrap();
    let worker = "w".into();
    let waiting = f.queue.claim(&worker, 1, f.lease * 100);
    let leases = f.while_time_passes(waiting).await.unwrap();
    assert_eq!(leases[0].record.run_id, other.record.run_id);
}

/// A cancelled run takes no verdict any more, and is handed out to be ended.
pub async fn a_cancel_closes_the_gates(f: Fixture) {
    let lease = parked(&f, 1).await;
    let run = &lease.record.run_id;
    let Cancelled::Asked(record) = f.queue.cancel(run).await.unwrap() else { panic!("it has entries to end with") };
    assert_eq!((record.status, record.gates.len()), (Status::Queued, 0));
    assert_eq!(decide(&f, run, Some(0), Action::Approve).await, Decided::Closed);
    let next = f.claim_one("w").await;
    assert!(next.cancel);
    f.finish(&next, 2).await;
    assert_eq!(decide(&f, run, Some(0), Action::Approve).await, Decided::Closed);
}

/// A run that was cancelled an instant before its gate does not wait at it.
pub async fn a_gate_does_not_hold_a_cancelled_run(f: Fixture) {
    let lease = f.running("s").await;
    f.queue.cancel(&lease.record.run_id).await.unwrap();
    f.append(&lease, 0, vec![gate(&lease, 0, None)]).await.unwrap();
    assert!(pending(&f).await.is_empty());
    assert!(f.claim_one("w").await.cancel);
}

/// While a gate is pending the session's next runs wait; a turn that must not wait behind one is refused.
pub async fn the_session_waits_behind_its_gate(f: Fixture) {
    let lease = f.running("s").await;
    let before = created(f.enqueue(further("s")).await);
    f.append(&lease, 0, vec![gate(&lease, 0, None)]).await.unwrap();
    assert!(f.claim("w", 10).await.is_empty());
    let answer = f.enqueue(NewRun { expects: Expects::Ungated, ..further("s") }).await;
    let Enqueued::GatePending(waiting) = answer else { panic!("{answer:?}") };
    assert_eq!((&waiting.run_id, waiting.gates.len()), (&lease.record.run_id, 1));
    created(f.enqueue(further("s")).await);
    decide(&f, &lease.record.run_id, None, Action::Approve).await;
    let next = f.claim_one("w").await;
    f.finish(&next, 2).await;
    assert_eq!(f.claim_one("w").await.record.run_id, before.run_id);
}

/// A run that interrupts cancels the one under way, at a gate too, and goes before those that wait.
pub async fn an_interrupt_goes_first(f: Fixture) {
    let lease = parked(&f, 1).await;
    let waits = created(f.enqueue(further("s")).await);
    let urgent = created(f.enqueue(NewRun { interrupt: true, ..further("s") }).await);
    assert!(pending(&f).await.is_empty());
    let ending = f.claim_one("w").await;
    assert_eq!((&ending.record.run_id, ending.cancel), (&lease.record.run_id, true));
    f.finish(&ending, 2).await;
    let mut order = Vec::new();
    for head in 3..5 {
        let next = f.claim_one("w").await;
        f.finish(&next, head).await;
        order.push(next.record.run_id);
    }
    assert_eq!(order, [urgent.run_id, waits.run_id]);
    // With nothing under way it is a run like any other.
    created(f.enqueue(NewRun { interrupt: true, ..further("s") }).await);
    assert_eq!(f.claim("w", 10).await.len(), 1);
}

/// Lists are paged from the newest and filtered; decided gates stay in them.
pub async fn gates_are_listed(f: Fixture) {
    let lease = parked(&f, 3).await;
    let run = lease.record.run_id.clone();
    decide(&f, &run, Some(1), Action::Approve).await;
    let all = Filter { limit: 2, ..Filter::default() };
    let first = f.gates.gates(&all).await.unwrap();
    assert_eq!(first.gates.iter().map(|g| g.gate.gate).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&first.gates[0].run, first.gates[0].session.session()), (&run, "s"));
    assert!(
        matches!(&first.gates[1].standing, Standing::Decided(d, at) if d.action == Action::Approve && *at > Timestamp(0))
    );
    let rest = f.gates.gates(&Filter { cursor: first.next, ..all.clone() }).await.unwrap();
    assert_eq!((rest.gates.len(), rest.next), (1, None));
    assert_eq!(pending(&f).await, [2, 0]);
    for (filter, n) in [
        (Filter { tenant: Some("acme".into()), ..all.clone() }, 2),
        (Filter { tenant: Some("other".into()), ..all.clone() }, 0),
        (Filter { run: Some(run), ..all.clone() }, 2),
        (Filter { run: Some(RunId::generate()), ..all.clone() }, 0),
        (Filter { pending: Some(false), ..all.clone() }, 1),
    ] {
        assert_eq!(f.gates.gates(&filter).await.unwrap().gates.len(), n, "{filter:?}");
    }
    assert!(f.gates.gates(&Filter { cursor: Some("made up".into()), ..all }).await.is_err());
}

/// A lost reply to the append that parked a run is asked for again, also after the verdict.
pub async fn a_repeated_gate_is_stored_once(f: Fixture) {
    let lease = f.running("s").await;
    let append = write(&lease, 0, vec![gate(&lease, 0, None)]);
    assert_eq!(f.log.append(append.clone()).await.unwrap(), Position(1));
    assert_eq!(f.log.append(append.clone()).await.unwrap(), Position(1));
    decide(&f, &lease.record.run_id, None, Action::Approve).await;
    assert_eq!(f.log.append(append).await.unwrap(), Position(1));
    assert_eq!(f.positions(&key("s")).await, [1, 2]);
}
