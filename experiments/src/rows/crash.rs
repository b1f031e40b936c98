//! `kill -9` in the middle of a command.
//!
//! Owns: a ledger outside of Torpor, in which each command notes its effects. Must not know: how takeover works.

use std::path::Path;
use std::time::Instant;

use crate::http::ms;
use crate::report::Measure;
use crate::world::{Context, World, ended, step, submit, until};

const ROW: &str = "crash";
const TIMES: usize = 10;

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let world = World::new(ctx).await?;
    let (mut result, mut lag, mut late) = (Vec::new(), Vec::new(), Vec::new());
    let (mut effects, mut calls) = (Vec::new(), Vec::new());
    for i in 0..ctx.n(TIMES) {
        let (r, l) = mid_command(&world, &format!("a{i}")).await?;
        result.push(r / 1000.0);
        lag.push(l);
        effects.push(count(&world.file(&format!("a{i}"))));
        calls.push(world.model.count("requests").await?);
    }
    for i in 0..ctx.n(TIMES) {
        late.push(after_its_end(&world, &format!("b{i}")).await?);
        effects.push(count(&world.file(&format!("b{i}"))));
        calls.push(world.model.count("requests").await?);
    }
    let most = |v: &[f64]| v.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Measure::of(ROW, "kill −9 mid-command → result", "s", &result)
            .at_most(5.0)
            .how("of a command with 1 s to go; new server at once, same data folder"),
        Measure::of(ROW, "of that: end of the command → result", "ms", &lag).how("what the takeover adds"),
        Measure::of(ROW, "spawn of the new server → result, command already over", "ms", &late),
        Measure::one(ROW, "times a command ran, at most", "×", most(&effects)).at_most(1.0).how(format!(
            "lines of the ledger, {} kills; each ran at least {}",
            effects.len(),
            least(&effects)
        )),
        Measure::one(ROW, "model calls per run, at most", "×", most(&calls)).how("2 is the least: command, text"),
    ])
}

fn least(v: &[f64]) -> f64 {
    v.iter().copied().fold(f64::INFINITY, f64::min)
}

/// How often the command that writes to this ledger began; not a number if its ends do not match.
fn count(ledger: &Path) -> f64 {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let of = |word: &str| text.lines().filter(|l| *l == word).count();
    if of("begin") == of("end") { of("begin") as f64 } else { f64::INFINITY }
}

fn has(ledger: &Path, word: &str) -> bool {
    std::fs::read_to_string(ledger).is_ok_and(|t| t.lines().any(|l| l == word))
}

/// Milliseconds from the kill to the result, and from the command's end to it.
async fn mid_command(world: &World<'_>, name: &str) -> anyhow::Result<(f64, f64)> {
    world.model.reset().await?;
    let command = format!("echo begin >> {name}; sleep 1; echo end >> {name}");
    let server = world.serve().await?;
    let run = submit(&mut server.http().await?, &world.envelope(&format!("{};text", step("bash", &command)))).await?;
    let ledger = world.file(name);
    until("the command to begin", async || Ok(has(&ledger, "begin").then_some(()))).await?;
    let killed = Instant::now();
    server.kill().await?;
    let server = world.serve().await?;
    until("the command to end", async || Ok(has(&ledger, "end").then_some(()))).await?;
    let over = Instant::now();
    let record = ended(&mut server.http().await?, &run).await?;
    let took = (ms(killed.elapsed()), ms(over.elapsed()));
    anyhow::ensure!(record["status"] == "done", "the run did not end well: {record}");
    server.kill().await?; // waited for: the next one needs the data folder
    Ok(took)
}

/// Milliseconds from the new server's spawn to the result of a command that ended while none lived.
async fn after_its_end(world: &World<'_>, name: &str) -> anyhow::Result<f64> {
    world.model.reset().await?;
    let command = format!("echo begin >> {name}; until [ -e {name}.go ]; do sleep 0.01; done; echo end >> {name}");
    let server = world.serve().await?;
    let run = submit(&mut server.http().await?, &world.envelope(&format!("{};text", step("bash", &command)))).await?;
    let ledger = world.file(name);
    until("the command to begin", async || Ok(has(&ledger, "begin").then_some(()))).await?;
    server.kill().await?;
    std::fs::write(world.file(&format!("{name}.go")), "")?;
    until("the command to end", async || Ok(has(&ledger, "end").then_some(()))).await?;
    let began = Instant::now();
    let server = world.serve().await?;
    let record = ended(&mut server.http().await?, &run).await?;
    let took = ms(began.elapsed());
    anyhow::ensure!(record["status"] == "done", "the run did not end well: {record}");
    server.kill().await?;
    Ok(took)
}
