//! Redis in trouble, as operators meet it: out of memory, no connections left, a replica instead of a primary, gone, restarted.
//! Callers are told the truth (503, and when to come back), what runs waits or is taken up again, nothing acknowledged is lost,
//! and nobody has to restart anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;
use support::{Server, World, bash, until, until_file};
use torpor_testkit::redis;

/// What a fault does, and what ends it.
struct Trouble {
    name: &'static str,
    begin: fn(&mut redis::Server),
    end: fn(&mut redis::Server),
}

fn ask(server: &redis::Server, command: &[&str]) {
    server.ask(command).unwrap_or_else(|e| panic!("{command:?}: {e}"));
}

const TROUBLES: [Trouble; 4] = [
    Trouble {
        name: "out of memory",
        begin: |redis| ask(redis, &["CONFIG", "SET", "maxmemory", "1"]),
        end: |redis| ask(redis, &["CONFIG", "SET", "maxmemory", "0"]),
    },
    Trouble {
        name: "a replica",
        begin: |redis| ask(redis, &["REPLICAOF", "127.0.0.1", "1"]),
        end: |redis| ask(redis, &["REPLICAOF", "NO", "ONE"]),
    },
    Trouble { name: "gone", begin: redis::Server::kill, end: redis::Server::launch },
    Trouble {
        name: "too few replicas for writes",
        begin: |redis| ask(redis, &["CONFIG", "SET", "min-replicas-to-write", "1"]),
        end: |redis| ask(redis, &["CONFIG", "SET", "min-replicas-to-write", "0"]),
    },
];

/// Posts while the store takes nothing: refused in so many words.
async fn is_refused(server: &Server, world: &World, what: &str) {
    let mut envelope = world.prompt("text");
    envelope["async"] = json!(true);
    let answer = server.post("/runs", &envelope).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("unavailable")), "{what}: {}", answer.body);
    assert!(answer.headers.contains_key("retry-after"), "{what}: {:?}", answer.headers);
    assert!(!answer.body.to_string().contains("127.0.0.1"), "{what}: {}", answer.body);
    assert_eq!(server.get("/health").await.status, 200, "{what}: the process itself is well");
    assert_eq!(server.get("/livez").await.status, 200, "{what}: a restart would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_told_and_passes_by_itself() {
    for Trouble { name, begin, end } in TROUBLES {
        let Some((world, mut redis)) = World::with_redis().await else { return };
        let server = world.serve().await;
        let kept = server.submit(world.prompt("text")).await;
        server.ended(&kept).await;
        let slow = bash("echo began. >> ledger; until [ -e go ]; do sleep 0.02; done; echo ended. >> ledger");
        let run = server.submit(world.prompt(&format!("{slow};text"))).await;
        until_file(&world.file("ledger")).await;

        begin(&mut redis);
        is_refused(&server, &world, name).await;
        std::fs::write(world.file("go"), "").unwrap();
        until("the command to end", async || (world.count("ledger", "ended.") == 1).then_some(())).await;
        end(&mut redis);

        let again = until(&format!("{name}: to be accepted again"), async || {
            let mut envelope = world.prompt("text");
            (envelope["async"], envelope["sessionId"]) = (json!(true), json!("again"));
            let answer = server.post("/runs", &envelope).await;
            answer.body["runId"].as_str().map(str::to_owned).filter(|_| answer.status == 202 || answer.status == 200)
        })
        .await;
        for run in [&run, &again, &kept] {
            let record = server.ended(run).await;
            assert_eq!(record["status"], json!("done"), "{name}: {record}\n{}", world.log());
        }
        assert_eq!((world.count("ledger", "began."), world.count("ledger", "ended.")), (1, 1), "{name}");
        until(&format!("{name}: readiness"), async || (server.get("/readyz").await.status == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_left_is_told_and_passes_by_itself() {
    let Some((world, redis)) = World::with_redis().await else { return };
    let server = world.serve().await;
    let run = server.submit(world.prompt("text")).await;
    server.ended(&run).await;
    // The operator's connection is the one that is left; everybody else is thrown out and not let in again.
    let mut operator = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    operator.write_all(b"CONFIG SET maxclients 1\r\nCLIENT KILL TYPE normal SKIPME yes\r\n").unwrap();
    until("a refusal", async || {
        let mut envelope = world.prompt("text");
        envelope["async"] = json!(true);
        let answer = server.post("/runs", &envelope).await;
        (answer.status == 503 && answer.headers.contains_key("retry-after")).then_some(())
    })
    .await;
    operator.write_all(b"CONFIG SET maxclients 1000\r\n").unwrap();
    let run = until("to be accepted again", async || {
        let mut envelope = world.prompt("text");
        (envelope["async"], envelope["sessionId"]) = (json!(true), json!("again"));
        server.post("/runs", &envelope).await.body["runId"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(server.ended(&run).await["status"], json!("done"));
}
