//! `/keys`, rates, and what ends with a key.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use torpor_core::Clock as _;
use torpor_core::key::{
    Changed, Id, Inserted, KeyStore, Rate, Record, Rotation, Scope, Scopes, Secret, Snapshot, Wish,
};
use torpor_core::{Timestamp, store};
use torpor_server::{App, Config, router};

use crate::client::{Answer, call};
use crate::walls::Walled;

const NOTHING: Value = Value::Null;

fn wish(tenant: Option<&str>) -> Wish {
    Wish {
        tenant: tenant.map(str::to_owned),
        name: "n".into(),
        scopes: Scopes::of([Scope::Admin]),
        rate: None,
        expires_at: None,
    }
}

fn numbers(answer: &Answer) -> [u32; 3] {
    ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(|n| answer.header(n).parse().unwrap())
}

#[tokio::test]
async fn a_key_is_used_so_often_and_no_more() {
    let w = Walled::new(Config { rate: Rate::new(2, 3).unwrap(), ..Config::default() });
    let (key, id) = w.key("a", &[Scope::RunsRead]);
    let (other, _) = w.key("a", &[Scope::RunsRead]);
    let (fast, _) = w.make(Wish { rate: Rate::new(10, 50), ..wish(Some("a")) });
    let ask = async |key: &str, path: &str| w.ask(Some(key), "GET", path, &NOTHING).await;
    for (path, status, left) in [
        ("/runs", 200, [3, 2, 1]),
        ("/runs/run_nobody", 404, [3, 1, 1]), // whatever the answer is
        ("/keys", 403, [3, 0, 2]),
    ] {
        let answer = ask(&key, path).await;
        assert_eq!((answer.status, numbers(&answer)), (status, left), "{path}");
    }
    let refused = ask(&key, "/runs").await;
    refused.problem(429, "rate_limited");
    assert_eq!((refused.header("retry-after"), numbers(&refused)), ("1", [3, 0, 2]));
    assert_eq!(numbers(&ask(&other, "/runs").await), [3, 2, 1], "each key has its own");
    assert_eq!(numbers(&ask(&fast, "/runs").await), [50, 49, 1], "and may have its own rate");
    w.clock.advance(Duration::from_millis(500));
    assert_eq!(ask(&key, "/runs").await.status, 200);
    assert_eq!(ask(&key, "/runs").await.status, 429);
    // A new secret is no new bucket.
    let new = Secret::generate(&id);
    let at = w.clock.now();
    w.fake.keys.rotate(&id, Rotation { digest: new.digest(), at, overlap_until: at }).await.unwrap();
    w.clock.advance(Duration::from_secs(1));
    assert_eq!(numbers(&ask(new.expose(), "/runs").await)[1], 1, "two came back, one was taken");
}

#[tokio::test]
async fn ten_thousand_strangers_take_nothing_from_a_key() {
    let w = Walled::new(Config { rate: Rate::new(1, 10).unwrap(), ..Config::default() });
    let (key, id) = w.key("a", &[Scope::RunsRead]);
    assert_eq!(numbers(&w.ask(Some(&key), "GET", "/runs", &NOTHING).await)[1], 9);
    let guess = format!("tpr_{id}_{}", "0".repeat(64));
    let mut answers = [0; 2];
    for n in 0..10_000 {
        let shown = [None, Some("sk-other"), Some(&*guess)][n % 3];
        let answer = w.ask(shown, "GET", "/runs", &NOTHING).await;
        match answer.status {
            401 => answers[0] += 1,
            429 => answers[1] += 1,
            other => panic!("{other}"),
        }
        assert_eq!((answer.header("x-ratelimit-remaining"), answer.header("connection")), ("", "close"));
        assert!(answer.status == 401 || answer.header("retry-after") == "1");
    }
    assert!(answers[0] >= 100 && answers[1] >= 8_000, "told so, and then told to wait: {answers:?}");
    assert_eq!(numbers(&w.ask(Some(&key), "GET", "/runs", &NOTHING).await)[1], 8);
}

