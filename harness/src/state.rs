//! What a log means: the state of a run, folded from its entries.
//!
//! A live leaf and a resuming one use the same fold, entry by entry, so there is one truth about what comes next.
//! Pure; no I/O.

use std::time::Duration;

use torpor_core::clock::Timestamp;
use torpor_core::entry::{Body, Entry, OpenRun, RunTotals, Submissions, ToolEnding};
use torpor_core::envelope::Item;
use torpor_core::gate::{Action, Decision};
use torpor_core::id::{Position, RunId};
use torpor_core::message::{Assistant, Block, StopReason, ToolResult};
use torpor_core::model::Message;
use torpor_core::outcome::{Outcome, Verdict};
use torpor_core::price::Usd;
use torpor_core::sandbox;

use crate::catalogue::{REQUEST_APPROVAL, SUBMIT_RESULT, SUBMIT_VERDICT};
use crate::compaction::weight;
use crate::finish::problem_of;

/// What a dangling call of an ended run is answered with, so that every use has a result.
const NO_RESULT: &str = "No result: the run ended before this call did. Whether it had an effect is not known.";

/// One tool use of the latest answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Use {
    /// The model's id.
    pub(crate) id: String,
    /// Tool name.
    pub(crate) name: String,
    /// Arguments as the model gave them.
    pub(crate) input: serde_json::Value,
    /// Where its intent stands, and which hands that intent names.
    pub(crate) intent: Option<(Position, Option<sandbox::Identity>)>,
    /// The gate at which it waited or waits, and the verdict.
    pub(crate) gate: Option<(u64, Option<Decision>)>,
    /// What the model is told.
    pub(crate) result: Option<ToolResult>,
}

/// How the run was started.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Started {
    pub(crate) at: Timestamp,
    pub(crate) model: String,
    pub(crate) workdir: Option<String>,
    pub(crate) tools: Vec<String>,
    pub(crate) item: Option<Item>,
}

/// Where a conversation is cut.
pub(crate) struct Cut {
    /// The first message that stays.
    pub(crate) index: usize,
    /// The entry it begins with.
    pub(crate) position: Position,
}

/// A run's state.
#[derive(Debug)]
pub(crate) struct State {
    run: RunId,
    /// The conversation, complete up to the last answered message.
    pub(crate) messages: Vec<Message>,
    /// For each message the entry it begins with; 0 for a summary.
    places: Vec<Position>,
    /// What the provider counted for the latest answer and all before it, and how many messages that were.
    counted: Option<(u64, usize)>,
    /// Uses of the latest answer that are not in `messages` yet. Empty when none are open.
    pub(crate) open: Vec<Use>,
    /// Why the latest answer of this run stopped.
    pub(crate) stop: Option<StopReason>,
    /// Present once the run has started.
    pub(crate) started: Option<Started>,
    /// What this run has spent.
    pub(crate) spent: RunTotals,
    /// A verdict that was recorded.
    pub(crate) verdict: Option<Verdict>,
    /// Whether a verdict was offered and refused.
    pub(crate) refused_verdict: bool,
    /// The arguments of the call that delivered the result.
    pub(crate) submitted: Option<serde_json::Value>,
    /// What became of results before that.
    pub(crate) submissions: Submissions,
    /// Whether the last answer to a question of the model's was an approval.
    pub(crate) approved: bool,
    /// How long the run has waited for people.
    pub(crate) parked: Duration,
    /// Since when it waits.
    parked_since: Option<Timestamp>,
    /// How the run ended.
    pub(crate) outcome: Option<Outcome>,
    /// A model request without an answer, with its estimated tokens and their cost.
    unanswered: Option<(u64, Option<Usd>)>,
}

