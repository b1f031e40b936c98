//! The envelope of `POST /runs`: raw JSON in, a checked [`Spec`] out, or every problem with its field's name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::gate::Rule;
use crate::id::{check_id, hex};
use crate::price::Usd;
use crate::volume::{self, Place, Task};
use crate::webhook::{Destination, Target};

mod fields;
mod files;
mod gates;
mod output;
#[cfg(test)]
mod tests;
mod webhook;

use fields::Fields;
pub use files::{MAX_INPUTS_BYTES, read_inputs};
pub use gates::{Verdict, parse_verdict, read_verdict};

/// Fields of the contract that this version does not act on yet, and what does the same for now. They are refused by
/// name: a field that is accepted and ignored would be a promise broken in silence.
const NOT_YET: [(&str, &str); 4] = [
    ("repoUrl", "check the repository out into a folder and name that with `workspaceRef`"),
    ("ref", "check it out into a folder and name that with `workspaceRef`"),
    ("problemStatement", "say it in `prompt`, with the code in the folder that `workspaceRef` names"),
    ("env_key", "commands always get a clean environment; name a folder with `workspaceRef`"),
];

/// Most JSON that `metadata` may hold; it is part of every record, so it must stay small.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// Highest limit of a run's cost, in dollars.
pub const MAX_COST_USD: u32 = 1_000_000;

/// What a run is asked to do and within which limits. Stored with the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The work.
    pub work: Work,
    /// Model to use instead of the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Provider to use instead of the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Tools that may be used; `None` means all that the work has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Calls that need approval before they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Rule>,
    /// JSON Schema of the result that the run must end with; free-form work only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Hard limits.
    #[serde(default)]
    pub budget: Budget,
    /// Directory of the sandbox to work in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_ref: Option<String>,
    /// The caller's own; never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Whom to tell when the run ends or waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Target>,
    /// Where on the shared volume the outcome goes. Of this run alone: the session's further ones do not inherit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ref: Option<Place>,
    /// The task of an inbox that this run was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

impl Spec {
    /// Everybody who is told of the run, one a channel at most.
    pub fn destinations(&self) -> impl Iterator<Item = Destination> {
        let (result, task) = (self.result_ref.clone(), self.task.clone());
        let files = (result.is_some() || task.is_some()).then_some(volume::Target { result, task });
        self.webhook.clone().map(Destination::Webhook).into_iter().chain(files.map(Destination::Files))
    }

    /// A free-form prompt with no further wishes.
    #[must_use]
    pub fn prompt(prompt: impl Into<String>) -> Self {
        Self {
            work: Work::Prompt { prompt: prompt.into() },
            model: None,
            provider: None,
            tools: None,
            approvals: Vec::new(),
            output_schema: None,
            budget: Budget::default(),
            workspace_ref: None,
            metadata: None,
            webhook: None,
            result_ref: None,
            task: None,
        }
    }
}

/// What a session's first run wished for, and its further runs keep unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wishes {
    /// See [`Spec::model`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// See [`Spec::provider`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// See [`Spec::tools`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// See [`Spec::approvals`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Rule>,
    /// See [`Spec::output_schema`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// See [`Spec::budget`].
    pub budget: Budget,
    /// See [`Spec::workspace_ref`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_ref: Option<String>,
    /// See [`Spec::webhook`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Target>,
}

impl Wishes {
    /// What goes along into another session: not a folder, which two sessions would then write to, and not an address,
    /// which is told of runs that it asked for and is shown to nobody.
    #[must_use]
    pub fn carried(self) -> Self {
        Self { workspace_ref: None, webhook: None, ..self }
    }
}

impl Spec {
    /// What further runs of the session keep of this one.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        Wishes {
            model: self.model.clone(),
            provider: self.provider.clone(),
            tools: self.tools.clone(),
            approvals: self.approvals.clone(),
            output_schema: self.output_schema.clone(),
            budget: self.budget,
            workspace_ref: self.workspace_ref.clone(),
            webhook: self.webhook.clone(),
        }
    }

    /// Takes over what this run leaves open. A model goes with its provider: naming one of the two overrides both.
    pub fn inherit(&mut self, session: &Wishes) {
        if self.model.is_none() && self.provider.is_none() {
            self.model.clone_from(&session.model);
            self.provider.clone_from(&session.provider);
        }
        self.tools = self.tools.take().or_else(|| session.tools.clone());
        // What needs approval can become more in a session, never less.
        let mine = std::mem::replace(&mut self.approvals, session.approvals.clone());
        self.approvals.extend(mine.into_iter().filter(|rule| !session.approvals.contains(rule)));
        self.output_schema = self.output_schema.take().or_else(|| session.output_schema.clone());
        self.workspace_ref = self.workspace_ref.take().or_else(|| session.workspace_ref.clone());
        self.webhook = self.webhook.take().or_else(|| session.webhook.clone());
        let (mine, theirs) = (&mut self.budget, &session.budget);
        mine.max_turns = mine.max_turns.or(theirs.max_turns);
        mine.max_tokens = mine.max_tokens.or(theirs.max_tokens);
        mine.max_seconds = mine.max_seconds.or(theirs.max_seconds);
        mine.max_cost = mine.max_cost.or(theirs.max_cost);
    }
}

