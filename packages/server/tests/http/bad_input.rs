//! Every way to ask wrongly, and the words that come back.

use axum::body::Body;
use futures::{StreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};
use torpor_server::{App, Config, router};

use crate::client::{call, get, post};
use crate::fake::Fake;

#[tokio::test]
async fn bodies_of_turns() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let cases: &[(&[u8], u16, &str, &str)] = &[
        (b"", 400, "invalid_json", "empty"),
        (b"  \n", 400, "invalid_json", "empty"),
        (b"{", 400, "invalid_json", "line 1"),
        (b"{} {}", 400, "invalid_json", "trailing"),
        (b"\xff\xfe", 400, "invalid_json", "JSON"),
        (b"{\"prompt\":\"\xc3\x28\"}", 400, "invalid_json", "JSON"),
        (br#"{"prompt":"\ud800"}"#, 400, "invalid_json", "JSON"),
        (br#"{"prompt":"\udc00 x"}"#, 400, "invalid_json", "JSON"),
        (b"null", 400, "envelope_invalid", "`body` must be a JSON object"),
        (b"[]", 400, "envelope_invalid", "`body` must be a JSON object"),
        (b"7", 400, "envelope_invalid", "`body` must be a JSON object"),
        (br#""prompt""#, 400, "envelope_invalid", "`body` must be a JSON object"),
        (b"{}", 400, "prompt_required", "`prompt` is required"),
        (br#"{"prompt":null}"#, 400, "prompt_required", "`prompt` is required"),
        (br#"{"prompt":""}"#, 400, "prompt_required", "`prompt` must not be blank"),
        (br#"{"prompt":" \n\t"}"#, 400, "prompt_required", "`prompt` must not be blank"),
        (br#"{"promt":"x"}"#, 400, "prompt_required", "`promt` is not a known field"),
        (br#"{"prompt":1}"#, 400, "envelope_invalid", "`prompt` must be a string, got a number"),
        (br#"{"prompt":{}}"#, 400, "envelope_invalid", "`prompt` must be a string, got an object"),
        (br#"{"prompt":["x"]}"#, 400, "envelope_invalid", "`prompt` must be a string, got an array"),
        (br#"{"prompt":true}"#, 400, "envelope_invalid", "`prompt` must be a string, got a boolean"),
        (br#"{"prompt":"x","model":"y"}"#, 400, "envelope_invalid", "`model` is not a known field"),
        (br#"{"prompt":"x","sessionId":7}"#, 400, "envelope_invalid", "`sessionId` must be a string, got a number"),
        (br#"{"prompt":"x","sessionId":{}}"#, 400, "envelope_invalid", "`sessionId` must be a string"),
        (br#"{"prompt":"x","sessionId":"nobody"}"#, 404, "session_not_found", "no session"),
        (br#"{"prompt":"x","sessionId":"nobody:seq"}"#, 404, "session_not_found", "no session"),
        (br#"{"prompt":"x","sessionId":""}"#, 404, "session_not_found", "must not be empty"),
        (br#"{"prompt":"x","sessionId":"a\nb"}"#, 404, "session_not_found", "control"),
    ];
    for (body, status, code, words) in cases {
        let answer = call(&app, Method::POST, "/turn", &[], body.to_vec()).await;
        let detail = answer.problem(*status, code);
        assert!(detail.contains(words), "{}: {detail}", String::from_utf8_lossy(body));
        assert_eq!(answer.json()["instance"], "/turn");
    }
    assert!(fake.records().is_empty(), "nothing was accepted");
}

#[tokio::test]
async fn bodies_of_runs() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let deep = "[".repeat(100_000);
    let cases: &[(&str, &str, &str)] = &[
        ("", "invalid_json", "empty"),
        ("not json", "invalid_json", "JSON"),
        (&deep, "invalid_json", "recursion"),
        (r#"{"prompt":"\ud800"}"#, "invalid_json", "JSON"),
        ("null", "envelope_invalid", "`body` must be a JSON object"),
        ("{}", "envelope_invalid", "`prompt`"),
        (r#"{"prompt":" "}"#, "envelope_invalid", "`prompt` must not be blank"),
        (r#"{"prompt":1}"#, "envelope_invalid", "`prompt` must be a string"),
        (r#"{"prompt":"x","sessionId":7}"#, "envelope_invalid", "`sessionId` must be a string"),
        (r#"{"prompt":"x","sessionId":""}"#, "envelope_invalid", "`sessionId` must not be empty"),
        (r#"{"prompt":"x","async":"true"}"#, "envelope_invalid", "`async` must be true or false"),
        (r#"{"prompt":"x","maxTurns":0}"#, "envelope_invalid", "`maxTurns`"),
        (r#"{"prompt":"x","colour":"red"}"#, "envelope_invalid", "`colour` is not a known field"),
        (r#"{"prompt":"x","tools":["fly"]}"#, "envelope_invalid", "`tools` names \"fly\""),
        (r#"{"prompt":"x","provider":"acme"}"#, "envelope_invalid", "`provider` cannot be used"),
        (r#"{"prompt":"x","provider":"scripted","model":"/etc/passwd"}"#, "envelope_invalid", "`provider`"),
        (r#"{"item":{"item_id":"a"}}"#, "envelope_invalid", "`item.file` is required"),
        (r#"{"item":{"item_id":"a","file":"f","pattern":"p"},"kind":"weave"}"#, "envelope_invalid", "`kind`"),
    ];
    for (body, code, words) in cases {
        let answer = call(&app, Method::POST, "/runs", &[], body.to_string()).await;
        let detail = answer.problem(400, code);
        assert!(detail.contains(words), "{body:.80}: {detail}");
        if *code == "envelope_invalid" {
            let first = &answer.json()["errors"][0];
            assert!(first["field"].is_string() && first["message"].is_string(), "{first}");
        }
    }
    assert!(fake.records().is_empty(), "nothing was accepted");
}

#[tokio::test]
async fn headers_and_parameters() {
    let app = router(Fake::new().app(), Config::default());
    let long = "k".repeat(257);
    for key in ["", &long] {
        let headers = [("idempotency-key", key)];
        for path in ["/runs", "/turn"] {
            let answer = call(&app, Method::POST, path, &headers, r#"{"prompt":"x"}"#).await;
            assert!(answer.problem(400, "request_invalid").contains("`Idempotency-Key` must"), "{path} {key}");
        }
    }
    for (path, words) in [
        ("/runs?status=busy", "`status` must be one of queued, running"),
        ("/runs?limit=0", "`limit` must be an integer from 1 to 200"),
        ("/runs?limit=201", "`limit` must be an integer from 1 to 200"),
        ("/runs?limit=many", "`limit` must be an integer from 1 to 200"),
        ("/runs?limit=1&limit=2", "`limit` must be given once"),
        ("/runs?createdAfter=yesterday", "`createdAfter` must be an RFC 3339 time"),
        ("/runs?tenant=", "`tenant` must not be empty"),
        ("/runs?cursor=", "`cursor` must be the `nextCursor`"),
        ("/runs?cursor=made-up", "`cursor` must be the `nextCursor`"),
        ("/runs?colour=red", "`colour` is not a known parameter"),
    ] {
        let detail = get(&app, path).await.problem(400, "request_invalid");
        assert!(detail.contains(words), "{path}: {detail}");
    }
    get(&app, "/runs/status").await.problem(400, "sessionId_required");
    get(&app, "/runs/status?sessionId=&tenant=a").await.problem(400, "sessionId_required");
}

#[tokio::test]
async fn unknown_things_are_not_found_and_wrong_methods_not_allowed() {
    let app = router(Fake::new().app(), Config::default());
    for path in ["/", "/nope", "/runs/", "/health/", "/runs/a/b", "/turn/x", "/%ff"] {
        get(&app, path).await.problem(404, "not_found");
    }
    for path in ["/runs/run_0", "/runs/..", "/runs/%2e%2e", "/runs/%ff", "/runs/status?sessionId=nobody"] {
        get(&app, path).await.problem(404, "run_not_found");
    }
    get(&app, &format!("/runs/status?sessionId={}", "x".repeat(300))).await.problem(404, "run_not_found");
    for (method, path, allow) in [
        (Method::GET, "/turn", "POST"),
        (Method::DELETE, "/runs", "GET,HEAD,POST"),
        (Method::POST, "/health", "GET,HEAD"),
        (Method::PUT, "/runs/run_0", "GET,HEAD"),
        (Method::GET, "/run-leaf", "POST"),
    ] {
        let answer = call(&app, method.clone(), path, &[], Body::empty()).await;
        assert!(answer.problem(405, "method_not_allowed").contains(method.as_str()));
        let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn queries_and_head_do_not_hide_a_route() {
    let app = router(Fake::new().app(), Config::default());
    let answer = get(&app, "/health?x=1").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
    let answer = call(&app, Method::HEAD, "/health", &[], Body::empty()).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let answer = call(&app, Method::HEAD, "/nope", &[], Body::empty()).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    assert_eq!(post(&app, "/turn?x=1", &json!({"prompt": "hi"})).await.status, 200);
    assert_eq!(post(&app, "/runs?x=1", &json!({"prompt": "hi"})).await.status, 200);
}

#[tokio::test]
async fn work_that_needs_a_sandbox_is_refused_where_there_is_none() {
    let fake = Fake::new();
    let app = router(App { sandbox: None, ..fake.app() }, Config::default());
    let item = json!({"item": {"item_id": "a", "file": "f", "pattern": "p"}});
    assert!(post(&app, "/runs", &item).await.problem(400, "no_sandbox").contains("`item`"));
    let tools = json!({"prompt": "x", "tools": ["bash"]});
    assert!(post(&app, "/runs", &tools).await.problem(400, "no_sandbox").contains("`tools`"));
    let workspace = json!({"prompt": "x", "workspaceRef": "/srv"});
    assert!(post(&app, "/runs", &workspace).await.problem(400, "no_sandbox").contains("`workspaceRef`"));
    for fine in [
        json!({"prompt": "x", "tools": ["submit_verdict"]}),
        json!({"prompt": "x"}),
        json!({"prompt": "x", "tools": []}),
    ] {
        assert_eq!(post(&app, "/runs", &fine).await.status, 200, "{fine}");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_next_request_is_served() {
    let app = router(Fake::new().app(), Config::default());
    post(&app, "/turn", &json!({"prompt": "panic"})).await.problem(500, "internal");
    assert_eq!(post(&app, "/turn", &json!({"prompt": "hi"})).await.status, 200);
}

#[tokio::test]
async fn a_large_body_is_refused_by_what_it_says_and_by_what_it_is() {
    let app = router(Fake::new().app(), Config { body_limit: 64, ..Config::default() });
    let body = json!({"prompt": "x".repeat(100)}).to_string();
    for path in ["/runs", "/turn", "/run-leaf"] {
        let detail = call(&app, Method::POST, path, &[], body.clone()).await.problem(413, "payload_too_large");
        assert!(detail.contains("64 bytes"), "{detail}");
    }
    let fits = json!({"prompt": "x".repeat(40)});
    assert_eq!(post(&app, "/turn", &fits).await.json()["response"], Value::from(format!("echo: {}", "x".repeat(40))));
}

#[tokio::test]
async fn a_body_in_pieces_is_one_body_up_to_the_limit() {
    let app = router(Fake::new().app(), Config { body_limit: 17, ..Config::default() });
    for (pieces, status) in [
        (&["{\"prompt\":\"12345\"}"][..], 413),
        (&["{\"prompt\":\"1234\"}"], 200),
        (&["{\"prompt\"", ":", "\"1234\"}"], 200),
        (&["{\"prompt\"", "", ":\"12345\"", "}"], 413),
        (&["    ", "    ", "    ", "    ", "  "], 413),
        (&["  ", " "], 400),
        (&[], 400),
    ] {
        let stream = stream::iter(pieces.to_vec()).map(Ok::<_, std::io::Error>);
        let answer = call(&app, Method::POST, "/turn", &[], Body::from_stream(stream)).await;
        assert_eq!(answer.status, status, "{pieces:?}");
    }
}
