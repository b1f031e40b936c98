//! Schedules of a real `torpor serve`: files that are right, wrong and changed, fires by hand and of time, made up for
//! after an absence, left by a kill, and shared with `torpor dispatch`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Server, World, until};
use torpor_core::schedule::ScheduleStore as _;
use torpor_core::{Clock as _, SystemClock, Timestamp};

/// A world whose servers watch a folder of schedules.
async fn world(files: &[(&str, Value)]) -> World {
    let mut world = World::new().await;
    watching(&mut world, files);
    world
}

fn watching(world: &mut World, files: &[(&str, Value)]) {
    std::fs::create_dir(world.file("schedules")).unwrap();
    let folder = world.file("schedules").to_str().unwrap().to_owned();
    world.env("TORPOR_SCHEDULES", &folder);
    files.iter().for_each(|(name, content)| write(world, name, &content.to_string()));
}

fn write(world: &World, name: &str, content: &str) {
    std::fs::write(world.file("schedules").join(name), content).unwrap();
}

/// Due once a day, about twelve hours away from now on either side.
fn daily(items: &[Value]) -> Value {
    let now: u64 = SystemClock.now().rfc3339()[11..13].parse().unwrap();
    json!({"cron": format!("0 {} * * *", (now + 12) % 24), "catchUp": "all", "items": items})
}

