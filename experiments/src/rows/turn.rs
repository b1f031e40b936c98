//! What a text turn costs beside the model.
//!
//! Owns: wall against the model server's own time, CPU, and what one synced write costs on the same disk. Must not
//! know: other rows.

use std::time::Instant;

use crate::disk;
use crate::http::{Http, ms};
use crate::process;
use crate::report::Measure;
use crate::stats::median;
use crate::world::{Context, World, turn};

const ROW: &str = "turn";
const WARM: usize = 50;
const TURNS: usize = 1_000;
const SYNCS: usize = 300;

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let synced = disk::synced_appends(ctx, ctx.n(SYNCS))?;
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let (pid, turns) = (server.pid(), ctx.n(TURNS));
    let mut http = server.http().await?;
    for _ in 0..WARM {
        http.post("/turn", &turn("text", None)).await?.json(200)?;
    }
    world.model.reset().await?;
    let (cpu, model_cpu) = (process::cpu_ms(pid), process::cpu_ms(world.model.pid()));
    let redis_cpu = ctx.redis_pid().map(|redis| (redis, process::cpu_ms(redis)));
    let began = Instant::now();
    let mut walls = Vec::with_capacity(turns);
    for _ in 0..turns {
        let sent = Instant::now();
        http.post("/turn", &turn("text", None)).await?.json(200)?;
        walls.push(ms(sent.elapsed()));
    }
    let all = ms(began.elapsed());
    let per_turn = |ms: f64| ms / turns as f64;
    let cpu = per_turn(process::cpu_ms(pid) - cpu);
    let model_cpu = per_turn(process::cpu_ms(world.model.pid()) - model_cpu);
    let redis_cpu = redis_cpu.map(|(redis, before)| per_turn(process::cpu_ms(redis) - before));
    let service = per_turn(world.model.count("service_ms").await?);
    let overheads: Vec<f64> = walls.iter().map(|w| w - service).collect();
    let resumed = same_session(&mut http, &world, ctx.n(200)).await?;

    let how = format!("{turns} turns, one at a time, each a new session; model's own time {service:.3} ms");
    let per_commit =
        format!("a turn commits 3 times; {:.0} % of the wall was CPU of the server", 100.0 * cpu * turns as f64 / all);
    let redis = redis_cpu.map(|ms| Measure::one(ROW, "CPU per turn, Redis", "ms", ms));
    let mut measures = vec![
        Measure::of(ROW, "overhead (wall − model)", "ms", &overheads).at_most(1.0).how(how),
        Measure::one(ROW, "CPU per turn, server", "ms", cpu).at_most(0.5).how(per_commit),
        Measure::one(ROW, "CPU per turn, model server", "ms", model_cpu),
        Measure::of(ROW, "overhead in one growing session", "ms", &resumed)
            .how("turns of one session, history sent each time"),
        Measure::of(ROW, "baseline: synced append of 4 KiB", "ms", &synced).how("write + fdatasync, same disk"),
        Measure::one(ROW, "overhead in synced appends", "×", median(&overheads) / median(&synced))
            .how("3 commits a turn"),
        Measure::of(ROW, "baseline: POST straight to the model server", "ms", &direct(&world, ctx.n(300)).await?)
            .how("one loopback exchange, wall"),
    ];
    measures.extend(redis);
    Ok(measures)
}

async fn same_session(http: &mut Http, world: &World<'_>, turns: usize) -> anyhow::Result<Vec<f64>> {
    let first = http.post("/turn", &turn("text", None)).await?.json(200)?;
    let session = first["sessionId"].as_str().map(str::to_owned);
    world.model.reset().await?;
    let mut walls = Vec::with_capacity(turns);
    for _ in 0..turns {
        let sent = Instant::now();
        http.post("/turn", &turn("text", session.as_deref())).await?.json(200)?;
        walls.push(ms(sent.elapsed()));
    }
    let service = world.model.count("service_ms").await? / turns as f64;
    Ok(walls.iter().map(|w| w - service).collect())
}

async fn direct(world: &World<'_>, times: usize) -> anyhow::Result<Vec<f64>> {
    let mut http = Http::connect(world.model.address).await?;
    let mut walls = Vec::with_capacity(times);
    for _ in 0..times {
        let sent = Instant::now();
        http.post("/v1/messages", &turn("text", None)).await?.json(200)?;
        walls.push(ms(sent.elapsed()));
    }
    Ok(walls)
}
