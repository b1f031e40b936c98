//! What the demo plays with: a small project, and a script for the model.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// How many files are reviewed at once, and which of them hold what is looked for.
const PARTS: usize = 20;
const WITH_MARK: [usize; 3] = [3, 11, 17];
/// Seconds that the slow command takes.
const SLOW_SECONDS: u32 = 3;

pub(super) struct Stage {
    dir: PathBuf,
    real_model: bool,
}

impl Stage {
    /// Writes everything into `dir`, or into a new folder.
    pub(super) fn set(dir: Option<&Path>, real_model: bool) -> io::Result<Self> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => std::env::temp_dir().join(format!("torpor-demo-{}", std::process::id())),
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let stage = Self { dir: fs::canonicalize(dir)?, real_model };
        fs::create_dir_all(stage.project().join("parts"))?;
        fs::write(stage.project().join("admin.py"), ADMIN)?;
        for n in 1..=PARTS {
            let mark = if WITH_MARK.contains(&n) { "\n# FIXME: handle the empty case" } else { "" };
            let text = format!("def part_{n:02}(xs):\n    return sum(xs) / len(xs){mark}\n");
            fs::write(stage.project().join(part(n)), text)?;
        }
        let _ = fs::remove_file(stage.ledger());
        fs::write(stage.script(), format!("{:#}\n", script()))?;
        Ok(stage)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.data().join("store.db")
    }

    pub(super) fn project(&self) -> PathBuf {
        self.dir.join("project")
    }

    pub(super) fn server_log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.project().join("ledger.txt")
    }

    pub(super) fn ledger_text(&self) -> String {
        fs::read_to_string(self.ledger()).unwrap_or_default()
    }

    fn script(&self) -> PathBuf {
        self.dir.join("model.json")
    }

    /// The model to configure; `None` leaves the environment's.
    pub(super) fn model(&self) -> Option<String> {
        (!self.real_model).then(|| format!("scripted:{}", self.script().display()))
    }

    /// Session ids carry the demo's process id, so that a second demo in one folder makes new runs.
    fn envelope(&self, id: &str, work: (&str, Value)) -> Value {
        let session = format!("demo-{}/{id}", std::process::id());
        json!({"sessionId": session, "workspaceRef": self.project(), work.0: work.1})
    }

    pub(super) fn review(&self) -> Value {
        let item = json!({"item_id": "eval-1", "file": "admin.py", "pattern": "eval() on text from outside"});
        self.envelope("review", ("item", item))
    }

    pub(super) fn fan_out(&self) -> Vec<Value> {
        (1..=PARTS)
            .map(|n| {
                let item = json!({"item_id": item_id(n), "file": part(n), "pattern": "FIXME"});
                let mut envelope = self.envelope(&item_id(n), ("item", item));
                envelope["async"] = json!(true);
                envelope
            })
            .collect()
    }

    /// A job whose command is held by a rule until somebody approves it.
    pub(super) fn guarded_job(&self) -> Value {
        let prompt = format!("Run this command with the bash tool, once, and report its output: {ARCHIVE}");
        let mut envelope = self.envelope("guarded-job", ("prompt", json!(prompt)));
        envelope["approvals"] = json!([{"tool": "bash", "pattern": "rm -r"}]);
        envelope["async"] = json!(true);
        envelope
    }

    /// Whether the folder is there that the guarded command removes.
    pub(super) fn has_parts(&self) -> bool {
        self.project().join("parts").exists()
    }

    pub(super) fn slow_job(&self) -> Value {
        let prompt = format!("Run this command with the bash tool, once, and report its output: {}", slow_command());
        let mut envelope = self.envelope("slow-job", ("prompt", json!(prompt)));
        envelope["async"] = json!(true);
        envelope
    }
}

/// What the guarded job runs.
const ARCHIVE: &str = "tar czf parts.tar.gz parts && rm -r parts && echo 'parts.tar.gz has them all'";

fn part(n: usize) -> String {
    format!("parts/part_{n:02}.py")
}

fn item_id(n: usize) -> String {
    format!("part-{n:02}")
}

fn slow_command() -> String {
    format!("echo started >> ledger.txt; sleep {SLOW_SECONDS}; echo finished >> ledger.txt; echo 'the answer is 42'")
}

const ADMIN: &str = "\
import sys


def calculate(request):
    # The operator's formula comes straight from the query string.
    return eval(request.query['formula'])


if __name__ == '__main__':
    print(calculate(sys.argv[1]))
";

/// The scripted model: what it says, by a part of the user message.
fn script() -> Value {
    let tools = |name: &str, input: Value| json!({"name": name, "input": input});
    let verdict = |id: &str, verdict: &str, reason: &str| json!({"tools": [tools("submit_verdict", json!({"item_id": id, "verdict": verdict, "reason": reason}))]});
    let mut scripts = vec![
        json!({"when": "item_id=\"eval-1\"", "turns": [
            {"text": "I read the file and look for other uses at the same time.", "tools": [
                tools("read", json!({"path": "admin.py"})), tools("grep", json!({"pattern": "eval\\(", "glob": "*.py"}))]},
            verdict("eval-1", "FLAGGED", "admin.py:6 evaluates request.query['formula'], which comes from outside."),
        ]}),
        json!({"when": "parts.tar.gz", "turns": [
            {"text": "I put the parts into an archive and remove the folder.", "tools": [
                tools("bash", json!({"command": ARCHIVE}))]},
            {"text": "I was told: {{last_result}}"},
        ]}),
        json!({"when": "ledger.txt", "turns": [
            {"tools": [tools("bash", json!({"command": slow_command()}))]},
            {"text": "The command printed: {{last_result}}"},
        ]}),
    ];
    scripts.extend((1..=PARTS).map(|n| {
        let id = item_id(n);
        let look = tools("bash", json!({"command": format!("grep -n FIXME {} || echo no match", part(n))}));
        let finding = if WITH_MARK.contains(&n) { "FLAGGED" } else { "CLEAR" };
        json!({"when": format!("item_id=\"{id}\""), "turns": [
            {"tools": [look]},
            verdict(&id, finding, "grep says: {{last_result}}"),
        ]})
    }));
    json!({"scripts": scripts})
}
