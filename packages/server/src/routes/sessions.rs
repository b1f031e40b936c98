//! `GET /sessions`, `GET /sessions/{id}` and `GET /sessions/{id}/log`: which sessions there are, and what they hold.
//!
//! Owns: their parameters and answers. Must not know: what entries mean. What is done to sessions stands in the modules
//! below.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use torpor_core::problem::Code;
use torpor_core::run::Record;
use torpor_core::session::{Filter, Origin, Summary};
use torpor_core::{Position, SessionKey};

use crate::answer::{self, GateShown, Shown};
use crate::auth::Caller;
use crate::pages;
use crate::problem::Problem;
use crate::routes::query::{Narrowed, page_problem, parameters};
use crate::submit::Shared;

pub(crate) mod export;
pub(crate) mod fork;
pub(crate) mod import;
mod lines;
pub(crate) mod remove;

/// The largest and the usual page of a log, in entries.
const MAX_PAGE: usize = 500;
const DEFAULT_PAGE: usize = 100;

/// The largest and the usual page of a list, in sessions.
const MAX_SESSIONS: usize = 200;
const DEFAULT_SESSIONS: usize = 50;

/// Where a fork came from.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct From<'a> {
    session_id: &'a str,
    position: Position,
}

impl<'a> From<'a> {
    fn of(origin: &'a Origin) -> Self {
        Self { session_id: &origin.session, position: origin.position }
    }
}

/// A session in a few words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    session_id: &'a str,
    tenant: &'a str,
    /// Whether a run of it is queued, running or paused.
    busy: bool,
    entries: Position,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    forked_from: Option<From<'a>>,
    forks: u64,
    pending_gates: u64,
}

impl<'a> Line<'a> {
    fn of(it: &'a Summary) -> Self {
        Self {
            session_id: it.session.session(),
            tenant: it.session.tenant(),
            busy: it.front.is_some(),
            entries: it.head,
            created_at: it.created_at.rfc3339(),
            updated_at: it.updated_at.rfc3339(),
            forked_from: it.forked_from.as_ref().map(From::of),
            forks: it.forks,
            pending_gates: it.pending_gates,
        }
    }
}

/// What a session is, what it does, and what it waits for.
pub(crate) async fn summary(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Whole<'a> {
        #[serde(flatten)]
        line: Line<'a>,
        /// The gates of the run whose turn it is.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        gates: Vec<GateShown<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        latest_run: Option<Shown<'a>>,
    }
    let asked = Asked::read(&caller, &id, request.uri(), &["tenant"])?;
    let it = find(&shared, &asked.session).await?;
    let latest = shared.app.runs.latest(&asked.session).await?;
    let front: Option<Record> = match &it.front {
        Some(run) if latest.as_ref().is_none_or(|l| l.run_id != *run) => shared.app.runs.get(run).await?,
        Some(_) => latest.clone(),
        None => None,
    };
    let body = Whole {
        line: Line::of(&it),
        gates: front.iter().flat_map(|r| &r.gates).map(GateShown::of).collect(),
        latest_run: latest.as_ref().map(Shown::line),
    };
    Ok(answer::json(StatusCode::OK, &body))
}

/// A page of sessions, newest first.
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Listed<'a> {
        sessions: Vec<Line<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_cursor: Option<&'a str>,
    }
    let Narrowed { tenant, limit, cursor } = Narrowed::read(request.uri(), MAX_SESSIONS, DEFAULT_SESSIONS)?;
    let mut filter = Filter { tenant, limit, cursor };
    if !caller.narrow(&mut filter.tenant) {
        return Ok(answer::json(StatusCode::OK, &Listed { sessions: Vec::new(), next_cursor: None }));
    }
    let page = shared.app.sessions.sessions(&filter).await.map_err(|e| page_problem(e, filter.cursor.is_some()))?;
    let body = Listed { sessions: page.sessions.iter().map(Line::of).collect(), next_cursor: page.next.as_deref() };
    Ok(answer::json(StatusCode::OK, &body))
}

/// A page of the log, oldest first.
pub(crate) async fn log(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        entries: Vec<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_after: Option<Position>,
    }
    let asked = Asked::read(&caller, &id, request.uri(), &["tenant", "after", "limit"])?;
    let head = head(&shared, &asked.session).await?;
    if head == Position(0) {
        find(&shared, &asked.session).await?;
    }
    let mut page = Page { entries: Vec::new(), next_after: None };
    let mut last = asked.after;
    for entry in shared.app.log.read(&asked.session, asked.after.next(), asked.limit).await? {
        last = entry.position;
        page.entries.push(pages::data(&entry));
    }
    page.next_after = (last < head && !page.entries.is_empty()).then_some(last);
    Ok(answer::json(StatusCode::OK, &page))
}

async fn head(shared: &Shared, session: &SessionKey) -> Result<Position, Problem> {
    Ok(shared.app.log.wait_beyond(session, Position(0), Duration::ZERO).await?)
}

/// The session that a path names, if it exists.
async fn find(shared: &Shared, session: &SessionKey) -> Result<Summary, Problem> {
    shared.app.sessions.session(session).await?.ok_or_else(unknown)
}

fn unknown() -> Problem {
    Problem::new(Code::SessionNotFound, "This tenant has no session with this id.")
}

/// The answer while the hands of a removed session have not forgotten it.
pub(crate) fn forgetting() -> Problem {
    let detail =
        "A session with this id was removed a moment ago, and its sandbox has not forgotten it yet. Try again.";
    Problem::new(Code::Unavailable, detail)
}

/// What is asked for.
struct Asked {
    session: SessionKey,
    after: Position,
    limit: usize,
}

impl Asked {
    /// Reads the path's id and those parameters that the route knows.
    fn read(caller: &Caller, id: &str, uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let (mut tenant, mut after, mut limit) = (None, Position(0), DEFAULT_PAGE);
        for (name, value) in parameters(uri)? {
            let invalid = |expected: &str| Problem::field(Code::RequestInvalid, &name, expected);
            match name.as_str() {
                name if !known.contains(&name) => {
                    return Err(invalid(&format!("is not a known parameter; there are {}", known.join(", "))));
                }
                "tenant" => tenant = Some(value),
                "after" => {
                    let read = value.parse().map(Position);
                    after = read.map_err(|_| invalid("must be a position: an integer of 0 or more"))?;
                }
                _ => {
                    let read = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
                    limit = read.ok_or_else(|| invalid(&format!("must be an integer from 1 to {MAX_PAGE}")))?;
                }
            }
        }
        let tenant = caller.acts_for(tenant.as_deref()).ok_or_else(unknown)?;
        let session = SessionKey::new(tenant, id).map_err(|_| unknown())?;
        Ok(Self { session, after, limit })
    }
}
