use proptest::prelude::*;
use serde_json::json;
use torpor_core::message::{StopReason, Usage};
use torpor_core::model::Ref;
use torpor_core::tool;

use super::*;

fn answer(blocks: Vec<Block>) -> Message {
    Message::Assistant(Assistant { blocks, stop: StopReason::EndTurn, usage: Usage::default() })
}

fn tool_use(id: &str) -> Block {
    Block::ToolUse { id: id.into(), name: "bash".into(), input: json!({"command": "true", "a": 1}) }
}

fn results(of: &[(&str, &str)]) -> Message {
    Message::Tools(of.iter().map(|(id, text)| ((*id).into(), ToolResult::text(*text))).collect())
}

fn encode(messages: &[Message], marks: bool) -> Result<Value, Error> {
    let model = Ref { provider: PROVIDER.into(), model: "claude-test".into() };
    let spec = |name| tool::Spec { name, description: "Does it.", schema: json!({"type": "object", "b": 1, "a": 2}) };
    let (bash, read) = (spec("bash"), spec("read"));
    let request = Request { model: &model, system: "Be brief.", tools: &[&bash, &read], messages };
    let bytes = body(&request, 100, marks)?;
    assert_eq!(bytes, body(&request, 100, marks)?, "the same request makes the same bytes");
    Ok(serde_json::from_slice(&bytes).unwrap())
}

fn messages(of: &[Message]) -> Value {
    encode(of, false).unwrap()["messages"].clone()
}

#[test]
fn a_whole_request() {
    let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "c2ln", "zeta": [1, {"y": 2, "x": 1}]});
    let conversation = [
        Message::User("hi".into()),
        answer(vec![
            Block::Opaque { provider: PROVIDER.into(), value: thinking.clone() },
            Block::Opaque { provider: "openai".into(), value: json!({"type": "reasoning"}) },
            Block::Text { text: "I will look.".into() },
            tool_use("t1"),
        ]),
        Message::Tools(vec![("t1".into(), ToolResult::error("no such file"))]),
    ];
    let got = encode(&conversation, false).unwrap();
    let schema = json!({"type": "object", "b": 1, "a": 2});
    let expected = json!({
        "model": "claude-test",
        "max_tokens": 100,
        "stream": true,
        "tools": [
            {"name": "bash", "description": "Does it.", "input_schema": schema},
            {"name": "read", "description": "Does it.", "input_schema": schema},
        ],
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [
                thinking,
                {"type": "text", "text": "I will look."},
                {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "true", "a": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "no such file"}],
                 "is_error": true},
            ]},
        ],
    });
    // As text: the order of keys is part of it.
    assert_eq!(got.to_string(), expected.to_string());
}

#[test]
fn roles_alternate_and_every_tool_use_is_answered_next() {
    let result = |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": text}]});
    let not_run = |id: &str| {
        json!({"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": NOT_RUN}],
               "is_error": true})
    };
    let text = |t: &str| json!({"type": "text", "text": t});
    let last = |of: &[Message]| messages(of).as_array().unwrap().last().unwrap()["content"].clone();

    let both = answer(vec![tool_use("a"), tool_use("b")]);
    let swapped = [Message::User("x".into()), both.clone(), results(&[("b", "2"), ("a", "1")])];
    assert_eq!(last(&swapped), json!([result("a", "1"), result("b", "2")]), "in the order of the uses");

    let partly = [Message::User("x".into()), both.clone(), results(&[("b", "2")]), Message::User("go on".into())];
    assert_eq!(last(&partly), json!([not_run("a"), result("b", "2"), text("go on")]));

    let cut = [Message::User("x".into()), both.clone(), Message::User("go on".into())];
    assert_eq!(last(&cut), json!([not_run("a"), not_run("b"), text("go on")]));

    let twice = [Message::User("x".into()), both.clone(), answer(vec![tool_use("c")]), results(&[("c", "3")])];
    let roles: Vec<Value> = messages(&twice).as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);

    let stray = [Message::User("x".into()), both, results(&[("a", "1"), ("b", "2"), ("z", "3")])];
    let e = encode(&stray, false).unwrap_err();
    assert!(e.retry == Retry::Never && e.message.contains("\"z\""), "{e:?}");
}

