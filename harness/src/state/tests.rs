use serde_json::json;
use torpor_core::entry::Body::GateRequested;
use torpor_core::envelope::Item;
use torpor_core::gate::Question;
use torpor_core::message::Usage;

use super::*;

fn answered(run: &RunId, uses: &[(&str, &str)], stop: StopReason) -> Body {
    let blocks = uses
        .iter()
        .map(|(id, name)| Block::ToolUse { id: (*id).into(), name: (*name).into(), input: json!({}) })
        .collect();
    let usage = Usage { input: 10, output: 1, ..Usage::default() };
    Body::ModelAnswered { run: run.clone(), message: Assistant { blocks, stop, usage }, attempts: 1, cost: None }
}

fn started(run: &RunId) -> Body {
    Body::RunStarted {
        run: run.clone(),
        prompt: "go".into(),
        model: "m".into(),
        workdir: None,
        tools: vec!["bash".into()],
        item: None,
    }
}

fn requested(run: &RunId) -> Body {
    Body::ModelRequested { run: run.clone(), fingerprint: String::new(), estimate: 100, cost: None }
}

fn ended(run: &RunId, tool_use: &str, call: Option<Position>) -> Body {
    Body::ToolEnded {
        run: run.clone(),
        tool_use: tool_use.into(),
        call,
        ending: ToolEnding::Finished,
        result: ToolResult::text(tool_use),
    }
}

fn fold(run: &RunId, bodies: &[Body]) -> State {
    let mut state = State::new(run.clone());
    for (i, b) in bodies.iter().enumerate() {
        state.apply(Position(i as u64 + 1), Timestamp(0), b);
    }
    state
}

