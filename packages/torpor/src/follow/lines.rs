//! A run as lines for a person: the model's words as they stream, one line a tool call, and what else happens.
//!
//! Owns: what each event looks like. Must not know: where events come from. On a terminal the words stream and what is
//! under way stands on a last line that is overwritten; elsewhere only whole lines are written.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;
use torpor_core::Timestamp;

use super::{Watch, calls};
use crate::ui::{self, Paint, Progress};

/// Columns of a call's line that are not its description: indent, name, outcome, time.
const BESIDE: usize = 34;
/// Narrowest description of a call.
const MIN_ABOUT: usize = 30;
/// Calls whose beginning is remembered; a message has far fewer.
const MAX_OPEN: usize = 1_000;

/// What is under way.
enum Doing {
    Waiting,
    Thinking,
    Summarising,
    Calling,
}

/// An answer that streams.
#[derive(Default)]
struct Answer {
    request: u64,
    attempt: u64,
    shown: String,
}

struct Call {
    name: String,
    about: String,
    at: Option<Timestamp>,
}

/// Writes lines.
pub(crate) struct Lines<W> {
    to: W,
    paint: Paint,
    /// Whether it is a terminal.
    live: bool,
    width: usize,
    /// Also what is of no interest to most.
    verbose: bool,
    progress: Progress,
    doing: Doing,
    since: Instant,
    answer: Option<Answer>,
    /// The last whole answer in words that was shown.
    last_words: String,
    /// Whether a verdict was the last that happened: whoever goes on then takes nothing over from anybody.
    decided: bool,
    open: BTreeMap<u64, Call>,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(to: W, paint: Paint, live: bool, verbose: bool) -> Self {
        Self {
            to,
            paint,
            live,
            width: ui::width(),
            verbose,
            progress: Progress::default(),
            doing: Doing::Waiting,
            since: Instant::now(),
            answer: None,
            last_words: String::new(),
            decided: false,
            open: BTreeMap::new(),
        }
    }

    /// Whether these are the last words that were shown.
    pub(crate) fn has_shown(&self, words: &str) -> bool {
        !words.is_empty() && self.last_words == words
    }

    /// Takes the progress away, for somebody else to write.
    pub(crate) fn pause(&mut self) {
        self.progress.clear();
    }

    fn line(&mut self, text: &str) {
        self.end_stream();
        self.progress.clear();
        let _ = writeln!(self.to, "{text}");
    }

    fn note(&mut self, text: &str) {
        let text = self.paint.dim(&format!("  {text}"));
        self.line(&text);
    }

    /// Ends the line that an unfinished answer stands on.
    fn end_stream(&mut self) {
        if let Some(answer) = self.answer.take()
            && !answer.shown.is_empty()
            && !answer.shown.ends_with('\n')
        {
            let _ = writeln!(self.to);
        }
    }

    fn begin(&mut self, doing: Doing) {
        self.doing = doing;
        self.since = Instant::now();
    }

    /// A piece of an answer.
    fn delta(&mut self, event: &Value) {
        let Some(text) = event["text"].as_str().filter(|_| self.live) else { return };
        let (request, attempt) = (event["request"].as_u64().unwrap_or(0), event["attempt"].as_u64().unwrap_or(1));
        let known = self.answer.as_ref().map(|a| (a.request, a.attempt));
        if known != Some((request, attempt)) {
            let again = known.is_some_and(|(r, _)| r == request);
            self.end_stream();
            if again {
                self.note(&format!("the answer broke off; the model is asked again (attempt {attempt})"));
            }
            self.answer = Some(Answer { request, attempt, shown: String::new() });
        }
        self.progress.clear();
        let _ = write!(self.to, "{}", ui::harmless(text));
        let _ = self.to.flush();
        if let Some(answer) = &mut self.answer {
            answer.shown.push_str(text);
        }
    }

    /// A whole answer: what of it has not streamed.
    fn answered(&mut self, event: &Value) {
        let attempts = event["attempts"].as_u64().unwrap_or(1);
        let blocks = event["message"]["blocks"].as_array().into_iter().flatten();
        let words: String = blocks.filter(|b| b["type"] == "text").filter_map(|b| b["text"].as_str()).collect();
        let streamed = self.answer.take().filter(|a| !a.shown.is_empty());
        match streamed {
            Some(answer) => match words.strip_prefix(answer.shown.as_str()) {
                Some(rest) => {
                    let end = if words.ends_with('\n') { "" } else { "\n" };
                    let _ = write!(self.to, "{}{end}", ui::harmless(rest));
                }
                // Pieces were missed, or the attempt that was heard is not the one that counts.
                None => {
                    let _ = writeln!(self.to);
                    self.note("the whole answer:");
                    self.line(ui::harmless(&words).trim_end());
                }
            },
            None => {
                if attempts > 1 {
                    self.note(&format!("the model answered at attempt {attempts}"));
                }
                if !words.trim().is_empty() {
                    self.line(ui::harmless(&words).trim_end());
                }
            }
        }
        let _ = self.to.flush();
        if !words.trim().is_empty() {
            self.last_words = words;
        }
        if event["message"]["stop"] == "max_tokens" {
            self.note("the output limit cut the answer off");
        }
    }

