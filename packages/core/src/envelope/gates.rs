//! The envelope's fields about people: which calls need approval, and a verdict that travels with a repeated post.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::gate::{Action, Decision, MAX_FEEDBACK_CHARS, Rule};

/// Most rules of a run.
const MAX_RULES: usize = 100;
/// Longest pattern of a rule, in bytes.
const MAX_PATTERN_BYTES: usize = 1_000;
/// Longest name of an approver, in characters.
const MAX_APPROVER_CHARS: usize = 256;

/// A verdict in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The gate it is for; `None` means the only one that is pending.
    pub gate: Option<u64>,
    /// The verdict.
    pub decision: Decision,
}

/// Reads `approvals`.
pub(super) fn rules(f: &mut Fields) -> Vec<Rule> {
    let Some(items) = f.array("approvals") else { return Vec::new() };
    if items.len() > MAX_RULES {
        f.problem("approvals", format!("must have at most {MAX_RULES} rules, got {}", items.len()));
        return Vec::new();
    }
    let read = |(i, item): (usize, Value)| match item {
        Value::Object(map) => rule(i, map, f),
        other => {
            let got = super::fields::describe(&other);
            f.problem(&format!("approvals[{i}]"), format!("must be an object {{tool, pattern?}}, got {got}"));
            None
        }
    };
    items.into_iter().enumerate().filter_map(read).collect()
}

fn rule(i: usize, map: Map<String, Value>, outer: &mut Fields) -> Option<Rule> {
    let mut f = Fields::new(map, format!("approvals[{i}]."));
    let tool = f.required_text("tool");
    let pattern = f.text("pattern");
    if pattern.as_ref().is_some_and(|p| p.len() > MAX_PATTERN_BYTES) {
        f.problem("pattern", format!("must be at most {MAX_PATTERN_BYTES} bytes"));
    }
    outer.absorb(f);
    Some(Rule { tool: tool?, pattern })
}

/// Reads `decision`.
pub(super) fn verdict(f: &mut Fields) -> Option<Verdict> {
    let map = f.object("decision")?;
    let mut inner = Fields::new(map, "decision.");
    let verdict = whole(&mut inner);
    f.absorb(inner);
    verdict
}

/// Reads a verdict that stands by itself: `{gateId?, action, feedback?, approver?}`.
///
/// # Errors
/// [`super::Invalid`] names every field that is wrong, unknown or missing.
pub fn read_verdict(body: Value) -> Result<Verdict, super::Invalid> {
    let Value::Object(map) = body else { return Err(super::not_an_object()) };
    let mut f = Fields::new(map, "");
    let verdict = whole(&mut f);
    let problems = f.finish();
    match verdict {
        Some(verdict) if problems.is_empty() => Ok(verdict),
        _ => Err(super::Invalid(problems)),
    }
}

fn whole(inner: &mut Fields) -> Option<Verdict> {
    let gate = inner.integer("gateId", 0, u64::MAX);
    let action = inner.required_text("action").and_then(|name| {
        let action = Action::parse(&name);
        if action.is_none() {
            inner.problem("action", format!("must be approve, reject or abort, got {name:?}"));
        }
        action
    });
    let (feedback, approver) = words(inner);
    Some(Verdict { gate, decision: Decision { feedback, approver, ..Decision::new(action?) } })
}

/// Reads the body of a verdict whose action is said elsewhere.
///
/// # Errors
/// [`super::Invalid`] names every field that is wrong or unknown.
pub fn parse_verdict(body: Value, action: Action) -> Result<Verdict, super::Invalid> {
    let map = match body {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => return Err(super::not_an_object()),
    };
    let mut f = Fields::new(map, "");
    let gate = f.integer("gateId", 0, u64::MAX);
    let (feedback, approver) = words(&mut f);
    let problems = f.finish();
    if problems.is_empty() {
        Ok(Verdict { gate, decision: Decision { feedback, approver, ..Decision::new(action) } })
    } else {
        Err(super::Invalid(problems))
    }
}

fn words(f: &mut Fields) -> (Option<String>, Option<String>) {
    let feedback = f.text("feedback");
    if feedback.as_ref().is_some_and(|t| t.chars().count() > MAX_FEEDBACK_CHARS) {
        f.problem("feedback", format!("must be at most {MAX_FEEDBACK_CHARS} characters"));
    }
    let approver = f.text("approver");
    if approver.as_ref().is_some_and(|t| t.chars().count() > MAX_APPROVER_CHARS || t.chars().any(char::is_control)) {
        f.problem(
            "approver",
            format!("must be at most {MAX_APPROVER_CHARS} characters, none of them control characters"),
        );
    }
    (feedback.filter(|t| !t.trim().is_empty()), approver.filter(|t| !t.trim().is_empty()))
}
