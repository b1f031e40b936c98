//! Answers in the Anthropic Messages format, as a stream or in one piece.
//!
//! Owns: the wire format, written independently of the client's decoder so that the two check each other.

use serde_json::json;

use super::{Content, Head, SIGNATURE, THINKING, pieces, quoted};

impl Head {
    fn id(&self) -> String {
        format!("msg_{}", self.number)
    }

    fn tool_id(&self, n: usize) -> String {
        if n == 0 { format!("toolu_msg_{}", self.number) } else { format!("toolu_msg_{}_{n}", self.number) }
    }
}

/// The answer in one piece.
pub(super) fn whole(head: &Head, content: &Content) -> String {
    let mut blocks = Vec::new();
    if content.thinking {
        blocks.push(json!({"type": "thinking", "thinking": THINKING, "signature": SIGNATURE}));
    }
    if let Some(text) = &content.text {
        blocks.push(json!({"type": "text", "text": text}));
    }
    for (n, call) in content.numbered() {
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

/// The answer as events, each with its blank line. Written by hand: under load this is most of the server's own work.
pub(super) fn stream(head: &Head, content: &Content) -> Vec<String> {
    let (input, output) = content.usage.unwrap_or((100, 10));
    let mut out = vec![event(
        "message_start",
        &format!(
            r#""message":{{"id":"{}","type":"message","role":"assistant","model":{},"content":[],"stop_reason":null,"stop_sequence":null,"usage":{{"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}}"#,
            head.id(),
            quoted(&head.model),
        ),
    )];
    let mut index = 0;
    let mut block = |start: &str, deltas: &mut dyn Iterator<Item = String>| {
        out.push(event("content_block_start", &format!(r#""index":{index},"content_block":{{{start}}}"#)));
        out.extend(deltas.map(|d| event("content_block_delta", &format!(r#""index":{index},"delta":{{{d}}}"#))));
        out.push(event("content_block_stop", &format!(r#""index":{index}"#)));
        index += 1;
    };
    if content.thinking {
        let deltas = [
            format!(r#""type":"thinking_delta","thinking":"{THINKING}""#),
            format!(r#""type":"signature_delta","signature":"{SIGNATURE}""#),
        ];
        block(r#""type":"thinking","thinking":"","signature":"""#, &mut deltas.into_iter());
    }
    if let Some(text) = &content.text {
        let mut deltas = pieces(text).map(|t| format!(r#""type":"text_delta","text":{}"#, quoted(&t)));
        block(r#""type":"text","text":"""#, &mut deltas);
    }
    for (n, call) in content.numbered() {
        let start =
            format!(r#""type":"tool_use","id":"{}","name":{},"input":{{}}"#, head.tool_id(n), quoted(&call.name));
        let input = quoted(&call.input.to_string());
        let delta = format!(r#""type":"input_json_delta","partial_json":{input}"#);
        block(&start, &mut std::iter::once(delta));
    }
    out.push(event(
        "message_delta",
        &format!(
            r#""delta":{{"stop_reason":"{}","stop_sequence":null}},"usage":{{"output_tokens":{output}}}"#,
            content.stop
        ),
    ));
    out.push("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".into());
    out
}

/// One event; `fields` is the inside of an object.
fn event(name: &str, fields: &str) -> String {
    format!("event: {name}\ndata: {{\"type\":\"{name}\",{fields}}}\n\n")
}

/// An error object.
pub(super) fn error(status: u16, message: &str) -> String {
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
