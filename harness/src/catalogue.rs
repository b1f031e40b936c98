//! The tools as the model sees them: names, descriptions, schemas, and the session tools.
//!
//! The sandbox tools have no code here: the hands run them by name. What the texts promise (limits, notices) is
//! what `torpor-tools` does.

use std::sync::LazyLock;

use serde_json::{Value, json};
use torpor_core::envelope::{self, Work};
use torpor_core::message::ToolResult;
use torpor_core::outcome::Verdict;
use torpor_core::tool::{Place, SessionEffect, Spec, Tool};

/// The name of the tool that ends a review.
pub(crate) const SUBMIT_VERDICT: &str = "submit_verdict";

/// The name of the tool that ends work with an output schema.
pub(crate) const SUBMIT_RESULT: &str = "submit_result";

/// The name of the tool that asks a person.
pub(crate) const REQUEST_APPROVAL: &str = "request_approval";

/// Tools that change files by themselves: they wait for the calls before them and hold those after them.
pub(crate) fn is_barrier(name: &str) -> bool {
    matches!(name, "write" | "edit")
}

/// One entry of the catalogue, with its compiled schema.
pub(crate) struct Known {
    pub(crate) tool: Box<dyn Tool>,
    validator: Option<jsonschema::Validator>,
}

impl Known {
    fn new(tool: impl Tool) -> Self {
        // The schemas are constants of this file; a test compiles them all.
        let validator = jsonschema::validator_for(&tool.spec().schema).ok();
        Self { tool: Box::new(tool), validator }
    }

    /// Checks arguments; the error is for the model and says what was expected.
    pub(crate) fn check(&self, input: &Value) -> Result<(), String> {
        let spec = self.tool.spec();
        let Some(validator) = &self.validator else {
            return Err(format!("The schema of `{}` could not be compiled.", spec.name));
        };
        let problems: Vec<String> = validator
            .iter_errors(input)
            .take(5)
            .map(|e| {
                let at = e.instance_path().to_string();
                if at.is_empty() { e.to_string() } else { format!("`{}`: {e}", at.trim_start_matches('/')) }
            })
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(format!(
            "Invalid arguments for `{}`: {}. Nothing was run. Expected arguments: {}",
            spec.name,
            problems.join("; "),
            spec.schema["properties"]
        ))
    }
}

/// A tool that has no code here: what it does is done elsewhere.
struct Elsewhere {
    spec: Spec,
    place: Place,
    /// Who does it.
    whose: &'static str,
}

impl Tool for Elsewhere {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn place(&self) -> Place {
        self.place
    }

    fn run_session(&self, _input: &Value) -> SessionEffect {
        SessionEffect { result: ToolResult::error(self.whose), verdict: None }
    }
}

struct SubmitVerdict(Spec);

impl Tool for SubmitVerdict {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn place(&self) -> Place {
        Place::Session
    }

    fn run_session(&self, input: &Value) -> SessionEffect {
        match serde_json::from_value::<Verdict>(input.clone()) {
            Ok(verdict) => SessionEffect { result: ToolResult::text("Verdict recorded."), verdict: Some(verdict) },
            Err(e) => SessionEffect { result: ToolResult::error(format!("Not a verdict: {e}.")), verdict: None },
        }
    }
}

