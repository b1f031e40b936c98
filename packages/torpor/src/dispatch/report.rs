//! What became of a dispatch, item by item: for people as a table, for machines as JSON, and as an exit code.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use torpor_core::schedule::FireId;
use torpor_schedule::Post;

use super::send::Sent;
use crate::cli::{Error, Exit};
use crate::{follow, ui};

const COLUMNS: [ui::Column; 5] =
    [("ITEM", "name", 20), ("RESULT", "result", 11), ("RUN", "runId", 36), ("STATUS", "status", 9), ("", "detail", 0)];

/// All items of a fire, each with what became of it.
pub(super) struct Report {
    schedule: String,
    fire: FireId,
    lines: Vec<Line>,
}

struct Line {
    post: Arc<Post>,
    /// `None` while it was not attempted.
    sent: Option<Sent>,
    /// How its run stands at the end of a wait.
    settled: Option<Result<Value, Error>>,
}

impl Report {
    pub(super) fn new(schedule: &str, fire: &FireId, posts: Vec<Post>) -> Self {
        let lines = posts.into_iter().map(|post| Line { post: Arc::new(post), sent: None, settled: None }).collect();
        Self { schedule: schedule.to_owned(), fire: fire.clone(), lines }
    }

    pub(super) fn posts(&self) -> impl Iterator<Item = &Arc<Post>> {
        self.lines.iter().map(|line| &line.post)
    }

    /// Notes what became of an item.
    pub(super) fn note(&mut self, line: usize, sent: Sent) {
        if let Some(line) = self.lines.get_mut(line) {
            line.sent = Some(sent);
        }
    }

    /// The runs that there are, each with its line.
    pub(super) fn runs(&self) -> Vec<(usize, String)> {
        let runs = self.lines.iter().map(|line| line.run().map(str::to_owned));
        runs.enumerate().filter_map(|(i, run)| Some((i, run?))).collect()
    }

    /// Notes how the run of an item stands at the end of a wait.
    pub(super) fn settled(&mut self, line: usize, record: Result<Value, Error>) {
        if let Some(line) = self.lines.get_mut(line) {
            line.settled = Some(record);
        }
    }

    fn count(&self, result: &str) -> u64 {
        self.lines.iter().filter(|line| line.result() == result).count() as u64
    }

    pub(super) fn print(&self, as_json: bool) {
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        if as_json {
            let counts: Map<String, Value> =
                RESULTS.iter().map(|result| ((*result).to_owned(), self.count(result).into())).collect();
            ui::say!("{:#}", json!({"schedule": self.schedule, "fire": self.fire, "items": lines, "counts": counts}));
            return;
        }
        ui::table(&COLUMNS, &lines, |line, field| {
            let text = line[field].as_str().unwrap_or_default();
            if field == "detail" && text.is_empty() { line["sessionId"].as_str().unwrap_or_default() } else { text }
                .to_owned()
        });
        let all = RESULTS.iter().filter(|result| self.count(result) > 0);
        let counts: Vec<String> = all.map(|result| format!("{} {result}", self.count(result))).collect();
        eprintln!("{}", ui::Paint::err().dim(&format!("{} {}: {}", self.schedule, self.fire, counts.join(", "))));
    }

    /// What the command ends with. Where several things are wrong, what a repetition could help comes first.
    pub(super) fn end(self) -> Result<Exit, Error> {
        let all = self.lines.len();
        let again = |n: u64, what: &str, why: &str| {
            let next = "A repetition of this fire is safe: what was accepted is not posted twice.";
            Error::Unavailable(format!("{n} of {} {what}: {why}\n{next}", ui::count(all as u64, "item")))
        };
        let unreached = self.count("unreached");
        for line in &self.lines {
            if let Some(Sent::Unreached { why }) = &line.sent {
                return Err(again(unreached, "could not be delivered", why));
            }
        }
        if self.count("refused") > 0 {
            return Ok(Exit::NotWell);
        }
        let mut exit = Exit::Success;
        for settled in self.lines.into_iter().filter_map(|line| line.settled) {
            match (settled.map(|record| follow::exit(&record)), exit) {
                (Err(e), _) => return Err(e),
                (Ok(Exit::Success), _) | (Ok(_), Exit::NotWell) => {}
                (Ok(worse), _) => exit = worse,
            }
        }
        Ok(exit)
    }
}

/// What an item may have come to.
const RESULTS: [&str; 5] = ["accepted", "existing", "refused", "unreached", "untried"];

impl Line {
    fn result(&self) -> &'static str {
        match &self.sent {
            Some(Sent::Accepted { .. }) => "accepted",
            Some(Sent::There { .. }) => "existing",
            Some(Sent::Refused { .. }) => "refused",
            Some(Sent::Unreached { .. }) => "unreached",
            None => "untried",
        }
    }

    fn run(&self) -> Option<&str> {
        match &self.sent {
            Some(Sent::Accepted { run }) => Some(run),
            Some(Sent::There { run, .. }) => run.as_deref(),
            _ => None,
        }
    }

    fn json(&self) -> Value {
        let post = &self.post;
        let mut line = json!({
            "item": post.number, "name": post.name, "sessionId": post.session, "result": self.result(),
        });
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                line[key] = value.into();
            }
        };
        set("runId", self.run());
        match &self.sent {
            Some(Sent::There { status, .. }) => set("status", status.as_deref()),
            Some(Sent::Refused { code, why }) => {
                set("code", code.as_deref());
                set("detail", Some(why));
            }
            Some(Sent::Unreached { why }) => set("detail", Some(why)),
            Some(Sent::Accepted { .. }) | None => {}
        }
        match &self.settled {
            Some(Ok(record)) => {
                set("status", record["status"].as_str());
                set("reason", record["reason"].as_str());
                set("detail", record["message"].as_str());
            }
            Some(Err(e)) => set("detail", Some(&e.to_string())),
            None => {}
        }
        line
    }
}

/// What would be posted.
pub(super) fn planned(schedule: &str, fire: &FireId, posts: &[Post], as_json: bool) {
    if as_json {
        let items: Vec<Value> = posts
            .iter()
            .map(|p| json!({"item": p.number, "name": p.name, "sessionId": p.session, "envelope": p.body}))
            .collect();
        ui::say!("{:#}", json!({"schedule": schedule, "fire": fire, "items": items}));
        return;
    }
    for post in posts {
        ui::say!("{}", ui::bold(&format!("item {} ({})", post.number, post.name)));
        ui::say!("{}", ui::harmless(&format!("{:#}", post.body)));
    }
    eprintln!(
        "{}",
        ui::Paint::err().dim(&format!("nothing was posted; {} would be", ui::count(posts.len() as u64, "run")))
    );
}
