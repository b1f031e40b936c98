//! What the log says of runs, and what it does not, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{World, bash, script_tool};

/// What clients, models and commands say; at the usual level, none of it is logged.
const CANARY: &str = "canary-of-contents";

fn lines(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    parsed.inspect(|line: &Value| assert!(line.is_object(), "{line}")).collect()
}

#[tokio::test]
async fn lines_carry_the_run_and_its_trace_and_no_contents() {
    let mut world = World::new().await;
    world.env("TORPOR_LOG_FORMAT", "json");
    world.env("TORPOR_MODEL_ATTEMPTS", "2");
    let server = world.serve().await;
    let scripts = [
        format!("{};text", bash(&format!("echo {CANARY}; echo {CANARY} >&2; exit 3"))),
        format!(
            "{};{};text",
            script_tool("no_such_tool", &json!({"x": CANARY})),
            script_tool("read", &json!({"path": CANARY}))
        ),
        "retry429=1;text".to_owned(),
        "err=500".to_owned(),
    ];
    let mut records = Vec::new();
    for (n, script) in scripts.iter().enumerate() {
        let mut envelope = world.prompt(script);
        envelope["prompt"] = json!(format!("{CANARY} {}", envelope["prompt"].as_str().unwrap()));
        envelope["sessionId"] = json!(format!("{CANARY}-{n}"));
        envelope["metadata"] = json!({"note": CANARY});
        let ended = server.post("/runs", &envelope).await.body;
        records.push(server.get(&format!("/runs/{}", ended["runId"].as_str().unwrap())).await.body);
    }
    server.post("/runs", &json!({"prompt": CANARY, "unknown": CANARY})).await;
    server.post("/turn", &json!({"prompt": CANARY, "sessionId": CANARY})).await;
    server.terminate().await;

    let log = world.log();
    assert!(!log.contains(CANARY), "{log}");
    let lines = lines(&log);
    assert!(lines.iter().all(|l| l["timestamp"].is_string() && l["level"].is_string() && l["message"].is_string()));
    for record in &records {
        let of_run = |l: &&Value| l["run"] == record["runId"];
        let ended = lines.iter().filter(of_run).find(|l| l["message"] == "run ended").expect("the end of every run");
        assert_eq!((&ended["trace_id"], &ended["status"]), (&record["traceId"], &record["status"]));
        assert!(ended["session"].as_str().is_some_and(|s| s.len() == 32), "{ended}");
        assert!(lines.iter().filter(of_run).all(|l| l["trace_id"] == record["traceId"]));
    }
    let retries = lines.iter().filter(|l| l["message"] == "model call failed; retrying");
    assert!(retries.filter(|l| l["run"].is_string() && l["trace_id"].is_string()).count() >= 2, "{log}");
}
