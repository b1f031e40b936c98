//! `POST /runs/{runId}/approve`, `/reject` and `/abort`, and `GET /gates`: what waits for a person, and their verdicts.
//!
//! Owns: their parameters and answers. Must not know: what a verdict makes of a run.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use torpor_core::RunId;
use torpor_core::envelope::{Verdict, parse_verdict};
use torpor_core::gate::{Action, Decide, Decided, Filter, Listed, Standing};
use torpor_core::problem::Code;
use torpor_core::run::Record;

use crate::answer::{self, GateShown, Shown};
use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::routes::cancel;
use crate::routes::query::{page_problem, parameters, run_of};
use crate::submit::Shared;

/// The largest and the usual page of a list, in gates.
const MAX_PAGE: usize = 200;
const DEFAULT_PAGE: usize = 50;

pub(crate) async fn approve(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    answer(&shared, &caller, request, Action::Approve).await
}

pub(crate) async fn reject(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    answer(&shared, &caller, request, Action::Reject).await
}

pub(crate) async fn abort(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    answer(&shared, &caller, request, Action::Abort).await
}

/// 200 with the record and the gate once the verdict is durable; after an abort, once the run has ended.
async fn answer(shared: &Arc<Shared>, caller: &Caller, request: Request, action: Action) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answered<'a> {
        #[serde(flatten)]
        record: Shown<'a>,
        decided: DecidedGate,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct DecidedGate {
        gate_id: u64,
        action: Action,
    }
    let (parts, body) = request.into_parts();
    let run = run_of(&parts.uri, &format!("/{}", action.as_str()))?;
    let verdict = parse_verdict(body::json_or_nothing(body, shared).await?, action)?;
    let (gate, mut record) = decide(shared, caller, &run, verdict).await?;
    if action == Action::Abort {
        record = cancel::wait(shared, &run, record).await?;
    }
    let decided = DecidedGate { gate_id: gate, action };
    Ok(answer::json(StatusCode::OK, &Answered { record: Shown::whole(&record), decided }))
}

/// Records a verdict; the gate it was for, and the run as it is now. The same verdict again is no error.
pub(crate) async fn decide(
    shared: &Shared,
    caller: &Caller,
    run: &RunId,
    verdict: Verdict,
) -> Result<(u64, Box<Record>), Problem> {
    caller.may_touch(shared, run).await?;
    let Verdict { gate, mut decision } = verdict;
    // A name that anybody can write stands beside the one that was proved.
    if let Some(key) = caller.key() {
        decision.approver = Some(match decision.approver {
            Some(said) => format!("{said} (key {})", key.name),
            None => key.name.clone(),
        });
    }
    let decide = Decide { run: run.clone(), gate, decision };
    match shared.app.gates.decide(decide).await? {
        Decided::Recorded { gate, record, .. } | Decided::Repeated { gate, record } => Ok((gate, record)),
        Decided::Conflict { gate, earlier } => {
            let by = match (&earlier.approver, earlier.expired) {
                (_, true) => " because nobody decided in time".to_owned(),
                (Some(who), false) => format!(" by {who}"),
                (None, false) => String::new(),
            };
            let detail = format!("Gate {gate} was decided already: {}{by}.", earlier.action.as_str());
            Err(Problem::new(Code::GateConflict, detail).with("decision", earlier.action.as_str().into()))
        }
        Decided::Closed => {
            Err(Problem::new(Code::GateConflict, "The run has ended or is being ended: its gates take no verdict."))
        }
        Decided::Several(gates) => {
            let numbers: Vec<String> = gates.iter().map(u64::to_string).collect();
            let expected = format!("is required: the gates {} are pending", numbers.join(", "));
            Err(Problem::field(Code::RequestInvalid, "gateId", expected).with("pending", gates.into()))
        }
        // A run that there is, and one that there is not, are told apart: the first has a record.
        Decided::Unknown if shared.app.runs.get(run).await?.is_none() => Err(Problem::unknown_run()),
        Decided::Unknown => Err(Problem::new(Code::GateNotFound, "This run has no such gate.")),
    }
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Page<'a> {
        gates: Vec<Line<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_cursor: Option<&'a str>,
    }
    let mut filter = filter(request.uri())?;
    if !caller.narrow(&mut filter.tenant) {
        return Ok(answer::json(StatusCode::OK, &Page { gates: Vec::new(), next_cursor: None }));
    }
    let page = shared.app.gates.gates(&filter).await.map_err(|e| page_problem(e, filter.cursor.is_some()))?;
    let body = Page { gates: page.gates.iter().map(Line::of).collect(), next_cursor: page.next.as_deref() };
    Ok(answer::json(StatusCode::OK, &body))
}

/// A gate as a line of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    gate_id: u64,
    run_id: &'a RunId,
    session_id: &'a str,
    tenant: &'a str,
    status: &'static str,
    gate: GateShown<'a>,
    requested_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Value>,
}

impl<'a> Line<'a> {
    fn of(it: &'a Listed) -> Self {
        let (status, decision) = match &it.standing {
            Standing::Pending => ("pending", None),
            Standing::Decided(decision, at) => {
                let mut shown = serde_json::to_value(decision).unwrap_or_default(); // strings and a flag
                if let Value::Object(map) = &mut shown {
                    map.insert("decidedAt".into(), at.rfc3339().into());
                }
                ("decided", Some(shown))
            }
            Standing::Closed => ("closed", None),
        };
        Self {
            gate_id: it.gate.gate,
            run_id: &it.run,
            session_id: it.session.session(),
            tenant: it.session.tenant(),
            status,
            gate: GateShown::of(&it.gate),
            requested_at: it.gate.requested_at.rfc3339(),
            expires_at: it.gate.expires_at.map(|t| t.rfc3339()),
            decision,
        }
    }
}

fn filter(uri: &Uri) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: DEFAULT_PAGE, ..Filter::default() };
    for (name, value) in parameters(uri)? {
        let invalid = |expected: &str| Problem::field(Code::RequestInvalid, &name, expected);
        match name.as_str() {
            "status" => {
                filter.pending = match value.as_str() {
                    "pending" => Some(true),
                    "decided" | "closed" => Some(false),
                    "all" => None,
                    _ => return Err(invalid("must be pending, decided or all")),
                }
            }
            "tenant" => {
                torpor_core::id::check_id(&value).map_err(|e| invalid(&e.to_string()))?;
                filter.tenant = Some(value);
            }
            "runId" => filter.run = Some(RunId::parse(&value).ok_or_else(|| invalid("must be a run id"))?),
            "limit" => {
                let read = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
                filter.limit = read.ok_or_else(|| invalid(&format!("must be an integer from 1 to {MAX_PAGE}")))?;
            }
            "cursor" => filter.cursor = Some(value),
            _ => return Err(invalid("is not a known parameter; there are status, tenant, runId, limit and cursor")),
        }
    }
    Ok(filter)
}
