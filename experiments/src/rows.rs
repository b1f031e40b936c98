//! The rows, in the order of the table.
//!
//! Owns: their names. Must not know: how each is measured.

mod bash;
mod crash;
mod enqueue;
mod follow;
mod load;
mod memory;
mod output;
mod resume;
mod start;
mod turn;

use crate::report::Measure;
use crate::world::Context;

/// Every row.
pub(crate) const NAMES: [&str; 10] =
    ["start", "memory", "turn", "bash", "resume", "output", "enqueue", "load", "follow", "crash"];

/// Measures one.
pub(crate) async fn measure(name: &str, ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    match name {
        "start" => Box::pin(start::measure(ctx)).await,
        "memory" => Box::pin(memory::measure(ctx)).await,
        "turn" => Box::pin(turn::measure(ctx)).await,
        "bash" => Box::pin(bash::measure(ctx)).await,
        "resume" => Box::pin(resume::measure(ctx)).await,
        "output" => Box::pin(output::measure(ctx)).await,
        "enqueue" => Box::pin(enqueue::measure(ctx)).await,
        "load" => Box::pin(load::measure(ctx)).await,
        "follow" => Box::pin(follow::measure(ctx)).await,
        "crash" => Box::pin(crash::measure(ctx)).await,
        other => anyhow::bail!("no row is called {other}"),
    }
}
