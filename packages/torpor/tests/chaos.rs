//! Servers and workers on one Redis, behind lines that cut, delay, go silent and lose answers, while processes are killed,
//! paused and restarted, and Redis with them: every accepted leaf ends as it should, and every command ran once.
//!
//! What ran is not taken from anybody's word: each command writes a line into a ledger of its own outside the workspace's
//! results. What was logged is checked entry by entry.
//!
//! `CHAOS_SEED` repeats a run (as far as processes and networks can be repeated), `CHAOS_LEAVES` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::fleet::Fleet;
use support::{World, bash};
use tokio::sync::{Mutex, Semaphore, watch};
use torpor_core::log::SessionLog as _;
use torpor_core::{Position, SessionKey};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::dice::Dice;
use torpor_testkit::fault_proxy::Rates;
use torpor_testkit::history;

/// Leaves of a usual run of the tests.
const LEAVES: usize = 80;
/// Leaves under way at once.
const AT_ONCE: usize = 200;
/// Commands of each leaf.
const STEPS: usize = 2;
/// Pieces of conversation, one of which goes wrong in each way.
const RATES: Rates = Rates { cut: 80, lost_reply: 80, half_open: 500, delay: 20, delay_ms: 40 };
/// How long a leaf may take with all that, in seconds.
const LEAF_SECONDS: u64 = 180;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_and_no_command_runs_twice() {
    let seed = number("CHAOS_SEED", 1);
    let leaves = usize::try_from(number("CHAOS_LEAVES", LEAVES as u64)).unwrap();
    let begun = Instant::now();
    let mut world = World::new().await;
    world.env("TORPOR_MAX_ATTEMPTS", "100"); // kills may come faster than a leaf gets anywhere
    world.env("TORPOR_ORPHAN_SECONDS", "600");
    let Some(fleet) = Fleet::start(&world, 2, 3, seed, RATES).await else { return };
    println!("CHAOS_SEED={seed} CHAOS_LEAVES={leaves}");
    let address = Address::parse(&fleet.redis.url()).unwrap();
    fleet.arm(true);

    let world = Arc::new(world);
    let fleet = Arc::new(Mutex::new(fleet));
    let (stop, stopped) = watch::channel(false);
    let monkey = tokio::spawn(disturb(Arc::clone(&world), Arc::clone(&fleet), seed, stopped));

    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..leaves {
        let room = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let (world, fleet) = (Arc::clone(&world), Arc::clone(&fleet));
        all.spawn(async move {
            let record = leaf(&world, &fleet, n).await;
            drop(room);
            (n, record)
        });
    }
    let mut ended = Vec::new();
    while let Some(one) = all.join_next().await {
        ended.push(one.unwrap());
        if ended.len() % 1_000 == 0 {
            println!("{} leaves in {:?}", ended.len(), begun.elapsed());
        }
    }
    stop.send(true).unwrap();
    let disturbances = monkey.await.unwrap();

    let store = Store::connect(&address, Options::default()).await.unwrap();
    let (mut lost, mut doubled, mut takeovers) = (Vec::new(), Vec::new(), 0);
    for (n, record) in &ended {
        assert_eq!(record["status"], json!("done"), "leaf {n}: {record}\n{}", tail(&world));
        for step in 1..=STEPS {
            match world.count(&format!("ledger-{n}"), &format!("step-{step}.")) {
                0 => lost.push((n, step)),
                1 => {}
                _ => doubled.push((n, step)),
            }
        }
        let session = SessionKey::new("default", &format!("leaf-{n}")).unwrap();
        let log = store.read(&session, Position(1), 10_000).await.unwrap();
        let facts = history::check(&log).unwrap_or_else(|wrong| panic!("leaf {n}: {wrong}: {log:#?}"));
        assert_eq!((facts.runs.len(), facts.calls.len()), (1, STEPS), "leaf {n}: {log:#?}");
        takeovers += facts.runs[0].takeovers;
    }
    let faults = fleet.lock().await.faults();
    println!(
        "{leaves} leaves, {} commands in {:?}: {} lost, {} doubled; {faults} faults on the lines, {disturbances:?}, \
         {takeovers} takeovers",
        leaves * STEPS,
        begun.elapsed(),
        lost.len(),
        doubled.len(),
    );
    assert!(lost.is_empty() && doubled.is_empty(), "lost {lost:?}, doubled {doubled:?}");
}

