//! Approval: which calls need a person's word before they run, what that person is asked, and what the model is told
//! of the answer.
//!
//! Decided at dispatch, from the run's rules and the log alone, so it is the same for every entrance and for every
//! brain that comes to it.

use std::path::{Component, Path, PathBuf};

use globset::GlobMatcher;
use regex::Regex;
use serde_json::Value;
use torpor_core::gate::{Action, Decision, HeldCall, Question, Rule};
use torpor_core::tool::Place;

use crate::catalogue::{self, REQUEST_APPROVAL, SUBMIT_VERDICT};

/// Memory that one compiled pattern may take, in bytes.
const PATTERN_SIZE: usize = 1 << 20;

/// Characters that mean something in regular expressions and nothing in globs.
const REGEX_ONLY: [char; 7] = ['(', ')', '|', '^', '$', '+', '\\'];
/// Most characters of a call that its summary quotes; the call itself is shown whole beside it.
const SUMMARY_CHARS: usize = 200;

/// A run's rules, compiled.
#[derive(Debug, Default)]
pub(crate) struct Policy(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    tool: String,
    pattern: Pattern,
}

#[derive(Debug)]
enum Pattern {
    Any,
    Search(Regex),
    Whole(GlobMatcher),
}

impl Policy {
    /// Compiles rules.
    ///
    /// # Errors
    /// A sentence that names the first rule that cannot be followed.
    pub(crate) fn new(rules: &[Rule]) -> Result<Self, String> {
        let compile = |(i, rule): (usize, &Rule)| compile(rule).map_err(|e| format!("[{i}] {e}"));
        rules.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this call needs approval.
    pub(crate) fn holds(&self, tool: &str, input: &Value, workdir: Option<&str>) -> bool {
        let mut named = self.0.iter().filter(|r| r.tool == "*" || r.tool == tool).peekable();
        if named.peek().is_none() {
            return false;
        }
        let subjects = subjects(tool, input, workdir);
        named.any(|r| match &r.pattern {
            Pattern::Any => true,
            Pattern::Search(regex) => subjects.iter().any(|s| regex.is_match(s)),
            Pattern::Whole(glob) => subjects.iter().any(|s| glob.is_match(s)),
        })
    }
}

fn compile(rule: &Rule) -> Result<Compiled, String> {
    let sandboxed = catalogue::find(&rule.tool).is_some_and(|k| k.tool.place() == Place::Sandbox);
    if rule.tool != "*" && !sandboxed {
        let known = catalogue::sandbox_names().join(", ");
        return Err(format!(
            "names {:?}, which is no tool of the sandbox; there are {known}, and * for all",
            rule.tool
        ));
    }
    let pattern = match rule.pattern.as_deref() {
        None | Some("*") => Pattern::Any,
        Some(text) => match regex::RegexBuilder::new(text).size_limit(PATTERN_SIZE).build() {
            Ok(regex) => Pattern::Search(regex),
            Err(regex::Error::CompiledTooBig(_)) => {
                return Err(format!("has a pattern that takes more than {PATTERN_SIZE} bytes of memory"));
            }
            // What was meant as a regular expression would, as a glob, hold nothing that anybody had in mind.
            Err(regex) if text.contains(REGEX_ONLY) => {
                return Err(format!("has the pattern {text:?}, which is no regular expression ({regex})"));
            }
            Err(regex) => {
                let glob = globset::GlobBuilder::new(text).build();
                let refused = |glob| {
                    format!(
                        "has the pattern {text:?}, which is neither a regular expression ({regex}) nor a glob ({glob})"
                    )
                };
                Pattern::Whole(glob.map_err(refused)?.compile_matcher())
            }
        },
    };
    Ok(Compiled { tool: rule.tool.clone(), pattern })
}

/// What patterns are held against: the argument that says what the call is about. Paths are also taken as they are
/// meant: without `.` and `..`, absolute and relative to the working directory, and without the `@` that the hands
/// take off where no file is called so (here nobody knows whether there is one).
fn subjects(tool: &str, input: &Value, workdir: Option<&str>) -> Vec<String> {
    let text = |name: &str| input[name].as_str().map(str::to_owned);
    if tool == "bash" {
        return text("command").into_iter().collect();
    }
    let mut subjects: Vec<String> = [text("pattern"), text("glob")].into_iter().flatten().collect();
    let path = text("path").unwrap_or_else(|| ".".to_owned());
    let mentioned = path.strip_prefix('@').map(str::to_owned);
    for path in std::iter::once(path).chain(mentioned) {
        let whole = plain(&workdir.map_or_else(PathBuf::new, PathBuf::from).join(&path));
        if let Some(Ok(within)) = workdir.map(|workdir| whole.strip_prefix(workdir)) {
            subjects.push(within.to_string_lossy().into_owned());
        }
        subjects.push(whole.to_string_lossy().into_owned());
        subjects.push(path);
    }
    subjects
}

/// A path without `.` and `..`, by its words alone.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
        plain
    })
}