#[test]
fn blank_texts_are_never_sent() {
    let conversation = [
        Message::User(" \n".into()),
        answer(vec![Block::Text { text: "\n".into() }, tool_use("a")]),
        results(&[("a", "")]),
        answer(vec![Block::Text { text: String::new() }]),
        Message::User("more".into()),
    ];
    let expected = json!([
        {"role": "user", "content": [{"type": "text", "text": "(blank)"}]},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "bash", "input": {"command": "true", "a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}, {"type": "text", "text": "more"}]},
    ]);
    assert_eq!(messages(&conversation), expected);
}

#[test]
fn thinking_that_was_cut_off_is_not_sent_back() {
    let thinking = |signature: &str| Block::Opaque {
        provider: PROVIDER.into(),
        value: json!({"type": "thinking", "thinking": "hm", "signature": signature}),
    };
    let cases = [
        (StopReason::MaxTokens, "", 1),
        (StopReason::MaxTokens, "c2ln", 2),
        // Some gateways never sign, and want it back all the same.
        (StopReason::EndTurn, "", 2),
    ];
    for (stop, signature, parts) in cases {
        let blocks = vec![thinking(signature), Block::Text { text: "x".into() }];
        let cut = Message::Assistant(Assistant { blocks, stop, usage: Usage::default() });
        let sent = messages(&[Message::User("x".into()), cut, Message::User("go on".into())]);
        assert_eq!(sent[1]["content"].as_array().map(Vec::len), Some(parts), "{stop:?} {signature:?}");
    }
}

#[test]
fn four_cache_marks_at_most_and_none_when_off() {
    let mut conversation = vec![Message::User("x".into())];
    for i in 0..5 {
        let id = format!("t{i}");
        conversation.push(answer(vec![tool_use(&id)]));
        conversation.push(results(&[(&id, "ok")]));
    }
    let marked = encode(&conversation, true).unwrap();
    let places = [
        &marked["tools"][1]["cache_control"],
        &marked["system"][0]["cache_control"],
        &marked["messages"][8]["content"][0]["cache_control"],
        &marked["messages"][10]["content"][0]["cache_control"],
    ];
    assert_eq!(places, [&json!({"type": "ephemeral"}); 4]);
    assert_eq!(marked.to_string().matches("cache_control").count(), 4);
    assert!(!encode(&conversation, false).unwrap().to_string().contains("cache_control"));
}

proptest! {
    /// Whatever the conversation, its encoding begins as the encoding of its beginning does.
    #[test]
    fn a_conversation_only_grows_at_its_end(texts in proptest::collection::vec(("[a-z \n]{0,6}", any::<bool>()), 1..12)) {
        let mut conversation = vec![Message::User("start".into())];
        for (i, (text, with_tool)) in texts.into_iter().enumerate() {
            let id = format!("t{i}");
            let mut blocks = vec![Block::Text { text: text.clone() }];
            blocks.extend(with_tool.then(|| tool_use(&id)));
            conversation.push(answer(blocks));
            conversation.push(if with_tool { results(&[(&id, &text)]) } else { Message::User(text) });
        }
        let all = messages(&conversation);
        for n in (1..conversation.len()).step_by(2) {
            let part = messages(&conversation[..n]).to_string();
            // All but the brackets that close the last turn.
            prop_assert!(all.to_string().starts_with(&part[..part.len() - 3]));
        }
    }
}

fn image(data: &str) -> Content {
    Content::Image { media_type: "image/png".into(), data: data.into() }
}

#[test]
fn images_stand_in_their_results_and_never_in_a_failure() {
    let text = Content::Text { text: "[p.png]".into() };
    let result = |is_error| ToolResult { content: vec![text.clone(), image("AAAA")], is_error };
    let conversation = [
        Message::User("hi".into()),
        answer(vec![tool_use("t1"), tool_use("t2")]),
        Message::Tools(vec![("t1".into(), result(false)), ("t2".into(), result(true))]),
    ];
    let source = json!({"type": "base64", "media_type": "image/png", "data": "AAAA"});
    assert_eq!(
        messages(&conversation)[2],
        json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1",
             "content": [{"type": "text", "text": "[p.png]"}, {"type": "image", "source": source}]},
            {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "[p.png]"}], "is_error": true},
        ]})
    );
}
