//! The script file: its format, and what is wrong with one that does not keep to it.
//!
//! Owns: reading and checking. Must not know: where the bytes come from, how a turn is played.
//! Every complaint names the element by its path, such as `scripts[0].turns[2].tools[0].inptu`.

use std::time::Duration;

use serde_json::{Map, Value};
use torpor_core::message::{StopReason, Usage};

/// The longest delay and the longest wait a script can ask for, in milliseconds: a day.
const MAX_WAIT_MS: u64 = 86_400_000;

/// All scripts of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scripts(Vec<Script>);

#[derive(Debug, Clone, PartialEq)]
struct Script {
    when: Option<String>,
    turns: Vec<Turn>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) text: Option<String>,
    pub(super) thinking: Option<String>,
    pub(super) tools: Vec<Tool>,
    pub(super) delay: Duration,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<Failure>,
    pub(super) stop: StopReason,
}

/// One tool call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) input: Value,
}

/// A failure in place of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) overflow: bool,
}

/// What is wrong with a script file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Invalid {
    /// Which element, as a path from the top; `file` for the file as a whole.
    pub path: String,
    /// What is wrong with it and what was expected.
    pub problem: String,
}

/// Checks the text of a script file without playing it.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(text: &[u8]) -> Result<(), Invalid> {
    Scripts::parse(text).map(drop)
}

impl Scripts {
    /// Reads a file.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Invalid> {
        let value: Value = serde_json::from_slice(text).map_err(|e| invalid("file", format!("no valid JSON: {e}")))?;
        let mut top = Fields::new(String::new(), value)?;
        let scripts = top.list("scripts", Script::parse)?.ok_or_else(|| invalid("scripts", "missing"))?;
        top.end(&["scripts"])?;
        Ok(Self(scripts))
    }

    /// The turn at `step` of the first script that is for this prompt; `None` past its end or without such a script.
    pub(super) fn turn(&self, prompt: &str, step: usize) -> Option<&Turn> {
        let fits = |s: &&Script| s.when.as_ref().is_none_or(|w| prompt.contains(w.as_str()));
        self.0.iter().find(fits)?.turns.get(step)
    }
}

impl Script {
    fn parse(path: String, value: Value) -> Result<Self, Invalid> {
        let mut fields = Fields::new(path, value)?;
        let when = fields.string("when")?;
        let turns = fields.list("turns", Turn::parse)?;
        let turns = turns.ok_or_else(|| invalid(fields.at("turns"), "missing"))?;
        fields.end(&["when", "turns"])?;
        Ok(Self { when, turns })
    }
}

impl Turn {
    fn parse(path: String, value: Value) -> Result<Self, Invalid> {
        let mut fields = Fields::new(path, value)?;
        let text = fields.string("text")?;
        let thinking = fields.string("thinking")?;
        let tools = fields.list("tools", Tool::parse)?.unwrap_or_default();
        let delay = fields.millis("delayMs")?.unwrap_or_default();
        let usage = fields.take("usage").map(|v| parse_usage(fields.at("usage"), v)).transpose()?;
        let error = fields.take("error").map(|v| Failure::parse(fields.at("error"), v)).transpose()?;
        let stop = fields.string("stop")?;
        fields.end(&["text", "thinking", "tools", "delayMs", "usage", "error", "stop"])?;
        let stop = match stop.as_deref() {
            None if tools.is_empty() => StopReason::EndTurn,
            None | Some("tool_use") if !tools.is_empty() => StopReason::ToolUse,
            Some("end_turn") if tools.is_empty() => StopReason::EndTurn,
            Some("max_tokens") => StopReason::MaxTokens,
            Some("refusal") => StopReason::Refusal,
            _ => {
                let expected =
                    "expected \"max_tokens\", \"refusal\", \"tool_use\" (with tools) or \"end_turn\" (without)";
                return Err(invalid(fields.at("stop"), expected));
            }
        };
        let empty = text.is_none() && thinking.is_none() && tools.is_empty();
        if empty != error.is_some() {
            let problem = "expected either `error` or some of `text`, `thinking` and `tools`";
            return Err(invalid(fields.path, problem));
        }
        Ok(Self { text, thinking, tools, delay, usage, error, stop })
    }
}

