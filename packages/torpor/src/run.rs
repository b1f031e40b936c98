//! `torpor run`: submit one run, follow it, print its outcome.
//!
//! Owns: the envelope, and which server gets it. Must not know: how a run is followed or shown ([`crate::follow`]).
//! It speaks HTTP to a server: the one that `--url` names, else the one that already serves this data folder, else
//! one that it starts in this very process for as long as the run takes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::cli::{Error, Exit, Sources};
use crate::client::Client;
use crate::config::{Config, Overrides};
use crate::runs::Live;
use crate::runtime::Runtime;
use crate::stores::Role;
use crate::{follow, runs, serve, telemetry, ui};

/// How long the server that runs in this process may take to go.
const SHORT_DRAIN: Duration = Duration::from_secs(1);
/// Log filter of the server that runs in this process: people see the run, not its machinery.
const QUIET: &str = "warn";

#[derive(Args)]
#[command(after_help = "\
The answer is printed on standard output. On a terminal you see on standard error what happens meanwhile; when the run \
waits for a verdict you are shown the exact call and asked.

Ctrl-C stops the following, not the run: with a server it goes on there; without one it is kept, and goes on at the next \
`torpor serve` or `torpor run`. `torpor runs cancel` ends a run.

Exit codes: 0 the run ended well; 1 it did not; 3 it waits for a verdict; 130 stopped by Ctrl-C; others as in \
`torpor help`.

Examples:
  torpor run 'Which of these files has no tests?' --workspace .
  torpor run 'Tidy up the imports' --workspace . --approve bash --approve 'write:*.lock'
  torpor run --envelope review.json --json | jq .verdict
  torpor run 'Count the lines' --workspace . --events | jq -c .type
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
    /// Ask before such calls: a tool (or `*`), and behind `:` a pattern for its main argument (repeat it)
    #[arg(long = "approve", value_name = "TOOL[:PATTERN]")]
    approvals: Vec<String>,
    /// Most model calls
    #[arg(long, value_name = "N")]
    max_turns: Option<u32>,
    /// Submit and print the run's id without waiting (needs a running server)
    #[arg(long = "async", conflicts_with_all = ["follow", "events"])]
    run_async: bool,
    /// Print the run's record as JSON at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    live: Live,
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
        return send(&Client::new(url)?, args, &envelope).await;
    }
    let mut overrides = Overrides::default();
    if let Some(dir) = &args.workspace {
        let dir = real_dir(dir)?;
        envelope["workspaceRef"] = json!(dir);
        overrides.0.insert("TORPOR_WORKSPACE_ROOTS", dir);
    }
    let config = args.sources.config(&overrides)?;
    if let Some(client) = Client::here(&config.data_dir)? {
        return send(&client, args, &envelope).await;
    }
    if args.run_async {
        return Err(Error::Usage("--async needs a running server: start `torpor serve`, or give --url".into()));
    }
    if config.redis.is_some() {
        // A process that claims from a queue that others share would work on their runs, and here.
        let remedy = "give --url (or TORPOR_URL) of a `torpor serve` that uses it, or unset REDIS_URL";
        return Err(Error::Usage(format!("REDIS_URL: no run is worked on here while it is set; {remedy}")));
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
    config.schedules = None; // this server goes with the run
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
    let url = format!("http://{}", listener.local_addr().context("cannot read the listener's address")?);
    let runtime = Runtime::open(&config, Role::Server).await?;
    let client = Client::new(&url)?.showing(runtime.owner_key())?.passing();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(runtime.serve(listener, async {
        let _ = stopped.await;
    }));
    let accompany = async {
        let accepted = client.post("/runs", envelope).await?.success()?;
        let run = accepted["runId"].as_str().unwrap_or_default();
        follow::accompany(&client, run, args.live.mode(args.json)).await
    };
    let ended = tokio::select! {
        ended = accompany => ended,
        () = serve::told_to_stop()? => {
            eprintln!();
            eprintln!("torpor: interrupted; the run is kept and goes on at the next `torpor serve` or `torpor run`");
            Ok(Exit::Interrupted)
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
    let rules = args.approvals.iter().map(|rule| match rule.split_once(':') {
        Some((tool, pattern)) => json!({"tool": tool, "pattern": pattern}),
        None => json!({"tool": rule}),
    });
    set("approvals", Some(rules.collect()).filter(|_| !args.approvals.is_empty()));
    set("workspaceRef", args.workspace.as_ref().map(|d| json!(d)));
    set("async", Some(json!(true)));
    Ok(envelope)
}

/// All of standard input.
pub(crate) fn stdin() -> Result<String, Error> {
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

/// Submits a run to a server that goes on without us, and follows it.
async fn send(client: &Client, args: &Arguments, envelope: &Value) -> Result<Exit, Error> {
    let accepted = client.post("/runs", envelope).await?.success()?;
    let run = accepted["runId"].as_str().unwrap_or_default();
    if !args.run_async {
        return runs::accompany(client, run, args.live.mode(args.json)).await;
    }
    if args.json {
        ui::say!("{accepted:#}");
    } else {
        ui::say!("{run}");
    }
    Ok(Exit::Success)
}
