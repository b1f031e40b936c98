use serde_json::json;

use super::*;

fn shown(live: bool, events: &[Value]) -> String {
    let mut lines = Lines { width: 80, ..Lines::new(Vec::new(), Paint::none(), live, false) };
    events.iter().for_each(|event| lines.event(event));
    String::from_utf8(lines.to.clone()).unwrap()
}

fn delta(attempt: u64, text: &str) -> Value {
    json!({"type": "delta", "request": 2, "attempt": attempt, "text": text})
}

fn answer(attempts: u64, text: &str) -> Value {
    let blocks = json!([{"type": "text", "text": text}]);
    json!({"type": "model_answered", "position": 3, "attempts": attempts, "message": {"blocks": blocks, "stop": "end_turn"}})
}

#[test]
fn words_stream_on_a_terminal_and_stand_whole_elsewhere() {
    let streamed = [delta(1, "Hel"), delta(1, "lo\n"), delta(1, "you"), answer(1, "Hello\nyou")];
    for live in [true, false] {
        assert_eq!(shown(live, &streamed), "Hello\nyou\n", "live: {live}");
    }
    assert_eq!(shown(true, &[answer(1, "Hello")]), "Hello\n", "joined too late for the pieces");
    assert_eq!(shown(true, &[delta(1, "Hel"), answer(1, "Hello")]), "Hello\n", "the last piece was missed");
    assert_eq!(shown(true, &[delta(1, "llo"), answer(1, "Hello")]), "llo\n  the whole answer:\nHello\n");
}

#[test]
fn an_answer_that_broke_off_is_told_apart_from_the_one_that_counts() {
    assert_eq!(
        shown(true, &[delta(1, "Hel"), delta(2, "Good"), answer(2, "Good")]),
        "Hel\n  the answer broke off; the model is asked again (attempt 2)\nGood\n"
    );
    assert_eq!(shown(false, &[delta(1, "Hel"), answer(2, "Good")]), "  the model answered at attempt 2\nGood\n");
}

#[test]
fn a_call_is_one_line_with_its_outcome_and_duration() {
    let begins = |position: u64, input: Value| json!({"type": "tool_requested", "position": position, "name": "bash", "input": input, "at": "2027-01-01T00:00:00.000Z"});
    let ends = |call: Value, ending: &str, failed: bool, text: &str| {
        let result = json!({"content": [{"type": "text", "text": text}], "isError": failed});
        json!({"type": "tool_ended", "call": call, "ending": ending, "result": result, "at": "2027-01-01T00:00:01.500Z"})
    };
    let ls = || begins(4, json!({"command": "ls\n-l", "timeout": 3}));
    for (events, line) in [
        (vec![ls(), ends(json!(4), "finished", false, "a b")], "  bash  ls -l  1.50 s  ok\n"),
        (
            vec![ls(), ends(json!(4), "finished", true, "oh\nCommand exited with code 1\n")],
            "  bash  ls -l  1.50 s  failed: Command exited with code 1\n",
        ),
        (
            vec![ls(), ends(json!(4), "sandbox_lost", true, "")],
            "  bash  ls -l  1.50 s  the sandbox was lost; what became of it is not known\n",
        ),
        (vec![ends(Value::Null, "refused", true, "no such tool")], "  call  refused: no such tool\n"),
        (
            vec![begins(4, json!({"command": "printf '\u{1b}[2K'"})), ends(json!(4), "finished", false, "")],
            "  bash  printf '\\u{1b}[2K'  1.50 s  ok\n",
        ),
    ] {
        assert_eq!(shown(true, &events), line);
    }
}

#[test]
fn gates_takeovers_and_summaries_are_told() {
    let question = json!({"summary": "bash: rm x", "proposed_action": "Run it."});
    let events = [
        json!({"type": "run_started", "run": "run_1", "model": "a/b", "prompt": "secret plan"}),
        json!({"type": "takeover", "run": "run_1"}),
        json!({"type": "checkpoint", "summary": "s", "keepFrom": 9}),
        json!({"type": "gate_requested", "gate": 0, "question": question}),
        json!({"type": "gate_decided", "gate": 0, "action": "reject", "approver": "ann", "feedback": "no\nway"}),
        json!({"type": "gate_decided", "gate": 1, "action": "reject", "expired": true, "feedback": "x"}),
        json!({"type": "takeover", "run": "run_1"}),
        json!({"type": "run_ended", "outcome": {"status": "done"}}),
        json!({"type": "something_new"}),
    ];
    assert_eq!(
        shown(false, &events),
        "  run_1 started with a/b\n  another process has taken the run over\n  \
         compacted: what came before entry 9 is now a summary\n  gate 0: bash: rm x\n  \
         gate 0: reject by ann: no way\n  gate 1: reject (nobody decided in time)\n"
    );
}
