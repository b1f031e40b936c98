//! A story with everything in it passes; each way to break it is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use serde_json::json;
use torpor_core::clock::Timestamp;
use torpor_core::gate::{Decision, Question};
use torpor_core::message::ToolResult;

use super::*;
use crate::fakes;
use crate::sample::done;

fn id(name: &str) -> RunId {
    RunId::parse(name).unwrap()
}

fn started(run: &str) -> Body {
    let (model, workdir, tools) = ("m".into(), None, Vec::new());
    Body::RunStarted { run: id(run), prompt: "p".into(), model, workdir, tools, item: None }
}

fn takeover(run: &str) -> Body {
    Body::Takeover { run: id(run), worker: "w".into() }
}

fn asked(run: &str) -> Body {
    Body::ModelRequested { run: id(run), fingerprint: String::new(), estimate: 1, cost: None }
}

fn answered(run: &str, uses: usize) -> Body {
    let uses: Vec<_> = (0..uses).map(|_| ("bash", json!({}))).collect();
    Body::ModelAnswered { run: id(run), message: fakes::calls(&uses), attempts: 1, cost: None }
}

fn called(run: &str, tool_use: &str) -> Body {
    let (name, input) = ("bash".into(), json!({}));
    Body::ToolRequested { run: id(run), tool_use: tool_use.into(), name, input, sandbox: None }
}

fn finished(run: &str, tool_use: &str, call: Option<u64>) -> Body {
    ended_as(run, tool_use, call, ToolEnding::Finished)
}

fn ended_as(run: &str, tool_use: &str, call: Option<u64>, ending: ToolEnding) -> Body {
    let (call, result) = (call.map(Position), ToolResult::text("ok"));
    Body::ToolEnded { run: id(run), tool_use: tool_use.into(), call, ending, result }
}

fn held(run: &str, tool_use: &str, gate: u64) -> Body {
    let question = Question { summary: String::new(), proposed_action: String::new(), call: None };
    Body::GateRequested { run: id(run), gate, tool_use: tool_use.into(), question, expires_at: None }
}

fn decided(run: &str, gate: u64, action: Action) -> Body {
    Body::GateDecided { run: id(run), gate, decision: Decision::new(action) }
}

fn over(run: &str, turns: u32) -> Body {
    Body::RunEnded { run: id(run), outcome: done("d"), spent: RunTotals { turns, ..RunTotals::default() } }
}

fn summary(run: &str) -> Body {
    Body::SummaryRequested { run: id(run), fingerprint: String::new(), estimate: 1, cost: None }
}

fn checkpoint(keep_from: u64) -> Body {
    Body::Checkpoint { summary: "s".into(), keep_from: Position(keep_from), open_run: None }
}

fn log(entries: &[(u64, Body)]) -> Vec<Entry> {
    let entry = |(i, (epoch, body)): (usize, &(u64, Body))| Entry {
        position: Position(i as u64 + 1),
        at: Timestamp(0),
        epoch: Epoch(*epoch),
        body: body.clone(),
    };
    entries.iter().enumerate().map(entry).collect()
}

/// A run with a held call, a call that another brain attaches to, a cut-off request and a summary; then a second run, that
/// is ended before it begins.
fn story() -> Vec<(u64, Body)> {
    vec![
        (1, started("a")),
        (1, asked("a")),
        (1, answered("a", 2)),
        (1, called("a", "u0")),
        (2, takeover("a")),
        (2, finished("a", "u0", Some(4))),
        (2, held("a", "u1", 0)),
        (2, decided("a", 0, Action::Approve)),
        (3, takeover("a")),
        (3, called("a", "u1")),
        (3, ended_as("a", "u1", Some(10), ToolEnding::SandboxLost)),
        (3, summary("a")),
        (4, takeover("a")),
        (4, summary("a")),
        (4, checkpoint(3)),
        (4, asked("a")),
        (4, answered("a", 0)),
        (4, over("a", 4)),
        (6, over("b", 0)),
    ]
}

#[test]
fn a_sound_story_passes_and_says_what_was_called() {
    let facts = check(&log(&story())).unwrap();
    let runs: Vec<_> = facts.runs.iter().map(|r| (r.run.as_str(), r.started, r.takeovers, r.requests)).collect();
    assert_eq!(runs, [("a", true, 3, 4), ("b", false, 0, 0)]);
    let calls: Vec<_> = facts.calls.iter().map(|c| (c.position.0, c.ending)).collect();
    assert_eq!(calls, [(4, Some(ToolEnding::Finished)), (10, Some(ToolEnding::SandboxLost))]);
}