static CATALOGUE: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let elsewhere = |place, whose, spec| Known::new(Elsewhere { spec, place, whose });
    let sandboxed = |spec| elsewhere(Place::Sandbox, "This tool runs in the sandbox.", spec);
    let mut all: Vec<Known> = sandbox_specs().into_iter().map(sandboxed).collect();
    all.push(elsewhere(Place::Person, "A person answers this.", Spec {
        name: REQUEST_APPROVAL,
        description: "Ask a person for approval before you do something that needs it: because you were told to ask, \
                      or because it is destructive, cannot be undone or reaches others. Nothing else runs until they \
                      have answered, which may take days. Make it the last call of your message.",
        schema: object(
            &["summary", "proposed_action"],
            json!({
                "summary": {"type": "string", "minLength": 1,
                    "description": "What a person must know to decide, in a few sentences."},
                "proposed_action": {"type": "string", "minLength": 1,
                    "description": "What exactly you will do if they approve."},
            }),
        ),
    }));
    all.push(Known::new(SubmitVerdict(Spec {
        name: SUBMIT_VERDICT,
        description: "Deliver your verdict on the item under review. Call it exactly once, when you have read \
                      enough to be sure; it ends the review. `item_id` must be the id of the item you were given.",
        schema: object(
            &["item_id", "verdict", "reason"],
            json!({
                "item_id": {"type": "string", "minLength": 1, "description": "The id of the item under review, as given."},
                "verdict": {"type": "string", "enum": ["FLAGGED", "CLEAR"],
                    "description": "FLAGGED if the pattern is present and relevant, CLEAR if it is not."},
                "reason": {"type": "string", "description": "One or two sentences that a person can check: where you looked and what you saw."},
            }),
        ),
    })));
    all.push(elsewhere(Place::Session, "The schema of the run decides about this.", Spec {
        name: SUBMIT_RESULT,
        description: "Deliver the result of the task, as `result`, in exactly the form that the schema asks for. Call \
                      it once, when everything else is done; it ends the task. If the result does not fit, the answer \
                      says where and what was expected: correct it and call this again.",
        // Each run puts its own schema in the place of this property's.
        schema: object(&["result"], json!({"result": {"description": "The whole result."}})),
    }));
    all
});

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn sandbox_specs() -> Vec<Spec> {
    let path_of = |what: &str| json!({"type": "string", "minLength": 1, "description": format!("{what} Relative to the working directory, or absolute.")});
    let search_path =
        || json!({"type": "string", "description": "Directory or file to search. Default: the working directory."});
    vec![
        Spec {
            name: "read",
            description: "Read a file. Of a text file it shows at most 2,000 lines or 50 KiB, whichever comes first; when \
                          there is more, the answer ends with the `offset` to go on from. Prefer this over `cat` or \
                          `sed`. A PNG, JPEG, GIF or WebP picture is shown as a picture, if you can see pictures.",
            schema: object(
                &["path"],
                json!({
                    "path": path_of("File to read."),
                    "offset": {"type": "integer", "minimum": 1, "description": "Line to start at, counted from 1."},
                    "limit": {"type": "integer", "minimum": 1, "description": "How many lines to show at most."},
                }),
            ),
        },
        Spec {
            name: "bash",
            description: "Run a command with bash in the working directory. Standard output and error come back \
                          together, in order; of long output you see the last 2,000 lines or 50 KiB, and the answer \
                          names the file that holds the rest. Each call is a fresh shell: `cd` and variables do not \
                          carry over. There is no standard input. Without `timeout` a command is ended after 600 \
                          seconds. A command that should outlive the call must be put in the background with its \
                          output redirected.",
            schema: object(
                &["command"],
                json!({
                    "command": {"type": "string", "minLength": 1, "description": "The command line."},
                    "timeout": {"type": "integer", "minimum": 1, "maximum": 86400,
                        "description": "Seconds after which the command and everything it started is ended."},
                }),
            ),
        },
        Spec {
            name: "edit",
            description: "Change parts of a file by exact replacement. Each `oldText` must occur exactly once in the \
                          file as it is now (include enough surrounding lines to make it unique); all replacements of \
                          one call are matched against the original and must not overlap. Read the file first. The \
                          answer shows the change as a diff.",
            // Lenient where models are known to differ: one pair at the top level, or the list as a JSON string.
            schema: object(
                &["path"],
                json!({
                    "path": path_of("File to change."),
                    "edits": {"anyOf": [
                        {"type": "array", "minItems": 1, "items": object(&["oldText", "newText"], json!({
                            "oldText": {"type": "string", "minLength": 1, "description": "Text to replace, exactly as it stands in the file."},
                            "newText": {"type": "string", "description": "Text to put in its place."},
                        }))},
                        {"type": "string"},
                    ], "description": "The replacements."},
                    "oldText": {"type": "string", "description": "Instead of `edits`, for a single replacement."},
                    "newText": {"type": "string", "description": "Goes with `oldText`."},
                }),
            ),
        },
        Spec {
            name: "write",
            description: "Write a whole file, creating it and its folders or replacing what was there. The file is \
                          replaced in one step: nobody sees half of it. For changes to an existing file prefer `edit`.",
            schema: object(
                &["path", "content"],
                json!({
                    "path": path_of("File to write."),
                    "content": {"type": "string", "description": "The whole content."},
                }),
            ),
        },
        Spec {
            name: "grep",
            description: "Search file contents with a regular expression (ripgrep's syntax). Honours .gitignore, \
                          includes hidden files, skips binary ones. Answers `path:line: text` with paths that `read` \
                          takes, at most 100 matches unless `limit` says otherwise; lines are cut at 500 characters.",
            schema: object(
                &["pattern"],
                json!({
                    "pattern": {"type": "string", "minLength": 1, "description": "Regular expression, or plain text with `literal`."},
                    "path": search_path(),
                    "glob": {"type": "string", "description": "Only files that match, for instance `*.rs` or `src/**/*.ts`."},
                    "ignoreCase": {"type": "boolean", "description": "Ignore upper and lower case."},
                    "literal": {"type": "boolean", "description": "Take the pattern as plain text."},
                    "context": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Lines to show before and after each match."},
                    "limit": {"type": "integer", "minimum": 1, "description": "Matches to show at most. Default 100."},
                }),
            ),
        },
        Spec {
            name: "find",
            description: "Find files and folders by name with a glob: without `/` it matches names, with `/` paths. \
                          Honours .gitignore, includes hidden files. Answers paths that `read` takes, at most 1,000 \
                          unless `limit` says otherwise.",
            schema: object(
                &["pattern"],
                json!({
                    "pattern": {"type": "string", "minLength": 1, "description": "Glob, for instance `*.toml` or `**/tests/*.py`."},
                    "path": search_path(),
                    "limit": {"type": "integer", "minimum": 1, "description": "Paths to show at most. Default 1000."},
                }),
            ),
        },
        Spec {
            name: "ls",
            description: "List a directory, dotfiles included, folders with a trailing `/`; at most 500 entries \
                          unless `limit` says otherwise.",
            schema: object(
                &[],
                json!({
                    "path": {"type": "string", "description": "Directory to list. Default: the working directory."},
                    "limit": {"type": "integer", "minimum": 1, "description": "Entries to show at most. Default 500."},
                }),
            ),
        },
    ]
}

