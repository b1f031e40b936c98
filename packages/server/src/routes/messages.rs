//! `POST /runs/{runId}/messages`: a further user message for the session of a run.
//!
//! Owns: its fields and its answer. Must not know: how runs of one session are kept apart (the queue does that).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use torpor_core::RunId;
use torpor_core::envelope::{self, Spec, canonical_hash};
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};

use crate::answer;
use crate::auth::Caller;
use crate::body;
use crate::headers::idempotency_key;
use crate::problem::Problem;
use crate::routes::query::run_of;
use crate::submit::{self, Key, Shared, check_open};

/// 202 with the run that the message makes: it waits behind what the session does, or interrupts it.
pub(crate) async fn message(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let run = run_of(&parts.uri, "/messages")?;
    let key = idempotency_key(&parts.headers)?;
    let body = body::json(body, &shared).await?;
    let idempotency = key.map(|key| Key::Header(key).with(format!("message:{run}:{}", canonical_hash(&body))));
    let Asked { prompt, interrupt } = parse(body)?;
    let record = caller.run(&shared, &run).await?;
    check_open(&shared)?; // the body may have taken its time
    let new = NewRun {
        run_id: RunId::generate(),
        session: record.session,
        spec: Spec::prompt(prompt),
        idempotency,
        expects: Expects::Existing,
        not_before: None,
        priority: 0,
        interrupt,
        claim_for: None,
        trace: parts.extensions.get().cloned(),
    };
    let ticket = submit::submit(&shared, new, false).await?;
    Ok(answer::accepted(&ticket.session, &ticket.run))
}

#[derive(Debug, PartialEq)]
struct Asked {
    prompt: String,
    interrupt: bool,
}

fn parse(body: Value) -> Result<Asked, Problem> {
    let Value::Object(map) = body else {
        return Err(Problem::field(Code::EnvelopeInvalid, "body", "must be a JSON object"));
    };
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: &str| {
        problems.push(envelope::Problem { field: field.to_owned(), message: message.to_owned() });
    };
    let (mut prompt, mut interrupt) = (None, false);
    for (name, value) in map {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            // Clients of other services have other names for the same.
            (other @ ("prompt" | "message" | "text" | "content"), value) => match value {
                _ if prompt.is_some() => problem(other, "must not be given beside another name of `prompt`"),
                Value::String(text) => prompt = Some(text),
                _ => problem(other, "must be a string"),
            },
            ("mode", Value::String(mode)) if mode == "queue" => interrupt = false,
            ("mode", Value::String(mode)) if mode == "interrupt" => interrupt = true,
            ("mode", _) => problem("mode", "must be \"queue\" (the default) or \"interrupt\""),
            _ => problem(&name, "is not a known field; there are prompt and mode"),
        }
    }
    let wrong = !problems.is_empty();
    match prompt {
        Some(prompt) if !wrong && !prompt.trim().is_empty() => Ok(Asked { prompt, interrupt }),
        _ if wrong => Err(Problem::fields(Code::EnvelopeInvalid, problems)),
        Some(_) => Err(Problem::field(Code::PromptRequired, "prompt", "must not be blank")),
        None => Err(Problem::field(Code::PromptRequired, "prompt", "is required")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_says_what_and_how() {
        assert_eq!(parse(json!({"prompt": "x"})).unwrap(), Asked { prompt: "x".into(), interrupt: false });
        assert!(parse(json!({"prompt": "x", "mode": "interrupt"})).unwrap().interrupt);
        for name in ["message", "text", "content"] {
            assert_eq!(parse(json!({ name: "x" })).unwrap().prompt, "x", "{name}");
        }
        assert!(parse(json!({"prompt": "x", "text": "y"})).is_err());
        for bad in [
            json!({}),
            json!([]),
            json!({"prompt": " "}),
            json!({"prompt": 1}),
            json!({"prompt": "x", "mode": "shout"}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
