//! Schedules over HTTP: how they stand, and pause, resume, fire now.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::Router;
use http::Method;
use serde_json::{Value, json};
use torpor_core::Clock;
use torpor_schedule::{Deps, Format, Loaded, Schedule, Scheduler, Source};
use torpor_server::{App, Config, Intake, router};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::fakes::FakeSchedules;

use crate::client::{Answer, call};
use crate::fake::Fake;

/// What there is, for ever.
struct Fixed(Loaded);

impl Source for Fixed {
    fn look(&self) -> Loaded {
        self.0.clone()
    }
}

/// A scheduler over these files, whose items the app takes. It fires nothing by itself.
pub(crate) fn scheduler(app: &App, clock: Arc<dyn Clock>, files: &[Value], problems: &[&str]) -> Scheduler {
    let read = |file: &Value| Arc::new(Schedule::parse(&file.to_string(), Format::Json, None).unwrap());
    let schedules = files.iter().map(read).map(|schedule| (schedule.name.clone(), schedule)).collect();
    let problems = Arc::new(problems.iter().map(|p| (*p).to_owned()).collect());
    Scheduler::new(Deps {
        store: FakeSchedules::new(clock.clone()),
        source: Arc::new(Fixed(Loaded { schedules: Arc::new(schedules), problems })),
        submit: Arc::new(Intake::new(app)),
        clock,
        by: "here".into(),
    })
}

fn file(name: &str, tenant: &str) -> Value {
    json!({"name": name, "tenant": tenant, "cron": "0 2 * * *", "timezone": "Europe/Berlin",
           "items": [{"name": "a", "prompt": "of __FIRE__"}, {"prompt": "b"}]})
}

fn served(files: &[Value]) -> (Arc<Fake>, Router, Arc<ManualClock>) {
    let (fake, clock) = (Fake::new(), Arc::new(ManualClock::default()));
    let mut app = App { clock: clock.clone(), ..fake.app() };
    app.schedules = Some(scheduler(&app, clock.clone(), files, &["bad.toml: `items` is required"]));
    (fake, router(app, Config::default()), clock)
}

async fn ask(app: &Router, method: Method, path: &str, body: &str) -> Answer {
    call(app, method, path, &[], body.to_owned()).await
}

#[tokio::test]
async fn a_schedule_is_shown_paused_resumed_and_fired() {
    let (fake, app, clock) = served(&[file("nightly", "acme"), file("weekly", "other")]);
    let list = ask(&app, Method::GET, "/schedules", "").await.json();
    assert_eq!(list["schedules"].as_array().unwrap().len(), 2);
    assert_eq!(list["problems"], json!(["bad.toml: `items` is required"]));
    let nightly = &list["schedules"][0];
    assert_eq!(
        (&nightly["name"], &nightly["tenant"], &nightly["items"]),
        (&json!("nightly"), &json!("acme"), &json!(2))
    );
    assert_eq!((&nightly["catchUp"], &nightly["timezone"]), (&json!("once"), &json!("Europe/Berlin")));
    assert_eq!(nightly["nextFires"].as_array().unwrap().len(), 5);
    assert!(!list.to_string().contains("of __FIRE__"), "what it asks for is not shown");
    let of_one = ask(&app, Method::GET, "/schedules?tenant=other", "").await.json();
    assert_eq!((of_one["schedules"].as_array().unwrap().len(), &of_one["schedules"][0]["name"]), (1, &json!("weekly")));
    ask(&app, Method::GET, "/schedules?limit=1", "").await.problem(400, "request_invalid");

    let paused = ask(&app, Method::POST, "/schedules/nightly/pause", "").await.json();
    assert_eq!((&paused["paused"], &paused["nextFires"]), (&json!(true), &json!([])));
    assert_eq!(paused["pausedAt"], json!(clock.now().rfc3339()));
    let fired = ask(&app, Method::POST, "/schedules/nightly/fire", r#"{"fire": "release-7"}"#).await;
    assert_eq!(fired.status, 200, "{}", fired.json());
    let fired = fired.json();
    assert_eq!((&fired["fire"], &fired["accepted"], &fired["refused"]), (&json!("release-7"), &json!(2), &json!(0)));
    let records = fake.records();
    let made: Vec<_> = records.iter().map(|r| (r.session.tenant(), r.session.session(), r.run_id.as_str())).collect();
    let run = |i: usize| fired["runs"][i]["runId"].as_str().unwrap();
    assert_eq!(made, [("acme", "nightly/release-7/a", run(0)), ("acme", "nightly/release-7/2", run(1))]);
    let again = ask(&app, Method::POST, "/schedules/nightly/fire", r#"{"fire": "release-7"}"#).await;
    assert_eq!((again.status, again.json(), fake.records().len()), (200, fired.clone(), 2));

    clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&app, Method::POST, "/schedules/nightly/resume", "").await.json()["paused"], json!(false));
    let unnamed = ask(&app, Method::POST, "/schedules/nightly/fire", "").await.json();
    assert!(unnamed["fire"].as_str().unwrap().starts_with("by-hand-"), "{unnamed}");
    let shown = ask(&app, Method::GET, "/schedules/nightly", "").await.json();
    assert_eq!((&shown["fires"][0], &shown["fires"][1], &shown["lastFire"]), (&unnamed, &fired, &unnamed));
}

