//! Gates over HTTP: a run that waits for a person holds nothing, and goes on exactly where it waited.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{Server, World, bash, script_tool, until};
use torpor_testkit::model_server::script;

/// A run whose `tally` command needs approval; `tally` counts how often it ran.
fn guarded(world: &World, more: &str) -> Value {
    let mut envelope = world.prompt(&format!("{};{more}text", bash("echo ran >> tally")));
    envelope["approvals"] = json!([{"tool": "bash", "pattern": "tally"}]);
    envelope
}

async fn paused(server: &Server, run: &str) -> Value {
    let record = server.ended(run).await;
    assert_eq!(record["status"], json!("paused"), "{record}");
    record
}

async fn log_types(server: &Server, session: &Value) -> Vec<String> {
    let page = server.get(&format!("/sessions/{}/log?limit=500", session.as_str().unwrap())).await.body;
    page["entries"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_outlives_the_server_and_its_call_runs_once_after_the_approval() {
    let world = World::new().await;
    let first = world.serve().await;
    let answer = first.post("/runs", &guarded(&world, "")).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("paused")), "{}", answer.body);
    assert_eq!((&answer.body["gateId"], &answer.body["gate"]["gateId"]), (&json!(0), &json!(0)));
    assert_eq!(answer.body["gate"]["call"], json!({"tool": "bash", "input": {"command": "echo ran >> tally"}}));
    assert!(answer.body["gate"]["summary"].is_string() && answer.body["gate"]["proposed_action"].is_string());
    let run = answer.body["runId"].as_str().unwrap().to_owned();
    let session = answer.body["sessionId"].clone();
    first.kill().await;

    let server = world.serve().await;
    paused(&server, &run).await;
    let gates = server.get("/gates?status=pending").await.body;
    assert_eq!((&gates["gates"][0]["runId"], &gates["gates"][0]["gateId"]), (&json!(run), &json!(0)), "{gates}");
    let poll = server.get(&format!("/runs/status?sessionId={}", session.as_str().unwrap())).await.body;
    assert_eq!((poll["status"].as_str(), &poll["gateId"]), (Some("paused"), &json!(0)));
    assert_eq!(world.count("tally", "ran"), 0);

    let path = format!("/runs/{run}/approve");
    let approved = server.post(&path, &json!({"gateId": 0, "approver": "ann", "feedback": "fine"})).await;
    assert_eq!((approved.status, &approved.body["decided"]), (200, &json!({"gateId": 0, "action": "approve"})));
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    assert_eq!(world.count("tally", "ran"), 1);

    let again = server.post(&path, &json!({})).await;
    assert_eq!((again.status, again.body["status"].as_str()), (200, Some("done")), "{}", again.body);
    let other = server.post(&format!("/runs/{run}/reject"), &json!({"gateId": 0})).await;
    assert_eq!((other.status, other.body["code"].as_str()), (409, Some("gate_conflict")), "{}", other.body);
    let missing = server.post(&path, &json!({"gateId": 5})).await;
    assert_eq!((missing.status, missing.body["code"].as_str()), (404, Some("gate_not_found")));
    let nobody = server.post("/runs/run_nobody/approve", &json!({})).await;
    assert_eq!((nobody.status, nobody.body["code"].as_str()), (404, Some("run_not_found")));
    let wrong = server.post(&path, &json!({"gateId": "0", "mood": 1})).await;
    assert_eq!((wrong.status, wrong.body["code"].as_str()), (400, Some("envelope_invalid")));
    assert_eq!(world.count("tally", "ran"), 1);
    let types = log_types(&server, &session).await;
    let at = |name: &str| types.iter().position(|t| t == name).unwrap_or_else(|| panic!("{name}: {types:?}"));
    assert!(at("gate_requested") < at("gate_decided") && at("gate_decided") < at("tool_requested"));
    assert!(server.get("/gates?status=pending").await.body["gates"].as_array().unwrap().is_empty());
    let decided = server.get("/gates?status=decided").await.body["gates"][0]["decision"].clone();
    assert_eq!((decided["approver"].as_str(), decided["feedback"].as_str()), (Some("ann"), Some("fine")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_envelope_with_a_decision_answers_a_gate() {
    let world = World::new().await;
    let server = world.serve().await;
    let ask = script_tool("request_approval", &json!({"summary": "flag it?", "proposed_action": "FLAGGED"}));
    let verdict = script_tool("submit_verdict", &json!({"item_id": "i1", "verdict": "FLAGGED", "reason": "seen"}));
    let pattern = format!("p [[s:{ask};{verdict};text]]");
    let mut envelope = json!({"sessionId": "batch/i1", "workspaceRef": world.project(),
        "item": {"item_id": "i1", "file": "a.rs", "pattern": pattern, "require_approval": true}});
    let asked = server.post("/runs", &envelope).await;
    assert_eq!((asked.status, asked.body["status"].as_str()), (200, Some("paused")), "{}", asked.body);
    assert_eq!(asked.body["gate"]["summary"], json!("flag it?"));
    assert_eq!(server.post("/runs", &envelope).await.body["status"], json!("paused"), "asked again, still paused");

    envelope["decision"] = json!({"gateId": 3, "action": "approve"});
    let wrong = server.post("/runs", &envelope).await;
    assert_eq!((wrong.status, wrong.body["code"].as_str()), (404, Some("gate_not_found")));
    envelope["decision"] = json!({"gateId": 0, "action": "approve", "feedback": "yes"});
    for _ in 0..2 {
        let done = server.post("/runs", &envelope).await;
        assert_eq!((done.status, done.body["status"].as_str()), (200, Some("done")), "{}", done.body);
        assert_eq!(done.body["verdict"]["verdict"], json!("FLAGGED"));
    }
    envelope["decision"] = json!({"gateId": 0, "action": "abort"});
    assert_eq!(server.post("/runs", &envelope).await.status, 409);
    let nobody = json!({"sessionId": "new", "prompt": "x", "decision": {"gateId": 0, "action": "approve"}});
    assert_eq!(server.post("/runs", &nobody).await.status, 404, "a verdict makes no run");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gates_want_their_number_and_an_abort_ends_the_run() {
    let world = World::new().await;
    let server = world.serve().await;
    let call = |word: &str| json!({"name": "bash", "input": {"command": format!("echo {word} >> tally")}});
    let two = format!("multi={}", script::encode(&json!([call("one"), call("two")]).to_string()));
    let mut envelope = world.prompt(&format!("{two};text"));
    envelope["approvals"] = json!([{"tool": "bash"}]);
    let run = server.submit(envelope.clone()).await;
    assert_eq!(paused(&server, &run).await["gates"].as_array().unwrap().len(), 2);
    let unnamed = server.post(&format!("/runs/{run}/approve"), &json!({})).await;
    assert_eq!((unnamed.status, &unnamed.body["pending"]), (400, &json!([0, 1])), "{}", unnamed.body);
    let reject = server.post(&format!("/runs/{run}/reject"), &json!({"gateId": 0, "feedback": "no"})).await;
    assert_eq!(
        (reject.status, reject.body["status"].as_str(), &reject.body["gateId"]),
        (200, Some("paused"), &json!(1))
    );
    server.post(&format!("/runs/{run}/approve"), &json!({"gateId": 1})).await;
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    assert_eq!((world.count("tally", "one"), world.count("tally", "two")), (0, 1));

    let run = server.submit(envelope).await;
    paused(&server, &run).await;
    let aborted = server.post(&format!("/runs/{run}/abort"), &json!({"gateId": 0})).await;
    assert_eq!((aborted.status, aborted.body["status"].as_str()), (200, Some("aborted")), "{}", aborted.body);
    let late = server.post(&format!("/runs/{run}/approve"), &json!({"gateId": 1})).await;
    assert_eq!((late.status, late.body["code"].as_str()), (409, Some("gate_conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_are_refused_messages_wait_and_an_interrupt_goes_on_without_the_verdict() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(guarded(&world, "")).await;
    let session = paused(&server, &run).await["sessionId"].clone();
    let turn = server.post("/turn", &json!({"prompt": "hello [[s:text]]", "sessionId": session})).await;
    assert_eq!((turn.status, turn.body["code"].as_str()), (409, Some("gate_pending")), "{}", turn.body);
    let path = format!("/runs/{run}/messages");
    let queued = server.post(&path, &json!({"prompt": "later [[s:text]]"})).await;
    assert_eq!((queued.status, queued.body["status"].as_str()), (202, Some("accepted")));
    let queued = queued.body["runId"].as_str().unwrap().to_owned();
    let urgent = server.post(&path, &json!({"prompt": "now [[s:text]]", "mode": "interrupt"})).await;
    let urgent = urgent.body["runId"].as_str().unwrap().to_owned();
    let (urgent, queued) = (server.ended(&urgent).await, server.ended(&queued).await);
    assert_eq!((urgent["status"].as_str(), queued["status"].as_str()), (Some("done"), Some("done")));
    assert!(urgent["endedAt"].as_str() <= queued["startedAt"].as_str(), "{urgent} {queued}");
    assert_eq!(server.get(&format!("/runs/{run}")).await.body["status"], json!("cancelled"));
    assert_eq!(world.count("tally", "ran"), 0);
    for bad in [json!({}), json!({"prompt": "x", "mode": "shout"}), json!({"prompt": "x", "colour": 1})] {
        assert_eq!(server.post(&path, &bad).await.status, 400, "{bad}");
    }
    // A turn that asks is answered in the turn's shape.
    let ask = script_tool("request_approval", &json!({"summary": "s", "proposed_action": "p"}));
    let turn = server.post("/turn", &json!({"prompt": format!("x [[s:{ask};text]]")})).await;
    assert_eq!((turn.status, turn.body["stopReason"].as_str(), &turn.body["gateId"]), (200, Some("paused"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_what_runs() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt("hang")).await;
    world.model.wait_for_requests(1).await;
    let message = json!({"prompt": "x [[s:text]]", "mode": "interrupt"});
    let urgent =
        server.post(&format!("/runs/{run}/messages"), &message).await.body["runId"].as_str().unwrap().to_owned();
    assert_eq!(server.ended(&urgent).await["status"], json!("done"));
    assert_eq!(server.ended(&run).await["status"], json!("cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_expires_by_itself_and_rules_of_the_operator_hold() {
    let mut world = World::new().await;
    world.env("TORPOR_GATE_SECONDS", "1");
    world.env("TORPOR_APPROVALS", r#"[{"tool": "bash", "pattern": "tally"}]"#);
    let server = world.serve().await;
    let run = server.submit(world.prompt(&format!("{};text", bash("echo ran >> tally")))).await;
    let record = until("the gate to expire", async || {
        let record = server.get(&format!("/runs/{run}")).await.body;
        (record["status"] == json!("done")).then_some(record)
    })
    .await;
    assert_eq!(world.count("tally", "ran"), 0, "{record}");
    let gate = server.get(&format!("/gates?runId={run}")).await.body["gates"][0].clone();
    assert_eq!((&gate["decision"]["action"], &gate["decision"]["expired"]), (&json!("reject"), &json!(true)), "{gate}");
}
