//! What a server refuses, as one line for a person: its own words, its stable code, and what to do next.

use serde_json::Value;

use super::Answer;
use crate::cli::Error;
use crate::ui;

/// Longest explanation that is repeated, in characters.
const MAX_DETAIL: usize = 2_000;

/// The error that a refusal is.
pub(super) fn error(answer: &Answer) -> Error {
    let status = answer.status.as_u16();
    let text = |key: &str| answer.body[key].as_str();
    let code = text("code").unwrap_or_default();
    let what = text("detail").or_else(|| text("title")).unwrap_or("the server gave no explanation");
    let what = ui::one_line(what, MAX_DETAIL);
    let shown = if code.is_empty() { String::new() } else { format!(" [{code}]") };
    let next = next(code, answer).map(|next| format!("\n{next}")).unwrap_or_default();
    let message = format!("{what}{shown} (HTTP {status}){next}");
    match status {
        408 | 429 | 502..=504 => Error::Unavailable(message),
        400..500 => Error::Usage(message),
        _ => Error::Other(anyhow::anyhow!(message)),
    }
}

/// What to do about a refusal, where there is more to say than the server did.
fn next(code: &str, answer: &Answer) -> Option<String> {
    let said = match code {
        "unauthorized" => {
            "Set TORPOR_API_KEY to a key that works; whoever runs the server makes one with `torpor keys create`."
        }
        "forbidden" => "Use a key with the scope that is named; `torpor keys create NAME --scope …` makes one.",
        "run_not_found" => "`torpor runs list` shows the runs that there are.",
        "session_not_found" => "`torpor sessions list` shows the sessions that there are.",
        "session_busy" => {
            return answer.body["runId"]
                .as_str()
                .map(|run| format!("`torpor runs follow|cancel {run}` waits for it, or ends it."));
        }
        "schedule_not_found" => "`torpor schedules list` shows the schedules that there are.",
        "gate_not_found" => "`torpor gates list --status all` shows the gates that there are.",
        "gate_pending" => "`torpor gates list` shows what waits; `torpor gates approve|reject RUN` answers it.",
        "not_dead_letter" => "`torpor runs dead-letters` lists those that can be driven again.",
        "gate_conflict" => "`torpor gates list --status decided` shows what was decided.",
        "key_not_found" => "`torpor keys list` shows the keys that there are.",
        "idempotency_conflict" => "Use another session id, or send the same body again to get the same run.",
        "no_sandbox" => "Start the server with TORPOR_SANDBOX=local; `torpor doctor` says what it needs.",
        "rate_limited" | "unavailable" => {
            return answer.retry_after.map(|s| format!("Try again in {}.", ui::count(s, "second")));
        }
        "request_invalid" if !answer.body["pending"].is_null() => return several(&answer.body["pending"]),
        _ => return None,
    };
    Some(said.to_owned())
}

/// Several gates wait and none was named.
fn several(pending: &Value) -> Option<String> {
    let numbers: Vec<String> = pending.as_array()?.iter().map(Value::to_string).collect();
    Some(format!("Name one with --gate: {}.", numbers.join(", ")))
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_its_code_and_one_with_what_to_do() {
        let said = |status: u16, body: Value, retry_after| {
            let status = StatusCode::from_u16(status).unwrap();
            error(&Answer { status, body, retry_after }).to_string()
        };
        let missing = json!({"code": "run_not_found", "detail": "There is no run with this id.", "status": 404});
        assert_eq!(
            said(404, missing, None),
            "There is no run with this id. [run_not_found] (HTTP 404)\n`torpor runs list` shows the runs that there are."
        );
        let busy = json!({"code": "rate_limited", "title": "Too many requests"});
        assert_eq!(said(429, busy, Some(1)), "Too many requests [rate_limited] (HTTP 429)\nTry again in 1 second.");
        assert_eq!(said(502, Value::Null, None), "the server gave no explanation (HTTP 502)");
        let which = json!({"code": "request_invalid", "detail": "`gateId` is required", "pending": [0, 1]});
        assert_eq!(
            said(400, which, None),
            "`gateId` is required [request_invalid] (HTTP 400)\nName one with --gate: 0, 1."
        );
    }
}
