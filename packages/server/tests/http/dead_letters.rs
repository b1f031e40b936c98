//! Dead letters over HTTP, with the real store: pages, and what a redrive is answered.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use torpor_core::dead_letter::LetterStore as _;
use torpor_core::log::SessionLog as _;
use torpor_core::queue::WorkQueue as _;
use torpor_server::{App, Config, router};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::sample::{claimed, done, ended, first_claimed, write};

use crate::client::call;
use crate::fake::Fake;

#[tokio::test]
async fn letters_come_in_pages_and_are_driven_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), Options { max_queued: 1, ..Options::default() }).unwrap());
    let app = App { queue: store.clone(), runs: store.clone(), letters: store.clone(), ..Fake::new().app() };
    let app = router(app, Config::default());
    let ask = async |method: Method, path: &str| call(&app, method, path, &[], String::new()).await;
    let mut runs = Vec::new();
    for session in ["a", "b", "c"] {
        let lease = claimed(store.enqueue(first_claimed(session)).await.unwrap());
        let run = lease.record.run_id.clone();
        let early = ask(Method::POST, &format!("/runs/{run}/redrive")).await;
        assert!(early.problem(409, "not_dead_letter").contains("/dead-letters"));
        store.append(write(&lease, 0, vec![ended(&lease, done("ok"))])).await.unwrap();
        store.dead_letter(&run, &format!("why {session}")).await.unwrap();
        runs.push(run);
    }

    let page = ask(Method::GET, "/dead-letters?limit=2&tenant=acme").await.json();
    let lines: Vec<_> = page["deadLetters"].as_array().unwrap().iter().map(|l| (&l["runId"], &l["reason"])).collect();
    assert_eq!(lines, [(&json!(runs[2]), &json!("why c")), (&json!(runs[1]), &json!("why b"))]);
    assert!(page["deadLetters"][0]["givenUpAt"].as_str().unwrap().ends_with('Z'), "{page}");
    let next = format!("/dead-letters?limit=2&cursor={}", page["nextCursor"].as_str().unwrap());
    let page = ask(Method::GET, &next).await.json();
    assert_eq!((page["deadLetters"][0]["sessionId"].as_str(), &page["nextCursor"]), (Some("a"), &Value::Null));

    let redrive = format!("/runs/{}/redrive", runs[0]);
    let first = ask(Method::POST, &redrive).await;
    let (body, location) = (first.json(), first.header("location").to_owned());
    assert_eq!((first.status, &body["redriveOf"], &body["status"]), (202, &json!(runs[0]), &json!("accepted")));
    assert_eq!(location, format!("/runs/{}", body["runId"].as_str().unwrap()));
    let second = ask(Method::POST, &redrive).await;
    assert_eq!((second.status, second.json()), (202, body));
    let full = ask(Method::POST, &format!("/runs/{}/redrive", runs[1])).await;
    full.problem(503, "unavailable");
    assert_eq!(store.letters(&Default::default()).await.unwrap().letters.len(), 1, "a page of one: it is still there");

    for (path, said) in [
        ("/dead-letters?limit=0", "`limit` must be an integer from 1 to 200"),
        ("/dead-letters?status=failed", "`status` is not a known parameter"),
        ("/dead-letters?cursor=mine", "`cursor` must be the `nextCursor`"),
    ] {
        let refused = ask(Method::GET, path).await;
        let detail = refused.problem(400, "request_invalid");
        assert!(detail.contains(said), "{detail}");
    }
}
