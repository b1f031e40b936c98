//! The language of scripted answers.
//!
//! Owns: reading a script and finding the step that a request asks for. Must not know: HTTP, rendering.
//!
//! A script is steps separated by `;`. The step is found by counting the tool results after the marker: a step that
//! calls N tools has N of them. Past the end the answer is the text `done`. `step*N` repeats a step.
//!
//! | step | answer |
//! |---|---|
//! | `text`, `text=N` | the text `done`, or N bytes of text in pieces of 1 KiB |
//! | `drip=NxMS` | N pieces of text, MS milliseconds apart |
//! | `thinking` | a signed thinking block, then text |
//! | `thinking.bash=B64` | a signed thinking block, then a call of `bash` |
//! | `bash=B64` | a call of `bash` with that command |
//! | `read=B64`, `ls=B64`, `write=B64` | a call with that path; `write` writes `x` |
//! | `tool.NAME=B64` | a call of any tool with that JSON as input |
//! | `multi=B64` | several calls at once: a JSON list of `{name, input}` |
//! | `calls=N,B64` | N calls of `bash` with that command at once |
//! | `again=TIMES,N,B64` | the same to the first TIMES requests, whatever they hold, then the next step |
//! | `sameid=N,B64` | the same, all under one id |
//! | `endturn=B64` | a call of `bash`, though the turn is said to be over |
//! | `verdict` | `submit_verdict` for the `item_id="…"` of the prompt |
//! | `maxtokens=B64` | a call of `bash` that says it was stopped by the output limit |
//! | `refusal` | stopped for policy reasons, with a word of text |
//!
//! Faults: `err=CODE`, `overflow` (400, prompt too long), `leak` (401 that repeats the credential), `hang` (no
//! headers), `hangmid`, `cut`, `garbled`, `html`, `empty`, `badjson`, `truncjson=B64` (arguments end inside the
//! command), `overloaded` (error event), `nostop` (everything but what ends it), `noblocks` (an answer without
//! content), `hold=NAME` (waits until the test releases NAME, then text). `retry429=N` answers 429 with
//! `retry-after: 0` to the first N requests, `retry.FAULT=N` the fault (`retry.cut=2`, `retry.err503=1`); then the
//! next step is played.
//!
//! Settings, anywhere in the script: `delay=MS` before each answer, `usage=IN,OUT` tokens per answer, `tag=ANY` to
//! tell scripts apart that count retries, `json` to answer in one piece though a stream was asked for. B64 is base64url without padding.

use std::time::Duration;

use serde_json::{Value, json};

/// More steps than any test needs; a script is input like any other.
const MAX_STEPS: usize = 100_000;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Tool name.
    pub name: String,
    /// Its input; `Null` for `submit_verdict`, which is filled in from the prompt.
    pub input: Value,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Text of so many bytes; 0 stands for `done`.
    Text(usize),
    /// Pieces of text with a pause between them.
    Drip(usize, Duration),
    /// A thinking block, then text or the call.
    Thinking(Option<ToolCall>),
    /// Calls of tools.
    Tools(Vec<ToolCall>),
    /// Calls, to so many requests.
    Again(Vec<ToolCall>, u64),
    /// Calls that all have one id.
    SameId(Vec<ToolCall>),
    /// A call in an answer that says it was the last.
    EndTurn(ToolCall),
    /// A call that the output limit struck after its end.
    MaxTokens(ToolCall),
    /// A refusal.
    Refusal,
    /// Waits for a release.
    Hold(String),
    /// Something goes wrong.
    Fault(Fault),
    /// The fault for so many requests, then the next step.
    Retry(Fault, u64),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named as in the table above
pub enum Fault {
    Status(u16),
    /// 429 with `retry-after: 0`.
    RateLimited,
    Overflow,
    Leak,
    Hang,
    HangMid,
    Cut,
    Garbled,
    Html,
    Empty,
    BadJson,
    TruncatedJson(String),
    Overloaded,
    NoStop,
    NoBlocks,
}