/// What the checker says, and what is done to the story for that.
type Broken = (&'static str, fn(&mut Vec<(u64, Body)>));

const WAYS: &[Broken] = &[
    ("entry 6: epoch 1 after 2; epochs never fall", |s| s[5].0 = 1),
    ("entry 5: epoch 2 goes on with a without a takeover", |s| drop(s.remove(4))),
    ("entry 19: b writes under another run's 4", |s| s[18].0 = 4),
    ("entry 16: a checkpoint is the first entry of epoch 5", |s| s.insert(15, (5, checkpoint(1)))),
    ("entry 19: a has ended before", |s| s[18].1 = over("a", 0)),
    ("entry 5: b starts while", |s| s[4].1 = started("b")),
    ("entry 18: b ends while", |s| drop(s.remove(17))),
    ("entry 2: an entry of b while", |s| s[1] = (2, takeover("b"))),
    ("entry 2: an answer does not stand behind its request", |s| drop(s.remove(1))),
    ("entry 18: an answer does not stand", |s| {
        s.truncate(16);
        s.extend([(5, takeover("a")), (5, answered("a", 0))]);
    }),
    ("entry 15: an answer does not stand", |s| s[14].1 = answered("a", 0)),
    ("entry 15: keeps from 16", |s| s[14].1 = checkpoint(16)),
    ("entry 3: two calls of one answer have one id", |s| {
        let Body::ModelAnswered { message, .. } = &mut s[2].1 else { panic!("an answer") };
        message.blocks[1] = message.blocks[0].clone();
    }),
    ("entry 6: the calls [\"u0\", \"u1\"] of the last answer have no result", |s| s.insert(5, (2, asked("a")))),
    ("entry 4: no call \"u7\"", |s| s[3].1 = called("a", "u7")),
    ("entry 6: a second intent of \"u0\"", |s| s.insert(5, (2, called("a", "u0")))),
    ("entry 7: no call \"u0\" of the last answer waits", |s| s.insert(6, (2, finished("a", "u0", Some(4))))),
    ("entry 6: a result of \"u0\" names the intent Some(Position(3))", |s| s[5].1 = finished("a", "u0", Some(3))),
    ("entry 6: a result of \"u0\" names the intent None", |s| s[5].1 = finished("a", "u0", None)),
    ("entry 6: \"u0\" ends as Refused", |s| s[5].1 = ended_as("a", "u0", Some(4), ToolEnding::Refused)),
    ("entry 4: \"u0\" ends as SandboxLost", |s| s[3].1 = ended_as("a", "u0", None, ToolEnding::SandboxLost)),
    ("entry 7: gate 1 follows 0 others", |s| s[6].1 = held("a", "u1", 1)),
    ("entry 6: \"u0\" is held too late", |s| s.insert(5, (2, held("a", "u0", 0)))),
    ("entry 9: a verdict on gate 0, not pending", |s| s.insert(8, (2, decided("a", 0, Action::Reject)))),
    ("entry 7: a verdict on gate 0", |s| drop(s.remove(6))),
    ("entry 8: something happens to a run that waits", |s| drop(s.remove(7))),
    ("entry 10: \"u1\" is sent without the approval", |s| s[7].1 = decided("a", 0, Action::Reject)),
    ("entry 10: something happens to a run that waits", |s| s[7].1 = decided("a", 0, Action::Abort)),
    ("entry 18: a counts 3 model calls, its log 4", |s| s[17].1 = over("a", 3)),
];

#[test]
fn every_broken_rule_is_named() {
    for (says, breaks) in WAYS {
        let mut broken = story();
        breaks(&mut broken);
        let said = check(&log(&broken)).expect_err(says);
        assert!(said.starts_with(says), "{said}, not {says}");
    }
    let mut gap = log(&story());
    gap.remove(1);
    assert_eq!(check(&gap).unwrap_err(), "entry 3: follows 1; positions are gapless");
}

#[test]
fn what_came_from_elsewhere_is_followed_by_a_life_of_its_own() {
    // A fork in the middle of a call, at a place where epochs begin anew.
    let mut fork = story();
    fork.truncate(7);
    fork.extend([
        (1, started("c")),
        (1, asked("c")),
        (1, answered("c", 1)),
        (1, held("c", "u0", 1)),
        (2, over("c", 1)),
    ]);
    assert!(check(&log(&fork)).unwrap_err().starts_with("entry 8: epoch 1 after 2"));
    let facts = check_grafted(&log(&fork), Position(7)).unwrap();
    assert_eq!(facts.runs.iter().map(|r| r.outcome.is_some()).collect::<Vec<_>>(), [false, true]);
}
