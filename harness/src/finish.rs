//! How a run comes to its end by what its model did: a verdict, a result, or an answer without calls.
//!
//! Owns: what an answer without calls means, how often a result may be tried, and the one reminder that a result is due.
//! All of it is decided from the log. Must not know: which limits there are; stops and faults, which end runs elsewhere.

use torpor_core::entry::ToolEnding;
use torpor_core::envelope::Work;
use torpor_core::message::{Assistant, StopReason, ToolResult};
use torpor_core::model::Message;
use torpor_core::outcome::{FailReason, Outcome};

use crate::leaf::Leaf;
use crate::prompt;
use crate::state::Use;

/// How often a model may submit a result before the run fails.
const TRIES: u32 = 3;

/// How the line begins that tells a model what was wrong with its result.
const MISFIT: &str = "The result does not fit: ";

/// What the conversation, with no call open, has come to.
pub(crate) enum Finish {
    /// It goes on.
    Not,
    /// The model stopped too early and is told so, with this message.
    Remind(&'static str),
    /// The run ends.
    End(Outcome),
}

impl Leaf<'_> {
    /// Asked before each step, when no call is open.
    pub(crate) fn finish(&self) -> Finish {
        let state = self.state();
        if let Some(verdict) = state.verdict.clone() {
            return Finish::End(done(Some(verdict), None));
        }
        if let (Some(input), Ok(Some(output))) = (&state.submitted, &self.output) {
            // It was read before it was recorded; reading it again gives the same.
            return Finish::End(match output.read(input) {
                Ok(result) => Outcome::Done {
                    verdict: None,
                    result: Some(result),
                    response: self.words_beside_the_result(),
                    stop_reason: None,
                },
                Err(problem) => {
                    Outcome::failed(FailReason::InvalidOutput, format!("the result does not fit: {problem}"))
                }
            });
        }
        if state.submissions.refused >= TRIES {
            let problem = state.submissions.problem.as_deref().unwrap_or_default();
            let message = format!("the model submitted {TRIES} results and none fits; of the last one: {problem}");
            return Finish::End(Outcome::failed(FailReason::InvalidOutput, message));
        }
        match state.last_answer() {
            None => Finish::Not,
            Some(answer) if matches!(self.output, Ok(Some(_))) => self.without_result(answer),
            Some(answer) => Finish::End(self.spent_beyond(1).unwrap_or_else(|| self.conclude(answer))),
        }
    }

    /// What a final answer without tool calls means where none but a result may be the end.
    fn without_result(&self, answer: &Assistant) -> Finish {
        let had = &self.state().submissions;
        let why = match &had.problem {
            _ if answer.stop == StopReason::Refusal => format!("the model refused: {}", answer.text()),
            _ if !had.reminded => return Finish::Remind(prompt::RESULT_IS_DUE),
            Some(problem) => format!("the model stopped without a result that fits; of the last one: {problem}"),
            None => "the model stopped twice without submitting a result".to_owned(),
        };
        Finish::End(Outcome::failed(FailReason::InvalidOutput, why))
    }

    /// What the model said in the message that delivered the result.
    fn words_beside_the_result(&self) -> Option<String> {
        let last = self.state().messages.iter().rev().find_map(|m| match m {
            Message::Assistant(answer) => Some(answer.text()),
            _ => None,
        });
        last.filter(|text| !text.trim().is_empty())
    }

    /// Answers a call of `submit_result`. One that finished with an error was a try; one that was refused was none.
    pub(crate) fn answer_result(&self, u: &Use) -> (ToolEnding, ToolResult) {
        let refused = |text: &str| (ToolEnding::Refused, ToolResult::error(text));
        let (state, Ok(Some(output))) = (self.state(), &self.output) else {
            return refused("This run has no result to submit.");
        };
        if state.submitted.is_some() {
            return refused("A result was already recorded; the task is over.");
        }
        let tried = state.submissions.refused + 1;
        if tried > TRIES {
            return refused("No tries are left.");
        }
        match output.read(&u.input) {
            Ok(_) => (ToolEnding::Finished, ToolResult::text("Result recorded.")),
            Err(problem) => {
                let advice = match TRIES - tried {
                    0 => "No tries are left.".to_owned(),
                    left => format!(
                        "Correct it and call `submit_result` again with the whole result; {left} more {} allowed.",
                        if left == 1 { "try is" } else { "tries are" }
                    ),
                };
                (ToolEnding::Finished, ToolResult::error(format!("{MISFIT}{problem}\n{advice}")))
            }
        }
    }

    /// What a final answer without tool calls means.
    fn conclude(&self, answer: &Assistant) -> Outcome {
        if let Work::Review { item } = &self.lease.record.spec.work {
            return if self.state().refused_verdict {
                Outcome::failed(
                    FailReason::InvalidVerdict,
                    format!("the model stopped without a valid verdict for item {:?}", item.item_id),
                )
            } else {
                Outcome::failed(
                    FailReason::NoVerdict,
                    format!("the model stopped without a verdict for item {:?}", item.item_id),
                )
            };
        }
        done(None, Some(answer))
    }
}

fn done(verdict: Option<torpor_core::outcome::Verdict>, answer: Option<&Assistant>) -> Outcome {
    Outcome::Done {
        verdict,
        result: None,
        response: answer.map(Assistant::text),
        stop_reason: answer.map(|a| a.stop.as_str().to_owned()),
    }
}

/// What was wrong with a result, by what the model was told.
pub(crate) fn problem_of(told: &ToolResult) -> String {
    let text = told.as_text();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix(MISFIT).unwrap_or(line).to_owned()
}