/// The last of what the processes logged.
fn tail(world: &World) -> String {
    let log = world.log();
    log.get(log.len().saturating_sub(6_000)..).unwrap_or(&log).to_owned()
}

/// Posts a leaf until somebody accepts it, and asks until somebody says that it ended.
async fn leaf(world: &World, fleet: &Mutex<Fleet>, n: usize) -> Value {
    let step = |k: usize| bash(&format!("echo step-{k}. >> ledger-{n}; sleep 0.0{}", n % 10));
    let mut envelope = world.prompt(&format!("{};{};text", step(1), step(2)));
    envelope["async"] = json!(true);
    envelope["sessionId"] = json!(format!("leaf-{n}"));
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let begun = Instant::now();
    let mut run: Option<String> = None;
    let mut turn = n;
    loop {
        let waited = begun.elapsed().as_secs();
        assert!(waited < LEAF_SECONDS, "leaf {n} has not ended after {waited} s, run {run:?}\n{}", tail(world));
        turn += 1;
        let servers: Vec<String> = fleet.lock().await.members.iter().filter_map(|m| m.url.clone()).collect();
        if servers.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let url = &servers[turn % servers.len()];
        let request = match &run {
            None => {
                http.post(format!("{url}/runs")).header("content-type", "application/json").body(envelope.to_string())
            }
            Some(run) => http.get(format!("{url}/runs/{run}")),
        };
        // Whatever goes wrong here is what a client does: ask again.
        if let Ok(answer) = request.send().await {
            let status = answer.status().as_u16();
            let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default();
            match status {
                200 | 202 if run.is_none() => run = body["runId"].as_str().map(str::to_owned),
                200 if !matches!(body["status"].as_str(), Some("queued" | "running")) && body.is_object() => {
                    return body;
                }
                200 | 503 | 429 => {}
                status => panic!("leaf {n}: {status} {body}\n{}", tail(world)),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What was done to the processes.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "printed")]
struct Disturbances {
    kills: u32,
    pauses: u32,
    terms: u32,
    redis: u32,
}

/// Kills, pauses and restarts until it is told to stop; then everything is brought back and nothing goes wrong any more.
async fn disturb(
    world: Arc<World>,
    fleet: Arc<Mutex<Fleet>>,
    seed: u64,
    mut stopped: watch::Receiver<bool>,
) -> Disturbances {
    let mut dice = Dice::new(seed);
    let mut done = Disturbances::default();
    loop {
        let pause = Duration::from_millis(300 + dice.below(900));
        tokio::select! {
            _ = stopped.changed() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let members = fleet.lock().await.members.len();
        let n = dice.pick(members);
        match dice.below(20) {
            0..8 => {
                done.kills += 1;
                let mut fleet = fleet.lock().await;
                fleet.kill(n).await;
                fleet.launch(&world, n).await;
            }
            8..14 => {
                done.pauses += 1;
                let process = fleet.lock().await.process(n);
                let Some(process) = process else { continue };
                process.signal(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(500 + dice.below(5_500))).await;
                process.signal(Signal::CONT);
            }
            14..17 => {
                done.terms += 1;
                let mut fleet = fleet.lock().await;
                fleet.terminate(n, Duration::from_secs(10)).await;
                fleet.launch(&world, n).await;
            }
            17 => {
                done.redis += 1;
                let mut fleet = fleet.lock().await;
                fleet.redis.kill();
                tokio::time::sleep(Duration::from_millis(dice.below(2_000))).await;
                fleet.redis.launch();
            }
            _ => {
                // Whoever gave up in the meantime comes back.
                let mut fleet = fleet.lock().await;
                for n in 0..members {
                    fleet.launch(&world, n).await;
                }
            }
        }
    }
    fleet.lock().await.arm(false);
    done
}
