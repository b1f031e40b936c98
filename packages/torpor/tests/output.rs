//! Runs that must end with a result, through the real binary and over both wires.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::World;
use torpor_testkit::model_server::script::encode;

fn submit(result: &Value) -> String {
    format!("tool.submit_result={}", encode(&json!({"result": result}).to_string()))
}

fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"total": {"type": "integer"}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
        "required": ["total"],
        "$defs": {"line": {"type": "string", "maxLength": 8}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_reaches_both_wires_and_its_result_every_answer() {
    let mut world = World::new().await;
    world.env("OPENAI_BASE_URL", &format!("{}/v1", world.model.base_url()));
    let server = world.serve().await;
    for (provider, model) in [("anthropic", "claude-x"), ("openai", "other")] {
        world.model.reset();
        let script = [submit(&json!({"total": "12"})), submit(&json!({"total": 12, "lines": ["a"]}))].join(";");
        let mut envelope = world.prompt(&script);
        envelope["outputSchema"] = schema();
        envelope["provider"] = json!(provider);
        envelope["model"] = json!(model);
        envelope["sessionId"] = json!(format!("with {provider}"));
        let done = server.post("/runs", &envelope).await;
        assert_eq!((done.status, &done.body["status"]), (200, &json!("done")), "{}", done.body);
        let want = json!({"total": 12, "lines": ["a"]});
        assert_eq!(done.body["result"], want, "{}", done.body);
        let run = done.body["runId"].as_str().unwrap();
        assert_eq!(server.get(&format!("/runs/{run}")).await.body["result"], want);
        assert_eq!(server.post("/runs", &envelope).await.body["result"], want, "the same post, the same answer");

        let sent = world.model.recorded();
        let shown = |n: usize| -> Value {
            let body = sent[n].json();
            let tools = body["tools"].as_array().unwrap();
            let (name, schema) = if provider == "openai" {
                ("/function/name", "/function/parameters")
            } else {
                ("/name", "/input_schema")
            };
            let tool = tools.iter().find(|t| t.pointer(name) == Some(&json!("submit_result"))).unwrap();
            tool.pointer(schema).unwrap().clone()
        };
        assert_eq!(sent.len(), 2);
        assert_eq!(shown(0), shown(1), "the tools are the same for the whole session");
        assert_eq!((&shown(0)["type"], &shown(0)["required"]), (&json!("object"), &json!(["result"])));
        assert_eq!(shown(0)["properties"]["result"]["properties"]["total"], json!({"type": "integer"}));
        assert_eq!(shown(0)["$defs"]["line"]["maxLength"], json!(8));
        let told = String::from_utf8_lossy(&sent[1].body).into_owned();
        assert!(told.contains("at `/result/total`: the value is not of type"), "{told}");

        // A further turn ends the same way, and says so in its own words too.
        let turn =
            json!({"sessionId": format!("with {provider}"), "prompt": format!("and now? [[s:{}]]", submit(&want))});
        let turn = server.post("/turn", &turn).await;
        assert_eq!((&turn.body["result"], &turn.body["stopReason"]), (&want, &json!("end_turn")), "{}", turn.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_result_that_fits_fails_and_says_why() {
    let world = World::new().await;
    let server = world.serve().await;
    let wrong = submit(&json!({"total": []}));
    for (script, want) in [
        (format!("{wrong};{wrong};{wrong};{}", submit(&json!({"total": 1}))), "at `/result/total`"),
        ("text".to_owned(), "the model stopped twice without submitting a result"),
        ("refusal".to_owned(), "the model refused"),
    ] {
        let mut envelope = world.prompt(&script);
        envelope["outputSchema"] = schema();
        let failed = server.post("/runs", &envelope).await;
        assert_eq!((failed.status, &failed.body["status"]), (200, &json!("failed")), "{}", failed.body);
        assert_eq!(failed.body["reason"], json!("invalid_output"), "{}", failed.body);
        assert!(failed.body["message"].as_str().unwrap().contains(want), "{}", failed.body);
    }

    let deep = (0..80).fold(json!({}), |inner, _| json!({"not": inner}));
    for (schema, want) in [
        (json!({"items": {"$ref": "http://127.0.0.1:1/x"}}), "at `/items/$ref`, which leads out of the schema"),
        (json!({"type": "objekt"}), "at `/type`"),
        (json!({"properties": {"next": {"$ref": "#"}}}), "leads back to itself"),
        (deep, "64 levels deep"),
        (json!([]), "must be an object"),
    ] {
        let refused = server.post("/runs", &json!({"prompt": "x", "outputSchema": schema})).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("envelope_invalid")), "{}", refused.body);
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("outputSchema") && detail.contains(want), "{detail}");
    }
}
