//! The walls: every route, as everybody who should not get through.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Method;
use serde_json::{Value, json};
use torpor_core::Timestamp;
use torpor_core::key::{Id, KeyStore as _, Rotation, Scope, Scopes, Secret, Wish};
use torpor_core::{Clock as _, RunId};
use torpor_server::{App, Config, router};
use torpor_testkit::clock::ManualClock;

use crate::client::{Answer, call};
use crate::fake::Fake;
use crate::schedules::scheduler;

/// A server with keys, and a clock that stands still.
pub(crate) struct Walled {
    pub(crate) fake: Arc<Fake>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) app: Router,
}

impl Walled {
    pub(crate) fn new(config: Config) -> Self {
        let (fake, clock) = (Fake::new(), Arc::new(ManualClock::default()));
        let mut app = App { clock: clock.clone(), ..fake.app() };
        let schedule = json!({"name": "s", "tenant": "a", "cron": "0 2 * * *", "items": [{"prompt": "hi"}]});
        app.schedules = Some(scheduler(&app, clock.clone(), &[schedule], &["secret.toml: is wrong"]));
        let app = router(app, config);
        Self { fake, clock, app }
    }

    pub(crate) fn key(&self, tenant: &str, scopes: &[Scope]) -> (String, Id) {
        self.make(Wish {
            tenant: Some(tenant.into()),
            name: "test".into(),
            scopes: Scopes::of(scopes.iter().copied()),
            rate: None,
            expires_at: None,
        })
    }

    pub(crate) fn make(&self, wish: Wish) -> (String, Id) {
        let (secret, record) = self.fake.keys.make(wish, self.clock.now());
        self.clock.advance(Duration::from_secs(1)); // the server looks again
        (secret.expose().to_owned(), record.id)
    }

    pub(crate) async fn ask(&self, key: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = key.map(|k| format!("Bearer {k}"));
        let headers: Vec<_> = bearer.iter().map(|b| ("authorization", b.as_str())).collect();
        // A body that is no JSON is given as text.
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        call(&self.app, method.parse::<Method>().unwrap(), path, &headers, body).await
    }
}

/// Method; path, where `{run}`, `{session}` and `{key}` are tenant `a`'s; body; the scope that is needed.
struct Row(&'static str, &'static str, Value, Scope);

fn rows() -> Vec<Row> {
    use Scope::{Admin, GatesDecide, RunsRead, RunsWrite};
    vec![
        Row("POST", "/runs", json!({"prompt": "hi"}), RunsWrite),
        Row("GET", "/runs", Value::Null, RunsRead),
        Row("GET", "/runs/status?sessionId={session}", Value::Null, RunsRead),
        Row("GET", "/runs/{run}", Value::Null, RunsRead),
        Row("POST", "/runs/{run}/cancel", Value::Null, RunsWrite),
        Row("POST", "/runs/{run}/approve", Value::Null, GatesDecide),
        Row("POST", "/runs/{run}/reject", Value::Null, GatesDecide),
        Row("POST", "/runs/{run}/abort", Value::Null, GatesDecide),
        Row("POST", "/runs/{run}/redrive", Value::Null, RunsWrite),
        Row("GET", "/dead-letters", Value::Null, RunsRead),
        Row("GET", "/gates", Value::Null, RunsRead),
        Row("GET", "/runs/{run}/events", Value::Null, RunsRead),
        Row("GET", "/sessions/{session}", Value::Null, RunsRead),
        Row("GET", "/sessions/{session}/log", Value::Null, RunsRead),
        Row("GET", "/sessions", Value::Null, RunsRead),
        Row("GET", "/sessions/{session}/export", Value::Null, RunsRead),
        Row("POST", "/sessions/{session}/fork", json!({"fromPosition": 1}), RunsWrite),
        Row("DELETE", "/sessions/{session}", Value::Null, RunsWrite),
        Row("POST", "/sessions/import", Value::String(super::imports::file("s")), RunsWrite),
        Row("POST", "/run-leaf", json!({"prompt": "hi"}), RunsWrite),
        Row("GET", "/run-leaf/status?sessionId={session}", Value::Null, RunsRead),
        Row("POST", "/turn", json!({"prompt": "hi"}), RunsWrite),
        Row("POST", "/turn", json!({"prompt": "hi", "sessionId": "{session}"}), RunsWrite),
        Row("GET", "/schedules", Value::Null, RunsRead),
        Row("GET", "/schedules/{session}", Value::Null, RunsRead),
        Row("POST", "/schedules/{session}/pause", Value::Null, RunsWrite),
        Row("POST", "/schedules/{session}/resume", Value::Null, RunsWrite),
        Row("POST", "/schedules/{session}/fire", Value::Null, RunsWrite),
        Row("POST", "/keys", json!({"name": "n", "scopes": ["runs:read"]}), Admin),
        Row("GET", "/keys", Value::Null, Admin),
        Row("POST", "/keys/{key}/rotate", json!({}), Admin),
        Row("DELETE", "/keys/{key}", Value::Null, Admin),
        // Last: what it leaves in the queue stays there.
        Row("POST", "/runs/{run}/messages", json!({"prompt": "hi"}), RunsWrite),
    ]
}

