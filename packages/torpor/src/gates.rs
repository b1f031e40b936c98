//! `torpor gates`: what waits for a person, and the verdicts.

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use torpor_core::gate::Action;
use torpor_core::{Clock as _, SystemClock, Timestamp};

use crate::cli::{Error, Exit};
use crate::client::{Client, Target, path};
use crate::follow::calls;
use crate::pages::Pages;
use crate::runs::checked;
use crate::ui::{self, Paint};

mod ask;

pub(crate) use ask::{Said, answer, ask};

#[derive(Args)]
#[command(after_help = "\
A run that reaches a call held by an approval rule, or asks by itself, waits at a gate and holds nothing meanwhile.

Examples:
  torpor gates list
  torpor gates show run_01a1f9…
  torpor gates approve run_01a1f9…
  torpor gates reject run_01a1f9… --gate 1 --feedback 'use git mv instead'")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// List gates, newest first, each with the call that waits
    #[command(after_help = "\
Examples:
  torpor gates list                          # what waits for a verdict
  torpor gates list --status decided --all   # everything that was decided
  torpor gates list --run run_01a1f9… --json")]
    List {
        /// Which gates: those that wait, the others, or all
        #[arg(long, value_enum, default_value_t = Which::Pending)]
        status: Which,
        /// Only gates of this run
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// Only gates of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Calls whole, however long
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        pages: Pages,
    },
    /// Show what a run waits for: the exact calls, whole
    #[command(after_help = "Example:\n  torpor gates show run_01a1f9…")]
    Show {
        /// The run's id
        run: String,
    },
    /// Let the call run, exactly as it is shown
    #[command(after_help = "\
Examples:
  torpor gates approve run_01a1f9…
  torpor gates approve run_01a1f9… --gate 1 --feedback 'only this once'")]
    Approve(Answer),
    /// Refuse the call; the run goes on without it and the model reads your feedback
    #[command(after_help = "Example:\n  torpor gates reject run_01a1f9… --feedback 'use git mv instead'")]
    Reject(Answer),
    /// End the run
    #[command(after_help = "Example:\n  torpor gates abort run_01a1f9… --feedback 'not on this host'")]
    Abort(Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Pending,
    Decided,
    All,
}

#[derive(Args)]
struct Answer {
    /// The run's id
    run: String,
    /// Which of its gates; needed when several wait
    #[arg(long, value_name = "N")]
    gate: Option<u64>,
    /// What the model is told with the verdict
    #[arg(long, value_name = "TEXT")]
    feedback: Option<String>,
    /// Who decides
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    approver: Option<String>,
}

impl Answer {
    async fn give(&self, client: &Client, action: Action) -> Result<Value, Error> {
        let verdict = Verdict { action, feedback: self.feedback.clone(), approver: self.approver.clone() };
        verdict.give(client, checked(&self.run)?, self.gate).await
    }
}

/// A verdict on its way.
pub(crate) struct Verdict {
    pub(crate) action: Action,
    pub(crate) feedback: Option<String>,
    pub(crate) approver: Option<String>,
}

impl Verdict {
    /// The server's answer: the record, and what was `decided`.
    pub(crate) async fn give(&self, client: &Client, run: &str, gate: Option<u64>) -> Result<Value, Error> {
        let words = [("feedback", &self.feedback), ("approver", &self.approver)];
        let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let given = words.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(said(text)?))));
        let mut body: Map<String, Value> = given.collect();
        if let Some(gate) = gate {
            body.insert("gateId".into(), json!(gate));
        }
        client.post(&path(&["runs", run, self.action.as_str()], &[]), &body.into()).await?.success()
    }
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(manage(args))
}

async fn manage(args: &Arguments) -> Result<Exit, Error> {
    let client = args.target.client()?;
    let json = args.target.json;
    match &args.what {
        What::List { status, run, tenant, full, pages } => {
            let status = status.to_possible_value();
            let filters = [
                ("status", status.as_ref().map(clap::builder::PossibleValue::get_name)),
                ("runId", run.as_deref()),
                ("tenant", tenant.as_deref()),
            ];
            pages.print(&client, ("gates", "gates"), &filters, json, |gate| listed(gate, *full)).await
        }
        What::Show { run } => pending(&client, checked(run)?, json).await,
        What::Approve(answer) => report(&answer.give(&client, Action::Approve).await?, json),
        What::Reject(answer) => report(&answer.give(&client, Action::Reject).await?, json),
        What::Abort(answer) => report(&answer.give(&client, Action::Abort).await?, json),
    }
}