/// A script that has been read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    steps: Vec<Step>,
    /// Its own delay, if it has one.
    pub delay: Option<Duration>,
    /// Tokens to report: input, output.
    pub usage: Option<(u64, u64)>,
    /// Never streams.
    pub json: bool,
}

impl Script {
    /// Reads a script. What it does not understand is played as the text `done`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut script = Self::default();
        for part in text.split(';').filter(|p| !p.is_empty()) {
            let (head, value) = part.split_once('=').unwrap_or((part, ""));
            let (kind, times) = match head.split_once('*') {
                Some((kind, n)) => (kind, n.parse().unwrap_or(1)),
                None => (head, 1),
            };
            match kind {
                "delay" => script.delay = value.parse().ok().map(Duration::from_millis),
                "usage" => {
                    script.usage = value.split_once(',').and_then(|(i, o)| Some((i.parse().ok()?, o.parse().ok()?)));
                }
                "tag" => {}
                "json" => script.json = true,
                _ => {
                    let room = MAX_STEPS.saturating_sub(script.steps.len());
                    let step = step(kind, value);
                    script.steps.extend(std::iter::repeat_n(step, times.min(room)));
                }
            }
        }
        script
    }

    /// The step to play after `results` tool results. `failed` is asked, with a step's index, how often it has
    /// already been played as a failure, and counts the new one.
    pub fn step(&self, results: usize, mut failed: impl FnMut(usize) -> u64) -> Step {
        let mut before = 0;
        for (i, step) in self.steps.iter().enumerate() {
            if let Step::Again(calls, times) = step {
                if failed(i) < *times {
                    return Step::Tools(calls.clone());
                }
                return self.steps.get(i + 1).cloned().unwrap_or(Step::Text(0));
            }
            if before >= results {
                match step {
                    Step::Retry(fault, times) if failed(i) < *times => return Step::Fault(fault.clone()),
                    Step::Retry(..) => {}
                    step => return step.clone(),
                }
            }
            before += match step {
                Step::Tools(calls) | Step::SameId(calls) => calls.len(),
                Step::Thinking(Some(_)) | Step::MaxTokens(_) | Step::EndTurn(_) => 1,
                _ => 0,
            };
        }
        Step::Text(0)
    }
}

fn step(kind: &str, value: &str) -> Step {
    let decoded = || base64url(value).unwrap_or_default();
    let path = |more: Value| {
        let mut input = json!({"path": decoded()});
        if let (Value::Object(input), Value::Object(more)) = (&mut input, more) {
            input.extend(more);
        }
        Step::Tools(vec![ToolCall { name: kind.into(), input }])
    };
    let bash = || ToolCall { name: "bash".into(), input: json!({"command": decoded()}) };
    let many = |value: &str| {
        let (n, command) = value.split_once(',').unwrap_or(("1", value));
        let input = json!({"command": base64url(command).unwrap_or_default()});
        vec![ToolCall { name: "bash".into(), input }; n.parse().unwrap_or(1).min(MAX_STEPS)]
    };
    match kind {
        "text" => Step::Text(value.parse().unwrap_or(0)),
        "drip" => {
            let (n, ms) = value.split_once('x').unwrap_or((value, "10"));
            Step::Drip(n.parse().unwrap_or(1), Duration::from_millis(ms.parse().unwrap_or(10)))
        }
        "thinking" => Step::Thinking(None),
        "thinking.bash" => Step::Thinking(Some(bash())),
        "bash" => Step::Tools(vec![bash()]),
        "calls" => Step::Tools(many(value)),
        "again" => {
            let (times, calls) = value.split_once(',').unwrap_or(("1", value));
            Step::Again(many(calls), times.parse().unwrap_or(1))
        }
        "sameid" => Step::SameId(many(value)),
        "endturn" => Step::EndTurn(bash()),
        "maxtokens" => Step::MaxTokens(bash()),
        "read" | "ls" => path(json!({})),
        "write" => path(json!({"content": "x"})),
        "verdict" => Step::Tools(vec![ToolCall { name: "submit_verdict".into(), input: Value::Null }]),
        "multi" => {
            let list: Vec<Value> = serde_json::from_str(&decoded()).unwrap_or_default();
            let call = |v: &Value| ToolCall {
                name: v["name"].as_str().unwrap_or_default().into(),
                input: v.get("input").cloned().unwrap_or_else(|| json!({})),
            };
            Step::Tools(list.iter().map(call).collect())
        }
        "refusal" => Step::Refusal,
        "hold" => Step::Hold(value.into()),
        "retry429" => Step::Retry(Fault::RateLimited, value.parse().unwrap_or(1)),
        _ => {
            if let Some(name) = kind.strip_prefix("tool.") {
                let input = serde_json::from_str(&decoded()).unwrap_or_else(|_| json!({}));
                return Step::Tools(vec![ToolCall { name: name.into(), input }]);
            }
            if let Some(fault) = kind.strip_prefix("retry.").and_then(|kind| fault(kind, "")) {
                return Step::Retry(fault, value.parse().unwrap_or(1));
            }
            fault(kind, value).map_or(Step::Text(0), Step::Fault)
        }
    }
}

