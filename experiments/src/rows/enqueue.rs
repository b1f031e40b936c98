//! Accepting asynchronous runs, and working them off.
//!
//! Owns: keeping the worker busy while runs are accepted, and letting it go. Must not know: other rows.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::disk;
use crate::http::{Load, Until, closed_loop};
use crate::process;
use crate::report::Measure;
use crate::stats::Summary;
use crate::world::{Context, World, is_idle, prompt, until};

const CLIENTS: usize = 32;
/// Runs of one batch, and batches.
const BATCH: usize = 10_000;
const BATCHES: usize = 3;
const SYNCS: usize = 300;
/// The default of `TORPOR_CONCURRENCY`: so many held runs leave the worker no room.
const CONCURRENCY: u64 = 512;
/// Length of the windows in which the drain is counted.
const WINDOW: Duration = Duration::from_millis(500);

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let mut world = World::new(ctx).await?;
    world.env("TORPOR_CONCURRENCY", CONCURRENCY.to_string());
    let server = world.serve().await?;
    let mut http = server.http().await?;
    let pid = server.pid();
    let hold = |_| json!({"prompt": prompt("hold=go"), "async": true}).to_string();
    closed_loop(server.address, CLIENTS, Until::Count(CONCURRENCY), "/runs", hold).await?;
    let model = &world.model;
    until("the worker to be full", async || Ok((model.count("open").await? >= CONCURRENCY as f64).then_some(())))
        .await?;

    let (batch, mut rates, mut all) = (ctx.n(BATCH), Vec::new(), Load::default());
    let (cpu, own) = (process::cpu_ms(pid), process::cpu_ms(std::process::id()));
    for _ in 0..BATCHES {
        let tag = uuid::Uuid::new_v4();
        let body = move |n| {
            let item = json!({"item_id": format!("i{n}"), "file": "cart.py", "pattern": prompt("verdict")});
            json!({"sessionId": format!("{tag}-{n}"), "item": item, "async": true}).to_string()
        };
        let load = closed_loop(server.address, CLIENTS, Until::Count(batch as u64), "/runs", body).await?;
        rates.push(load.rate());
        all.latencies_ms.extend(load.latencies_ms);
        load.statuses.into_iter().for_each(|(s, n)| *all.statuses.entry(s).or_default() += n);
    }
    let runs = (batch * BATCHES) as f64;
    let per_run = |ms: f64| ms / runs;
    let cpu = per_run(process::cpu_ms(pid) - cpu);
    let own = per_run(process::cpu_ms(std::process::id()) - own);
    anyhow::ensure!(all.statuses.keys().eq([&202]), "statuses: {}", all.statuses());

    let synced = disk::synced_appends(ctx, ctx.n(SYNCS))?;
    let drained = drain(&world, &mut http, pid, runs).await?;
    let how = format!("{BATCHES} batches of {batch} reviews, {CLIENTS} clients, worker full; {}", all.statuses());
    let mut measures = vec![
        Measure::of("enqueue", "async POST /runs", "/s", &rates).at_least(25_000.0).how(how),
        Measure::of("enqueue", "latency", "ms", &all.latencies_ms),
        Measure::one("enqueue", "CPU per run, server", "ms", cpu)
            .how(format!("this client: {own:.3} ms on the same cores")),
    ];
    measures
        .push(Measure::of("enqueue", "baseline: synced append of 4 KiB", "ms", &synced).how("same disk, same minute"));
    measures.extend(drained);
    Ok(measures)
}

async fn drain(world: &World<'_>, http: &mut crate::http::Http, pid: u32, runs: f64) -> anyhow::Result<Vec<Measure>> {
    let model = &world.model;
    let (cpu, model_cpu) = (process::cpu_ms(pid), process::cpu_ms(model.pid()));
    let mut seen = model.count("requests").await?;
    let began = Instant::now();
    model.release("go").await?;
    let mut windows = Vec::new();
    let wall = loop {
        sleep(WINDOW).await;
        let now = model.count("requests").await?;
        windows.push((now - seen) / WINDOW.as_secs_f64());
        seen = now;
        if is_idle(http).await? {
            break began.elapsed();
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(180), "not drained after {:?}", began.elapsed());
    };
    windows.pop(); // the last one is not full
    let failed = http.get("/runs?status=failed&limit=1").await?.json(200)?;
    anyhow::ensure!(failed["runs"].as_array().is_some_and(Vec::is_empty), "a run failed: {failed}");
    let (cpu, model_cpu) = (process::cpu_ms(pid) - cpu, process::cpu_ms(model.pid()) - model_cpu);
    let spread =
        Summary::of(&windows).map_or_else(String::new, |s| format!("{:.0} – {:.0}/s in windows", s.min, s.max));
    let how = format!("one worker, concurrency {CONCURRENCY}: release → nothing queued or running; {spread}");
    Ok(vec![
        Measure::one("drain", format!("{runs} verdict leaves"), "/s", runs / wall.as_secs_f64())
            .at_least(2_500.0)
            .how(how),
        Measure::one("drain", "CPU per leaf, server", "ms", cpu / runs)
            .how(format!("model server: {:.3} ms on the same cores", model_cpu / runs)),
        Measure::one("drain", "RSS afterwards", "MiB", process::memory(pid).rss)
            .how(format!("peak {:.1}", process::peak_mib(pid))),
    ])
}
