//! Promises of [`Clock`], and the shape of a [`Tool`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use torpor_core::Clock;
use torpor_core::tool::{Place, Tool};

use super::soon;

/// Time does not run backwards, and a sleep lasts as long as it says. `pass` lets time go by, for a clock that does
/// not by itself.
pub async fn check_clock(clock: Arc<dyn Clock>, pass: impl Fn(Duration)) {
    let before = clock.now();
    let nap = Duration::from_millis(20);
    let sleeper = tokio::spawn({
        let clock = clock.clone();
        async move {
            clock.sleep(nap).await;
            clock.now()
        }
    });
    while !sleeper.is_finished() {
        pass(Duration::from_millis(5));
        tokio::task::yield_now().await;
    }
    let after = soon(sleeper).await.unwrap();
    assert!(after.since(before) >= nap, "{before:?} {after:?}");
    soon(clock.sleep(Duration::ZERO)).await;
}

/// What the model is told about a tool is complete, unknown arguments are refused by its schema, and a session tool
/// is pure.
pub fn check_tool(tool: &dyn Tool, input: &Value) {
    let spec = tool.spec();
    assert!(spec.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", spec.name);
    assert!(spec.description.len() > 40, "{}: say what it does and how to use it", spec.name);
    assert_eq!(spec.schema["type"], json!("object"), "{}", spec.name);
    assert_eq!(spec.schema["additionalProperties"], json!(false), "{}", spec.name);
    assert!(spec.schema["properties"].is_object(), "{}", spec.name);
    let (once, again) = (tool.run_session(input), tool.run_session(input));
    assert_eq!(once, again, "{} is not pure", spec.name);
    if tool.place() == Place::Sandbox {
        assert!(once.result.is_error && once.verdict.is_none(), "{} ran in the brain", spec.name);
    }
}
