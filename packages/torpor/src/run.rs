//! `torpor run`: submit one run, follow it, print its outcome.
//!
//! It speaks HTTP to a server: the one that `--url` names, else the one that already serves this data folder, else
//! one that it starts in this very process for as long as the run takes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::cli::{Error, Exit, Sources};
use crate::client::Client;
use crate::config::{Config, Overrides};
use crate::runtime::Runtime;
use crate::ui::{self, Progress};
use crate::{serve, telemetry};

/// First and longest pause between two looks at a run.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// How long the server that runs in this process may take to go.
const SHORT_DRAIN: Duration = Duration::from_secs(1);
/// Log filter of the server that runs in this process: people see the run, not its machinery.
const QUIET: &str = "warn";

#[derive(Args)]
#[command(after_help = "\
Examples:
  torpor run 'Which of these files has no tests?' --workspace .
  torpor run --envelope review.json --json
  echo 'Summarise README.md' | torpor run - --workspace ~/src/project")]
pub(crate) struct Arguments {
    /// What to do; `-` reads it from standard input
    #[arg(required_unless_present = "envelope", conflicts_with = "envelope")]
    prompt: Option<String>,
    /// A whole envelope as JSON, as `POST /runs` takes it; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    envelope: Option<String>,
    /// Folder to work in; without it the run gets an empty one of its own
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Session id: the same id and body give the same run
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Model, as `provider/model`
    #[arg(long)]
    model: Option<String>,
    /// Most model calls
    #[arg(long, value_name = "N")]
    max_turns: Option<u32>,
    /// Submit and print the run's id without waiting (needs a running server)
    #[arg(long = "async")]
    run_async: bool,
    /// Print the run's record as JSON
    #[arg(long)]
    json: bool,
    /// Server to use
    #[arg(long, value_name = "URL", env = "TORPOR_URL")]
    url: Option<String>,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let ended = runtime.block_on(run(args));
    runtime.shutdown_background();
    ended
}

async fn run(args: &Arguments) -> Result<Exit, Error> {
    let mut envelope = envelope(args)?;
    if let Some(url) = &args.url {
        if args.workspace.as_deref().is_some_and(Path::is_relative) {
            return Err(Error::Usage(
                "--workspace: with --url the folder is one of the server's; give its absolute path".into(),
            ));
        }
        return follow(&Client::new(url)?, args, &envelope).await;
    }
    let mut overrides = Overrides::default();
    if let Some(dir) = &args.workspace {
        let dir = real_dir(dir)?;
        envelope["workspaceRef"] = json!(dir);
        overrides.0.insert("TORPOR_WORKSPACE_ROOTS", dir);
    }
    let config = args.sources.config(&overrides)?;
    if let Some(client) = Client::here(&config.data_dir)? {
        return follow(&client, args, &envelope).await;
    }
    if args.run_async {
        return Err(Error::Usage("--async needs a running server: start `torpor serve`, or give --url".into()));
    }
    in_process(config, args, &envelope).await
}

/// Serves on a free loopback port for as long as the run takes.
async fn in_process(mut config: Config, args: &Arguments, envelope: &Value) -> Result<Exit, Error> {
    if let Some(remedy) = config.missing_credential() {
        return Err(Error::Usage(format!("{remedy}; or try `torpor demo`, which needs none")));
    }
    let quiet = if config.log == "info" { QUIET } else { config.log.as_str() };
    telemetry::init(quiet, config.log_json).map_err(Error::Usage)?;
    // When the run is over, or somebody presses Ctrl-C, whatever else goes on here is handed back, not waited for.
    config.worker.drain = Duration::ZERO;
    config.server.drain = SHORT_DRAIN;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
    let url = format!("http://{}", listener.local_addr().context("cannot read the listener's address")?);
    let runtime = Runtime::open(&config)?;
    let client = Client::new(&url)?.showing(runtime.owner_key())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(runtime.serve(listener, async {
        let _ = stopped.await;
    }));
    let ended = tokio::select! {
        ended = follow(&client, args, envelope) => ended,
        () = serve::told_to_stop()? => {
            eprintln!("torpor: interrupted; the run is kept and goes on at the next `torpor serve` or `torpor run`");
            Ok(Exit::NotWell)
        }
    };
    let _ = stop.send(());
    server.await.context("the server broke")??;
    ended
}

