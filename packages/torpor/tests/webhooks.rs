//! Webhooks of the real server: signed, repeated, and sent again after `kill -9`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{World, bash, until};
use torpor_testkit::exposition::read;
use torpor_testkit::receiver::{Answer, Got, Receiver};
use torpor_webhook::Secret;

const SECRET: &str = "whsec_Y2FuYXJ5LXNlY3JldC1vZi1hLXdlYmhvb2s=";

/// A world whose operator lets runs of the default tenant tell a receiver on loopback.
async fn world() -> World {
    let mut world = World::embedded().await;
    let file = world.file("secrets.toml");
    let other = "[[secret]]\ntenant = \"globex\"\nname = \"theirs\"\nvalue = \"which nobody else may ever use\"\n";
    std::fs::write(&file, format!("[[secret]]\nname = \"billing\"\nvalue = \"{SECRET}\"\n{other}")).unwrap();
    world.env("TORPOR_WEBHOOK_SECRETS_FILE", file.to_str().unwrap());
    world.env("TORPOR_WEBHOOK_ALLOW", "127.0.0.1");
    world
}

fn telling(mut envelope: Value, url: &str) -> Value {
    envelope["webhook"] = json!({"url": url, "secretRef": "billing"});
    envelope
}

/// What a receiver does: checks the signature over what it got, then reads it.
fn verified(got: &Got) -> Value {
    let (id, seconds) = (got.header("webhook-id"), got.header("webhook-timestamp").parse().unwrap());
    assert_eq!(got.header("webhook-signature"), Secret::parse(SECRET).unwrap().sign(id, seconds, &got.body));
    let body: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(body["id"], id);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_at_first_is_told_again() {
    let world = world().await;
    let receiver = Receiver::start([Answer::Status(503, String::new())]).await;
    let server = world.serve().await;
    let run = server.submit(telling(world.prompt("text"), &receiver.url())).await;
    let got = receiver.wait_for(2).await;
    let (first, second) = (verified(&got[0]), verified(&got[1]));
    assert_eq!(first, second, "the same message");
    let seconds = |got: &Got| got.header("webhook-timestamp").parse::<u64>().unwrap();
    assert!(seconds(&got[1]) > seconds(&got[0]), "the time is of the attempt");
    assert_eq!((&second["type"], &second["data"]["runId"]), (&json!("run.ended"), &json!(run)));
    assert_eq!((&second["data"]["status"], &second["data"]["tenant"]), (&json!("done"), &json!("default")));

    let record = until("the note", async || {
        let record = server.get(&format!("/runs/{run}")).await.body;
        (record["webhook"]["state"] == "sent").then_some(record)
    })
    .await;
    let want = json!({"event": "run.ended", "state": "sent", "attempts": 2, "lastStatus": 204});
    assert_eq!(record["webhook"], want);
    let page = read(&server.stream("/metrics").await.text().await.unwrap()).unwrap();
    for (outcome, n) in [("sent", 1.0), ("failed", 1.0), ("given_up", 0.0)] {
        let found = page.sum("torpor_webhook_attempts_total", &[("outcome", outcome)]).unwrap_or(0.0);
        assert_eq!(found, n, "{outcome}");
    }
    let shown = format!("{}{record}", world.log());
    assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "a secret, or a URL, is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_crash_cuts_off_is_made_again_under_its_id() {
    let world = world().await;
    let receiver = Receiver::start([Answer::Silence]).await;
    let server = world.serve().await;
    let run = server.submit(telling(world.prompt("text"), &receiver.url())).await;
    receiver.wait_for(1).await;
    server.kill().await;
    let server = world.serve().await;
    let got = receiver.wait_for(2).await;
    assert_eq!(verified(&got[0]), verified(&got[1]));
    let attempts = until("the note", async || {
        let record = server.get(&format!("/runs/{run}")).await.body;
        (record["webhook"]["state"] == "sent").then(|| record["webhook"]["attempts"].clone())
    });
    assert_eq!(attempts.await, 2, "the one that was cut off counts");
}

/// A person is asked, and everybody who should hear of it does; a further turn of the session is told of as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_further_turns_are_told() {
    let world = world().await;
    let receiver = Receiver::start([]).await;
    let server = world.serve().await;
    let mut envelope = telling(world.prompt(&format!("{};text", bash("true"))), &receiver.url());
    envelope["approvals"] = json!([{"tool": "bash"}]);
    let paused = server.post("/runs", &envelope).await.body;
    assert_eq!(paused["status"], "paused", "{paused}");
    let told = verified(&receiver.wait_for(1).await[0]);
    assert_eq!((&told["type"], &told["data"]["status"]), (&json!("run.paused"), &json!("paused")));
    assert_eq!((&told["data"]["gateId"], &told["data"]["runId"]), (&json!(0), &paused["runId"]));

    let run = paused["runId"].as_str().unwrap();
    assert_eq!(server.post(&format!("/runs/{run}/approve"), &json!({})).await.status, 200);
    let told = verified(&receiver.wait_for(2).await[1]);
    assert_eq!((&told["type"], &told["data"]["runId"]), (&json!("run.ended"), &json!(run)));

    let turn = json!({"prompt": "go [[s:text]]", "sessionId": paused["sessionId"]});
    let turn = server.post("/turn", &turn).await.body;
    let told = verified(&receiver.wait_for(3).await[2]);
    assert_eq!((&told["type"], &told["data"]["runId"]), (&json!("run.ended"), &turn["runId"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_cannot_be_are_refused_by_name() {
    let world = world().await;
    let server = world.serve().await;
    for (webhook, field, says) in [
        (json!({"url": "https://10.0.0.1/canary", "secretRef": "billing"}), "webhook.url", "private"),
        (json!({"url": "http://hooks.example/canary", "secretRef": "billing"}), "webhook.url", "https"),
        (json!({"url": "https://hooks.example/canary", "secretRef": "theirs"}), "webhook.secretRef", "names no secret"),
        (json!({"url": "https://hooks.example/canary"}), "webhook.secretRef", "is required"),
        (json!({"secretRef": "billing"}), "webhook.url", "is required"),
    ] {
        let mut envelope = world.prompt("text");
        envelope["webhook"] = webhook;
        let answer = server.post("/runs", &envelope).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("envelope_invalid")), "{}", answer.body);
        let text = answer.body.to_string();
        assert!(text.contains(field) && text.contains(says) && !text.contains("canary"), "{text}");
    }
    assert_eq!(world.model.requests(), 0);
}
