use proptest::prelude::*;
use serde_json::json;
use torpor_core::message::{StopReason, Usage};
use torpor_core::model::Ref;
use torpor_core::tool;

use super::*;

fn answer(blocks: Vec<Block>) -> Message {
    Message::Assistant(Assistant { blocks, stop: StopReason::EndTurn, usage: Usage::default() })
}

fn text(text: &str) -> Block {
    Block::Text { text: text.into() }
}

fn own(value: Value) -> Block {
    Block::Opaque { provider: PROVIDER.into(), value }
}

fn tool_use(id: &str) -> Block {
    Block::ToolUse { id: id.into(), name: "bash".into(), input: json!({"command": "true", "a": 1}) }
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":\"true\",\"a\":1}"}})
}

fn results(of: &[(&str, &str)]) -> Message {
    Message::Tools(of.iter().map(|(id, text)| ((*id).into(), ToolResult::text(*text))).collect())
}

fn encode(messages: &[Message]) -> Result<Value, Error> {
    let model = Ref { provider: PROVIDER.into(), model: "test".into() };
    let spec = |name| tool::Spec { name, description: "Does it.", schema: json!({"type": "object", "b": 1, "a": 2}) };
    let bash = spec("bash");
    let request = Request { model: &model, system: "Be brief.", tools: &[&bash], messages };
    let options = Options { include_usage: true, max_completion_tokens: Some(100), ..Options::default() };
    let bytes = body(&request, &options)?;
    assert_eq!(bytes, body(&request, &options)?, "the same request makes the same bytes");
    Ok(serde_json::from_slice(&bytes).unwrap())
}

/// The messages without the system prompt.
fn messages(of: &[Message]) -> Vec<Value> {
    encode(of).unwrap()["messages"].as_array().unwrap()[1..].to_vec()
}

#[test]
fn a_whole_request() {
    let kept = json!({"reasoning_content": "hm", "zeta": [1, {"y": 2, "x": 1}], "role": "user", "content": "forged",
                      "tool_calls": [{"id": "t1", "extra_content": {"s": 1}, "function": {"name": "forged"}}]});
    let conversation = [
        Message::User("hi".into()),
        answer(vec![
            Block::Opaque { provider: "anthropic".into(), value: json!({"type": "thinking"}) },
            own(kept),
            text("I will "),
            text("look."),
            tool_use("t1"),
        ]),
        Message::Tools(vec![("t1".into(), ToolResult::error("no such file"))]),
    ];
    let mut extra_call = call("t1");
    extra_call["extra_content"] = json!({"s": 1});
    let expected = json!({
        "model": "test",
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_completion_tokens": 100,
        "tools": [{"type": "function", "function": {"name": "bash", "description": "Does it.",
                   "parameters": {"type": "object", "b": 1, "a": 2}}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "I will look.", "tool_calls": [extra_call],
             "reasoning_content": "hm", "zeta": [1, {"y": 2, "x": 1}]},
            {"role": "tool", "tool_call_id": "t1", "content": "[error] no such file"},
        ],
    });
    // As text: the order of keys is part of it.
    assert_eq!(encode(&conversation).unwrap().to_string(), expected.to_string());
}

#[test]
fn every_tool_use_is_answered_next_and_in_order() {
    let result = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let not_run = |id: &str| result(id, "[error] This call was not carried out.");
    let user = |text: &str| json!({"role": "user", "content": text});
    let both = answer(vec![tool_use("a"), tool_use("b")]);
    let asked = json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]});
    let cases = [
        (vec![results(&[("b", "2"), ("a", "1")])], vec![result("a", "1"), result("b", "2")]),
        (
            vec![results(&[("b", "2")]), Message::User("go on".into())],
            vec![not_run("a"), result("b", "2"), user("go on")],
        ),
        (vec![Message::User("go on".into())], vec![not_run("a"), not_run("b"), user("go on")]),
        (vec![], vec![not_run("a"), not_run("b")]),
    ];
    for (rest, expected) in cases {
        let conversation = [vec![Message::User("x".into()), both.clone()], rest].concat();
        assert_eq!(messages(&conversation), [vec![user("x"), asked.clone()], expected].concat());
    }
    let stray = [Message::User("x".into()), both, results(&[("a", "1"), ("b", "2"), ("z", "3")])];
    let e = encode(&stray).unwrap_err();
    assert!(e.retry == Retry::Never && e.message.contains("\"z\""), "{e:?}");
}

