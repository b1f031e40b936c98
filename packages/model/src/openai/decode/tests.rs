use proptest::prelude::*;
use serde_json::json;
use torpor_core::model::Retry;

use super::*;

fn event(data: impl std::fmt::Display) -> sse::Event {
    sse::Event { name: String::new(), data: data.to_string() }
}

/// Plays chunks, `[DONE]` among them as a string; the second part is what was shown meanwhile.
fn play(chunks: &[Value]) -> (Result<Assistant, Error>, Vec<Delta>) {
    let mut answer = Box::new(Answer::default());
    let mut shown = Vec::new();
    for chunk in chunks {
        let event = chunk.as_str().map_or_else(|| event(chunk), event);
        match answer.event(&event, &mut |d| shown.push(d)) {
            Ok(true) => break,
            Ok(false) => {}
            Err(e) => return (Err(e), shown),
        }
    }
    (answer.finish(), shown)
}

fn delta(fields: Value) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": fields, "finish_reason": null}]})
}

fn call(index: u64, arguments: &str) -> Value {
    delta(json!({"tool_calls": [{"index": index, "id": format!("t{index}"), "type": "function",
                 "function": {"name": "bash", "arguments": arguments}}]}))
}

fn text() -> Value {
    delta(json!({"content": "hi"}))
}

fn stop(reason: &str) -> Value {
    json!({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 42, "total_tokens": 52,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30}}})
}

fn stream(pieces: &[Value], reason: &str) -> Vec<Value> {
    let begin = [delta(json!({"role": "assistant", "content": "", "refusal": null}))];
    [&begin[..], pieces, &[stop(reason), usage(), json!("[DONE]")]].concat()
}

#[test]
fn an_answer_with_everything_in_it() {
    let mut chunks = stream(
        &[
            delta(json!({"reasoning_content": "a", "reasoning": "a", "content": null})),
            delta(json!({"reasoning_content": "b", "reasoning": "b", "novelty": {"z": 1}})),
            delta(json!({"content": "h", "annotations": [{"url": "x"}], "tool_calls": null})),
            delta(json!({"content": "i", "empty": "", "none": []})),
            call(0, "{\"com"),
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "mand\":\"ls\"}"}}]})),
            call(1, ""),
        ],
        "tool_calls",
    );
    chunks.insert(2, json!({"id": "c1", "choices": [], "prompt_filter_results": []}));
    chunks.insert(3, json!(""));
    let (answer, shown) = play(&chunks);
    let bash = |id: &str, input| Block::ToolUse { id: id.into(), name: "bash".into(), input };
    let kept = json!({"reasoning_content": "ab", "reasoning": "ab", "novelty": {"z": 1}});
    let expected = Assistant {
        blocks: vec![
            Block::Opaque { provider: "openai".into(), value: kept },
            Block::Text { text: "hi".into() },
            bash("t0", json!({"command": "ls"})),
            bash("t1", json!({})),
        ],
        stop: StopReason::ToolUse,
        usage: Usage { input: 7, output: 42, cache_read: 3, cache_write: 0 },
    };
    assert_eq!(answer.unwrap(), expected);
    let thinking = ["a", "b"].map(|t| Delta::Thinking(t.into()));
    let said = ["h", "i"].map(|t| Delta::Text(t.into()));
    assert_eq!(shown, [thinking, said].concat());
}

#[test]
fn stop_reasons() {
    use StopReason::{EndTurn, MaxTokens, Refusal, ToolUse};
    let ls = || vec![call(0, "{}")];
    let thinking = || vec![delta(json!({"reasoning_content": "hm"}))];
    let cases = [
        ("stop", vec![text()], Ok((EndTurn, 1))),
        ("eos", vec![text()], Ok((EndTurn, 1))),
        ("length", vec![text()], Ok((MaxTokens, 1))),
        ("length", thinking(), Ok((MaxTokens, 2))),
        ("length", vec![], Ok((MaxTokens, 1))),
        ("length", ls(), Ok((MaxTokens, 1))),
        ("content_filter", vec![text()], Ok((Refusal, 1))),
        ("content_filter", vec![], Ok((Refusal, 0))),
        ("content_filter", vec![call(0, "{\"a")], Ok((Refusal, 1))),
        ("stop", vec![delta(json!({"refusal": "I cannot."}))], Ok((Refusal, 1))),
        ("tool_calls", ls(), Ok((ToolUse, 1))),
        ("function_call", ls(), Ok((ToolUse, 1))),
        ("stop", ls(), Ok((ToolUse, 1))),
        ("tool_calls", vec![text()], Err(Retry::Backoff)),
        ("stop", vec![], Err(Retry::Backoff)),
        ("stop", thinking(), Err(Retry::Backoff)),
        ("", vec![text()], Err(Retry::Backoff)),
        ("error", vec![text()], Err(Retry::Backoff)),
        ("abort", vec![text()], Err(Retry::Backoff)),
        ("bored", vec![text()], Err(Retry::Never)),
    ];
    for (reason, pieces, expected) in cases {
        let (answer, _) = play(&stream(&pieces, reason));
        assert_eq!(answer.map(|a| (a.stop, a.blocks.len())).map_err(|e| e.retry), expected, "{reason} {pieces:?}");
    }
}

