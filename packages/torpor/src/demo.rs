//! `torpor demo`: a guided real job. The model is scripted unless a credential is there; everything else is real:
//! the server process, the store, the sandbox, the commands, and the `kill -9`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::Client;
use crate::follow::quietly;
use crate::ui;

mod gate;
mod server;
mod stage;

use server::Server;
use stage::Stage;

/// How long the guide waits for the slow command to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Args)]
#[command(after_help = "\
It takes a few seconds, needs no credential, and leaves everything it made in one folder to look at. With \
ANTHROPIC_API_KEY in the environment the real model is used.

Examples:
  torpor demo
  torpor demo --yes --scripted --dir /tmp/torpor-demo")]
pub(crate) struct Arguments {
    /// Folder for everything the demo makes [default: a new one in the temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use the scripted model although a credential is in the environment
    #[arg(long)]
    scripted: bool,
    /// Ask nothing: approve at the gate
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(guide(args));
    runtime.shutdown_background();
    ended
}

async fn guide(args: &Arguments) -> Result<Exit, Error> {
    let begun = Instant::now();
    let real_model = !args.scripted && has_credential();
    let stage = Stage::set(args.dir.as_deref(), real_model).context("cannot prepare the demo's files")?;
    ui::say!("{}", ui::bold("Torpor demo"));
    ui::say!(
        "Everything happens in {}\nThe model is {}; tools, store and processes are real.",
        stage.dir().display(),
        if real_model {
            "the configured one (a credential is in the environment)"
        } else {
            "scripted, its answers come from a file"
        }
    );
    let server = Server::start(&stage).await?;
    ui::say!(
        "Commands are confined to the demo's folder; here the weaker level `reduced` is allowed where the machine"
    );
    ui::say!("cannot do `full`. This machine: {}", server.sandbox().await?);

    review(&server, &stage).await?;
    fan_out(&server, &stage).await?;
    let kept = gate::gate(&server, &stage, args.yes).await?;
    let well = kill_and_resume(server, &stage).await? && kept;

    ui::say!("\n{}", ui::bold("Where to look"));
    ui::say!(
        "  the log of every session   sqlite3 {} 'select session, position, type, body from log limit 30'",
        stage.database().display()
    );
    ui::say!("  the server's own log       {}", stage.server_log().display());
    ui::say!("  the files                  {}", stage.project().display());
    ui::say!("  your own first run         torpor run 'What is in this folder?' --workspace .");
    ui::say!("{}", ui::dim(&format!("Done in {:.1} s.", begun.elapsed().as_secs_f64())));
    Ok(if well { Exit::Success } else { Exit::NotWell })
}

fn has_credential() -> bool {
    ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"].iter().any(|n| std::env::var_os(n).is_some_and(|v| !v.is_empty()))
}

fn run_of(accepted: &Value) -> String {
    accepted["runId"].as_str().unwrap_or_default().to_owned()
}

fn heading(number: u32, text: &str) {
    ui::say!("\n{}", ui::bold(&format!("{number}. {text}")));
}

/// One synchronous review: `POST /runs` answers with the verdict.
async fn review(server: &Server, stage: &Stage) -> Result<(), Error> {
    heading(1, "A review, synchronously");
    let envelope = stage.review();
    ui::say!("  POST /runs {}", ui::dim(&envelope.to_string()));
    let begun = Instant::now();
    let outcome = server.client().post("/runs", &envelope).await?.success()?;
    ui::say!("  {} ({:.0} ms)", verdict_line(&outcome), begun.elapsed().as_secs_f64() * 1000.0);
    let again = server.client().post("/runs", &envelope).await?.success()?;
    let same = again["runId"] == outcome["runId"];
    ui::say!("  the same post again: {}", if same { "the same run, no model call" } else { "another run?!" });
    Ok(())
}

/// Twenty at once, asynchronously.
async fn fan_out(server: &Server, stage: &Stage) -> Result<(), Error> {
    let envelopes = stage.fan_out();
    heading(2, &format!("A fan-out of {}, asynchronously", envelopes.len()));
    let begun = Instant::now();
    let mut runs = Vec::with_capacity(envelopes.len());
    for envelope in &envelopes {
        let accepted = server.client().post("/runs", envelope).await?.success()?;
        runs.push(run_of(&accepted));
    }
    ui::say!("  {} runs accepted in {:.0} ms", runs.len(), begun.elapsed().as_secs_f64() * 1000.0);
    let (mut flagged, mut clear) = (Vec::new(), 0);
    for run in &runs {
        let record = quietly(server.client(), run).await?;
        match record["verdict"]["verdict"].as_str() {
            Some("FLAGGED") => flagged.push(verdict_line(&record)),
            Some("CLEAR") => clear += 1,
            _ => ui::say!("  {}", ui::bad(&format!("{run}: {record}"))),
        }
    }
    ui::say!("  {clear} clear, {} flagged, in {:.0} ms:", flagged.len(), begun.elapsed().as_secs_f64() * 1000.0);
    flagged.iter().for_each(|line| ui::say!("    {line}"));
    Ok(())
}

fn verdict_line(outcome: &Value) -> String {
    let v = &outcome["verdict"];
    match (v["item_id"].as_str(), v["verdict"].as_str(), v["reason"].as_str()) {
        (Some(id), Some(verdict), Some(reason)) => format!("{} {id}: {reason}", ui::bold(verdict)),
        _ => ui::bad(&outcome.to_string()),
    }
}

/// The point of it all: the brain dies in the middle of a command, and the command runs once.
async fn kill_and_resume(server: Server, stage: &Stage) -> Result<bool, Error> {
    heading(4, "A brain killed in the middle of a command");
    let accepted = server.client().post("/runs", &stage.slow_job()).await?.success()?;
    let run = run_of(&accepted);
    wait_for_ledger(stage, server.client(), &run).await?;
    ui::say!("  the command has begun: {}", ui::dim(stage.ledger_text().trim()));
    let pid = server.kill().await?;
    let died = Instant::now();
    ui::say!("  kill -9 {pid}: the server is gone; the command goes on in the sandbox");
    let server = Server::start(stage).await?;
    ui::say!("  a new server is up after {:.0} ms and has taken the run over", died.elapsed().as_secs_f64() * 1000.0);
    let record = quietly(server.client(), &run).await?;
    ui::say!(
        "  {} {:.1} s after the kill: {}",
        ui::good(record["status"].as_str().unwrap_or("?")),
        died.elapsed().as_secs_f64(),
        record["response"].as_str().or_else(|| record["message"].as_str()).unwrap_or_default().trim()
    );
    let started = stage.ledger_text().matches("started").count();
    let finished = stage.ledger_text().matches("finished").count();
    ui::say!("  the command's own ledger ({}): started {started}×, finished {finished}×", stage.ledger().display());
    let once = started == 1 && finished == 1 && record["status"] == json!("done");
    ui::say!("  {}", if once { ui::good("it ran exactly once") } else { ui::bad("it did NOT run exactly once") });
    server.stop().await?;
    Ok(once)
}

/// The ledger is written by a command in a sandbox: looking at the file is the only way to know.
async fn wait_for_ledger(stage: &Stage, client: &Client, run: &str) -> Result<(), Error> {
    let begun = Instant::now();
    while stage.ledger_text().is_empty() {
        if begun.elapsed() > BEGIN_LIMIT {
            let record = client.get(&format!("/runs/{run}")).await?.body;
            return Err(Error::Other(anyhow::anyhow!("the command did not begin; the run: {record}")));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
