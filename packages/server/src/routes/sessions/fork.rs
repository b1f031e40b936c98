//! `POST /sessions/{id}/fork`: a new session that shares history with another.
//!
//! Owns: its fields and answers. Must not know: how history is shared.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use torpor_core::problem::Code;
use torpor_core::session::{Fork, Forked, MAX_HISTORY_PARTS, Origin};
use torpor_core::{Position, SessionKey, envelope};

use super::{Asked, From, forgetting, unknown};
use crate::answer;
use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::submit::{Shared, check_open};

/// 201 with the new session; 200 where this very fork came before.
pub(crate) async fn fork(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Made<'a> {
        session_id: &'a str,
        forked_from: From<'a>,
    }
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let from = Asked::read(&caller, &id, &parts.uri, &["tenant"])?.session;
    let wanted = parse(body::json(body, &shared).await?)?;
    check_open(&shared)?; // the body may have taken its time
    let into = wanted.session_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let into = SessionKey::new(from.tenant(), &into)
        .map_err(|e| Problem::field(Code::EnvelopeInvalid, "sessionId", e.to_string()))?;
    let fork = Fork { from, position: wanted.from_position, into };
    let refused = |detail: String| Err(Problem::field(Code::EnvelopeInvalid, "fromPosition", detail));
    let status = match shared.app.sessions.fork(&fork).await? {
        Forked::Created => StatusCode::CREATED,
        Forked::Existing => StatusCode::OK,
        Forked::Unknown => return Err(unknown()),
        Forked::OutOfRange(Position(0)) => return refused("names an entry, and the session has none yet".into()),
        Forked::OutOfRange(head) => return refused(format!("must be from 1 to {head}, got {}", fork.position)),
        Forked::TooDeep => {
            return refused(format!(
                "leads through too many forks: a history has at most {MAX_HISTORY_PARTS} parts; export the session and \
                 import it again to make it one"
            ));
        }
        Forked::Forgetting => return Err(forgetting()),
        Forked::Taken => {
            let detail = "There is another session with this `sessionId`. Use a new one, or none to have one made.";
            return Err(Problem::new(Code::IdempotencyConflict, detail));
        }
    };
    let origin = Origin { session: fork.from.session().to_owned(), position: fork.position };
    let body = Made { session_id: fork.into.session(), forked_from: From::of(&origin) };
    Ok(answer::json(status, &body))
}

#[derive(Debug, PartialEq)]
struct Wanted {
    from_position: Position,
    session_id: Option<String>,
}

/// Reads the body; `null` is as if the field were not there.
fn parse(body: Value) -> Result<Wanted, Problem> {
    let Value::Object(map) = body else {
        return Err(Problem::field(Code::EnvelopeInvalid, "body", "must be a JSON object"));
    };
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: &str| {
        problems.push(envelope::Problem { field: field.to_owned(), message: message.to_owned() });
    };
    let (mut from_position, mut session_id) = (None, None);
    for (name, value) in map {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("fromPosition", value) => match value.as_u64() {
                Some(n) => from_position = Some(Position(n)),
                None => problem("fromPosition", "must be the position of an entry: an integer of 1 or more"),
            },
            ("sessionId", Value::String(id)) => session_id = Some(id),
            ("sessionId", _) => problem("sessionId", "must be a string"),
            _ => problem(&name, "is not a known field; there are fromPosition and sessionId"),
        }
    }
    match from_position {
        Some(from_position) if problems.is_empty() => Ok(Wanted { from_position, session_id }),
        Some(_) => Err(Problem::fields(Code::EnvelopeInvalid, problems)),
        None if problems.iter().any(|p| p.field == "fromPosition") => {
            Err(Problem::fields(Code::EnvelopeInvalid, problems))
        }
        None => {
            let message = "is required: the last entry that the new session shares".to_owned();
            problems.push(envelope::Problem { field: "fromPosition".into(), message });
            Err(Problem::fields(Code::EnvelopeInvalid, problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fork_says_from_where() {
        let wanted = |from_position, session_id| Wanted { from_position: Position(from_position), session_id };
        assert_eq!(parse(json!({"fromPosition": 3})).unwrap(), wanted(3, None));
        let body = json!({"fromPosition": 3, "sessionId": "f", "x": null});
        assert_eq!(parse(body).unwrap(), wanted(3, Some("f".into())));
        for bad in [
            json!({}),
            json!([]),
            json!({"fromPosition": -1}),
            json!({"fromPosition": 1.5}),
            json!({"fromPosition": "1"}),
            json!({"fromPosition": 1, "sessionId": 1}),
            json!({"fromPosition": 1, "into": "f"}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
