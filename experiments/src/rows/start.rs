//! From the start of the process to its first completed turn.
//!
//! Owns: fresh data folders and known ports. Must not know: other rows.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::sleep;

use crate::http::{Http, ms};
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, turn};

const ROW: &str = "start";
const STARTS: usize = 31;
/// Pause between two attempts to connect.
const LOOK: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let (mut health, mut first, mut cpu, mut rss) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut floor = Vec::new();
    for _ in 0..ctx.n(STARTS) {
        let began = Instant::now();
        ctx.command().arg("--version").stdout(std::process::Stdio::null()).status().await?;
        floor.push(ms(began.elapsed()));

        let world = World::new(ctx).await?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = world.command(port)?;
        let began = Instant::now();
        let child = command.spawn()?;
        let pid = child.id().unwrap_or(0);
        let mut http = loop {
            match Http::connect(address).await {
                Ok(http) => break http,
                Err(e) if began.elapsed() > PATIENCE => bail!("{e:#}; log: {}", world.log()),
                Err(_) => sleep(LOOK).await,
            }
        };
        let answer = http.get("/health").await?;
        health.push(ms(began.elapsed()));
        anyhow::ensure!(answer.status == 200, "/health answered {}", answer.status);
        http.post("/turn", &turn("text", None)).await?.json(200)?;
        first.push(ms(began.elapsed()));
        cpu.push(process::cpu_of_living_threads_ms(pid));
        rss.push(process::memory(pid).rss);
        drop(child);
    }
    let how = "`torpor serve` on an empty data folder, model at 0 ms";
    Ok(vec![
        Measure::of(ROW, "spawn → first 200 on /health", "ms", &health).how(how),
        Measure::of(ROW, "spawn → first completed POST /turn", "ms", &first).at_most(30.0).how(how),
        Measure::of(ROW, "CPU until then", "ms", &cpu).how("threads that live then"),
        Measure::of(ROW, "RSS then", "MiB", &rss).how(how),
        Measure::of(ROW, "baseline: `torpor --version`, spawn → exit", "ms", &floor).how("the process alone"),
    ])
}
