//! A turn in a session that is already long.
//!
//! Owns: which lengths are compared. Must not know: what a log is made of ([`sessions`]).

mod sessions;

use std::time::Instant;

use crate::http::{Http, ms};
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, turn};
use sessions::{Kind, build_embedded, build_in_redis};

const ROW: &str = "resume";
const TURNS: usize = 21;

/// Length in entries, whether there is a checkpoint, and the goal in milliseconds.
const LENGTHS: [(u64, Kind, Option<f64>); 5] = [
    (100, Kind::Checkpointed, None),
    (10_000, Kind::Checkpointed, Some(3.0)),
    (100_000, Kind::Checkpointed, Some(3.0)),
    (100, Kind::Whole, None),
    (10_000, Kind::Whole, None),
];

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let world = World::new(ctx).await?;
    let wanted = LENGTHS.map(|(n, kind, _)| (n, kind));
    let built = match world.redis() {
        Some((url, prefix)) => {
            let before = ctx.redis_bytes()?;
            let mut built = build_in_redis(&url, prefix, &wanted).await?;
            built.bytes_kept = ctx.redis_bytes()? - before;
            built
        }
        None => build_embedded(&world.data(), &wanted).await?,
    };
    let server = world.serve().await?;
    let mut http = server.http().await?;
    for _ in 0..50 {
        http.post("/turn", &turn("text", None)).await?.json(200)?;
    }
    let mut new = Vec::new();
    let mut resumed = vec![Vec::new(); built.sessions.len()];
    // Turn by turn through all of them, so that whatever else the machine does meets each alike.
    for _ in 0..ctx.n(TURNS) {
        new.push(overhead(&world, &mut http, None).await?);
        for (session, overheads) in built.sessions.iter().zip(&mut resumed) {
            overheads.push(overhead(&world, &mut http, Some(session)).await?);
        }
    }
    let mut measures = vec![Measure::of(ROW, "overhead, new session", "ms", &new).how("for comparison, same server")];
    for ((entries, kind, goal), overheads) in LENGTHS.into_iter().zip(&resumed) {
        let first = overheads.first().copied().unwrap_or(f64::NAN);
        let what = format!("overhead, {entries} entries, {kind}");
        let line =
            Measure::of(ROW, what, "ms", overheads).how(format!("first one {first:.2} ms; each turn adds 4 entries"));
        measures.push(goal.into_iter().fold(line, Measure::at_most));
    }
    let (kept, json) = (built.bytes_kept / built.entries, built.bytes_of_json / built.entries);
    measures.push(Measure::one(ROW, "bytes per entry kept", "B", kept).how(format!(
        "{} entries with {json:.0} B of JSON each; {}",
        built.entries,
        if world.redis().is_some() { "memory of Redis" } else { "database after its close" }
    )));
    measures.push(
        Measure::one(ROW, "entries written per second", "/s", built.entries / built.seconds).how("batches of 200"),
    );
    measures.push(Measure::one(ROW, "peak RSS of the server", "MiB", process::peak_mib(server.pid())));
    Ok(measures)
}

/// Wall of one turn without what the model server spent on it.
async fn overhead(world: &World<'_>, http: &mut Http, session: Option<&str>) -> anyhow::Result<f64> {
    world.model.reset().await?;
    let sent = Instant::now();
    let answer = http.post("/turn", &turn("text", session)).await?;
    let wall = ms(sent.elapsed());
    let answer = answer.json(200)?;
    anyhow::ensure!(answer["stopReason"] == "end_turn", "the turn did not end well: {answer}");
    Ok(wall - world.model.count("service_ms").await?)
}
