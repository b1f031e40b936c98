//! Answers in the Chat Completions format, as a stream or in one piece.
//!
//! Owns: the wire format, written independently of the client's decoder so that the two check each other.

use serde_json::{Value, json};

use super::{Content, Head, SIGNATURE, THINKING, pieces, quoted};

impl Head {
    fn completion_id(&self) -> String {
        format!("chatcmpl-{}", self.number)
    }

    fn call_id(&self, n: usize) -> String {
        format!("call_{}_{n}", self.number)
    }
}

fn finish_reason(stop: &str) -> &str {
    match stop {
        "tool_use" => "tool_calls",
        "max_tokens" => "length",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

fn usage(content: &Content) -> Value {
    let (input, output) = content.usage.unwrap_or((100, 10));
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
           "prompt_tokens_details": {"cached_tokens": 0}})
}

/// What was thought, as gateways write it: a text, and the same with what proves it.
fn thinking() -> Value {
    json!([{"type": "reasoning.text", "index": 0, "text": THINKING, "signature": SIGNATURE}])
}

/// The answer in one piece.
pub(super) fn whole(head: &Head, content: &Content) -> String {
    let mut message = json!({"role": "assistant", "content": content.text, "refusal": null, "annotations": []});
    if content.thinking {
        message["reasoning_content"] = THINKING.into();
        message["reasoning_details"] = thinking();
    }
    let calls: Vec<Value> = (content.numbered())
        .map(|(n, call)| {
            json!({"id": head.call_id(n), "type": "function",
                   "function": {"name": call.name, "arguments": call.input.to_string()}})
        })
        .collect();
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({
        "id": head.completion_id(), "object": "chat.completion", "created": 0, "model": head.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(content.stop)}],
        "usage": usage(content),
    })
    .to_string()
}

/// The answer as events, each with its blank line. Written by hand: under load this is most of the server's own work.
pub(super) fn stream(head: &Head, content: &Content) -> Vec<String> {
    let start = format!(
        r#"{{"id":"{}","object":"chat.completion.chunk","created":0,"model":{}"#,
        head.completion_id(),
        quoted(&head.model)
    );
    let event = |choices: &str, usage: &str| format!("data: {start},\"choices\":[{choices}],\"usage\":{usage}}}\n\n");
    let delta = |fields: &str| event(&format!(r#"{{"index":0,"delta":{{{fields}}},"finish_reason":null}}"#), "null");
    let mut out = vec![delta(r#""role":"assistant","content":"","refusal":null"#)];
    if content.thinking {
        // In pieces of which the last proves the whole.
        let (first, second) = THINKING.split_at(THINKING.len() / 2);
        for (piece, signature) in [(first, "null".to_owned()), (second, quoted(SIGNATURE))] {
            let piece = quoted(piece);
            out.push(delta(&format!(
                r#""reasoning_content":{piece},"reasoning_details":[{{"type":"reasoning.text","index":0,"text":{piece},"signature":{signature}}}]"#
            )));
        }
    }
    if let Some(text) = &content.text {
        out.extend(pieces(text).map(|t| delta(&format!(r#""content":{}"#, quoted(&t)))));
    }
    for (n, (of, call)) in content.numbered().enumerate() {
        let (id, name, input) = (head.call_id(of), quoted(&call.name), quoted(&call.input.to_string()));
        out.push(delta(&format!(
            r#""tool_calls":[{{"index":{n},"id":"{id}","type":"function","function":{{"name":{name},"arguments":""}}}}]"#
        )));
        out.push(delta(&format!(r#""tool_calls":[{{"index":{n},"function":{{"arguments":{input}}}}}]"#)));
    }
    let reason = finish_reason(content.stop);
    out.push(event(&format!(r#"{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}"#), "null"));
    if head.usage {
        out.push(event("", &usage(content).to_string()));
    }
    out.push("data: [DONE]\n\n".into());
    out
}

/// An error object.
pub(super) fn error(status: u16, code: &str, message: &str) -> String {
    let kind = match status {
        400 | 404 | 413 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_exceeded",
        _ => "server_error",
    };
    let code = if code.is_empty() { Value::Null } else { code.into() };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}