fn envelope(args: &Arguments) -> Result<Value, Error> {
    let mut envelope = match (&args.envelope, &args.prompt) {
        (Some(file), _) => {
            let text = if file == "-" { stdin()? } else { read_file(Path::new(file))? };
            serde_json::from_str(&text).map_err(|e| Error::Usage(format!("{file}: not JSON: {e}")))?
        }
        (None, Some(prompt)) if prompt == "-" => json!({"prompt": stdin()?}),
        (None, prompt) => json!({"prompt": prompt}),
    };
    if !envelope.is_object() {
        return Err(Error::Usage("the envelope must be a JSON object".into()));
    }
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            envelope[key] = value;
        }
    };
    set("sessionId", args.session.as_ref().map(|s| json!(s)));
    set("model", args.model.as_ref().map(|s| json!(s)));
    set("maxTurns", args.max_turns.map(|n| json!(n)));
    set("workspaceRef", args.workspace.as_ref().map(|d| json!(d)));
    set("async", Some(json!(true)));
    Ok(envelope)
}

fn stdin() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
}

fn real_dir(dir: &Path) -> Result<String, Error> {
    let real = std::fs::canonicalize(dir).map_err(|e| Error::Usage(format!("--workspace {}: {e}", dir.display())))?;
    if !real.is_dir() {
        return Err(Error::Usage(format!("--workspace {}: not a directory", dir.display())));
    }
    real.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::Usage(format!("--workspace {}: the path is not UTF-8", real.display())))
}

/// Submits and follows a run to its end.
async fn follow(client: &Client, args: &Arguments, envelope: &Value) -> Result<Exit, Error> {
    let accepted = client.post("/runs", envelope).await?.success()?;
    let run = accepted["runId"].as_str().unwrap_or_default().to_owned();
    if args.run_async {
        if args.json {
            println!("{accepted:#}")
        } else {
            println!("{run}")
        }
        return Ok(Exit::Success);
    }
    let record = wait_for(client, &run).await?;
    if args.json {
        println!("{record:#}")
    } else {
        print_outcome(&record)
    }
    let well = matches!(record["status"].as_str(), Some("done" | "solved"));
    Ok(if well { Exit::Success } else { Exit::NotWell })
}

/// Looks at a run until it has ended, with progress on a terminal.
pub(crate) async fn wait_for(client: &Client, run: &str) -> Result<Value, Error> {
    let begun = Instant::now();
    let mut progress = Progress::default();
    let mut pause = FIRST_LOOK;
    loop {
        let record = client.get(&format!("/runs/{run}")).await?.success()?;
        let status = record["status"].as_str().unwrap_or_default();
        if !matches!(status, "queued" | "running") {
            return Ok(record);
        }
        progress.show(&format!("{run}  {status}  {:.0} s", begun.elapsed().as_secs_f64()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

fn print_outcome(record: &Value) {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    match text("status") {
        "done" if record["verdict"].is_object() => {
            let v = &record["verdict"];
            let (item, verdict) =
                (v["item_id"].as_str().unwrap_or_default(), v["verdict"].as_str().unwrap_or_default());
            println!("{}  {item}: {}", ui::bold(verdict), v["reason"].as_str().unwrap_or_default());
        }
        "done" if record.get("result").is_some() => println!("{:#}", record["result"]),
        "done" => println!("{}", text("response")),
        status => println!("{} {}: {}", ui::bad(status), text("reason"), text("message")),
    }
    let usage = &record["usage"];
    let tokens = |key: &str| usage[key].as_u64().unwrap_or(0);
    let line = format!(
        "run {}  session {}  {} model calls  {} tokens in, {} out",
        text("runId"),
        text("sessionId"),
        record["turns"].as_u64().unwrap_or(0),
        tokens("input") + tokens("cacheRead") + tokens("cacheWrite"),
        tokens("output"),
    );
    eprintln!("{}", ui::dim(&line));
}
