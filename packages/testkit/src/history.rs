//! What must hold of every log, whatever happened to those who wrote it.
//!
//! Owns: the rules of a well-formed history, and what a log says in numbers for those who compare it with a ledger of
//! effects. Must not know: who wrote the log, or which store kept it.
//!
//! The rules: positions are gapless from 1; epochs never fall, and one epoch belongs to one run; runs of a session never
//! mix, begin and end once, and nothing of a run follows its end; whoever goes on under a new epoch says so; an intent has
//! at most one outcome, which comes after it and, for a model, under the same epoch; no request leaves while a call of the
//! last answer has no result; a gate has at most one verdict, nothing of its run happens until then, and what it holds runs
//! only after an approval; an end counts the model calls that the log shows.

use std::collections::HashSet;

use serde_json::Value;
use torpor_core::entry::{Body, Entry, RunTotals, ToolEnding};
use torpor_core::gate::Action;
use torpor_core::id::{Epoch, Position, RunId};
use torpor_core::message::{Assistant, Block};
use torpor_core::outcome::{FailReason, Outcome};

#[cfg(test)]
mod tests;

/// What a sound log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Its runs, in order.
    pub runs: Vec<Run>,
    /// Its intents of tool calls, in order.
    pub calls: Vec<Call>,
}

/// A run as its log shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub run: RunId,
    /// Whether it began; one that was cancelled or given up before has an end alone.
    pub started: bool,
    /// How often another brain went on with it.
    pub takeovers: u32,
    /// Intents of model calls, summaries included.
    pub requests: u32,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// An intent of a tool call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Where it stands; with the session, the call's id.
    pub position: Position,
    /// Whose it is.
    pub run: RunId,
    /// Tool name.
    pub tool: String,
    /// Arguments.
    pub input: Value,
    /// How it ended; `None` when nobody wrote that.
    pub ending: Option<ToolEnding>,
}

/// Checks a whole log, from its first entry on.
///
/// # Errors
/// The first rule that is broken, in words that name the entry.
pub fn check(log: &[Entry]) -> Result<Facts, String> {
    check_grafted(log, Position(0))
}

/// As [`check`], for a log whose entries up to `shared` came from elsewhere (a fork, an import): epochs begin anew behind
/// them, and a run that was under way there is nobody's here.
///
/// # Errors
/// The first rule that is broken, in words that name the entry.
pub fn check_grafted(log: &[Entry], shared: Position) -> Result<Facts, String> {
    let mut check = Check::default();
    for entry in log {
        check.take(entry).map_err(|wrong| format!("entry {}: {wrong}", entry.position))?;
        if entry.position == shared {
            check.graft();
        }
    }
    Ok(check.facts)
}

/// A use of the latest answer.
struct Use {
    id: String,
    /// Its gate, by number.
    gate: Option<usize>,
    /// Its intent, among the calls.
    call: Option<usize>,
    answered: bool,
}

/// A gate of the session.
enum Gate {
    Pending,
    Decided(Action),
    /// Its run ended, or another of its gates was answered with an abort.
    Closed,
}

/// A model call without its outcome.
struct Asked {
    at: Position,
    epoch: Epoch,
    summary: bool,
}

#[derive(Default)]
struct Check {
    facts: Facts,
    head: Position,
    epoch: Epoch,
    /// To which run the current epoch belongs.
    owned: Option<RunId>,
    /// The run under way, among the runs.
    open: Option<usize>,
    uses: Vec<Use>,
    gates: Vec<Gate>,
    /// The gates of the run under way that stand at the end of the log so far, one after the other.
    asking: Option<Epoch>,
    asked: Option<Asked>,
}

type Checked = Result<(), String>;

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(wrong()) }
}