/// What a person is asked about a use.
pub(crate) fn question(tool: &str, input: &Value) -> Question {
    let said = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
    if tool == REQUEST_APPROVAL {
        return Question { summary: said("summary"), proposed_action: said("proposed_action"), call: None };
    }
    let call = Some(HeldCall { tool: tool.to_owned(), input: input.clone() });
    let (summary, proposed_action) = match tool {
        SUBMIT_VERDICT => (
            format!("The verdict on {} is {}: {}", said("item_id"), said("verdict"), said("reason")),
            format!("record the verdict {}", said("verdict")),
        ),
        "bash" => (format!("A command needs approval: {}", short(&said("command"))), "run this command".to_owned()),
        _ => (format!("A call of `{tool}` needs approval: {}", short(&said("path"))), format!("run this `{tool}`")),
    };
    Question { summary, proposed_action, call }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SUMMARY_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// What the model is told of a verdict that it had asked for.
pub(crate) fn answer(decision: &Decision) -> String {
    let by = decision.approver.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let said = decision.feedback.as_deref();
    match decision.action {
        Action::Approve => {
            let said = said.map(|text| format!("\nThey say: {text}")).unwrap_or_default();
            format!("APPROVED{by}. Go on with what you proposed.{said}")
        }
        Action::Reject | Action::Abort => {
            let said = said.unwrap_or("No feedback was given.");
            format!(
                "REJECTED{by}. Do not do what you proposed.\nThey say: {said}\nRevise, and ask again if it still needs approval."
            )
        }
    }
}

/// What the model is told of a call that was not approved.
pub(crate) fn refusal(tool: &str, decision: &Decision) -> String {
    let by = decision.approver.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let said = decision.feedback.as_deref().unwrap_or("No feedback was given.");
    format!(
        "This call of `{tool}` needed approval and was REJECTED{by}; it was not run.\nThey say: {said}\nDo not try to reach the same by other means; find another way, or say that it cannot be done."
    )
}

/// What the model is told of calls that come after a question in the same message.
pub(crate) const FROZEN: &str = "Not run: it came after a request for approval in the same message. \
                                 Make the call again once you have the answer, if it still fits.";

/// What the model is told when a verdict on an item needs approval and was rejected.
pub(crate) const NOT_APPROVED: &str =
    "This verdict needed approval and did not get it. Look again, and ask with `request_approval` before you submit.";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(tool: &str, pattern: Option<&str>) -> Result<Policy, String> {
        Policy::new(&[Rule { tool: tool.into(), pattern: pattern.map(Into::into) }])
    }

    #[test]
    fn rules_hold_the_calls_they_mean() {
        for (tool, pattern, call, input, held) in [
            ("bash", Some("^git push"), "bash", json!({"command": "git push origin"}), true),
            ("bash", Some("^git push"), "bash", json!({"command": "git status"}), false),
            ("bash", Some("rm -rf"), "bash", json!({"command": "cd x && rm -rf y"}), true),
            ("bash", None, "bash", json!({"command": "true"}), true),
            ("bash", Some("*"), "bash", json!({"command": "true"}), true),
            ("bash", None, "read", json!({"path": "a"}), false),
            ("*", None, "read", json!({"path": "a"}), true),
            ("*", Some("secret"), "ls", json!({}), false),
            // Not a regular expression, so a glob over the whole.
            ("bash", Some("*deploy*"), "bash", json!({"command": "make deploy now"}), true),
            ("bash", Some("*deploy"), "bash", json!({"command": "make deploy now"}), false),
            // However a path is written, it is the file that counts.
            ("write", Some("^src/"), "write", json!({"path": "./src/../src/a.rs"}), true),
            ("write", Some("^src/"), "write", json!({"path": "/w/src/a.rs"}), true),
            ("write", Some("^src/"), "write", json!({"path": "doc/src/a.rs"}), false),
            ("read", Some("^/etc/"), "read", json!({"path": "../etc/passwd"}), true),
            ("read", Some("^/etc/"), "read", json!({"path": "@/etc/passwd"}), true),
            ("read", Some("^/etc/"), "read", json!({"path": "@../etc/passwd"}), true),
            ("write", Some("^src/"), "write", json!({"path": "@src/a.rs"}), true),
            ("write", Some("^@types/"), "write", json!({"path": "@types/a.d.ts"}), true),
            ("grep", Some("password"), "grep", json!({"pattern": "password", "path": "."}), true),
        ] {
            let policy = policy(tool, pattern).unwrap();
            assert_eq!(policy.holds(call, &input, Some("/w")), held, "{tool} {pattern:?} on {call} {input}");
        }
        let unknown = policy("write", Some("^src/")).unwrap();
        assert!(unknown.holds("write", &json!({"path": "./x/../src/a.rs"}), None), "without a working directory");
    }

    #[test]
    fn rules_that_cannot_be_followed_are_refused_by_number_and_reason() {
        assert!(policy("fly", None).unwrap_err().contains("[0] names \"fly\", which is no tool of the sandbox"));
        assert!(policy("submit_verdict", None).is_err());
        let e = policy("bash", Some("[")).unwrap_err();
        assert!(e.contains("[0] has the pattern \"[\", which is neither a regular expression"), "{e}");
        for meant_as_regex in ["git (push|fetch", "*|deploy", "(", "\\"] {
            let e = policy("bash", Some(meant_as_regex)).unwrap_err();
            assert!(e.contains("which is no regular expression"), "{meant_as_regex}: {e}");
        }
        assert!(policy("bash", Some("(a{1000}){1000}")).unwrap_err().contains("bytes of memory"));
    }

    #[test]
    fn the_exact_call_is_what_a_person_sees() {
        let input = json!({"command": "x".repeat(1000)});
        let q = question("bash", &input);
        assert!(q.summary.chars().count() < 300);
        assert_eq!(q.call.map(|c| c.input), Some(input));
        let asked = question(REQUEST_APPROVAL, &json!({"summary": "s", "proposed_action": "p"}));
        assert_eq!((asked.summary.as_str(), asked.proposed_action.as_str(), asked.call), ("s", "p", None));
    }
}
