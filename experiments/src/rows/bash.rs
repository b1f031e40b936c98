//! One tool step as the model sees it: from the end of its answer to the arrival of the next request.
//!
//! Owns: which steps. Must not know: how the model server tells gaps.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use torpor_core::{CallId, Epoch, Position, SessionKey};
use torpor_exec_channel::message::Open;

use crate::http::{Http, ms};
use crate::process;
use crate::report::Measure;
use crate::roles;
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
    let (alone, read_alone) = over_the_channel(&world, ctx.n(200)).await?;
    let how = format!(
        "{SESSIONS} sessions of {steps} steps, the first of each apart; confinement `{}`",
        world.level().await?
    );
    Ok(vec![
        Measure::of(ROW, "a bash `true` step", "ms", &bash).at_most(2.0).how(how),
        Measure::one(ROW, "CPU per bash step, server", "ms", server_cpu).how("without hands and command"),
        Measure::of(ROW, "a read of a small file", "ms", &read).how("100 lines"),
        Measure::of(ROW, "of that: the hands, `true`", "ms", &alone)
            .how("the same call straight over the exec channel"),
        Measure::of(ROW, "of that: the hands, read", "ms", &read_alone).how("the same"),
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

/// What the hands alone take for a command and for a read, in a session that has run a command.
async fn over_the_channel(world: &World<'_>, times: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let client = roles::hands_client(&world.hands_dir());
    let key = SessionKey::new("default", &uuid::Uuid::new_v4().to_string())?;
    let session = client.open(Open { session: key.digest(), epoch: Epoch(1), born: Epoch(0), workspace: None }).await?;
    let mut position = Position(0);
    let mut call = async |tool: &str, input: Value| {
        position = position.next();
        let id = CallId { session: key.digest(), position };
        let sent = Instant::now();
        session.call(id, session.identity().incarnation.clone(), tool.to_owned(), input).await?;
        Ok::<_, anyhow::Error>(ms(sent.elapsed()))
    };
    call("bash", json!({"command": "seq 100 > small"})).await?;
    let (mut bash, mut read) = (Vec::new(), Vec::new());
    for _ in 0..times {
        bash.push(call("bash", json!({"command": "true"})).await?);
        read.push(call("read", json!({"path": "small"})).await?);
    }
    Ok((bash, read))
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
