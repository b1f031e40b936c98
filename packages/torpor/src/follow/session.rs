//! One person, or one program, and the run it follows: who is shown what, who is asked at a gate, what Ctrl-C does.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::Value;

use super::lines::Lines;
use super::{Follower, Silent, Watch, exit, outcome};
use crate::cli::{Error, Exit};
use crate::client::Client;
use crate::gates;
use crate::ui::{self, Paint};

/// What is shown, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Lines for a person on standard error.
    pub(crate) lines: bool,
    /// Also what is of no interest to most.
    pub(crate) verbose: bool,
    /// One event a line on standard output.
    pub(crate) events: bool,
    /// The record as JSON at the end.
    pub(crate) json: bool,
}

impl Mode {
    /// What follows from the flags and from who is there: on a terminal people see what happens, elsewhere only who
    /// asks for it.
    pub(crate) fn of(follow: bool, quiet: bool, events: bool, json: bool) -> Self {
        let events = events || (json && follow);
        let lines = !quiet && !events && (follow || io::stderr().is_terminal());
        Self { lines, verbose: follow, events, json: json && !events }
    }

    /// Whether there is a person who can be asked.
    fn asks(self) -> bool {
        !self.json && !self.events && io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

/// One event a line.
struct Json;

impl Watch for Json {
    fn event(&mut self, event: &Value) {
        // Whoever reads it may have gone: then the run still goes on, and so does the waiting for its end.
        let _ = writeln!(io::stdout(), "{event}");
    }
    fn tick(&mut self, _: &str) {}
    fn away(&mut self, _: Duration) {}
}

/// Follows a run to its end, asking at its gates where somebody can be asked; prints its outcome.
pub(crate) async fn accompany(client: &Client, run: &str, mode: Mode) -> Result<Exit, Error> {
    let mut follower = Follower::new(client.clone(), run);
    let stderr = io::stderr();
    let mut lines = mode.lines.then(|| Lines::new(io::stderr(), Paint::err(), stderr.is_terminal(), mode.verbose));
    let record = loop {
        let record = match (&mut lines, mode.events) {
            (Some(lines), _) => follower.settle(lines).await?,
            (None, true) => follower.settle(&mut Json).await?,
            (None, false) => follower.settle(&mut Silent).await?,
        };
        if let Some(lines) = &mut lines {
            lines.pause();
        }
        let paused = record["status"] == "paused";
        if !paused || !mode.asks() || !gates::ask(follower.client(), &record).await? {
            break record;
        }
    };
    let words = record["response"].as_str().unwrap_or_default();
    let seen = io::stdout().is_terminal() && lines.as_ref().is_some_and(|lines| lines.has_shown(words));
    drop(lines);
    match (mode.json, mode.events) {
        (true, _) => ui::say!("{record:#}"),
        (_, true) => {}
        _ if record["status"] == "paused" => waiting(client, &record),
        _ => outcome::print(&record, seen),
    }
    Ok(exit(&record))
}

/// What waits, and how to answer it.
fn waiting(client: &Client, record: &Value) {
    let run = record["runId"].as_str().unwrap_or_default();
    ui::say!("{} {run}", Paint::out().note("paused"));
    let gates = record["gates"].as_array().map(Vec::as_slice).unwrap_or_default();
    for gate in gates {
        gates::show(gate, false, Paint::out(), |line| ui::say!("{line}"));
    }
    let number = if gates.len() == 1 { String::new() } else { " --gate N".to_owned() };
    let serve = if client.is_passing() { "; start `torpor serve` first" } else { "" };
    eprintln!("It waits for a verdict{serve}:");
    eprintln!("  torpor gates approve {run}{number}    (or reject, abort)");
    eprintln!("  torpor runs follow {run}");
}