/// The tool with this name.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    CATALOGUE.iter().find(|k| k.tool.spec().name == name)
}

/// The names of the tools that run in the sandbox.
pub(crate) fn sandbox_names() -> Vec<&'static str> {
    CATALOGUE.iter().filter(|k| k.tool.place() == Place::Sandbox).map(|k| k.tool.spec().name).collect()
}

/// What a run's model is offered, in catalogue order.
pub(crate) fn offered(sandbox: bool, spec: &envelope::Spec) -> Vec<&'static Known> {
    let allowed = |k: &Known| spec.tools.as_ref().is_none_or(|a| a.iter().any(|n| n == k.tool.spec().name));
    let (review, must_ask) = match &spec.work {
        Work::Review { item } => (true, item.require_approval),
        Work::Prompt { .. } | Work::Inputs { .. } => (false, false),
    };
    CATALOGUE
        .iter()
        .filter(|k| match k.tool.place() {
            // Work that ends with a call always has that call.
            Place::Session if k.tool.spec().name == SUBMIT_RESULT => spec.output_schema.is_some(),
            Place::Session => review,
            Place::Sandbox => sandbox && allowed(k),
            Place::Person => must_ask || allowed(k),
        })
        .collect()
}

/// An allow-list that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("names {unknown:?}, which is not a tool; there are {}", .known.join(", "))]
pub(crate) struct Invalid {
    unknown: String,
    known: Vec<&'static str>,
}

/// Checks an allow-list.
///
/// # Errors
/// [`Invalid`] names the first entry that is no tool.
pub(crate) fn check_names(allow: &[String]) -> Result<(), Invalid> {
    match allow.iter().find(|n| find(n).is_none()) {
        None => Ok(()),
        Some(n) => Err(Invalid { unknown: n.clone(), known: CATALOGUE.iter().map(|k| k.tool.spec().name).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use torpor_core::envelope::Item;

    use super::*;

    #[test]
    fn every_schema_compiles_and_refuses_unknown_arguments() {
        for k in CATALOGUE.iter() {
            torpor_testkit::conformance::small::check_tool(&*k.tool, &json!({}));
            assert!(k.validator.is_some(), "{}", k.tool.spec().name);
            assert!(k.check(&json!({"no_such_argument": 1})).is_err(), "{}", k.tool.spec().name);
        }
    }

    #[test]
    fn errors_name_the_argument_and_what_was_expected() {
        let bash = find("bash").unwrap();
        assert_eq!(bash.check(&json!({"command": "true", "timeout": 3})), Ok(()));
        let e = bash.check(&json!({"command": "true", "timeout": "3"})).unwrap_err();
        assert!(e.starts_with("Invalid arguments for `bash`: `timeout`: \"3\" is not of type \"integer\""), "{e}");
        let e = bash.check(&json!({})).unwrap_err();
        assert!(e.contains("\"command\" is a required property"), "{e}");
    }

    #[test]
    fn offers_follow_the_work_the_sandbox_and_the_allow_list() {
        let names = |sandbox: bool, review: Option<bool>, allow: Option<&[&str]>| {
            let work = match review {
                Some(require_approval) => Work::Review {
                    item: Item { item_id: "i".into(), file: "f".into(), pattern: "p".into(), require_approval },
                },
                None => Work::Prompt { prompt: "p".into() },
            };
            let tools = allow.map(|a| a.iter().map(|n| (*n).to_owned()).collect());
            let spec = envelope::Spec { work, tools, ..envelope::Spec::prompt("") };
            offered(sandbox, &spec).iter().map(|k| k.tool.spec().name).collect::<Vec<_>>()
        };
        assert_eq!(names(false, None, None), ["request_approval"]);
        assert_eq!(names(false, None, Some(&["bash"])), Vec::<&str>::new());
        assert_eq!(names(false, Some(false), None), ["request_approval", "submit_verdict"]);
        assert_eq!(names(true, Some(false), Some(&["ls", "read"])), ["read", "ls", "submit_verdict"]);
        assert_eq!(names(true, Some(true), Some(&["read"])), ["read", "request_approval", "submit_verdict"]);
        assert_eq!(names(true, None, None).len(), 8);
        let output_schema = Some(json!({"type": "object"}));
        let spec = envelope::Spec { output_schema, tools: Some(vec![]), ..envelope::Spec::prompt("p") };
        let offer: Vec<_> = offered(true, &spec).iter().map(|k| k.tool.spec().name).collect();
        assert_eq!(offer, [SUBMIT_RESULT]);
        assert_eq!(check_names(&["bash".into(), "fly".into()]).unwrap_err().unknown, "fly");
    }
}
