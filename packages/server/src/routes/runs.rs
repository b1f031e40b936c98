//! `POST /runs`: submit a run and, unless told otherwise, wait for its outcome.
//!
//! Owns: its headers and answers. Must not know: the envelope's fields (see `torpor_core::envelope`), or what makes a
//! submit acceptable.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use torpor_core::envelope;
use torpor_core::key::Scope;
use torpor_core::problem::Code;
use torpor_core::queue::NewRun;

use crate::answer::{self, is_settled};
use crate::auth::Caller;
use crate::body;
use crate::headers::{idempotency_key, prefers_async};
use crate::intake;
use crate::problem::Problem;
use crate::routes::gates;
use crate::submit::{self, Shared, Ticket, check_open};

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
    check_open(&shared)?; // the body may have taken its time

    let preferred = prefers_async(&parts.headers);
    let at_once = envelope.run_async || preferred;
    let decision = envelope.decision.clone();
    if decision.is_some() {
        caller.needs(Scope::GatesDecide)?;
    }
    let trace = parts.extensions.get().cloned();
    let mut new = NewRun { trace, ..intake::checked(&shared.app, &caller, envelope, key)? };
    intake::locate(&shared.app, &mut new).await?;
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
                Some(record) => {
                    submit::wait_for_files(&shared, &record).await;
                    answer::outcome(&record)
                }
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
