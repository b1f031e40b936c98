//! `GET /runs/{runId}`, `GET /runs` and `GET /runs/status`: how runs stand.
//!
//! Owns: their parameters and answers. Must not know: how runs are submitted.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use torpor_core::outcome::Status;
use torpor_core::problem::Code;
use torpor_core::run::Filter;
use torpor_core::{RunId, SessionKey, Timestamp, store};

use crate::answer::{self, Shown};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::submit::Shared;

/// The largest page of a list, in runs.
const MAX_PAGE: usize = 200;

/// The page of a client that names no limit.
const DEFAULT_PAGE: usize = 50;

/// The longest cursor that could be one of ours, in bytes.
const MAX_CURSOR: usize = 512;

pub(crate) async fn record(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let id = run_of(request.uri(), "")?;
    let record = caller.run(&shared, &id).await?;
    Ok(answer::json(StatusCode::OK, &Shown::whole(&record)))
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Listed<'a> {
        runs: Vec<Shown<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_cursor: Option<&'a str>,
    }
    let mut filter = filter(request.uri())?;
    if !caller.narrow(&mut filter.tenant) {
        return Ok(answer::json(StatusCode::OK, &Listed { runs: Vec::new(), next_cursor: None }));
    }
    let page = shared.app.runs.list(&filter).await.map_err(|e| page_problem(e, filter.cursor.is_some()))?;
    let body = Listed { runs: page.runs.iter().map(Shown::line).collect(), next_cursor: page.next.as_deref() };
    Ok(answer::json(StatusCode::OK, &body))
}

/// How the latest run of a session stands, with nothing around it: for clients that poll.
pub(crate) async fn status(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (mut session, mut tenant) = (None, None);
    for (name, value) in parameters(request.uri())? {
        match name.as_str() {
            "sessionId" => session = Some(value),
            "tenant" => tenant = Some(value),
            _ => {} // clients that poll add their own
        }
    }
    let session = session.filter(|s| !s.is_empty()).ok_or_else(|| {
        Problem::new(Code::SessionIdRequired, "The query parameter `sessionId` is required and must not be empty.")
    })?;
    let unknown =
        || Problem::new(Code::RunNotFound, "This tenant has no run with this `sessionId`, or it has expired.");
    let tenant = caller.acts_for(tenant.as_deref().filter(|t| !t.is_empty())).ok_or_else(unknown)?;
    let key = SessionKey::new(tenant, &session).map_err(|_| unknown())?;
    let record = shared.app.runs.latest(&key).await?.ok_or_else(unknown)?;
    Ok(answer::standing(&record))
}

/// What lists ask for that are narrowed to a tenant and to nothing else.
pub(crate) struct Narrowed {
    pub(crate) tenant: Option<String>,
    pub(crate) limit: usize,
    pub(crate) cursor: Option<String>,
}

impl Narrowed {
    /// Reads the parameters; pages have up to `most` items, and `usual` for a client that names no limit.
    pub(crate) fn read(uri: &Uri, most: usize, usual: usize) -> Result<Self, Problem> {
        let mut it = Self { tenant: None, limit: usual, cursor: None };
        for (name, value) in parameters(uri)? {
            let invalid = |expected: &str| invalid(&name, expected);
            match name.as_str() {
                "tenant" => {
                    torpor_core::id::check_id(&value).map_err(|e| invalid(&e.to_string()))?;
                    it.tenant = Some(value);
                }
                "limit" => {
                    let read = value.parse().ok().filter(|n| (1..=most).contains(n));
                    it.limit = read.ok_or_else(|| invalid(&format!("must be an integer from 1 to {most}")))?;
                }
                "cursor" => it.cursor = Some(value),
                _ => return Err(invalid("is not a known parameter; there are tenant, limit and cursor")),
            }
        }
        Ok(it)
    }
}

/// A page that could not be had. A cursor that the store did not make is the one lasting refusal that a caller can cause.
pub(crate) fn page_problem(e: store::Error, with_cursor: bool) -> Problem {
    match e {
        store::Error::Failed(_) if with_cursor => invalid("cursor", "must be the `nextCursor` of an earlier page"),
        other => other.into(),
    }
}

/// The run that a path `/runs/{runId}` with this suffix names. What cannot be an id is unknown like any other.
pub(crate) fn run_of(uri: &Uri, suffix: &str) -> Result<RunId, Problem> {
    let id = uri.path().strip_prefix("/runs/").and_then(|rest| rest.strip_suffix(suffix));
    id.and_then(RunId::parse).ok_or_else(Problem::unknown_run)
}

/// The parameters of a query string, in order.
pub(crate) fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    pairs.map(|Query(p)| p).map_err(|_| Problem::new(Code::RequestInvalid, "The query string cannot be read."))
}

fn invalid(name: &str, message: &str) -> Problem {
    Problem::field(Code::RequestInvalid, name, message)
}

/// Reads the filters; a name that is none, or one given twice, is refused: a filter that is ignored would list the
/// wrong runs.
fn filter(uri: &Uri) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: DEFAULT_PAGE, ..Filter::default() };
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in parameters(uri)? {
        if seen.contains(&name) {
            return Err(invalid(&name, "must be given once"));
        }
        match name.as_str() {
            "status" => {
                let known = || format!("must be one of {}", Status::ALL.map(Status::as_str).join(", "));
                let status = Status::parse(&value);
                filter.status = Some(status.ok_or_else(|| invalid(&name, &known()))?);
            }
            "tenant" => {
                torpor_core::id::check_id(&value).map_err(|e| invalid(&name, &e.to_string()))?;
                filter.tenant = Some(value);
            }
            "createdAfter" => {
                let at = Timestamp::parse_rfc3339(&value);
                let expected = "must be an RFC 3339 time such as 2027-01-31T08:00:00Z";
                filter.created_after = Some(at.ok_or_else(|| invalid(&name, expected))?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
                let expected = || format!("must be an integer from 1 to {MAX_PAGE}");
                filter.limit = limit.ok_or_else(|| invalid(&name, &expected()))?;
            }
            "cursor" => {
                if value.is_empty() || value.len() > MAX_CURSOR {
                    return Err(invalid(&name, "must be the `nextCursor` of an earlier page"));
                }
                filter.cursor = Some(value);
            }
            _ => {
                let expected = "is not a known parameter; there are status, tenant, createdAfter, limit and cursor";
                return Err(invalid(&name, expected));
            }
        }
        seen.push(name);
    }
    Ok(filter)
}
