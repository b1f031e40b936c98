//! `kill -9` at any instant: what was acknowledged is there, in order and whole, and the store opens.
//!
//! The test runs this very test binary as a child that works on a store and prints what was acknowledged, kills it
//! at random moments, and checks the store after each kill. No clean shutdown ever happens in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use torpor_core::entry::Body;
use torpor_core::log::SessionLog as _;
use torpor_core::outcome::{Outcome, Status};
use torpor_core::queue::WorkQueue as _;
use torpor_core::run::RunStore as _;
use torpor_core::{Position, RunId};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::sample::{claimed, ended, first_claimed, key, keyed, write};

/// Set for the child: the folder to work in.
const FOLDER: &str = "TORPOR_TEST_CRASH_FOLDER";

/// How often the child is killed.
const KILLS: u64 = 25;

/// Sessions that the child works on at once.
const TASKS: u64 = 8;

/// The child: accepts runs, appends to them and ends them until it is killed; prints each acknowledgement.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Store::open(Path::new(&dir), Options::default()).unwrap());
        let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(work(Arc::clone(&store)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn work(store: Arc<Store>) {
    loop {
        let run_id = RunId::generate();
        let mut new = first_claimed(run_id.as_str());
        new.run_id = run_id.clone();
        let lease = claimed(store.enqueue(keyed(new, run_id.as_str(), "hash")).await.unwrap());
        acknowledge(&format!("accepted {run_id}"));
        let mut head = Position(0);
        for n in 0..6 {
            let size = [10, 300, 5_000][n % 3];
            let note = Body::Checkpoint { summary: "x".repeat(size), keep_from: Position(1), open_run: None };
            let mut bodies = vec![note.clone(), note];
            if n == 5 {
                bodies.push(ended(&lease, Outcome::Cancelled {}));
            }
            head = store.append(write(&lease, head.0, bodies)).await.unwrap();
            acknowledge(&format!("appended {run_id} {head}"));
        }
        acknowledge(&format!("ended {run_id}"));
    }
}

fn acknowledge(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What the child said of one run.
#[derive(Default)]
struct Said {
    head: u64,
    ended: bool,
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut said: HashMap<String, Said> = HashMap::new();
    for kill in 0..KILLS {
        // Spread over a few hundred milliseconds, the first ones while the store is still being made.
        let after = Duration::from_micros(kill * kill * 700 % 300_000 + kill * 1_500);
        run_child_until_killed(dir.path(), after, &mut said);
        if kill % 5 == 4 {
            check(dir.path(), &said).await;
        }
    }
    check(dir.path(), &said).await;
    assert!(said.values().any(|s| s.ended), "the child got nowhere: nothing was tested");
}

fn run_child_until_killed(dir: &Path, after: Duration, said: &mut HashMap<String, Said>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
    std::thread::sleep(after); // the moment of the kill is the test's input
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child must die by the kill");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "the child failed by itself: {status}");
    for line in reader.join().unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["@accepted", run] => drop(said.insert(run.into(), Said::default())),
            ["@appended", run, head] => said.get_mut(run).unwrap().head = head.parse().unwrap(),
            ["@ended", run] => said.get_mut(run).unwrap().ended = true,
            _ => {} // the test runner's own lines, or one cut off by the kill
        }
    }
}

async fn check(dir: &Path, said: &HashMap<String, Said>) {
    let store = Store::open(dir, Options::default()).unwrap();
    for (run, said) in said {
        let record = store.get(&RunId::parse(run).unwrap()).await.unwrap();
        let record = record.unwrap_or_else(|| panic!("run {run} was accepted and is gone"));
        let opened = store.open(&key(run)).await.unwrap().unwrap();
        assert!(opened.head.position.0 >= said.head, "{run}: {} was acknowledged, {opened:?} is there", said.head);
        let positions: Vec<u64> = opened.tail.iter().map(|e| e.position.0).collect();
        assert_eq!(positions, (1..=opened.head.position.0).collect::<Vec<_>>(), "{run} has gaps");
        assert_eq!(positions.len() % 2, usize::from(record.status.is_terminal()), "{run} holds half a batch");
        if said.ended {
            assert_eq!(record.status, Status::Cancelled, "{run} ended");
        }
    }
    // Nobody waits for the leases of the dead: what has not ended can be claimed at once, exactly once.
    let unended = store.backlog().await.unwrap();
    assert_eq!((unended.leased, unended.waiting), (0, 0));
    let mut claimed = std::collections::HashSet::new();
    loop {
        let leases = store.claim(&"checker".into(), 100, Duration::ZERO).await.unwrap();
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            assert!(!lease.record.status.is_terminal());
            assert!(claimed.insert(lease.record.run_id));
        }
    }
    assert_eq!(claimed.len() as u64, unended.ready);
    for (run, said) in said {
        assert!(!said.ended || !claimed.contains(&RunId::parse(run).unwrap()), "{run} ended and came back");
    }
}