#[tokio::test]
async fn what_is_wrong_with_a_wish_is_named() {
    let (fake, app, _) = served(&[file("nightly", "acme")]);
    for (path, body, status, code) in [
        ("/schedules/nightly/fire", r#"{"fire": "a/b"}"#, 400, "request_invalid"),
        ("/schedules/nightly/fire", r#"{"fire": 7}"#, 400, "request_invalid"),
        ("/schedules/nightly/fire", r#"{"fires": "x"}"#, 400, "request_invalid"),
        ("/schedules/nightly/fire", "[]", 400, "request_invalid"),
        ("/schedules/nightly/fire", "{", 400, "invalid_json"),
        ("/schedules/weekly/fire", "", 404, "schedule_not_found"),
        ("/schedules/a%2Fb/pause", "", 404, "schedule_not_found"),
    ] {
        ask(&app, Method::POST, path, body).await.problem(status, code);
    }
    assert!(fake.records().is_empty());
    fake.down.store(true, SeqCst);
    let bare = router(fake.app(), Config::default());
    assert_eq!(ask(&bare, Method::GET, "/schedules", "").await.json(), json!({"schedules": []}));
    ask(&bare, Method::GET, "/schedules/nightly", "").await.problem(404, "schedule_not_found");
}

/// What cannot be taken is refused by name, as it would be at `POST /runs`; what can be later is not given up at once.
#[tokio::test]
async fn items_are_taken_like_requests() {
    let mut strange = file("strange", "acme");
    strange["items"][1] = json!({"prompt": "b", "tools": ["teleport"]});
    let (fake, app, clock) = served(&[strange, file("nightly", "acme")]);
    let fired = ask(&app, Method::POST, "/schedules/strange/fire", "").await.json();
    assert_eq!((&fired["accepted"], &fired["refused"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&fired["refusals"][0]["item"], &fired["refusals"][0]["code"]),
        (&json!("2"), &json!("envelope_invalid"))
    );
    assert!(fired["refusals"][0]["detail"].as_str().unwrap().contains("teleport"), "{fired}");

    fake.down.store(true, SeqCst);
    let wish = ask(&app, Method::POST, "/schedules/nightly/fire", r#"{"fire": "f"}"#);
    let passing = async {
        loop {
            clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::select! {
        answer = wish => answer,
        never = passing => never,
    };
    assert_eq!((answer.status, &answer.json()["accepted"]), (202, &Value::Null), "{}", answer.json());
}