impl State {
    /// The state before any entry.
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run,
            messages: Vec::new(),
            places: Vec::new(),
            counted: None,
            open: Vec::new(),
            stop: None,
            started: None,
            spent: RunTotals::default(),
            verdict: None,
            refused_verdict: false,
            submitted: None,
            submissions: Submissions::default(),
            approved: false,
            parked: Duration::ZERO,
            parked_since: None,
            outcome: None,
            unanswered: None,
        }
    }

    /// Folds a tail as [`torpor_core::log::SessionLog::open`] gives it.
    pub(crate) fn replay(run: RunId, tail: &[Entry]) -> Self {
        let mut state = Self::new(run);
        for entry in tail {
            state.apply(entry.position, entry.at, &entry.body);
        }
        state
    }

    /// Folds one entry.
    pub(crate) fn apply(&mut self, position: Position, at: Timestamp, body: &Body) {
        let mine = body.run() == Some(&self.run);
        match body {
            Body::RunStarted { prompt, model, workdir, tools, item, .. } => {
                self.settle(position);
                self.push(position, Message::User(prompt.clone()));
                self.stop = None;
                self.approved = false;
                self.parked = Duration::ZERO;
                self.parked_since = None; // a fork may begin in the middle of another run
                if mine {
                    self.started = Some(Started {
                        at,
                        model: model.clone(),
                        workdir: workdir.clone(),
                        tools: tools.clone(),
                        item: item.clone(),
                    });
                }
            }
            Body::Takeover { .. } => {}
            Body::Checkpoint { summary, keep_from, open_run } => self.shorten(summary, *keep_from, open_run.as_ref()),
            Body::ModelRequested { estimate, cost, .. } | Body::SummaryRequested { estimate, cost, .. } => {
                if mine {
                    self.spent.turns = self.spent.turns.saturating_add(1);
                    // A request that was cut off by a crash counts as spent, by its estimate.
                    if let Some((lost, cost)) = self.unanswered.replace((*estimate, *cost)) {
                        self.spent.usage.input = self.spent.usage.input.saturating_add(lost);
                        self.spent.charge(cost);
                    }
                }
            }
            Body::ModelAnswered { message, cost, .. } => {
                if mine {
                    self.unanswered = None;
                    self.spent.usage += message.usage;
                    self.spent.charge(*cost);
                }
                self.stop = Some(message.stop);
                self.open = uses(message);
                self.push(position, Message::Assistant(message.clone()));
                self.counted = Some((message.usage.total(), self.messages.len()));
            }
            Body::ToolRequested { tool_use, sandbox, .. } => {
                if let Some(u) =
                    self.open.iter_mut().find(|u| u.id == *tool_use && u.intent.is_none() && u.result.is_none())
                {
                    u.intent = Some((position, sandbox.clone()));
                }
            }
            Body::ToolEnded { tool_use, call, ending, result, .. } => {
                self.end_use(tool_use, *call, *ending, result, mine);
                if self.open.iter().all(|u| u.result.is_some()) {
                    self.settle(position);
                }
            }
            Body::GateRequested { gate, tool_use, .. } => {
                let waits = |u: &&mut Use| u.id == *tool_use && u.gate.is_none() && u.result.is_none();
                if let Some(u) = self.open.iter_mut().find(waits) {
                    u.gate = Some((*gate, None));
                }
                self.parked_since.get_or_insert(at);
            }
            Body::GateDecided { gate, decision, .. } => self.decide(*gate, decision, at),
            Body::Reminded { text, .. } => {
                self.push(position, Message::User(text.clone()));
                self.submissions.reminded |= mine;
            }
            Body::RunEnded { outcome, .. } => {
                self.parked_since = None;
                self.settle(position);
                if mine {
                    self.outcome = Some(outcome.clone());
                }
            }
        }
    }

    fn decide(&mut self, gate: u64, decision: &Decision, at: Timestamp) {
        let asked = |u: &&mut Use| matches!(u.gate, Some((g, None)) if g == gate);
        let Some(u) = self.open.iter_mut().find(asked) else { return };
        u.gate = Some((gate, Some(decision.clone())));
        if u.name == REQUEST_APPROVAL {
            self.approved = decision.action == Action::Approve;
        }
        if !self.open.iter().any(|u| matches!(u.gate, Some((_, None)))) {
            let since = self.parked_since.take();
            self.parked += since.map_or(Duration::ZERO, |since| at.since(since));
        }
    }

    /// Whether a person has ended the run.
    pub(crate) fn is_aborted(&self) -> bool {
        let aborted = |u: &Use| matches!(&u.gate, Some((_, Some(d))) if d.action == Action::Abort);
        self.open.iter().any(aborted)
    }

    fn end_use(&mut self, id: &str, call: Option<Position>, ending: ToolEnding, result: &ToolResult, mine: bool) {
        let Some(u) = self
            .open
            .iter_mut()
            .find(|u| u.id == id && u.result.is_none() && (call.is_none() || u.intent.as_ref().map(|i| i.0) == call))
        else {
            return;
        };
        u.result = Some(result.clone());
        if mine && u.name == SUBMIT_RESULT && ending == ToolEnding::Finished {
            if result.is_error {
                self.submissions.refused += 1;
                self.submissions.problem = Some(problem_of(result));
            } else {
                self.submitted.get_or_insert_with(|| u.input.clone());
            }
        }
        // A verdict that a person did not approve was a valid one.
        let rejected = matches!(&u.gate, Some((_, Some(d))) if d.action != Action::Approve);
        if mine && u.name == SUBMIT_VERDICT && !rejected {
            let good = ending == ToolEnding::Finished && !result.is_error;
            match serde_json::from_value(u.input.clone()) {
                Ok(verdict) if good => self.verdict = self.verdict.take().or(Some(verdict)),
                _ => self.refused_verdict = true,
            }
        }
    }

    /// Moves the open uses into the conversation; one that never got a result is answered with [`NO_RESULT`].
    fn settle(&mut self, position: Position) {
        let results: Vec<_> = self.open.drain(..).map(|u| (u.id, u.result.unwrap_or_else(no_result))).collect();
        if !results.is_empty() {
            self.push(position, Message::Tools(results));
        }
    }

    fn push(&mut self, position: Position, message: Message) {
        self.messages.push(message);
        self.places.push(position);
    }

    /// A checkpoint: what stood before `keep_from` is the summary now.
    fn shorten(&mut self, summary: &str, keep_from: Position, open_run: Option<&OpenRun>) {
        let cut = self.places.iter().position(|p| *p >= keep_from).unwrap_or(self.places.len());
        self.messages.splice(..cut, [Message::User(summary.to_owned())]);
        self.places.splice(..cut, [Position(0)]);
        self.counted = None;
        let Some(open) = open_run.filter(|o| o.run == self.run) else { return };
        self.unanswered = None;
        self.spent = open.spent.clone();
        self.refused_verdict |= open.refused_verdict;
        self.submissions = open.submissions.clone();
        self.approved = open.approved;
        self.parked = Duration::from_millis(open.parked_ms);
        self.started = Some(Started {
            at: open.started_at,
            model: open.model.clone(),
            workdir: open.workdir.clone(),
            tools: open.tools.clone(),
            item: open.item.clone(),
        });
    }

    /// Where to cut so that about `keep` tokens stay verbatim; `None` if nothing would be gained. Never between a call
    /// and its result, and never so that only a summary would be summarised.
    pub(crate) fn cut(&self, keep: u64) -> Option<Cut> {
        let mut left = keep;
        let mut index = None;
        for (i, message) in self.messages.iter().enumerate().rev() {
            let fits = left.checked_sub(weight(message));
            if fits.is_none() && index.is_some() {
                break;
            }
            left = fits.unwrap_or(0);
            if !matches!(message, Message::Tools(_)) {
                index = Some(i);
            }
        }
        let index = index?;
        let gained = self.places[..index].iter().any(|p| p.0 > 0);
        gained.then(|| Cut { index, position: self.places[index] })
    }

    /// What the next request is expected to count, by what the provider counted last.
    pub(crate) fn expected_context(&self) -> u64 {
        let Some((tokens, messages)) = self.counted else { return 0 };
        tokens.saturating_add(self.messages[messages..].iter().map(weight).sum())
    }

    /// Uses that still need a result, in the order of the latest answer.
    pub(crate) fn unanswered_uses(&self) -> impl Iterator<Item = &Use> {
        self.open.iter().filter(|u| u.result.is_none())
    }

    /// Where calls of this run stand that the hands may know and nobody has heard the end of. Those of a run in whose
    /// middle a fork was made are the other session's.
    pub(crate) fn calls_under_way(&self) -> Vec<Position> {
        if self.started.is_none() {
            return Vec::new();
        }
        self.unanswered_uses().filter_map(|u| u.intent.as_ref().map(|i| i.0)).collect()
    }

    /// The latest answer of the model, if it is the last thing in the conversation.
    pub(crate) fn last_answer(&self) -> Option<&Assistant> {
        match self.messages.last() {
            Some(Message::Assistant(a)) => Some(a),
            _ => None,
        }
    }
}

fn no_result() -> ToolResult {
    ToolResult::error(NO_RESULT)
}

fn uses(message: &Assistant) -> Vec<Use> {
    message
        .blocks
        .iter()
        .filter_map(|b| match b {
            Block::ToolUse { id, name, input } => Some(Use {
                id: id.clone(),
                name: name.clone(),
                input: input.clone(),
                intent: None,
                gate: None,
                result: None,
            }),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