impl Check {
    fn take(&mut self, entry: &Entry) -> Checked {
        let Entry { position, epoch, body, .. } = entry;
        ensure(*position == self.head.next(), || format!("follows {}; positions are gapless", self.head))?;
        self.head = *position;
        ensure(*epoch >= self.epoch, || format!("epoch {epoch} after {}; epochs never fall", self.epoch))?;
        self.check_owner(*epoch, body)?;
        self.check_run(body)?;
        self.check_parked(*epoch, body)?;
        self.asking = None;
        match body {
            Body::RunStarted { run, .. } => self.start(run),
            Body::Takeover { .. } => self.run(|run| run.takeovers += 1),
            Body::ModelRequested { .. } => self.ask(Asked { at: *position, epoch: *epoch, summary: false })?,
            Body::SummaryRequested { .. } => self.ask(Asked { at: *position, epoch: *epoch, summary: true })?,
            Body::ModelAnswered { message, .. } => {
                self.answered(*position, *epoch, false)?;
                self.open_uses(message)?;
            }
            Body::Checkpoint { keep_from, .. } => {
                if self.asked.as_ref().is_some_and(|asked| asked.summary) {
                    self.answered(*position, *epoch, true)?;
                }
                ensure((1..=position.0).contains(&keep_from.0), || format!("keeps from {keep_from}"))?;
            }
            Body::ToolRequested { run, tool_use, name, input, .. } => {
                let (position, ending) = (*position, None);
                let call = Call { position, run: run.clone(), tool: name.clone(), input: input.clone(), ending };
                self.call(tool_use, call)?;
            }
            Body::ToolEnded { tool_use, call, ending, .. } => self.end_call(tool_use, *call, *ending)?,
            Body::GateRequested { gate, tool_use, .. } => {
                self.gate(*gate, tool_use)?;
                self.asking = Some(*epoch);
            }
            Body::GateDecided { gate, decision, .. } => self.decide(*gate, decision.action)?,
            Body::Reminded { .. } => self.check_all_answered()?,
            Body::RunEnded { run, outcome, spent } => self.end(run, outcome, spent)?,
        }
        Ok(())
    }

    /// Behind entries that came from elsewhere.
    fn graft(&mut self) {
        (self.epoch, self.owned, self.open, self.asked, self.asking) = (Epoch(0), None, None, None, None);
        self.uses.clear();
        self.close_gates();
    }

    /// One claim, one epoch, one run; and whoever goes on with a run says so first.
    fn check_owner(&mut self, epoch: Epoch, body: &Body) -> Checked {
        let news = epoch > self.epoch || self.owned.is_none();
        self.epoch = epoch;
        let Some(run) = body.run() else {
            return ensure(!news, || format!("a checkpoint is the first entry of epoch {epoch}"));
        };
        if !news {
            return ensure(self.owned.as_ref() == Some(run), || format!("{run} writes under another run's {epoch}"));
        }
        self.owned = Some(run.clone());
        let opens = matches!(
            body,
            Body::RunStarted { .. } | Body::Takeover { .. } | Body::RunEnded { .. } | Body::GateDecided { .. }
        );
        ensure(opens, || format!("epoch {epoch} goes on with {run} without a takeover"))
    }

    /// Runs never mix.
    fn check_run(&self, body: &Body) -> Checked {
        let Some(run) = body.run() else { return Ok(()) };
        let open = self.open.map(|i| &self.facts.runs[i].run);
        let over = self.facts.runs.iter().any(|r| r.run == *run && r.outcome.is_some());
        ensure(!over, || format!("{run} has ended before"))?;
        match body {
            Body::RunStarted { .. } => ensure(open.is_none(), || format!("{run} starts while {open:?} is under way")),
            Body::RunEnded { .. } => {
                ensure(open.is_none_or(|o| o == run), || format!("{run} ends while {open:?} is under way"))
            }
            _ => ensure(open == Some(run), || format!("an entry of {run} while {open:?} is under way")),
        }
    }

    /// A run that waits for people does nothing.
    fn check_parked(&self, epoch: Epoch, body: &Body) -> Checked {
        let mine = || self.uses.iter().filter_map(|u| self.gates.get(u.gate?));
        let allowed = if mine().any(|g| matches!(g, Gate::Decided(Action::Abort))) {
            matches!(body, Body::Takeover { .. } | Body::RunEnded { .. })
        } else if mine().any(|g| matches!(g, Gate::Pending)) {
            let one_more = matches!(body, Body::GateRequested { .. }) && self.asking == Some(epoch);
            one_more || matches!(body, Body::GateDecided { .. } | Body::RunEnded { .. })
        } else {
            true
        };
        ensure(allowed, || "something happens to a run that waits at a gate, or was aborted there".into())
    }

    fn check_all_answered(&self) -> Checked {
        let open: Vec<&str> = self.uses.iter().filter(|u| !u.answered).map(|u| u.id.as_str()).collect();
        ensure(open.is_empty(), || format!("the calls {open:?} of the last answer have no result"))
    }

    fn run(&mut self, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.open.and_then(|i| self.facts.runs.get_mut(i)) {
            change(run);
        }
    }

    fn start(&mut self, run: &RunId) {
        self.open = Some(self.facts.runs.len());
        self.facts.runs.push(Run { run: run.clone(), started: true, takeovers: 0, requests: 0, outcome: None });
        self.uses.clear();
        self.asked = None;
    }