#[test]
fn what_is_refused_leaves_no_call() {
    let answer = play(&stream(&[call(0, "{}"), call(1, "{\"command\":")], "content_filter")).0.unwrap();
    let note = Block::Text { text: "[call of bash cut off by the provider]".into() };
    assert_eq!((answer.blocks, answer.stop), (vec![note.clone(), note], StopReason::Refusal));
}

#[test]
fn the_output_limit_inside_a_call_leaves_no_call() {
    let answer = play(&stream(&[text(), call(0, "{\"command\": \"rm -r")], "length")).0.unwrap();
    let note = "[call of bash cut off by the output limit]";
    assert_eq!(answer.blocks, [Block::Text { text: "hi".into() }, Block::Text { text: note.into() }]);
    assert_eq!(answer.stop, StopReason::MaxTokens);
}

#[test]
fn what_is_not_whole_is_an_error_to_retry() {
    let good = stream(&[text(), call(0, "{\"command\":"), call(0, "\"touch x\"}")], "tool_calls");
    let end = good.len() - 3;
    for n in 0..=end {
        assert_eq!(play(&good[..n]).0.map_err(|e| e.retry), Err(Retry::Backoff), "cut after {n} chunks");
    }
    for n in end + 1..good.len() {
        assert!(play(&good[..n]).0.is_ok(), "the reason to stop was there: {n} chunks and the end of the stream");
    }
    let no_end = [&good[..end], &[json!("[DONE]")]].concat();
    assert_eq!(play(&no_end).0.map_err(|e| e.retry), Err(Retry::Backoff), "an end without a reason");
    let odd = [
        json!("text"),
        json!("{\"choices\":[{"),
        json!({"choices": 7}),
        json!([1]),
        delta(json!({"content": 7})),
        delta(json!({"tool_calls": {}})),
        delta(json!({"tool_calls": [7]})),
        call(1, "{}{}"),
        // Two calls of one id.
        delta(json!({"tool_calls": [{"index": 5, "id": "t0", "function": {"name": "bash", "arguments": "{}"}}]})),
    ];
    for chunk in odd {
        let mut with_odd = good.clone();
        with_odd.insert(end, chunk.clone());
        assert_eq!(play(&with_odd).0.map_err(|e| e.retry), Err(Retry::Backoff), "{chunk}");
    }
}

#[test]
fn an_error_within_a_stream_ends_it() {
    let error = json!({"error": {"message": "context_length_exceeded", "type": "invalid_request_error", "code": 400}});
    let e = play(&[text(), error, stop("stop"), json!("[DONE]")]).0.unwrap_err();
    assert_eq!((e.retry, e.overflow), (Retry::Never, true));
    let mut failed = stop("error");
    failed["error"] = json!({"code": 502, "message": "Network connection lost."});
    let e = play(&[text(), failed, json!("[DONE]")]).0.unwrap_err();
    assert!(e.retry == Retry::Backoff && e.message.contains("Network connection lost"), "{e}");
}

