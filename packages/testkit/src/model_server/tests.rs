use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::script::{Fault, Script, Step, ToolCall, encode};
use super::*;

/// Posts and reads until the server closes: the whole answer as text, head included.
async fn post(server: &ModelServer, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(prompt: &str, results: usize, stream: bool) -> String {
    let results = vec![json!({"type": "tool_result", "tool_use_id": "t"}); results];
    let messages = json!([{"role": "user", "content": prompt}, {"role": "user", "content": results}]);
    json!({"model": "claude-x", "stream": stream, "messages": messages}).to_string()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn bash(command: &str) -> Step {
    Step::Tools(vec![ToolCall { name: "bash".into(), input: json!({"command": command}) }])
}

#[test]
fn scripts_are_read_step_by_step() {
    let b = encode("ls -l \u{e9}?>");
    let multi = encode(r#"[{"name":"read","input":{"path":"a"}},{"name":"ls"}]"#);
    let text =
        format!("delay=5;usage=7,8;bash={b}*no;bash*2={b};multi={multi};retry.cut=1;read={};text=9", encode("f"));
    let script = Script::parse(&text);
    assert_eq!((script.delay, script.usage), (Some(Duration::from_millis(5)), Some((7, 8))));
    let step = |results| script.step(results, |_| 1);
    // A value with a star in it is no base64url: an empty command, never a panic.
    assert_eq!(step(0), bash(""));
    assert_eq!((step(1), step(2)), (bash("ls -l \u{e9}?>"), bash("ls -l \u{e9}?>")));
    let Step::Tools(calls) = step(3) else { panic!("{:?}", step(3)) };
    assert_eq!(calls[1], ToolCall { name: "ls".into(), input: json!({}) });
    let read = Step::Tools(vec![ToolCall { name: "read".into(), input: json!({"path": "f"}) }]);
    assert_eq!(step(5), read, "two calls, two results; the fault has had its turn");
    assert_eq!(script.step(5, |_| 0), Step::Fault(Fault::Cut));
    assert_eq!((step(6), step(7)), (Step::Text(9), Step::Text(0)));
    assert_eq!(Script::parse("nonsense").step(0, |_| 0), Step::Text(0));
    assert_eq!(Script::parse("err=503").step(0, |_| 0), Step::Fault(Fault::Status(503)));
    assert_eq!(Script::parse("retry.err503=2").step(0, |_| 1), Step::Fault(Fault::Status(503)));
}

#[tokio::test]
async fn the_last_marker_wins_then_the_path_then_the_default() {
    let options = Options { default_script: "text=4".into(), ..Options::default() };
    let server = ModelServer::start_with(options).await.unwrap();
    let text = |answer: &str| body(answer)["content"][0]["text"].as_str().map(str::len);
    let both = request("[[s:text=2]] and [[s:text=3]]", 0, false);
    assert_eq!(text(&post(&server, "/s/text%3D5/v1/messages", &both).await), Some(3));
    assert_eq!(text(&post(&server, "/s/text%3D5/v1/messages", &request("x", 0, false)).await), Some(5));
    assert_eq!(text(&post(&server, "/v1/messages?beta=true", &request("x", 0, false)).await), Some(4));
    assert!(post(&server, "/v1/other", "{}").await.starts_with("HTTP/1.1 404"));
    assert_eq!((server.requests(), server.stats().open, server.recorded().len()), (4, 0, 4));
    assert_eq!(server.gaps().len(), 3);
    server.reset();
    assert_eq!((server.requests(), server.recorded().len()), (0, 0));
}

#[tokio::test]
async fn the_path_chooses_the_wire_and_the_script_means_the_same_on_both() {
    let server = ModelServer::start().await;
    let ask = |script: &str, results: usize, fields: Value| {
        let mut messages = vec![json!({"role": "user", "content": format!("[[s:{script}]]")})];
        messages.extend(vec![json!({"role": "tool", "tool_call_id": "t", "content": "\"role\":\"tool\""}); results]);
        let mut body = json!({"model": "gpt-x", "messages": messages});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body.to_string()
    };
    let path = "/v1/chat/completions";
    let script = format!("usage=7,8;bash={};text=3", encode("ls"));
    let call = body(&post(&server, path, &ask(&script, 0, json!({}))).await);
    let choice = &call["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function, &json!({"name": "bash", "arguments": "{\"command\":\"ls\"}"}));
    assert_eq!((&call["usage"]["prompt_tokens"], &call["usage"]["completion_tokens"]), (&json!(7), &json!(8)));
    let text = body(&post(&server, path, &ask(&script, 1, json!({}))).await);
    assert_eq!(text["choices"][0]["message"]["content"], "xxx");

    let streamed = post(&server, path, &ask("text", 0, json!({"stream": true}))).await;
    assert!(streamed.contains("\"content\":\"done\"") && streamed.contains("\"finish_reason\":\"stop\""), "{streamed}");
    assert!(streamed.contains("data: [DONE]\n\n") && !streamed.contains("prompt_tokens"), "{streamed}");
    let with_usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert!(post(&server, path, &ask("text", 0, with_usage.clone())).await.contains("\"prompt_tokens\":100"));
    let unfinished = post(&server, path, &ask("nostop", 0, with_usage)).await;
    assert!(unfinished.contains("[DONE]") && !unfinished.contains("\"finish_reason\":\""), "{unfinished}");
    let refused = post(&server, path, &ask("overflow", 0, json!({}))).await;
    assert_eq!(body(&refused)["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn a_verdict_names_the_item_of_the_prompt() {
    let server = ModelServer::start().await;
    let answer = post(&server, "/v1/messages", &request("item_id=\"a/7\" [[s:verdict]]", 0, false)).await;
    let call = &body(&answer)["content"][0];
    assert_eq!((&call["name"], &call["input"]["item_id"]), (&json!("submit_verdict"), &json!("a/7")));
    let done = post(&server, "/v1/messages", &request("item_id=\"a/7\" [[s:verdict]]", 1, false)).await;
    assert_eq!(body(&done)["content"][0]["text"], "done");
}

#[tokio::test]
async fn failures_are_counted_per_script_and_then_pass() {
    let server = ModelServer::start().await;
    for script in ["tag=a;retry429=2;text", "tag=b;retry429=2;text"] {
        let ask = request(&format!("[[s:{script}]]"), 0, true);
        for _ in 0..2 {
            let answer = post(&server, "/v1/messages", &ask).await;
            assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 0"), "{answer}");
        }
        let answer = post(&server, "/v1/messages", &ask).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("event: message_stop"), "{answer}");
    }
    assert_eq!(server.stats().faults, 4);
}

#[tokio::test]
async fn a_cut_sends_its_part_and_then_breaks() {
    let server = ModelServer::start().await;
    let answer = post(&server, "/v1/messages", &request("[[s:cut]]", 0, true)).await;
    assert!(answer.contains("partial") && !answer.contains("content_block_stop"), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "the chunked body has no end");
    assert_eq!(server.stats().aborted, 1);
}

#[tokio::test]
async fn a_held_answer_waits_for_its_release() {
    let server = ModelServer::start().await;
    let ask = request("[[s:hold=door]]", 0, false);
    let answers = tokio::join!(post(&server, "/v1/messages", &ask), async {
        server.wait_for_requests(1).await;
        assert_eq!(server.stats().open, 1);
        post(&server, "/__release/door", "").await
    });
    assert_eq!(body(&answers.0)["content"][0]["text"], "done");
    assert!(post(&server, "/v1/messages", &ask).await.contains("done"), "and stays open");
}

#[test]
fn base64url_has_no_padding() {
    for (text, expected) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("\u{fb}\u{fe}?>", "w7vDvj8-")] {
        assert_eq!(encode(text), expected);
    }
}
