use std::io::Write;
use std::time::Duration;

use torpor_core::message::ToolResult;
use torpor_core::model::Ref;

use super::*;

struct Play {
    scripted: Scripted,
    file: tempfile::NamedTempFile,
}

impl Play {
    fn new(script: Value) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(script.to_string().as_bytes()).unwrap();
        Self { scripted: Scripted::default(), file }
    }

    async fn send(&self, messages: &[Message]) -> Result<Assistant, Error> {
        let model = Ref { provider: PROVIDER.into(), model: self.file.path().to_str().unwrap().into() };
        let request = Request { model: &model, system: "s", tools: &[], messages };
        let prepared = self.scripted.prepare(&request)?;
        self.scripted.send(&prepared, &mut |_| {}).await
    }

    async fn text(&self, messages: &[Message]) -> String {
        self.send(messages).await.unwrap().text()
    }
}

fn user(text: &str) -> Message {
    Message::User(text.into())
}

fn tools(answer: &Assistant, text: &str) -> Message {
    let ids = answer.blocks.iter().filter_map(|b| match b {
        Block::ToolUse { id, .. } => Some((id.clone(), ToolResult::text(text))),
        _ => None,
    });
    Message::Tools(ids.collect())
}

#[tokio::test]
async fn a_review_is_played_from_start_to_end() {
    let play = Play::new(json!({"scripts": [
        {"when": "item_id=", "turns": [
            {"thinking": "hm", "text": "Reading.", "tools": [{"name": "bash", "input": {"command": "cat x"}}, {"name": "ls"}]},
            {"tools": [{"name": "submit_verdict", "input": {"item_id": "{{item_id}}", "reason": "{{last_result}}"}}]},
        ]},
        {"turns": [{"text": "You said: {{prompt}}", "usage": {"input": 3, "cacheRead": 4}}]},
    ]}));
    let mut messages = vec![user("review item_id=\"i-1\"")];
    let first = play.send(&messages).await.unwrap();
    assert_eq!(first.stop, StopReason::ToolUse);
    let Block::Opaque { provider, value } = &first.blocks[0] else { panic!("{first:?}") };
    assert_eq!((provider.as_str(), &value["thinking"]), (PROVIDER, &json!("hm")));
    assert_eq!(first.text(), "Reading.");
    let (Block::ToolUse { id: a, input, .. }, Block::ToolUse { id: b, .. }) = (&first.blocks[2], &first.blocks[3])
    else {
        panic!("{first:?}");
    };
    assert!(a != b && *input == json!({"command": "cat x"}));

    messages.extend([Message::Assistant(first.clone()), tools(&first, "looks fine")]);
    let second = play.send(&messages).await.unwrap();
    let Block::ToolUse { id, name, input } = &second.blocks[0] else { panic!("{second:?}") };
    assert!(id != a && id != b, "ids differ between the calls of a session");
    assert_eq!((name.as_str(), input), ("submit_verdict", &json!({"item_id": "i-1", "reason": "looks fine"})));

    messages.extend([Message::Assistant(second.clone()), tools(&second, "ok")]);
    assert_eq!(play.text(&messages).await, "done", "past the end");

    messages.extend([Message::Assistant(second), user("hello")]);
    let other = play.send(&messages).await.unwrap();
    assert_eq!(other.text(), "You said: hello", "a new user message starts at the first turn");
    assert_eq!((other.usage.input, other.usage.cache_read, other.usage.output), (3, 4, 0));
}

#[tokio::test]
async fn the_same_request_always_gets_the_same_answer() {
    let play = Play::new(json!({"scripts": [{"turns": [{"tools": [{"name": "ls"}]}]}]}));
    let messages = [user("x")];
    let first = play.send(&messages).await.unwrap();
    assert_eq!(play.send(&messages).await.unwrap(), first);
    let other = Play { scripted: Scripted::default(), file: play.file };
    assert_eq!(other.send(&messages).await.unwrap(), first, "in another process as well");
}

#[tokio::test(start_paused = true)]
async fn delays_run_on_the_runtime_clock() {
    let play = Play::new(json!({"scripts": [{"turns": [{"text": "late", "delayMs": 60_000}]}]}));
    let before = tokio::time::Instant::now();
    assert_eq!(play.text(&[user("x")]).await, "late");
    assert!(before.elapsed() >= Duration::from_secs(60));
}