/// The kinds of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Free-form.
    Prompt {
        /// The user's words.
        prompt: String,
    },
    /// Review of one finding; ends with a verdict.
    Review {
        /// What to review.
        item: Item,
    },
    /// Either of them: a file says which, when the run starts.
    Inputs {
        /// The file.
        inputs: Place,
    },
}

/// One finding to review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The caller's id; the verdict must carry it.
    pub item_id: String,
    /// The file to read.
    pub file: String,
    /// What to look for.
    pub pattern: String,
    /// A person must approve before the verdict counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_approval: bool,
}

/// Hard limits of a run. `None` means the configured default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// Tokens of all four kinds together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Seconds since the run started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
    /// Nano-dollars.
    #[serde(rename = "maxCostNanoUsd", skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Usd>,
}

/// A checked envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The session, if the caller named one.
    pub session_id: Option<String>,
    /// The tenant, if the caller named one.
    pub tenant: Option<String>,
    /// What to do.
    pub spec: Spec,
    /// Answer at once instead of waiting for the outcome.
    pub run_async: bool,
    /// Higher goes first.
    pub priority: i32,
    /// Not before this instant.
    pub not_before: Option<Timestamp>,
    /// A verdict on a gate of the run that this same envelope made.
    pub decision: Option<Verdict>,
    /// SHA-256 of the canonical body, without `decision` and `async`.
    pub body_hash: String,
}

/// One problem with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The field, with dots for nesting.
    pub field: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Everything that is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Invalid(pub Vec<Problem>);

impl Invalid {
    fn sentence(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|p| format!("`{}` {}", p.field, p.message)).collect();
        parts.join("; ")
    }
}

fn not_an_object() -> Invalid {
    Invalid(vec![Problem { field: "body".into(), message: "must be a JSON object".into() }])
}

/// Reads and checks an envelope.
///
/// # Errors
/// [`Invalid`] names every field that is wrong, unknown or missing.
pub fn parse(body: Value) -> Result<Envelope, Invalid> {
    let Value::Object(map) = body else {
        return Err(not_an_object());
    };
    let body_hash = body_hash(&map);
    let mut f = Fields::new(map, "");

    let session_id = f.id("sessionId");
    let tenant = f.id("tenant");
    let prompt = f.text("prompt");
    let item = f.object("item").map(|item| parse_item(item, &mut f));
    let inputs = files::path(&mut f, "inputsRef");
    let result = files::path(&mut f, "resultRef");
    let kind = f.text("kind");
    let model = f.text("model");
    let provider = f.text("provider");
    let tools = f.strings("tools");
    let approvals = gates::rules(&mut f);
    let decision = gates::verdict(&mut f);
    let output_schema = output::schema(&mut f, item.is_some());
    let mut budget = f.object("budget").map(|b| parse_budget(b, &mut f)).unwrap_or_default();
    let top_level_turns = f.integer("maxTurns", 1, u32::MAX.into());
    let workspace_ref = f.text("workspaceRef");
    let run_async = f.boolean("async").unwrap_or(false);
    let priority = f.signed("priority", -1000, 1000).unwrap_or(0);
    let not_before = f.timestamp("notBefore");
    let webhook = webhook::target(&mut f);
    let metadata = f.any_object("metadata");
    if metadata.as_ref().is_some_and(|m| m.to_string().len() > MAX_METADATA_BYTES) {
        f.problem("metadata", format!("must be at most {MAX_METADATA_BYTES} bytes of JSON"));
    }
    for (name, instead) in NOT_YET {
        f.refuse(name, &format!("is not supported by this version: {instead}"));
    }

    if let Some(turns) = top_level_turns {
        if budget.max_turns.is_some() {
            f.problem("maxTurns", "must not be given beside `budget.maxTurns`");
        }
        budget.max_turns = u32::try_from(turns).ok();
    }
    match kind.as_deref() {
        None => {}
        Some(_) if inputs.is_some() => f.problem("kind", "must stand in the file that `inputsRef` names, if anywhere"),
        Some("converge") if item.is_some() || !f.is_clean() => {}
        Some("converge") => f.problem("item", "is required with `kind` \"converge\""),
        Some("solve") => f.problem(
            "kind",
            "\"solve\" is not supported by this version: say the problem in `prompt`, with the code in the folder that \
             `workspaceRef` names",
        ),
        Some(_) => f.problem("kind", "must be \"converge\" (or absent)"),
    }
    let work = match inputs {
        Some(_) if prompt.is_some() || item.is_some() => {
            f.problem("inputsRef", "must not be given beside `prompt` or `item`: exactly one kind of work");
            None
        }
        Some(path) => Some(Work::Inputs { inputs: Place::new(None, path) }),
        None => work(
            &mut f,
            prompt,
            item,
            "or `item` or `inputsRef` is required: an envelope carries exactly one kind of work",
        ),
    };

    let problems = f.finish();
    match work {
        Some(work) if problems.is_empty() => Ok(Envelope {
            session_id,
            tenant,
            spec: Spec {
                work,
                model,
                provider,
                tools,
                approvals,
                output_schema,
                budget,
                workspace_ref,
                metadata,
                webhook,
                result_ref: result.map(|path| Place::new(None, path)),
                task: None,
            },
            run_async,
            priority: i32::try_from(priority).unwrap_or(0),
            not_before,
            decision,
            body_hash,
        }),
        _ => Err(Invalid(problems)),
    }
}

