//! Runs as clients see them.
//!
//! Owns: the wire types of answers, and how a record becomes one; what files say as well is `torpor_core::answer`'s. Must not
//! know: how a record was come by.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
pub(crate) use torpor_core::answer::GateShown;
use torpor_core::answer::{Answer, Standing, Tokens};
use torpor_core::envelope::Work;
use torpor_core::outcome::{Outcome, Status};
use torpor_core::run::Record;
use torpor_core::webhook;
use torpor_core::{RunId, SessionKey};

use crate::problem::Problem;

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // The wire types below hold strings, numbers and string-keyed maps only: they always serialise.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Where a run is found.
pub(crate) fn location(run: &RunId) -> String {
    format!("/runs/{run}")
}

/// 202 with the way to the run.
pub(crate) fn accepted(session: &SessionKey, run: &RunId) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Accepted<'a> {
        status: &'static str,
        session_id: &'a str,
        run_id: &'a RunId,
    }
    let body = Accepted { status: "accepted", session_id: session.session(), run_id: run };
    let mut response = json(StatusCode::ACCEPTED, &body);
    if let Ok(value) = HeaderValue::from_str(&location(run)) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Adds the way to a run that goes on although its request could not be answered.
pub(crate) fn with_run(problem: Problem, run: &RunId) -> Problem {
    problem.with("runId", Value::from(run.as_str())).header(header::LOCATION, &location(run))
}

/// 200 with how a submitted run ended.
pub(crate) fn outcome(record: &Record) -> Response {
    json(StatusCode::OK, &Answer::of(record))
}

/// 200 with how a run stands, in the shape of the polling route.
pub(crate) fn standing(record: &Record) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Polled<'a> {
        #[serde(flatten)]
        standing: Standing<'a>,
        run_id: &'a RunId,
    }
    json(StatusCode::OK, &Polled { standing: Standing::of(record), run_id: &record.run_id })
}

/// 200 with how a turn ended, or what it waits for; `None` while it does neither.
pub(crate) fn turn(record: &Record) -> Option<Response> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Turn<'a> {
        session_id: &'a str,
        run_id: &'a RunId,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a Value>,
        response: &'a str,
        stop_reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        error_message: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        gate_id: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        gate: Option<GateShown<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gates: Vec<GateShown<'a>>,
        usage: Tokens,
    }
    let paused = record.status == Status::Paused;
    let (response, stop_reason, error_message) = match &record.outcome {
        None if paused => ("", "paused", None),
        None => return None,
        Some(outcome) => ended_turn(outcome),
    };
    let standing = Standing::of(record);
    let body = Turn {
        session_id: record.session.session(),
        run_id: &record.run_id,
        result: standing.result,
        response,
        stop_reason,
        error_message,
        status: paused.then_some(standing.status),
        gate_id: standing.gate_id,
        gate: standing.gate,
        gates: standing.gates,
        usage: (&record.spent).into(),
    };
    Some(json(StatusCode::OK, &body))
}

fn ended_turn(outcome: &Outcome) -> (&str, &str, Option<&str>) {
    match outcome {
        Outcome::Done { response, stop_reason, .. } => {
            (response.as_deref().unwrap_or_default(), stop_reason.as_deref().unwrap_or("end_turn"), None)
        }
        Outcome::Failed { message, .. } => ("", "error", Some(message.as_str())),
        Outcome::Aborted {} => ("", "aborted", Some("The turn was ended by the verdict at a gate.")),
        Outcome::Cancelled {} => ("", "aborted", Some("The turn was cancelled.")),
    }
}

/// A run's record.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown<'a> {
    run_id: &'a RunId,
    session_id: &'a str,
    tenant: &'a str,
    kind: &'static str,
    #[serde(flatten)]
    standing: Standing<'a>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    attempts: u32,
    turns: u32,
    usage: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a webhook::Standing>,
    /// The run that was given up and whose work this one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive_of: Option<&'a RunId>,
    /// The run that does the work of this one, which was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    redriven_as: Option<&'a RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_ref: Option<Cow<'a, str>>,
    /// How the files of the run stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a webhook::Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Value>,
}

impl<'a> Shown<'a> {
    /// The whole record.
    pub(crate) fn whole(record: &'a Record) -> Self {
        Self {
            run_id: &record.run_id,
            session_id: record.session.session(),
            tenant: record.session.tenant(),
            kind: match record.spec.work {
                Work::Prompt { .. } => "prompt",
                Work::Review { .. } => "review",
                Work::Inputs { .. } => "inputs",
            },
            standing: Standing::of(record),
            created_at: record.created_at.rfc3339(),
            started_at: record.started_at.map(|t| t.rfc3339()),
            ended_at: record.ended_at.map(|t| t.rfc3339()),
            trace_id: record.trace.as_ref().map(|t| t.trace_id().to_string()),
            attempts: record.attempts,
            turns: record.spent.turns,
            usage: (&record.spent).into(),
            webhook: record.webhook.as_ref(),
            redrive_of: record.redrive_of.as_ref(),
            redriven_as: record.redriven_as.as_ref(),
            result_ref: record.spec.result_ref.as_ref().map(|place| place.path.to_string_lossy()),
            files: record.files.as_ref(),
            metadata: record.spec.metadata.as_ref(),
        }
    }

    /// The record as a line of a list: without the model's words, which have no bound that a page could rely on.
    pub(crate) fn line(record: &'a Record) -> Self {
        let mut it = Self::whole(record);
        it.standing.response = None;
        it.standing.result = None;
        it
    }
}

/// Whether a waiting client is answered: the run has ended, or it waits for a person.
pub(crate) fn is_settled(record: &Record) -> bool {
    record.status.is_terminal() || record.status == Status::Paused
}