#[tokio::test]
async fn errors_are_played_like_real_ones() {
    let cases = [
        (json!({"status": 503}), Retry::Backoff, false),
        (json!({"status": 429, "message": "slow", "retryAfterMs": 20}), Retry::After(Duration::from_millis(20)), false),
        (json!({"status": 401, "message": "no"}), Retry::Never, false),
        (json!({"status": 400, "overflow": true}), Retry::Never, true),
    ];
    for (error, retry, overflow) in cases {
        let play = Play::new(json!({"scripts": [{"turns": [{"error": error}]}]}));
        let e = play.send(&[user("x")]).await.unwrap_err();
        assert_eq!((e.retry, e.overflow), (retry, overflow), "{error}");
        assert!(e.message.contains(error["message"].as_str().unwrap_or("scripted error")), "{e}");
    }
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let play = Play::new(json!({"scripts": [{"turns": [{"text": "one"}]}]}));
    assert_eq!(play.text(&[user("x")]).await, "one");
    // Another length: the time of change alone can be too coarse.
    std::fs::write(play.file.path(), json!({"scripts": [{"turns": [{"text": "another"}]}]}).to_string()).unwrap();
    assert_eq!(play.text(&[user("x")]).await, "another");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let play = Play::new(json!({"scripts": []}));
    assert_eq!(play.text(&[user("x")]).await, "done", "no script fits");
    let path = play.file.path().to_owned();
    std::fs::remove_file(&path).unwrap();
    let e = play.send(&[user("x")]).await.unwrap_err();
    assert_eq!(e.retry, Retry::Never);
    assert!(e.message.contains(path.to_str().unwrap()), "{e}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let turn = |turn: Value| json!({"scripts": [{"turns": [{"text": "x"}, turn]}]});
    let cases = [
        (json!([]), "file: expected an object"),
        (json!({}), "scripts: missing"),
        (json!({"scripts": {}}), "scripts: expected a list"),
        (json!({"scripts": [], "srcipts": []}), "srcipts: unknown key; known are: scripts"),
        (json!({"scripts": [1]}), "scripts[0]: expected an object"),
        (json!({"scripts": [{}]}), "scripts[0].turns: missing"),
        (json!({"scripts": [{"turns": [], "whne": "x"}]}), "scripts[0].whne: unknown key"),
        (json!({"scripts": [{"turns": [], "when": 1}]}), "scripts[0].when: expected a string"),
        (turn(json!({})), "scripts[0].turns[1]: expected either `error` or"),
        (turn(json!({"text": "x", "error": {"status": 500}})), "scripts[0].turns[1]: expected either `error` or"),
        (turn(json!({"text": "x", "delay": 1})), "scripts[0].turns[1].delay: unknown key"),
        (turn(json!({"text": "x", "delayMs": -1})), "scripts[0].turns[1].delayMs: expected a whole number"),
        (turn(json!({"text": "x", "delayMs": 86_400_001})), "scripts[0].turns[1].delayMs: expected at most"),
        (turn(json!({"text": "x", "stop": "tool_use"})), "scripts[0].turns[1].stop: expected"),
        (turn(json!({"tools": [{"name": "x"}], "stop": "end_turn"})), "scripts[0].turns[1].stop: expected"),
        (turn(json!({"tools": [{"name": ""}]})), "scripts[0].turns[1].tools[0].name: missing or empty"),
        (
            turn(json!({"tools": [{"name": "x", "input": []}]})),
            "scripts[0].turns[1].tools[0].input: expected an object",
        ),
        (turn(json!({"tools": [{"name": "x", "inptu": {}}]})), "scripts[0].turns[1].tools[0].inptu: unknown key"),
        (turn(json!({"error": {"status": 200}})), "scripts[0].turns[1].error.status: expected a number from 400"),
        (turn(json!({"error": {"status": 500, "overflow": 1}})), "scripts[0].turns[1].error.overflow: expected"),
        (turn(json!({"error": {"status": 500, "msg": 1}})), "scripts[0].turns[1].error.msg: unknown key"),
        (turn(json!({"text": "x", "usage": {"out": 1}})), "scripts[0].turns[1].usage.out: unknown key"),
    ];
    for (file, expected) in cases {
        let e = check(file.to_string().as_bytes()).unwrap_err().to_string();
        assert!(e.starts_with(expected), "{file}\n got {e}\nwant {expected}");
    }
    assert!(check(b"{\"scripts\":").unwrap_err().to_string().starts_with("file: no valid JSON"));
}