#[test]
fn blank_texts_and_empty_answers_are_never_sent() {
    let conversation = [
        Message::User(" \n".into()),
        answer(vec![text("\n"), tool_use("a")]),
        results(&[("a", "")]),
        // Thinking that was cut off before it came to anything.
        answer(vec![own(json!({"reasoning_content": "hm"}))]),
        Message::User("more".into()),
        answer(vec![]),
        Message::User("and more".into()),
    ];
    let expected = [
        json!({"role": "user", "content": "(blank)"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call("a")]}),
        json!({"role": "tool", "tool_call_id": "a", "content": "(no output)"}),
        json!({"role": "user", "content": "more\n\nand more"}),
    ];
    assert_eq!(messages(&conversation), expected);
}

proptest! {
    /// Whatever the conversation, its encoding begins as the encoding of its beginning does.
    #[test]
    fn a_conversation_only_grows_at_its_end(texts in proptest::collection::vec(("[a-z \n]{0,6}", any::<bool>()), 1..12)) {
        let mut conversation = vec![Message::User("start".into())];
        for (i, (said, with_tool)) in texts.into_iter().enumerate() {
            let id = format!("t{i}");
            let mut blocks = vec![own(json!({"reasoning": said})), text(&said)];
            blocks.extend(with_tool.then(|| tool_use(&id)));
            conversation.push(answer(blocks));
            conversation.push(if with_tool { results(&[(&id, &said)]) } else { Message::User(said) });
        }
        let all = encode(&conversation).unwrap().to_string();
        for n in (1..conversation.len()).step_by(2) {
            let part = encode(&conversation[..n]).unwrap().to_string();
            // All but what closes the last message, which a further user message may lengthen.
            prop_assert!(all.starts_with(part.strip_suffix("\"}]}").unwrap()), "{all}\n{part}");
        }
    }
}

#[test]
fn images_follow_all_tool_messages_of_their_turn_named_by_their_calls() {
    let seen = |data: &str| {
        let image = Content::Image { media_type: "image/jpeg".into(), data: data.into() };
        ToolResult { content: vec![Content::Text { text: "[p.jpg]".into() }, image], is_error: false }
    };
    let plain = |text: &str| json!({"type": "text", "text": text});
    let image =
        |data: &str| json!({"type": "image_url", "image_url": {"url": format!("data:image/jpeg;base64,{data}")}});
    let conversation = [
        Message::User("hi".into()),
        answer(vec![tool_use("t1"), tool_use("t2"), tool_use("t3")]),
        Message::Tools(vec![
            ("t1".into(), seen("AAAA")),
            ("t2".into(), ToolResult::text("x")),
            ("t3".into(), seen("BBBB")),
        ]),
        Message::User("and now?".into()),
        answer(vec![text("Fine.")]),
        Message::User("good".into()),
    ];
    let tool = |id: &str, content: &str| json!({"role": "tool", "tool_call_id": id, "content": content});
    let parts = [
        plain("[image of tool call t1]"),
        image("AAAA"),
        plain("[image of tool call t3]"),
        image("BBBB"),
        plain("and now?"),
    ];
    let expected = [
        tool("t1", "[p.jpg]"),
        tool("t2", "x"),
        tool("t3", "[p.jpg]"),
        json!({"role": "user", "content": parts}),
        json!({"role": "assistant", "content": "Fine."}),
        json!({"role": "user", "content": "good"}),
    ];
    assert_eq!(messages(&conversation)[2..], expected);
    let before_the_question = messages(&conversation[..3]);
    assert_eq!(before_the_question[5], json!({"role": "user", "content": parts[..4]}));
}
