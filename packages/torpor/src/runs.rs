//! `torpor runs`: list, show and cancel runs of a server.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::Target;
use crate::ui;

/// Columns of a table, by field and width.
const COLUMNS: [ui::Column; 5] = [
    ("RUN", "runId", 36),
    ("STATUS", "status", 10),
    ("KIND", "kind", 7),
    ("CREATED", "createdAt", 24),
    ("SESSION", "sessionId", 0),
];

#[derive(Args)]
#[command(after_help = "\
Examples:
  torpor runs list --status failed
  torpor runs show run_01a1f9…
  torpor runs cancel run_01a1f9…")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// List runs, newest first
    List {
        /// Only runs with this status
        #[arg(long)]
        status: Option<String>,
        /// At most so many (1–200)
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show a run's record
    Show {
        /// The run's id
        run: String,
    },
    /// Cancel a run: its model call, its running command and everything that started
    Cancel {
        /// The run's id
        run: String,
    },
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(ask(args))
}

async fn ask(args: &Arguments) -> Result<Exit, Error> {
    let client = args.target.client()?;
    let (body, table) = match &args.what {
        What::List { status, limit } => {
            let status = status.as_ref().map(|s| format!("&status={s}")).unwrap_or_default();
            (client.get(&format!("/runs?limit={limit}{status}")).await?.success()?, true)
        }
        What::Show { run } => (client.get(&format!("/runs/{}", checked(run)?)).await?.success()?, false),
        What::Cancel { run } => {
            (client.post(&format!("/runs/{}/cancel", checked(run)?), &json!({})).await?.success()?, false)
        }
    };
    match (args.target.json, table) {
        (false, true) => {
            let runs = body["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
            ui::table(&COLUMNS, runs, |run, field| run[field].as_str().unwrap_or_default().to_owned());
            if runs.is_empty() {
                println!("no runs");
            }
        }
        (false, false) => print_record(&body),
        (true, _) => println!("{body:#}"),
    }
    Ok(Exit::Success)
}

/// A run id is one path segment; anything else would ask for another route.
fn checked(run: &str) -> Result<&str, Error> {
    let good = !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    good.then_some(run).ok_or_else(|| Error::Usage(format!("{run:?} is not a run id; `torpor runs list` shows them")))
}

fn print_record(record: &Value) {
    let Some(fields) = record.as_object() else { return };
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("{:<12} {text}", ui::dim(name));
    }
}
