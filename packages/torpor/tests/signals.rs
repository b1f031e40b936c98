//! SIGTERM and `kill -9` in every phase: the process is gone within its bound, nothing that was acknowledged is lost, every
//! run finishes at the next start, and no command has run twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::follow::Follower;
use support::probe::{Wire, posting};
use support::{Server, World, bash, until_file};
use tokio::sync::watch;
use torpor_testkit::model_server::script;

/// What a process that was told to stop may take: a second of drain, the hand-back, the cut of what is left.
const BOUND: Duration = Duration::from_secs(15);
/// Runs that were accepted before the signal comes, under load.
const LOAD: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Idle,
    HalfSent,
    ModelCall,
    Command,
    Streaming,
    Followed,
    Compaction,
    Load,
}

const ALL: [Phase; 8] = [
    Phase::Idle,
    Phase::HalfSent,
    Phase::ModelCall,
    Phase::Command,
    Phase::Streaming,
    Phase::Followed,
    Phase::Compaction,
    Phase::Load,
];

/// What is under way when the signal comes.
#[derive(Default)]
struct UnderWay {
    runs: Vec<String>,
    clients: Vec<Wire>,
    followers: Vec<Follower>,
}

/// A synchronous run whose caller waits.
async fn waiting(server: &Server, envelope: &Value, session: &str) -> (String, Wire) {
    let mut envelope = envelope.clone();
    envelope["sessionId"] = json!(session);
    let mut client = server.connect().await;
    client.send(posting("/runs", envelope.to_string().as_bytes())).await;
    let run = support::until("the run to be accepted", async || {
        server.get(&format!("/runs/status?sessionId={session}")).await.body["runId"].as_str().map(str::to_owned)
    });
    (run.await, client)
}

async fn begin(phase: Phase, world: &World, server: &Server) -> UnderWay {
    let mut way = UnderWay::default();
    let effect = bash("echo x >> ledger");
    match phase {
        Phase::Idle => {
            let done = server.post("/runs", &world.prompt(&format!("{effect};text"))).await.body;
            way.runs.push(done["runId"].as_str().unwrap().to_owned());
        }
        Phase::HalfSent => {
            for bytes in ["POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n{", "GET /hea", ""] {
                let mut wire = server.connect().await;
                wire.send(bytes).await;
                way.clients.push(wire);
            }
        }
        Phase::ModelCall => {
            let (run, client) = waiting(server, &world.prompt(&format!("{effect};hold=go")), "s").await;
            world.model.wait_for_requests(2).await;
            (way.runs, way.clients) = (vec![run], vec![client]);
        }
        Phase::Command | Phase::Followed => {
            let slow = bash("echo x >> ledger; until [ -e release ]; do sleep 0.02; done");
            let (run, client) = waiting(server, &world.prompt(&format!("{slow};text")), "s").await;
            until_file(&world.file("ledger")).await;
            if phase == Phase::Followed {
                way.followers = join_all((0..20).map(|_| Follower::new(server, &run, 0))).await;
                join_all(way.followers.iter_mut().map(|f| f.until(|f| f.last == "tool_requested"))).await;
            }
            (way.runs, way.clients) = (vec![run], vec![client]);
        }
        Phase::Streaming => {
            let run = server.submit(world.prompt(&format!("{effect};drip=100x30"))).await;
            let mut follower = Follower::new(server, &run, 0).await;
            while follower.last != "delta" {
                follower.until_event().await;
            }
            way.runs.push(run);
        }
        Phase::Compaction => {
            let loud = script::encode("echo x >> ledger; head -c 22000 /dev/zero | tr '\\0' x");
            way.runs.push(server.submit(world.prompt(&format!("again=2,1,{loud};hold=go;text"))).await);
            world.model.wait_for_requests(3).await;
        }
        Phase::Load => {}
    }
    way
}

/// Posts until the server is gone; the runs that were acknowledged.
async fn load(world: &World, server: &Server, over: &AtomicBool, accepted: &watch::Sender<usize>) -> Vec<String> {
    let body = json!({"prompt": "go [[s:text]]", "async": true, "workspaceRef": world.project()}).to_string();
    let client = async || {
        let mut runs = Vec::new();
        let mut wire = server.connect().await;
        while !over.load(Ordering::Relaxed) && wire.send(posting("/runs", body.as_bytes())).await {
            let Some(answer) = wire.answer().await else { break };
            match answer.status {
                202 => {
                    runs.push(answer.json()["runId"].as_str().unwrap().to_owned());
                    accepted.send_modify(|n| *n += 1);
                }
                status => assert_eq!(status, 503, "{}", answer.json()),
            }
        }
        runs
    };
    join_all((0..8).map(|_| client())).await.concat()
}

