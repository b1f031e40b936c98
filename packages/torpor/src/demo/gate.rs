//! The demo's gate: a command that waits for a person, held by a rule of the run.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use torpor_core::gate::Action;

use super::server::Server;
use super::stage::Stage;
use super::{heading, run_of};
use crate::cli::Error;
use crate::follow::quietly;
use crate::gates::{Said, Verdict, answer, show};
use crate::ui::{self, Paint, say};

/// How long a person is waited for; then the demo approves by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run that pauses before a command, and goes on exactly there.
pub(super) async fn gate(server: &Server, stage: &Stage, yes: bool) -> Result<bool, Error> {
    heading(3, "A gate: a command that waits for you");
    let envelope = stage.guarded_job();
    say!("  POST /runs with {}", ui::dim(&format!("\"approvals\": {}", envelope["approvals"])));
    let run = run_of(&server.client().post("/runs", &envelope).await?.success()?);
    let record = quietly(server.client(), &run).await?;
    let Some(gate) = record["gates"].get(0).filter(|_| record["status"] == "paused") else {
        say!("  {}", ui::bad(&format!("the run did not wait: {record}")));
        return Ok(false);
    };
    say!("  The run is {}. It holds no process and no lease, and it could wait for days:", Paint::out().note("paused"));
    show(gate, true, Paint::out(), |line| say!("    {line}"));
    let untouched = stage.has_parts();
    let asked = Instant::now();
    let (action, feedback) = verdict(yes).await?;
    let verdict = Verdict { action, feedback, approver: Some("demo".into()) };
    verdict.give(server.client(), &run, gate["gateId"].as_u64()).await?;
    let record = quietly(server.client(), &run).await?;
    let status = record["status"].as_str().unwrap_or("?");
    let words = record["response"].as_str().or_else(|| record["message"].as_str()).unwrap_or_default();
    let waited = ui::span(asked.elapsed());
    say!("  {} after {waited}: {}", Paint::out().status(status), ui::harmless(words.trim()));
    let ran = !stage.has_parts();
    let right = untouched && ran == (action == Action::Approve);
    say!(
        "  {}",
        match (right, ran) {
            (true, true) => ui::good("the command ran after the approval, and not before"),
            (true, false) => ui::good("the command did not run"),
            (false, _) => ui::bad("the command did NOT keep to the verdict"),
        }
    );
    Ok(right)
}

/// The person's verdict, or the demo's own where nobody is there, or nobody answers.
async fn verdict(yes: bool) -> Result<(Action, Option<String>), Error> {
    if yes || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        let why = if yes { "--yes was given" } else { "there is no terminal to ask at" };
        say!("  approved by itself: {why}");
        return Ok((Action::Approve, None));
    }
    say!("  [y] approve  [n] reject  [a] abort the run  {}", ui::dim("words after the letter are told to the model"));
    say!("  {}", ui::dim(&format!("without an answer it is approved after {}", ui::seconds(PATIENCE))));
    let asked = async {
        loop {
            if let Said::Verdict(action, feedback) = answer().await? {
                return Ok((action, feedback));
            }
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(verdict) => verdict,
        Err(_) => {
            say!("\n  approved by itself: nobody answered");
            Ok((Action::Approve, None))
        }
    }
}