fn fault(kind: &str, value: &str) -> Option<Fault> {
    Some(match kind {
        "hang" => Fault::Hang,
        "hangmid" => Fault::HangMid,
        "cut" => Fault::Cut,
        "garbled" => Fault::Garbled,
        "html" => Fault::Html,
        "empty" => Fault::Empty,
        "badjson" => Fault::BadJson,
        "truncjson" => Fault::TruncatedJson(base64url(value).unwrap_or_default()),
        "overloaded" => Fault::Overloaded,
        "overflow" => Fault::Overflow,
        "leak" => Fault::Leak,
        "nostop" => Fault::NoStop,
        "noblocks" => Fault::NoBlocks,
        "err" => Fault::Status(value.parse().unwrap_or(500)),
        _ => Fault::Status(kind.strip_prefix("err")?.parse().ok()?),
    })
}

/// Encodes text for a script.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(n >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(text: &str) -> Option<String> {
    let (mut bits, mut n, mut out) = (0u32, 0, Vec::with_capacity(text.len()));
    for b in text.bytes().filter(|b| *b != b'=') {
        let six = ALPHABET.iter().position(|a| *a == b)?;
        bits = bits << 6 | u32::try_from(six).ok()?;
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n & 0xff) as u8);
        }
    }
    String::from_utf8(out).ok()
}

/// What a request body says about its script.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The script of the last marker, if there is one.
    pub(crate) script: Option<&'a str>,
    /// Tool results after that marker, or in the whole body without one.
    pub(crate) results: usize,
}

/// Looks for the marker. `result` is what stands in the body once for each tool result.
pub(crate) fn find<'a>(body: &'a [u8], result: &str) -> Found<'a> {
    let marked = memchr::memmem::rfind(body, b"[[s:").and_then(|at| {
        let rest = &body[at + 4..];
        let end = memchr::memmem::find(rest, b"]]")?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end..]))
    });
    let (script, after) = marked.map_or((None, body), |(script, after)| (Some(script), after));
    Found { script, results: memchr::memmem::find_iter(after, result.as_bytes()).count() }
}

/// The last `item_id="…"` of a request body, in which the quotes are escaped.
pub(crate) fn item_id(body: &[u8]) -> Option<String> {
    memchr::memmem::rfind_iter(body, b"item_id=").find_map(|at| {
        let rest = &body[at + 8..];
        let rest = rest.strip_prefix(b"\\").unwrap_or(rest).strip_prefix(b"\"")?;
        let end = memchr::memchr2(b'"', b'\\', rest).filter(|end| *end > 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    })
}
