//! `torpor schedules`: how the schedules of a server stand, and pause, resume, fire now.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::{Target, path};
use crate::ui::{self, Paint};

const COLUMNS: [ui::Column; 6] = [
    ("SCHEDULE", "name", 20),
    ("CRON", "cron", 16),
    ("TIMEZONE", "timezone", 16),
    ("NEXT", "next", 20),
    ("LAST", "last", 22),
    ("", "outcome", 0),
];

#[derive(Args)]
#[command(after_help = "\
Schedules are files of the server's (TORPOR_SCHEDULES); `torpor dispatch` fires one without a server's help.

Examples:
  torpor schedules list
  torpor schedules show nightly
  torpor schedules fire nightly --fire release-7
  torpor schedules pause nightly")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// List schedules: when each is due next, and what became of its last fire
    #[command(after_help = "\
Examples:
  torpor schedules list
  torpor schedules list --json | jq -r '.schedules[] | select(.paused).name'")]
    List {
        /// Only schedules of this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show a schedule and its last fires
    #[command(after_help = "Example:\n  torpor schedules show nightly")]
    Show {
        /// The schedule's name
        name: String,
    },
    /// Begin nothing that is due from now on; what was begun goes on
    #[command(after_help = "Example:\n  torpor schedules pause nightly")]
    Pause {
        /// The schedule's name
        name: String,
    },
    /// End a pause; what was due meanwhile is not made up for
    #[command(after_help = "Example:\n  torpor schedules resume nightly")]
    Resume {
        /// The schedule's name
        name: String,
    },
    /// Fire a schedule now, also while it is paused
    #[command(after_help = "\
With an id it is that fire, however often it is asked for.

Exit codes: 0 every item became a run; 1 some were refused; others as in `torpor help`.

Examples:
  torpor schedules fire nightly
  torpor schedules fire nightly --fire release-7")]
    Fire {
        /// The schedule's name
        name: String,
        /// Id of the fire [default: one of its own]
        #[arg(long, value_name = "ID")]
        fire: Option<String>,
    },
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(ask(args))
}

async fn ask(args: &Arguments) -> Result<Exit, Error> {
    let client = args.target.client()?;
    let json = args.target.json;
    let post = async |name: &str, what: &str, body: &Value| {
        client.post(&path(&["schedules", name, what], &[]), body).await?.success()
    };
    match &args.what {
        What::List { tenant } => {
            let list = client.get(&path(&["schedules"], &[("tenant", tenant.as_deref())])).await?.success()?;
            if json {
                ui::say!("{list:#}");
            } else {
                table(&list);
            }
        }
        What::Show { name } => {
            let schedule = client.get(&path(&["schedules", name], &[])).await?.success()?;
            if json {
                ui::say!("{schedule:#}");
            } else {
                show(&schedule);
            }
        }
        What::Pause { name } => report(&post(name, "pause", &json!({})).await?, json),
        What::Resume { name } => report(&post(name, "resume", &json!({})).await?, json),
        What::Fire { name, fire } => {
            let fired = post(name, "fire", &json!({"fire": fire})).await?;
            if json {
                ui::say!("{fired:#}");
            } else {
                show_fire(&fired);
            }
            if fired["refused"].as_u64().is_some_and(|refused| refused > 0) {
                return Ok(Exit::NotWell);
            }
        }
    }
    Ok(Exit::Success)
}

fn table(list: &Value) {
    let rows = list["schedules"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        eprintln!("{}", Paint::err().dim("no schedules; TORPOR_SCHEDULES names their file or folder to the server"));
    } else {
        ui::table(&COLUMNS, rows, cell);
    }
    for problem in list["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{}", Paint::err().bad(&ui::harmless(problem)));
    }
}

fn cell(schedule: &Value, field: &str) -> String {
    let last = &schedule["lastFire"];
    match field {
        "next" if schedule["paused"] == true => "paused".into(),
        "next" => ui::short_time(schedule["nextFires"][0].as_str().unwrap_or("never")),
        "last" => last["fire"].as_str().unwrap_or_default().to_owned(),
        "outcome" if last.is_object() => outcome(last),
        "outcome" => "never fired".into(),
        _ => schedule[field].as_str().unwrap_or_default().to_owned(),
    }
}

/// What became of a fire, in a few words.
fn outcome(fire: &Value) -> String {
    match (fire["accepted"].as_u64(), fire["refused"].as_u64().unwrap_or(0)) {
        (None, _) => "posting".into(),
        (Some(runs), 0) => ui::count(runs, "run"),
        (Some(runs), refused) => format!("{}, {refused} refused", ui::count(runs, "run")),
    }
}

fn show(schedule: &Value) {
    let text = |key: &str| ui::harmless(schedule[key].as_str().unwrap_or_default());
    ui::say!("{}", ui::bold(&text("name")));
    ui::detail("tenant", &text("tenant"));
    ui::detail("due", &format!("{} ({})", text("cron"), text("timezone")));
    ui::detail("missed", &text("catchUp"));
    ui::detail("items", &schedule["items"].to_string());
    if let Some(since) = schedule["pausedAt"].as_str() {
        ui::detail("paused", &format!("since {}", ui::short_time(since)));
    }
    for next in schedule["nextFires"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ui::detail("next", &ui::short_time(next));
    }
    for fire in schedule["fires"].as_array().into_iter().flatten() {
        ui::say!("");
        show_fire(fire);
    }
}

fn show_fire(fire: &Value) {
    let text = |it: &Value, key: &str| ui::harmless(it[key].as_str().unwrap_or_default());
    ui::say!("{}  {}", ui::bold(&text(fire, "fire")), outcome(fire));
    ui::detail("  fired", &ui::short_time(&text(fire, "begunAt")));
    for run in fire["runs"].as_array().into_iter().flatten() {
        let id = if run["runId"].is_string() { text(run, "runId") } else { "was there before".into() };
        ui::say!("  {}  {id}", text(run, "item"));
    }
    let more =
        fire["accepted"].as_u64().unwrap_or(0).saturating_sub(fire["runs"].as_array().map_or(0, Vec::len) as u64);
    if more > 0 {
        ui::say!("  {}", ui::dim(&format!("and {more} more; their sessions are SCHEDULE/{}/ITEM", text(fire, "fire"))));
    }
    for refusal in fire["refusals"].as_array().into_iter().flatten() {
        let why = ui::one_line(&text(refusal, "detail"), 400);
        ui::say!("  {}  {} [{}] {why}", text(refusal, "item"), ui::bad("refused"), text(refusal, "code"));
    }
}

fn report(schedule: &Value, json: bool) {
    if json {
        ui::say!("{schedule:#}");
        return;
    }
    let name = ui::harmless(schedule["name"].as_str().unwrap_or_default());
    let stands = match schedule["nextFires"][0].as_str() {
        _ if schedule["paused"] == true => "paused".to_owned(),
        Some(next) => format!("due next at {}", ui::short_time(next)),
        None => "not paused".to_owned(),
    };
    ui::say!("{name}: {stands}");
}
