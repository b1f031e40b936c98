//! What must hold at the end of a day: of every log, between logs and records, between logs and the ledger of what ran, and
//! between all that and what people were told.

use std::collections::BTreeMap;

use torpor_core::entry::{Body, Entry, ToolEnding};
use torpor_core::gate::Action;
use torpor_core::log::SessionLog as _;
use torpor_core::outcome::Status;
use torpor_core::run::Record;
use torpor_core::{Position, SessionKey};
use torpor_testkit::history::{self, Facts};

use crate::hands::Ran;
use crate::net::{block, lock};
use crate::world::World;

pub(crate) fn check(world: &World) {
    let told = lock(&world.told);
    let mut sessions: BTreeMap<String, (SessionKey, Vec<Record>)> = BTreeMap::new();
    for run in &told.runs {
        let record = world.record(run);
        let session = record.session.clone();
        sessions.entry(session.digest()).or_insert_with(|| (session, Vec::new())).1.push(record);
    }
    assert_eq!(world.runs().len(), told.runs.len(), "a run for each that was accepted, however often it was posted");
    let ran = world.hands.ran();
    for (digest, (session, records)) in &sessions {
        let log = block(world.store.read(session, Position(1), 10_000)).unwrap();
        let facts = history::check(&log).unwrap_or_else(|wrong| panic!("{}: {wrong}: {log:#?}", session.session()));
        count(world, &facts, &log);
        let ran: Vec<&Ran> = ran.iter().filter(|r| r.session == *digest).collect();
        check_effects(&facts, &ran);
        check_approvals(&log, &ran);
        for record in records {
            check_record(world, record, &facts);
            let cancelled = told.cancelled.contains(&record.run_id);
            let interrupted = records.len() > 1;
            let status = record.status;
            assert!(status != Status::Cancelled || cancelled || interrupted, "{} was not cancelled", record.run_id);
        }
        for ((run, gate), action) in
            told.decided.iter().filter(|((run, _), _)| records.iter().any(|r| r.run_id == *run))
        {
            assert_eq!(verdict(&log, *gate), Some(*action), "{run}: the verdict that was acknowledged stands");
        }
    }
    let nobodys = ran.iter().find(|r| !sessions.contains_key(&r.session));
    assert!(nobodys.is_none(), "done for nobody: {nobodys:?}");
    let running = world.hands.running();
    assert!(running.is_empty(), "still running: {running:?}");
}

/// Nothing was done twice, or without its intent; what is said to be done was done.
fn check_effects(facts: &Facts, ran: &[&Ran]) {
    for (i, one) in ran.iter().enumerate() {
        let again = ran[i + 1..].iter().find(|r| r.position == one.position || r.input == one.input);
        assert!(again.is_none(), "done twice: {one:?} and {again:?}");
        let intent = facts.calls.iter().find(|c| c.position.0 == one.position);
        let intent = intent.unwrap_or_else(|| panic!("done without an intent: {one:?}"));
        assert_eq!((&intent.tool, &intent.input), (&one.tool, &one.input));
    }
    for call in facts.calls.iter().filter(|c| c.tool != "read" && c.ending == Some(ToolEnding::Finished)) {
        assert!(ran.iter().any(|r| r.position == call.position.0), "never done: {call:?}");
    }
}

/// What is held ran only where somebody approved it.
fn check_approvals(log: &[Entry], ran: &[&Ran]) {
    for held in ran.iter().filter(|r| r.input["command"].as_str().is_some_and(|c| c.starts_with("hold "))) {
        let asked = log.iter().find_map(|e| match &e.body {
            Body::GateRequested { gate, question, .. } => {
                question.call.as_ref().filter(|c| c.input == held.input).map(|_| *gate)
            }
            _ => None,
        });
        let verdict = asked.and_then(|gate| verdict(log, gate));
        assert_eq!(verdict, Some(Action::Approve), "ran without an approval: {held:?}");
    }
}

/// The record says what the log says, once.
fn check_record(world: &World, record: &Record, facts: &Facts) {
    let ended: Vec<_> = facts.runs.iter().filter(|r| r.run == record.run_id).collect();
    match ended[..] {
        [] => assert_eq!((record.status, record.log_from), (Status::Cancelled, None), "{record:?} never started"),
        [run] => assert_eq!(run.outcome, record.outcome, "record and log of {}", record.run_id),
        _ => panic!("{} stands twice in its log", record.run_id),
    }
    match record.status {
        Status::Done => world.sky.count("done"),
        Status::Aborted => world.sky.count("aborted"),
        Status::Cancelled => world.sky.count("cancelled"),
        _ => panic!("{} came to nothing: {:?}", record.run_id, record.outcome),
    }
}

fn verdict(log: &[Entry], gate: u64) -> Option<Action> {
    log.iter().find_map(|e| match &e.body {
        Body::GateDecided { gate: g, decision, .. } if *g == gate => Some(decision.action),
        _ => None,
    })
}

fn count(world: &World, facts: &Facts, log: &[Entry]) {
    let sky = &world.sky;
    for run in &facts.runs {
        (0..run.takeovers).for_each(|_| sky.count("takeovers"));
    }
    for call in &facts.calls {
        sky.count(if call.ending == Some(ToolEnding::SandboxLost) { "calls lost" } else { "calls" });
    }
    for e in log {
        match &e.body {
            Body::GateDecided { decision, .. } if decision.expired => sky.count("expired"),
            Body::GateDecided { decision, .. } if decision.action == Action::Approve => sky.count("approved"),
            Body::GateDecided { decision, .. } if decision.action == Action::Reject => sky.count("rejected"),
            _ => {}
        }
    }
}