#[test]
fn results_come_in_the_order_of_the_calls_not_of_their_endings() {
    let run = RunId::generate();
    let state = fold(
        &run,
        &[
            started(&run),
            requested(&run),
            answered(&run, &[("a", "bash"), ("b", "bash")], StopReason::ToolUse),
            ended(&run, "b", None),
            ended(&run, "a", None),
        ],
    );
    let Some(Message::Tools(results)) = state.messages.last() else { panic!("{:?}", state.messages) };
    assert_eq!(results.iter().map(|r| r.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(state.open.is_empty());
}

#[test]
fn uses_with_the_same_id_are_told_apart_by_their_intents() {
    let run = RunId::generate();
    let intent = |id: &str| Body::ToolRequested {
        run: run.clone(),
        tool_use: id.into(),
        name: "bash".into(),
        input: json!({}),
        sandbox: None,
    };
    let state = fold(
        &run,
        &[
            started(&run),
            requested(&run),
            answered(&run, &[("x", "bash"), ("x", "bash")], StopReason::ToolUse),
            intent("x"),
            intent("x"),
            ended(&run, "x", Some(Position(5))),
        ],
    );
    assert_eq!(state.open[0].result, None);
    assert!(state.open[1].result.is_some());
}

#[test]
fn an_intent_never_belongs_to_a_use_that_was_refused() {
    let run = RunId::generate();
    let intent = Body::ToolRequested {
        run: run.clone(),
        tool_use: "x".into(),
        name: "bash".into(),
        input: json!({}),
        sandbox: None,
    };
    let state = fold(
        &run,
        &[
            started(&run),
            requested(&run),
            answered(&run, &[("x", "fly"), ("x", "bash")], StopReason::ToolUse),
            ended(&run, "x", None),
            intent,
        ],
    );
    assert_eq!(state.open[0].intent, None);
    assert_eq!(state.calls_under_way(), [Position(5)]);
}

#[test]
fn a_request_that_was_cut_off_counts_as_spent() {
    let run = RunId::generate();
    let state =
        fold(&run, &[started(&run), requested(&run), requested(&run), answered(&run, &[], StopReason::EndTurn)]);
    assert_eq!((state.spent.turns, state.spent.usage.input), (2, 110));
}

#[test]
fn calls_that_an_ended_run_left_open_are_answered_before_the_next_turn() {
    let (first, second) = (RunId::generate(), RunId::generate());
    let state = fold(
        &second,
        &[
            started(&first),
            requested(&first),
            answered(&first, &[("a", "bash")], StopReason::ToolUse),
            Body::RunEnded { run: first.clone(), outcome: Outcome::Cancelled {}, spent: RunTotals::default() },
            started(&second),
        ],
    );
    assert!(matches!(&state.messages[2], Message::Tools(r) if r[0].1.is_error));
    assert!(matches!(&state.messages[3], Message::User(_)));
    assert_eq!(state.outcome, None);
    assert_eq!(state.spent.turns, 0);
}

#[test]
fn a_checkpoint_stands_in_for_what_came_before() {
    let run = RunId::generate();
    let usage = Usage { input: 70, ..Usage::default() };
    let open = OpenRun {
        run: run.clone(),
        started_at: Timestamp(5),
        model: "m".into(),
        workdir: None,
        tools: vec!["bash".into()],
        item: Some(Item { item_id: "i".into(), file: "f".into(), pattern: "p".into(), require_approval: true }),
        spent: RunTotals { turns: 7, usage, priced: Some(Usd(700)), unpriced: 0 },
        refused_verdict: false,
        approved: false,
        parked_ms: 0,
        submissions: Submissions { refused: 2, problem: Some("wrong".into()), reminded: true },
    };
    let entry = |position: u64, body: Body| Entry {
        position: Position(position),
        at: Timestamp(0),
        epoch: Default::default(),
        body,
    };
    let tail = [
        entry(90, answered(&run, &[], StopReason::EndTurn)),
        entry(91, Body::Checkpoint { summary: "so far".into(), keep_from: Position(90), open_run: Some(open) }),
        entry(92, requested(&run)),
    ];
    let state = State::replay(run, &tail);
    assert_eq!(state.messages[0], Message::User("so far".into()));
    assert_eq!(state.messages.len(), 2);
    assert_eq!((state.spent.turns, state.spent.usage.input), (8, 70));
    let started = state.started.as_ref().unwrap();
    assert_eq!(started.at, Timestamp(5), "the run has begun already");
    assert!(started.item.as_ref().is_some_and(|item| item.require_approval), "what a file said still holds");
    assert_eq!(state.spent.cost(), Some(Usd(700)));
    assert_eq!((state.submissions.refused, state.submissions.reminded), (2, true), "tries are not given anew");
}

#[test]
fn a_cut_is_never_between_a_call_and_its_result_and_never_gains_nothing() {
    let run = RunId::generate();
    let mut log = vec![started(&run)];
    for id in ["a", "b", "c"] {
        log.extend([requested(&run), answered(&run, &[(id, "bash")], StopReason::ToolUse), ended(&run, id, None)]);
    }
    let state = fold(&run, &log);
    assert_eq!(state.messages.len(), 7);
    for keep in 0..200 {
        let Some(cut) = state.cut(keep) else { continue };
        assert!(matches!(state.messages[cut.index], Message::Assistant(_)), "keep {keep}: {}", cut.index);
        assert!(cut.index > 0);
    }
    assert_eq!(state.cut(0).map(|c| c.index), Some(5), "the latest call and its result stay");
    let only_a_summary = fold(
        &run,
        &[
            started(&run),
            requested(&run),
            answered(&run, &[], StopReason::EndTurn),
            Body::Checkpoint { summary: "s".into(), keep_from: Position(3), open_run: None },
        ],
    );
    assert!(only_a_summary.cut(0).is_none());
}

/// A fork begins wherever it was made: every call of the other run has an answer, and nothing of that run counts.
#[test]
fn a_run_that_begins_in_the_middle_of_another_starts_clean() {
    let (other, run) = (RunId::generate(), RunId::generate());
    let question = Question { summary: "s".into(), proposed_action: "a".into(), call: None };
    let gate = GateRequested { run: other.clone(), gate: 0, tool_use: "b".into(), question, expires_at: None };
    let intent = Body::ToolRequested {
        run: other.clone(),
        tool_use: "a".into(),
        name: "bash".into(),
        input: json!({}),
        sandbox: None,
    };
    let uses = [("a", "bash"), ("b", "bash")];
    let whole = [started(&other), requested(&other), answered(&other, &uses, StopReason::ToolUse), intent, gate];
    for cut in 1..=whole.len() {
        let mut state = fold(&run, &whole[..cut]);
        assert!(state.calls_under_way().is_empty(), "cut at {cut}: its calls are the other session's");
        let at = Position(cut as u64 + 1);
        state.apply(at, Timestamp(1_000), &started(&run));
        assert!(state.open.is_empty() && state.stop.is_none() && state.started.is_some(), "cut at {cut}");
        assert_eq!((state.spent.turns, state.parked, state.parked_since), (0, Duration::ZERO, None), "cut at {cut}");
        let [.., before, Message::User(_)] = &state.messages[..] else { panic!("{:?}", state.messages) };
        match before {
            Message::Tools(results) if cut >= 3 => {
                assert!(results.len() == 2 && results.iter().all(|(_, r)| r.is_error), "cut at {cut}: {results:?}");
            }
            Message::User(_) if cut < 3 => {}
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}
