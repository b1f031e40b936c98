use proptest::prelude::*;
use serde_json::json;
use torpor_core::model::Retry;

use super::*;

fn event(data: impl std::fmt::Display) -> sse::Event {
    sse::Event { name: String::new(), data: data.to_string() }
}

/// Plays events; the second part is what was shown meanwhile.
fn play(events: &[Value]) -> (Result<Assistant, Error>, Vec<Delta>) {
    let mut answer = Box::new(Answer::default());
    let mut shown = Vec::new();
    for e in events {
        if let Err(e) = answer.event(&event(e), &mut |d| shown.push(d)) {
            return (Err(e), shown);
        }
    }
    (answer.finish(), shown)
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 7, "output_tokens": 1,
        "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}}})
}

fn block(index: u64, start: Value, deltas: &[Value]) -> Vec<Value> {
    let mut out = vec![json!({"type": "content_block_start", "index": index, "content_block": start})];
    out.extend(deltas.iter().map(|d| json!({"type": "content_block_delta", "index": index, "delta": d})));
    out.push(json!({"type": "content_block_stop", "index": index}));
    out
}

fn tool(index: u64, pieces: &[&str]) -> Vec<Value> {
    let start = json!({"type": "tool_use", "id": format!("t{index}"), "name": "bash", "input": {}});
    let deltas: Vec<Value> = pieces.iter().map(|p| json!({"type": "input_json_delta", "partial_json": p})).collect();
    block(index, start, &deltas)
}

fn text(index: u64) -> Vec<Value> {
    block(index, json!({"type": "text", "text": ""}), &[json!({"type": "text_delta", "text": "hi"})])
}

fn end(stop: &str) -> Vec<Value> {
    vec![
        json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 42}}),
        json!({"type": "message_stop"}),
    ]
}

fn whole_stream(blocks: &[Vec<Value>], stop: &str) -> Vec<Value> {
    [vec![start()], blocks.concat(), end(stop)].concat()
}

#[test]
fn an_answer_with_everything_in_it() {
    let thinking = block(
        0,
        json!({"type": "thinking", "thinking": "", "signature": ""}),
        &[
            json!({"type": "thinking_delta", "thinking": "a"}),
            json!({"type": "thinking_delta", "thinking": "b"}),
            json!({"type": "signature_delta", "signature": "c2ln"}),
        ],
    );
    let redacted = block(1, json!({"type": "redacted_thinking", "data": "xyz"}), &[]);
    let unknown = block(
        2,
        json!({"type": "novelty", "z": 1, "notes": "n", "list": [1]}),
        &[json!({"type": "novelty_delta", "notes": "ew", "list": [2], "more": {"b": 1, "a": 2}})],
    );
    let server = block(
        3,
        json!({"type": "server_tool_use", "id": "s", "name": "web", "input": {}}),
        &[json!({"type": "input_json_delta", "partial_json": "{\"q\":1}"})],
    );
    let mut events = whole_stream(
        &[thinking, redacted, unknown, server, text(4), tool(5, &["{\"com", "mand\":", "\"ls\"}"]), tool(6, &[])],
        "tool_use",
    );
    events.insert(1, json!({"type": "ping"}));
    events.insert(3, json!({"type": "not_yet_invented", "index": 0}));
    let (answer, shown) = play(&events);
    let opaque = |value: Value| Block::Opaque { provider: "anthropic".into(), value };
    let call = |id: &str, input| Block::ToolUse { id: id.into(), name: "bash".into(), input };
    let expected = Assistant {
        blocks: vec![
            opaque(json!({"type": "thinking", "thinking": "ab", "signature": "c2ln"})),
            opaque(json!({"type": "redacted_thinking", "data": "xyz"})),
            opaque(json!({"type": "novelty", "z": 1, "notes": "new", "list": [1, 2], "more": {"b": 1, "a": 2}})),
            opaque(json!({"type": "server_tool_use", "id": "s", "name": "web", "input": {"q": 1}})),
            Block::Text { text: "hi".into() },
            call("t5", json!({"command": "ls"})),
            call("t6", json!({})),
        ],
        stop: StopReason::ToolUse,
        usage: Usage { input: 7, output: 42, cache_read: 3, cache_write: 2 },
    };
    assert_eq!(answer.unwrap(), expected);
    assert_eq!(shown, [Delta::Thinking("a".into()), Delta::Thinking("b".into()), Delta::Text("hi".into())]);
}

