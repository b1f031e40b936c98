//! Measures what Torpor costs, against the goals of the quality bar, and prints one table.
//!
//! Owns: the command line and the order of rows. Must not know: how a row is measured. The program starts itself again
//! as model server, as bare HTTP server and as reader of an output, so that what is measured never shares a process
//! with what measures it.

mod disk;
mod http;
mod machine;
mod process;
mod report;
mod roles;
mod rows;
mod stats;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

/// Measurements against the goals.
#[derive(Parser)]
#[command(name = "experiments", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure rows of the quality bar (all, unless some are named) and print one table
    Bar(Bar),
    #[command(hide = true)]
    Role(roles::Role),
}

#[derive(Args)]
struct Bar {
    /// Rows to measure
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(rows::NAMES))]
    rows: Vec<String>,
    /// The program to measure [default: `torpor` beside this program]
    #[arg(long, value_name = "FILE")]
    torpor: Option<PathBuf>,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the temporary folders go; the disk that is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Give everything that takes part precedence over other work on this machine (needs root)
    #[arg(long)]
    first: bool,
    /// A tenth of the counts and times: to try it out, not to quote
    #[arg(long)]
    quick: bool,
    /// Measure on Redis instead of the embedded store; starts a `redis-server` of its own
    #[arg(long)]
    redis: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: a client that spreads over the cores would take them from what it measures.
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("experiments: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Role(role) => roles::play(role).await,
        Command::Bar(bar) => measure(bar).await,
    }
}

async fn measure(bar: Bar) -> anyhow::Result<()> {
    let ctx = world::Context::new(bar.torpor, bar.dir, bar.quick, bar.first, bar.redis)?;
    let names: Vec<&str> =
        rows::NAMES.into_iter().filter(|n| bar.rows.is_empty() || bar.rows.iter().any(|r| r == n)).collect();
    let mut report = report::Report::new(&ctx);
    for name in names {
        eprintln!("measuring {name} …");
        match rows::measure(name, &ctx).await {
            Ok(measures) => report.add(measures),
            Err(e) => {
                eprintln!("{name}: {e:#}");
                report.failed(name, &e);
            }
        }
    }
    print!("{}", report.markdown());
    if let Some(path) = bar.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    anyhow::ensure!(!report.has_failures(), "some rows could not be measured");
    Ok(())
}