/// What everybody may ask.
const PUBLIC: &[&str] = &["/health", "/livez", "/readyz", "/openapi.json"];

/// What is about all tenants together; see [`counts_are_for_keys_of_every_tenant`].
const EVERYWHERE: &[&str] = &["/metrics"];

impl Row {
    /// The request, about these.
    fn about(&self, run: &str, session: &str, key: &str) -> (&'static str, String, Value) {
        let fill = |text: &str| text.replace("{run}", run).replace("{session}", session).replace("{key}", key);
        (self.0, fill(self.1), serde_json::from_str(&fill(&self.2.to_string())).unwrap())
    }

    fn names_something(&self) -> bool {
        self.about("x", "x", "x") != (self.0, self.1.to_owned(), self.2.clone())
    }
}

/// Nothing is missing above: a route that is added must say here who may use it.
#[test]
fn the_walk_knows_every_route() {
    let source = include_str!("../../src/routes.rs");
    let rows = rows();
    for call in source.split(".route(").skip(1).map(|call| call.split("\n        .").next().unwrap()) {
        let path = call.split('"').nth(1).unwrap();
        let like = |row: &Row| {
            let named = row.1.split('?').next().unwrap().replace("{run}", "{runId}");
            named.replace("{session}", "{id}").replace("{key}", "{id}") == path
        };
        for (word, method) in [("get(", "GET"), ("post(", "POST"), ("delete(", "DELETE"), ("put(", "PUT")] {
            if call.contains(&format!(" {word}")) || call.contains(&format!(".{word}")) {
                let known = PUBLIC.contains(&path)
                    || EVERYWHERE.contains(&path)
                    || rows.iter().any(|row| row.0 == method && like(row));
                assert!(known, "{method} {path}: add a row that says who may use it");
            }
        }
    }
}