impl Tool {
    fn parse(path: String, value: Value) -> Result<Self, Invalid> {
        let mut fields = Fields::new(path, value)?;
        let name = fields.string("name")?.filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| invalid(fields.at("name"), "missing or empty"))?;
        let input = fields.take("input").unwrap_or_else(|| Value::Object(Map::new()));
        if !input.is_object() {
            return Err(invalid(fields.at("input"), "expected an object"));
        }
        fields.end(&["name", "input"])?;
        Ok(Self { name, input })
    }
}

impl Failure {
    fn parse(path: String, value: Value) -> Result<Self, Invalid> {
        let mut fields = Fields::new(path, value)?;
        let status = fields.number("status")?.and_then(|n| u16::try_from(n).ok()).filter(|s| (400..600).contains(s));
        let status = status.ok_or_else(|| invalid(fields.at("status"), "expected a number from 400 to 599"))?;
        let message = fields.string("message")?.unwrap_or_else(|| "scripted error".into());
        let retry_after = fields.millis("retryAfterMs")?;
        let overflow = match fields.take("overflow") {
            None => false,
            Some(Value::Bool(b)) => b,
            Some(_) => return Err(invalid(fields.at("overflow"), "expected true or false")),
        };
        fields.end(&["status", "message", "retryAfterMs", "overflow"])?;
        Ok(Self { status, message, retry_after, overflow })
    }
}

fn parse_usage(path: String, value: Value) -> Result<Usage, Invalid> {
    let mut fields = Fields::new(path, value)?;
    let usage = Usage {
        input: fields.number("input")?.unwrap_or(0),
        output: fields.number("output")?.unwrap_or(0),
        cache_read: fields.number("cacheRead")?.unwrap_or(0),
        cache_write: fields.number("cacheWrite")?.unwrap_or(0),
    };
    fields.end(&["input", "output", "cacheRead", "cacheWrite"])?;
    Ok(usage)
}

/// The fields of one object, taken out one by one; what is left at the end is unknown.
struct Fields {
    path: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn new(path: String, value: Value) -> Result<Self, Invalid> {
        match value {
            Value::Object(rest) => Ok(Self { path, rest }),
            _ if path.is_empty() => Err(invalid("file", "expected an object with a list `scripts`")),
            _ => Err(invalid(path, "expected an object")),
        }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.rest.remove(key)
    }

    fn string(&mut self, key: &str) -> Result<Option<String>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(invalid(self.at(key), "expected a string")),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, Invalid> {
        match self.take(key).map(|v| v.as_u64()) {
            None => Ok(None),
            Some(Some(n)) => Ok(Some(n)),
            Some(None) => Err(invalid(self.at(key), "expected a whole number that is not negative")),
        }
    }

    fn millis(&mut self, key: &str) -> Result<Option<Duration>, Invalid> {
        match self.number(key)? {
            Some(ms) if ms > MAX_WAIT_MS => {
                Err(invalid(self.at(key), format!("expected at most {MAX_WAIT_MS} milliseconds")))
            }
            ms => Ok(ms.map(Duration::from_millis)),
        }
    }

    fn list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(String, Value) -> Result<T, Invalid>,
    ) -> Result<Option<Vec<T>>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let item = |(i, v)| parse(format!("{}[{i}]", self.at(key)), v);
                items.into_iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(invalid(self.at(key), "expected a list")),
        }
    }

    fn end(&self, known: &[&str]) -> Result<(), Invalid> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(key) => Err(invalid(self.at(key), format!("unknown key; known are: {}", known.join(", ")))),
        }
    }
}

fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid { path: path.into(), problem: problem.into() }
}
