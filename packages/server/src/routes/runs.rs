//! `POST /runs`: submit a run and, unless told otherwise, wait for its outcome.
//!
//! Owns: what makes a submit acceptable, and its answers. Must not know: the envelope's fields (see
//! `torpor_core::envelope`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use torpor_core::envelope::{self, Envelope, Spec, Work};
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};
use torpor_core::{RunId, SessionKey};

use crate::answer;
use crate::body;
use crate::headers::{idempotency_key, prefers_async};
use crate::problem::Problem;
use crate::submit::{self, Key, Shared, check_open};

/// Tools that need no sandbox: they work on the session itself.
const SESSION_TOOLS: [&str; 1] = ["submit_verdict"];

/// Tells the client that its preference was followed.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(crate) async fn submit(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let envelope = envelope::parse(body::json(body, &shared).await?)?;
    check_spec(&shared, &envelope.spec)?;
    check_open(&shared)?; // the body may have taken its time

    let preferred = prefers_async(&parts.headers);
    let at_once = envelope.run_async || preferred;
    let ticket = submit::submit(&shared, new_run(envelope, key)?, !at_once).await?;
    let mut response = match (at_once, &ticket.settled) {
        (true, Some(record)) => answer::outcome(record),
        (true, None) => answer::accepted(&ticket.session, &ticket.run),
        (false, _) => {
            let (session, run) = (ticket.session.clone(), ticket.run.clone());
            match submit::wait(&shared, ticket).await? {
                Some(record) => answer::outcome(&record),
                None => answer::accepted(&session, &run),
            }
        }
    };
    if preferred {
        note_preference(response.headers_mut());
    }
    Ok(response)
}

fn note_preference(headers: &mut HeaderMap) {
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
}

/// Refuses at once what could only fail later.
fn check_spec(shared: &Shared, spec: &Spec) -> Result<(), Problem> {
    let invalid = |field: &str, message: String| Problem::field(Code::EnvelopeInvalid, field, message);
    if let Some(tools) = &spec.tools {
        torpor_harness::check_tool_names(tools).map_err(|e| invalid("tools", e.to_string()))?;
    }
    shared.app.settings.resolve(spec).map_err(|e| {
        // The field that the unknown name was written in.
        let field = if spec.provider.is_some() { "provider" } else { "model" };
        invalid(field, format!("cannot be used: {e}"))
    })?;
    if !shared.app.sandboxed && needs_sandbox(spec) {
        let what = match spec.work {
            Work::Review { .. } => "`item` is a review, which reads files",
            Work::Prompt { .. } => "`tools` names tools that run in a sandbox",
        };
        let detail = format!("{what}, and this server has no sandbox configured.");
        return Err(Problem::new(Code::NoSandbox, detail));
    }
    Ok(())
}

fn needs_sandbox(spec: &Spec) -> bool {
    match &spec.work {
        Work::Review { .. } => true,
        Work::Prompt { .. } => spec.tools.iter().flatten().any(|name| !SESSION_TOOLS.contains(&name.as_str())),
    }
}

fn new_run(envelope: Envelope, key: Option<&str>) -> Result<NewRun, Problem> {
    let key = key.map(Key::Header).or_else(|| envelope.session_id.as_deref().map(Key::Session));
    let idempotency = key.map(|key| key.with(envelope.body_hash));
    let fresh;
    let session = match &envelope.session_id {
        Some(id) => id,
        None => {
            fresh = uuid::Uuid::new_v4().to_string();
            &fresh
        }
    };
    // Both parts were checked by the envelope's parser.
    let session = SessionKey::new(&envelope.tenant, session)
        .map_err(|e| Problem::field(Code::EnvelopeInvalid, "sessionId", e.to_string()))?;
    Ok(NewRun {
        run_id: RunId::generate(),
        session,
        spec: envelope.spec,
        idempotency,
        expects: Expects::New,
        not_before: envelope.not_before,
        priority: envelope.priority,
        claim_for: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_tools_are_tools() {
        assert_eq!(torpor_harness::check_tool_names(&SESSION_TOOLS.map(str::to_owned)), Ok(()));
    }
}
