//! One tool step as the model sees it: from the end of its answer to the arrival of the next request.
//!
//! Owns: which steps. Must not know: how the model server tells gaps.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::http::{Http, ms};
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, step, turn};

const ROW: &str = "bash";
const SESSIONS: usize = 6;
/// Steps of one session; well below the default limit of model calls.
const STEPS: usize = 60;

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let spawns = spawns(ctx.n(200))?;
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let mut http = server.http().await?;
    let steps = ctx.n(STEPS);
    let cold = gaps(&world, &mut http, &step("bash", "true")).await?;

    world.hands().into_iter().take(1).for_each(|pid| ctx.prefer(pid));

    let many = |tool: &str, argument: &str| step(&format!("{tool}*{steps}"), argument);
    let (mut first, mut bash, mut read) = (Vec::new(), Vec::new(), Vec::new());
    let server_cpu = process::cpu_ms(server.pid());
    for _ in 0..SESSIONS {
        let gaps = gaps(&world, &mut http, &many("bash", "true")).await?;
        first.extend(gaps.first());
        bash.extend(gaps.iter().skip(1));
    }
    let server_cpu = (process::cpu_ms(server.pid()) - server_cpu) / (SESSIONS * steps) as f64;
    for _ in 0..SESSIONS {
        let script = format!("{};{}", step("bash", "seq 100 > small"), many("read", "small"));
        let gaps = gaps(&world, &mut http, &script).await?;
        read.extend(gaps.iter().skip(1));
    }
    let how = format!(
        "{SESSIONS} sessions of {steps} steps, the first of each apart; confinement `{}`",
        world.level().await?
    );
    Ok(vec![
        Measure::of(ROW, "a bash `true` step", "ms", &bash).at_most(2.0).how(how),
        Measure::one(ROW, "CPU per bash step, server", "ms", server_cpu).how("without hands and command"),
        Measure::of(ROW, "a read of a small file", "ms", &read).how("100 lines"),
        Measure::of(ROW, "first bash step of a session", "ms", &first).how("its domain is started"),
        Measure::of(ROW, "first bash step of all", "ms", &cold).how("hands and domain are started"),
        Measure::of(ROW, "baseline: `bash -c true`", "ms", &spawns).how("spawn → exit, unconfined, from this program"),
    ])
}

/// One turn of that script in a new session; the time after each answer that called a tool.
async fn gaps(world: &World<'_>, http: &mut Http, script: &str) -> anyhow::Result<Vec<f64>> {
    world.model.reset().await?;
    let answer = http.post("/turn", &turn(&format!("{script};text"), None)).await?.json(200)?;
    anyhow::ensure!(answer["stopReason"] == "end_turn", "the turn did not end well: {answer}");
    world.model.gaps().await
}

fn spawns(times: usize) -> anyhow::Result<Vec<f64>> {
    let mut walls = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        Command::new("bash").args(["-c", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        walls.push(ms(began.elapsed()));
    }
    Ok(walls)
}
