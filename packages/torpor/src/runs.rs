//! `torpor runs`: list, show, follow, cancel runs of a server, send them messages, and drive those again that were given up.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::{Client, Target, path};
use crate::follow::{self, Mode};
use crate::pages::Pages;
use crate::{serve, ui};

mod letters;
mod show;

/// Columns of a table, by field and width.
const COLUMNS: [ui::Column; 6] = [
    ("RUN", "runId", 36),
    ("STATUS", "status", 9),
    ("KIND", "kind", 6),
    ("CREATED", "createdAt", 20),
    ("TOOK", "took", 10),
    ("SESSION", "sessionId", 0),
];

#[derive(Args)]
#[command(after_help = "\
Examples:
  torpor runs list --status failed
  torpor runs follow run_01a1f9…
  torpor runs message run_01a1f9… 'and now the tests'
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
    #[command(after_help = "\
Examples:
  torpor runs list --status running
  torpor runs list --created-after 2027-01-31T08:00:00Z --all --json | jq -r '.runs[].runId'")]
    List {
        /// Only runs with this status: queued, running, paused, done, solved, failed, aborted, cancelled
        #[arg(long)]
        status: Option<String>,
        /// Only runs of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Only runs made after this time, as RFC 3339
        #[arg(long, value_name = "TIME")]
        created_after: Option<String>,
        #[command(flatten)]
        pages: Pages,
    },
    /// Show how a run stands, what it spent, what it waits for and how it ended
    #[command(after_help = "\
Examples:
  torpor runs show run_01a1f9…
  torpor runs show run_01a1f9… --json | jq .usage")]
    Show {
        /// The run's id
        run: String,
    },
    /// Follow a run live, from its beginning to its end
    #[command(after_help = "\
On a terminal you see the model's words, every tool call and what else happens; at a gate you are asked. A server that \
restarts meanwhile is found again, and nothing is shown twice. Ctrl-C stops the following, never the run.

Exit codes: 0 the run ended well; 1 it did not; 3 it waits for a verdict; 130 stopped by Ctrl-C; others as in \
`torpor help`.

Examples:
  torpor runs follow run_01a1f9…
  torpor runs follow run_01a1f9… --events | jq -r 'select(.type == \"tool_requested\").name'
  torpor runs follow run_01a1f9… --quiet && echo well")]
    Follow {
        /// The run's id
        run: String,
        #[command(flatten)]
        live: Live,
    },
    /// Cancel a run: its model call, its running command and everything that started
    #[command(after_help = "Example:\n  torpor runs cancel run_01a1f9…")]
    Cancel {
        /// The run's id
        run: String,
    },
    /// Send a further message to the session of a run; it makes a run of its own
    #[command(after_help = "\
Examples:
  torpor runs message run_01a1f9… 'and now the tests'
  torpor runs message run_01a1f9… 'stop, use the other branch' --interrupt --follow")]
    Message {
        /// The run's id
        run: String,
        /// What to say; `-` reads it from standard input
        text: String,
        /// Cancel what the session does now instead of waiting for its end
        #[arg(long)]
        interrupt: bool,
        /// Follow the new run to its end
        #[arg(long)]
        follow: bool,
    },
    /// List runs that were given up, newest first, with the reason
    #[command(after_help = "\
Examples:
  torpor runs dead-letters
  torpor runs dead-letters --all --json | jq -r '.deadLetters[].runId'")]
    DeadLetters {
        /// Only runs of this tenant
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        pages: Pages,
    },
    /// Give a run that was given up another chance
    #[command(after_help = "\
One that could not be read goes back into the queue as it was, for a build that can read it. The work of any other becomes a new \
run of the same session; asked for again, it is that run.

Examples:
  torpor runs redrive run_01a1f9…
  torpor runs redrive run_01a1f9… --follow")]
    Redrive {
        /// The run's id
        run: String,
        /// Follow the run that does the work to its end
        #[arg(long)]
        follow: bool,
    },
}

/// How a run that is followed is shown.
#[derive(Args)]
pub(crate) struct Live {
    /// Show what happens although standard error is no terminal; on one, show more
    #[arg(long, visible_alias = "verbose")]
    pub(crate) follow: bool,
    /// Show nothing but the outcome
    #[arg(long, short, conflicts_with_all = ["follow", "events"])]
    pub(crate) quiet: bool,
    /// Print every event as one line of JSON as it happens (the same as --json --follow)
    #[arg(long)]
    pub(crate) events: bool,
}

