//! Much output: over the exec channel, and through a real run.
//!
//! Owns: what is printed and whose memory is read. Must not know: how output is kept.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::http::ms;
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, hands, step, turn};

const ROW: &str = "output";
/// What goes over the channel.
const BYTES: u64 = 64 << 20;
const READS: usize = 7;
/// What a command of a real run prints.
const MUCH: &str = "yes 'a line of output' | head -c 1000000000";

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let mut measures = over_the_channel(ctx).await?;
    measures.extend(through_a_run(ctx).await?);
    Ok(measures)
}

async fn over_the_channel(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let command = format!("head -c {BYTES} /dev/zero");
    let mut pipes = Vec::new();
    for _ in 0..ctx.n(READS) {
        let began = Instant::now();
        let mut child = std::process::Command::new("bash").args(["-c", &command]).stdout(Stdio::piped()).spawn()?;
        let (mut out, mut buffer) = (child.stdout.take().context("no pipe")?, vec![0; 1 << 16]);
        while out.read(&mut buffer)? > 0 {}
        child.wait()?;
        pipes.push(ms(began.elapsed()));
    }

    let dir = ctx.temp()?;
    let state = dir.path().join("hands");
    let mut daemon = ctx.command();
    daemon.arg("__hands-daemon").args(["--allow", "reduced"]).arg("--state").arg(&state).stdout(Stdio::piped());
    let mut daemon = daemon.spawn()?;
    let line = BufReader::new(daemon.stdout.take().context("no pipe")?).lines().next_line().await?;
    anyhow::ensure!(line.as_deref() == Some("ready"), "the hands said {line:?}");
    let pid = daemon.id().unwrap_or(0);
    let idle = process::peak_mib(pid);
    let (mut walls, mut reader, mut grown, mut missing) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..ctx.n(READS) {
        let out =
            Command::new(std::env::current_exe()?).args(["role", "read"]).arg(&state).arg(&command).output().await?;
        let read: Value = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("the reader failed: {}", String::from_utf8_lossy(&out.stderr)))?;
        let number = |name: &str| read[name].as_f64().unwrap_or(f64::NAN);
        anyhow::ensure!(
            number("bytes") + number("missing") == BYTES as f64,
            "not all output was accounted for: {read}"
        );
        missing += number("missing");
        walls.push(number("wallMs"));
        reader.push(number("peakMib"));
        grown.push(number("grownMib"));
    }
    let hands_peak = process::peak_mib(pid);
    hands(&state).into_iter().for_each(process::kill);
    let how = format!("`{command}` by exec_stream, in a session that has run a command; {missing} B missing in all");
    Ok(vec![
        Measure::of(ROW, "64 MiB over the channel", "ms", &walls).at_most(150.0).how(how),
        Measure::of(ROW, "memory it takes: reader", "MiB", &grown)
            .at_most(8.0)
            .how(format!("growth of VmHWM; the whole reader peaks at {:.1} MiB", crate::stats::median(&reader))),
        Measure::one(ROW, "memory it takes: hands", "MiB", hands_peak - idle)
            .at_most(8.0)
            .how(format!("growth of VmHWM over all reads; the daemon peaks at {hands_peak:.1} MiB")),
        Measure::of(ROW, "baseline: the same through a bare pipe", "ms", &pipes).how("read in pieces of 64 KiB"),
    ])
}

async fn through_a_run(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let mut http = server.http().await?;
    http.post("/turn", &turn(&format!("{};text", step("bash", "true")), None)).await?.json(200)?;
    let daemon = *world.hands().first().context("no hands run")?;
    let peaks = || (process::peak_mib(server.pid()), process::peak_mib(daemon));
    let before = peaks();
    let began = Instant::now();
    let answer = http.post("/turn", &turn(&format!("{};text", step("bash", MUCH)), None)).await?.json(200)?;
    let wall = began.elapsed().as_secs_f64();
    anyhow::ensure!(answer["stopReason"] == "end_turn", "the turn did not end well: {answer}");
    let after = peaks();
    let domains = world.hands().into_iter().skip(1).map(process::peak_mib).fold(0.0, f64::max);
    let kept = used(&world.data().join("hands"));
    Ok(vec![
        Measure::one(ROW, "1 GB by a bash call of a run", "s", wall).how(format!("`{MUCH}`")),
        Measure::one(ROW, "peak RSS of the server then", "MiB", after.0).how(format!("{:.1} before", before.0)),
        Measure::one(ROW, "peak RSS of the hands then", "MiB", after.1)
            .how(format!("{:.1} before; a domain's init peaks at {domains:.1}", before.1)),
        Measure::one(ROW, "kept on disk by the hands", "MiB", kept).how("all of their state folder"),
    ])
}

/// MiB of all files below a folder.
fn used(dir: &std::path::Path) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => used(&e.path()),
            Ok(m) => m.len() as f64 / f64::from(1 << 20),
            Err(_) => 0.0,
        })
        .sum()
}
