//! What a log means: the state of a run, folded from its entries.
//!
//! A live leaf and a resuming one use the same fold, entry by entry, so there is one truth about what comes next.
//! Pure; no I/O.

use torpor_core::clock::Timestamp;
use torpor_core::entry::{Body, Entry, RunTotals, ToolEnding};
use torpor_core::id::{Position, RunId};
use torpor_core::message::{Assistant, Block, StopReason, ToolResult};
use torpor_core::model::Message;
use torpor_core::outcome::{Outcome, Verdict};
use torpor_core::sandbox;

use crate::catalogue::SUBMIT_VERDICT;

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
}

/// A run's state.
#[derive(Debug)]
pub(crate) struct State {
    run: RunId,
    /// The conversation, complete up to the last answered message.
    pub(crate) messages: Vec<Message>,
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
    /// How the run ended.
    pub(crate) outcome: Option<Outcome>,
    /// A model request without an answer, with its estimated tokens.
    unanswered: Option<u64>,
}

impl State {
    /// The state before any entry.
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run,
            messages: Vec::new(),
            open: Vec::new(),
            stop: None,
            started: None,
            spent: RunTotals::default(),
            verdict: None,
            refused_verdict: false,
            outcome: None,
            unanswered: None,
        }
    }

    /// Folds a tail as [`torpor_core::log::SessionLog::open`] gives it. A checkpoint stands in for what came before
    /// the tail: its summary goes first.
    pub(crate) fn replay(run: RunId, tail: &[Entry]) -> Self {
        let mut state = Self::new(run);
        let checkpoint = tail.iter().rev().find_map(|e| match &e.body {
            Body::Checkpoint { summary, open_run, .. } => Some((summary, open_run)),
            _ => None,
        });
        if let Some((summary, open_run)) = checkpoint {
            state.messages.push(Message::User(summary.clone()));
            state.spent = open_run.clone().unwrap_or_default();
        }
        for entry in tail {
            state.apply(entry.position, entry.at, &entry.body);
        }
        state
    }

    /// Folds one entry.
    pub(crate) fn apply(&mut self, position: Position, at: Timestamp, body: &Body) {
        let mine = body.run() == Some(&self.run);
        match body {
            Body::RunStarted { prompt, model, workdir, tools, .. } => {
                self.settle();
                self.messages.push(Message::User(prompt.clone()));
                self.stop = None;
                if mine {
                    self.started =
                        Some(Started { at, model: model.clone(), workdir: workdir.clone(), tools: tools.clone() });
                }
            }
            Body::Takeover { .. } | Body::Checkpoint { .. } => {}
            Body::ModelRequested { estimate, .. } => {
                if mine {
                    self.spent.turns = self.spent.turns.saturating_add(1);
                    // A request that was cut off by a crash counts as spent, by its estimate.
                    if let Some(lost) = self.unanswered.replace(*estimate) {
                        self.spent.usage.input = self.spent.usage.input.saturating_add(lost);
                    }
                }
            }
            Body::ModelAnswered { message, .. } => {
                if mine {
                    self.unanswered = None;
                    self.spent.usage += message.usage;
                }
                self.stop = Some(message.stop);
                self.open = uses(message);
                self.messages.push(Message::Assistant(message.clone()));
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
                    self.settle();
                }
            }
            Body::RunEnded { outcome, .. } => {
                self.settle();
                if mine {
                    self.outcome = Some(outcome.clone());
                }
            }
        }
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
        if mine && u.name == SUBMIT_VERDICT {
            let good = ending == ToolEnding::Finished && !result.is_error;
            match serde_json::from_value(u.input.clone()) {
                Ok(verdict) if good => self.verdict = self.verdict.take().or(Some(verdict)),
                _ => self.refused_verdict = true,
            }
        }
    }

    /// Moves the open uses into the conversation; one that never got a result is answered with [`NO_RESULT`].
    fn settle(&mut self) {
        let results: Vec<_> = self.open.drain(..).map(|u| (u.id, u.result.unwrap_or_else(no_result))).collect();
        if !results.is_empty() {
            self.messages.push(Message::Tools(results));
        }
    }

    /// Uses that still need a result, in the order of the latest answer.
    pub(crate) fn unanswered_uses(&self) -> impl Iterator<Item = &Use> {
        self.open.iter().filter(|u| u.result.is_none())
    }

    /// Where calls stand that the hands may know and nobody has heard the end of.
    pub(crate) fn calls_under_way(&self) -> Vec<Position> {
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
            Block::ToolUse { id, name, input } => {
                Some(Use { id: id.clone(), name: name.clone(), input: input.clone(), intent: None, result: None })
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use torpor_core::message::Usage;

    use super::*;

    fn answered(run: &RunId, uses: &[(&str, &str)], stop: StopReason) -> Body {
        let blocks = uses
            .iter()
            .map(|(id, name)| Block::ToolUse { id: (*id).into(), name: (*name).into(), input: json!({}) })
            .collect();
        let usage = Usage { input: 10, output: 1, ..Usage::default() };
        Body::ModelAnswered { run: run.clone(), message: Assistant { blocks, stop, usage }, attempts: 1 }
    }

    fn started(run: &RunId) -> Body {
        Body::RunStarted {
            run: run.clone(),
            prompt: "go".into(),
            model: "m".into(),
            workdir: None,
            tools: vec!["bash".into()],
        }
    }

    fn requested(run: &RunId) -> Body {
        Body::ModelRequested { run: run.clone(), fingerprint: String::new(), estimate: 100 }
    }

    fn ended(run: &RunId, tool_use: &str, call: Option<Position>) -> Body {
        Body::ToolEnded {
            run: run.clone(),
            tool_use: tool_use.into(),
            call,
            ending: ToolEnding::Finished,
            result: ToolResult::text(tool_use),
        }
    }

    fn fold(run: &RunId, bodies: &[Body]) -> State {
        let mut state = State::new(run.clone());
        for (i, b) in bodies.iter().enumerate() {
            state.apply(Position(i as u64 + 1), Timestamp(0), b);
        }
        state
    }

    #[test]
    fn results_come_in_the_order_of_the_calls_not_of_their_endings() {
        let run = RunId::generate();
        let state = fold(
            &run,
            &[
                started(&run),
                requested(&run),
                answered(&run, &[("a", "bash"), ("b", "bash")], StopReason::ToolUse),
                ended(&run, "b", None),
                ended(&run, "a", None),
            ],
        );
        let Some(Message::Tools(results)) = state.messages.last() else { panic!("{:?}", state.messages) };
        assert_eq!(results.iter().map(|r| r.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(state.open.is_empty());
    }

    #[test]
    fn uses_with_the_same_id_are_told_apart_by_their_intents() {
        let run = RunId::generate();
        let intent = |id: &str| Body::ToolRequested {
            run: run.clone(),
            tool_use: id.into(),
            name: "bash".into(),
            input: json!({}),
            sandbox: None,
        };
        let state = fold(
            &run,
            &[
                started(&run),
                requested(&run),
                answered(&run, &[("x", "bash"), ("x", "bash")], StopReason::ToolUse),
                intent("x"),
                intent("x"),
                ended(&run, "x", Some(Position(5))),
            ],
        );
        assert_eq!(state.open[0].result, None);
        assert!(state.open[1].result.is_some());
    }

    #[test]
    fn an_intent_never_belongs_to_a_use_that_was_refused() {
        let run = RunId::generate();
        let intent = Body::ToolRequested {
            run: run.clone(),
            tool_use: "x".into(),
            name: "bash".into(),
            input: json!({}),
            sandbox: None,
        };
        let state = fold(
            &run,
            &[
                started(&run),
                requested(&run),
                answered(&run, &[("x", "fly"), ("x", "bash")], StopReason::ToolUse),
                ended(&run, "x", None),
                intent,
            ],
        );
        assert_eq!(state.open[0].intent, None);
        assert_eq!(state.calls_under_way(), [Position(5)]);
    }

    #[test]
    fn a_request_that_was_cut_off_counts_as_spent() {
        let run = RunId::generate();
        let state =
            fold(&run, &[started(&run), requested(&run), requested(&run), answered(&run, &[], StopReason::EndTurn)]);
        assert_eq!((state.spent.turns, state.spent.usage.input), (2, 110));
    }

    #[test]
    fn calls_that_an_ended_run_left_open_are_answered_before_the_next_turn() {
        let (first, second) = (RunId::generate(), RunId::generate());
        let state = fold(
            &second,
            &[
                started(&first),
                requested(&first),
                answered(&first, &[("a", "bash")], StopReason::ToolUse),
                Body::RunEnded { run: first.clone(), outcome: Outcome::Cancelled {}, spent: RunTotals::default() },
                started(&second),
            ],
        );
        assert!(matches!(&state.messages[2], Message::Tools(r) if r[0].1.is_error));
        assert!(matches!(&state.messages[3], Message::User(_)));
        assert_eq!(state.outcome, None);
        assert_eq!(state.spent.turns, 0);
    }

    #[test]
    fn a_checkpoint_stands_in_for_what_came_before() {
        let run = RunId::generate();
        let totals = RunTotals { turns: 7, usage: Usage { input: 70, ..Usage::default() } };
        let body = |position: u64, body: Body| Entry {
            position: Position(position),
            at: Timestamp(0),
            epoch: Default::default(),
            body,
        };
        let tail = [
            body(90, answered(&run, &[], StopReason::EndTurn)),
            body(91, Body::Checkpoint { summary: "so far".into(), keep_from: Position(90), open_run: Some(totals) }),
            body(92, requested(&run)),
        ];
        let state = State::replay(run, &tail);
        assert_eq!(state.messages[0], Message::User("so far".into()));
        assert_eq!(state.messages.len(), 2);
        assert_eq!((state.spent.turns, state.spent.usage.input), (8, 80));
    }
}
