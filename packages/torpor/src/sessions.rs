//! `torpor sessions`: what sessions hold; forks, files, removal. Must not know: how runs are followed.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::{Client, Target, path};
use crate::follow::{Watch as _, lines::Lines};
use crate::pages::Pages;
use crate::ui;

mod file;
mod show;

/// Entries asked for at once.
const PAGE: &str = "500";

#[derive(Args)]
#[command(after_help = "\
A session is the append-only log that runs write; it goes on with every turn and message.

Examples:
  torpor sessions list
  torpor sessions log review-7
  torpor sessions fork review-7 --at 40
  torpor sessions export review-7 --output review-7.jsonl")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The tenant that the sessions belong to [default: the key's]
    #[arg(long, global = true, help_heading = "Common options")]
    tenant: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// List sessions, newest first
    #[command(after_help = "\
Examples:
  torpor sessions list
  torpor sessions list --all --json | jq -r '.sessions[] | select(.busy).sessionId'")]
    List {
        #[command(flatten)]
        pages: Pages,
    },
    /// Show a session: what its log holds, what it waits for, and its latest run
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
    /// Start a new session that shares history with another up to some entry; prints its id
    #[command(after_help = "\
Positions are those of `torpor sessions log --json`.

Examples:
  torpor sessions fork review-7                          # from where it stands now
  torpor sessions fork review-7 --at 40 --into review-7b")]
    Fork {
        /// The session's id
        session: String,
        /// The last entry that both share [default: the latest]
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
        /// Id of the new session [default: a new one]
        #[arg(long, value_name = "ID")]
        into: Option<String>,
    },
    /// Remove a session with its runs, gates and workspace, for good
    #[command(after_help = "\
What forks of the session share stays until the last of them is removed. A session that works is refused.

Examples:
  torpor sessions delete review-7
  torpor sessions delete review-7 --yes --json")]
    Delete {
        /// The session's id
        session: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Write a session into a file, with a checksum; `import` reads it
    #[command(after_help = "\
Examples:
  torpor sessions export review-7 --output review-7.jsonl
  torpor sessions export review-7 | gzip > review-7.jsonl.gz")]
    Export {
        /// The session's id
        session: String,
        /// File to write; an incomplete one never appears under this name [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a session of an exported file; prints its id
    #[command(after_help = "\
Examples:
  torpor sessions import review-7.jsonl --into review-7-copy
  zcat review-7.jsonl.gz | torpor sessions import -")]
    Import {
        /// The file; `-` reads it from standard input
        file: PathBuf,
        /// Id of the session [default: a new one]
        #[arg(long, value_name = "ID")]
        into: Option<String>,
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
        What::List { pages } => {
            return pages.print(&client, ("sessions", "sessions"), &[tenant], json, show::lines()).await;
        }
        What::Show { session } => {
            let summary = client.get(&path(&["sessions", session], &[tenant])).await?.success()?;
            if json { ui::say!("{summary:#}") } else { show::summary(&summary) }
        }
        What::Log { session, after } => log(&client, session, tenant, *after, json).await?,
        What::Fork { session, at, into } => {
            let at = match at {
                Some(at) => json!(at),
                None => client.get(&path(&["sessions", session], &[tenant])).await?.success()?["entries"].take(),
            };
            let wanted = json!({"fromPosition": at, "sessionId": into});
            let made = client.post(&path(&["sessions", session, "fork"], &[tenant]), &wanted).await?.success()?;
            print_new(&made, json);
        }
        What::Delete { session, yes } => return delete(&client, session, tenant, *yes, json).await,
        What::Export { session, output } => {
            return file::export(&client, session, tenant, output.as_deref(), json).await;
        }
        What::Import { file, into } => {
            let made = file::import(&client, file, into.as_deref(), tenant).await?;
            print_new(&made, json);
        }
    }
    Ok(Exit::Success)
}

fn print_new(made: &Value, json: bool) {
    if json {
        ui::say!("{made:#}");
    } else {
        ui::say!("{}", ui::harmless(made["sessionId"].as_str().unwrap_or_default()));
    }
}

/// Removes a session, once whoever is there has said yes.
async fn delete(
    client: &Client,
    session: &str,
    tenant: (&str, Option<&str>),
    yes: bool,
    json: bool,
) -> Result<Exit, Error> {
    let route = path(&["sessions", session], &[tenant]);
    if !yes {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Error::Usage("a session is removed for good: say --yes where nobody can be asked".into()));
        }
        let summary = client.get(&route).await?.success()?;
        let entries = summary["entries"].as_u64().unwrap_or(0);
        let entries = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
        let question = format!("Remove session {session} with {entries}, its runs and its workspace, for good?");
        if !ui::confirm(&question).context("cannot read from the terminal")? {
            eprintln!("torpor: nothing was removed");
            return Ok(Exit::NotWell);
        }
    }
    let removed = client.delete(&route).await?.success()?;
    if json {
        ui::say!("{removed:#}")
    } else {
        show::removed(&removed)
    }
    Ok(Exit::Success)
}

/// The log page by page: for machines one entry a line, for people as it looked live.
async fn log(
    client: &Client,
    session: &str,
    tenant: (&str, Option<&str>),
    mut after: u64,
    json: bool,
) -> Result<(), Error> {
    let mut lines = Lines::new(std::io::stdout(), ui::Paint::out(), false, true);
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