#[tokio::test]
async fn every_route_keeps_out_whoever_should_not_get_through() {
    let w = Walled::new(Config::default());
    let (own, victim) = w.key("a", &[Scope::Admin]);
    let made = w.ask(Some(&own), "POST", "/runs", &json!({"sessionId": "s", "prompt": "hi"})).await.json();
    let run = made["runId"].as_str().unwrap().to_owned();

    let (expired, _) = w.make(Wish {
        tenant: Some("a".into()),
        name: "old".into(),
        scopes: Scopes::all(),
        rate: None,
        expires_at: Some(w.clock.now().after(Duration::from_secs(1))),
    });
    let (revoked, id) = w.key("a", &[Scope::Admin]);
    w.fake.keys.revoke(&id, w.clock.now()).await.unwrap();
    let (_, id) = w.key("a", &[Scope::Admin]);
    let forged = Secret::generate(&id).expose().to_owned();
    let unknown = Secret::generate(&Id::generate()).expose().to_owned();
    let (other, _) = w.key("b", &[Scope::Admin]);
    let lesser: Vec<_> = Scope::ALL
        .into_iter()
        .map(|needed| {
            let rest: Vec<_> = Scope::ALL.into_iter().filter(|s| *s != needed && *s != Scope::Admin).collect();
            (needed, w.key("a", &rest).0)
        })
        .collect();
    w.clock.advance(Duration::from_secs(2));

    for row in rows() {
        let (method, path, body) = row.about(&run, "s", victim.as_str());
        let before = w.fake.records().len();
        for key in [None, Some(&*expired), Some(&*revoked), Some(&*forged), Some(&*unknown), Some("sk-other")] {
            let answer = w.ask(key, method, &path, &body).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"torpor\"", "{method} {path}");
            assert_eq!(answer.header("x-ratelimit-limit"), "", "{method} {path}: strangers have no bucket");
        }
        let (_, key) = lesser.iter().find(|(needed, _)| *needed == row.3).unwrap();
        let answer = w.ask(Some(key), method, &path, &body).await;
        answer.problem(403, "forbidden");
        assert_eq!(answer.json()["scope"], row.3.as_str(), "{method} {path}");
        assert_eq!(w.fake.records().len(), before, "{method} {path}: nothing happened");

        if row.names_something() {
            let theirs = w.ask(Some(&other), method, &path, &body).await;
            let (_, nowhere, body) = row.about(RunId::generate().as_str(), "never-was", Id::generate().as_str());
            let nothing = w.ask(Some(&other), method, &nowhere, &body).await;
            assert_eq!(theirs.status, 404, "{method} {path}: {:?}", theirs.json());
            let but_where = |a: &Answer| {
                let mut body = a.json();
                body["instance"] = Value::Null;
                body
            };
            assert_eq!(but_where(&theirs), but_where(&nothing), "{method} {path}: as if it did not exist");
        }
    }
    let record = w.fake.records().into_iter().find(|r| r.run_id.as_str() == run).unwrap();
    assert_eq!(record.version, 3, "nobody touched it");

    for row in rows() {
        let (method, path, body) = row.about(&run, "s", victim.as_str());
        let (key, _) = w.key("a", &[row.3]);
        let answer = w.ask(Some(&key), method, &path, &body).await;
        assert!(matches!(answer.status, 200..=202), "{method} {path}: {} {}", answer.status, answer.json());
    }
}

