//! Thousands of followers at once: what they cost, that they see everything, and that one which stalls delays nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use support::follow::{Follower, descriptors};
use support::{Server, World, bash, until, until_file};
use torpor_testkit::model_server::script;

/// Followers at once, where the machine allows so many connections.
const MANY: usize = 2_000;

/// MiB that a follower may cost the server; generous, for a build without optimisation.
const EACH: f64 = 0.04;

/// As many followers as may be, [`MANY`] at most; each takes a descriptor here and one in the server.
fn many() -> usize {
    let allowed = descriptors(MANY as u64 + 500).saturating_sub(400);
    let many = MANY.min(usize::try_from(allowed).unwrap());
    if many < MANY {
        eprintln!("NOT ALL TESTED: the limit of descriptors allows {many} followers here, not {MANY}");
    }
    many
}

async fn attach(server: &Server, runs: &[String], count: usize) -> Vec<Follower> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let batch = (all.len()..count.min(all.len() + 100)).map(|n| Follower::new(server, &runs[n % runs.len()], 0));
        all.extend(join_all(batch).await);
    }
    all
}

/// Follows `runs` with as many as may be while their commands wait, then lets them end; every follower sees everything.
async fn follow_all(world: &World, server: &Server, runs: &[String]) {
    let many = many();
    let before = server.process().rss();
    let mut all = attach(server, runs, many).await;
    join_all(all.iter_mut().map(|f| f.until(|f| f.last == "tool_requested"))).await;
    let attached = server.process().rss();
    let each = (attached - before) / many as f64;
    println!(
        "{many} followers of {} runs: {before:.0} MiB, then {attached:.0}: {:.1} KiB each",
        runs.len(),
        each * 1024.0
    );
    assert!(each < EACH, "{each} MiB a follower");
    assert!(server.health().await < Duration::from_secs(5));

    let released = Instant::now();
    std::fs::write(world.file("release"), "").unwrap();
    join_all(all.iter_mut().map(|f| f.until(|_| false))).await;
    println!("all told of the end after {:?}", released.elapsed());
    assert!(released.elapsed() < Duration::from_secs(40), "{:?}", released.elapsed());
    for follower in &all {
        assert_eq!((follower.last.as_str(), follower.ids.as_slice()), ("run_ended", &[1, 2, 3, 4, 5, 6, 7, 8][..]));
    }
    let peak = server.process().peak();
    assert!(peak - before < EACH * 1.5 * many as f64, "{peak} MiB at most, {before} before");
    drop(all);
    until("the connections to be gone", async || (server.process().descriptors() < 400).then_some(())).await;
}

fn waiting() -> String {
    format!("{};text", bash("touch begun; until [ -e release ]; do sleep 0.1; done"))
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_follow_one_run() {
    let _ = descriptors(MANY as u64 + 500);
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt(&waiting())).await;
    until_file(&world.file("begun")).await;
    follow_all(&world, &server, &[run]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_follow_many_runs() {
    let _ = descriptors(MANY as u64 + 500);
    let world = World::new().await;
    let server = world.serve().await;
    let runs = join_all((0..40).map(|_| server.submit(world.prompt(&waiting())))).await;
    until_file(&world.file("begun")).await;
    follow_all(&world, &server, &runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_follower_is_dropped_delays_nobody_and_goes_on_where_it_was() {
    let mut world = World::new().await;
    world.env("TORPOR_CLIENT_SECONDS", "2");
    let server = world.serve().await;
    let loud = script::encode("printf %045000d 0");
    let wait = bash("until [ -e release ]; do sleep 0.02; done");
    let run = server.submit(world.prompt(&format!("{wait};calls=200,{loud};text"))).await;
    let mut stalled = attach(&server, std::slice::from_ref(&run), 20).await;
    join_all(stalled.iter_mut().map(|f| f.until(|f| f.ids.len() == 3))).await;
    let mut good = Follower::new(&server, &run, 0).await;
    let before = server.process().rss();
    std::fs::write(world.file("release"), "").unwrap();
    good.until(|_| false).await;
    let whole: Vec<u64> = (1..=*good.ids.last().unwrap()).collect();
    assert_eq!((good.last.as_str(), &good.ids), ("run_ended", &whole));
    until("the stalled to be dropped", async || (server.process().descriptors() < 40).then_some(())).await;
    assert!(server.process().peak() - before < 80.0, "{} MiB on {before}", server.process().peak());
    for mut follower in stalled {
        assert!(!follower.until(|_| false).await, "what was on its way, and then the end");
        assert_ne!(follower.last, "run_ended", "it was dropped before");
        let last = *follower.ids.last().unwrap();
        let mut back = Follower::new(&server, &run, last).await;
        back.until(|_| false).await;
        assert!(follower.ids.iter().chain(&back.ids).eq(&whole), "no gap and no repeat after {last}");
    }
}
