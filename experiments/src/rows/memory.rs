//! Memory of the server: idle, after many turns, and with many runs that wait on the model.
//!
//! Owns: when to look. Must not know: other rows.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::http::{Until, closed_loop};
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, is_idle, turn, until};

const ROW: &str = "memory";
/// Turns after which memory is read.
const MARKS: [u64; 5] = [100, 3_000, 6_000, 9_000, 12_000];
const CLIENTS: usize = 8;
/// Time to come to rest before memory is read.
const REST: Duration = Duration::from_secs(2);
/// Runs that wait on the model at once.
const WAITING: u64 = 2_000;
/// How long the model takes to answer them.
const MODEL: Duration = Duration::from_secs(5);

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let mut measures = after_turns(ctx).await?;
    measures.extend(waiting(ctx).await?);
    Ok(measures)
}

async fn after_turns(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let pid = server.pid();
    let state = || format!("{} descriptors, {} threads", process::descriptors(pid), process::threads(pid));
    sleep(REST).await;
    let idle = process::memory(pid);
    let mut measures = vec![
        Measure::one(ROW, "RSS idle", "MiB", idle.rss).at_most(12.0).how(format!("2 s after the start; {}", state())),
        Measure::one(ROW, "PSS idle", "MiB", idle.pss),
    ];
    let (mut done, mut early) = (0, f64::NAN);
    for (i, mark) in MARKS.into_iter().enumerate() {
        let mark = ctx.n(usize::try_from(mark)?) as u64;
        closed_loop(server.address, CLIENTS, Until::Count(mark - done), "/turn", |_| turn("text", None)).await?;
        done = mark;
        sleep(REST).await;
        let now = process::memory(pid);
        let line = Measure::one(ROW, format!("RSS after {done} turns"), "MiB", now.rss).how(format!(
            "{CLIENTS} clients, each turn a new session; PSS {:.1}; {}",
            now.pss,
            state()
        ));
        measures.push(if i == MARKS.len() - 1 { line.at_most(25.0) } else { line });
        if i == 1 {
            early = now.rss;
        }
    }
    let late = process::memory(pid).rss;
    measures.push(
        Measure::one(ROW, "growth from 3,000 to 12,000 turns", "MiB", late - early).at_most(1.0).how("flat means none"),
    );
    measures.push(Measure::one(ROW, "peak RSS in all that", "MiB", process::peak_mib(pid)).how("VmHWM"));
    if let Some(redis) = ctx.redis_pid() {
        let kept = ctx.redis_bytes()? / f64::from(1 << 20);
        measures.push(
            Measure::one(ROW, "RSS of Redis after that", "MiB", process::memory(redis).rss)
                .how(format!("{done} sessions of one turn with their records; it says {kept:.1} MiB are in use")),
        );
    }
    Ok(measures)
}

async fn waiting(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let mut world = World::new(ctx).await?;
    world.env("TORPOR_CONCURRENCY", WAITING.to_string());
    let server = world.serve().await?;
    let mut http = server.http().await?;
    let script = format!("delay={};text", MODEL.as_millis());
    let envelope = world.envelope(&script);
    let began = Instant::now();
    let load = closed_loop(server.address, 32, Until::Count(WAITING), "/runs", move |_| envelope.clone()).await?;
    until("the runs to end", async || Ok(is_idle(&mut http).await?.then_some(()))).await?;
    let wall = began.elapsed();
    let at_once = world.model.count("max_open").await?;
    let failed = http.get("/runs?status=failed&limit=1").await?.json(200)?;
    let none = failed["runs"].as_array().is_some_and(Vec::is_empty);
    anyhow::ensure!(none && load.statuses.keys().eq([&202]), "statuses {}; failed: {failed}", load.statuses());
    let how = format!(
        "async runs, model answers after {} s, TORPOR_CONCURRENCY={WAITING}; {at_once} model calls open at once",
        MODEL.as_secs()
    );
    let over = wall.as_secs_f64() / MODEL.as_secs_f64();
    let cpu = process::cpu_ms(server.pid()) / WAITING as f64;
    Ok(vec![
        Measure::one(ROW, format!("peak RSS, {WAITING} runs waiting"), "MiB", process::peak_mib(server.pid()))
            .at_most(256.0)
            .how(how),
        Measure::one(ROW, "their wall over the ideal", "×", over).at_most(1.2).how("first submit → last run done"),
        Measure::one(ROW, "CPU per waiting run", "ms", cpu).how("server, submit to end"),
    ])
}
