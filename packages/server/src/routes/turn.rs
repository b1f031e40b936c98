//! `POST /turn`: one interactive turn of a new or existing session.
//!
//! Owns: the turn's few fields and its answers. Must not know: how turns of one session are kept apart (the queue
//! does that).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use torpor_core::envelope::{self, Spec, canonical_hash};
use torpor_core::id::DEFAULT_TENANT;
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};
use torpor_core::{RunId, SessionKey};

use crate::answer;
use crate::auth::Caller;
use crate::body;
use crate::headers::idempotency_key;
use crate::problem::Problem;
use crate::submit::{self, Key, Shared, check_open};

/// The most unknown fields that are named in one answer.
const MAX_NAMED: usize = 20;

pub(crate) async fn turn(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let body = body::json(body, &shared).await?;
    // Not the hash of the same body sent to `/runs`: the two ask for different things.
    let idempotency = key.map(|key| Key::Header(key).with(format!("turn:{}", canonical_hash(&body))));
    let Asked { prompt, session_id } = parse(body)?;
    check_open(&shared)?; // the body may have taken its time

    let tenant = caller.tenant().unwrap_or(DEFAULT_TENANT);
    let (session, expects) = match session_id {
        Some(id) => (SessionKey::new(tenant, &id), Expects::Ungated),
        None => (SessionKey::new(tenant, &uuid::Uuid::new_v4().to_string()), Expects::New),
    };
    let session = session.map_err(|e| {
        Problem::new(Code::SessionNotFound, format!("There is no session with this `sessionId`: an id {e}."))
    })?;
    let new = NewRun {
        run_id: RunId::generate(),
        session,
        spec: Spec::prompt(prompt),
        idempotency,
        expects,
        not_before: None,
        priority: 0,
        interrupt: false,
        claim_for: None,
        trace: parts.extensions.get().cloned(),
    };
    let ticket = submit::submit(&shared, new, true).await?;
    let (session, run) = (ticket.session.clone(), ticket.run.clone());
    let record = submit::wait(&shared, ticket).await?;
    Ok(record.and_then(|r| answer::turn(&r)).unwrap_or_else(|| answer::accepted(&session, &run)))
}

#[derive(Debug, PartialEq)]
struct Asked {
    prompt: String,
    session_id: Option<String>,
}

/// Reads the body; `null` is as if the field were not there.
fn parse(body: Value) -> Result<Asked, Problem> {
    let Value::Object(mut map) = body else {
        return Err(Problem::field(Code::EnvelopeInvalid, "body", "must be a JSON object"));
    };
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: String| {
        problems.push(envelope::Problem { field: field.to_owned(), message });
    };
    let mut text = |name: &str| match map.shift_remove(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(s)) => Some(s),
        Some(other) => {
            let kind = match other {
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::Array(_) => "an array",
                _ => "an object",
            };
            problem(name, format!("must be a string, got {kind}"));
            Some(String::new())
        }
    };
    let (prompt, session_id) = (text("prompt"), text("sessionId"));
    let wrong_type = !problems.is_empty();
    let blank = prompt.as_deref().is_none_or(|p| p.trim().is_empty());
    if blank && !wrong_type {
        let message = if prompt.is_some() { "must not be blank" } else { "is required" };
        problems.push(envelope::Problem { field: "prompt".into(), message: message.into() });
    }
    for name in map.keys().take(MAX_NAMED) {
        problems.push(envelope::Problem { field: name.clone(), message: "is not a known field".into() });
    }
    match prompt {
        Some(prompt) if problems.is_empty() => Ok(Asked { prompt, session_id }),
        _ if blank && !wrong_type => Err(Problem::fields(Code::PromptRequired, problems)),
        _ => Err(Problem::fields(Code::EnvelopeInvalid, problems)),
    }
}