#[tokio::test]
async fn what_is_public_asks_nobody_and_what_is_not_there_is_not_there() {
    let w = Walled::new(Config::default());
    w.key("a", &[Scope::Admin]);
    for path in PUBLIC {
        assert_eq!(w.ask(None, "GET", path, &Value::Null).await.status, 200, "{path}");
    }
    w.ask(None, "GET", "/nope", &Value::Null).await.problem(404, "not_found");
    w.ask(None, "PUT", "/runs", &Value::Null).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_rotation_overlaps_and_then_ends() {
    let w = Walled::new(Config::default());
    let (old, id) = w.key("a", &[Scope::RunsRead]);
    let new = Secret::generate(&id);
    let at = w.clock.now();
    let overlap_until = at.after(Duration::from_secs(60));
    w.fake.keys.rotate(&id, Rotation { digest: new.digest(), at, overlap_until }).await.unwrap();
    for (seconds, old_works) in [(1, true), (58, true), (1, false)] {
        w.clock.advance(Duration::from_secs(seconds));
        let status = async |key: &str| w.ask(Some(key), "GET", "/runs", &Value::Null).await.status;
        assert_eq!(status(new.expose()).await, 200);
        assert_eq!(status(&old).await, if old_works { 200 } else { 401 }, "{seconds} s on");
    }
}

#[tokio::test]
async fn lists_show_a_tenant_its_own_and_nothing_else() {
    let w = Walled::new(Config::default());
    let (a, _) = w.key("a", &[Scope::Admin]);
    let (b, _) = w.key("b", &[Scope::Admin]);
    let (all, _) = w.make(Wish {
        tenant: None,
        name: "operator".into(),
        scopes: Scopes::of([Scope::Admin]),
        rate: None,
        expires_at: None,
    });
    for (key, session) in [(&a, "one"), (&a, "two"), (&b, "one")] {
        let body = json!({"sessionId": session, "prompt": "hi"});
        assert_eq!(w.ask(Some(key), "POST", "/runs", &body).await.status, 200);
    }
    let list = async |key: &str, query: &str| {
        let body = w.ask(Some(key), "GET", &format!("/runs{query}"), &Value::Null).await.json();
        let rows = body["runs"].as_array().unwrap().iter();
        rows.map(|r| format!("{}/{}", r["tenant"].as_str().unwrap(), r["sessionId"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    for (key, query, want) in [
        (&a, "", vec!["a/two", "a/one"]),
        (&a, "?tenant=a&limit=1", vec!["a/two"]),
        (&a, "?tenant=b", vec![]),
        (&a, "?tenant=nobody", vec![]),
        (&b, "?status=done&createdAfter=2020-01-01T00:00:00Z", vec!["b/one"]),
        (&all, "", vec!["b/one", "a/two", "a/one"]),
        (&all, "?tenant=b", vec!["b/one"]),
    ] {
        assert_eq!(list(key, query).await, want, "{query}");
    }
    let schedules = async |key: &str, query: &str| {
        let body = w.ask(Some(key), "GET", &format!("/schedules{query}"), &Value::Null).await.json();
        (body["schedules"].as_array().unwrap().len(), body["problems"].is_array())
    };
    for (key, query, want) in
        [(&a, "", (1, false)), (&b, "", (0, false)), (&b, "?tenant=a", (0, false)), (&all, "?tenant=a", (1, true))]
    {
        assert_eq!(schedules(key, query).await, want, "{query}");
    }
    // A cursor of the one list in the other leads nowhere new.
    let cursor = w.ask(Some(&all), "GET", "/runs?limit=1", &Value::Null).await.json()["nextCursor"].clone();
    assert_eq!(list(&b, &format!("?cursor={}", cursor.as_str().unwrap())).await, Vec::<String>::new());

    let status = async |key: &str, query: &str| w.ask(Some(key), "GET", query, &Value::Null).await;
    status(&b, "/runs/status?sessionId=two").await.problem(404, "run_not_found");
    status(&b, "/runs/status?sessionId=two&tenant=a").await.problem(404, "run_not_found");
    status(&b, "/sessions/two?tenant=a").await.problem(404, "session_not_found");
    assert_eq!(status(&all, "/runs/status?sessionId=two&tenant=a").await.status, 200);
    // Naming one's own tenant is allowed, another's is refused whether or not it exists.
    let submit = async |key: &str, tenant: &str| {
        w.ask(Some(key), "POST", "/runs", &json!({"prompt": "hi", "tenant": tenant})).await
    };
    assert_eq!(submit(&a, "a").await.status, 200);
    assert_eq!(submit(&a, "b").await.problem(403, "forbidden"), submit(&a, "nobody").await.problem(403, "forbidden"));
    assert_eq!(submit(&all, "b").await.status, 200);
}

#[tokio::test]
async fn one_key_of_idempotency_in_two_tenants_makes_two_runs() {
    let w = Walled::new(Config::default());
    let (a, _) = w.key("a", &[Scope::RunsWrite]);
    let (b, _) = w.key("b", &[Scope::RunsWrite]);
    for (path, body, header) in [
        ("/runs", json!({"sessionId": "s", "prompt": "hi"}), false),
        ("/runs", json!({"prompt": "hi"}), true),
        ("/turn", json!({"prompt": "ho"}), true),
    ] {
        let send = async |key: &str| {
            let bearer = format!("Bearer {key}");
            let headers = [("authorization", bearer.as_str()), ("idempotency-key", path)];
            let headers = &headers[..if header { 2 } else { 1 }];
            call(&w.app, Method::POST, path, headers, body.to_string()).await.json()["runId"].clone()
        };
        let (one, two) = (send(&a).await, send(&b).await);
        assert!(one.is_string() && two.is_string() && one != two, "{path}: {one} {two}");
        assert_eq!((send(&a).await, send(&b).await), (one, two), "{path}: the same again");
    }
    assert_eq!(w.fake.records().iter().filter(|r| r.session.tenant() == "b").count(), 3);
}

/// A page in a browser on the server's machine can send to it, and shows where it is from.
#[tokio::test]
async fn an_open_server_on_loopback_is_not_for_web_pages() {
    let w = Walled::new(Config { local_only: true, ..Config::default() });
    let send = async |path: &str, headers: &[(&str, &str)]| {
        let method = if path == "/turn" { Method::POST } else { Method::GET };
        call(&w.app, method, path, headers, r#"{"prompt":"hi"}"#).await
    };
    let (here, page, rebound) =
        (("host", "127.0.0.1:8080"), ("origin", "https://evil.example"), ("host", "evil.example"));
    for path in ["/turn", "/runs"] {
        assert_eq!(send(path, &[here]).await.status, 200);
        assert!(send(path, &[here, page]).await.problem(403, "forbidden").contains("Origin"));
        send(path, &[rebound]).await.problem(403, "forbidden");
    }
    assert_eq!(w.fake.records().len(), 1);
    assert_eq!(send("/health", &[rebound]).await.status, 200);
    // Whoever shows a key may come through whatever name and page.
    let (key, _) = w.key("a", &[Scope::Admin]);
    assert_eq!(send("/runs", &[rebound, page, ("x-api-key", &key)]).await.status, 200);
}

#[tokio::test]
async fn a_server_that_had_keys_never_opens_again() {
    let w = Walled::new(Config::default());
    assert_eq!(w.ask(Some("sk-whatever"), "GET", "/runs", &Value::Null).await.status, 200, "no keys, no questions");
    let (key, id) = w.key("a", &[Scope::Admin]);
    w.ask(None, "GET", "/runs", &Value::Null).await.problem(401, "unauthorized");
    w.fake.keys.revoke(&id, Timestamp(0)).await.unwrap();
    w.clock.advance(Duration::from_secs(1));
    w.ask(None, "GET", "/runs", &Value::Null).await.problem(401, "unauthorized");
    assert!(w.ask(Some(&key), "GET", "/runs", &Value::Null).await.problem(401, "unauthorized").contains("revoked"));
    let required = Walled::new(Config { require_keys: true, ..Config::default() });
    required.ask(None, "GET", "/runs", &Value::Null).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn counts_are_for_keys_of_every_tenant() {
    let w = Walled::new(Config::default());
    let (of_one, _) = w.key("a", &[Scope::Admin, Scope::RunsRead]);
    let wish = |scope| Wish {
        tenant: None,
        name: "scraper".into(),
        scopes: Scopes::of([scope]),
        rate: None,
        expires_at: None,
    };
    let ((reader, _), (writer, _)) = (w.make(wish(Scope::RunsRead)), w.make(wish(Scope::RunsWrite)));
    for (key, status) in [(None, 401), (Some(&*of_one), 403), (Some(&*writer), 403), (Some(&*reader), 200)] {
        assert_eq!(w.ask(key, "GET", "/metrics", &Value::Null).await.status, status, "{key:?}");
    }
}