fn text(word: &str) -> Value {
    json!({"name": word, "prompt": format!("{word} of __FIRE__ [[s:text]]")})
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn command(world: &World, args: &[&str]) -> Value {
    let done = world.run(&[args, &["--json"]].concat()).await;
    assert_eq!(done.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Waits until the last fire of a schedule is posted.
async fn posted(server: &Server, name: &str) -> Value {
    until("the fire", async || {
        let schedule = server.get(&format!("/schedules/{name}")).await.body;
        schedule["lastFire"]["postedAt"].is_string().then_some(schedule)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_pause_resume_and_fire_schedules() {
    let world = world(&[("nightly.json", daily(&[text("a"), text("b")]))]).await;
    let server = world.serve().await;
    let list = command(&world, &["schedules", "list"]).await;
    assert_eq!((&list["schedules"][0]["name"], &list["schedules"][0]["items"]), (&json!("nightly"), &json!(2)));
    assert_eq!(command(&world, &["schedules", "pause", "nightly"]).await["paused"], true);
    let fired = command(&world, &["schedules", "fire", "nightly", "--fire", "f1"]).await;
    assert_eq!((&fired["fire"], &fired["accepted"]), (&json!("f1"), &json!(2)));
    assert_eq!(command(&world, &["schedules", "fire", "nightly", "--fire", "f1"]).await, fired, "the same again");
    for run in fired["runs"].as_array().unwrap() {
        assert_eq!(server.ended(run["runId"].as_str().unwrap()).await["status"], "done");
    }
    assert_eq!(world.model.requests(), 2);
    assert_eq!(command(&world, &["schedules", "resume", "nightly"]).await["paused"], false);
    for (args, wants) in [
        (&["schedules", "list"][..], &["SCHEDULE", "nightly", "f1", "2 runs"][..]),
        (&["schedules", "show", "nightly"], &["nightly", "(UTC)", "missed       all", "f1", "  a  run_"]),
        (&["schedules", "pause", "nightly"], &["nightly: paused"]),
        (&["schedules", "list"], &["paused"]),
        (&["schedules", "fire", "nightly"], &["by-hand-", "2 runs"]),
    ] {
        let shown = out(&world.run(args).await);
        assert!(wants.iter().all(|want| shown.contains(want)), "{args:?}: {shown}");
    }
    let unknown = world.run(&["schedules", "show", "weekly"]).await;
    assert_eq!(unknown.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("torpor schedules list"));
}

/// A server that was away makes up for what it missed, and a dispatch of the same fire finds its runs.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_made_up_for_and_shared_with_dispatch() {
    let world = world(&[("nightly.json", daily(&[text("a"), text("b")]))]).await;
    let server = world.serve().await;
    until("it to be watched", async || {
        let watched = "SELECT count(*) FROM schedule";
        (world.sqlite(watched) == 1).then_some(())
    })
    .await;
    assert!(server.get("/schedules/nightly").await.body.get("lastFire").is_none(), "nothing is owed from before");
    server.terminate().await;
    let db = rusqlite::Connection::open(world.data().join("store.db")).unwrap();
    let days_ago = SystemClock.now().0 - 3 * 86_400_000;
    db.execute("UPDATE schedule SET state = json_set(state, '$.considered', ?1)", [days_ago.cast_signed()]).unwrap();
    drop(db);

    let server = world.serve().await;
    let schedule = until("three fires", async || {
        let schedule = posted(&server, "nightly").await;
        (schedule["fires"].as_array().unwrap().len() == 3).then_some(schedule)
    })
    .await;
    let last = &schedule["fires"][0];
    assert!(schedule["fires"].as_array().unwrap().iter().all(|fire| fire["accepted"] == 2), "{schedule:#}");
    let file = world.file("schedules").join("nightly.json");
    let dispatched = command(&world, &["dispatch", file.to_str().unwrap()]).await;
    assert_eq!(dispatched["fire"], last["fire"], "both go by the schedule's own time");
    let ids = |it: &Value| it.as_array().unwrap().iter().map(|run| run["runId"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&dispatched["items"]), ids(&last["runs"]));
    assert_eq!(world.sqlite("SELECT count(*) FROM run"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_a_kill_cut_off_is_finished_by_the_next_server() {
    let items: Vec<Value> = (0..300).map(|n| text(&format!("i{n}"))).collect();
    let world = world(&[("many.json", daily(&items))]).await;
    let server = world.serve().await;
    let url = server.url.clone();
    let wish = tokio::spawn(async move {
        let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
        let _ = http.post(format!("{url}/schedules/many/fire")).body(r#"{"fire":"f"}"#).send().await;
    });
    until("the first runs", async || (world.sqlite("SELECT count(*) FROM run") > 0).then_some(())).await;
    server.kill().await;
    wish.await.unwrap();
    let server = world.serve().await;
    let schedule = posted(&server, "many").await;
    assert_eq!((&schedule["lastFire"]["accepted"], &schedule["lastFire"]["refused"]), (&json!(300), &json!(0)));
    assert_eq!(world.sqlite("SELECT count(*) FROM run"), 300);
    assert_eq!(world.sqlite("SELECT count(DISTINCT session) FROM run"), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_and_a_broken_one_changes_nothing_but_what_is_shown() {
    let world = world(&[("nightly.json", daily(&[text("a")]))]).await;
    let server = world.serve().await;
    write(&world, "nightly.json", "{");
    write(&world, "weekly.toml", "cron = '@weekly'\n[[items]]\nprompt = 'go'\ntools = ['teleport']\n");
    let list = server.get("/schedules").await.body;
    assert_eq!((list["schedules"].as_array().unwrap().len(), &list["schedules"][0]["name"]), (1, &json!("nightly")));
    let problems = list["problems"].to_string();
    assert!(problems.contains("nightly.json: is not JSON") && problems.contains("weekly.toml: item 1: "), "{problems}");
    assert!(problems.contains("teleport"), "what no server would take is found before it is due: {problems}");
    write(&world, "weekly.toml", "cron = '@weekly'\n[[items]]\nprompt = 'go [[s:text]]'\n");
    std::fs::remove_file(world.file("schedules").join("nightly.json")).unwrap();
    let list = server.get("/schedules").await.body;
    assert_eq!((&list["schedules"][0]["name"], list.get("problems")), (&json!("weekly"), None));
    server.terminate().await;

    write(&world, "weekly.toml", "cron = '@weekly'\n[[items]]\npromt = 'go'\n");
    let refused = world.run(&["serve"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.trim().lines().count()), (Some(64), 1), "{said}");
    assert!(
        said.contains("TORPOR_SCHEDULES: ")
            && said.contains("weekly.toml: item 1: `")
            && said.contains("item 1: `promt` is not a"),
        "{said}"
    );
    // Only servers fire schedules: the others do not care.
    let run = world.run(&["run", "go [[s:text]]"]).await;
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
}

/// Two servers watch the same files over one Redis: what both find due, and what both are asked for, is fired once.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_over_one_redis_fire_once() {
    let Some((mut world, redis)) = World::shared().await else { return };
    let items: Vec<Value> = (0..10).map(|n| text(&format!("i{n}"))).collect();
    let schedule = daily(&items);
    watching(&mut world, &[("nightly.json", schedule.clone())]);
    // As if they had been away for three days.
    let address = torpor_store_redis::Address::parse(&redis.url()).unwrap();
    let options = torpor_store_redis::Options { prefix: world.prefix(), ..Default::default() };
    let store = torpor_store_redis::Store::connect(&address, options).await.unwrap();
    let plan = format!("{} UTC", schedule["cron"].as_str().unwrap());
    let days_ago = Timestamp(SystemClock.now().0 - 3 * 86_400_000);
    store.watch("nightly", &plan, days_ago).await.unwrap();

    let (one, two) = tokio::join!(world.serve(), world.serve());
    let wish = json!({"fire": "asked"});
    let (a, b) = tokio::join!(one.post("/schedules/nightly/fire", &wish), two.post("/schedules/nightly/fire", &wish));
    assert!(matches!((a.status, b.status), (200 | 202, 200 | 202)), "{} {}", a.body, b.body);
    let fires = until("all fires", async || {
        let fires = two.get("/schedules/nightly").await.body["fires"].take();
        let all = fires.as_array().unwrap();
        (all.len() == 4 && all.iter().all(|fire| fire["postedAt"].is_string())).then_some(fires)
    })
    .await;
    assert!(fires.as_array().unwrap().iter().all(|fire| fire["accepted"] == 10), "{fires:#}");
    assert_eq!(one.get("/runs?limit=200").await.body["runs"].as_array().unwrap().len(), 40);
}