impl Live {
    pub(crate) fn mode(&self, json: bool) -> Mode {
        Mode::of(self.follow, self.quiet, self.events, json)
    }
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let ended = runtime.block_on(ask(args));
    // Somebody who was asked may not have answered.
    runtime.shutdown_background();
    ended
}

async fn ask(args: &Arguments) -> Result<Exit, Error> {
    let client = args.target.client()?;
    let json = args.target.json;
    match &args.what {
        What::List { status, tenant, created_after, pages } => {
            let filters = [
                ("status", status.as_deref()),
                ("tenant", tenant.as_deref()),
                ("createdAfter", created_after.as_deref()),
            ];
            let mut titled = false;
            let line = |run: &Value| {
                if !std::mem::replace(&mut titled, true) {
                    ui::header(&COLUMNS);
                }
                ui::row(&COLUMNS, |field| show::cell(run, field));
            };
            pages.print(&client, ("runs", "runs"), &filters, json, line).await
        }
        What::Show { run } => {
            let record = client.get(&path(&["runs", checked(run)?], &[])).await?.success()?;
            if json {
                ui::say!("{record:#}")
            } else {
                show::record(&record)
            }
            Ok(Exit::Success)
        }
        What::Follow { run, live } => {
            // What cannot be reached now is not waited for; only what goes away later is.
            client.get(&path(&["runs", checked(run)?], &[])).await?.success()?;
            accompany(&client, run, live.mode(json)).await
        }
        What::Cancel { run } => {
            let record = client.post(&path(&["runs", checked(run)?, "cancel"], &[]), &json!({})).await?.success()?;
            if json {
                ui::say!("{record:#}")
            } else {
                cancelled(&record)
            }
            Ok(Exit::Success)
        }
        What::Message { run, text, interrupt, follow } => {
            let text = if text == "-" { crate::run::stdin()? } else { text.clone() };
            let mode = if *interrupt { "interrupt" } else { "queue" };
            let message = json!({"prompt": text, "mode": mode});
            let accepted = client.post(&path(&["runs", checked(run)?, "messages"], &[]), &message).await?.success()?;
            go_on(&client, &accepted, *follow, json).await
        }
        What::DeadLetters { tenant, pages } => {
            let filters = [("tenant", tenant.as_deref())];
            pages.print(&client, ("dead-letters", "deadLetters"), &filters, json, letters::line).await
        }
        What::Redrive { run, follow } => {
            let accepted = client.post(&path(&["runs", checked(run)?, "redrive"], &[]), &json!({})).await?.success()?;
            go_on(&client, &accepted, *follow, json).await
        }
    }
}

/// Follows the run that an answer names, or says which it is.
async fn go_on(client: &Client, accepted: &Value, follow: bool, json: bool) -> Result<Exit, Error> {
    let run = accepted["runId"].as_str().unwrap_or_default();
    if follow {
        return accompany(client, run, Mode::of(false, false, false, json)).await;
    }
    if json {
        ui::say!("{accepted:#}")
    } else {
        ui::say!("{run}")
    }
    Ok(Exit::Success)
}

/// Follows a run of a server that goes on without us, until Ctrl-C.
pub(crate) async fn accompany(client: &Client, run: &str, mode: Mode) -> Result<Exit, Error> {
    tokio::select! {
        ended = follow::accompany(client, run, mode) => ended,
        () = serve::told_to_stop()? => {
            eprintln!();
            eprintln!("torpor: no longer following; the run goes on.");
            eprintln!("torpor: `torpor runs follow {run}` follows it again, `torpor runs cancel {run}` ends it.");
            Ok(Exit::Interrupted)
        }
    }
}

fn cancelled(record: &Value) {
    let status = record["status"].as_str().unwrap_or("?");
    let said = if status == "cancelled" { "" } else { " (it had ended before)" };
    ui::say!("{} {}{said}", record["runId"].as_str().unwrap_or_default(), ui::Paint::out().status(status));
}

/// A run id is one path segment of few characters; anything else is a slip of the pen.
pub(crate) fn checked(run: &str) -> Result<&str, Error> {
    let good = !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    good.then_some(run).ok_or_else(|| Error::Usage(format!("{run:?} is not a run id; `torpor runs list` shows them")))
}
