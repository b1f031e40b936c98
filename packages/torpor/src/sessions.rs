//! `torpor sessions`: what sessions hold.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::{Error, Exit};
use crate::client::{Client, Target, path};
use crate::follow::{self, Watch as _, lines::Lines};
use crate::ui::{self, Paint};

/// Entries asked for at once.
const PAGE: &str = "500";

#[derive(Args)]
#[command(after_help = "\
A session is the append-only log that runs write; it goes on with every turn and message.

Examples:
  torpor sessions show review-7
  torpor sessions log review-7")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The tenant that the session belongs to [default: the key's]
    #[arg(long, global = true, help_heading = "Common options")]
    tenant: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// Show a session: how long its log is, and its latest run
    #[command(after_help = "Example:\n  torpor sessions show review-7 --tenant acme")]
    Show {
        /// The session's id
        session: String,
    },
    /// Print a session's log, oldest first, as its runs looked live
    #[command(after_help = "\
Examples:
  torpor sessions log review-7
  torpor sessions log review-7 --json | jq -c 'select(.type == \"tool_requested\") | [.name, .input]'
  torpor sessions log review-7 --after 120")]
    Log {
        /// The session's id
        session: String,
        /// Only entries after this position
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(ask(args))
}

async fn ask(args: &Arguments) -> Result<Exit, Error> {
    let client = args.target.client()?;
    let json = args.target.json;
    let tenant = ("tenant", args.tenant.as_deref());
    match &args.what {
        What::Show { session } => {
            let summary = client.get(&path(&["sessions", session], &[tenant])).await?.success()?;
            if json { ui::say!("{summary:#}") } else { show(&summary) }
        }
        What::Log { session, after } => log(&client, session, tenant, *after, json).await?,
    }
    Ok(Exit::Success)
}

fn show(summary: &Value) {
    let paint = Paint::out();
    ui::say!("{}", paint.bold(&ui::harmless(summary["sessionId"].as_str().unwrap_or_default())));
    ui::detail("tenant", &ui::harmless(summary["tenant"].as_str().unwrap_or_default()));
    ui::detail("entries", &summary["entries"].to_string());
    let run = &summary["latestRun"];
    if run.is_object() {
        let status = paint.status(run["status"].as_str().unwrap_or("?"));
        ui::detail("latest run", &format!("{}  {status}", run["runId"].as_str().unwrap_or_default()));
        ui::say!("{}", paint.dim(&follow::summary(run)));
    }
}

/// The log page by page: for machines one entry a line, for people as it looked live.
async fn log(
    client: &Client,
    session: &str,
    tenant: (&str, Option<&str>),
    mut after: u64,
    json: bool,
) -> Result<(), Error> {
    let mut lines = Lines::new(std::io::stdout(), Paint::out(), false, true);
    loop {
        let from = after.to_string();
        let page = [tenant, ("after", Some(from.as_str())), ("limit", Some(PAGE))];
        let body = client.get(&path(&["sessions", session, "log"], &page)).await?.success()?;
        for entry in body["entries"].as_array().into_iter().flatten() {
            if json { ui::say!("{entry}") } else { lines.event(entry) }
        }
        match body["nextAfter"].as_u64() {
            Some(next) if next > after => after = next,
            _ => return Ok(()),
        }
    }
}
