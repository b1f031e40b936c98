//! Answers in the Anthropic Messages format, as a stream or in one piece.
//!
//! Owns: the wire format, written independently of the client's decoder so that the two check each other.

use serde_json::{Value, json};

use super::script::ToolCall;

/// Bytes of text in one event.
const PIECE: usize = 1_024;
/// The signature of every thinking block.
pub(crate) const SIGNATURE: &str = "c2lnbmVkIGJ5IHRoZSBtb2RlbCBzZXJ2ZXI=";
/// What is thought.
pub(crate) const THINKING: &str = "Let me think about this.";

/// What to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) thinking: bool,
    pub(crate) text: Option<String>,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) stop: &'static str,
    pub(crate) usage: Option<(u64, u64)>,
}

/// Who says it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) model: String,
}

impl Head {
    fn id(&self) -> String {
        format!("msg_{}", self.number)
    }

    fn tool_id(&self, n: usize) -> String {
        if n == 0 { format!("toolu_msg_{}", self.number) } else { format!("toolu_msg_{}_{n}", self.number) }
    }
}

/// The answer in one piece.
pub(crate) fn whole(head: &Head, content: &Content) -> String {
    let mut blocks = Vec::new();
    if content.thinking {
        blocks.push(json!({"type": "thinking", "thinking": THINKING, "signature": SIGNATURE}));
    }
    if let Some(text) = &content.text {
        blocks.push(json!({"type": "text", "text": text}));
    }
    for (n, call) in content.calls.iter().enumerate() {
        blocks.push(json!({"type": "tool_use", "id": head.tool_id(n), "name": call.name, "input": call.input}));
    }
    let (input, output) = content.usage.unwrap_or((100, 10));
    json!({
        "id": head.id(), "type": "message", "role": "assistant", "model": head.model, "content": blocks,
        "stop_reason": content.stop, "stop_sequence": null,
        "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                  "output_tokens": output},
    })
    .to_string()
}

/// The answer as events, each with its blank line.
pub(crate) fn stream(head: &Head, content: &Content) -> Vec<String> {
    let (input, output) = content.usage.unwrap_or((100, 10));
    let mut out = vec![event(
        "message_start",
        json!({"message": {
            "id": head.id(), "type": "message", "role": "assistant", "model": head.model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                      "output_tokens": 1},
        }}),
    )];
    let mut index = 0;
    let mut block = |start: Value, deltas: Vec<Value>| {
        out.push(event("content_block_start", json!({"index": index, "content_block": start})));
        out.extend(deltas.into_iter().map(|d| event("content_block_delta", json!({"index": index, "delta": d}))));
        out.push(event("content_block_stop", json!({"index": index})));
        index += 1;
    };
    if content.thinking {
        let deltas = vec![
            json!({"type": "thinking_delta", "thinking": THINKING}),
            json!({"type": "signature_delta", "signature": SIGNATURE}),
        ];
        block(json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if let Some(text) = &content.text {
        let pieces = text.as_bytes().chunks(PIECE).map(String::from_utf8_lossy);
        block(json!({"type": "text", "text": ""}), pieces.map(|t| json!({"type": "text_delta", "text": t})).collect());
    }
    for (n, call) in content.calls.iter().enumerate() {
        let start = json!({"type": "tool_use", "id": head.tool_id(n), "name": call.name, "input": {}});
        let input = call.input.to_string();
        block(start, vec![json!({"type": "input_json_delta", "partial_json": input})]);
    }
    let delta = json!({"stop_reason": content.stop, "stop_sequence": null});
    out.push(event("message_delta", json!({"delta": delta, "usage": {"output_tokens": output}})));
    out.push(event("message_stop", json!({})));
    out
}

fn event(name: &str, fields: Value) -> String {
    let mut all = json!({"type": name});
    if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
        all.extend(fields);
    }
    format!("event: {name}\ndata: {all}\n\n")
}

/// An error object.
pub(crate) fn error(status: u16, message: &str) -> String {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}}).to_string()
}
