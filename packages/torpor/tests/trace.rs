//! One trace from the request to the command, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;

use serde_json::{Value, json};
use support::{Server, World, bash};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Posts as a caller that has a span open.
async fn post_traced(server: &Server, body: &Value) -> Value {
    let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
    let request = http
        .post(format!("{}/runs", server.url))
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-{SPAN}-01"))
        .header("tracestate", "vendor=1")
        .body(body.to_string());
    let response = request.send().await.unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Trace and span of every model call so far.
fn model_spans(world: &World) -> Vec<(String, String)> {
    let requests = world.model.recorded();
    let parents = requests.iter().map(|r| r.header("traceparent").expect("a traceparent").to_owned());
    parents.map(|p| (p[3..35].to_owned(), p[36..52].to_owned())).collect()
}

#[tokio::test]
async fn a_trace_goes_from_the_request_to_the_model_and_the_command() {
    let world = World::new().await;
    let server = world.serve().await;
    let script = [bash("printenv TRACEPARENT > seen; printenv | grep -ci tracestate > state"), "text".into()].join(";");
    let ended = post_traced(&server, &world.prompt(&script)).await;
    assert_eq!(ended["status"], "done", "{ended}");

    let seen = std::fs::read_to_string(world.file("seen")).unwrap();
    assert_eq!(&seen[3..35], TRACE, "{seen}");
    assert_eq!(std::fs::read_to_string(world.file("state")).unwrap().trim(), "0");
    let mut spans: HashSet<String> = HashSet::from([SPAN.to_owned(), seen[36..52].to_owned()]);
    assert_eq!(world.model.recorded()[0].header("tracestate"), Some("vendor=1"));
    let calls = model_spans(&world);
    assert_eq!(calls.len(), 2);
    for (trace, span) in calls {
        assert_eq!(trace, TRACE);
        assert!(spans.insert(span), "every call is a span of its own");
    }
    let record = server.get(&format!("/runs/{}", ended["runId"].as_str().unwrap())).await.body;
    assert_eq!(record["traceId"], TRACE, "{record}");
    let log = world.log();
    let line = log.lines().find(|l| l.contains("run ended")).expect("the end of a run is logged");
    assert!(line.contains(TRACE) && line.contains(ended["runId"].as_str().unwrap()), "{line}");
}

/// The work of a run that was posted asynchronously, by whatever process, belongs to the trace of its post.
#[tokio::test]
async fn an_asynchronous_run_keeps_its_trace_over_a_crash() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("{};text", bash("touch begun; while [ ! -e go ]; do sleep 0.05; done")));
    envelope["async"] = json!(true);
    let run = post_traced(&server, &envelope).await["runId"].as_str().unwrap().to_owned();
    support::until_file(&world.file("begun")).await;
    server.kill().await;
    let server = world.serve().await;
    std::fs::write(world.file("go"), "").unwrap();
    assert_eq!(server.ended(&run).await["status"], "done");
    let calls = model_spans(&world);
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|(trace, _)| trace == TRACE), "{calls:?}");
}

#[tokio::test]
async fn a_run_that_nobody_traced_has_a_trace_of_its_own() {
    let world = World::new().await;
    let server = world.serve().await;
    for _ in 0..2 {
        assert_eq!(server.post("/runs", &world.prompt("text")).await.body["status"], "done");
    }
    let traces: HashSet<String> = model_spans(&world).into_iter().map(|(trace, _)| trace).collect();
    assert_eq!(traces.len(), 2);
}
