//! What a log means: the state of a run, folded from its entries.
//!
//! A live leaf and a resuming one use the same fold, entry by entry, so there is one truth about what comes next.
//! Pure; no I/O.

use torpor_core::clock::Timestamp;
use torpor_core::entry::{Body, Entry, OpenRun, RunTotals, ToolEnding};
use torpor_core::id::{Position, RunId};
use torpor_core::message::{Assistant, Block, StopReason, ToolResult};
use torpor_core::model::Message;
use torpor_core::outcome::{Outcome, Verdict};
use torpor_core::sandbox;

use crate::catalogue::SUBMIT_VERDICT;
use crate::compaction::weight;

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
            places: Vec::new(),
            counted: None,
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
            Body::RunStarted { prompt, model, workdir, tools, .. } => {
                self.settle(position);
                self.push(position, Message::User(prompt.clone()));
                self.stop = None;
                if mine {
                    self.started =
                        Some(Started { at, model: model.clone(), workdir: workdir.clone(), tools: tools.clone() });
                }
            }
            Body::Takeover { .. } => {}
            Body::Checkpoint { summary, keep_from, open_run } => self.shorten(summary, *keep_from, open_run.as_ref()),
            Body::ModelRequested { estimate, .. } | Body::SummaryRequested { estimate, .. } => {
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
            Body::RunEnded { outcome, .. } => {
                self.settle(position);
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
        self.started = Some(Started {
            at: open.started_at,
            model: open.model.clone(),
            workdir: open.workdir.clone(),
            tools: open.tools.clone(),
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
        let usage = Usage { input: 70, ..Usage::default() };
        let open = OpenRun {
            run: run.clone(),
            started_at: Timestamp(5),
            model: "m".into(),
            workdir: None,
            tools: vec!["bash".into()],
            spent: RunTotals { turns: 7, usage },
            refused_verdict: false,
        };
        let entry = |position: u64, body: Body| Entry {
            position: Position(position),
            at: Timestamp(0),
            epoch: Default::default(),
            body,
        };
        let tail = [
            entry(90, answered(&run, &[], StopReason::EndTurn)),
            entry(91, Body::Checkpoint { summary: "so far".into(), keep_from: Position(90), open_run: Some(open) }),
            entry(92, requested(&run)),
        ];
        let state = State::replay(run, &tail);
        assert_eq!(state.messages[0], Message::User("so far".into()));
        assert_eq!(state.messages.len(), 2);
        assert_eq!((state.spent.turns, state.spent.usage.input), (8, 70));
        assert_eq!(state.started.as_ref().map(|s| s.at), Some(Timestamp(5)), "the run has begun already");
    }

    #[test]
    fn a_cut_is_never_between_a_call_and_its_result_and_never_gains_nothing() {
        let run = RunId::generate();
        let mut log = vec![started(&run)];
        for id in ["a", "b", "c"] {
            log.extend([requested(&run), answered(&run, &[(id, "bash")], StopReason::ToolUse), ended(&run, id, None)]);
        }
        let state = fold(&run, &log);
        assert_eq!(state.messages.len(), 7);
        for keep in 0..200 {
            let Some(cut) = state.cut(keep) else { continue };
            assert!(matches!(state.messages[cut.index], Message::Assistant(_)), "keep {keep}: {}", cut.index);
            assert!(cut.index > 0);
        }
        assert_eq!(state.cut(0).map(|c| c.index), Some(5), "the latest call and its result stay");
        let only_a_summary = fold(
            &run,
            &[
                started(&run),
                requested(&run),
                answered(&run, &[], StopReason::EndTurn),
                Body::Checkpoint { summary: "s".into(), keep_from: Position(3), open_run: None },
            ],
        );
        assert!(only_a_summary.cut(0).is_none());
    }
}
