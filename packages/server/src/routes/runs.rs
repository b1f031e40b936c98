//! `POST /runs`: submit a run and, unless told otherwise, wait for its outcome.
//!
//! Owns: what makes a submit acceptable, and its answers. Must not know: the envelope's fields (see
//! `torpor_core::envelope`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use torpor_core::envelope::{self, Envelope, Spec};
use torpor_core::key::Scope;
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};
use torpor_core::{RunId, SessionKey, webhook};
use torpor_harness::Refused;

use crate::answer::{self, is_settled};
use crate::auth::Caller;
use crate::body;
use crate::headers::{idempotency_key, prefers_async};
use crate::problem::Problem;
use crate::routes::gates;
use crate::submit::{self, Key, Shared, Ticket, check_open};

/// Tells the client that its preference was followed.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(crate) async fn submit(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let envelope = envelope::parse(body::json(body, &shared).await?)?;
    check_spec(&shared, &envelope.spec)?;
    check_open(&shared)?; // the body may have taken its time

    let preferred = prefers_async(&parts.headers);
    let at_once = envelope.run_async || preferred;
    let decision = envelope.decision.clone();
    if decision.is_some() {
        caller.needs(Scope::GatesDecide)?;
    }
    let new = NewRun { trace: parts.extensions.get().cloned(), ..new_run(&caller, envelope, key)? };
    check_webhook(&shared, &new)?;
    let ticket = match decision {
        // The run must be there: a verdict makes none.
        Some(_) if shared.app.runs.latest(&new.session).await?.is_none() => {
            return Err(Problem::new(
                Code::GateNotFound,
                "There is no run with this `sessionId` that could have a gate.",
            ));
        }
        Some(verdict) => {
            let run = submit::submit(&shared, new, false).await?.run;
            let (_, record) = gates::decide(&shared, &caller, &run, verdict).await?;
            let mut ticket = Ticket::new(&record);
            ticket.settled = is_settled(&record).then_some(record);
            ticket
        }
        None => submit::submit(&shared, new, !at_once).await?,
    };
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
    torpor_harness::check(spec, &shared.app.settings, shared.app.sandbox.as_deref()).map_err(|e| match e {
        Refused::Field { field, message } => Problem::field(Code::EnvelopeInvalid, field, message),
        Refused::NoSandbox(_) => Problem::new(Code::NoSandbox, format!("{e}.")),
    })
}

/// Refuses a target that could never be reached, or whose secret is not there.
fn check_webhook(shared: &Shared, new: &NewRun) -> Result<(), Problem> {
    let Some(target) = &new.spec.webhook else { return Ok(()) };
    let Some(webhooks) = &shared.app.webhooks else {
        return Err(Problem::field(Code::EnvelopeInvalid, "webhook", "is refused: nothing here sends webhooks"));
    };
    let refused = |e: webhook::Refused| Problem::field(Code::EnvelopeInvalid, e.field, e.message);
    webhooks.check(new.session.tenant(), target).map_err(refused)
}

fn new_run(caller: &Caller, envelope: Envelope, key: Option<&str>) -> Result<NewRun, Problem> {
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
    let tenant = caller.acts_for(envelope.tenant.as_deref()).ok_or_else(|| {
        Problem::new(Code::Forbidden, "The API key belongs to another tenant than the one that `tenant` names.")
    })?;
    // Both parts were checked by the envelope's parser.
    let session = SessionKey::new(tenant, session)
        .map_err(|e| Problem::field(Code::EnvelopeInvalid, "sessionId", e.to_string()))?;
    Ok(NewRun {
        run_id: RunId::generate(),
        session,
        spec: envelope.spec,
        idempotency,
        expects: Expects::New,
        not_before: envelope.not_before,
        priority: envelope.priority,
        interrupt: false,
        claim_for: None,
        trace: None,
    })
}
