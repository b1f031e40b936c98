//! A dead letter as a person reads it. Must not know: how it was come by.

use serde_json::Value;

use crate::ui::{self, Paint};

/// Most of a session's id and of a reason that a line shows, in characters.
const MAX_ID: usize = 80;
const MAX_REASON: usize = 500;

/// A letter of a list: which run, since when, of what, and why.
pub(super) fn line(letter: &Value) {
    let paint = Paint::out();
    let text = |key: &str| letter[key].as_str().unwrap_or_default();
    let again = if letter["unread"] == Value::Bool(true) { "could not be read" } else { "given up" };
    let session = ui::one_line(text("sessionId"), MAX_ID);
    let about = format!("{}  session {session}", ui::short_time(text("givenUpAt")));
    ui::say!("{}  {again}  {}", paint.bold(text("runId")), paint.dim(&about));
    ui::say!("  {}", ui::one_line(text("reason"), MAX_REASON));
}