    fn ask(&mut self, asked: Asked) -> Checked {
        self.check_all_answered()?;
        self.run(|run| run.requests += 1);
        self.asked = Some(asked);
        Ok(())
    }

    /// An outcome of a model call stands right behind its intent, by the same owner: nobody takes over a model call.
    fn answered(&mut self, at: Position, epoch: Epoch, summary: bool) -> Checked {
        let intent = self.asked.take();
        let fits = |a: &Asked| a.at.next() == at && a.epoch == epoch && a.summary == summary;
        ensure(intent.as_ref().is_some_and(fits), || "an answer does not stand behind its request".into())
    }

    fn open_uses(&mut self, message: &Assistant) -> Checked {
        let ids = message.blocks.iter().filter_map(|b| match b {
            Block::ToolUse { id, .. } => Some(id.clone()),
            _ => None,
        });
        self.uses = ids.map(|id| Use { id, gate: None, call: None, answered: false }).collect();
        let distinct: HashSet<&str> = self.uses.iter().map(|u| u.id.as_str()).collect();
        ensure(distinct.len() == self.uses.len(), || "two calls of one answer have one id".into())
    }

    /// A use of the last answer that has no result yet.
    fn unanswered(&mut self, id: &str) -> Result<&mut Use, String> {
        let found = self.uses.iter_mut().find(|u| u.id == id && !u.answered);
        found.ok_or_else(|| format!("no call {id:?} of the last answer waits for a result"))
    }

    fn call(&mut self, id: &str, call: Call) -> Checked {
        let index = self.facts.calls.len();
        let used = self.unanswered(id)?;
        ensure(used.call.is_none(), || format!("a second intent of {id:?}"))?;
        used.call = Some(index);
        let gate = used.gate;
        let held = gate.is_some_and(|g| !matches!(self.gates.get(g), Some(Gate::Decided(Action::Approve))));
        ensure(!held, || format!("{id:?} is sent without the approval that it needs"))?;
        self.facts.calls.push(call);
        Ok(())
    }

    fn end_call(&mut self, id: &str, call: Option<Position>, ending: ToolEnding) -> Checked {
        let used = self.unanswered(id)?;
        used.answered = true;
        let index = used.call;
        let mut intent = index.and_then(|i| self.facts.calls.get_mut(i));
        let stands = intent.as_ref().map(|c| c.position);
        ensure(call == stands, || format!("a result of {id:?} names the intent {call:?}, which stands at {stands:?}"))?;
        let fits = if stands.is_some() { ending != ToolEnding::Refused } else { ending != ToolEnding::SandboxLost };
        ensure(fits, || format!("{id:?} ends as {ending:?} with its intent at {stands:?}"))?;
        if let Some(intent) = &mut intent {
            intent.ending = Some(ending);
        }
        Ok(())
    }

    fn gate(&mut self, number: u64, id: &str) -> Checked {
        let next = self.gates.len();
        ensure(number == next as u64, || format!("gate {number} follows {next} others; they are numbered from 0"))?;
        let used = self.unanswered(id)?;
        ensure(used.gate.is_none() && used.call.is_none(), || format!("{id:?} is held too late"))?;
        used.gate = Some(next);
        self.gates.push(Gate::Pending);
        Ok(())
    }

    fn decide(&mut self, number: u64, action: Action) -> Checked {
        let gate = usize::try_from(number).ok().and_then(|n| self.gates.get_mut(n));
        let Some(gate @ Gate::Pending) = gate else { return Err(format!("a verdict on gate {number}, not pending")) };
        *gate = Gate::Decided(action);
        if action == Action::Abort {
            self.close_gates();
        }
        Ok(())
    }

    fn close_gates(&mut self) {
        self.gates.iter_mut().filter(|g| matches!(g, Gate::Pending)).for_each(|g| *g = Gate::Closed);
    }

    fn end(&mut self, run: &RunId, outcome: &Outcome, spent: &RunTotals) -> Checked {
        if self.open.is_none() {
            self.start(run);
            self.run(|run| run.started = false);
        }
        let mut requests = 0;
        self.run(|run| {
            run.outcome = Some(outcome.clone());
            requests = run.requests;
        });
        // Whoever gives a run up may not have been able to read its log.
        let given_up = matches!(outcome, Outcome::Failed { reason: FailReason::DeadLetter, .. });
        let told = spent.turns;
        ensure(given_up || told == requests, || format!("{run} counts {told} model calls, its log {requests}"))?;
        self.open = None;
        self.asked = None;
        self.uses.clear();
        self.close_gates();
        Ok(())
    }
}
