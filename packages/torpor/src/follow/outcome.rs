//! How a run ended, for a person. Must not know: how it was come by.

use serde_json::Value;
use torpor_core::price::Usd;

use crate::ui::{self, Paint};

/// The outcome on standard output: the answer or verdict as it is, anything else in a line that begins with the status.
/// `seen` is true where the answer stands on the same terminal already.
pub(crate) fn print(record: &Value, seen: bool) {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    match text("status") {
        "done" if record["verdict"].is_object() => {
            let said = |key: &str| words(record["verdict"][key].as_str().unwrap_or_default());
            ui::say!("{}  {}: {}", ui::bold(&said("verdict")), said("item_id"), said("reason"));
        }
        "done" if record.get("result").is_some() => ui::say!("{}", words(&format!("{:#}", record["result"]))),
        "done" if seen => {}
        "done" => ui::say!("{}", words(text("response"))),
        status @ ("aborted" | "cancelled") => ui::say!("{}", ui::bad(status)),
        "paused" => ui::say!("{}", Paint::out().note("paused")),
        status => ui::say!("{} {}: {}", ui::bad(status), text("reason"), words(text("message"))),
    }
    eprintln!("{}", Paint::err().dim(&line(record)));
}

/// A model's words: as they are into a file or pipe, harmless on a terminal.
fn words(text: &str) -> String {
    use std::io::IsTerminal as _;
    if std::io::stdout().is_terminal() { ui::harmless(text) } else { text.to_owned() }
}

/// What a run was and spent, in one line.
pub(crate) fn line(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let usage = &record["usage"];
    let tokens = |key: &str| usage[key].as_u64().unwrap_or(0);
    let cost = cost(usage).map(|usd| format!("  {usd}")).unwrap_or_default();
    format!(
        "{}  {}  {} tokens in, {} out{cost}",
        text("runId"),
        ui::count(record["turns"].as_u64().unwrap_or(0), "model call"),
        tokens("input") + tokens("cacheRead") + tokens("cacheWrite"),
        tokens("output"),
    )
}

/// What a run cost, where that is known.
pub(crate) fn cost(usage: &Value) -> Option<Usd> {
    usage["costUsd"].as_f64().and_then(Usd::from_number)
}
