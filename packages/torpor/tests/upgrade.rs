//! Two builds over one store, as in a rolling upgrade. The other build is played by the test, which writes what that one would
//! have written: entries of the schema before ours, and of one after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{World, until};
use torpor_core::entry::{OLDEST_SCHEMA, SCHEMA};
use torpor_testkit::redis::Server;

/// Longer than a run that cannot go on here waits before it is looked at again.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(5);

/// A session's log in Redis, by the documented layout.
struct Log<'a> {
    redis: &'a Server,
    session: String,
    entries: String,
}

impl<'a> Log<'a> {
    /// Of the only session of the store.
    fn of_the_only_session(redis: &'a Server) -> Self {
        let member = ask(redis, &["ZRANGE", "torpor:{0}:sessions", "0", "-1"]);
        let digest = member.split(':').nth(1).unwrap_or_else(|| panic!("one session is there: {member}"));
        let session = format!("torpor:{{0}}:s:{digest}");
        let life = ask(redis, &["HGET", &session, "life"]);
        Self { redis, session, entries: format!("torpor:{{0}}:log:{life}") }
    }

    fn head(&self) -> u64 {
        ask(self.redis, &["HGET", &self.session, "head"]).parse().unwrap()
    }

    fn set_head(&self, head: u64) {
        ask(self.redis, &["HSET", &self.session, "head", &head.to_string()]);
    }

    /// The newest entry's fields.
    fn newest(&self) -> Vec<String> {
        let text = ask(self.redis, &["XREVRANGE", &self.entries, "+", "-", "COUNT", "1"]);
        text.lines().skip(1).map(str::to_owned).collect()
    }

    fn append(&self, fields: &[String]) {
        let position = self.head() + 1;
        let id = format!("{position}-0");
        let mut command = vec!["XADD", self.entries.as_str(), id.as_str()];
        command.extend(fields.iter().map(String::as_str));
        ask(self.redis, &command);
        self.set_head(position);
    }

    fn take_back(&self) {
        let head = self.head();
        ask(self.redis, &["XDEL", &self.entries, &format!("{head}-0")]);
        ask(self.redis, &["XSETID", &self.entries, &format!("{}-0", head - 1)]);
        self.set_head(head - 1);
    }

    /// Writes all entries again as a build of that schema would have.
    fn rewrite(&self, schema: u16) {
        let all = ask(self.redis, &["XRANGE", &self.entries, "-", "+"]);
        ask(self.redis, &["DEL", &self.entries]);
        let lines: Vec<&str> = all.lines().collect();
        for entry in lines.chunk_by(|_, next| !next.ends_with("-0")) {
            let mut fields: Vec<String> = entry[1..].iter().map(|s| (*s).to_owned()).collect();
            set_schema(&mut fields, schema);
            let mut command = vec!["XADD", self.entries.as_str(), entry[0]];
            command.extend(fields.iter().map(String::as_str));
            ask(self.redis, &command);
        }
    }
}

fn ask(redis: &Server, command: &[&str]) -> String {
    redis.ask(command).unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn set_schema(fields: &mut [String], schema: u16) {
    let at = fields.iter().position(|name| name == "s").unwrap() + 1;
    fields[at] = schema.to_string();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_build_before_goes_on() {
    let Some((world, redis)) = World::with_redis().await else { return };
    let server = world.serve().await;
    let first = server.post("/turn", &json!({"prompt": "first [[s:text]]"})).await;
    assert_eq!(first.status, 200, "{}", first.body);
    Log::of_the_only_session(&redis).rewrite(OLDEST_SCHEMA);
    let session = first.body["sessionId"].clone();
    let second = server.post("/turn", &json!({"prompt": "second [[s:text]]", "sessionId": session})).await;
    assert_eq!((second.status, &second.body["stopReason"]), (200, &json!("end_turn")), "{}", second.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_newer_build_went_on_with_waits_for_one_and_holds_up_nobody() {
    let Some((mut world, redis)) = World::with_redis().await else { return };
    world.env("TORPOR_SERVE_WORKER", "sync");
    world.env("TORPOR_LEASE_MS", "1000");
    let server = world.serve().await;
    let first = server.post("/turn", &json!({"prompt": "first [[s:text]]"})).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let waiting = server
        .post(
            &format!("/runs/{}/messages", first.body["runId"].as_str().unwrap()),
            &json!({"prompt": "second [[s:text]]"}),
        )
        .await;
    assert!(matches!(waiting.status, 200 | 202), "{}", waiting.body);
    let run = waiting.body["runId"].as_str().unwrap().to_owned();
    let log = Log::of_the_only_session(&redis);
    let mut newer = log.newest();
    set_schema(&mut newer, SCHEMA + 1);
    log.append(&newer);

    let worker = world.worker(&["--forever"]);
    worker.says("a newer build has to go on with it").await;
    let other = server.submit(world.prompt("text")).await;
    assert_eq!(server.ended(&other).await["status"], json!("done"));
    tokio::time::sleep(LOOKED_AT_AGAIN).await; // several looks, none of which counts
    let record = server.get(&format!("/runs/{run}")).await.body;
    assert!(matches!(record["status"].as_str(), Some("queued" | "running")), "{record}");
    assert!(record["attempts"].as_u64().unwrap() <= 1, "{record}");

    log.take_back(); // as if the newer build had ended what it began, in a form that we can read
    let record = until("the run to end", async || {
        let record = server.get(&format!("/runs/{run}")).await.body;
        (record["status"] == "done").then_some(record)
    })
    .await;
    assert_eq!(record["status"], "done", "{}", worker.log());
}