#[test]
fn token_counts_by_every_name() {
    let cases = [
        (json!({"prompt_tokens": 10, "completion_tokens": 2}), (10, 2, 0)),
        (json!({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": null}), (10, 2, 0)),
        (json!({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}), (6, 0, 4)),
        (json!({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}), (6, 0, 4)),
        (json!({"prompt_tokens": 10, "cached_tokens": 4}), (6, 0, 4)),
        (json!({"prompt_tokens": 3, "cached_tokens": 4}), (0, 0, 3)),
        (json!({}), (0, 0, 0)),
        (Value::Null, (0, 0, 0)),
    ];
    for (counts, (input, output, cache_read)) in cases {
        let mut last = stop("stop");
        last["usage"] = counts.clone();
        let answer = play(&[text(), last]).0.unwrap();
        assert_eq!(answer.usage, Usage { input, output, cache_read, cache_write: 0 }, "{counts}");
    }
}

#[test]
fn other_choices_and_other_forms() {
    let mut second = text();
    second["choices"][0]["index"] = json!(1);
    assert_eq!(play(&stream(&[second, text()], "stop")).0.unwrap().text(), "hi");
    let parts =
        json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hi"}]);
    assert_eq!(play(&stream(&[delta(json!({"content": parts}))], "stop")).0.unwrap().text(), "hi");
    let whole = json!({"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]});
    assert_eq!(play(&[whole]).0.unwrap().text(), "hi");
    let older = [
        delta(json!({"function_call": {"name": "bash", "arguments": ""}})),
        delta(json!({"function_call": {"arguments": "{\"a\":1}"}})),
    ];
    let answer = play(&stream(&older, "function_call")).0.unwrap();
    let expected = Block::ToolUse { id: "call_c1_0".into(), name: "bash".into(), input: json!({"a": 1}) };
    assert_eq!(answer.blocks, [expected]);
}

#[test]
fn an_answer_in_one_piece() {
    let function = |arguments: &str| json!({"name": "bash", "arguments": arguments});
    let message = json!({
        "id": "c1", "object": "chat.completion", "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": "hi", "refusal": null, "annotations": [], "reasoning_content": "hm",
            // Neither ids nor indices: each entry is a call all the same.
            "tool_calls": [{"type": "function", "function": function("{\"a\":1}")},
                           {"type": "function", "function": function("{\"a\":2}")}]}}],
    });
    let answer = whole(message.to_string().as_bytes()).unwrap();
    assert_eq!((answer.blocks.len(), answer.stop, answer.usage.total()), (4, StopReason::ToolUse, 3));

    let text = message.to_string();
    for n in [0, 1, text.len() / 2, text.len() - 1] {
        assert_eq!(whole(&text.as_bytes()[..n]).map_err(|e| e.retry), Err(Retry::Backoff));
    }
    let cases = [
        (json!({"error": {"type": "server_error", "message": "x"}}), Retry::Backoff),
        (json!({"error": {"code": 403, "message": "x"}}), Retry::Never),
        (json!({"choices": []}), Retry::Backoff),
        (json!({"choices": [{"message": {"content": "x"}}]}), Retry::Backoff),
        (json!({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}), Retry::Backoff),
        (json!({}), Retry::Backoff),
        (json!([]), Retry::Backoff),
        (json!("text"), Retry::Backoff),
    ];
    for (body, retry) in cases {
        assert_eq!(whole(body.to_string().as_bytes()).map_err(|e| e.retry), Err(retry), "{body}");
    }
}

proptest! {
    #[test]
    fn nothing_a_server_sends_makes_it_panic(chunks in proptest::collection::vec(any_chunk(), 0..12)) {
        if let Ok(answer) = play(&chunks).0 {
            for block in answer.blocks {
                if let Block::ToolUse { input, .. } = block {
                    prop_assert!(input.is_object());
                }
            }
        }
    }
}

fn any_chunk() -> impl Strategy<Value = Value> {
    let arguments = prop_oneof![Just("{"), Just("}"), Just("\"a\":1"), Just("[]"), Just("")];
    let odd = prop_oneof![Just(json!(7)), Just(json!("x")), Just(json!([{"index": 0}])), Just(json!({"a": [1]}))];
    let field =
        prop_oneof![Just("content"), Just("tool_calls"), Just("refusal"), Just("reasoning"), Just("function_call")];
    prop_oneof![
        Just(text()),
        (0..3u64, arguments).prop_map(|(i, a)| call(i, a)),
        (field, odd.clone()).prop_map(|(f, v)| delta(json!({f: v}))),
        odd,
        Just(stop("tool_calls")),
        Just(stop("length")),
        Just(usage()),
        Just(json!("[DONE]")),
    ]
}