#[test]
fn stop_reasons() {
    let ls = || tool(0, &["{}"]);
    let cases = [
        ("end_turn", text(0), Ok(StopReason::EndTurn)),
        ("stop_sequence", text(0), Ok(StopReason::EndTurn)),
        ("pause_turn", text(0), Ok(StopReason::EndTurn)),
        ("max_tokens", text(0), Ok(StopReason::MaxTokens)),
        ("model_context_window_exceeded", text(0), Ok(StopReason::MaxTokens)),
        ("refusal", text(0), Ok(StopReason::Refusal)),
        ("refusal", vec![], Ok(StopReason::Refusal)),
        ("tool_use", ls(), Ok(StopReason::ToolUse)),
        ("end_turn", ls(), Ok(StopReason::ToolUse)),
        ("max_tokens", ls(), Ok(StopReason::MaxTokens)),
        ("tool_use", text(0), Err(Retry::Backoff)),
        ("end_turn", vec![], Err(Retry::Backoff)),
        ("bored", text(0), Err(Retry::Never)),
    ];
    for (reason, blocks, expected) in cases {
        let (answer, _) = play(&whole_stream(&[blocks], reason));
        assert_eq!(answer.map(|a| a.stop).map_err(|e| e.retry), expected, "{reason}");
    }
}

#[test]
fn what_is_refused_leaves_no_call() {
    for arguments in ["{}", "{\"command\": \"rm -r"] {
        let answer = play(&whole_stream(&[tool(0, &[arguments])], "refusal")).0.unwrap();
        let note = Block::Text { text: "[call of bash cut off by the provider]".into() };
        assert_eq!((answer.blocks, answer.stop), (vec![note], StopReason::Refusal));
    }
}

#[test]
fn the_output_limit_inside_a_call_leaves_no_call() {
    let mut events = whole_stream(&[text(0), tool(1, &["{\"command\": \"rm -r"])], "max_tokens");
    events.retain(|e| e != &json!({"type": "content_block_stop", "index": 1}));
    let answer = play(&events).0.unwrap();
    let note = "[call of bash cut off by the output limit]";
    assert_eq!(answer.blocks, [Block::Text { text: "hi".into() }, Block::Text { text: note.into() }]);
    assert_eq!(answer.stop, StopReason::MaxTokens);
}

