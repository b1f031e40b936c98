//! Importing sessions: what is said of files that are not one, and what bounds those that are.

use axum::body::Body;
use futures::{StreamExt as _, stream};
use http::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use torpor_server::{Config, router};

use crate::client::call;
use crate::fake::Fake;

/// A file of a session without entries.
pub(crate) fn file(session: &str) -> String {
    let first = json!({"session": {
        "format": "torpor-session", "version": 1, "sessionId": session, "createdAt": "2026-11-20T00:00:00Z"
    }});
    let first = format!("{first}\n");
    let sha256: String = Sha256::digest(&first).iter().map(|b| format!("{b:02x}")).collect();
    let last = json!({"end": {"entries": 0, "sha256": sha256}});
    format!("{first}{last}\n")
}

#[tokio::test]
async fn files_that_are_no_session_are_refused_by_line() {
    let app = router(Fake::new().app(), Config::default());
    let whole = file("s");
    let first = whole.lines().next().unwrap();
    for (body, status, code, words) in [
        (String::new(), 400, "import_invalid", "cut off after line 0"),
        ("{\"promp".into(), 400, "import_invalid", "line 1: "),
        ("{}\n".into(), 400, "import_invalid", "line 1: "),
        (first.into(), 400, "import_invalid", "cut off after line 1"),
        (whole[..whole.len() - 5].into(), 400, "import_invalid", "line 2: "),
        (format!("{whole}{first}\n"), 400, "import_invalid", "line 3: nothing may follow"),
        (whole.replace("\"s\"", "\"t\""), 400, "import_invalid", "the file was changed"),
        (first.replace("\"s\"", "\"s\",\"sessionId\":\"s\""), 400, "import_invalid", "line 1: "),
        (
            format!(
                "{first}\n{{\"entry\":{{\"position\":1,\"atMs\":1,\"epoch\":1,\"schema\":2,\"body\":[{}1]}}}}\n",
                "1,".repeat(100_000)
            ),
            400,
            "import_invalid",
            "line 2: it holds more than 100000 values",
        ),
        ("x".repeat(17 << 20), 400, "import_invalid", "line 1 is longer than 16777216 bytes"),
    ] {
        let answer = call(&app, Method::POST, "/sessions/import", &[], body.clone()).await;
        let detail = answer.problem(status, code);
        assert!(detail.contains(words), "{detail}");
    }
    for (query, words) in [
        ("?sessionId=", "`sessionId` must not be empty"),
        ("?sessionId=%0a", "`sessionId` must not contain control"),
        ("?tenant=", "`tenant` must not be empty"),
        ("?id=s", "`id` is not a known parameter"),
    ] {
        let answer = call(&app, Method::POST, &format!("/sessions/import{query}"), &[], whole.clone()).await;
        let detail = answer.problem(400, "request_invalid");
        assert!(detail.contains(words), "{detail}");
    }
}

/// In pieces of any size, with the id that is asked for, a fresh one, and without a last line break.
#[tokio::test]
async fn a_whole_file_is_taken() {
    let app = router(Fake::new().app(), Config::default());
    let whole = file("s");
    for size in [1, 7, whole.len()] {
        let pieces: Vec<_> = whole.as_bytes().chunks(size).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect();
        let body = Body::from_stream(stream::iter(pieces));
        let answer = call(&app, Method::POST, "/sessions/import?sessionId=mine", &[], body).await;
        assert_eq!((answer.status, answer.json()["sessionId"].as_str()), (201, Some("mine")), "pieces of {size}");
    }
    let answer = call(&app, Method::POST, "/sessions/import", &[], whole.trim_end().to_owned()).await;
    let id = answer.json()["sessionId"].as_str().unwrap().to_owned();
    assert!(answer.status == 201 && id != "s" && id.len() == 36, "{id}");
}

#[tokio::test]
async fn files_and_how_many_at_once_are_bounded() {
    let config = Config { import_limit: 1_000, ..Config::default() };
    let app = router(Fake::new().app(), config);
    let endless = || Body::from_stream(stream::repeat("x".repeat(100)).map(Ok::<_, std::io::Error>));
    call(&app, Method::POST, "/sessions/import", &[], endless()).await.problem(413, "payload_too_large");
    call(&app, Method::POST, "/sessions/import", &[], "x".repeat(1_001)).await.problem(413, "payload_too_large");

    // As many as there may be are under way, and say nothing.
    let stalled: Vec<_> = (0..2)
        .map(|_| {
            let body = Body::from_stream(stream::pending::<Result<String, std::io::Error>>().boxed());
            let app = app.clone();
            let mut call = Box::pin(async move { call(&app, Method::POST, "/sessions/import", &[], body).await });
            let polled = futures::FutureExt::now_or_never(&mut call);
            assert!(polled.is_none());
            call
        })
        .collect();
    call(&app, Method::POST, "/sessions/import", &[], file("s")).await.problem(503, "unavailable");
    drop(stalled);
    assert_eq!(call(&app, Method::POST, "/sessions/import", &[], file("s")).await.status, 201);
}