async fn one(phase: Phase, signal: Signal) {
    let mut world = World::new().await;
    world.env("TORPOR_DRAIN_SECONDS", "1");
    world.env("TORPOR_LEASE_MS", "1000");
    if phase == Phase::Compaction {
        world.env("TORPOR_MODEL_LIMITS", "claude-opus-4-8=16000/4000");
    }
    let mut server = world.serve().await;
    let name = format!("{phase:?} {signal:?}");
    let mut way = begin(phase, &world, &server).await;
    let process = server.process();
    if phase == Phase::Load {
        let over = AtomicBool::new(false);
        let (accepted, mut begun) = watch::channel(0);
        let stop = async {
            let middle = begun.wait_for(|n| *n >= LOAD); // in the middle of the load
            tokio::time::timeout(BOUND, middle).await.unwrap().unwrap();
            process.signal(signal);
        };
        (way.runs, ()) = tokio::join!(load(&world, &server, &over, &accepted), stop);
        assert!(way.runs.len() >= LOAD, "{name}: {} runs", way.runs.len());
    } else {
        process.signal(signal);
    }
    let (code, took) = server.exit().await;
    assert_eq!(code, (signal == Signal::TERM).then_some(0), "{name}: {}", world.log());
    assert!(took < BOUND, "{name}: {took:?}");
    if signal == Signal::TERM {
        // Whoever waited was told where its run is; whoever followed got to the end of a whole event.
        for client in way.clients.iter_mut().filter(|_| matches!(phase, Phase::ModelCall | Phase::Command)) {
            let answer = client.answer().await.unwrap();
            assert_eq!((answer.status, answer.json()["runId"].as_str()), (202, Some(way.runs[0].as_str())), "{name}");
        }
        for follower in &mut way.followers {
            assert!(!follower.until(|_| false).await && follower.ended, "{name}: its stream was cut, not ended");
        }
    }
    assert!(!world.log().contains("panicked"), "{name}: {}", world.log());

    let restarted = world.serve().await;
    std::fs::write(world.file("release"), "").unwrap();
    world.model.release("go");
    for run in &way.runs {
        let record = restarted.ended(run).await;
        assert_eq!(record["status"], json!("done"), "{name}: {record}");
    }
    let effects = match phase {
        Phase::HalfSent | Phase::Load => 0,
        Phase::Compaction => 2,
        _ => 1,
    };
    assert_eq!(world.count("ledger", "x"), effects, "{name}");
    for mut follower in way.followers {
        let mut back = Follower::new(&restarted, &way.runs[0], *follower.ids.last().unwrap()).await;
        back.until(|_| false).await;
        follower.ids.append(&mut back.ids);
        assert!(follower.ids.iter().copied().eq(1..=follower.ids.len() as u64), "{name}: {:?}", follower.ids);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_every_phase() {
    for phases in ALL.chunks(4) {
        join_all(phases.iter().map(|phase| one(*phase, Signal::TERM))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_in_every_phase() {
    for phases in ALL.chunks(4) {
        join_all(phases.iter().map(|phase| one(*phase, Signal::KILL))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_twice_it_stops_at_once() {
    let mut world = World::new().await;
    world.env("TORPOR_DRAIN_SECONDS", "600");
    let mut server = world.serve().await;
    let run = server.submit(world.prompt("hold=go")).await;
    world.model.wait_for_requests(1).await;
    let mut probe = server.connect().await;
    server.process().signal(Signal::TERM);
    // Its connections are closed once it has understood.
    probe.until_closed().await;
    server.process().signal(Signal::TERM);
    let (code, took) = server.exit().await;
    assert_eq!(code, Some(130));
    assert!(took < Duration::from_secs(3), "{took:?}");
    world.model.release("go");
    let server = world.serve().await;
    assert_eq!(server.ended(&run).await["status"], json!("done"));
}