#[test]
fn what_is_not_whole_is_an_error_to_retry() {
    let good = whole_stream(&[text(0), tool(1, &["{\"command\":\"touch x\"}"])], "tool_use");
    for n in 0..good.len() {
        assert_eq!(play(&good[..n]).0.map_err(|e| e.retry), Err(Retry::Backoff), "cut after {n} events");
    }
    for n in 0..good.len() {
        let mut missing = good.clone();
        missing.remove(n);
        // Without its last piece of text an answer is another answer, and no decoder can tell.
        if good[n]["delta"]["type"] != "text_delta" && good[n]["delta"]["type"] != "input_json_delta" {
            assert_eq!(play(&missing).0.map_err(|e| e.retry), Err(Retry::Backoff), "without {}", good[n]);
        }
    }
    let arguments = ["{", "{\"a\":", "[]", "\"x\"", "7", "null null", "{} {}", "{\"command\": tru"];
    for json in arguments {
        let answer = play(&whole_stream(&[tool(0, &[json])], "tool_use")).0;
        assert_eq!(answer.map_err(|e| e.retry), Err(Retry::Backoff), "arguments {json}");
    }
    let odd = [
        vec![json!({"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}})],
        block(0, json!({"type": "tool_use", "id": "", "name": "bash"}), &[]),
        block(0, json!({"type": "tool_use", "id": "t"}), &[]),
        block(0, json!({"type": "text"}), &[]),
        block(0, json!({"text": "x"}), &[]),
        [tool(0, &[]), block(1, json!({"type": "tool_use", "id": "t0", "name": "ls"}), &[])].concat(),
        [text(0), text(0)].concat(),
        vec![start()],
        vec![json!({"no": "type"})],
        vec![json!("text")],
    ];
    for blocks in odd {
        let answer = play(&whole_stream(std::slice::from_ref(&blocks), "tool_use")).0;
        assert_eq!(answer.map_err(|e| e.retry), Err(Retry::Backoff), "{blocks:?}");
    }
}

#[test]
fn errors_in_a_stream() {
    let cases = [
        ("overloaded_error", "Overloaded", Retry::Backoff, false),
        ("api_error", "oops", Retry::Backoff, false),
        ("rate_limit_error", "slow down", Retry::Backoff, false),
        ("brand_new_error", "?", Retry::Backoff, false),
        ("authentication_error", "no", Retry::Never, false),
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", Retry::Never, true),
    ];
    for (kind, message, retry, overflow) in cases {
        let e = play(&[start(), json!({"type": "error", "error": {"type": kind, "message": message}})]).0.unwrap_err();
        assert_eq!((e.retry, e.overflow), (retry, overflow), "{kind}");
        assert!(e.message.contains(message), "{}", e.message);
    }
}

#[test]
fn an_answer_in_one_piece() {
    let message = json!({
        "type": "message", "role": "assistant", "stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "hi"},
                    {"type": "tool_use", "id": "t0", "name": "bash", "input": {"command": "ls"}}],
    });
    let answer = whole(message.to_string().as_bytes()).unwrap();
    assert_eq!((answer.blocks.len(), answer.stop, answer.usage.total()), (3, StopReason::ToolUse, 3));

    let whole_text = message.to_string();
    for n in [0, 1, whole_text.len() / 2, whole_text.len() - 1] {
        assert_eq!(whole(&whole_text.as_bytes()[..n]).map_err(|e| e.retry), Err(Retry::Backoff));
    }
    let cases = [
        (json!({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), Retry::Backoff),
        (json!({"type": "error", "error": {"type": "permission_error", "message": "x"}}), Retry::Never),
        (json!({"type": "completion", "content": []}), Retry::Backoff),
        (json!({"type": "message", "content": [], "stop_reason": "end_turn"}), Retry::Backoff),
        (json!({"type": "message", "content": [{"type": "text", "text": "x"}]}), Retry::Backoff),
        (json!([]), Retry::Backoff),
    ];
    for (body, retry) in cases {
        assert_eq!(whole(body.to_string().as_bytes()).map_err(|e| e.retry), Err(retry), "{body}");
    }
}

proptest! {
    #[test]
    fn nothing_a_server_sends_makes_it_panic(events in proptest::collection::vec(any_event(), 0..12)) {
        let (answer, _) = play(&events);
        if let Ok(answer) = answer {
            for block in answer.blocks {
                if let Block::ToolUse { input, .. } = block {
                    prop_assert!(input.is_object());
                }
            }
        }
    }
}

fn any_event() -> impl Strategy<Value = Value> {
    let index = 0..3u64;
    let kind = prop_oneof![Just("text"), Just("tool_use"), Just("thinking"), Just("x")];
    let piece = prop_oneof![Just("{"), Just("}"), Just("\"a\":1"), Just("[]"), Just("")];
    prop_oneof![
        Just(start()),
        (index.clone(), kind).prop_map(|(i, k)| json!({"type": "content_block_start", "index": i,
            "content_block": {"type": k, "text": "", "id": "t", "name": "n"}})),
        (index.clone(), piece).prop_map(|(i, p)| json!({"type": "content_block_delta", "index": i,
            "delta": {"type": "input_json_delta", "partial_json": p, "input": [p]}})),
        index.prop_map(|i| json!({"type": "content_block_stop", "index": i})),
        Just(json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}})),
        Just(json!({"type": "message_stop"})),
    ]
}