    fn call_begins(&mut self, event: &Value) {
        let width = self.width.saturating_sub(BESIDE).max(MIN_ABOUT);
        let about = calls::about(&event["input"], width);
        let call = Call { name: name(&event["name"]), about, at: at(event) };
        if self.open.len() < MAX_OPEN {
            self.open.insert(event["position"].as_u64().unwrap_or(0), call);
        }
        self.begin(Doing::Calling);
    }

    fn call_ends(&mut self, event: &Value) {
        let call = event["call"].as_u64().and_then(|position| self.open.remove(&position));
        let (well, words) = calls::ending(event);
        let words = ui::one_line(&words, self.width.max(MIN_ABOUT));
        let (name, about, begun) = match call {
            Some(call) => (call.name, call.about, call.at),
            None => ("call".into(), String::new(), None),
        };
        let time = begun.and_then(|begun| Some(ui::span(at(event)?.since(begun)))).unwrap_or_default();
        let outcome = if well { self.paint.good(&words) } else { self.paint.bad(&words) };
        let parts = [format!("  {}", self.paint.bold(&name)), about, self.paint.dim(&time), outcome];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.line(&parts.join("  "));
    }

    fn decided(&mut self, event: &Value) {
        let action = event["action"].as_str().unwrap_or("?");
        let by = match (event["expired"] == true, event["approver"].as_str()) {
            (true, _) => " (nobody decided in time)".to_owned(),
            (false, Some(who)) => format!(" by {}", ui::one_line(who, 60)),
            (false, None) => String::new(),
        };
        let feedback = event["feedback"].as_str().filter(|_| event["expired"] != true);
        let feedback = feedback.map(|words| format!(": {}", ui::one_line(words, self.width))).unwrap_or_default();
        let action = self.paint.status(action);
        self.line(&format!("  gate {}: {action}{by}{feedback}", event["gate"]));
    }
}

impl<W: Write> Watch for Lines<W> {
    fn event(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let decided = std::mem::replace(&mut self.decided, kind == "gate_decided");
        match kind {
            "delta" => self.delta(event),
            "run_started" => {
                let model = event["model"].as_str().unwrap_or("?");
                self.note(&format!("{} started with {}", name(&event["run"]), ui::one_line(model, 80)));
                if self.verbose {
                    let prompt = ui::harmless(event["prompt"].as_str().unwrap_or_default());
                    prompt.trim_end().lines().for_each(|line| self.line(&format!("> {line}")));
                }
                self.begin(Doing::Waiting);
            }
            "model_requested" => self.begin(Doing::Thinking),
            "model_answered" => {
                self.answered(event);
                self.begin(Doing::Waiting);
            }
            "summary_requested" => self.begin(Doing::Summarising),
            "checkpoint" => {
                self.note(&format!("compacted: what came before entry {} is now a summary", event["keepFrom"]));
                if self.verbose {
                    self.note(&ui::one_line(event["summary"].as_str().unwrap_or_default(), self.width));
                }
                self.begin(Doing::Waiting);
            }
            "tool_requested" => self.call_begins(event),
            "tool_ended" => self.call_ends(event),
            "gate_requested" => {
                let summary = ui::one_line(event["question"]["summary"].as_str().unwrap_or_default(), self.width);
                let line = format!("  gate {}: {}", event["gate"], self.paint.note(&summary));
                self.line(&line);
            }
            "gate_decided" => {
                self.decided(event);
                self.begin(Doing::Waiting);
            }
            "takeover" if decided => {}
            "takeover" => self.note("another process has taken the run over"),
            "run_ended" => {
                self.end_stream();
                self.progress.clear();
            }
            other if self.verbose => self.note(&ui::one_line(other, 60)),
            _ => {}
        }
    }

    fn tick(&mut self, status: &str) {
        // While words stream they are the progress, and the line that they stand on must stay.
        if !self.live || self.answer.as_ref().is_some_and(|a| !a.shown.is_empty()) {
            return;
        }
        let time = ui::seconds(self.since.elapsed());
        let doing = match self.doing {
            Doing::Waiting => status.to_owned(),
            Doing::Thinking => "the model is at work".to_owned(),
            Doing::Summarising => "the model sums up what came before".to_owned(),
            Doing::Calling => match self.open.values().next() {
                Some(first) if self.open.len() == 1 => format!("{}  {}", first.name, first.about),
                Some(first) => format!("{}  {}  and {} more", first.name, first.about, self.open.len() - 1),
                None => status.to_owned(),
            },
        };
        self.progress.show(&format!("  {time}  {doing}"));
    }

    fn away(&mut self, since: Duration) {
        self.end_stream();
        if self.live {
            self.progress.show(&format!("  the server is away ({}); the run is kept", ui::seconds(since)));
        }
    }
}

fn name(value: &Value) -> String {
    ui::one_line(value.as_str().unwrap_or("?"), 80)
}

fn at(event: &Value) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(event["at"].as_str()?)
}

#[cfg(test)]
mod tests;
