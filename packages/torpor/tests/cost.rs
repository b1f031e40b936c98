//! What runs cost, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::{World, bash};

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_shown_summed_and_limited_where_a_price_is_known() {
    let mut world = World::new().await;
    world.env("OPENAI_BASE_URL", &format!("{}/v1", world.model.base_url()));
    world.env("TORPOR_MODEL_PRICES", "openai/own=2/10/0/0");
    let server = world.serve().await;
    // 100 tokens in and 10 out a call.
    let script = format!("{};text;usage=100,10", bash("true"));
    for (provider, model, cost) in [
        ("openai", "own", json!(0.0006)),
        ("anthropic", "claude-opus-4-8", json!(0.0015)),
        ("openai", "unheard-of", json!(null)),
    ] {
        let mut envelope = world.prompt(&script);
        envelope["provider"] = json!(provider);
        envelope["model"] = json!(model);
        let done = server.post("/runs", &envelope).await;
        assert_eq!((done.status, &done.body["status"]), (200, &json!("done")), "{}", done.body);
        assert_eq!(done.body["usage"]["costUsd"], cost, "{}", done.body);
        let run = done.body["runId"].as_str().unwrap();
        assert_eq!(server.get(&format!("/runs/{run}")).await.body["usage"]["costUsd"], cost);

        envelope["budget"] = json!({"maxCostUsd": 0.0003});
        let limited = server.post("/runs", &envelope).await;
        if cost.is_null() {
            assert_eq!((limited.status, &limited.body["code"]), (400, &json!("envelope_invalid")), "{}", limited.body);
            let detail = limited.body["detail"].as_str().unwrap();
            assert!(detail.contains("budget.maxCostUsd") && detail.contains("TORPOR_MODEL_PRICES"), "{detail}");
        } else {
            assert_eq!(limited.body["reason"], json!("budget"), "{}", limited.body);
            assert!(
                limited.body["message"].as_str().unwrap().starts_with("limit of $0.0003 reached"),
                "{}",
                limited.body
            );
        }
    }
    let page = server.stream("/metrics").await.text().await.unwrap();
    let costs = |model: &str| page.lines().any(|l| l.starts_with("torpor_model_cost_usd_total") && l.contains(model));
    assert!(costs("model=\"claude-opus-4-8\"") && !costs("unheard-of"), "{page}");
}
