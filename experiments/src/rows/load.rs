//! Synchronous text turns from 1, 8 and 32 clients.
//!
//! Owns: closed loops, and what HTTP alone would allow. Must not know: other rows.

use std::time::Duration;

use crate::http::{Until, closed_loop};
use crate::process;
use crate::report::Measure;
use crate::world::{Context, Helper, World, turn};

const ROW: &str = "load";
const CLIENTS: [usize; 3] = [1, 8, 32];
const TIME: Duration = Duration::from_secs(10);

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let time = if ctx.quick { TIME / 10 } else { TIME };
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let (pid, model, own) = (server.pid(), world.model.pid(), std::process::id());
    closed_loop(server.address, 8, Until::Elapsed(time / 10), "/turn", |_| turn("text", None)).await?;
    let mut measures = Vec::new();
    for clients in CLIENTS {
        let before = [pid, model, own].map(process::cpu_ms);
        let load = closed_loop(server.address, clients, Until::Elapsed(time), "/turn", |_| turn("text", None)).await?;
        let turns = load.latencies_ms.len() as f64;
        let after = [pid, model, own].map(process::cpu_ms);
        let [cpu, model_cpu, own_cpu] = std::array::from_fn(|i| (after[i] - before[i]) / turns);
        let how = format!(
            "{:.1} s, {}; CPU per turn: server {cpu:.3} ms, model {model_cpu:.3}, client {own_cpu:.3}",
            load.wall.as_secs_f64(),
            load.statuses()
        );
        let rate = Measure::one(ROW, format!("turns, {clients} clients"), "/s", load.rate()).how(how);
        measures.push(if clients == 32 { rate.at_least(4_000.0) } else { rate });
        measures.push(Measure::of(ROW, format!("latency, {clients} clients"), "ms", &load.latencies_ms));
    }
    measures.push(Measure::one(ROW, "RSS afterwards", "MiB", process::memory(pid).rss).how(format!(
        "peak {:.1}; {} descriptors",
        process::peak_mib(pid),
        process::descriptors(pid)
    )));
    let hello = Helper::start("hello").await?;
    let load = closed_loop(hello.address, 32, Until::Elapsed(time / 4), "/", |_| turn("text", None)).await?;
    measures.push(
        Measure::one(ROW, "baseline: bare HTTP server, 32 clients", "/s", load.rate())
            .how("hyper, one thread, answers at once; the same client"),
    );
    Ok(measures)
}
