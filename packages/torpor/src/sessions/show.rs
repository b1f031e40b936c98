//! Sessions as a person reads them. Must not know: how they were come by.

use serde_json::Value;

use crate::ui::{self, Paint};
use crate::{follow, gates};

/// Columns of the list, by field and width.
const COLUMNS: [ui::Column; 5] = [
    ("SESSION", "sessionId", 36),
    ("ENTRIES", "entries", 7),
    ("STANDS", "stands", 8),
    ("UPDATED", "updatedAt", 20),
    ("FORK OF", "forkedFrom", 0),
];

/// Prints each session as a line, the first below the titles.
pub(super) fn lines() -> impl FnMut(&Value) {
    let mut titled = false;
    move |session| {
        if !std::mem::replace(&mut titled, true) {
            ui::header(&COLUMNS);
        }
        ui::row(&COLUMNS, |field| match field {
            "entries" => session["entries"].to_string(),
            "stands" => stands(session).to_owned(),
            "updatedAt" => ui::short_time(session["updatedAt"].as_str().unwrap_or_default()),
            "forkedFrom" => origin(session).unwrap_or_default(),
            _ => session[field].as_str().unwrap_or_default().to_owned(),
        });
    }
}

fn stands(session: &Value) -> &'static str {
    match (session["pendingGates"].as_u64().unwrap_or(0), session["busy"] == true) {
        (1.., _) => "paused",
        (0, true) => "busy",
        (0, false) => "idle",
    }
}

fn origin(session: &Value) -> Option<String> {
    let from = &session["forkedFrom"];
    Some(format!("{} at {}", from["sessionId"].as_str()?, from["position"]))
}

/// One session.
pub(super) fn summary(it: &Value) {
    let paint = Paint::out();
    let text = |key: &str| ui::harmless(it[key].as_str().unwrap_or_default());
    ui::say!("{}  {}", paint.bold(&text("sessionId")), paint.status(stands(it)));
    ui::detail("tenant", &text("tenant"));
    ui::detail("entries", &it["entries"].to_string());
    for (name, field) in [("created", "createdAt"), ("updated", "updatedAt")] {
        if !it[field].is_null() {
            ui::detail(name, &text(field));
        }
    }
    if let Some(origin) = origin(it) {
        ui::detail("fork of", &ui::harmless(&origin));
    }
    if let Some(forks @ 1..) = it["forks"].as_u64() {
        ui::detail("forks", &forks.to_string());
    }
    let run = &it["latestRun"];
    if run.is_object() {
        ui::detail("latest run", &paint.status(run["status"].as_str().unwrap_or("?")));
        ui::say!("{}", paint.dim(&format!("{:13}{}", "", follow::summary(run))));
    }
    for gate in it["gates"].as_array().into_iter().flatten() {
        gates::show(gate, false, paint, |line| ui::say!("{line}"));
    }
}

/// What a removal counts, with the words for one and for more.
const REMOVED: [(&str, &str, &str); 4] = [
    ("entries", "entry", "entries"),
    ("runs", "run", "runs"),
    ("gates", "gate", "gates"),
    ("deadLetters", "dead letter", "dead letters"),
];

/// What a removal took away.
pub(super) fn removed(it: &Value) {
    let counts = REMOVED.iter().filter_map(|(field, one, many)| {
        let n = it["removed"][*field].as_u64().filter(|n| *n > 0)?;
        Some(format!("{n} {}", if n == 1 { one } else { many }))
    });
    let counts: Vec<_> = counts.collect();
    let what = if counts.is_empty() { "it was empty".to_owned() } else { counts.join(", ") };
    ui::say!("removed {}: {what}", ui::harmless(it["sessionId"].as_str().unwrap_or_default()));
    if it["kept"].is_object() {
        let why = it["kept"]["reason"].as_str().unwrap_or_default();
        ui::say!("kept {} entries: {}", it["kept"]["entries"], ui::harmless(why));
    }
    if it["sandbox"]["status"] == "pending" {
        ui::say!("its sandbox has not forgotten it yet, and will be asked again");
    }
}
