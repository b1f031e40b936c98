//! A run's record as a person reads it. Must not know: how it was come by.

use serde_json::Value;
use torpor_core::{Clock as _, SystemClock, Timestamp};

use crate::ui::{self, Paint};
use crate::{follow, gates};

/// Most characters of a failure's message or of an answer that are shown.
const MAX_WORDS: usize = 20_000;

/// A cell of the list.
pub(super) fn cell(run: &Value, field: &str) -> String {
    match field {
        "took" => took(run).map(ui::span).unwrap_or_default(),
        "createdAt" => ui::short_time(run["createdAt"].as_str().unwrap_or_default()),
        _ => run[field].as_str().unwrap_or_default().to_owned(),
    }
}

fn time(record: &Value, field: &str) -> Option<Timestamp> {
    record[field].as_str().and_then(Timestamp::parse_rfc3339)
}

/// From its start to its end, or until now.
fn took(record: &Value) -> Option<std::time::Duration> {
    let begun = time(record, "startedAt")?;
    Some(time(record, "endedAt").unwrap_or_else(|| SystemClock.now()).since(begun))
}

/// The whole record.
pub(super) fn record(record: &Value) {
    let paint = Paint::out();
    let text = |key: &str| ui::harmless(record[key].as_str().unwrap_or_default());
    let reason = record["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    ui::say!("{}  {}{reason}", paint.bold(&text("runId")), paint.status(&text("status")));
    ui::detail("session", &text("sessionId"));
    ui::detail("tenant", &text("tenant"));
    ui::detail("kind", &text("kind"));
    if !record["traceId"].is_null() {
        ui::detail("trace", &text("traceId"));
    }

    section("Times");
    ui::detail("created", &text("createdAt"));
    if let (Some(created), Some(started)) = (time(record, "createdAt"), time(record, "startedAt")) {
        ui::detail("started", &format!("{}  after {}", text("startedAt"), ui::span(started.since(created))));
    }
    if let Some(took) = took(record) {
        let ended = !record["endedAt"].is_null();
        let what = if ended { format!("{}  after ", text("endedAt")) } else { "for ".to_owned() };
        ui::detail(if ended { "ended" } else { "under way" }, &format!("{what}{}", ui::span(took)));
    }
    ui::detail("attempts", &record["attempts"].to_string());

    section("Usage");
    let tokens = |key: &str| record["usage"][key].as_u64().unwrap_or(0).to_string();
    ui::detail("model calls", &record["turns"].to_string());
    ui::detail(
        "tokens in",
        &format!("{} fresh, {} from cache, {} into cache", tokens("input"), tokens("cacheRead"), tokens("cacheWrite")),
    );
    ui::detail("tokens out", &tokens("output"));
    if let Some(cost) = follow::cost(&record["usage"]) {
        ui::detail("cost", &cost.to_string());
    }

    let waiting = record["gates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !waiting.is_empty() {
        section("Waits for a verdict");
        waiting.iter().for_each(|gate| gates::show(gate, false, paint, |line| ui::say!("{line}")));
        ui::say!("{}", paint.dim(&format!("torpor gates approve|reject|abort {}", text("runId"))));
    }
    if let Some(verdict) = record["verdict"].as_object() {
        section("Verdict");
        verdict.iter().for_each(|(name, value)| ui::detail(name, &plain(value)));
    }
    if record.get("result").is_some() {
        section("Result");
        ui::say!("{}", ui::harmless(&format!("{:#}", record["result"])));
    }
    for (field, title) in [("message", "Error"), ("response", "Answer")] {
        if let Some(words) = record[field].as_str() {
            section(title);
            let (shown, more) = match words.char_indices().nth(MAX_WORDS) {
                Some((at, _)) => (&words[..at], "… (--json has the rest)"),
                None => (words, ""),
            };
            ui::say!("{}{more}", ui::harmless(shown));
        }
    }
    rest(record);
    if !follow::is_ended(record) && waiting.is_empty() {
        ui::say!("{}", paint.dim(&format!("torpor runs follow {}", text("runId"))));
    }
}

/// Fields that the sections above show.
const SHOWN: [&str; 20] = [
    "runId",
    "sessionId",
    "tenant",
    "kind",
    "status",
    "reason",
    "traceId",
    "createdAt",
    "startedAt",
    "endedAt",
    "attempts",
    "turns",
    "usage",
    "gates",
    "gate",
    "gateId",
    "verdict",
    "result",
    "message",
    "response",
];

/// What a newer server has to say, and what is the caller's own.
fn rest(record: &Value) {
    let Some(fields) = record.as_object() else { return };
    let others: Vec<_> = fields.iter().filter(|(name, _)| !SHOWN.contains(&name.as_str())).collect();
    if !others.is_empty() {
        section("More");
        others.into_iter().for_each(|(name, value)| ui::detail(name, &plain(value)));
    }
}

fn plain(value: &Value) -> String {
    ui::harmless(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn section(title: &str) {
    ui::say!("\n{}", Paint::out().bold(title));
}