/// The one kind of work that stands here itself; without any, `missing` says what is wrong with `prompt`.
fn work(f: &mut Fields, prompt: Option<String>, item: Option<Option<Item>>, missing: &str) -> Option<Work> {
    match (prompt, item) {
        (Some(_), Some(_)) => {
            f.problem("prompt", "must not be given beside `item`: exactly one kind of work");
            None
        }
        (Some(prompt), None) if prompt.trim().is_empty() => {
            f.problem("prompt", "must not be blank");
            None
        }
        (Some(prompt), None) => Some(Work::Prompt { prompt }),
        (None, Some(item)) => item.map(|item| Work::Review { item }),
        (None, None) => {
            if f.is_clean() {
                f.problem("prompt", missing);
            }
            None
        }
    }
}

fn parse_item(map: Map<String, Value>, outer: &mut Fields) -> Option<Item> {
    let mut f = Fields::new(map, "item.");
    let id = f.required_text("item_id");
    let file = f.required_text("file");
    let pattern = f.required_text("pattern");
    let require_approval = f.boolean("require_approval").unwrap_or(false);
    outer.absorb(f);
    Some(Item { item_id: id?, file: file?, pattern: pattern?, require_approval })
}

fn parse_budget(map: Map<String, Value>, outer: &mut Fields) -> Budget {
    let mut f = Fields::new(map, "budget.");
    let budget = Budget {
        max_turns: f.integer("maxTurns", 1, u32::MAX.into()).and_then(|n| u32::try_from(n).ok()),
        max_tokens: f.integer("maxTokens", 1, u64::MAX),
        max_seconds: f.integer("maxSeconds", 1, 31_536_000),
        max_cost: f.dollars("maxCostUsd", MAX_COST_USD),
    };
    outer.absorb(f);
    budget
}

/// SHA-256 over the envelope with sorted keys, without nulls, `decision` and `async`.
fn body_hash(map: &Map<String, Value>) -> String {
    let kept: Map<String, Value> = map
        .iter()
        .filter(|(k, v)| !v.is_null() && !matches!(k.as_str(), "decision" | "async"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    canonical_hash(&Value::Object(kept))
}

/// SHA-256, hexadecimal, of `value` with the keys of every object sorted: equal for equal JSON however it was
/// written.
#[must_use]
pub fn canonical_hash(value: &Value) -> String {
    fn sorted(v: &Value) -> Value {
        match v {
            Value::Object(m) => {
                let mut keys: Vec<_> = m.iter().collect();
                keys.sort_by(|a, b| a.0.cmp(b.0));
                Value::Object(keys.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
            }
            Value::Array(a) => Value::Array(a.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    hex(&Sha256::digest(sorted(value).to_string().as_bytes()))
}

fn id_problem(id: &str) -> Option<String> {
    check_id(id).err().map(|e| e.to_string())
}