async fn pending(client: &Client, run: &str, json: bool) -> Result<Exit, Error> {
    let record = client.get(&path(&["runs", run], &[])).await?.success()?;
    let gates = record["gates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if json {
        ui::say!("{:#}", json!({"runId": run, "status": record["status"], "gates": gates}));
    } else if gates.is_empty() {
        ui::say!("{run} waits for nobody: it is {}", Paint::out().status(record["status"].as_str().unwrap_or("?")));
    }
    if !json {
        gates.iter().for_each(|gate| show(gate, true, Paint::out(), |line| ui::say!("{line}")));
    }
    Ok(Exit::Success)
}

fn report(answer: &Value, json: bool) -> Result<Exit, Error> {
    if json {
        ui::say!("{answer:#}");
        return Ok(Exit::Success);
    }
    let (decided, run) = (&answer["decided"], answer["runId"].as_str().unwrap_or_default());
    let action = Paint::out().status(decided["action"].as_str().unwrap_or("?"));
    let left: Vec<String> =
        answer["gates"].as_array().into_iter().flatten().map(|gate| gate["gateId"].to_string()).collect();
    ui::say!("gate {} of {run}: {action}", decided["gateId"]);
    let next = match answer["status"].as_str() {
        Some("paused") => {
            format!("It still waits for a verdict on gate {}: `torpor gates show {run}`.", left.join(", "))
        }
        Some("queued" | "running") => format!("It goes on; `torpor runs follow {run}` shows how."),
        status => format!("It is {}.", status.unwrap_or("?")),
    };
    eprintln!("{}", Paint::err().dim(&next));
    Ok(Exit::Success)
}

/// A gate of a list: whose it is, what waits, what was decided.
fn listed(line: &Value, full: bool) {
    let paint = Paint::out();
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    ui::say!("{}  {}  {}", paint.bold(text("runId")), paint.status(text("status")), paint.dim(&asked(line)));
    show(&line["gate"], full, paint, |shown| ui::say!("{shown}"));
    let decision = &line["decision"];
    if let Some(action) = decision["action"].as_str() {
        let by = decision["approver"].as_str().map(|who| format!(" by {}", ui::one_line(who, 80))).unwrap_or_default();
        let feedback = decision["feedback"].as_str().map(|words| format!(": {}", ui::one_line(words, 200)));
        ui::say!("  {}{by}{}", paint.status(action), feedback.unwrap_or_default());
    }
    ui::say!("");
}

fn asked(line: &Value) -> String {
    let session = ui::one_line(line["sessionId"].as_str().unwrap_or_default(), 80);
    let at = line["requestedAt"].as_str().and_then(Timestamp::parse_rfc3339);
    let ago = at.map(|at| format!("  asked {} ago", ui::seconds(SystemClock.now().since(at)))).unwrap_or_default();
    format!("session {session}{ago}")
}

/// A gate: its number, what it is about, the exact call, and when it ends by itself.
pub(crate) fn show(gate: &Value, whole: bool, paint: Paint, mut line: impl FnMut(&str)) {
    let text = |key: &str| ui::harmless(gate[key].as_str().unwrap_or_default());
    if gate["call"].is_object() {
        // The call says it all: its summary is made of it.
        line(&paint.bold(&format!("gate {}", gate["gateId"])));
        let (lines, hidden) = calls::exact(&gate["call"], whole, paint);
        lines.iter().for_each(|text| line(&format!("  {text}")));
        if hidden > 0 {
            line(&format!("  {}", paint.note(&format!("  {} not shown whole", ui::count(hidden as u64, "line")))));
        }
    } else {
        line(&format!("{}: {}", paint.bold(&format!("gate {}", gate["gateId"])), text("summary")));
        text("proposed_action").lines().for_each(|text| line(&format!("  {text}")));
    }
    if let Some(end) = gate["expiresAt"].as_str().and_then(Timestamp::parse_rfc3339) {
        let left = ui::seconds(end.since(SystemClock.now()));
        line(&format!("  {}", paint.dim(&format!("without a verdict it is rejected in {left}"))));
    }
}