#[tokio::test]
async fn an_admin_manages_the_keys_of_its_tenant_and_no_others() {
    let w = Walled::new(Config::default());
    let (a, _) = w.make(wish(Some("a")));
    let (_, of_b) = w.make(wish(Some("b")));
    let (_, of_all) = w.make(wish(None));
    let made = w.ask(Some(&a), "POST", "/keys", &json!({"name": "ci", "scopes": ["runs:read"]})).await;
    assert_eq!(made.status, 201);
    let (secret, key) = (made.json()["secret"].as_str().unwrap().to_owned(), made.json()["key"].clone());
    assert_eq!((&key["tenant"], &key["status"], &key["scopes"]), (&json!("a"), &json!("live"), &json!(["runs:read"])));
    assert_eq!(w.ask(Some(&secret), "GET", "/runs", &NOTHING).await.status, 200, "it works at once");

    for (more, why) in [
        (json!({"everyTenant": true}), "every tenant"),
        (json!({"tenant": "b"}), "another tenant"),
        (json!({"rate": {"perSecond": 9, "burst": 9}}), "rate"),
    ] {
        let mut body = json!({"name": "n", "scopes": ["runs:read"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let detail = w.ask(Some(&a), "POST", "/keys", &body).await.problem(403, "forbidden");
        assert!(detail.contains(why), "{detail}");
    }
    // Whoever is held to a rate does not make itself a key with a better one.
    let (slow, _) = w.make(Wish { rate: Rate::new(1, 2), ..wish(Some("slow")) });
    let made = w.ask(Some(&slow), "POST", "/keys", &json!({"name": "n", "scopes": ["runs:read"]})).await;
    assert_eq!(made.json()["key"]["rate"], json!({"perSecond": 1, "burst": 2}));

    let listed = w.ask(Some(&a), "GET", "/keys", &NOTHING).await;
    let ids: Vec<_> = listed.json()["keys"].as_array().unwrap().iter().map(|k| k["tenant"].clone()).collect();
    assert_eq!(ids, [json!("a"), json!("a")]);
    let text = String::from_utf8(listed.body.clone()).unwrap();
    assert!(!text.contains(&secret) && !text.contains(&secret[21..]) && !text.contains("digest"), "{text}");
    for id in [of_b.as_str(), of_all.as_str(), "0123456789abcdef", "x"] {
        w.ask(Some(&a), "DELETE", &format!("/keys/{id}"), &NOTHING).await.problem(404, "key_not_found");
    }

    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    let rotated = w.ask(Some(&a), "POST", &format!("{path}/rotate"), &json!({"overlapSeconds": 60})).await.json();
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert!(rotated["key"]["overlapUntil"].is_string());
    for key in [&secret, &new] {
        assert_eq!(w.ask(Some(key), "GET", "/runs", &NOTHING).await.status, 200);
    }
    assert_eq!(w.ask(Some(&a), "DELETE", &path, &NOTHING).await.json()["status"], "revoked");
    for key in [&secret, &new] {
        let detail = w.ask(Some(key), "GET", "/runs", &NOTHING).await.problem(401, "unauthorized");
        assert!(detail.contains("revoked"), "at once: {detail}");
    }
    w.ask(Some(&a), "POST", &format!("{path}/rotate"), &json!({})).await.problem(409, "key_conflict");
}

/// Whoever makes the first key locks the server, so an open one lets only its owner do that.
#[tokio::test]
async fn the_first_key_is_the_owners_to_make() {
    let w = Walled::new(Config::default());
    let (secret, owner) = Record::issue(wish(None), w.clock.now());
    let app = router(App { clock: w.clock.clone(), owner: Some(owner), ..w.fake.app() }, Config::default());
    let body = json!({"name": "first", "tenant": "a", "scopes": ["admin"]}).to_string();
    let ask = async |key: &str, method: Method, path: &str, body: String| {
        call(&app, method, path, &[("x-api-key", key)], body).await
    };
    for path in ["/runs", "/keys"] {
        let status = ask("", Method::GET, path, String::new()).await.status;
        assert_eq!(status, if path == "/keys" { 403 } else { 200 }, "{path}");
    }
    ask("", Method::POST, "/keys", body.clone()).await.problem(403, "forbidden");
    let made = ask(secret.expose(), Method::POST, "/keys", body).await;
    assert_eq!(made.status, 201);
    ask("", Method::GET, "/runs", String::new()).await.problem(401, "unauthorized");
    assert_eq!(ask(secret.expose(), Method::GET, "/runs", String::new()).await.status, 200, "the owner still may");
    let first = made.json()["secret"].as_str().unwrap().to_owned();
    assert_eq!(ask(&first, Method::GET, "/keys", String::new()).await.json()["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_key_began_ends_with_the_key() {
    for end in ["revoked", "expired", "rotated without overlap"] {
        let w = Walled::new(Config::default());
        let expires_at = Some(w.clock.now().after(Duration::from_secs(10)));
        let (key, id) = w.make(Wish { expires_at, ..wish(Some("a")) });
        let body = json!({"prompt": "wait", "async": true, "sessionId": "s"});
        let run = w.ask(Some(&key), "POST", "/runs", &body).await.json()["runId"].as_str().unwrap().to_owned();
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let path = format!("/runs/{run}/events");
        let following = call(&w.app, Method::GET, &path, &headers, Body::empty());
        let waiting = call(&w.app, Method::POST, "/turn", &headers, r#"{"prompt":"wait"}"#);
        let ending = async {
            w.fake.accepted(2).await;
            match end {
                "revoked" => drop(w.fake.keys.revoke(&id, w.clock.now()).await),
                "expired" => w.clock.advance(Duration::from_secs(10)),
                _ => {
                    let at = w.clock.now();
                    let digest = Secret::generate(&id).digest();
                    let rotation = Rotation { digest, at, overlap_until: at };
                    drop(w.fake.keys.rotate(&id, rotation).await);
                }
            }
            for _ in 0..3 {
                tokio::task::yield_now().await;
                w.clock.advance(Duration::from_secs(1));
            }
        };
        let (followed, waited, ()) = tokio::join!(following, waiting, ending);
        assert_eq!((followed.status, followed.body.as_slice()), (200, b"".as_slice()), "{end}: the stream is over");
        assert!(waited.problem(401, "unauthorized").contains("ended while"), "{end}");
        assert_eq!(w.fake.records().len(), 2, "{end}: the runs themselves go on");
    }
}

/// Keys that cannot be read.
struct Away;

#[async_trait]
impl KeyStore for Away {
    async fn insert(&self, _: Record) -> Result<Inserted, store::Error> {
        Err(store::Error::Unavailable("secret".into()))
    }

    async fn keys(&self, _: Option<&str>) -> Result<Option<Snapshot>, store::Error> {
        Err(store::Error::Unavailable("secret".into()))
    }

    async fn rotate(&self, _: &Id, _: Rotation) -> Result<Changed, store::Error> {
        Err(store::Error::Unavailable("secret".into()))
    }

    async fn revoke(&self, _: &Id, _: Timestamp) -> Result<Changed, store::Error> {
        Err(store::Error::Unavailable("secret".into()))
    }
}

#[tokio::test]
async fn keys_that_cannot_be_read_let_nobody_in() {
    let w = Walled::new(Config::default());
    let app = router(App { keys: Arc::new(Away), ..w.fake.app() }, Config::default());
    for (path, status) in [("/runs", 503), ("/keys", 503), ("/health", 200), ("/readyz", 200)] {
        assert_eq!(call(&app, Method::GET, path, &[], Body::empty()).await.status, status, "{path}");
    }
}
